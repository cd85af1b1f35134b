"""The arithmetic of budgets: when a calendar window opens and ends, and what fits into a limit.

Pure: the ledger keeps the balances, this module only says what the numbers mean. Money is integer
nano-USD, times are Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal, assert_never
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from proxy.ledger.protocol import Window


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One window: from `starts_at`, included, to `ends_at`, excluded. None never ends."""

    starts_at: int
    ends_at: int | None


LIFETIME = Span(starts_at=0, ends_at=None)


def time_zone(name: str) -> ZoneInfo:
    """The IANA time zone of that name. Raises `ValueError` where there is none."""
    try:
        return ZoneInfo(name)
    # A name that is a folder of the zone database ("America") surfaces as an OSError.
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"unknown time zone {name!r}; use an IANA name: Europe/Berlin") from error


def span_at(window: Window, zone: ZoneInfo, now: int) -> Span:
    """The window that `now` falls into.

    A day starts with the first instant that bears its date, so days in which clocks change have
    23 or 25 hours, and a week starts on Monday. Where clocks go back over midnight (St. John's
    until 2011), the repeated end of the old day belongs to the new one: a window that has ended
    never opens again.
    """
    if window == "lifetime":
        return LIFETIME
    first = _first_day(window, datetime.fromtimestamp(now, zone).date())
    following = _following(window, first)
    while (ends_at := _midnight(following, zone)) <= now:
        first, following = following, _following(window, following)
    return Span(starts_at=_midnight(first, zone), ends_at=ends_at)


def fits(limit_nanousd: int, spent_nanousd: int, held_nanousd: int, hold_nanousd: int) -> bool:
    """Whether a hold may be admitted: what is spent and all that may yet be stays in the limit."""
    return spent_nanousd + held_nanousd + hold_nanousd <= limit_nanousd


def _first_day(window: Literal["day", "week", "month"], day: date) -> date:
    match window:
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
    assert_never(window)


def _following(window: Literal["day", "week", "month"], first: date) -> date:
    match window:
        case "day":
            return first + timedelta(days=1)
        case "week":
            return first + timedelta(weeks=1)
        case "month":
            return (first + timedelta(days=31)).replace(day=1)
    assert_never(window)


def _midnight(day: date, zone: ZoneInfo) -> int:
    # fold=0 is the earlier of two midnights; where midnight is skipped it gives the instant of
    # the change itself, which is the first one that bears the new date.
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())
