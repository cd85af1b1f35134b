"""The filled data folder: a ledger that its own audit takes for one."""

import sqlite3
import time
from pathlib import Path

from benchmarks.filled import count_since, fill
from proxy.ledger.audit import examine


def test_the_books_of_a_filled_ledger_balance(tmp_path: Path) -> None:
    before = time.time()
    keys = fill(tmp_path / "data", keys=7, rows=5_000)
    findings = examine(tmp_path / "data" / "ledger.db")
    assert findings.differences == ()
    assert findings.attempts == 5_000
    # Ninety days are in four months at most, and in three at least.
    assert 3 * 7 <= findings.balances <= 4 * 7
    assert len(set(keys)) == 7
    assert count_since(tmp_path / "data", before) == 0
    assert count_since(tmp_path / "data", 0) == 5_000


def test_a_filled_ledger_has_the_indices_of_an_empty_one(tmp_path: Path) -> None:
    def indices(data: Path, rows: int) -> list[tuple[str, str]]:
        fill(data, keys=1, rows=rows)
        with sqlite3.connect(data / "ledger.db") as db:
            return db.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()

    assert indices(tmp_path / "filled", 10) == indices(tmp_path / "empty", 0)
