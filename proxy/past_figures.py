"""What targets have shown in the attempts on record: what replays and forecasts go by.

Beside `proxy.figures`, which is what a worker measures now and forgets within minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from policies.base import Candidate
from proxy.ledger.answers import Done
from proxy.ledger.protocol import MILLION, Quality
from proxy.quality import Judged, estimated
from proxy.targets import Target

# Of what a target has shown in fewer attempts nothing is made.
_LEAST_ATTEMPTS = 5


class Measured:
    """What targets have shown in the attempts on record, beside what is declared of them."""

    def __init__(self, attempts: Iterable[Done], quality: Iterable[Quality]) -> None:
        self._shown: dict[str, _Shown] = {}
        for attempt in attempts:
            self._shown.setdefault(attempt.target, _Shown()).add(attempt)
        self._judged: dict[str, dict[str, Judged]] = {}
        for each in quality:
            judged = self._judged.setdefault(each.target, {})
            judged[each.task] = Judged(each.answers, each.worth_ppm / MILLION)
        # As each was declared, and as it is shown for that.
        self._made: dict[str, tuple[Candidate, Candidate]] = {}

    def candidate(self, target: Target) -> Candidate:
        """The target as policies see it."""
        declared, made = self._made.get(target.name, (None, None))
        if made is None or declared is not target.candidate:
            made = self._candidate(target)
            self._made[target.name] = target.candidate, made
        return made

    def _candidate(self, target: Target) -> Candidate:
        candidate = target.candidate
        judged = self._judged.get(target.name)
        if judged is not None:
            candidate = replace(candidate, quality=estimated(candidate.quality, judged))
        shown = self._shown.get(target.name)
        return candidate if shown is None else shown.candidate(candidate)


class Declared:
    """What is declared of targets, and nothing else."""

    def candidate(self, target: Target) -> Candidate:
        """The target as policies see it."""
        return target.candidate


@dataclass(slots=True)
class _Shown:
    attempts: int = 0
    failed: int = 0
    first_s: float = 0.0
    with_first: int = 0
    tokens: int = 0
    flowing_s: float = 0.0

    def add(self, attempt: Done) -> None:
        if attempt.outcome == "not_dispatched":
            return
        self.attempts += 1
        self.failed += attempt.outcome in ("upstream_error", "broken", "timeout")
        if attempt.first_token_s is not None:
            self.first_s += attempt.first_token_s
            self.with_first += 1
            if attempt.usage.output_tokens > 1 and attempt.total_s > attempt.first_token_s:
                self.tokens += attempt.usage.output_tokens - 1
                self.flowing_s += attempt.total_s - attempt.first_token_s

    def candidate(self, declared: Candidate) -> Candidate:
        if self.attempts < _LEAST_ATTEMPTS:
            return declared
        has_first = self.with_first >= _LEAST_ATTEMPTS
        return replace(
            declared,
            reliability=1 - self.failed / self.attempts,
            latency_ms=1e3 * self.first_s / self.with_first if has_first else declared.latency_ms,
            tokens_per_second=self.tokens / self.flowing_s
            if self.flowing_s
            else declared.tokens_per_second,
        )
