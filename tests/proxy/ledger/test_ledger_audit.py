"""The audit finds what is falsified, and nothing in books that were kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from proxy.ledger.audit import audit, examine
from proxy.ledger.core import CloseSession, ReleaseExpired
from proxy.ledger.errors import LedgerUnavailable
from proxy.ledger.protocol import Correct, Extend, Prune, Reserve, Reserved, Settle
from tests.proxy.ledger.making import NOON, Books, a_settlement, an_attempt

DAY = 86_400


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "ledger.db")
    yield made
    made.close()


def test_kept_books_balance(books: Books) -> None:
    books.budget(10_000)
    books.budget(10_000, window="5h")
    for counter in range(1, 8):
        assert isinstance(books.reserve(counter, 100), Reserved)
    books.settle(1, 60)
    books.settle(2, 130)
    raised = books.do(Extend(0, books.number(3), 300, 400))
    assert isinstance(raised, Reserved)
    books.settle(3, 250)
    estimate = msgspec.structs.replace(
        a_settlement(books.number(4), 40, estimated=True), uncertain_nanousd=30
    )
    books.do(Settle(4, estimate))
    books.do(Correct(0, books.number(1), 75, "the invoice says so"))
    assert audit(books.path) == []
    books.do(Correct(0, books.number(4), 65, "the invoice says so"))
    books.do(Correct(0, books.number(1), 70, "and now it says so"))
    books.do(CloseSession(books.session))
    assert audit(books.path) == []
    books.settle(5, 20)
    books.now += DAY
    books.do(ReleaseExpired())
    found = examine(books.path)
    assert (found.differences, found.attempts) == ((), 7)
    assert found.balances >= 2


def test_pruned_books_balance(books: Books) -> None:
    books.budget(10_000, window="lifetime")
    for counter in (1, 2, 3):
        books.reserve(counter, 100)
        books.settle(counter, 130)
        books.now += 40 * DAY
    books.do(Prune(0, NOON + 41 * DAY))
    found = examine(books.path)
    assert (found.differences, found.attempts) == ((), 1)


def test_a_damaged_archive_is_found(books: Books) -> None:
    books.budget(10_000, window="lifetime")
    books.reserve(1, 100)
    books.settle(1, 60)
    books.now += 40 * DAY
    books.do(Prune(0, NOON + DAY))
    forge(books, "UPDATE archived SET spent = spent - 1")
    (line,) = audit(books.path)
    assert "the balance says spent 60, held 0, overrun 0 nano-USD, the rows say spent 59" in line


def test_what_is_not_a_ledger_cannot_be_audited(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match=r"nothing\.db"):
        audit(tmp_path / "nothing.db")


FALSIFICATIONS = {
    "is neither open nor settled": "DELETE FROM holds",
    "is open, but not for its whole hold": "UPDATE holds SET amount = amount - 1",
    "was settled from less than its hold": "{unguarded} UPDATE settlements SET hold_nanousd = 1",
    "the balance says": "UPDATE balances SET spent = spent + 1",
    "the rows say": "INSERT INTO balances VALUES (77, 0, 1, 0, 0)",
    "is settled, but held still": "INSERT INTO holds SELECT attempt, 1, 1, 1 FROM settlements",
    "holds something else than what is uncertain": (
        "{unguarded} UPDATE settlements SET uncertain_nanousd = 5;"
        "INSERT INTO holds SELECT attempt, 6, 1, 1 FROM settlements"
    ),
    "is uncertain by more than was held": (
        "{unguarded} UPDATE settlements SET uncertain_nanousd = 91"
    ),
    "belongs to no session": "DELETE FROM sessions",
    "was corrected, but never settled": "{correction:operator} FROM holds",
    "was settled late, but was neither an orphan nor an estimate": (
        "{correction:late_settlement} FROM settlements"
    ),
    "was settled late more than once": ("{correction:late_settlement} FROM settlements; " * 2),
    "has cost less than nothing": "{correction:operator} FROM settlements",
    "has a hold, but is not on record": "INSERT INTO holds VALUES (5, 1, 1, 1)",
    "is settled, but not on record": (
        "INSERT INTO settlements SELECT 5, settled_at, outcome, 0, 0, 0, 0, 0, 0, 0, 0, 0, '', "
        "0, 0, 0, 0 FROM settlements"
    ),
}

_CORRECTION = (
    "INSERT INTO corrections (attempt, corrected_at, reason, delta_nanousd, overrun_nanousd, "
    "outcome, input_tokens, cached_tokens, output_tokens, reasoning_tokens, estimated, status, "
    "total_us, error) SELECT attempt, 1, 'REASON', -11, 0, 'ok', 0, 0, 0, 0, 0, 0, 0, ''"
)


@pytest.mark.parametrize("fault", FALSIFICATIONS)
def test_the_audit_finds_falsified_books(books: Books, fault: str) -> None:
    books.budget(1_000)
    books.do(Reserve(1, an_attempt(books.number(1))))
    books.do(Settle(1, a_settlement(books.number(1), 10)))
    books.reserve(2)
    assert audit(books.path) == []
    sql = FALSIFICATIONS[fault].replace("{unguarded}", "DROP TRIGGER settlements_refuse_update;")
    for reason in ("operator", "late_settlement"):
        sql = sql.replace(f"{{correction:{reason}}}", _CORRECTION.replace("REASON", reason))
    forge(books, sql)
    found = audit(books.path)
    assert any(fault in line for line in found), found


def forge(books: Books, sql: str) -> None:
    with closing(sqlite3.connect(books.path)) as forger:
        forger.executescript(sql)
