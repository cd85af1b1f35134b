"""Swaps in the ledger: what is written down, watched, told, and survives."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.ledger.audit import audit
from proxy.ledger.core import AdvanceSwaps
from proxy.ledger.protocol import (
    AlertRaised,
    BeginConversations,
    ConversationsBegan,
    Failed,
    Hello,
    MoveSwap,
    OpenSwap,
    Outcome,
    Settle,
    SwapChanged,
    Welcome,
)
from proxy.ledger.reports import last_swaps, one_swap
from proxy.swaps import core
from proxy.swaps.core import Check, Plan, Rollback, Swap
from tests.proxy.ledger.making import NOON, Books, a_settlement


def a_plan(name: str = "auto", **changes: Any) -> Plan:
    return Plan(name=name, source="up/old", target="up/new", **changes)


WATCHED = Rollback(error_rate=0.1, min_requests=4, window_s=60, watch_s=100)


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "ledger.db")
    yield made
    assert audit(made.path) == []
    made.close()


def opened(books: Books, plan: Plan | None = None) -> Swap:
    reply = books.do(OpenSwap(1, plan or a_plan()))
    assert isinstance(reply, SwapChanged), reply
    return reply.swap


def moved(books: Books, swap: Swap, to: Any, reason: str = "") -> Swap:
    reply = books.do(MoveSwap(1, swap.swap_id, to, reason))
    assert isinstance(reply, SwapChanged), reply
    return reply.swap


def welcomed(books: Books) -> Welcome:
    reply = books.do(Hello("client", "test"))
    assert isinstance(reply, Welcome)
    return reply


def states(books: Books, swap: Swap) -> list[str]:
    history = one_swap(books.path, swap.swap_id)
    assert history is not None
    return [state for _, state, _, _ in history.events]


def test_a_swap_goes_its_way_and_every_step_is_on_record(books: Books) -> None:
    swap = opened(books, a_plan(steps=(10, 100), step_s=60, grace_s=30))
    assert (swap.swap_id, swap.state) == (1, "preparing")
    assert moved(books, swap, "prepared").percent == 10
    assert not books.ledger.has_due_swaps(books.now + 59)
    books.now += 60
    assert books.ledger.has_due_swaps(books.now)
    books.do(AdvanceSwaps())
    books.now += 30
    books.do(AdvanceSwaps())
    assert not books.ledger.has_due_swaps(books.now + 10**6)
    history = one_swap(books.path, 1)
    assert history is not None
    assert history.events == (
        (NOON, "preparing", 0, ""),
        (NOON, "shifting", 10, ""),
        (NOON + 60, "shifting", 100, ""),
        (NOON + 60, "draining", 100, ""),
        (NOON + 90, "completed", 100, ""),
    )
    assert history.swap.full_at == NOON + 60
    assert welcomed(books).swaps == (history.swap,)


def test_what_a_plan_cannot_be(books: Books) -> None:
    for changes, words in (
        ({"steps": (50,)}, "end with 100"),
        ({"steps": (50, 10, 100)}, "ascend"),
        ({"passing": 1}, "1 checks must pass, of 0"),
    ):
        reply = books.do(OpenSwap(1, a_plan(**changes)))
        assert isinstance(reply, Failed)
        assert reply.code == "invalid"
        assert words in reply.message
    assert last_swaps(books.path, 10) == []


def test_checks_are_told_as_long_as_they_are_to_be_made(books: Books) -> None:
    plan = a_plan(checks=(Check(prompt="x" * 1000),) * 3, passing=2)
    swap = opened(books, plan)
    assert swap.plan == plan == welcomed(books).swaps[0].plan
    assert moved(books, swap, "prepared").plan.checks == ()
    assert welcomed(books).swaps[0].plan.checks == ()
    before = welcomed(books)
    books.restart()
    assert welcomed(books) == before
    history = one_swap(books.path, swap.swap_id)
    assert history is not None
    assert history.swap.plan == plan


def test_a_plan_has_its_bounds(books: Books) -> None:
    reply = books.do(OpenSwap(1, a_plan(checks=(Check(prompt="x", contains=("y",) * 10**6),))))
    assert isinstance(reply, Failed)
    assert reply.code == "invalid"


def test_a_name_is_moved_once_at_a_time(books: Books) -> None:
    swap = opened(books)
    reply = books.do(OpenSwap(2, a_plan()))
    assert isinstance(reply, Failed)
    assert reply.code == "conflict"
    assert opened(books, a_plan("another")).swap_id == 2
    moved(books, swap, "cancelled")
    assert opened(books).swap_id == 3


def test_what_the_state_does_not_allow_is_a_conflict_also_of_swaps_long_gone(books: Books) -> None:
    swap = opened(books)
    moved(books, swap, "failed", "it is no good")
    books.restart()
    for to in ("prepared", "failed", "cancelled", "rolled_back"):
        reply = books.do(MoveSwap(1, swap.swap_id, to))  # type: ignore[arg-type]
        assert isinstance(reply, Failed)
        assert (reply.code, "it is failed" in reply.message) == ("conflict", True)
    gone = books.do(MoveSwap(1, 99, "cancelled"))
    assert isinstance(gone, Failed)
    assert gone.code == "not_found"


def test_only_the_last_one_of_a_name_is_rolled_back(books: Books) -> None:
    first = moved(books, opened(books, a_plan(grace_s=0)), "prepared")
    assert first.state == "completed"
    second = opened(books)
    reply = books.do(MoveSwap(1, first.swap_id, "rolled_back"))
    assert isinstance(reply, Failed)
    assert reply.code == "conflict"
    assert reply.message == "swap 2 of 'auto' is being prepared; cancel that one first"
    moved(books, second, "prepared")
    reply = books.do(MoveSwap(1, first.swap_id, "rolled_back"))
    assert isinstance(reply, Failed)
    assert reply.message == "swap 2 moved 'auto' after swap 1; roll that one back first"
    moved(books, second, "cancelled")
    assert moved(books, first, "rolled_back").state == "rolled_back"
    assert welcomed(books).swaps == ()


def test_everybody_hears_of_a_change_once(books: Books) -> None:
    swap = opened(books)
    books.ledger.take_news()
    swap = moved(books, swap, "prepared")
    assert books.ledger.take_news() == [SwapChanged(swap)]
    assert books.ledger.take_news() == []


def test_history_cannot_be_changed(books: Books) -> None:
    opened(books)
    db = sqlite3.connect(books.path)
    for statement in (
        "UPDATE swap_events SET state = 'completed'",
        "DELETE FROM swap_events",
        "UPDATE swaps SET name = 'x'",
        "DELETE FROM swaps",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute(statement)
    db.close()


# --- attempts ------------------------------------------------------------------------------------


def attempted(
    books: Books,
    number: int,
    swap: Swap,
    outcome: Outcome = "ok",
    *,
    status: int = 200,
    **more: Any,
) -> None:
    begun(books, number, swap)
    settled(books, number, outcome, status=status, **more)


def begun(books: Books, number: int, swap: Swap) -> None:
    books.reserve(number, 100, scopes=("global", swap.scope))


def settled(
    books: Books, number: int, outcome: Outcome = "ok", *, status: int = 200, error: str = ""
) -> None:
    settlement = a_settlement(books.number(number), outcome=outcome)
    changed = msgspec.structs.replace(settlement, status=status, error=error)
    books.do(Settle(1, changed))


def state(books: Books, swap: Swap) -> str:
    return states(books, swap)[-1]


def test_failures_roll_back_and_raise_an_alert(books: Books) -> None:
    swap = moved(books, opened(books, a_plan(rollback=WATCHED)), "prepared")
    for number in range(1, 4):
        attempted(books, number, swap, "upstream_error", status=503)
    assert state(books, swap) == "draining"
    books.ledger.take_news()
    attempted(books, 4, swap, "timeout", status=0)
    assert state(books, swap) == "rolled_back"
    news = books.ledger.take_news()
    alert = next(one.alert for one in news if isinstance(one, AlertRaised))
    assert (alert.kind, alert.subject) == ("swap", "auto")
    assert alert.text == (
        "swap 1 of auto from up/old to up/new was rolled back: "
        "4 of 4 attempts failed; at most 10.0% may fail"
    )
    assert [one.swap.state for one in news if isinstance(one, SwapChanged)] == ["rolled_back"]


@pytest.mark.parametrize(
    ("outcome", "status", "error"),
    [
        ("client_gone", 200, ""),
        ("capped", 200, ""),
        ("cancelled", 0, ""),
        ("not_dispatched", 0, ""),
        ("upstream_error", 400, "the prompt is too long"),
        ("upstream_error", 422, ""),
    ],
)
def test_what_is_no_fault_of_the_target_does_not_count(
    books: Books, outcome: Outcome, status: int, error: str
) -> None:
    swap = moved(books, opened(books, a_plan(rollback=WATCHED)), "prepared")
    for number in range(1, 10):
        attempted(books, number, swap, outcome, status=status, error=error)
    assert state(books, swap) == "draining"


@pytest.mark.parametrize(
    ("outcome", "status", "error"),
    [
        ("broken", 200, ""),
        ("timeout", 0, ""),
        ("not_dispatched", 0, "connection refused"),
        ("upstream_error", 500, ""),
        ("upstream_error", 401, "the key is wrong"),
        ("upstream_error", 404, "no such model"),
        ("upstream_error", 429, "slow down"),
    ],
)
def test_what_is_a_fault_of_the_target_counts(
    books: Books, outcome: Outcome, status: int, error: str
) -> None:
    swap = moved(books, opened(books, a_plan(rollback=WATCHED)), "prepared")
    for number in range(1, 5):
        attempted(books, number, swap, outcome, status=status, error=error)
    assert state(books, swap) == "rolled_back"


def test_attempts_of_other_requests_do_not_count(books: Books) -> None:
    moved(books, swap := opened(books, a_plan(rollback=WATCHED)), "prepared")
    for number in range(1, 10):
        books.reserve(number, 100)
        settled(books, number, "upstream_error", status=500)
    assert state(books, swap) == "draining"


def test_failures_roll_back_while_the_next_swap_is_being_prepared(books: Books) -> None:
    swap = moved(books, opened(books, a_plan(rollback=WATCHED, grace_s=0)), "prepared")
    following = opened(books)
    for number in range(1, 5):
        attempted(books, number, swap, "broken")
    assert state(books, swap) == "rolled_back"
    assert state(books, following) == "failed"


def test_a_swap_is_watched_for_a_while_after_all_was_moved(books: Books) -> None:
    plan = a_plan(rollback=WATCHED, grace_s=0)
    swap = moved(books, opened(books, plan), "prepared")
    books.now += 99
    for number in range(1, 4):
        attempted(books, number, swap, "broken")
    begun(books, 4, swap)
    assert books.ledger.has_due_swaps(books.now + 1)
    books.now += 1
    books.do(AdvanceSwaps())
    settled(books, 4, "broken")
    assert state(books, swap) == "completed"


def test_what_was_watched_is_remembered_over_a_restart(books: Books) -> None:
    swap = moved(books, opened(books, a_plan(rollback=WATCHED)), "prepared")
    for number in range(1, 3):
        attempted(books, number, swap, "broken")
    begun(books, 3, swap)
    books.restart()
    settled(books, 3, "broken")  # it began before
    assert state(books, swap) == "draining"
    attempted(books, 4, swap, "broken")
    assert state(books, swap) == "rolled_back"


# --- conversations -------------------------------------------------------------------------------


def test_conversations_are_told_to_everybody_while_the_swap_is_open(books: Books) -> None:
    swap = opened(books, a_plan(keeps_conversations=True))
    moved(books, swap, "prepared")
    books.ledger.take_news()
    assert books.do(BeginConversations(swap.swap_id, (5, 6))) is None
    books.do(BeginConversations(swap.swap_id, (6, 7)))
    assert books.ledger.take_news() == [ConversationsBegan(1, (5, 6)), ConversationsBegan(1, (7,))]
    assert welcomed(books).conversations == (ConversationsBegan(1, (5, 6, 7)),)
    moved(books, swap, "cancelled")
    books.do(BeginConversations(swap.swap_id, (8,)))
    assert welcomed(books).conversations == ()


def test_the_oldest_conversations_are_forgotten_first(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "MOST_CONVERSATIONS", 3)
    swap = opened(books, a_plan(keeps_conversations=True))
    moved(books, swap, "prepared")
    books.do(BeginConversations(swap.swap_id, (1, 2, 3, 4, 5)))
    assert welcomed(books).conversations == (ConversationsBegan(1, (3, 4, 5)),)


# --- in whatever order ---------------------------------------------------------------------------


class SwapsInALedger(RuleBasedStateMachine):
    """A ledger that is closed and opened at any moment stands as one that never was."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.books = Books(Path(self.folder.name) / "ledger.db")
        self.attempts = 0

    def teardown(self) -> None:
        self.books.close()
        self.folder.cleanup()

    @rule(
        name=st.sampled_from(["auto", "cheap"]),
        steps=st.sampled_from([(100,), (10, 50, 100)]),
        watched=st.booleans(),
    )
    def open(self, name: str, steps: tuple[int, ...], watched: bool) -> None:
        rollback = Rollback(error_rate=0.3, min_requests=2) if watched else None
        plan = a_plan(name, steps=steps, step_s=5, grace_s=5, prepare_s=20, rollback=rollback)
        under_way = any(s.is_open and s.plan.name == name for s in welcomed(self.books).swaps)
        reply = self.books.do(OpenSwap(1, plan))
        assert isinstance(reply, Failed if under_way else SwapChanged)

    @rule(
        swap_id=st.integers(1, 5),
        to=st.sampled_from(["prepared", "failed", "cancelled", "rolled_back"]),
    )
    def move(self, swap_id: int, to: Any) -> None:
        before = welcomed(self.books)
        if isinstance(self.books.do(MoveSwap(1, swap_id, to, "why")), Failed):
            assert welcomed(self.books) == before

    @rule(seconds=st.integers(0, 12))
    def time_passes(self, seconds: int) -> None:
        self.books.now += seconds
        self.books.do(AdvanceSwaps())
        assert not self.books.ledger.has_due_swaps(self.books.now)

    @rule(failing=st.booleans(), data=st.data())
    def attempt(self, failing: bool, data: st.DataObject) -> None:
        swaps = [swap for swap in welcomed(self.books).swaps if swap.is_in_force]
        if swaps:
            self.attempts += 1
            outcome: Outcome = "broken" if failing else "ok"
            attempted(self.books, self.attempts, data.draw(st.sampled_from(swaps)), outcome)

    @rule()
    def reopen(self) -> None:
        before = welcomed(self.books)
        self.books.restart()
        assert welcomed(self.books) == before

    @invariant()
    def one_open_swap_of_a_name(self) -> None:
        if hasattr(self, "books"):
            names = [s.plan.name for s in welcomed(self.books).swaps if s.is_open]
            assert len(names) == len(set(names))

    @invariant()
    def the_history_ends_where_the_swap_stands(self) -> None:
        if hasattr(self, "books"):
            standing = {swap.swap_id: swap for swap in welcomed(self.books).swaps}
            for history in last_swaps(self.books.path, 100):
                _, state, percent, reason = history.events[-1]
                swap = history.swap
                assert (swap.state, swap.percent, swap.reason) == (state, percent, reason)
                if swap.is_open or swap.is_in_force:
                    assert standing.pop(swap.swap_id) == core.without_checks(swap)
            assert not standing


SwapsInALedger.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestSwapsInALedger = SwapsInALedger.TestCase
