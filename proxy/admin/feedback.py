"""What callers said of answers: `/admin/v1/feedback`, and what follows of it: `quality`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from proxy.admin.books import Books
from proxy.admin.operations import Operation, operation
from proxy.admin.shapes import Body, Shown, iso
from proxy.ledger import answers
from proxy.ledger.protocol import MILLION
from proxy.quality import Judged, estimated
from proxy.targets import Target


class FeedbackQuery(Body, frozen=True, kw_only=True):
    """How much of it."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100


class ShownFeedback(Shown, frozen=True, kw_only=True):
    """What a caller said of an answer."""

    given_at: str | None
    request_id: str
    key_id: str
    metric: str
    worth: float
    """From 0 to 1, whatever the metric."""
    virtual_model: str
    target: str
    task: str
    decision: str


class FeedbackList(Shown, frozen=True, kw_only=True):
    """Feedback, the last first."""

    data: list[ShownFeedback]


class ShownQuality(Shown, frozen=True, kw_only=True):
    """What is known of a target's answers at a task; an empty task is one that nobody looked at."""

    target: str
    task: str
    answers: int
    worth: float
    """What those that were judged were worth on average."""
    declared: float | None
    estimate: float | None
    """What policies go by; null where the target is no longer configured."""


class QualityList(Shown, frozen=True, kw_only=True):
    """By target and task."""

    data: list[ShownQuality]


class FeedbackOperations:
    """The operations on feedback. Callers give it at `/v1/feedback`."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def operations(self) -> list[Operation]:
        """All of them."""
        return [
            operation("GET", "/admin/v1/feedback", self.list_feedback, tag="feedback"),
            operation("GET", "/admin/v1/quality", self.list_quality, tag="feedback"),
        ]

    async def list_feedback(self, query: FeedbackQuery) -> FeedbackList:
        """What callers said last of the answers they got."""
        rows = await self._books.report(answers.last_feedback, self._books.database, query.limit)
        return FeedbackList(
            data=[
                ShownFeedback(
                    given_at=iso(row.given_at),
                    request_id=row.request_id,
                    key_id=row.key_id,
                    metric=row.metric,
                    worth=row.worth,
                    virtual_model=row.virtual_model,
                    target=row.target,
                    task=row.task,
                    decision=row.decision,
                )
                for row in rows
            ]
        )

    async def list_quality(self) -> QualityList:
        """What callers say of each target by task, and what policies make of it."""
        rows = await self._books.report(answers.quality, self._books.database)
        table = self._books.table()
        judged: dict[str, dict[str, Judged]] = {}
        for row in rows:
            opinions = judged.setdefault(row.target, {})
            opinions[row.task] = Judged(row.answers, row.worth_ppm / MILLION)
        shown = []
        for name, opinions in judged.items():
            target = table.find(name)
            declared = target.candidate.quality if isinstance(target, Target) else None
            known = None if declared is None else estimated(declared, opinions)
            for task, each in opinions.items():
                place = task or "general"
                shown.append(
                    ShownQuality(
                        target=name,
                        task=task,
                        answers=each.answers,
                        worth=each.worth / each.answers,
                        declared=None if declared is None else declared.get(place),
                        estimate=None if known is None else known[place],
                    )
                )
        return QualityList(data=shown)
