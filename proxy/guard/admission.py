"""Which requests a worker answers now, which wait, and which it turns away.

A request that is turned away costs little: its body has not been read, nothing has been parsed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from proxy.errors import ApiError, Overloaded

# Who asks again at once takes the time of those who are answered: so many take a few per cent of a
# worker's.
MOST_REFUSALS_PER_S = 500
LONGEST_REST_S = 1.0

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
        """When the connections that rest now are heard again, the last of them."""
        self.resize(most=most, queue=queue, queue_s=queue_s)

    def resize(self, *, most: int, queue: int, queue_s: float) -> None:
        """Admit so many from now on; who waits, waits as it was told."""
        self._most = most
        self._queue = queue
        self.queue_s = queue_s
        self._let_in()

    def enter(self, start: Start, now: Callable[[], float]) -> None:
        """Start a request, now or when there is room. Who is let in must `leave`."""
        if self._running < self._most:
            self._running += 1
            start(None)
        elif len(self._waiting) < self._queue:
            self._waiting.append((now() + self.queue_s, start))
        else:
            start(_overloaded())

    def leave(self, _: Any = None) -> None:
        """One that was let in is done; the one that has waited longest takes its place."""
        self._running -= 1
        self._let_in()

    def expire(self, now: float) -> None:
        """Turn away those that have waited too long."""
        while self._waiting and self._waiting[0][0] <= now:
            self._waiting.popleft()[1](_overloaded())

    def rest_s(self, now: float) -> float:
        """How long a connection that was turned away is not heard, from now on.

        So long that those who are come back one after the other, and not all at once.
        """
        rested_at = max(self._rested_at, now) + 1 / MOST_REFUSALS_PER_S
        self._rested_at = min(rested_at, now + LONGEST_REST_S)
        return self._rested_at - now

    def _let_in(self) -> None:
        while self._waiting and self._running < self._most:
            self._running += 1
            self._waiting.popleft()[1](None)


def _overloaded() -> Overloaded:
    return Overloaded(
        "the server has as many requests as it takes; try again", headers={"retry-after": "1"}
    )
