"""What was spent, and on what: sums over a ledger's rows by any dimension, and its last rows.

Safe beside a running ledger (`reading`), and each report is one consistent view. Money is integer
nano-USD, times are Unix seconds. What was pruned is in no report.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

from proxy.budgets import time_zone
from proxy.ledger.protocol import Alert
from proxy.ledger.reading import reading
from proxy.ledger.store import SWAPS, SwapRow
from proxy.ledger.swaps import swap_of
from proxy.swaps.core import State, Swap

Dimension = Literal[
    "day",
    "hour",
    "key",
    "team",
    "organisation",
    "user",
    "tag",
    "virtual_model",
    "model",
    "target",
    "provider",
    "endpoint",
    "outcome",
]
"""`model` is a target without its provider. An attempt with two tags is in the group of each."""


def _named(kind: str) -> str:
    """The name in an attempt's only scope of a kind."""
    return (
        f"(SELECT substr(value, {len(kind) + 2}) FROM json_each(scopes) "  # noqa: S608 - constants
        f"WHERE value GLOB '{kind}:*' LIMIT 1)"
    )


_COLUMNS: Mapping[Dimension, str] = {
    "day": "local_day(CAST(started_at AS INTEGER) / 900)",
    "hour": "local_hour(CAST(started_at AS INTEGER) / 900)",
    "key": "key_id",
    "team": _named("team"),
    "organisation": _named("organisation"),
    "user": _named("user"),
    "tag": "substr(tags.value, 5)",
    "virtual_model": "virtual_model",
    "model": "substr(target, instr(target, '/') + 1)",
    "target": "target",
    "provider": "provider",
    "endpoint": "endpoint",
    "outcome": "outcome",
}

_IN_SCOPES: tuple[Dimension, ...] = ("team", "organisation", "user", "tag")
"""Dimensions that are told by an attempt's scopes; without one of the kind the value is empty."""

_SUMS = (
    "count(DISTINCT request_id), count(*), sum(input_tokens), sum(cached_tokens), "
    "sum(cache_write_tokens), sum(cache_write_1h_tokens), sum(output_tokens), "
    "sum(reasoning_tokens), sum(cost_nanousd), sum(iif(estimated, cost_nanousd, 0)), "
    "sum(held_nanousd), sum(overrun_nanousd)"
)

_FOREVER = 2**62


@dataclass(frozen=True, kw_only=True, slots=True)
class SpendRow:
    """What a group of attempts cost. Money is nano-USD; `estimated_nanousd` is part of the cost."""

    group: tuple[str, ...]
    """A value for each dimension that was asked for, in that order."""
    requests: int
    attempts: int
    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_nanousd: int
    estimated_nanousd: int
    held_nanousd: int
    overrun_nanousd: int


_SUM_NAMES = tuple(field.name for field in fields(SpendRow))[1:]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spend:
    """Rows for the groups, and the whole: groups may overlap, so it is not always their sum."""

    rows: tuple[SpendRow, ...]
    total: SpendRow


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptRow:
    """One attempt with what it finally cost. `outcome` is `open` until it is settled."""

    attempt: int
    started_at: float
    request_id: str
    number: int
    endpoint: str
    key_id: str
    virtual_model: str
    target: str
    provider: str
    policy: str
    route_reason: str
    decision: str
    revision: int
    priced: bool
    scopes: str
    hold_nanousd: int
    held_nanousd: int
    outcome: str
    cost_nanousd: int
    overrun_nanousd: int
    estimated: bool
    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    reasoning_tokens: int
    status: int
    first_token_us: int | None
    total_us: int
    error: str
    settled_at: int | None


def spend(
    path: Path,
    *,
    since: int = 0,
    until: int | None = None,
    group_by: Sequence[Dimension] = ("day",),
    where: Mapping[Dimension, str] | None = None,
    timezone: str = "UTC",
) -> list[SpendRow]:
    """What attempts started in [since, until) cost, grouped, in the order of the groups.

    `where` keeps the attempts that have that value in each of its dimensions. Days and hours
    (`2026-11-20 13`) are those of `timezone`; an hour that comes again when clocks go back is
    `2026-10-25 02b` the second time. Raises `LedgerUnavailable` where there is no
    readable ledger, and `ValueError` for an unknown time zone.
    """
    zone = time_zone(timezone)
    with reading(path) as db:
        _know_calendar(db, zone)
        return _spend(db, since, until, group_by, where or {})


def spend_and_total(
    path: Path,
    *,
    since: int = 0,
    until: int | None = None,
    group_by: Sequence[Dimension] = ("day",),
    where: Mapping[Dimension, str] | None = None,
    timezone: str = "UTC",
) -> Spend:
    """As `spend`, with the whole beside the groups; both see the same rows."""
    zone = time_zone(timezone)
    with reading(path) as db:
        _know_calendar(db, zone)
        db.execute("BEGIN")
        rows = _spend(db, since, until, group_by, where or {})
        whole = _spend(db, since, until, (), where or {})
    nothing = SpendRow(group=(), **dict.fromkeys(_SUM_NAMES, 0))
    return Spend(rows=tuple(rows), total=whole[0] if whole else nothing)


