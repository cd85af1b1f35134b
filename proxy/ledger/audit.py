"""Whether the books balance: every balance recomputed from the rows that it should follow from."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from proxy.ledger.protocol import ATTEMPT_BITS
from proxy.ledger.reading import reading


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What was looked at, and what is wrong with it, a line each."""

    differences: tuple[str, ...]
    attempts: int
    balances: int


class _Money(NamedTuple):
    spent: int = 0
    held: int = 0
    overrun: int = 0

    def plus(self, spent: int, held: int, overrun: int) -> _Money:
        return _Money(self.spent + spent, self.held + held, self.overrun + overrun)

    def __str__(self) -> str:
        return f"spent {self.spent}, held {self.held}, overrun {self.overrun} nano-USD"


def audit(path: Path) -> list[str]:
    """The differences that `examine` finds; [] is the only good answer."""
    return list(examine(path).differences)


def examine(path: Path) -> Findings:
    """Recompute every balance, and check that each attempt is either open or settled once.

    Reads the whole file in one transaction. Raises `LedgerUnavailable`.
    """
    with reading(path) as db:
        db.execute("BEGIN")
        (attempts,) = db.execute("SELECT count(*) FROM attempts").fetchone()
        (balances,) = db.execute("SELECT count(*) FROM balances").fetchone()
        differences = (*_damage(db), *_loose_ends(db), *_wrong_balances(db))
    return Findings(differences=differences, attempts=attempts, balances=balances)


def _damage(db: sqlite3.Connection) -> Iterator[str]:
    for (found,) in db.execute("PRAGMA integrity_check"):
        if found != "ok":
            yield f"file: {found}"


# What an attempt had been held for when it was settled; rows of schema 1 were never raised.
_SETTLED_HOLD = "coalesce(s.hold_nanousd, a.hold_nanousd)"
# What stays held after a settlement; in rows of schema 1 only an orphan's is uncertain.
_UNCERTAIN = (
    "coalesce(s.uncertain_nanousd, "
    "iif(s.outcome = 'orphan', max(0, a.hold_nanousd - s.cost_nanousd), 0))"
)

_LOOSE_ENDS = {
    "is neither open nor settled": """
        SELECT id FROM attempts
        WHERE id NOT IN (SELECT attempt FROM holds) AND id NOT IN (SELECT attempt FROM settlements)
    """,
    "is open, but not for its whole hold": """
        SELECT h.attempt FROM holds AS h JOIN attempts AS a ON a.id = h.attempt
        WHERE h.attempt NOT IN (SELECT attempt FROM settlements) AND h.amount < a.hold_nanousd
    """,
    "was settled from less than its hold": """
        SELECT s.attempt FROM settlements AS s JOIN attempts AS a ON a.id = s.attempt
        WHERE s.hold_nanousd < a.hold_nanousd
    """,
    "is settled, but held still": f"""
        SELECT h.attempt FROM holds AS h
        JOIN settlements AS s ON s.attempt = h.attempt JOIN attempts AS a ON a.id = h.attempt
        WHERE {_UNCERTAIN} = 0 OR h.attempt IN (SELECT attempt FROM corrections)
    """,  # noqa: S608 - a constant, as are those below
    "holds something else than what is uncertain": f"""
        SELECT h.attempt FROM holds AS h
        JOIN settlements AS s ON s.attempt = h.attempt JOIN attempts AS a ON a.id = h.attempt
        WHERE {_UNCERTAIN} <> 0 AND h.amount <> {_UNCERTAIN}
    """,  # noqa: S608
    "is uncertain by more than was held": f"""
        SELECT s.attempt FROM settlements AS s JOIN attempts AS a ON a.id = s.attempt
        WHERE {_UNCERTAIN} > max(0, {_SETTLED_HOLD} - s.cost_nanousd)
    """,  # noqa: S608
    "has a hold, but is not on record": """
        SELECT attempt FROM holds WHERE attempt NOT IN (SELECT id FROM attempts)
    """,
    "is settled, but not on record": """
        SELECT attempt FROM settlements WHERE attempt NOT IN (SELECT id FROM attempts)
    """,
    "was corrected, but never settled": """
        SELECT DISTINCT attempt FROM corrections
        WHERE attempt NOT IN (SELECT attempt FROM settlements)
    """,
    "was settled late, but was neither an orphan nor an estimate": """
        SELECT DISTINCT attempt FROM corrections WHERE reason = 'late_settlement'
        AND attempt NOT IN (
            SELECT attempt FROM settlements WHERE outcome = 'orphan' OR estimated
        )
    """,
    "was settled late more than once": """
        SELECT attempt FROM corrections WHERE reason = 'late_settlement'
        GROUP BY attempt HAVING count(*) > 1
    """,
    "has cost less than nothing": """
        SELECT attempt FROM spend WHERE cost_nanousd < 0 OR overrun_nanousd < 0
    """,
    "belongs to no session": f"""
        SELECT id FROM attempts WHERE id >> {ATTEMPT_BITS} NOT IN (SELECT id FROM sessions)
    """,  # noqa: S608
}


def _loose_ends(db: sqlite3.Connection) -> Iterator[str]:
    for fault, sql in _LOOSE_ENDS.items():
        for (attempt,) in db.execute(sql):
            yield f"attempt {attempt} {fault}"


def _wrong_balances(db: sqlite3.Connection) -> Iterator[str]:
    counted: defaultdict[tuple[int, int], _Money] = defaultdict(_Money)
    for budget_id, window_start, spent, overrun in db.execute("SELECT * FROM archived"):
        counted[budget_id, window_start] = _Money(spent, 0, overrun)
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
