"""Read-only questions to a ledger file: what was spent, on what, and whether the books balance.

Safe beside a running ledger: a reader of a write-ahead log never blocks the writer, and each
report is one consistent view.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import msgspec
from sqlite_utils import Database

from proxy.budgets import time_zone
from proxy.ledger.errors import LedgerUnavailable
from proxy.ledger.protocol import ATTEMPT_BITS

Dimension = Literal["day", "key", "virtual_model", "target", "provider", "outcome"]

_COLUMNS: dict[Dimension, str] = {
    "day": "local_day(started_at)",
    "key": "key_id",
    "virtual_model": "virtual_model",
    "target": "target",
    "provider": "provider",
    "outcome": "outcome",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SpendRow:
    """What a group of attempts cost. Money is nano-USD; `estimated_nanousd` is part of the cost."""

    group: tuple[str, ...]
    """A value for each dimension that was asked for, in that order."""
    requests: int
    attempts: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_nanousd: int
    estimated_nanousd: int
    held_nanousd: int
    overrun_nanousd: int


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
    timezone: str = "UTC",
) -> list[SpendRow]:
    """What attempts started in [since, until) cost, grouped, in the order of the groups.

    Days are those of `timezone`. Raises `LedgerUnavailable` where there is no readable ledger, and
    `ValueError` for an unknown time zone.
    """
    zone = time_zone(timezone)
    groups = [_COLUMNS[dimension] for dimension in group_by]
    grouping = f"GROUP BY {', '.join(groups)} ORDER BY {', '.join(groups)}" if groups else ""
    # Nothing of the caller's is in this text: the columns come from the table above.
    sql = (
        f"SELECT {''.join(f'{column}, ' for column in groups)}"  # noqa: S608
        "count(DISTINCT request_id), count(*), sum(input_tokens), sum(cached_tokens), "
        "sum(output_tokens), sum(reasoning_tokens), sum(cost_nanousd), "
        "sum(iif(estimated, cost_nanousd, 0)), sum(held_nanousd), sum(overrun_nanousd) "
        f"FROM spend WHERE started_at >= ? AND started_at < ? {grouping}"
    )

    def local_day(started_at: float) -> str:
        return datetime.fromtimestamp(started_at, zone).date().isoformat()

    with _reading(path) as db:
        db.register_function(local_day, deterministic=True)
        rows = db.execute(sql, (since, 2**62 if until is None else until)).fetchall()
    width = len(groups)
    return [
        SpendRow(
            group=tuple(row[:width]),
            requests=row[width],
            attempts=row[width + 1],
            input_tokens=row[width + 2],
            cached_tokens=row[width + 3],
            output_tokens=row[width + 4],
            reasoning_tokens=row[width + 5],
            cost_nanousd=row[width + 6],
            estimated_nanousd=row[width + 7],
            held_nanousd=row[width + 8],
            overrun_nanousd=row[width + 9],
        )
        for row in rows
        if row[width + 1]
    ]


def attempts(path: Path, limit: int) -> list[AttemptRow]:
    """The attempts that started last, newest first. Raises `LedgerUnavailable`."""
    with _reading(path) as db:
        rows = db.query(
            "SELECT * FROM spend ORDER BY started_at DESC, attempt DESC LIMIT ?", (limit,)
        )
        return [_attempt_row(row) for row in rows]


def spent_by_day(path: Path, key_id: str) -> dict[str, int]:
    """What a key spent on each day (UTC), nano-USD. Raises `LedgerUnavailable`."""
    sql = (
        "SELECT date(started_at, 'unixepoch') AS day, sum(cost_nanousd) FROM spend "
        "WHERE key_id = ? GROUP BY day"
    )
    with _reading(path) as db:
        return dict(db.execute(sql, (key_id,)).fetchall())


def _attempt_row(row: dict[str, Any]) -> AttemptRow:
    return AttemptRow(**{**row, "priced": bool(row["priced"]), "estimated": bool(row["estimated"])})


class _Money(NamedTuple):
    spent: int = 0
    held: int = 0
    overrun: int = 0

    def plus(self, spent: int, held: int, overrun: int) -> _Money:
        return _Money(self.spent + spent, self.held + held, self.overrun + overrun)


def audit(path: Path) -> list[str]:
    """What is wrong with the books, one line each; [] is the only good answer.

    Recomputes every balance from the rows, and checks that each attempt is either open or settled
    once. Reads the whole file. Raises `LedgerUnavailable`.
    """
    with _reading(path) as db:
        db.execute("BEGIN")
        return [*_damage(db), *_loose_ends(db), *_wrong_balances(db)]


def _damage(db: Database) -> Iterator[str]:
    for (found,) in db.execute("PRAGMA integrity_check"):
        if found != "ok":
            yield f"file: {found}"


_LOOSE_ENDS = {
    "is neither open nor settled": """
        SELECT id FROM attempts
        WHERE id NOT IN (SELECT attempt FROM holds) AND id NOT IN (SELECT attempt FROM settlements)
    """,
    "is open, but not for its whole hold": """
        SELECT h.attempt FROM holds AS h JOIN attempts AS a ON a.id = h.attempt
        WHERE h.attempt NOT IN (SELECT attempt FROM settlements) AND h.amount <> a.hold_nanousd
    """,
    "is settled, but held still": """
        SELECT h.attempt FROM holds AS h JOIN settlements AS s ON s.attempt = h.attempt
        WHERE s.outcome <> 'orphan' OR h.attempt IN (SELECT attempt FROM corrections)
    """,
    "is an orphan that holds something else than what is uncertain": """
        SELECT h.attempt FROM holds AS h
        JOIN settlements AS s ON s.attempt = h.attempt JOIN attempts AS a ON a.id = h.attempt
        WHERE h.amount <> a.hold_nanousd - s.cost_nanousd
    """,
    "has a hold, but is not on record": """
        SELECT attempt FROM holds WHERE attempt NOT IN (SELECT id FROM attempts)
    """,
    "is settled, but not on record": """
        SELECT attempt FROM settlements WHERE attempt NOT IN (SELECT id FROM attempts)
    """,
    "was corrected, but is no orphan": """
        SELECT attempt FROM corrections
        WHERE attempt NOT IN (SELECT attempt FROM settlements WHERE outcome = 'orphan')
    """,
    "was settled late more than once": """
        SELECT attempt FROM corrections WHERE reason = 'late_settlement'
        GROUP BY attempt HAVING count(*) > 1
    """,
    "belongs to no session": f"""
        SELECT id FROM attempts WHERE id >> {ATTEMPT_BITS} NOT IN (SELECT id FROM sessions)
    """,  # noqa: S608 - a constant
}


def _loose_ends(db: Database) -> Iterator[str]:
    for fault, sql in _LOOSE_ENDS.items():
        for (attempt,) in db.execute(sql):
            yield f"attempt {attempt} {fault}"


def _wrong_balances(db: Database) -> Iterator[str]:
    counted: defaultdict[tuple[int, int], _Money] = defaultdict(_Money)
    legs_of = msgspec.json.Decoder(list[tuple[int, int]]).decode
    rows = db.execute(
        "SELECT a.legs, s.cost_nanousd, s.held_nanousd, s.overrun_nanousd "
        "FROM spend AS s JOIN attempts AS a ON a.id = s.attempt WHERE a.legs <> '[]'"
    )
    for legs, *money in rows:
        for leg in legs_of(legs):
            counted[leg] = counted[leg].plus(*money)
    kept = {
        (budget_id, window_start): _Money(*money)
        for budget_id, window_start, *money in db.execute("SELECT * FROM balances")
    }
    for leg in sorted(counted.keys() | kept.keys()):
        if counted[leg] != kept.get(leg, _Money()):
            yield (
                f"budget {leg[0]} in the window from {leg[1]}: the balance says "
                f"{kept.get(leg, _Money())}, the rows say {counted[leg]}"
            )


@contextmanager
def _reading(path: Path) -> Iterator[Database]:
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            yield Database(connection, execute_plugins=False, recursive_triggers=False)
    except sqlite3.Error as error:
        raise LedgerUnavailable(f"{path}: {error}") from error
