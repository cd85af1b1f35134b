"""SQLite files beside the ledger, which several workers write: nothing in them is money."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

BUSY_S = 5.0
_PATIENCE = 100


def connect(path: Path, schema: str, *, one_thread: bool = True) -> sqlite3.Connection:
    """A connection to a file that is made where it is not there, for its owner alone.

    Unless `one_thread`, several may use it, never two at a time. Raises `sqlite3.Error`.
    """
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=one_thread)
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    _use_wal(db)
    db.execute("PRAGMA synchronous = NORMAL")
    db.executescript(schema)
    path.chmod(0o600)
    return db


@contextlib.contextmanager
def writing(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of what is written within, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    finally:
        if db.in_transaction:  # a disk that is full has rolled some back by itself
            db.execute("ROLLBACK")


def _use_wal(db: sqlite3.Connection) -> None:
    """Change the journal; where another worker does so too, SQLite does not wait by itself."""
    patience = _PATIENCE
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            patience -= 1
            if not patience:
                raise
            time.sleep(BUSY_S / _PATIENCE)
