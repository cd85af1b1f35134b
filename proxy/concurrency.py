"""How many requests a target should have at the same time, learned from how it answers.

A gradient: where answers begin much later than they usually do, the target has more than it can
take, and its limit falls; else it grows by a little more than was used. What is usual follows what
is measured fast downwards, and upwards within hours: what is slow for hours is slow by itself.
Where next to nothing is asked of a target and it is slow all the same, that is seen at once.
"""

from __future__ import annotations

import math
from statistics import median

TOLERANCE = 2.0
"""Answers may take so many times as long as usual to begin before the limit falls."""

_WINDOW_SAMPLES = 10
_WINDOW_S = 1.0
# How much of a new limit is taken over by each window.
_SMOOTHING = 0.3
# What is left of the limit where a target said that it is overloaded.
_AFTER_OVERLOAD = 0.7
# By how much what is usual follows a faster window, and a slower one at the least of limits.
_FOLLOWING = 0.3
# In so long it follows slower ones by two thirds with any other limit.
_UP_S = 3_600.0
# Requests at the same time that are no load. Where answers take twice as long as tolerated, the
# headroom alone keeps a limit at four.
_NO_LOAD = 5


class Gradient:
    """The limit of one target. Times are seconds of the monotonic clock."""

    def __init__(self, *, least: int, most: int, first: int) -> None:
        self._least = least
        self._most = most
        self._limit = float(min(max(first, least), most))
        self._usual_s: float | None = None
        self._samples: list[float] = []
        self._began_at: float | None = None
        self._peak = 0
        self._was_overloaded = False

    @property
    def limit(self) -> int:
        """How many requests it may have."""
        return int(self._limit)

    def ended(
        self, first_token_s: float | None, *, overloaded: bool, in_flight: int, now: float
    ) -> None:
        """A request is over; `in_flight` counts it. None where it tells no time."""
        if self._began_at is None:
            self._began_at = now
        self._peak = max(self._peak, in_flight)
        self._was_overloaded |= overloaded
        if first_token_s is not None:
            self._samples.append(max(first_token_s, 1e-4))
        is_full = len(self._samples) >= _WINDOW_SAMPLES or now - self._began_at >= _WINDOW_S
        if is_full and (self._samples or self._was_overloaded):
            self._adjust(now - self._began_at)
            self._began_at = now

    def _adjust(self, window_s: float) -> None:
        limit = self._limit
        if self._was_overloaded:
            wanted = limit * _AFTER_OVERLOAD
        else:
            wanted = self._wanted(median(self._samples), window_s)
        self._limit = min(max(limit + (wanted - limit) * _SMOOTHING, self._least), self._most)
        self._samples.clear()
        self._peak, self._was_overloaded = 0, False

    def _wanted(self, now_s: float, window_s: float) -> float:
        usual_s = now_s if self._usual_s is None else self._usual_s
        is_told_at_once = now_s < usual_s or self.limit <= _NO_LOAD
        share = _FOLLOWING if is_told_at_once else -math.expm1(-window_s / _UP_S)
        self._usual_s = usual_s + (now_s - usual_s) * share
        gradient = min(1.0, max(0.5, TOLERANCE * usual_s / now_s))
        # Room that nobody uses says nothing of whether there could be more.
        if gradient == 1.0 and self._peak < self._limit / 2:
            return self._limit
        return self._limit * gradient + math.sqrt(self._limit)
