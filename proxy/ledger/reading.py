"""A ledger's file, opened to be read: beside its owner, or where none runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from proxy.ledger.errors import LedgerUnavailable


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write; each statement sees one consistent state of the file.

    A reader of a write-ahead log neither waits for the writer nor keeps it waiting, but the log
    cannot shrink while a statement or transaction is open. Raises `LedgerUnavailable`, also for
    what `sqlite3` raises inside.
    """
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise LedgerUnavailable(f"{path}: {error}") from error
