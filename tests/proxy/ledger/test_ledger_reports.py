from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, get_args
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger.core import CloseSession
from proxy.ledger.errors import LedgerUnavailable
from proxy.ledger.protocol import CreateKey, Hello, KeySettings, RaiseAlert, Reserve, Settle
from proxy.ledger.reports import Dimension, attempts, last_alerts, spend, spend_and_total
from tests.proxy.ledger.making import NOON, Books, a_settlement, an_attempt

DAY = 86_400


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "a folder with spaces? & #signs" / "ledger.db")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    (tmp_path / "a folder with spaces? & #signs").mkdir()


def spent(books: Books, counter: int, cost: int, *, estimated: bool = False, **fields: Any) -> None:
    attempt = msgspec.structs.replace(an_attempt(books.number(counter)), **fields)
    books.do(Reserve(1, attempt))
    books.do(Settle(1, a_settlement(attempt.attempt, cost, estimated=estimated)))


def test_spend_adds_up_by_every_dimension(books: Books) -> None:
    spent(books, 1, 10, target="openai/a", request_id="r1")
    spent(books, 2, 20, target="openai/b", request_id="r1", number=2)
    spent(books, 3, 130, target="openai/b", request_id="r2", estimated=True)
    a, b = spend(books.path, group_by=("target",))
    assert (a.group, a.requests, a.attempts, a.cost_nanousd) == (("openai/a",), 1, 1, 10)
    assert (b.group, b.requests, b.attempts, b.cost_nanousd) == (("openai/b",), 2, 2, 150)
    assert (b.estimated_nanousd, b.overrun_nanousd) == (130, 30)
    assert (b.input_tokens, b.cached_tokens, b.output_tokens, b.reasoning_tokens) == (22, 6, 14, 4)
    (both,) = spend(books.path, group_by=("provider", "key", "virtual_model", "outcome"))
    assert both.group == ("openai", "", "auto", "ok")
    (total,) = spend(books.path, group_by=())
    assert (total.group, total.requests, total.attempts, total.cost_nanousd) == ((), 2, 3, 160)


def test_spend_is_told_by_scopes_too(books: Books) -> None:
    mine = ("global", "key:k_1", "team:t_1", "organisation:o_1", 'user:a "b" \\ ü')
    spent(books, 1, 10, scopes=(*mine, "tag:x", "tag:y:z"), key_id="")
    spent(books, 2, 20, scopes=(*mine, "tag:x"))
    spent(books, 3, 40)
    by = {
        dimension: {
            row.group[0]: row.cost_nanousd for row in spend(books.path, group_by=(dimension,))
        }
        for dimension in get_args(Dimension)
    }
    assert by["team"] == {"": 40, "t_1": 30}
    assert by["organisation"] == {"": 40, "o_1": 30}
    assert by["user"] == {"": 40, 'a "b" \\ ü': 30}
    assert by["tag"] == {"": 40, "x": 30, "y:z": 10}
    assert by["model"] == {"gpt-4o": 70}
    assert by["endpoint"] == {"chat": 70}
    assert by["hour"] == {"2026-03-10 12": 70}
    both = spend(books.path, group_by=("tag", "team"))
    assert [(row.group, row.cost_nanousd) for row in both] == [
        (("", ""), 40),
        (("x", "t_1"), 30),
        (("y:z", "t_1"), 10),
    ]


def test_the_total_counts_an_attempt_with_two_tags_once(books: Books) -> None:
    spent(books, 1, 10, scopes=("global", "tag:x", "tag:y"))
    found = spend_and_total(books.path, group_by=("tag",))
    assert [row.cost_nanousd for row in found.rows] == [10, 10]
    assert (found.total.cost_nanousd, found.total.attempts) == (10, 1)
    nothing = spend_and_total(books.path, since=NOON + DAY)
    assert (nothing.rows, nothing.total.cost_nanousd) == ((), 0)


@pytest.mark.parametrize(
    ("where", "cost"),
    [
        ({}, 70),
        ({"key": "k_1"}, 10),
        ({"key": ""}, 60),
        ({"team": "t_1"}, 30),
        ({"team": ""}, 40),
        ({"team": "t_"}, 0),
        ({"team": "*"}, 0),
        ({"tag": "x"}, 30),
        ({"tag": "y", "team": "t_1"}, 10),
        ({"user": "it's"}, 20),
        ({"model": "gpt-4o"}, 70),
        ({"day": "2026-03-10", "hour": "2026-03-10 12"}, 70),
        ({"outcome": "orphan"}, 0),
        ({"provider": "' OR 1=1 --"}, 0),
    ],
)
def test_spend_can_be_restricted(books: Books, where: dict[Dimension, str], cost: int) -> None:
    books.do(CreateKey(0, b"digest", "hint", KeySettings("k")))
    (key_id,) = [
        key.key_id for key in books.ledger.apply([[Hello("client", "t")]], NOON)[0][0].keys
    ]
    where = {kind: key_id if value == "k_1" else value for kind, value in where.items()}
    team = ("global", "team:t_1")
    spent(books, 1, 10, scopes=(*team, "tag:x", "tag:y"), key_id=key_id)
    spent(books, 2, 20, scopes=(*team, "tag:x", "user:it's"))
    spent(books, 3, 40)
    assert sum(row.cost_nanousd for row in spend(books.path, where=where)) == cost


