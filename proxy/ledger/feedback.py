"""What callers say of the answers they got, and what that says of targets."""

from __future__ import annotations

from proxy.ledger.faults import Fault
from proxy.ledger.protocol import Done, GiveFeedback, Quality
from proxy.ledger.store import QualityRow, Store


class FeedbackBook:
    """The quality of every target that was judged. Raises `Fault`, and `sqlite3.Error`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.quality = {row[:2]: Quality(*row) for row in store.read_quality()}
        """By target and task."""
        self.news: list[Quality] = []
        """What workers must be told."""

    def give(self, op: GiveFeedback, now: int) -> Done:
        """Keep what is said; where the same was said before nothing changes."""
        store = self._store
        answer = store.answer(op.request_id, op.key_id)
        if answer is None:
            if store.has_request(op.request_id, op.key_id):
                raise Fault("conflict", f"nothing answered the request {op.request_id[:100]!r}")
            raise Fault("not_found", f"no request {op.request_id[:100]!r} of this key")
        said = store.feedback(answer.attempt)
        if said.get(op.metric) == op.worth_ppm:
            return Done(op.seq)
        told = {**said, op.metric: op.worth_ppm}
        place = (answer.target, answer.task)
        before = self.quality.get(place, Quality(*place, 0, 0))
        quality = Quality(
            *place,
            answers=before.answers + (not said),
            worth_ppm=before.worth_ppm - _mean(said) + _mean(told),
        )
        store.begin()
        store.put_feedback(op.request_id, op.metric, answer.attempt, op.worth_ppm, now)
        store.put_quality(QualityRow(*place, quality.answers, quality.worth_ppm))
        self.quality[place] = quality
        self.news.append(quality)
        return Done(op.seq, 1)


def _mean(said: dict[str, int]) -> int:
    """In whole millionths, so that what was added can be taken away again."""
    return sum(said.values()) // len(said) if said else 0
