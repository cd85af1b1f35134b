"""Limits on requests, tokens and concurrency: exact over any sixty seconds. No I/O.

A request counts in the tenth of a second it was admitted in, which leaves sixty seconds after its
end: whatever sixty seconds are looked at, no more than the limit was admitted in them. Tokens count
as what a request may take until it is settled, and then as what it took.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from proxy.ledger.protocol import Limits, Rate, RateRefusal, is_of_target

COUNTED_S = 61
"""Whatever began longer ago counts for no limit."""

_TENTHS = 10
_MINUTE = 60 * _TENTHS


class Entry:
    """What was counted in a tenth of a second. Its `tenth` is negative once it has left."""

    __slots__ = ("amount", "tenth")

    def __init__(self, tenth: int, amount: int) -> None:
        self.tenth = tenth
        self.amount = amount


class Minute:
    """What was counted in the last sixty seconds, by the tenth of a second."""

    __slots__ = ("_entries", "total")

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()  # ascending
        self.total = 0

    def expire(self, now: float) -> None:
        """Forget what is older. A clock that went back takes the entries with it."""
        entries, tenth = self._entries, int(now * _TENTHS)
        if not entries:
            return
        if entries[-1].tenth > tenth:
            for entry in entries:
                entry.tenth = min(entry.tenth, tenth)
        oldest = tenth - _MINUTE
        while entries and entries[0].tenth < oldest:
            gone = entries.popleft()
            self.total -= gone.amount
            gone.tenth = -1

    def add(self, now: float, amount: int) -> Entry:
        """Count, after `expire`; the entry says where, for `correct`."""
        tenth, entries = int(now * _TENTHS), self._entries
        self.total += amount
        if entries and entries[-1].tenth == tenth:
            entries[-1].amount += amount
        else:
            entries.append(Entry(tenth, amount))
        return entries[-1]

    def correct(self, entry: Entry, delta: int) -> None:
        """Change what was counted, if it still counts."""
        if entry.tenth >= 0:
            entry.amount += delta
            self.total += delta

    def free_ms(self, now: float, excess: int) -> int:
        """Milliseconds until `excess` of what is counted has left; 0 for what is none."""
        for entry in self._entries:
            if excess <= 0:
                break
            excess -= entry.amount
            if excess <= 0:
                return _leaves_in_ms(entry, now)
        return 0

    def reset_ms(self, now: float) -> int:
        """Milliseconds until all that is counted has left."""
        for entry in reversed(self._entries):
            if entry.amount:
                return _leaves_in_ms(entry, now)
        return 0


def _leaves_in_ms(entry: Entry, now: float) -> int:
    return max(0, (entry.tenth + _MINUTE + 1) * (1000 // _TENTHS) - int(now * 1000))


class Meter:
    """The counts of one scope against its limits."""

    __slots__ = ("limits", "open", "requests", "scope", "tokens")

    def __init__(self, scope: str, limits: Limits) -> None:
        self.scope = scope
        self.limits = limits
        self.requests = Minute()
        self.tokens = Minute()
        self.open = 0

    def refusals(self, now: float, tokens: int) -> Iterator[RateRefusal]:
        """Why one more request with so many tokens must wait: each limit that it would exceed."""
        limits = self.limits
        if limits.concurrent is not None and self.open >= limits.concurrent:
            wait_ms = 1_000 if limits.concurrent else 0
            yield RateRefusal(self.scope, "concurrent", limits.concurrent, wait_ms)
        if limits.requests_per_minute is not None:
            self.requests.expire(now)
            excess = self.requests.total + 1 - limits.requests_per_minute
            if excess > 0:
                wait_ms = self.requests.free_ms(now, excess)
                yield RateRefusal(self.scope, "requests", limits.requests_per_minute, wait_ms)
        if limits.tokens_per_minute is not None:
            self.tokens.expire(now)
            excess = self.tokens.total + tokens - limits.tokens_per_minute
            if excess > 0:
                is_hopeless = tokens > limits.tokens_per_minute
                wait_ms = 0 if is_hopeless else self.tokens.free_ms(now, excess)
                yield RateRefusal(self.scope, "tokens", limits.tokens_per_minute, wait_ms)

    def requests_rate(self, now: float) -> Rate | None:
        """The limit on requests, as its caller sees it."""
        return _rate(self.limits.requests_per_minute, self.requests, now)

    def tokens_rate(self, now: float) -> Rate | None:
        """The limit on tokens, as its caller sees it."""
        return _rate(self.limits.tokens_per_minute, self.tokens, now)


def _rate(limit: int | None, minute: Minute, now: float) -> Rate | None:
    if limit is None:
        return None
    minute.expire(now)
    return Rate(limit, max(0, limit - minute.total), minute.reset_ms(now))


class Counted:
    """Where an open attempt was counted, to settle it there."""

    __slots__ = ("_places", "_tokens")

    def __init__(self, places: list[tuple[Meter, Entry]], tokens: int) -> None:
        self._places = places
        self._tokens = tokens

    def settle(self, tokens: int) -> None:
        """It has ended, and took so many tokens."""
        for meter, entry in self._places:
            meter.open -= 1
            meter.tokens.correct(entry, tokens - self._tokens)


class RateBook:
    """The meters of every scope that has limits."""

    def __init__(self) -> None:
        self._meters: dict[str, Meter] = {}

    def __bool__(self) -> bool:
        return bool(self._meters)

    def set(self, scope: str, limits: Limits) -> None:
        """Give a scope its limits; what it counted stays. Without any limit it has no meter."""
        if limits == _NONE:
            self._meters.pop(scope, None)
        elif scope in self._meters:
            self._meters[scope].limits = limits
        else:
            self._meters[scope] = Meter(scope, limits)

    def replace(self, old: Mapping[str, Limits], new: Mapping[str, Limits]) -> None:
        """Set the limits of a configuration in the place of an earlier one's."""
        for scope in old.keys() - new.keys():
            self.set(scope, _NONE)
        for scope, limits in new.items():
            self.set(scope, limits)

    def meters_of(self, scopes: Iterable[str]) -> list[Meter]:
        """The meters of these scopes."""
        meters = self._meters
        return [meters[scope] for scope in scopes if scope in meters]


