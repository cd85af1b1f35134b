from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.ledger.audit import audit
from proxy.ledger.client import LedgerClient, Patience
from proxy.ledger.errors import BudgetRefused, LedgerRefusal, LedgerUnavailable
from proxy.ledger.folder import address_file
from proxy.ledger.protocol import (
    MAX_AMOUNT_NANOUSD,
    MAX_COUNT,
    Attempt,
    Budgets,
    CreateBudget,
    CreateKey,
    KeyChanged,
    KeySettings,
    ListBudgets,
    MoveSwap,
    OpenSwap,
    Reserved,
    Settlement,
    SwapChanged,
    UpdateKey,
    Usage,
)
from proxy.ledger.reports import AttemptRow, attempts
from proxy.swaps.core import Plan
from tests.proxy.ledger.making import a_budget, a_settlement, an_attempt
from tests.proxy.ledger.process import LedgerProcess
from tests.proxy.ledger.relay import Relay
from tests.waiting import until


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[LedgerProcess]:
    with LedgerProcess(tmp_path / "data", tick_s=0.05) as process:
        yield process
        assert audit(process.file) == []


def run(main: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await main

    asyncio.run(limited())


@contextlib.asynccontextmanager
async def connected(ledger: LedgerProcess, **patience: float) -> AsyncIterator[LedgerClient]:
    client = LedgerClient(ledger.data_dir, name="test", patience=Patience(**patience))
    await client.connect()
    try:
        yield client
    finally:
        await client.aclose()


def attempt_of(client: LedgerClient, hold: int = 100, **fields: Any) -> Attempt:
    fields.setdefault("deadline", int(time.time()) + 600)
    return an_attempt(client.new_attempt_id(), hold, **fields)


async def budget_of(client: LedgerClient, limit: int) -> None:
    await client.call(CreateBudget(0, "global", a_budget(limit, "lifetime")))


async def money(client: LedgerClient) -> tuple[int, int]:
    """(spent, held) of the one budget there is, however long the ledger is away."""
    while True:
        with contextlib.suppress(LedgerUnavailable):
            listed = await client.call(ListBudgets(0))
            assert isinstance(listed, Budgets)
            (state,) = listed.budgets
            return state.spent_nanousd, state.held_nanousd
        await asyncio.sleep(0.01)


async def soon(is_true: Callable[[], bool]) -> None:
    await asyncio.to_thread(until, is_true)


async def is_sent() -> None:
    """Wait until what tasks have just begun to ask for has left."""
    for _ in range(3):
        await asyncio.sleep(0)


def rows(ledger: LedgerProcess) -> list[AttemptRow]:
    return attempts(ledger.file, 100)


def outcomes(ledger: LedgerProcess) -> list[tuple[str, int, int]]:
    return sorted((row.outcome, row.cost_nanousd, row.held_nanousd) for row in rows(ledger))


# --- the ordinary course -----------------------------------------------------------------------


def test_holds_are_awaited_and_settlements_are_not(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger) as client:
            await budget_of(client, 1_000)
            attempt = attempt_of(client)
            reserved = await client.reserve(attempt)
            assert reserved.remaining_nanousd == 900
            client.settle(a_settlement(attempt.attempt, 60))
            await client.drained()
            assert await money(client) == (60, 0)

    run(main())


def test_attempt_numbers_are_the_sessions_own_and_ascend(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger) as one, connected(ledger) as two:
            numbers = [one.new_attempt_id(), one.new_attempt_id(), two.new_attempt_id()]
            assert numbers == [one.session << 32 | 1, one.session << 32 | 2, two.session << 32 | 1]
            assert one.session != two.session

    run(main())


def test_a_refusal_says_by_which_budget_and_in_what_state(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger) as client:
            await budget_of(client, 50)
            with pytest.raises(BudgetRefused, match="'global'") as caught:
                await client.reserve(attempt_of(client, 51))
            refused = caught.value.refused
            assert refused.budget is not None
            assert (refused.reason, refused.held, refused.budget.settings.limit_nanousd) == (
                "budget",
                False,
                50,
            )

    run(main())


def test_a_fallback_is_settled_and_held_in_one_step(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger) as client:
            await budget_of(client, 100)
            first, second = attempt_of(client, 100), attempt_of(client, 90)
            await client.reserve(first)
            await client.reserve(second, settles=a_settlement(first.attempt, 10))
            assert await money(client) == (10, 90)
            client.settle(a_settlement(second.attempt, 20))
            await client.drained()

    run(main())


def test_a_hundred_reserves_of_one_turn_leave_and_return_together(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger) as client:
            made = [attempt_of(client) for _ in range(100)]
            replies = await asyncio.gather(*map(client.reserve, made))
            assert all(isinstance(reply, Reserved) for reply in replies)
            for attempt in made:
                client.settle(a_settlement(attempt.attempt, 1))
            await client.drained()
            assert outcomes(ledger) == [("ok", 1, 0)] * 100

    run(main())


# --- keys and operators ------------------------------------------------------------------------


def test_keys_are_known_on_connecting_and_kept_up_to_date(ledger: LedgerProcess) -> None:
    async def main() -> None:
        seen: list[int] = []
        async with connected(ledger) as operator:
            await operator.call(CreateKey(0, b"one", "sk-1", KeySettings(name="first")))
            worker = LedgerClient(
                ledger.data_dir, name="worker", on_keys=lambda keys: seen.append(len(keys))
            )
            await worker.connect()
            assert set(worker.keys) == {b"one"}
            made = await operator.call(CreateKey(0, b"two", "sk-2", KeySettings(name="second")))
            assert isinstance(made, KeyChanged)
            assert operator.keys[b"two"] == made.key
            await soon(lambda: b"two" in worker.keys)
            await operator.call(UpdateKey(0, made.key.key_id, revoked=True))
            await soon(lambda: worker.keys[b"two"].revoked_at is not None)
            assert seen == [1, 2, 2]
            await worker.aclose()

    run(main())


def test_conversations_of_a_swap_that_has_just_ended_are_not_kept(ledger: LedgerProcess) -> None:
    plan = Plan(name="auto", source="a/old", target="a/new", keeps_conversations=True)

    async def scenario() -> None:
        async with connected(ledger) as one, connected(ledger) as other:
            opened = await one.call(OpenSwap(0, plan))
            assert isinstance(opened, SwapChanged)
            number = opened.swap.swap_id
            await soon(lambda: number in other.swaps)
            one.begin_conversation(number, 1)
            await soon(lambda: other.began_moved(number, 1))
            one.begin_conversation(number, 2)
            await one.call(MoveSwap(0, number, "cancelled", "enough"))
            await soon(lambda: number not in other.swaps)
            await other.call(ListBudgets(0))
            assert not any(c.began_moved(number, n) for c in (one, other) for n in (1, 2))

    run(scenario())


def test_a_refused_op_says_why(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger) as client:
            with pytest.raises(LedgerRefusal, match="no key 'k_x'") as caught:
                await client.call(UpdateKey(0, "k_x"))
            assert caught.value.code == "not_found"

    run(main())


# --- callers who leave -------------------------------------------------------------------------


def test_a_cancelled_reserve_leaves_nothing_held(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger) as client:
            await budget_of(client, 100)
            first = attempt_of(client, 100)
            await client.reserve(first)
            waiting = asyncio.create_task(client.reserve(attempt_of(client, 60)))
            await asyncio.sleep(0)
            assert await money(client) == (0, 100)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            client.settle(a_settlement(first.attempt, 10))  # now it is admitted, for nobody
            await client.drained()
            assert await money(client) == (10, 0)
            assert outcomes(ledger) == [("not_dispatched", 0, 0), ("ok", 10, 0)]

    run(main())


def test_a_reserve_cancelled_in_the_turn_it_was_made_leaves_nothing_held(
    ledger: LedgerProcess,
) -> None:
    async def main() -> None:
        async with connected(ledger) as client:
            await budget_of(client, 100)
            for turns in range(6):
                task = asyncio.create_task(client.reserve(attempt_of(client)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    reserved = await task
                    raise AssertionError(f"it was answered already: {reserved}")
            await client.drained()
            assert await money(client) == (0, 0)

    run(main())


def test_a_reserve_cancelled_when_its_answer_has_just_arrived_leaves_nothing_held(
    ledger: LedgerProcess,
) -> None:
    async def main() -> None:
        tasks: list[asyncio.Task[Reserved]] = []

        def cancel(_: object) -> None:
            for task in tasks:
                task.cancel()

        client = LedgerClient(ledger.data_dir, name="test", on_keys=cancel)
        await client.connect()
        await budget_of(client, 100)
        # One frame brings the answer and then the new key, whose callback comes before the task.
        tasks.append(asyncio.create_task(client.reserve(attempt_of(client))))
        calling = asyncio.create_task(
            client.call(CreateKey(0, b"digest", "sk-…", KeySettings(name="ci")))
        )
        await calling
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        await client.drained()
        assert outcomes(ledger) == [("not_dispatched", 0, 0)]
        await client.aclose()

    run(main())


@pytest.mark.parametrize("when", ["before the cut", "after the cut"])
def test_a_hold_whose_answer_was_lost_is_not_left_behind(
    ledger: LedgerProcess, tmp_path: Path, when: str
) -> None:
    async def main() -> None:
        async with Relay(tmp_path / "relayed", ledger.data_dir) as relay:
            client = LedgerClient(relay.data_dir, name="test", patience=Patience(first_retry_s=0.3))
            await client.connect()
            await budget_of(client, 100)
            relay.is_deaf = True
            asking = asyncio.create_task(client.reserve(attempt_of(client)))
            await soon(lambda: outcomes(ledger) == [("open", 0, 100)])
            if when == "before the cut":
                asking.cancel()
                await asyncio.wait([asking])
            relay.cut()
            relay.is_deaf = False
            await soon(lambda: not client.is_connected)
            asking.cancel()
            await asyncio.wait([asking])
            await soon(lambda: outcomes(ledger) == [("orphan", 10, 90)])
            await client.drained()
            assert outcomes(ledger) == [("not_dispatched", 0, 0)]
            assert await money(client) == (0, 0)
            await client.aclose()

    run(main())


@pytest.mark.parametrize(("reserve_s", "within_s"), [(0.1, math.inf), (600, 0.1), (600, -1)])
def test_a_reserve_that_is_not_answered_in_time_leaves_nothing_held(
    ledger: LedgerProcess, reserve_s: float, within_s: float
) -> None:
    async def main() -> None:
        async with connected(ledger, reserve_s=reserve_s) as client:
            await budget_of(client, 100)
            first, second = attempt_of(client), attempt_of(client)
            await client.reserve(first)
            settles = a_settlement(first.attempt, 7)
            with ledger.frozen(), pytest.raises(LedgerUnavailable, match="in time"):
                await client.reserve(second, settles, within_s=within_s)
            await client.drained()
            assert await money(client) == (7, 0)

    run(main())


def test_each_reserve_has_a_patience_of_its_own(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger, reserve_s=600) as client:
            made = [attempt_of(client) for _ in range(4)]
            ended: list[float] = []

            async def asked(attempt: Attempt, within_s: float) -> None:
                with pytest.raises(LedgerUnavailable, match="in time"):
                    await client.reserve(attempt, within_s=within_s)
                ended.append(within_s)

            with ledger.frozen():
                patient = asyncio.create_task(client.reserve(made[0]))
                await asyncio.gather(*map(asked, made[1:], (0.4, 0.1, 0.2)))
                assert ended == [0.1, 0.2, 0.4]
                assert not patient.done()
            await patient

    run(main())


def test_a_reserve_after_the_end_is_told_that_nobody_answers(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger, offline_s=0.1) as client:
            with ledger.frozen():
                waiting = asyncio.create_task(client.reserve(attempt_of(client)))
                await is_sent()
                late = attempt_of(client)
                await client.aclose()
            with pytest.raises(LedgerUnavailable, match="closed"):
                await waiting
            with pytest.raises(LedgerUnavailable, match="does not answer"):
                await client.reserve(late)

    run(main())


# --- a ledger that goes away -------------------------------------------------------------------


def test_settlements_survive_a_killed_ledger(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger) as client:
            await budget_of(client, 1_000)
            session = client.session
            made = [attempt_of(client) for _ in range(4)]
            await asyncio.gather(*map(client.reserve, made))
            client.settle(a_settlement(made[0].attempt, 10))
            with ledger.frozen():
                client.settle(a_settlement(made[1].attempt, 20))  # sent, never read
                await is_sent()
                ledger.kill()
            client.settle(a_settlement(made[2].attempt, 30))  # not sent
            await soon(lambda: not client.is_connected)
            assert not client.is_connected
            client.settle(a_settlement(made[3].attempt, 40))
            await asyncio.to_thread(ledger.start)
            await client.drained()
            assert client.session == session
            assert outcomes(ledger) == [("ok", cost, 0) for cost in (10, 20, 30, 40)]
            assert await money(client) == (100, 0)

    run(main())


def test_a_reserve_in_flight_survives_a_killed_ledger(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger, offline_s=10.0) as client:
            await budget_of(client, 1_000)
            first, second = attempt_of(client), attempt_of(client)
            await client.reserve(first)
            with ledger.frozen():
                waiting = asyncio.create_task(
                    client.reserve(second, settles=a_settlement(first.attempt, 5))
                )
                await is_sent()
                ledger.kill()
            await asyncio.to_thread(ledger.start)
            reserved = await waiting
            assert reserved.remaining_nanousd == 1_000 - 5 - 100
            assert await money(client) == (5, 100)
            client.settle(a_settlement(second.attempt, 6))
            await client.drained()

    run(main())


def test_a_reserve_whose_answer_outlived_its_ledger_is_held_once(
    ledger: LedgerProcess,
) -> None:
    async def main() -> None:
        async with connected(ledger, offline_s=10.0) as client:
            await budget_of(client, 1_000)
            attempt = attempt_of(client)
            waiting = asyncio.create_task(client.reserve(attempt))
            await is_sent()
            # This loop reads nothing now, so the answer stays in the socket.
            until(lambda: len(rows(ledger)) == 1)
            ledger.kill()
            ledger.start()
            await waiting
            assert await money(client) == (0, 100)
            client.settle(a_settlement(attempt.attempt, 6))
            await client.drained()

    run(main())


def test_reserves_fail_soon_while_the_ledger_is_away_and_leave_nothing_held(
    ledger: LedgerProcess,
) -> None:
    async def main() -> None:
        async with connected(ledger, offline_s=0.2) as client:
            await budget_of(client, 1_000)
            first, second, third = (attempt_of(client) for _ in range(3))
            await client.reserve(first)
            in_flight = asyncio.create_task(client.reserve(second))
            await is_sent()
            until(lambda: len(rows(ledger)) == 2)  # committed, and the answer unread
            with ledger.frozen():
                ledger.kill()
            await soon(lambda: not client.is_connected)
            before = time.monotonic()
            with pytest.raises(LedgerUnavailable, match="does not answer"):
                await client.reserve(third, settles=a_settlement(first.attempt, 9))
            assert 0.15 < time.monotonic() - before < 2.0
            with contextlib.suppress(LedgerUnavailable):
                await in_flight
                client.settle(a_settlement(second.attempt, 0))
            await asyncio.to_thread(ledger.start)
            await client.drained()
            assert await money(client) == (9, 0)
            with pytest.raises(LedgerUnavailable):
                async with asyncio.timeout(5):
                    await LedgerClient(
                        ledger.data_dir / "nowhere", name="x", patience=Patience(call_s=0.1)
                    ).connect()

    run(main())


def test_calls_fail_at_once_while_the_ledger_is_away(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger) as client:
            with ledger.frozen():
                waiting = asyncio.create_task(client.call(ListBudgets(0)))
                await is_sent()
                ledger.kill()
            with pytest.raises(LedgerUnavailable, match="went away"):
                await waiting
            with pytest.raises(LedgerUnavailable, match="does not answer"):
                await client.call(ListBudgets(0))
            ledger.start()

    run(main())


def test_a_worker_of_a_ledger_that_was_replaced_gets_a_new_session(tmp_path: Path) -> None:
    async def main() -> None:
        with LedgerProcess(tmp_path / "one") as one, LedgerProcess(tmp_path / "two") as two:
            async with connected(two):
                pass
            async with connected(two) as client:
                assert client.session == 2
                old = attempt_of(client)
                await client.reserve(old)
                two.kill()
                two.file.unlink()
                two.file.with_name("ledger.db-wal").unlink()
                two.file.with_name("ledger.db-shm").unlink()
                await asyncio.to_thread(two.start)
                await soon(lambda: client.session == 1)
                client.settle(a_settlement(old.attempt, 5))
                fresh = attempt_of(client)
                assert fresh.attempt == 1 << 32 | 1
                await client.reserve(fresh)
                client.settle(a_settlement(fresh.attempt, 5))
                await client.drained()
                assert outcomes(two) == [("ok", 5, 0)]
            assert rows(one) == []

    run(main())


def test_a_full_disk_delays_settlements_and_loses_none(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger, resend_s=0.05) as client:
            await budget_of(client, 1_000)
            attempt = attempt_of(client)
            await client.reserve(attempt)
            stranger = sqlite3.connect(ledger.file, isolation_level=None)
            stranger.execute("BEGIN EXCLUSIVE")
            client.settle(a_settlement(attempt.attempt, 10))
            with pytest.raises(LedgerUnavailable, match="could not write"):
                await client.reserve(attempt_of(client))
            stranger.execute("COMMIT")
            stranger.close()
            await client.drained()
            assert await money(client) == (10, 0)

    run(main())


def test_heartbeats_say_what_an_orphan_has_cost(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger, progress_s=0.0) as client:
            first, second = attempt_of(client, floor=5), attempt_of(client, floor=5)
            await client.reserve(first)
            await client.reserve(second)
            client.set_floor(first.attempt, 40)
            client.set_floor(first.attempt, 50)
            client.set_floor(12_345, 99)
            await client.call(ListBudgets(0))
            await client.call(ListBudgets(0))  # sent after the heartbeat
        await soon(lambda: outcomes(ledger) == [("orphan", 5, 95), ("orphan", 50, 50)])

    run(main())


def test_heartbeats_are_repeated_to_a_new_ledger(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger, progress_s=0.0) as client:
            attempt = attempt_of(client, floor=5)
            await client.reserve(attempt)
            client.set_floor(attempt.attempt, 50)
            await client.call(ListBudgets(0))
            await client.call(ListBudgets(0))  # sent after the heartbeat
            ledger.kill()
            await asyncio.to_thread(ledger.start)
            await soon(lambda: client.is_connected)
            await client.call(ListBudgets(0))
        await soon(lambda: outcomes(ledger) == [("orphan", 50, 50)])

    run(main())


# --- absurd numbers ----------------------------------------------------------------------------


def test_an_absurd_settlement_still_reaches_the_ledger(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger) as client:
            attempt = attempt_of(client)
            await client.reserve(attempt)
            client.settle(
                Settlement(
                    attempt=attempt.attempt,
                    outcome="ok",
                    cost_nanousd=10**40,
                    usage=Usage(input=-5, output=10**40),
                    estimated=False,
                    status=-1,
                    first_token_us=-3,
                    total_us=2**70,
                    error="\ud800" + "x" * 10_000,
                )
            )
            await client.drained()
            (row,) = rows(ledger)
            assert (row.cost_nanousd, row.input_tokens) == (MAX_AMOUNT_NANOUSD, 0)
            assert (row.output_tokens, row.total_us, row.first_token_us) == (
                MAX_COUNT,
                MAX_COUNT,
                0,
            )
            assert row.error.startswith("\\ud800xxx")
            assert len(row.error) < 1_100

    run(main())


def test_an_absurd_hold_is_refused_by_every_hard_budget(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger) as client:
            await budget_of(client, 10**16)
            with pytest.raises(BudgetRefused):
                await client.reserve(attempt_of(client, 10**40))

    run(main())


def test_a_reserve_that_cannot_be_sent_is_a_value_error_and_still_settles(
    ledger: LedgerProcess,
) -> None:
    async def main() -> None:
        async with connected(ledger) as client:
            first = attempt_of(client)
            await client.reserve(first)
            with pytest.raises(ValueError, match="surrogates"):
                await client.reserve(
                    attempt_of(client, request_id="\ud800"), settles=a_settlement(first.attempt, 3)
                )
            await client.drained()
            assert outcomes(ledger) == [("ok", 3, 0)]

    run(main())


# --- the end -----------------------------------------------------------------------------------


def test_closing_sends_what_was_settled_last(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger) as client:
            attempt = attempt_of(client)
            await client.reserve(attempt)
            client.settle(a_settlement(attempt.attempt, 3))
        await soon(lambda: outcomes(ledger) == [("ok", 3, 0)])

    run(main())


def test_closing_fails_what_is_pending(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger) as client:
            await budget_of(client, 100)
            await client.reserve(attempt_of(client, 100))
            waiting = asyncio.create_task(client.reserve(attempt_of(client, 100)))
            calling = asyncio.create_task(client.call(ListBudgets(0)))
            draining = asyncio.create_task(client.drained())
            await asyncio.sleep(0)
        with pytest.raises(LedgerUnavailable, match="closed"):
            await waiting
        with contextlib.suppress(LedgerUnavailable):
            await calling
        await draining

    run(main())


def test_numbers_are_not_given_out_before_the_first_connection(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable):
        LedgerClient(tmp_path, name="test").new_attempt_id()


def test_an_address_that_nobody_listens_at_is_unavailable(tmp_path: Path) -> None:
    async def main() -> None:
        address_file(tmp_path).write_text("ledger.sock")
        client = LedgerClient(tmp_path, name="test", patience=Patience(call_s=0.1))
        with pytest.raises(LedgerUnavailable, match=str(tmp_path)):
            await client.connect()

    run(main())


def test_a_stopped_ledger_is_reconnected_to_by_itself(ledger: LedgerProcess) -> None:
    async def main() -> None:
        async with connected(ledger) as client:
            ledger.send_signal(signal.SIGTERM)
            await asyncio.to_thread(ledger.process.wait, 10)
            await soon(lambda: not client.is_connected)
            await asyncio.to_thread(ledger.restart)
            await soon(lambda: client.is_connected)
            await client.reserve(attempt_of(client))

    run(main())
