"""The hold of a stream, against a budget of our own that answers when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger.errors import BudgetRefused, LedgerRefusal, LedgerUnavailable
from proxy.ledger.protocol import BudgetSettings, BudgetState, Refused, Reserved
from proxy.metering import LOW_TOKENS, SLICE_TOKENS, UNSEEN_TOKENS, Capped, Meter
from proxy.wire.usage import counted

BASE, TOKEN, LONG = 1_000, 7, 10_000
SLICE = BASE + SLICE_TOKENS * TOKEN


def run(main: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(10):
            await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, "a task was left behind"

    asyncio.run(limited())


class Purse:
    """A budget with so much for one stream; while it is not `open`, it does not answer."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.asked: list[tuple[int, int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.is_asked = asyncio.Event()
        self.failure: Exception | None = None

    async def extend(self, hold_nanousd: int, most_nanousd: int) -> Reserved:
        self.asked.append((hold_nanousd, most_nanousd))
        self.is_asked.set()
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        if hold_nanousd > self.limit:
            raise BudgetRefused(Refused(1, "budget", self.state(), hold_nanousd))
        return Reserved(1, None, hold_nanousd)

    def state(self) -> BudgetState:
        return BudgetState(
            budget_id=1,
            scope="key:k",
            settings=BudgetSettings(limit_nanousd=self.limit, window="day"),
            managed="api",
            spent_nanousd=0,
            held_nanousd=self.limit,
            overrun_nanousd=0,
            starts_at=0,
            opens_at=None,
            created_at=0,
        )

    def meter(self, held: int = SLICE, tokens: int = LONG) -> Meter:
        return Meter(
            base=BASE, token=TOKEN, held=held, most=BASE + tokens * TOKEN, extend=self.extend
        )


async def settled() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_nothing_is_asked_while_there_is_enough() -> None:
    async def main() -> None:
        purse = Purse(LONG)
        await purse.meter().follow(SLICE_TOKENS - LOW_TOKENS - 1, 0)
        await settled()
        assert purse.asked == []

    run(main())


def test_more_is_asked_for_beside_the_stream_and_once_at_a_time() -> None:
    async def main() -> None:
        purse = Purse(BASE + LONG * TOKEN)
        purse.open.clear()
        meter = purse.meter()
        for used in range(SLICE_TOKENS - LOW_TOKENS, SLICE_TOKENS - UNSEEN_TOKENS):
            await meter.follow(used, 0)  # would not return if it waited
            await settled()
        wanted = BASE + (SLICE_TOKENS - LOW_TOKENS + SLICE_TOKENS) * TOKEN
        assert purse.asked == [(wanted, BASE + LONG * TOKEN)]
        purse.open.set()
        await settled()
        assert meter.held_nanousd == wanted

    run(main())


def test_at_the_edge_the_stream_waits_and_asks_again_for_what_has_flowed_since() -> None:
    async def main() -> None:
        purse = Purse(BASE + LONG * TOKEN)
        purse.open.clear()
        meter = purse.meter()
        await meter.follow(SLICE_TOKENS - LOW_TOKENS, 0)
        await purse.is_asked.wait()
        waiting = asyncio.create_task(meter.follow(500, 0))
        await settled()
        assert not waiting.done()
        purse.open.set()
        await waiting
        assert [hold for hold, _ in purse.asked][1:] == [BASE + (500 + SLICE_TOKENS) * TOKEN]
        assert meter.held_nanousd == purse.asked[-1][0]

    run(main())


def test_a_budget_that_is_spent_caps_the_stream_at_its_edge_and_not_before() -> None:
    async def main() -> None:
        purse = Purse(SLICE)
        meter = purse.meter()
        for used in range(SLICE_TOKENS - UNSEEN_TOKENS):
            await meter.follow(used, 0)
            await settled()
        assert len(purse.asked) > 1  # others may have let go of something meanwhile
        with pytest.raises(Capped) as capped:
            await meter.follow(SLICE_TOKENS - UNSEEN_TOKENS, 0)
        assert capped.value.budget == purse.state()
        purse.limit = BASE + LONG * TOKEN
        await meter.follow(SLICE_TOKENS - UNSEEN_TOKENS, 0)

    run(main())


