"""For how long providers are at work on a request, so that the rest of its time is our own."""

from __future__ import annotations


class UpstreamTime:
    """Of one request; where several of its attempts run at the same time, that time counts once.

    An attempt has its provider at work from when it is opened until the first payload of its
    answer has come, or all of one that comes in one piece. Times are those of
    `time.perf_counter`, and never go back.
    """

    __slots__ = ("_began_at", "_passed_s", "_running")

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._began_at = self._passed_s = 0.0

    def begin(self, attempt: int, at: float) -> None:
        """An attempt is opened."""
        if not self._running:
            self._began_at = at
        self._running.add(attempt)

    def end(self, attempt: int, at: float) -> None:
        """The provider has answered, or will not; may be said again."""
        if attempt in self._running:
            self._running.remove(attempt)
            if not self._running:
                self._passed_s += at - self._began_at

    def add(self, seconds: float) -> None:
        """Time for which a provider was left alone, for its own sake."""
        self._passed_s += seconds

    def until(self, at: float) -> float:
        """Its seconds up to a moment."""
        return self._passed_s + (at - self._began_at if self._running else 0.0)
