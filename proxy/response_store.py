"""Responses that are kept, in a database of their own: losing it loses no money.

Every worker writes it, each from one thread, so that neither a disk nor another worker's lock ever
holds up the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from proxy import side_files
from proxy.clock import Clock

FILE = "responses.db"
# How long a statement waits for another worker's.
_TIDY_EVERY_S = 600.0
# So many go at a time, that others may write in between.
_BATCH = 200
_LONGEST_CHAIN = 10_000
_DAY_S = 86_400

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    previous TEXT,
    used_at INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    input BLOB NOT NULL,
    response BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS responses_by_use ON responses (used_at, bytes);
CREATE TABLE IF NOT EXISTS items (
    id TEXT NOT NULL,
    response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
    PRIMARY KEY (id, response)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS items_by_response ON items (response);
"""

_CHAIN = """
WITH RECURSIVE chain (id, next, depth) AS (
    SELECT id, previous, 0 FROM responses WHERE id = :id AND owner = :owner
    UNION ALL
    SELECT r.id, r.previous, depth + 1 FROM responses r JOIN chain ON r.id = chain.next
    WHERE r.owner = :owner AND depth < :most
)
SELECT r.id, r.previous, r.bytes FROM chain JOIN responses r USING (id) ORDER BY depth DESC
"""


class TooLong(Exception):
    """What was asked for is more than may be read at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A response with the input that was its own: JSON both, `input` a list of items.

    `owner` is the id of the key that made it; `item_ids` are those of its output.
    """

    id: str
    owner: str
    previous: str | None
    input: bytes
    response: bytes
    item_ids: Sequence[str] = ()


class ResponseStore:
    """The responses of one data folder; opened on first use.

    `days` and `total_bytes` bound what `tidy` leaves, `largest_bytes` what is put in, `chain_bytes`
    what is read at once.
    Raises `sqlite3.Error` where the file cannot be read or written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        days: int,
        total_bytes: int,
        largest_bytes: int,
        chain_bytes: int,
        clock: Clock,
    ) -> None:
        self._path = folder / FILE
        self._keep_s = days * _DAY_S
        self._total_bytes = total_bytes
        self._largest_bytes = largest_bytes
        self._chain_bytes = chain_bytes
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="responses")
        self._db: sqlite3.Connection | None = None

    async def put(self, kept: Kept) -> bool:
        """Keep a response; whether it is small enough to be kept."""
        if len(kept.input) + len(kept.response) > self._largest_bytes:
            return False
        await self._run(partial(self._put, kept))
        return True

    async def get(self, response_id: str, owner: str) -> Kept | None:
        """A response of this owner."""
        return await self._run(partial(self._get, response_id, owner))

    async def chain(self, response_id: str, owner: str) -> list[Kept] | None:
        """A response and all that it continues, the oldest first; None where any is missing.

        They count as used. Raises `TooLong`.
        """
        return await self._run(partial(self._chain, response_id, owner))

    async def find_item(self, item_id: str, owner: str) -> Kept | None:
        """The response of this owner whose output has the item."""
        return await self._run(partial(self._find_item, item_id, owner))

    async def delete(self, response_id: str, owner: str) -> bool:
        """Forget a response; whether it was there."""
        return await self._run(partial(self._delete, response_id, owner))

    async def tidy(self) -> int:
        """Forget what is too old or too much; how many."""
        forgotten = 0
        while count := await self._run(self._tidy):
            forgotten += count
        return forgotten

    async def tidy_always(self, on_error: Callable[[Exception], None]) -> None:
        """Tidy now and then; for one worker of a server."""
        while True:
            try:
                await self.tidy()
            except sqlite3.Error as error:
                on_error(error)
            await asyncio.sleep(_TIDY_EVERY_S)

    def close(self) -> None:
        """Close the file, when what is under way is done."""

        def close() -> None:
            if self._db is not None:
                self._db.close()

        self._thread.submit(close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # --- in the thread ---------------------------------------------------------------------

    @property
    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            db = side_files.connect(self._path, _SCHEMA)
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA foreign_keys = ON")
            self._db = db
        return self._db

    def _put(self, kept: Kept) -> None:
        size = len(kept.input) + len(kept.response)
        now = int(self._clock.time())
        with side_files.writing(self._open) as db:
            db.execute(
                "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)",
                (kept.id, kept.owner, kept.previous, now, size, kept.input, kept.response),
            )
            db.executemany(
                "INSERT OR IGNORE INTO items VALUES (?, ?)",
                [(item_id, kept.id) for item_id in kept.item_ids],
            )

    def _get(self, response_id: str, owner: str) -> Kept | None:
        row = self._open.execute(
            "SELECT * FROM responses WHERE id = ? AND owner = ?", (response_id, owner)
        ).fetchone()
        return None if row is None else _kept(row)

    def _chain(self, response_id: str, owner: str) -> list[Kept] | None:
        asked = {"id": response_id, "owner": owner, "most": _LONGEST_CHAIN}
        links = self._open.execute(_CHAIN, asked).fetchall()
        if not links or links[0]["previous"] is not None:
            return None
        if sum(link["bytes"] for link in links) > self._chain_bytes:
            raise TooLong
        with contextlib.suppress(sqlite3.OperationalError):  # a full disk can be read
            self._use([link["id"] for link in links])
        chain = [self._get(link["id"], owner) for link in links]
        whole = [kept for kept in chain if kept is not None]
        return whole if len(whole) == len(links) else None

    def _use(self, ids: Sequence[str]) -> None:
        now = int(self._clock.time())
        with side_files.writing(self._open) as db:
            db.executemany(
                "UPDATE responses SET used_at = ? WHERE id = ?", [(now, each) for each in ids]
            )

    def _find_item(self, item_id: str, owner: str) -> Kept | None:
        row = self._open.execute(
            "SELECT r.* FROM items i JOIN responses r ON r.id = i.response "
            "WHERE i.id = ? AND r.owner = ? ORDER BY r.used_at DESC LIMIT 1",
            (item_id, owner),
        ).fetchone()
        return None if row is None else _kept(row)

    def _delete(self, response_id: str, owner: str) -> bool:
        with side_files.writing(self._open) as db:
            done = db.execute(
                "DELETE FROM responses WHERE id = ? AND owner = ?", (response_id, owner)
            )
            return done.rowcount > 0

    def _tidy(self) -> int:
        """Forget a batch: what is too old, then the oldest while there is too much."""
        with side_files.writing(self._open) as db:
            oldest = db.execute(
                "SELECT id, used_at, bytes FROM responses ORDER BY used_at LIMIT ?", (_BATCH,)
            ).fetchall()
            (total,) = db.execute("SELECT total(bytes) FROM responses").fetchone()
            before = self._clock.time() - self._keep_s
            going = []
            for row in oldest:
                if row["used_at"] >= before and total <= self._total_bytes:
                    break
                going.append((row["id"],))
                total -= row["bytes"]
            db.executemany("DELETE FROM responses WHERE id = ?", going)
        if going:
            db.execute("PRAGMA incremental_vacuum").fetchall()
        return len(going)


def _kept(row: sqlite3.Row) -> Kept:
    return Kept(
        id=row["id"],
        owner=row["owner"],
        previous=row["previous"],
        input=row["input"],
        response=row["response"],
    )