@pytest.mark.parametrize(
    "failure", [LedgerUnavailable("away"), LedgerRefusal("conflict", "not open")]
)
def test_a_silent_ledger_caps_without_a_budget(failure: Exception) -> None:
    async def main() -> None:
        purse = Purse(LONG)
        purse.failure = failure
        with pytest.raises(Capped) as capped:
            await purse.meter().follow(SLICE_TOKENS, 0)
        assert capped.value.budget is None

    run(main())


def test_nobody_is_asked_where_all_is_held_however_much_is_counted() -> None:
    async def main() -> None:
        purse = Purse(BASE + LONG * TOKEN)
        meter = purse.meter(tokens=45)
        await meter.follow(44, 0)  # what is left of the answer is less than what is kept ahead
        assert meter.held_nanousd == BASE + 45 * TOKEN
        await meter.follow(9, 100_000)
        assert len(purse.asked) == 1

    run(main())


def test_who_is_cancelled_while_it_waits_leaves_nobody_asking() -> None:
    async def main() -> None:
        purse = Purse(LONG)
        purse.open.clear()
        meter = purse.meter()
        waiting = asyncio.create_task(meter.follow(SLICE_TOKENS, 0))
        await purse.is_asked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        meter.close()

    run(main())


def test_closing_gives_up_what_is_asked_for_beside_the_stream() -> None:
    async def main() -> None:
        purse = Purse(LONG)
        purse.open.clear()
        meter = purse.meter()
        await meter.follow(SLICE_TOKENS - LOW_TOKENS, 0)
        await purse.is_asked.wait()
        meter.close()
        await settled()
        assert meter.held_nanousd == SLICE

    run(main())


def test_an_answer_that_cost_more_than_is_held_is_covered_where_that_can_be() -> None:
    async def main() -> None:
        purse = Purse(BASE + LONG * TOKEN)
        meter = purse.meter()
        await meter.cover(SLICE)
        assert purse.asked == []
        await meter.cover(SLICE + 1)
        assert purse.asked == [(SLICE + 1, SLICE + 1)]
        purse.limit = SLICE
        await meter.cover(SLICE + 1)  # refused: an overrun, which the settlement tells
        purse.failure = LedgerUnavailable("away")
        await meter.cover(SLICE + 1)
        assert len(purse.asked) == 3

    run(main())


@given(
    limit=st.integers(SLICE, BASE + 600 * TOKEN),
    tokens=st.integers(SLICE_TOKENS, 500),
    events=st.lists(st.integers(0, 60), max_size=60),
)
def test_what_flows_is_held_and_no_stream_is_capped_while_there_is_money(
    limit: int, tokens: int, events: list[int]
) -> None:
    async def main() -> None:
        purse = Purse(limit)
        meter = purse.meter(tokens=tokens)
        most = BASE + tokens * TOKEN
        output_bytes = 0
        for count, size in enumerate(events, start=1):
            output_bytes += size
            used = counted(count, output_bytes)
            try:
                await meter.follow(count, output_bytes)
            except Capped as capped:
                assert capped.budget is not None
                assert min(most, BASE + (used + SLICE_TOKENS) * TOKEN) > limit
                break
            held = meter.held_nanousd
            assert held == most or held > BASE + (used + UNSEEN_TOKENS) * TOKEN
            assert held <= min(most, limit)
            assert BASE <= meter.most_of(count, output_bytes) <= held
            assert 0 <= meter.unseen(BASE + used * TOKEN) <= UNSEEN_TOKENS * TOKEN
        await settled()

    run(main())