def _spend(
    db: sqlite3.Connection,
    since: int,
    until: int | None,
    group_by: Sequence[Dimension],
    where: Mapping[Dimension, str],
) -> list[SpendRow]:
    groups = [f"coalesce({_COLUMNS[dimension]}, '')" for dimension in group_by]
    places = ", ".join(str(place) for place in range(1, len(groups) + 1))
    grouping = f"GROUP BY {places} ORDER BY {places}" if groups else ""
    tags = (
        "LEFT JOIN json_each(scopes) AS tags ON tags.value GLOB 'tag:*'"
        if "tag" in group_by
        else ""
    )
    wanted = "".join(f" AND {_condition(dimension, value)}" for dimension, value in where.items())
    # Nothing of the caller's is in this text: columns and conditions come from the tables above.
    sql = (
        f"SELECT {''.join(f'{group}, ' for group in groups)}{_SUMS} "  # noqa: S608
        f"FROM spend {tags} WHERE started_at >= ? AND started_at < ?{wanted} {grouping}"
    )
    values = (_bound(dimension, value) for dimension, value in where.items())
    rows = db.execute(sql, (since, _FOREVER if until is None else until, *values)).fetchall()
    width = len(groups)
    return [
        SpendRow(group=tuple(row[:width]), **dict(zip(_SUM_NAMES, row[width:], strict=True)))
        for row in rows
        if row[width + 1]
    ]


def _condition(dimension: Dimension, value: str) -> str:
    if dimension not in _IN_SCOPES:
        return f"{_COLUMNS[dimension]} = ?"
    if value:
        return "EXISTS (SELECT 1 FROM json_each(scopes) WHERE value = ?)"
    return "NOT EXISTS (SELECT 1 FROM json_each(scopes) WHERE value GLOB ?)"


def _bound(dimension: Dimension, value: str) -> str:
    if dimension not in _IN_SCOPES:
        return value
    return f"{dimension}:{value or '*'}"


def _know_calendar(db: sqlite3.Connection, zone: ZoneInfo) -> None:
    """Days and hours of a zone as functions of quarter hours since 1970.

    No zone changes its clocks within a quarter of an hour, so a report of a year asks a time zone
    35,040 times and not once for each of a million rows.
    """

    @lru_cache(maxsize=1 << 16)
    def local_hour(quarter: int) -> str:
        at = datetime.fromtimestamp(quarter * 900, zone)
        return at.strftime("%Y-%m-%d %H") + ("b" if at.fold else "")

    @lru_cache(maxsize=1 << 16)
    def local_day(quarter: int) -> str:
        return local_hour(quarter)[:10]

    db.create_function("local_hour", 1, local_hour, deterministic=True)
    db.create_function("local_day", 1, local_day, deterministic=True)


def attempts(path: Path, limit: int) -> list[AttemptRow]:
    """The attempts that started last, newest first. Raises `LedgerUnavailable`."""
    with reading(path) as db:
        cursor = db.execute(
            "SELECT * FROM spend ORDER BY started_at DESC, attempt DESC LIMIT ?", (limit,)
        )
        names = [column for column, *_ in cursor.description]
        return [_attempt_row(dict(zip(names, row, strict=True))) for row in cursor]


def _attempt_row(row: dict[str, object]) -> AttemptRow:
    return msgspec.convert(row, AttemptRow, strict=False)


def spent_by_day(path: Path, key_id: str) -> dict[str, int]:
    """What a key spent on each day (UTC), nano-USD. Raises `LedgerUnavailable`."""
    sql = (
        "SELECT date(started_at, 'unixepoch') AS day, sum(cost_nanousd) FROM spend "
        "WHERE key_id = ? GROUP BY day"
    )
    with reading(path) as db:
        return dict(db.execute(sql, (key_id,)).fetchall())


def last_alerts(path: Path, limit: int) -> list[tuple[Alert, int | None]]:
    """The alerts raised last, newest first, each with when it was delivered; None is not yet.

    Raises `LedgerUnavailable`.
    """
    with reading(path) as db:
        rows = db.execute(
            "SELECT alert, delivered_at FROM alerts ORDER BY id DESC LIMIT ?", (limit,)
        ).fetchall()
    return [(msgspec.json.decode(alert, type=Alert), delivered) for alert, delivered in rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class SwapHistory:
    """A swap, and all that became of it: when, its state, the percent moved, and why."""

    swap: Swap
    events: tuple[tuple[int, State, int, str], ...]


def last_swaps(path: Path, limit: int) -> list[SwapHistory]:
    """The swaps begun last, newest first. Raises `LedgerUnavailable`."""
    with reading(path) as db:
        db.execute("BEGIN")
        rows = db.execute(f"{SWAPS} ORDER BY s.id DESC LIMIT ?", (limit,)).fetchall()
        return [_history(db, SwapRow._make(row)) for row in rows]


def one_swap(path: Path, swap_id: int) -> SwapHistory | None:
    """One swap; None where there is none of that number. Raises `LedgerUnavailable`."""
    with reading(path) as db:
        db.execute("BEGIN")
        row = db.execute(f"{SWAPS} WHERE s.id = ?", (swap_id,)).fetchone()
        return None if row is None else _history(db, SwapRow._make(row))


def _history(db: sqlite3.Connection, row: SwapRow) -> SwapHistory:
    events = db.execute(
        "SELECT at, state, percent, reason FROM swap_events WHERE swap = ? ORDER BY id",
        (row.swap_id,),
    )
    return SwapHistory(swap=swap_of(row), events=tuple(events))
