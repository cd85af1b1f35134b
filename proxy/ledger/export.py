"""Every attempt as rows for other programs, a page at a time, beside a running ledger.

Each page is a read transaction of its own, so an export of any length neither keeps the log from
shrinking nor needs more memory than a page. A row is exported once, as it was when its page was
read: one that was `open` then has its cost in a later export.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from proxy.ledger.reading import reading

Format = Literal["csv", "jsonl", "parquet"]

COLUMNS: dict[str, type] = {
    "attempt": int,
    "started_at": float,
    "settled_at": int,
    "request_id": str,
    "number": int,
    "endpoint": str,
    "key_id": str,
    "virtual_model": str,
    "target": str,
    "provider": str,
    "policy": str,
    "route_reason": str,
    "decision": str,
    "revision": int,
    "priced": bool,
    "scopes": list,
    "outcome": str,
    "status": int,
    "estimated": bool,
    "hold_nanousd": int,
    "held_nanousd": int,
    "cost_nanousd": int,
    "overrun_nanousd": int,
    "input_tokens": int,
    "cached_tokens": int,
    "cache_write_tokens": int,
    "cache_write_1h_tokens": int,
    "output_tokens": int,
    "reasoning_tokens": int,
    "first_token_us": int,
    "total_us": int,
    "error": str,
}
"""What is exported, in this order; `scopes` is a list of texts."""

NULLABLE = frozenset({"settled_at", "first_token_us"})
"""None until an attempt is settled, or where no token came."""

PAGE_ROWS = 5_000

Page = list[tuple[Any, ...]]
Write = Callable[[Page], None]


Opener = Callable[[IO[bytes]], AbstractContextManager[Write]]
"""Makes a file's writer; the file is whole when the context is left without an error."""


def pages(path: Path, *, since: int, until: int, page_rows: int = PAGE_ROWS) -> Iterator[Page]:
    """The attempts that began in [since, until), by number, in pages of rows of `COLUMNS`.

    Raises `LedgerUnavailable`.
    """
    columns = ", ".join(COLUMNS)
    sql = (
        f"SELECT {columns} FROM spend WHERE attempt > ? AND started_at >= ? "  # noqa: S608
        "AND started_at < ? ORDER BY attempt LIMIT ?"
    )
    convert = _converter()
    last = -1
    with reading(path) as db:
        while rows := db.execute(sql, (last, since, until, page_rows)).fetchall():
            last = rows[-1][0]
            yield [convert(row) for row in rows]


def _converter() -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """SQLite has neither truth values nor lists."""
    scopes_of = msgspec.json.Decoder(list[str]).decode
    changes: list[tuple[int, Callable[[Any], Any]]] = [
        (place, scopes_of if kind is list else bool)
        for place, kind in enumerate(COLUMNS.values())
        if kind in (list, bool)
    ]

    def convert(row: tuple[Any, ...]) -> tuple[Any, ...]:
        values = list(row)
        for place, change in changes:
            values[place] = change(values[place])
        return tuple(values)

    return convert


@contextmanager
def csv_file(output: IO[bytes]) -> Iterator[Write]:
    """RFC 4180 in UTF-8: a header, an empty field for None, 1 and 0 for truth, `scopes` as JSON."""

    class Encoded:
        def write(self, text: str) -> int:
            return output.write(text.encode())

    writer = csv.writer(Encoded())
    writer.writerow(COLUMNS)

    def write(page: Page) -> None:
        writer.writerows(map(_flat, page))

    yield write


def _flat(row: Iterable[Any]) -> list[Any]:
    return [
        int(value)
        if isinstance(value, bool)
        else msgspec.json.encode(value).decode()
        if isinstance(value, list)
        else value
        for value in row
    ]


@contextmanager
def jsonl_file(output: IO[bytes]) -> Iterator[Write]:
    """An object a line."""
    encoder = msgspec.json.Encoder()

    def write(page: Page) -> None:
        output.write(encoder.encode_lines([dict(zip(COLUMNS, row, strict=True)) for row in page]))

    yield write
