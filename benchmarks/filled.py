"""A data folder as years of use leave it: thousands of keys with budgets, millions of attempts.

The keys are made by the ledger itself. Attempts and settlements are written by SQL, in one
transaction: each is a whole one (priced, held, settled), as far apart as if they had come evenly
over the last ninety days, and every balance is the sum of what was settled in its window.
`proxy.ledger.audit` finds nothing wrong with it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from proxy import auth
from proxy.data_folder import DataFolder
from proxy.ledger.core import Ledger
from proxy.ledger.protocol import (
    ATTEMPT_BITS,
    BudgetSettings,
    CreateKey,
    KeyChanged,
    KeySettings,
)

BYTES_PER_ROW = 500
"""On the disk, of an attempt with its settlement and what finds them; room to make it in too."""

_LIMIT_NANOUSD = 10**15
_FILE = "ledger.db"
_PAST_S = 90 * 86_400
_DEADLINE_S = 600
_BEGINNING = 1 << ATTEMPT_BITS
"""The number of a session's first attempt; the one that is written here is the first session."""

# What the rows say is a function of their number `n`; so are the balances that follow.
_COST = "(150000 + n % 997 * 500)"
_NUMBERS = """
    WITH RECURSIVE numbers (n) AS (
        SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n < :last
    )
"""
_ATTEMPTS = f"""
    INSERT INTO attempts {_NUMBERS}
    SELECT
        {_BEGINNING} + n,
        :began_at + n * :apart_s,
        printf('req_%012x%012x', (:began_at + n * :apart_s) * 1000, n * 2654435761 % (1 << 48)),
        1, 'chat', k.id, 'json', iif(n % 5, 'near/json:0', 'near/json:1'), 'near', 'cheapest',
        'expected cost $0.000170',
        json_array('global', 'key:' || k.id, 'model:json', 'target:near/json:0', 'provider:near'),
        1000000, 150000, CAST(:began_at + n * :apart_s AS INTEGER) + {_DEADLINE_S}, 1, 1,
        json_array(json_array(k.budget_id, :window_start)),
        4200,
        printf('%016x', n * 40503 % (1 << 48)),
        ''
    FROM numbers CROSS JOIN keys_of_rows AS k WHERE k.number = n % :keys
"""
_SETTLEMENTS = f"""
    INSERT INTO settlements {_NUMBERS}
    SELECT
        {_BEGINNING} + n, CAST(:began_at + n * :apart_s AS INTEGER) + 1, 'ok', {_COST},
        100 + n % 50, 0, 110 + n % 200, 0, 0, 200, 350000 + n % 90000, 900000 + n % 400000, '',
        1000000, 0, 0, 0
    FROM numbers
"""
_BALANCES = f"""
    INSERT INTO balances {_NUMBERS}
    SELECT k.budget_id, :window_start, sum({_COST}), 0, 0
    FROM numbers CROSS JOIN keys_of_rows AS k WHERE k.number = n % :keys
    GROUP BY k.budget_id
"""


def fill(data: Path, *, keys: int, rows: int) -> list[str]:
    """Make a data folder with so many keys, each with a hard budget; returns the keys.

    The attempts of `rows` are of all of them in turn. Ten million take some minutes and, while
    they are made, `BYTES_PER_ROW` each on the disk.
    """
    folder = DataFolder.open(data)
    secret = folder.secret()
    made = [auth.new_key() for _ in range(keys)]
    with contextlib.closing(Ledger.open(folder.path / _FILE)) as ledger:
        key_ids = _create(ledger, made, secret)
    if rows:
        _write_rows(folder.path / _FILE, key_ids, rows)
    return made


def count_since(data: Path, began_at: float) -> int:
    """How many attempts began since then, Unix seconds, whatever there was before."""
    with contextlib.closing(sqlite3.connect(f"file:{data / _FILE}?mode=ro", uri=True)) as db:
        row = db.execute("SELECT count(*) FROM attempts WHERE started_at >= ?", (began_at,))
        return int(row.fetchone()[0])


def _create(ledger: Ledger, keys: Sequence[str], secret: bytes) -> list[str]:
    budget = BudgetSettings(_LIMIT_NANOUSD)
    ops = [
        CreateKey(
            number,
            auth.digest(key, secret),
            auth.hint(key),
            KeySettings(name=f"bench-{number}"),
            (budget,),
        )
        for number, key in enumerate(keys)
    ]
    (replies,) = ledger.apply([ops], time.time())
    changed = [reply for reply in replies if isinstance(reply, KeyChanged)]
    if len(changed) != len(keys):
        raise RuntimeError(f"the ledger made {len(changed)} of {len(keys)} keys")
    return [reply.key.key_id for reply in changed]


def _write_rows(file: Path, key_ids: Sequence[str], rows: int) -> None:
    now = time.time()
    began_at, apart_s = round(now - _PAST_S, 3), _PAST_S / rows
    db = sqlite3.connect(file, isolation_level=None)
    with contextlib.closing(db):
        # What is written here could be written again: nothing has to survive a crash.
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -262144")  # KiB
        db.execute("BEGIN")
        _number_keys(db, key_ids)
        db.execute("INSERT INTO sessions VALUES (1, 'worker-0', ?)", (int(began_at),))
        # Made at the end, an index is sorted once; kept up, it is searched for every row.
        indices = _drop_indices(db)
        for window_start, first, last in _windows(began_at, apart_s, rows):
            said = {
                "began_at": began_at,
                "apart_s": apart_s,
                "first": first,
                "last": last,
                "window_start": window_start,
                "keys": len(key_ids),
            }
            for statement in (_ATTEMPTS, _SETTLEMENTS, _BALANCES):
                db.execute(statement, said)
        for sql in indices:
            db.execute(sql)
        db.execute("COMMIT")


def _number_keys(db: sqlite3.Connection, key_ids: Sequence[str]) -> None:
    db.execute(
        "CREATE TEMP TABLE keys_of_rows (number INTEGER PRIMARY KEY, id TEXT, budget_id INTEGER)"
    )
    db.executemany(
        "INSERT INTO keys_of_rows SELECT ?, ?, id FROM budgets WHERE scope = ?",
        [(number, key_id, f"key:{key_id}") for number, key_id in enumerate(key_ids)],
    )


def _drop_indices(db: sqlite3.Connection) -> list[str]:
    found = db.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'attempts' "
        "AND sql IS NOT NULL"
    ).fetchall()
    for name, _ in found:
        db.execute(f'DROP INDEX "{name}"')
    return [sql for _, sql in found]


def _windows(began_at: float, apart_s: float, rows: int) -> Iterator[tuple[int, int, int]]:
    """Of each month its start and the numbers of its first and last row."""
    first = 0
    while first < rows:
        day = datetime.fromtimestamp(began_at + first * apart_s, UTC)
        starts = datetime(day.year, day.month, 1, tzinfo=UTC)
        ends = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
        last = min(rows - 1, int((ends.timestamp() - began_at) / apart_s))
        yield int(starts.timestamp()), first, last
        first = last + 1
