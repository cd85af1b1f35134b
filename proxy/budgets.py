"""The arithmetic of budgets: when a window opens and ends, what a scope is, what fits into a limit.

Pure: the ledger keeps the balances, this module only says what the numbers mean. Money is integer
nano-USD, times are Unix seconds.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal, assert_never, cast, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from proxy.ledger.protocol import Window

Calendar = Literal["day", "week", "month", "quarter", "year"]
CALENDAR: tuple[Calendar, ...] = get_args(Calendar)

SLOTS = 60
"""A rolling window is counted in this many slots; what was spent leaves it a slot at a time."""

LONGEST_ROLLING_S = 366 * 86_400

_ROLLING = re.compile(r"([1-9][0-9]{0,5})([mhd])\Z")
_UNIT_S = {"m": 60, "h": 3_600, "d": 86_400}

KINDS = (
    "organisation",
    "team",
    "key",
    "user",
    "tag",
    "model",
    "target",
    "provider",
)
"""Kinds of scopes that have a name."""
TEMPLATE = "template"
"""A kind that no attempt has: budgets to copy from. Only the admin API makes them."""
BARE = ("global", "anonymous")
AND = " & "
EACH = "*"

LONGEST_NAME = 128
MOST_TAGS = 16
"""How many tags a request can have, those of its key included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One window, or one slot of a rolling one: from `starts_at`, included, to `ends_at`, excluded.

    None never ends.
    """

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


# --- windows -----------------------------------------------------------------------------------


def window_problem(window: str) -> str | None:
    """What is wrong with a window's name; None where there is nothing."""
    if window in CALENDAR or window == "lifetime" or rolling_s(window) is not None:
        return None
    return (
        f"unknown window {window[:40]!r}; there are {', '.join(CALENDAR)}, lifetime, and rolling "
        "ones from 1m to 366d: 90m, 5h, 30d"
    )


def rolling_s(window: Window) -> int | None:
    """The length of a rolling window in seconds; None for any other."""
    match = _ROLLING.match(window)
    if match is None:
        return None
    seconds = int(match[1]) * _UNIT_S[match[2]]
    return seconds if seconds <= LONGEST_ROLLING_S else None


def span_at(window: Window, zone: ZoneInfo, now: int) -> Span:
    """The window that `now` falls into; of a rolling one the slot.

    A day starts with the first instant that bears its date, so days in which clocks change have
    23 or 25 hours, and a week starts on Monday. Where clocks go back over midnight (St. John's
    until 2011), the repeated end of the old day belongs to the new one: a window that has ended
    never opens again.
    """
    if window == "lifetime":
        return LIFETIME
    length_s = rolling_s(window)
    if length_s is not None:
        slot_s = length_s // SLOTS
        return Span(starts_at=now - now % slot_s, ends_at=now - now % slot_s + slot_s)
    calendar = cast(Calendar, window)
    first = _first_day(calendar, datetime.fromtimestamp(now, zone).date())
    following = _following(calendar, first)
    while (ends_at := _midnight(following, zone)) <= now:
        first, following = following, _following(calendar, following)
    return Span(starts_at=_midnight(first, zone), ends_at=ends_at)


def counting_slots(length_s: int, slot_start: int) -> range:
    """Where the slots start that count in a rolling window while the one at `slot_start` is open.

    Every slot counts that lies at least partly in the last `length_s` seconds, so the window is
    never shorter than it says, and at most one slot longer. Those as far ahead count as well: what
    was spent before the clock went back must not be spent again.
    """
    return range(slot_start - length_s, slot_start + length_s + 1, length_s // SLOTS)


def fits(limit_nanousd: int, spent_nanousd: int, held_nanousd: int, hold_nanousd: int) -> bool:
    """Whether a hold may be admitted: what is spent and all that may yet be stays in the limit."""
    return spent_nanousd + held_nanousd + hold_nanousd <= limit_nanousd


def _first_day(window: Calendar, day: date) -> date:
    match window:
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case "quarter":
            return day.replace(month=day.month - (day.month - 1) % 3, day=1)
        case "year":
            return day.replace(month=1, day=1)
    assert_never(window)


def _following(window: Calendar, first: date) -> date:
    match window:
        case "day":
            return first + timedelta(days=1)
        case "week":
            return first + timedelta(weeks=1)
        case "month":
            return (first + timedelta(days=31)).replace(day=1)
        case "quarter":
            return (first + timedelta(days=95)).replace(day=1)
        case "year":
            return first.replace(year=first.year + 1)
    assert_never(window)


def _midnight(day: date, zone: ZoneInfo) -> int:
    # fold=0 is the earlier of two midnights; where midnight is skipped it gives the instant of
    # the change itself, which is the first one that bears the new date.
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())


# --- scopes ------------------------------------------------------------------------------------


_SCOPES = (
    f"{', '.join(BARE)}, organisation:<id>, team:<id>, key:<id>, user:<name>, tag:<tag>, "
    "model:<virtual model>, target:<provider/model> and provider:<name>, any of them joined by "
    f"{AND!r}"
)


def is_name(name: str) -> bool:
    """Whether an end user, a tag or a group can be called that in a scope."""
    return (
        0 < len(name) <= LONGEST_NAME
        and name.isprintable()
        and name == name.strip()
        and AND not in name
        and name != EACH
    )


def scope_parts(scope: str) -> tuple[str, ...]:
    """The scopes that must all apply."""
    return tuple(scope.split(AND))


def scope_problem(scope: str, kinds: Collection[str] = KINDS) -> str | None:
    """What is wrong with how a scope is written; None where there is nothing.

    Whether there is what it names, `named_in` lets the caller find out: a typo would make a budget
    that nothing is ever charged to.
    """
    parts = scope_parts(scope)
    for part in parts:
        kind, colon, name = part.partition(":")
        if part in BARE:
            continue
        if kind not in kinds or not colon:
            return f"unknown scope {part[:100]!r}; there are {_SCOPES}"
        if not name or name != name.strip() or not name.isprintable():
            return f"scope {part[:100]!r} needs a name after the colon"
    if sum(part.endswith(f":{EACH}") for part in parts) > 1:
        return "only one part of a scope can be '*'"
    if len(set(parts)) < len(parts):
        return "a part of the scope is there twice"
    return None


def is_template(scope: str) -> bool:
    """Whether budgets of the scope are there to be copied from, and of no attempt."""
    return scope.startswith(f"{TEMPLATE}:")


def named_in(scope: str) -> Iterator[tuple[str, str]]:
    """The (kind, name) of what must be there for the scope to mean anything.

    End users and tags are whatever requests say they are, and `*` is whoever comes.
    """
    for part in scope_parts(scope):
        kind, _, name = part.partition(":")
        if part not in BARE and kind not in ("user", "tag") and name != EACH:
            yield kind, name