def refusal(meters: list[Meter], now: float, tokens: int, number: int) -> RateRefusal | None:
    """The limit that is in the way of an attempt for longest, the caller's before a target's.

    Only targets limit fallbacks: the request itself was let in with its first attempt.
    """
    refused = [
        one
        for meter in meters
        if number == 1 or is_of_target(meter.scope)
        for one in meter.refusals(now, tokens)
    ]
    if not refused:
        return None
    own = [one for one in refused if not one.is_of_target]
    return max(own or refused, key=_wait)


def count(meters: list[Meter], now: float, tokens: int, number: int, *, is_open: bool) -> Counted:
    """Count an attempt that was let in; one that is no longer open only with its tokens."""
    places = []
    for meter in meters:
        meter.requests.expire(now)
        meter.tokens.expire(now)
        if number == 1 or is_of_target(meter.scope):
            meter.requests.add(now, 1)
        meter.open += is_open
        places.append((meter, meter.tokens.add(now, tokens)))
    return Counted(places, tokens)


def tightest(meters: list[Meter], now: float) -> tuple[Rate | None, Rate | None]:
    """The limits on requests and on tokens of which least is left, those of targets aside."""
    own = [meter for meter in meters if not is_of_target(meter.scope)]
    requests = [rate for m in own if (rate := m.requests_rate(now)) is not None]
    tokens = [rate for m in own if (rate := m.tokens_rate(now)) is not None]
    return min(requests, key=_left, default=None), min(tokens, key=_left, default=None)


def _left(rate: Rate) -> int:
    return rate.left


def _wait(refused: RateRefusal) -> float:
    return refused.retry_ms or math.inf


_NONE = Limits()
