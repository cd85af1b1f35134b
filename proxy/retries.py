"""How often a provider is asked again, and after how long.

A retry budget is a bucket of tokens: each request to the provider puts a share of one in, each
second some more, each retry takes one out. A provider that answers hardly needs any; one that is
down gets about a tenth more requests than it would get without retries, however many come.
"""

from __future__ import annotations

# What the bucket of a server holds at most, in seconds of what flows in by itself.
_BURST_S = 3.0
_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 8.0


class RetryBudget:
    """What is left of the retries of one provider. One per worker.

    Never more than `burst + share * requests + per_s * seconds` retries. Times are monotonic.
    """

    def __init__(self, *, share: float, per_s: float, now: float) -> None:
        self._share = share
        self._per_s = per_s
        self.burst = max(1.0, _BURST_S * per_s) if share or per_s else 0.0
        """What it holds at most, and at first."""
        self._tokens = self.burst
        self._filled_at = now

    def deposit(self) -> None:
        """A request is going to ask the provider."""
        self._tokens = min(self.burst, self._tokens + self._share)

    def is_low(self, now: float) -> bool:
        """Whether more than half of it is gone."""
        self._fill(now)
        return self._tokens < self.burst / 2

    def withdraw(self, now: float) -> bool:
        """Take a retry out, if there is one."""
        self._fill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _fill(self, now: float) -> None:
        passed_s = max(0.0, now - self._filled_at)
        self._tokens = min(self.burst, self._tokens + passed_s * self._per_s)
        self._filled_at = now


def delay_s(retry: int, asked_s: float | None, draw: float) -> float:
    """How long to wait before a retry, the first of a request being number 1.

    `asked_s` is what the provider asks for, `draw` a random share: from 0 to 1 of a time that
    doubles, so that those who failed together do not come back together.
    """
    jitter = draw * min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** (retry - 1))
    return (asked_s or 0.0) + jitter
