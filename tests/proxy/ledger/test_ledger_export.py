"""What an export holds, and that it never stands in the ledger's way."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.ledger.errors import LedgerUnavailable
from proxy.ledger.export import COLUMNS, NULLABLE, csv_file, jsonl_file, pages
from proxy.ledger.protocol import Reserve
from proxy.ledger.reports import attempts
from tests.proxy.ledger.making import NOON, Books, an_attempt

DAY = 86_400
AWKWARD = 'a "quoted", and\nbroken ü line'


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "ledger.db")
    for counter in range(1, 6):
        scopes = ("global", f"user:{AWKWARD}")
        attempt = an_attempt(made.number(counter), scopes=scopes)
        made.do(Reserve(1, msgspec.structs.replace(attempt, route_reason=AWKWARD)))
        if counter < 5:
            made.settle(counter, 10 * counter)
        made.now += DAY
    yield made
    made.close()


def exported(books: Books, **limits: Any) -> list[dict[str, Any]]:
    asked = {"since": 0, "until": NOON + 9 * DAY, **limits}
    rows = [row for page in pages(books.path, **asked) for row in page]
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def test_every_column_of_an_attempt_is_exported(books: Books) -> None:
    with closing(sqlite3.connect(books.path)) as db:
        view = {name for name, *_ in db.execute("SELECT * FROM spend LIMIT 0").description}
    assert set(COLUMNS) == view
    for row in exported(books):
        for name, kind in COLUMNS.items():
            assert type(row[name]) is kind or (name in NULLABLE and row[name] is None)


@pytest.mark.parametrize("page_rows", [1, 2, 5, 100])
def test_pages_hold_each_attempt_once(books: Books, page_rows: int) -> None:
    rows = exported(books, page_rows=page_rows)
    assert [row["attempt"] for row in rows] == [books.number(n) for n in range(1, 6)]
    assert [row["cost_nanousd"] for row in rows] == [10, 20, 30, 40, 0]
    assert [row["outcome"] for row in rows] == ["ok"] * 4 + ["open"]
    known = {row.attempt: row for row in attempts(books.path, 9)}
    for row in rows:
        values = {**row, "scopes": json.dumps(row["scopes"], separators=(",", ":"))}
        assert json.loads(known[row["attempt"]].scopes) == row["scopes"]
        assert {n: getattr(known[row["attempt"]], n) for n in values if n != "scopes"} == {
            n: v for n, v in values.items() if n != "scopes"
        }


def test_an_export_holds_what_began_in_the_asked_time(books: Books) -> None:
    rows = exported(books, since=NOON + DAY, until=NOON + 3 * DAY, page_rows=1)
    assert [row["cost_nanousd"] for row in rows] == [20, 30]


def test_between_two_pages_nothing_is_held_open(books: Books) -> None:
    reader = pages(books.path, since=0, until=NOON + 9 * DAY, page_rows=2)
    next(reader)
    books.settle(5, 50)
    with closing(sqlite3.connect(books.path, isolation_level=None)) as db:
        # Only possible while no reader is inside a transaction.
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    later = [row for page in reader for row in page]
    assert len(later) == 3
    assert dict(zip(COLUMNS, later[-1], strict=True))["cost_nanousd"] == 50


def test_csv_reads_back(books: Books) -> None:
    output = io.BytesIO()
    with csv_file(output) as write:
        for page in pages(books.path, since=0, until=NOON + 9 * DAY, page_rows=2):
            write(page)
    rows = list(csv.DictReader(io.StringIO(output.getvalue().decode(), newline="")))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["cost_nanousd"] for row in rows] == ["10", "20", "30", "40", "0"]
    assert rows[0]["route_reason"] == AWKWARD
    assert json.loads(rows[0]["scopes"]) == ["global", f"user:{AWKWARD}"]
    assert (rows[0]["priced"], rows[0]["estimated"], rows[4]["settled_at"]) == ("1", "0", "")


def test_json_lines_read_back(books: Books) -> None:
    output = io.BytesIO()
    with jsonl_file(output) as write:
        for page in pages(books.path, since=0, until=NOON + 9 * DAY, page_rows=2):
            write(page)
    assert [json.loads(line) for line in output.getvalue().splitlines()] == exported(books)


def test_parquet_reads_back(books: Books) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    from proxy.ledger.parquet import parquet_file

    output = io.BytesIO()
    with parquet_file(output) as write:
        for page in pages(books.path, since=0, until=NOON + 9 * DAY, page_rows=2):
            write(page)
    assert pq.read_table(io.BytesIO(output.getvalue())).to_pylist() == exported(books)


def test_what_is_not_a_ledger_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable):
        list(pages(tmp_path / "nothing.db", since=0, until=1))
