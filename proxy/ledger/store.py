"""The ledger's SQLite file: its statements and transactions. Decides nothing.

Exactly one connection ever writes the file. That makes group commit possible, and it keeps clear
of the race between a writer and another connection's checkpoint which can corrupt the log in
SQLite before 3.51.3 (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from proxy.ledger.errors import (
    LedgerCorrupt,
    LedgerLocked,
    LedgerStartError,
    LedgerTooNew,
    LedgerUnwritable,
)
from proxy.ledger.protocol import ATTEMPT_BITS, JUDGE, Settlement, Usage

Synchronous = Literal["FULL", "NORMAL"]

SCHEMA_VERSION = 6
APPLICATION_ID = 0x746F6C6C  # "toll"

# Nothing else writes the file; a stranger's lock must not block the loop for long.
BUSY_TIMEOUT_S = 0.25

# A checkpoint writes each changed page once, however often it changed: with more pages it comes
# less often and does less in all, with fewer it takes less time at once. Measured on two cores at
# 200 requests a second: 2,000 pages (8 MiB of log) take 5 to 8 ms, every second and a half.
CHECKPOINT_PAGES = 2_000

# What admission rests on, checked page by page at start. The tables of rows may have any size.
_SMALL_TABLES = ("sessions", "keys", "groups", "budgets", "balances", "holds", "swaps", "quality")


class KeyRow(NamedTuple):
    """A row of `keys`."""

    id: str
    digest: bytes
    hint: str
    settings: str
    created_at: int
    revoked_at: int | None
    previous_digest: bytes
    previous_until: int


class GroupRow(NamedTuple):
    """A row of `groups`."""

    id: str
    kind: str
    settings: str
    created_at: int
    deleted_at: int | None


class BudgetRow(NamedTuple):
    """A row of `budgets` that is not deleted."""

    id: int
    scope: str
    settings: str
    managed: str
    parent: int | None
    created_at: int


class AlertRow(NamedTuple):
    """A row of `alerts`."""

    id: int
    occasion: str
    kind: str
    raised_at: int
    subject: str
    alert: str


class AppliedRow(NamedTuple):
    """The row of `applied`: what the configuration last said."""

    revision: int
    limits: str
    alert_percents: str


class CountedRow(NamedTuple):
    """An attempt as rate limits count it. `settled_tokens` is None while it is open."""

    attempt: int
    started_at: float
    number: int
    scopes: str
    tokens: int
    settled_tokens: int | None


class HoldRow(NamedTuple):
    """A row of `holds` with what its attempt says. `is_settled` where only a remainder is held."""

    attempt: int
    amount: int
    floor: int
    deadline: int
    legs: str
    is_settled: bool


class AttemptRecord(NamedTuple):
    """What is known of an attempt that has no open hold. `outcome` None: not settled.

    `hold` is what was held when it was settled; `cost` and `overrun` have every correction in.
    """

    hold: int
    legs: str
    outcome: str | None
    cost: int
    overrun: int
    is_corrected: bool


class OldRow(NamedTuple):
    """A settled attempt that may be forgotten, with what it cost after every correction."""

    attempt: int
    legs: str
    cost: int
    overrun: int


class SwapRow(NamedTuple):
    """A row of `swaps` with the last of its `swap_events`, and when all requests were moved."""

    swap_id: int
    plan: str
    created_at: int
    since: int
    state: str
    percent: int
    reason: str
    full_at: int | None


class EndedRow(NamedTuple):
    """How an attempt ended, as far as its target is to be judged by it."""

    settled_at: int
    outcome: str
    status: int
    first_token_us: int | None
    total_us: int
    error: str


class AnswerRow(NamedTuple):
    """An attempt that answered a request, or may still."""

    attempt: int
    target: str
    task: str


class QualityRow(NamedTuple):
    """A row of `quality`: answers that were judged, and the sum of what they were worth."""

    target: str
    task: str
    answers: int
    worth_ppm: int


SWAPS = (
    "SELECT s.id, s.plan, s.created_at, e.at, e.state, e.percent, e.reason, "
    "(SELECT min(at) FROM swap_events WHERE swap = s.id AND state = 'draining') "
    "FROM swaps AS s JOIN swap_events AS e "
    "ON e.id = (SELECT max(id) FROM swap_events WHERE swap = s.id)"
)
"""The rows of `SwapRow`."""
_OF_SCOPE = "EXISTS (SELECT 1 FROM json_each(a.scopes) WHERE value = ?)"
_INSERT_ATTEMPT = "INSERT INTO attempts VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_INSERT_SETTLEMENT = "INSERT INTO settlements VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_INSERT_CORRECTION = "INSERT INTO corrections VALUES (NULL,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
# Of an attempt `a` and its settlement `s`, with every correction of it.
_HOLD = "coalesce(s.hold_nanousd, a.hold_nanousd)"
_COST = (
    "coalesce(s.cost_nanousd, 0) + "
    "coalesce((SELECT sum(delta_nanousd) FROM corrections AS c WHERE c.attempt = a.id), 0)"
)
_OVERRUN = (
    f"max(0, coalesce(s.cost_nanousd, 0) - {_HOLD}) + "
    "coalesce((SELECT sum(overrun_nanousd) FROM corrections AS c WHERE c.attempt = a.id), 0)"
)
_PUT_KEY = (
    "INSERT INTO keys VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET "
    "digest = excluded.digest, hint = excluded.hint, settings = excluded.settings, "
    "revoked_at = excluded.revoked_at, previous_digest = excluded.previous_digest, "
    "previous_until = excluded.previous_until"
)
_PUT_GROUP = (
    "INSERT INTO groups VALUES (?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET "
    "settings = excluded.settings, deleted_at = excluded.deleted_at"
)
# The one that was judged before goes first: what is said of a request is said of one answer.
_ANSWER = (
    "SELECT a.id, a.target, a.task FROM attempts AS a "
    "LEFT JOIN settlements AS s ON s.attempt = a.id "
    "WHERE a.request_id = ? AND a.key_id = ? AND a.route_reason <> ? "
    "AND coalesce(s.outcome, 'ok') IN ('ok', 'capped', 'client_gone', 'orphan') "
    "AND a.id NOT IN (SELECT attempt FROM outvoted) "
    "ORDER BY EXISTS (SELECT 1 FROM feedback AS f WHERE f.attempt = a.id) DESC, "
    "s.outcome = 'ok' DESC, a.number DESC LIMIT 1"
)
_PUT_FEEDBACK = (
    "INSERT INTO feedback VALUES (?,?,?,?,?) ON CONFLICT (request_id, metric) DO UPDATE SET "
    "worth_ppm = excluded.worth_ppm, given_at = excluded.given_at"
)
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
        rows = self._db.execute("SELECT * FROM keys ORDER BY created_at, id")
        return [KeyRow._make(row) for row in rows]

    def read_groups(self) -> list[GroupRow]:
        """Every team and organisation, deleted ones too, oldest first."""
        rows = self._db.execute("SELECT * FROM groups ORDER BY created_at, id")
        return [GroupRow._make(row) for row in rows]

    def read_budgets(self) -> list[BudgetRow]:
        """Every budget that was not deleted; one comes before what was made from it."""
        rows = self._db.execute(
            "SELECT id, scope, settings, managed, parent, created_at "
            "FROM budgets WHERE deleted_at IS NULL ORDER BY id"
        )
        return [BudgetRow._make(row) for row in rows]

    def read_applied(self) -> AppliedRow:
        """What the configuration last said."""
        row = self._db.execute("SELECT revision, limits, alert_percents FROM applied").fetchone()
        return AppliedRow._make(row)

    def read_undelivered_alerts(self) -> list[AlertRow]:
        """Alerts that have not reached their receivers, oldest first."""
        rows = self._db.execute(
            "SELECT id, occasion, kind, raised_at, subject, alert FROM alerts "
            "WHERE delivered_at IS NULL ORDER BY id"
        )
        return [AlertRow._make(row) for row in rows]

    def read_counted(self, since: float) -> list[CountedRow]:
        """Attempts that count for rate limits: begun since then, or open still; oldest first."""
        rows = self._db.execute(
            "SELECT a.id, a.started_at, a.number, a.scopes, a.tokens, "
            "s.input_tokens + s.output_tokens "
            "FROM attempts AS a LEFT JOIN settlements AS s ON s.attempt = a.id "
            "WHERE a.started_at >= ? OR a.id IN (SELECT attempt FROM holds) ORDER BY a.started_at",
            (since,),
        )
        return [CountedRow._make(row) for row in rows]

    def read_swaps(self, *states: Iterable[str]) -> list[SwapRow]:
        """Swaps in any of these states, oldest first."""
        wanted = sorted({state for some in states for state in some})
        marks = ",".join("?" * len(wanted))
        rows = self._db.execute(f"{SWAPS} WHERE e.state IN ({marks}) ORDER BY s.id", wanted)
        return [SwapRow._make(row) for row in rows]

    def read_swap(self, swap_id: int) -> SwapRow | None:
        """One swap, whatever its state."""
        row = self._db.execute(f"{SWAPS} WHERE s.id = ?", (swap_id,)).fetchone()
        return SwapRow._make(row) if row is not None else None

    def read_ended(self, scope: str, since: float, *, began_since: float) -> list[EndedRow]:
        """Attempts of a scope that were settled since then, oldest first."""
        rows = self._db.execute(
            "SELECT s.settled_at, s.outcome, s.status, s.first_token_us, s.total_us, s.error "
            "FROM attempts AS a JOIN settlements AS s ON s.attempt = a.id "
            f"WHERE a.started_at >= ? AND s.settled_at >= ? AND {_OF_SCOPE} ORDER BY s.settled_at",
            (began_since, since, scope),
        )
        return [EndedRow._make(row) for row in rows]

    def read_open(self, scope: str) -> list[int]:
        """Attempts of a scope that are not settled."""
        rows = self._db.execute(
            "SELECT a.id FROM holds AS h JOIN attempts AS a ON a.id = h.attempt "
            f"WHERE NOT EXISTS (SELECT 1 FROM settlements WHERE attempt = a.id) AND {_OF_SCOPE}",
            (scope,),
        )
        return [attempt for (attempt,) in rows]

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

    def balances_since(self, budget_id: int, window_start: int) -> list[int]:
        """The windows of a budget that start no earlier than that, or still hold money."""
        rows = self._db.execute(
            "SELECT window_start FROM balances "
            "WHERE budget_id = ? AND (window_start >= ? OR held > 0)",
            (budget_id, window_start),
        )
        return [start for (start,) in rows]

    def attempt(self, attempt: int) -> AttemptRecord | None:
        """What is on record about an attempt."""
        row = self._db.execute(
            f"SELECT {_HOLD}, a.legs, s.outcome, {_COST}, {_OVERRUN}, "
            "EXISTS (SELECT 1 FROM corrections AS c WHERE c.attempt = a.id) "
            "FROM attempts AS a LEFT JOIN settlements AS s ON s.attempt = a.id WHERE a.id = ?",
            (attempt,),
        ).fetchone()
        return AttemptRecord._make(row) if row is not None else None

    def settlement(self, attempt: int) -> Settlement | None:
        """What an attempt came to, after every correction; None where it is not settled."""
        row = self._db.execute(
            "SELECT outcome, cost_nanousd, input_tokens, cached_tokens, output_tokens, "
            "reasoning_tokens, cache_write_tokens, cache_write_1h_tokens, estimated, status, "
            "first_token_us, total_us, error FROM spend WHERE attempt = ? AND outcome <> 'open'",
            (attempt,),
        ).fetchone()
        if row is None:
            return None
        outcome, cost, *usage = row[:8]
        estimated, status, first_token_us, total_us, error = row[8:]
        return Settlement(
            attempt=attempt,
            outcome=outcome,
            cost_nanousd=cost,
            usage=Usage(*usage),
            estimated=bool(estimated),
            status=status,
            first_token_us=first_token_us,
            total_us=total_us,
            error=error,
        )

    def target_of(self, attempt: int) -> str:
        """The target of an attempt on record."""
        row = self._db.execute("SELECT target FROM attempts WHERE id = ?", (attempt,)).fetchone()
        return str(row[0])

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

    def put_key(self, row: KeyRow) -> None:
        """Insert or overwrite a key."""
        self._db.execute(_PUT_KEY, row)

    def put_group(self, row: GroupRow) -> None:
        """Insert or overwrite a team or an organisation."""
        self._db.execute(_PUT_GROUP, row)

    def add_budget(self, row: BudgetRow) -> int:
        """Append a budget and return its id; that of the row is not looked at."""
        return _new_id(
            self._db.execute(
                "INSERT INTO budgets (scope, settings, managed, parent, created_at) "
                "VALUES (?,?,?,?,?)",
                row[1:],
            )
        )

    def change_budget(self, budget_id: int, settings: str) -> None:
        """Overwrite the settings of a budget."""
        self._db.execute("UPDATE budgets SET settings = ? WHERE id = ?", (settings, budget_id))

    def delete_budget(self, budget_id: int, now: int) -> None:
        """End a budget; its rows stay."""
        self._db.execute("UPDATE budgets SET deleted_at = ? WHERE id = ?", (now, budget_id))

    def put_applied(self, row: AppliedRow) -> None:
        """Remember what the configuration says."""
        self._db.execute("UPDATE applied SET revision = ?, limits = ?, alert_percents = ?", row)

    def put_invoice_lines(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Put what a provider says it charged, in the place of all it said of the same days.

        Columns in the schema's order: the provider and the day come first.
        """
        days = {row[:2] for row in rows}
        self._db.executemany("DELETE FROM invoice_lines WHERE provider = ? AND day = ?", days)
        self._db.executemany(
            "INSERT OR REPLACE INTO invoice_lines VALUES (?,?,?,?,?,?,?,?,?)", rows
        )

    def add_swap(self, name: str, plan: str, now: int) -> int:
        """Append a swap and return its id."""
        return _new_id(
            self._db.execute(
                "INSERT INTO swaps (name, plan, created_at) VALUES (?,?,?)", (name, plan, now)
            )
        )

    def add_swap_event(self, swap_id: int, at: int, state: str, percent: int, reason: str) -> None:
        """Append what has become of a swap."""
        self._db.execute(
            "INSERT INTO swap_events (swap, at, state, percent, reason) VALUES (?,?,?,?,?)",
            (swap_id, at, state, percent, reason),
        )

    # --- feedback ------------------------------------------------------------------------------

    def read_quality(self) -> list[QualityRow]:
        """What all feedback says of targets at tasks."""
        rows = self._db.execute("SELECT target, task, answers, worth_ppm FROM quality")
        return [QualityRow._make(row) for row in rows]

    def has_request(self, request_id: str, key_id: str) -> bool:
        """Whether the key made that request, answered or not."""
        row = self._db.execute(
            "SELECT 1 FROM attempts WHERE request_id = ? AND key_id = ? LIMIT 1",
            (request_id, key_id),
        ).fetchone()
        return row is not None

    def answer(self, request_id: str, key_id: str) -> AnswerRow | None:
        """The attempt whose answer the key got for that request, or still gets."""
        row = self._db.execute(_ANSWER, (request_id, key_id, JUDGE)).fetchone()
        return AnswerRow._make(row) if row is not None else None

    def add_outvoted(self, attempts: Iterable[int]) -> None:
        """Remember of attempts on record that another answer was taken than theirs."""
        self._db.executemany(
            "INSERT OR IGNORE INTO outvoted SELECT id FROM attempts WHERE id = ?",
            [(attempt,) for attempt in attempts],
        )

    def feedback(self, attempt: int) -> dict[str, int]:
        """What was said of an answer: by metric what it is worth, in millionths."""
        rows = self._db.execute(
            "SELECT metric, worth_ppm FROM feedback WHERE attempt = ?", (attempt,)
        )
        return dict(rows.fetchall())

    def put_feedback(
        self, request_id: str, metric: str, attempt: int, worth_ppm: int, now: int
    ) -> None:
        """Insert or overwrite what is said of an answer by one metric."""
        self._db.execute(_PUT_FEEDBACK, (request_id, metric, attempt, worth_ppm, now))

    def put_quality(self, row: QualityRow) -> None:
        """Insert or overwrite what feedback says of a target at a task."""
        self._db.execute("INSERT OR REPLACE INTO quality VALUES (?,?,?,?)", row)

    # --- alerts --------------------------------------------------------------------------------

    def new_alert_id(self) -> int:
        """The number of the next alert."""
        row = self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM alerts").fetchone()
        return int(row[0])

    def add_alert(self, row: AlertRow) -> bool:
        """Append an alert; False where one was raised for the same occasion."""
        cursor = self._db.execute(
            "INSERT OR IGNORE INTO alerts (id, occasion, kind, raised_at, subject, alert) "
            "VALUES (?,?,?,?,?,?)",
            row,
        )
        return cursor.rowcount > 0

    def mark_alerts_delivered(self, alert_ids: Iterable[int], now: int) -> None:
        """Remember that these alerts have reached their receivers."""
        self._db.executemany(
            "UPDATE alerts SET delivered_at = ? WHERE id = ?",
            [(now, number) for number in alert_ids],
        )

    # --- retention -----------------------------------------------------------------------------

    def old_rows(self, before: int, most: int) -> list[OldRow]:
        """Settled attempts that began before a moment and hold nothing, oldest first."""
        rows = self._db.execute(
            f"SELECT a.id, a.legs, {_COST}, {_OVERRUN} "
            "FROM attempts AS a JOIN settlements AS s ON s.attempt = a.id "
            "WHERE a.started_at < ? AND a.id NOT IN (SELECT attempt FROM holds) "
            "ORDER BY a.started_at LIMIT ?",
            (before, most),
        )
        return [OldRow._make(row) for row in rows]

    def forget(self, before: int, rows: Iterable[OldRow]) -> None:
        """Delete rows that `old_rows` gave, and remember what they cost by budget and window."""
        self._db.execute("UPDATE retention SET before = max(before, ?)", (before,))
        numbers = [(row.attempt,) for row in rows]
        for row in rows:
            self._db.execute(
                "INSERT INTO archived "
                "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), ?, ? "
                "FROM json_each(?) WHERE true ON CONFLICT DO UPDATE SET "
                "spent = spent + excluded.spent, overrun = overrun + excluded.overrun",
                (row.cost, row.overrun, row.legs),
            )
        self._db.executemany("DELETE FROM outvoted WHERE attempt = ?", numbers)
        self._db.executemany("DELETE FROM feedback WHERE attempt = ?", numbers)
        self._db.executemany("DELETE FROM corrections WHERE attempt = ?", numbers)
        self._db.executemany("DELETE FROM settlements WHERE attempt = ?", numbers)
        self._db.executemany("DELETE FROM attempts WHERE id = ?", numbers)


def to_json(value: object) -> str:
    """What a column of JSON holds."""
    return msgspec.json.encode(value).decode()


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
