"""What was asked, in a database of its own: losing it loses no money.

Not in the ledger, whose every page is money's: here what is deleted is overwritten, and nobody
waits for it. Every worker writes it, each from one thread.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec

from policies.base import Prompt
from proxy import side_files
from proxy.asked import Asked

FILE = "requests.db"
# How long a statement waits for another worker's.
_BATCH = 1_000
_FOREVER = 2**62

_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    asked BLOB NOT NULL,
    prompt BLOB
) STRICT;
CREATE INDEX IF NOT EXISTS requests_by_time ON requests (at);
"""
_asked = msgspec.json.Decoder(Asked)
_prompt = msgspec.json.Decoder(Prompt)


class RequestStore:
    """The requests of one data folder; opened on first use. For one thread.

    Raises `sqlite3.Error` where the file cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._db: sqlite3.Connection | None = None

    @property
    def exists(self) -> bool:
        """Whether anything was ever written."""
        return self._path.exists()

    def put(self, requests: Sequence[tuple[Asked, Prompt | None]]) -> None:
        """Write some down, with their prompts or without."""
        rows = [
            (
                asked.at,
                _encoded(asked),
                None if prompt is None else _encoded(prompt),
            )
            for asked, prompt in requests
        ]
        with side_files.writing(self._open) as db:
            db.executemany("INSERT INTO requests (at, asked, prompt) VALUES (?, ?, ?)", rows)

    def tidy(self, before: float) -> int:
        """Forget what was asked before then, a batch of it; how many.

        Of what is forgotten no byte stays in the file; nor in its log, unless another process
        reads it at this moment: then the next tidying sees to that.
        """
        with side_files.writing(self._open) as db:
            done = db.execute(
                "DELETE FROM requests WHERE id IN "
                "(SELECT id FROM requests WHERE at < ? ORDER BY at LIMIT ?)",
                (before, _BATCH),
            )
        self._open.execute("PRAGMA incremental_vacuum").fetchall()
        self._open.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return done.rowcount

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    @property
    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            # Made by one thread and closed by another, never used by two at a time.
            db = side_files.connect(self._path, _SCHEMA, one_thread=False)
            db.execute("PRAGMA secure_delete = ON")
            self._db = db
        return self._db


def _encoded(value: Asked | Prompt) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # half a surrogate pair, which clients may send
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
        return text.encode("utf-8", "replace")


def read(
    folder: Path, since: float = 0, until: float | None = None
) -> Iterator[tuple[Asked, Prompt | None]]:
    """What was asked in [since, until), the oldest first; nothing where nothing was written.

    Safe beside a running server. They are read in batches, so that the file's log can shrink in
    between. Raises `sqlite3.Error`.
    """
    path = folder / FILE
    if not path.exists():
        return
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    after: tuple[float, int] = (since, -1)
    while True:
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=side_files.BUSY_S)) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'requests'").fetchone():
                return  # it is being made at this moment
            rows = db.execute(
                "SELECT at, id, asked, prompt FROM requests "
                "WHERE (at, id) > (?, ?) AND at < ? ORDER BY at, id LIMIT ?",
                (*after, _FOREVER if until is None else until, _BATCH),
            ).fetchall()
        for _, _, asked, prompt in rows:
            yield _asked.decode(asked), None if prompt is None else _prompt.decode(prompt)
        if len(rows) < _BATCH:
            return
        after = rows[-1][:2]
