"""How a target's latest attempts went, and how they usually go, in little room.

Times are counted in steps of a tenth, so that a percentile is right to 5 % whatever the load, and a
target takes some kilobytes.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

RECENT_S = 300.0
"""What is recent; it goes on by a minute at a time."""
USUAL_HALF_LIFE_S = 6 * 3_600.0
"""What is usual counts half after so long."""

_SLICE_S = 60.0
_STEP = math.log(1.1)
# Below this weight a count is forgotten.
_LEAST_WEIGHT = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Recent:
    """Attempts of the last minutes. Times are milliseconds to the first token; None: no answer."""

    attempts: int = 0
    failures: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    usual_attempts: int = 0
    """Answers that what is usual goes by; older ones count less."""
    usual_p50_ms: float | None = None
    usual_p95_ms: float | None = None

    @property
    def error_rate(self) -> float:
        """The share of attempts that failed; 0 where there was none."""
        return self.failures / self.attempts if self.attempts else 0.0


class Spread:
    """Positive numbers, counted in steps of a tenth."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[int, float] = {}

    @property
    def total(self) -> float:
        """How many there are."""
        return sum(self._counts.values())

    def add(self, value: float) -> None:
        """Count one more."""
        step = round(math.log(value if value > 1e-3 else 1e-3) / _STEP)
        self._counts[step] = self._counts.get(step, 0.0) + 1.0

    def merge(self, other: Spread, *, keep: float = 1.0) -> None:
        """Add those of another one, after which this share of one's own is left."""
        counts = {step: count * keep for step, count in self._counts.items()}
        for step, count in other._counts.items():
            counts[step] = counts.get(step, 0.0) + count
        self._counts = {step: count for step, count in counts.items() if count > _LEAST_WEIGHT}

    def quantile(self, share: float) -> float | None:
        """What this share of the numbers does not exceed, to 5 %; None where there are none."""
        left = share * self.total
        for step in sorted(self._counts):
            left -= self._counts[step]
            if left <= 1e-9:
                return math.exp(step * _STEP)
        return None


class _Slice:
    """A minute."""

    __slots__ = ("answers_ms", "failures", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.answers_ms = Spread()
        self.failures = 0


class Attempted:
    """The attempts at one target. Times are those of the monotonic clock."""

    __slots__ = ("_faded_at", "_latest", "_slices", "_usual")

    def __init__(self) -> None:
        self._slices: deque[_Slice] = deque()
        self._latest = _Slice(-1)
        self._usual = Spread()
        self._faded_at = 0.0

    def add(self, latency_ms: float | None, now: float) -> None:
        """Count an answer by its time to the first token; or a failure."""
        number = now // _SLICE_S
        if self._latest.number != number:  # only then may others have ceased to be recent
            self._move(now)
            self._latest = _Slice(int(number))
            self._slices.append(self._latest)
        if latency_ms is None:
            self._latest.failures += 1
        else:
            self._latest.answers_ms.add(latency_ms)

    def recent(self, now: float) -> Recent:
        """How it went of late, and how it usually went before."""
        self._move(now)
        answers = Spread()
        for each in self._slices:
            answers.merge(each.answers_ms)
        failures = sum(each.failures for each in self._slices)
        return Recent(
            attempts=round(answers.total) + failures,
            failures=failures,
            p50_ms=answers.quantile(0.5),
            p95_ms=answers.quantile(0.95),
            usual_attempts=int(self._usual.total),
            usual_p50_ms=self._usual.quantile(0.5),
            usual_p95_ms=self._usual.quantile(0.95),
        )

    def _move(self, now: float) -> None:
        """What is not recent any more is usual."""
        last = int((now - RECENT_S) // _SLICE_S)
        while self._slices and self._slices[0].number <= last:
            keep = 0.5 ** ((now - self._faded_at) / USUAL_HALF_LIFE_S)
            self._usual.merge(self._slices.popleft().answers_ms, keep=keep)
            self._faded_at = now
