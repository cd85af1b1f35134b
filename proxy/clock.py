"""Time, handed in so that tests can move it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for rows and windows, monotonic time for durations; both in seconds."""

    def time(self) -> float:
        """Unix time in seconds."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary point; never goes backwards."""


class SystemClock:
    """The machine's own time: the very functions, for a request looks at it eight times."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)