@pytest.mark.parametrize(
    "zone", ["UTC", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe"]
)
@given(seconds=st.integers(min_value=946_684_800, max_value=2_500_000_000))
def test_a_zone_changes_its_clocks_at_quarter_hours(zone: str, seconds: int) -> None:
    at, quarter = (
        datetime.fromtimestamp(s, ZoneInfo(zone)) for s in (seconds, seconds // 900 * 900)
    )
    assert (at.date(), at.hour) == (quarter.date(), quarter.hour)


def test_days_are_those_of_the_asked_zone(books: Books) -> None:
    books.now = datetime(2026, 3, 10, 23, 30, tzinfo=ZoneInfo("UTC")).timestamp()
    spent(books, 1, 10)
    assert [row.group for row in spend(books.path)] == [("2026-03-10",)]
    (row,) = spend(books.path, timezone="Europe/Berlin")
    assert row.group == ("2026-03-11",)
    with pytest.raises(ValueError, match="unknown time zone"):
        spend(books.path, timezone="Mars/Olympus")


def test_an_hour_that_comes_twice_is_two_hours(books: Books) -> None:
    clocks_go_back = 1_792_890_000  # 2026-10-25 01:00 UTC: 03:00 in Berlin becomes 02:00
    for counter, hour in enumerate((-2, -1, 0, 1)):
        books.now = clocks_go_back + hour * 3_600
        spent(books, counter + 1, 10**counter)
    rows = spend(books.path, group_by=("hour", "day"), timezone="Europe/Berlin")
    assert [(row.group, row.cost_nanousd) for row in rows] == [
        (("2026-10-25 01", "2026-10-25"), 1),
        (("2026-10-25 02", "2026-10-25"), 10),
        (("2026-10-25 02b", "2026-10-25"), 100),
        (("2026-10-25 03", "2026-10-25"), 1_000),
    ]


def test_spend_counts_what_started_in_the_asked_time(books: Books) -> None:
    for counter in (1, 2, 3):
        spent(books, counter, 10 * counter)
        books.now += DAY
    (middle,) = spend(books.path, since=NOON + DAY, until=NOON + 2 * DAY)
    assert middle.cost_nanousd == 20
    assert spend(books.path, since=NOON + 9 * DAY) == []
    assert spend(books.path, since=NOON + 9 * DAY, group_by=()) == []


def test_an_orphan_and_its_correction_are_one_attempt_with_its_final_cost(books: Books) -> None:
    books.reserve(1, 100, floor=10)
    books.do(CloseSession(books.session))
    (row,) = spend(books.path, group_by=("outcome",))
    assert (row.group, row.cost_nanousd, row.estimated_nanousd) == (("orphan",), 10, 10)
    assert row.held_nanousd == 90
    books.settle(1, 70)
    (row,) = spend(books.path, group_by=("outcome",))
    assert (row.group, row.attempts, row.cost_nanousd) == (("ok",), 1, 70)
    assert (row.estimated_nanousd, row.held_nanousd) == (0, 0)


def test_the_last_attempts_come_newest_first(books: Books) -> None:
    for counter in (1, 2, 3):
        spent(books, counter, counter)
        books.now += 1
    books.reserve(4)
    rows = attempts(books.path, 3)
    assert [row.attempt for row in rows] == [books.number(n) for n in (4, 3, 2)]
    assert (rows[0].outcome, rows[0].settled_at, rows[0].held_nanousd) == ("open", None, 100)
    assert (rows[1].outcome, rows[1].settled_at, rows[1].started_at) == ("ok", NOON + 2, NOON + 2)
    assert rows[1].priced is True
    assert rows[1].estimated is False


def test_a_report_neither_waits_for_the_writer_nor_keeps_it_waiting(books: Books) -> None:
    spent(books, 1, 10)
    reader = sqlite3.connect(books.path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM attempts").fetchone() == (1,)
    spent(books, 2, 20)
    assert reader.execute("SELECT count(*) FROM attempts").fetchone() == (1,)
    reader.close()
    assert spend(books.path)[0].cost_nanousd == 30


def test_a_closed_ledger_can_be_read(books: Books) -> None:
    spent(books, 1, 10)
    books.close()
    assert spend(books.path)[0].cost_nanousd == 10


@pytest.mark.parametrize("content", [None, b"no database, no database, no database"])
def test_what_is_not_a_ledger_is_unavailable(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ledger.db"
    if content is not None:
        path.write_bytes(content)
    for report in (lambda: spend(path), lambda: attempts(path, 1)):
        with pytest.raises(LedgerUnavailable, match=str(path)):
            report()
    assert path.exists() == (content is not None)


def test_the_last_alerts_come_newest_first(books: Books) -> None:
    for provider in ("openai", "anthropic"):
        books.do(RaiseAlert(0, "drift", provider, f"{provider} drifts", -5))
    (newest, delivered), (oldest, _) = last_alerts(books.path, 5)
    assert (newest.subject, newest.amount_nanousd, delivered) == ("anthropic", -5, None)
    assert oldest.text == "openai drifts"
    assert len(last_alerts(books.path, 1)) == 1
