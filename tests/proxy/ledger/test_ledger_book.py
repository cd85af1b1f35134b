"""Rolling windows against the plain list of what happened, through clock jumps and restarts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.budgets import SLOTS
from proxy.ledger.audit import audit
from proxy.ledger.protocol import Budgets, ListBudgets, Refused, Reserved, UpdateBudget
from tests.proxy.ledger.making import NOON, Books

HOUR_S = 3_600
SLOT_S = HOUR_S // SLOTS


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "ledger.db")
    yield made
    assert audit(made.path) == []
    made.close()


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(
                [0, 1, 30, 60, 61, 1_800, 3_540, 3_600, 3_661, -1, -61, -1_800, -7_300]
            ),
            st.sampled_from(["reserve", "reserve", "settle", "restart", "look"]),
            st.integers(1, 100),
        ),
        max_size=25,
    )
)
def test_a_rolling_window_counts_what_lies_in_its_slots(steps: list[tuple[int, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        books = Books(Path(folder) / "ledger.db")
        budget = books.budget(150, window="1h")
        slots: dict[int, int] = {}  # attempt -> the slot it was admitted in
        held: dict[int, int] = {}
        spent: dict[int, int] = {}
        for number, (step, action, amount) in enumerate(steps, 1):
            books.now += step
            slot = int(books.now) // SLOT_S * SLOT_S
            counted = sum(c for n, c in spent.items() if abs(slot - slots[n]) <= HOUR_S)
            held_now = sum(held.values())
            if action == "restart":
                books.restart()
            elif action == "reserve":
                reply = books.reserve(number, amount)
                fits = counted + held_now + amount <= 150
                assert isinstance(reply, Reserved if fits else Refused)
                if fits:
                    held[number], slots[number] = amount, slot
            elif action == "settle" and held:
                settled = list(held)[amount % len(held)]
                books.settle(settled, amount)
                del held[settled]
                spent[settled] = amount
            counted = sum(c for n, c in spent.items() if abs(slot - slots[n]) <= HOUR_S)
            assert books.money(budget)[:2] == (counted, sum(held.values()))
            opens_at = books.state(budget).opens_at
            assert opens_at is not None
            assert opens_at > books.now
            mine = sorted((slots[n], c) for n, c in spent.items() if abs(slot - slots[n]) <= HOUR_S)
            if mine:
                # The oldest must leave, and more where attempts cost more than was held for them.
                left = 150 - counted - sum(held.values())
                freed = accumulate(cost for _, cost in mine)
                leaving = (
                    at for (at, _), so_far in zip(mine, freed, strict=True) if left + so_far >= 0
                )
                assert opens_at == next(leaving, mine[-1][0]) + HOUR_S + SLOT_S
        assert audit(books.path) == []
        books.close()


def test_what_was_spent_counts_for_its_whole_duration_and_at_most_a_slot_longer(
    books: Books,
) -> None:
    budget = books.budget(100, window="1h")
    books.now = NOON + SLOT_S - 1
    books.reserve(1, 100)
    books.settle(1, 100)
    books.now += HOUR_S
    assert isinstance(books.reserve(2, 1), Refused)
    opens_at = books.state(budget).opens_at
    assert opens_at == NOON + HOUR_S + SLOT_S
    books.now = opens_at
    assert books.reserve(3, 100) == Reserved(3, 0)


def test_a_refusal_says_when_enough_of_a_rolling_window_has_left(books: Books) -> None:
    books.budget(100, window="1h")
    for counter, cost in enumerate((10, 30, 60), start=1):
        books.reserve(counter, cost)
        books.settle(counter, cost)
        books.now += 10 * SLOT_S
    for needed, slot in ((1, 0), (10, 0), (11, 10), (40, 10), (41, 20), (100, 20)):
        refused = books.reserve(4, needed)
        assert isinstance(refused, Refused)
        assert refused.budget is not None
        opens_at = NOON + slot * SLOT_S + HOUR_S + SLOT_S
        assert refused.budget.opens_at == opens_at
    books.now = opens_at - 1
    assert isinstance(books.reserve(4, 100), Refused)
    books.now = opens_at
    assert books.reserve(4, 100) == Reserved(4, 0)


@pytest.mark.parametrize("window", ["1h", "day"])
def test_what_is_more_than_the_whole_limit_never_fits(books: Books, window: str) -> None:
    books.budget(100, window=window)
    refused = books.reserve(1, 101)
    assert isinstance(refused, Refused)
    assert refused.budget is not None
    assert (refused.held, refused.budget.opens_at) == (False, None)


def test_what_is_held_counts_however_old_it_is(books: Books) -> None:
    budget = books.budget(100, window="5m")
    books.reserve(1, 60)
    books.now += 100_000
    assert isinstance(books.reserve(2, 41), Refused)
    books.restart()
    assert isinstance(books.reserve(2, 41), Refused)
    books.settle(1, 60)
    assert books.money(budget) == (0, 0, 0)
    assert books.reserve(3, 100) == Reserved(3, 0)


def test_old_slots_that_only_hold_say_nothing_of_when_a_rolling_window_opens(books: Books) -> None:
    budget = books.budget(100, window="1h")
    books.reserve(1, 10)
    books.reserve(2, 10)
    books.settle(2, 15)
    books.now += 5 * HOUR_S
    books.reserve(3, 50)
    books.settle(3, 50)
    state = books.state(budget)
    assert (state.spent_nanousd, state.held_nanousd, state.overrun_nanousd) == (50, 10, 0)
    assert state.opens_at == NOON + 6 * HOUR_S + SLOT_S


def test_a_rolling_budget_that_is_deleted_still_settles(books: Books) -> None:
    budget = books.budget(100, window="1h")
    books.reserve(1, 60)
    books.do(UpdateBudget(1, budget, deleted=True))
    books.restart()
    books.settle(1, 50)
    listed = books.do(ListBudgets(1))
    assert isinstance(listed, Budgets)
    assert listed.budgets == ()


def test_budgets_are_listed_by_scope(books: Books) -> None:
    books.budget(1)
    mine = books.budget(2, scope="key:k", window="quarter")
    listed = books.do(ListBudgets(1, "key:k"))
    assert isinstance(listed, Budgets)
    assert [state.budget_id for state in listed.budgets] == [mine]


def test_a_clock_that_goes_back_does_not_let_a_rolling_window_be_spent_twice(books: Books) -> None:
    budget = books.budget(100, window="1h")
    books.reserve(1, 100)
    books.settle(1, 100)
    books.now -= HOUR_S // 2
    assert isinstance(books.reserve(2, 1), Refused)
    assert books.money(budget) == (100, 0, 0)
    books.now -= HOUR_S
    assert books.reserve(3, 100) == Reserved(3, 0)
