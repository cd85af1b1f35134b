"""The ledger's SQLite file: its statements and transactions. Decides nothing.

Exactly one connection ever writes the file. That makes group commit possible, and it keeps clear
of the race between a writer and another connection's checkpoint which can corrupt the log in
SQLite before 3.51.3 (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from proxy.ledger.errors import (
    LedgerCorrupt,
    LedgerLocked,
    LedgerStartError,
    LedgerTooNew,
    LedgerUnwritable,
)
from proxy.ledger.protocol import ATTEMPT_BITS

Synchronous = Literal["FULL", "NORMAL"]

SCHEMA_VERSION = 1
APPLICATION_ID = 0x746F6C6C  # "toll"

# Nothing else writes the file; a stranger's lock must not block the loop for long.
BUSY_TIMEOUT_S = 0.25

# A checkpoint writes each changed page once, however often it changed: with more pages it comes
# less often and does less in all, with fewer it takes less time at once. Measured on two cores at
# 200 requests a second: 2,000 pages (8 MiB of log) take 5 to 8 ms, every second and a half.
CHECKPOINT_PAGES = 2_000

# What admission rests on, checked page by page at start. The tables of rows may have any size.
_SMALL_TABLES = ("sessions", "keys", "budgets", "balances", "holds")


class KeyRow(NamedTuple):
    """A row of `keys`."""

    id: str
    digest: bytes
    name: str
    hint: str
    models: str
    created_at: int
    revoked_at: int | None


class BudgetRow(NamedTuple):
    """A row of `budgets` that is not deleted."""

    id: int
    scope: str
    window: str
    timezone: str
    limit_nanousd: int
    mode: str
    managed: str
    created_at: int


class HoldRow(NamedTuple):
    """A row of `holds` with what its attempt says. `orphaned` where only a remainder is held."""

    attempt: int
    amount: int
    floor: int
    deadline: int
    legs: str
    orphaned: bool


class AttemptRecord(NamedTuple):
    """What is known of an attempt that has no open hold. `outcome` None: not settled."""

    hold_nanousd: int
    legs: str
    outcome: str | None
    cost_nanousd: int
    corrected: bool


_INSERT_ATTEMPT = "INSERT INTO attempts VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_INSERT_SETTLEMENT = "INSERT INTO settlements VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"
_INSERT_CORRECTION = "INSERT INTO corrections VALUES (NULL,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_PUT_HOLD = (
    "INSERT INTO holds VALUES (?,?,?,?) ON CONFLICT DO UPDATE SET amount = excluded.amount, "
    "floor = excluded.floor"
)
_PUT_BALANCE = (
    "INSERT INTO balances VALUES (?,?,?,?,?) ON CONFLICT DO UPDATE SET spent = excluded.spent, "
    "held = excluded.held, overrun = excluded.overrun"
)


class Store:
    """One open ledger file. Every method may raise `sqlite3.Error` and may block on the disk."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    # --- transactions --------------------------------------------------------------------------

    def begin(self) -> None:
        """Start a transaction, unless one is open."""
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> bool:
        """Put the open transaction on the disk; False where there is none."""
        if not self._db.in_transaction:
            return False
        self._db.execute("COMMIT")
        return True

    def roll_back(self) -> None:
        """Undo the open transaction, if SQLite has not done so itself."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def checkpoint(self) -> None:
        """Move the log into the file, as far as no reader is in the way."""
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Close the file. SQLite moves the log into it first."""
        self._db.close()

    # --- reading -------------------------------------------------------------------------------

    def read_keys(self) -> list[KeyRow]:
        """Every key, revoked ones too, oldest first."""
        rows = self._db.execute(
            "SELECT id, digest, name, hint, models, created_at, revoked_at FROM keys "
            "ORDER BY created_at, id"
        )
        return [KeyRow._make(row) for row in rows]

    def read_budgets(self) -> list[BudgetRow]:
        """Every budget that was not deleted."""
        rows = self._db.execute(
            "SELECT id, scope, window, timezone, limit_nanousd, mode, managed, created_at "
            "FROM budgets WHERE deleted_at IS NULL ORDER BY id"
        )
        return [BudgetRow._make(row) for row in rows]

    def read_holds(self) -> list[HoldRow]:
        """Every hold, also the remainders of orphans."""
        rows = self._db.execute(
            "SELECT h.attempt, h.amount, h.floor, h.deadline, a.legs, s.attempt IS NOT NULL "
            "FROM holds AS h JOIN attempts AS a ON a.id = h.attempt "
            "LEFT JOIN settlements AS s ON s.attempt = h.attempt"
        )
        return [HoldRow._make(row) for row in rows]

    def balance(self, budget_id: int, window_start: int) -> tuple[int, int, int]:
        """(spent, held, overrun) of a window; zeros where nothing happened in it yet."""
        row = self._db.execute(
            "SELECT spent, held, overrun FROM balances WHERE budget_id = ? AND window_start = ?",
            (budget_id, window_start),
        ).fetchone()
        return row or (0, 0, 0)

    def attempt(self, attempt: int) -> AttemptRecord | None:
        """What is on record about an attempt."""
        row = self._db.execute(
            "SELECT a.hold_nanousd, a.legs, s.outcome, coalesce(s.cost_nanousd, 0), "
            "EXISTS (SELECT 1 FROM corrections AS c WHERE c.attempt = a.id) "
            "FROM attempts AS a LEFT JOIN settlements AS s ON s.attempt = a.id WHERE a.id = ?",
            (attempt,),
        ).fetchone()
        return AttemptRecord._make(row) if row is not None else None

    def has_session(self, session: int) -> bool:
        """Whether this ledger ever gave out that session number."""
        row = self._db.execute("SELECT 1 FROM sessions WHERE id = ?", (session,)).fetchone()
        return row is not None

    def newest_attempt(self, session: int) -> int:
        """The highest attempt number of a session; below all of them where there is none."""
        lowest = session << ATTEMPT_BITS
        row = self._db.execute(
            "SELECT max(id) FROM attempts WHERE id >= ? AND id < ?",
            (lowest, lowest + (1 << ATTEMPT_BITS)),
        ).fetchone()
        return row[0] if row[0] is not None else lowest

    # --- writing, inside a transaction ---------------------------------------------------------

    def put_attempts(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Append rows to `attempts`, columns in the schema's order."""
        self._db.executemany(_INSERT_ATTEMPT, rows)

    def put_settlements(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Append rows to `settlements`, columns in the schema's order."""
        self._db.executemany(_INSERT_SETTLEMENT, rows)

    def put_correction(self, row: tuple[Any, ...]) -> None:
        """Append a row to `corrections`, columns in the schema's order without the id."""
        self._db.execute(_INSERT_CORRECTION, row)

    def put_holds(self, rows: Iterable[tuple[int, int, int, int]]) -> None:
        """Insert or update (attempt, amount, floor, deadline)."""
        self._db.executemany(_PUT_HOLD, rows)

    def drop_holds(self, attempts: Iterable[tuple[int]]) -> None:
        """Delete the holds of those attempts, as far as there are any."""
        self._db.executemany("DELETE FROM holds WHERE attempt = ?", attempts)

    def put_balances(self, rows: Iterable[tuple[int, int, int, int, int]]) -> None:
        """Insert or update (budget, window start, spent, held, overrun)."""
        self._db.executemany(_PUT_BALANCE, rows)

    def add_session(self, name: str, now: int) -> int:
        """Give out the next session number."""
        return _new_id(
            self._db.execute("INSERT INTO sessions (name, opened_at) VALUES (?, ?)", (name, now))
        )

    def add_key(self, row: KeyRow) -> None:
        """Append a key."""
        self._db.execute("INSERT INTO keys VALUES (?,?,?,?,?,?,?)", row)

    def change_key(self, key_id: str, name: str, models: str, revoked_at: int | None) -> None:
        """Overwrite what can change of a key."""
        self._db.execute(
            "UPDATE keys SET name = ?, models = ?, revoked_at = ? WHERE id = ?",
            (name, models, revoked_at, key_id),
        )

    def add_budget(
        self,
        scope: str,
        window: str,
        timezone: str,
        limit_nanousd: int,
        mode: str,
        managed: str,
        now: int,
    ) -> int:
        """Append a budget and return its id."""
        return _new_id(
            self._db.execute(
                "INSERT INTO budgets (scope, window, timezone, limit_nanousd, mode, managed, "
                "created_at) VALUES (?,?,?,?,?,?,?)",
                (scope, window, timezone, limit_nanousd, mode, managed, now),
            )
        )

    def change_budget(self, budget_id: int, limit_nanousd: int, mode: str) -> None:
        """Overwrite what can change of a budget."""
        self._db.execute(
            "UPDATE budgets SET limit_nanousd = ?, mode = ? WHERE id = ?",
            (limit_nanousd, mode, budget_id),
        )

    def delete_budget(self, budget_id: int, now: int) -> None:
        """End a budget; its rows stay."""
        self._db.execute("UPDATE budgets SET deleted_at = ? WHERE id = ?", (now, budget_id))


def open_store(path: Path, *, synchronous: Synchronous = "FULL") -> Store:
    """Open the ledger at `path`, created or migrated where needed. Raises `LedgerStartError`.

    The caller owns the ledger's lock. May block for as long as a migration takes.
    """
    try:
        return Store(_open(path, synchronous))
    except sqlite3.Error as error:
        raise start_error(path, error) from error
    except OSError as error:
        raise LedgerUnwritable(
            f"{path}: {error.strerror}; make the folder writable, or choose another data folder"
        ) from error


def _open(path: Path, synchronous: Synchronous) -> sqlite3.Connection:
    # Created here for its mode; SQLite gives the log and the index the mode of the file.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        version = _version(db, path)
        (journal,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        if journal != "wal":
            raise LedgerUnwritable(
                f"{path}: its file system cannot hold a write-ahead log; "
                "use a local disk for the data folder"
            )
        db.execute(f"PRAGMA synchronous = {synchronous}")
        db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        db.execute("PRAGMA cache_size = -16384")  # KiB
        # On macOS fsync leaves data in the drive's cache; elsewhere this does nothing.
        db.execute(f"PRAGMA fullfsync = {int(synchronous == 'FULL')}")
        if version < SCHEMA_VERSION:
            _migrate(db)
        for table in _SMALL_TABLES:
            (found,) = db.execute(f"PRAGMA quick_check('{table}')").fetchone()
            if found != "ok":
                raise _corrupt(path, found)
    except BaseException:
        db.close()
        raise
    return db


def _version(db: sqlite3.Connection, path: Path) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '%sqlite%'"
    ).fetchone()
    if application != APPLICATION_ID and (version or tables):
        raise LedgerCorrupt(f"{path}: a database, but not a ledger; choose another data folder")
    if version > SCHEMA_VERSION:
        raise LedgerTooNew(
            f"{path}: written by a newer version (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); upgrade, or choose another data folder"
        )
    return int(version)


def _migrate(db: sqlite3.Connection) -> None:
    # Not at the top: it takes as long to import as everything else here, and is needed once.
    from proxy.ledger.schema import migrate

    migrate(db)


def start_error(path: Path, error: sqlite3.Error) -> LedgerStartError:
    """What SQLite said while a ledger was opened, as one line with a remedy."""
    match error.sqlite_errorcode & 0xFF:  # the primary code; the rest says more than we need
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return _corrupt(path, error)
        case sqlite3.SQLITE_BUSY:
            return LedgerLocked(f"{path}: locked by another program; close what has it open")
        case _:
            return LedgerUnwritable(f"{path}: {error}; check the disk and its permissions")


def _corrupt(path: Path, found: object) -> LedgerCorrupt:
    detail = " ".join(str(found).split())
    return LedgerCorrupt(
        f"{path}: damaged or not a database ({detail}); restore a copy, or move it away"
    )


def _new_id(cursor: sqlite3.Cursor) -> int:
    assert cursor.lastrowid is not None  # an INSERT into a table with a rowid
    return cursor.lastrowid
