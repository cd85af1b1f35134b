"""Drift between our account and a provider's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger.protocol import Done, ImportInvoice, InvoiceLine, Prune, Reserve, Settle
from proxy.ledger.reconciliation import ALL_TARGETS, Ours, accounts, compare, match
from tests.proxy.ledger.making import NOON, Books, a_settlement, an_attempt

DAY = 86_400


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "ledger.db")
    yield made
    made.close()


def spent(books: Books, counter: int, target: str, cost: int, *, estimated: bool = False) -> None:
    attempt = msgspec.structs.replace(
        an_attempt(books.number(counter), 10**9), target=target, provider=target.split("/")[0]
    )
    books.do(Reserve(1, attempt))
    books.do(Settle(1, a_settlement(attempt.attempt, cost, estimated=estimated)))


def ours(day: str, target: str, cost: int, estimated: int = 0) -> Ours:
    return Ours(day=day, target=target, cost_nanousd=cost, estimated_nanousd=estimated, attempts=1)


def test_our_account_is_by_day_and_target_of_the_provider(books: Books) -> None:
    spent(books, 1, "openai/a", 10)
    spent(books, 2, "openai/a", 20, estimated=True)
    spent(books, 3, "other/a", 40)
    books.now += DAY
    spent(books, 4, "openai/b", 80)
    found, pruned_until, providers = accounts(books.path, "openai")
    assert [(row.day, row.target, row.cost_nanousd, row.estimated_nanousd) for row in found] == [
        ("2026-03-10", "openai/a", 30, 20),
        ("2026-03-11", "openai/b", 80, 0),
    ]
    assert (pruned_until, providers) == (0, ["openai", "other"])


def test_a_later_import_takes_the_place_of_every_day_it_names(books: Books) -> None:
    first = (InvoiceLine("2026-03-10", "a", 10), InvoiceLine("2026-03-10", "b", 20))
    later = (InvoiceLine("2026-03-11", "a", 30),)
    for lines in (first, later, (InvoiceLine("2026-03-10", "a", 11),)):
        assert books.do(ImportInvoice(1, "openai", "costs.json", lines)) == Done(1, len(lines))
    with closing(sqlite3.connect(books.path)) as db:
        kept = db.execute("SELECT day, model, cost_nanousd FROM invoice_lines ORDER BY day, model")
        assert kept.fetchall() == [("2026-03-10", "a", 11), ("2026-03-11", "a", 30)]


def test_drift_by_target_and_day() -> None:
    found = compare(
        [
            ours("2026-03-10", "openai/gpt-4o", 100, 25),
            ours("2026-03-10", "openai/mini", 50),
            ours("2026-03-11", "openai/gpt-4o", 7),
            ours("2026-03-12", "openai/gpt-4o", 100),
            ours("2026-03-13", "openai/gpt-4o", 9),
        ],
        [
            InvoiceLine("2026-03-10", "gpt-4o-2024-08-06", 110),
            InvoiceLine("2026-03-10", "whisper-1", 5),
            InvoiceLine("2026-03-12", "gpt-4o", 90),
        ],
    )
    assert [(r.day, r.target, r.ours_nanousd, r.theirs_nanousd, r.percent) for r in found.rows] == [
        ("2026-03-10", "openai/gpt-4o", 100, 110, Decimal("9.09")),
        ("2026-03-10", "openai/mini", 50, 0, None),
        ("2026-03-10", "whisper-1", 0, 5, Decimal("100.00")),
        ("2026-03-12", "openai/gpt-4o", 100, 90, Decimal("-11.11")),
    ]
    assert found.rows[0].estimated_nanousd == 25
    assert (found.total.ours_nanousd, found.total.theirs_nanousd) == (250, 205)
    assert found.total.drift_nanousd == -45
    assert found.missing_days == ("2026-03-11",)
    assert found.pruned_days == ()


def test_an_invoice_without_models_is_of_the_whole_account() -> None:
    found = compare(
        [ours("2026-03-10", "openai/a", 1), ours("2026-03-10", "openai/b", 2)],
        [InvoiceLine("2026-03-10", "", 3)],
    )
    (row,) = found.rows
    assert (row.target, row.ours_nanousd, row.theirs_nanousd) == (ALL_TARGETS, 3, 3)
    assert row.percent == 0


def test_days_of_which_rows_were_pruned_are_not_compared(books: Books) -> None:
    for counter in (1, 2, 3):
        spent(books, counter, "openai/a", 10)
        books.now += DAY
    books.now += 40 * DAY
    books.do(Prune(0, NOON + DAY))
    found, pruned_until, _ = accounts(books.path, "openai")
    lines = [InvoiceLine(f"2026-03-{day}", "a", 10) for day in (10, 11, 12)]
    result = compare(found, lines, pruned_until=pruned_until)
    assert result.pruned_days == ("2026-03-10", "2026-03-11")
    assert [(row.day, row.drift_nanousd) for row in result.rows] == [("2026-03-12", 0)]


def test_nothing_compared_to_nothing() -> None:
    found = compare([], [])
    assert (found.rows, found.missing_days, found.total.percent) == ((), (), 0)
    assert not found.total.is_above(Decimal(1))


@pytest.mark.parametrize(
    ("ours_nanousd", "theirs", "percent", "above"),
    [
        (100, 101, "1", False),
        (99, 100, "1", False),
        (98, 100, "1", True),
        (102, 100, "1", True),
        (1, 0, "1", True),
        (0, 1, "99", True),
        (100, 100, "0", False),
    ],
)
def test_what_drift_is_above(ours_nanousd: int, theirs: int, percent: str, above: bool) -> None:
    found = compare(
        [ours("2026-03-10", "p/m", ours_nanousd)], [InvoiceLine("2026-03-10", "m", theirs)]
    )
    assert found.total.is_above(Decimal(percent)) is above


@pytest.mark.parametrize(
    ("model", "target"),
    [
        ("gpt-4o", "openai/gpt-4o"),
        ("gpt-4o-2024-08-06", "openai/gpt-4o"),
        ("gpt-4o-2024-05-13", "openai/gpt-4o-2024-05-13"),
        ("claude-sonnet-4-20250514", "openai/claude-sonnet-4-20250514"),
        ("claude-sonnet-4", "openai/claude-sonnet-4-20250514"),
        ("openai/gpt-4.1", "openai/openai/gpt-4.1"),
        ("twin-2024-01-03", None),
        ("gpt-4", None),
        ("", None),
    ],
)
def test_models_of_invoices_are_targets(model: str, target: str | None) -> None:
    targets = [
        "openai/gpt-4o",
        "openai/gpt-4o-2024-05-13",
        "openai/claude-sonnet-4-20250514",
        "openai/openai/gpt-4.1",
        "openai/twin-2024-01-01",
        "openai/twin-2024-01-02",
    ]
    assert match(model, targets) == target


NAMES = st.sampled_from(["", "a", "b", "b-2024-01-01", "c"])
DAYS = st.sampled_from(["2026-03-10", "2026-03-11", "2026-03-12"])
COST = st.integers(0, 10**12)


@given(
    st.lists(st.builds(ours, DAYS, NAMES.map(lambda name: f"p/{name}"), COST)),
    st.lists(st.builds(InvoiceLine, DAYS, NAMES, COST)),
)
def test_no_money_is_lost_in_the_comparison(mine: list[Ours], theirs: list[InvoiceLine]) -> None:
    found = compare(mine, theirs)
    invoiced = {line.day for line in theirs}
    assert found.total.theirs_nanousd == sum(line.cost_nanousd for line in theirs)
    assert found.total.ours_nanousd == sum(r.cost_nanousd for r in mine if r.day in invoiced)
    assert sum(row.drift_nanousd for row in found.rows) == found.total.drift_nanousd
