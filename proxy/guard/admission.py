"""Which requests a worker answers now, which wait, and which it turns away.

A request that is turned away costs little: its body has not been read, nothing has been parsed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from proxy.errors import ApiError, Overloaded

# Who asks again at once takes the time of those who are answered: so many take a few per cent of a
# worker's.
MOST_REFUSALS_PER_S = 1_000
LONGEST_REST_S = 1.0
# Few refusals are no burden; and of many, those that are heard together cost less than one by one.
UNTROUBLED_S = 0.1
TOGETHER_S = 0.05

Start = Callable[[ApiError | None], None]
"""Has a request answered: by the application, or with a refusal."""


class Admission:
    """At most `most` requests at the same time, and `queue` that wait, for `queue_s` at most."""

    def __init__(self, *, most: int, queue: int, queue_s: float) -> None:
        self.is_leaving = False
        """Whether the server goes, so that each reply is the last one on its connection."""
        self._running = 0
        self._waiting: deque[tuple[float, Start]] = deque()
        self._rested_at = 0.0
        """When all would be heard again who were turned away, one after the other."""
        self.resize(most=most, queue=queue, queue_s=queue_s)

    def resize(self, *, most: int, queue: int, queue_s: float) -> None:
        """Admit so many from now on; who waits, waits as it was told."""
        self._most = most
        self._queue = queue
        self.queue_s = queue_s
        self._let_in()

    def has_let_in(self) -> bool:
        """Whether there was room for one more, who is in now and must `leave`."""
        if self._running < self._most:
            self._running += 1
            return True
        return False

    def enter(self, start: Start, now: Callable[[], float]) -> None:
        """Start a request, now or when there is room. Who is let in must `leave`."""
        if self.has_let_in():
            start(None)
        elif len(self._waiting) < self._queue:
            self._waiting.append((now() + self.queue_s, start))
        else:
            start(_overloaded())

    def leave(self, _: Any = None) -> None:
        """One that was let in is done; the one that has waited longest takes its place."""
        self._running -= 1
        if self._waiting:
            self._let_in()

    def expire(self, now: float) -> None:
        """Turn away those that have waited too long."""
        while self._waiting and self._waiting[0][0] <= now:
            self._waiting.popleft()[1](_overloaded())

    def heard_at(self, now: float) -> float:
        """When a connection on which a request was turned away is to be heard again.

        That is now, unless many were, and so late that `MOST_REFUSALS_PER_S` are.
        """
        rested_at = max(self._rested_at, now) + 1 / MOST_REFUSALS_PER_S
        self._rested_at = min(rested_at, now + LONGEST_REST_S)
        if self._rested_at < now + UNTROUBLED_S:
            return now
        return math.ceil(self._rested_at / TOGETHER_S) * TOGETHER_S

    def _let_in(self) -> None:
        while self._waiting and self._running < self._most:
            self._running += 1
            self._waiting.popleft()[1](None)


def _overloaded() -> Overloaded:
    return Overloaded(
        "the server has as many requests as it takes; try again", headers={"retry-after": "1"}
    )
