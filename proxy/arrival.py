"""When a request came, and what of the time since was its client's own.

Times are those of `time.perf_counter`. A byte has come when the event loop has read it: how long it
lay in the kernel before that cannot be seen.
"""

from __future__ import annotations

ARRIVAL = "tollway.arrival"
"""Where a scope has the `Arrival` of its request."""


class Arrival:
    """Of one request, while it is read and afterwards."""

    __slots__ = ("_waits_since", "at", "client_s")

    def __init__(self, at: float) -> None:
        self.at = at
        """When its first byte had come; of one that is pipelined, when its turn had, if later."""
        self.client_s = 0.0
        """For how long nothing was left to do but to wait for more of it."""
        self._waits_since: float | None = None

    def wait(self, at: float) -> None:
        """All that has come of it is read, and more is to come."""
        self._waits_since = at

    def go_on(self, at: float) -> None:
        """More of it has come."""
        if self._waits_since is not None:
            self.client_s += at - self._waits_since
            self._waits_since = None

    def has_turn(self, at: float) -> None:
        """The replies before it on its connection are written: the time until then is theirs."""
        self.at, self.client_s = at, 0.0
        if self._waits_since is not None:
            self._waits_since = at
