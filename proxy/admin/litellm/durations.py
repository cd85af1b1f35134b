"""LiteLLM's durations (`30s`, `1h`, `7d`, `1mo`): as windows of budgets, and as times to live.

LiteLLM sets a budget back at aligned moments: `1d` at midnight, `7d` on Monday, `30d` and `1mo` on
the first of the month, all UTC. Those are our calendar windows. Its other durations are aligned to
the moment a budget was made; the closest that we have is a rolling window of that length, which
never lets more be spent in any such time.
"""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import MAXYEAR, UTC, datetime

from proxy.admin.shapes import LAST_SECOND, LONGEST_OVERLAP_S
from proxy.budgets import window_problem
from proxy.errors import InvalidRequest
from proxy.ledger.protocol import Window

_DURATION = re.compile(r"([1-9]\d{0,8})(s|m|h|d|w|mo)")
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_WORDS = {"hourly": "1h", "daily": "1d", "weekly": "7d", "monthly": "30d"}
_DAY_S = 86_400
_CALENDAR: dict[int, Window] = {_DAY_S: "day", 7 * _DAY_S: "week", 30 * _DAY_S: "month"}
_SHOWN = {"day": "1d", "week": "7d", "month": "30d", "quarter": "3mo", "year": "12mo"}


def window_of(duration: str | None, param: str = "budget_duration") -> Window:
    """The window of a budget that is set back every `duration`; None is never.

    Raises `InvalidRequest` that names `param`.
    """
    if duration is None:
        return "lifetime"
    count, unit = _parse(duration, param)
    if unit == "mo":
        if count != 1:
            raise InvalidRequest(
                f"{param}: of months only '1mo' can be had; or write days, e.g. {count * 30}d",
                param=param,
            )
        return "month"
    length_s = count * _UNIT_S[unit]
    if length_s in _CALENDAR and unit in ("d", "w", "h"):
        return _CALENDAR[length_s]
    window = _rolling(length_s)
    problem = "a window is of whole minutes" if window is None else window_problem(window)
    if window is None or problem is not None:
        raise InvalidRequest(f"{param}: {problem}", param=param)
    return window


def duration_of(window: Window) -> str | None:
    """How LiteLLM would write a window; None where a budget is never set back."""
    return None if window == "lifetime" else _SHOWN.get(window, window)


def expiry(duration: str, now: float, param: str = "duration") -> int:
    """The Unix second that is `duration` after `now`; raises `InvalidRequest`."""
    count, unit = _parse(duration, param)
    if unit == "mo":
        ended = _months_later(datetime.fromtimestamp(now, UTC), count)
    else:
        ended = int(now) + count * _UNIT_S[unit]
    if ended is None or ended > LAST_SECOND:
        raise InvalidRequest(f"{param}: {duration[:40]!r} is too long", param=param)
    return ended


def _months_later(began: datetime, count: int) -> int | None:
    """The same day and time of a later month, or its last day; None after the year 9999."""
    years, month = divmod(began.month - 1 + count, 12)
    if began.year + years > MAXYEAR:
        return None
    first = began.replace(year=began.year + years, month=month + 1, day=1)
    last_day = monthrange(first.year, first.month)[1]
    return int(first.replace(day=min(began.day, last_day)).timestamp())


def overlap_s(duration: str, param: str) -> int:
    """How many seconds an old key is accepted; raises `InvalidRequest`."""
    count, unit = _parse(duration, param)
    length_s = count * _UNIT_S.get(unit, LONGEST_OVERLAP_S)
    if unit == "mo" or length_s > LONGEST_OVERLAP_S:
        raise InvalidRequest(f"{param}: write at most {LONGEST_OVERLAP_S // _DAY_S}d", param=param)
    return length_s


def _parse(duration: str, param: str) -> tuple[int, str]:
    found = _DURATION.fullmatch(_WORDS.get(duration, duration))
    if found is None:
        raise InvalidRequest(
            f"{param}: {duration[:40]!r} is no duration; write e.g. 30m, 12h, 7d, 30d or 1mo",
            param=param,
        )
    return int(found[1]), found[2]


def _rolling(length_s: int) -> str | None:
    for unit in ("d", "h", "m"):
        count, rest = divmod(length_s, _UNIT_S[unit])
        if not rest:
            return f"{count}{unit}"
    return None
