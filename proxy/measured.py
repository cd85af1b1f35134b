"""What attempts at a target have shown of it: how fast it is, and whether it answers.

Kept by each worker for itself, and forgotten with it: good enough to compare targets by, and free.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from adapters.base import AdapterError, NotLoaded, RateLimited, Unsupported

# The weight of the last attempt against all before it.
_WEIGHT = 0.2
_MOST_REMEMBERED = 1_000
# An answer that is shorter says little of how fast its target is.
_LEAST_TOKENS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One target as of now. Times are Unix seconds; None where there was no such attempt."""

    tokens_per_second: float | None = None
    """Of streams, from the first payload on."""
    first_token_s: float | None = None
    answered_at: float | None = None
    failed_at: float | None = None
    failures: int = 0
    """In a row, as of the last attempt."""
    problem: str = ""
    """What the last failure was, while nothing was answered since."""


UNKNOWN = Measured()


class Measurements:
    """All targets that were tried lately."""

    def __init__(self) -> None:
        self._targets: OrderedDict[str, Measured] = OrderedDict()

    def of(self, target: str) -> Measured:
        """What is known of a target by its name."""
        return self._targets.get(target, UNKNOWN)

    def answered(
        self, target: str, *, now: float, output_tokens: int, first_token_s: float | None, s: float
    ) -> None:
        """An attempt was answered in full, in `s` seconds."""
        before = self.of(target)
        speed = before.tokens_per_second
        if first_token_s is not None and output_tokens >= _LEAST_TOKENS and s > first_token_s:
            speed = _moved(speed, (output_tokens - 1) / (s - first_token_s))
        self._keep(
            target,
            Measured(
                tokens_per_second=speed,
                first_token_s=before.first_token_s
                if first_token_s is None
                else _moved(before.first_token_s, first_token_s),
                answered_at=now,
                failed_at=before.failed_at,
            ),
        )

    def failed(self, target: str, error: AdapterError, *, now: float) -> None:
        """An attempt failed; what is no fault of the target's says nothing of it."""
        if not error.retry_elsewhere or isinstance(error, Unsupported | NotLoaded | RateLimited):
            return
        before = self.of(target)
        self._keep(
            target,
            Measured(
                tokens_per_second=before.tokens_per_second,
                first_token_s=before.first_token_s,
                answered_at=before.answered_at,
                failed_at=now,
                failures=before.failures + 1,
                problem=error.message[:200],
            ),
        )

    def _keep(self, target: str, measured: Measured) -> None:
        self._targets[target] = measured
        self._targets.move_to_end(target)
        if len(self._targets) > _MOST_REMEMBERED:
            self._targets.popitem(last=False)


def _moved(before: float | None, value: float) -> float:
    return value if before is None else before + _WEIGHT * (value - before)
