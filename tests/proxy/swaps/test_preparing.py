"""What a worker does for swaps: in which order, and what it does when something is in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from adapters.base import Unavailable
from adapters.leases import Served
from proxy.ledger.errors import LedgerRefusal, LedgerUnavailable
from proxy.ledger.protocol import MoveSwap
from proxy.model_host.protocol import ModelState, Shown
from proxy.swaps import preparing
from proxy.swaps.checks import Answered
from proxy.swaps.core import Check, Rollback, Swap
from proxy.swaps.moves import Moves
from proxy.swaps.preparing import Preparations
from proxy.targets import Target, TargetTable
from tests.proxy.swaps.test_moves import TABLE, Told, a_swap

NOW = 1_000


def local_table() -> TargetTable:
    """The table, as if every target were a local model, and there were but two virtual ones."""
    targets = {name: replace(target, is_hosted=True) for name, target in TABLE.targets.items()}
    models = {
        name: replace(model, targets=tuple(targets[target.name] for target in model.targets))
        for name, model in TABLE.models.items()
        if name in ("auto", "cheap")
    }
    return TargetTable(
        targets=targets, aliases={}, models=models, wildcards={}, providers=TABLE.providers
    )


class World:
    """A ledger, a model host and a clock that do as a test says, and all that was asked of them."""

    def __init__(self, *swaps: Swap) -> None:
        self.told = Told(*swaps)
        self.events: list[str] = []
        self.refusals: list[Exception] = []
        self.users = [0]
        self.loading: Exception | None = None
        self.answer: Answered | Exception = Answered(text="fine")
        self.memory_mb = 100
        self.now = float(NOW)
        self.happened = asyncio.Event()

    def watch_swaps(self, on_swap: Callable[[Swap], None]) -> None:
        self.on_swap = on_swap
        for swap in self.told.swaps.values():
            on_swap(swap)

    async def call(self, op: MoveSwap) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self._note(f"{op.to}: {op.reason}" if op.reason else op.to)

    async def look(self) -> Shown:
        users = self.users.pop(0) if len(self.users) > 1 else self.users[0]
        states = [a_model(name, users) for name in ("up/old", "up/new")]
        return a_view(states, self.memory_mb)

    async def retire(self, model: str) -> None:
        self._note(f"retire {model}")

    @asynccontextmanager
    async def lease(self, model: str, *, waits: bool) -> AsyncIterator[Served]:
        assert waits
        if self.loading is not None:
            raise self.loading
        self.events.append(f"lease {model}")
        try:
            yield Served("http://there", "key")
        finally:
            self.events.append(f"free {model}")

    async def ask(self, swap: Swap, check: Check, target: Target) -> Answered:
        self.events.append(f"ask {target.name}")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def time(self) -> float:
        return self.now

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.happened.set()


def a_model(name: str, users: int) -> ModelState:
    fields: dict[str, Any] = {
        f.name: f.type()
        for f in msgspec.structs.fields(ModelState)
        if f.required and f.type in (str, int, float, bool)
    }
    return ModelState(
        **{**fields, "name": name, "state": "loaded", "bytes": 50 << 20, "users": users}
    )


def a_view(models: list[ModelState], memory_mb: int) -> Shown:
    fields: dict[str, Any] = {
        f.name: f.type()
        for f in msgspec.structs.fields(Shown)
        if f.required and f.type in (str, int, float, bool)
    }
    return Shown(**{**fields, "memory_bytes": memory_mb << 20, "models": tuple(models)})


def run(world: World, *, until: int = 1, local: bool = True) -> list[str]:
    """What is asked for, until so many things have been told or retired."""
    table = local_table() if local else TABLE

    async def scenario() -> None:
        preparations = Preparations(
            ledger=world,
            moves=Moves(world.told, b"secret"),
            table=lambda: table,
            models=world,
            clock=world,
            ask=world.ask,
        )
        preparations.start()
        async with asyncio.timeout(30):
            for _ in range(until):
                await world.happened.wait()
                world.happened.clear()
        for _ in range(5):
            await asyncio.sleep(0)
        await preparations.aclose()

    asyncio.run(scenario())
    return world.events


def a_plan_of(**fields: Any) -> Swap:
    return a_swap(state="preparing", percent=0, checks=(Check(prompt="x"),), **fields)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "_RETRY_S", 0.0)
    monkeypatch.setattr(preparing, "_LOOK_AGAIN_S", 0.0)


def test_a_local_model_is_loaded_checked_and_held_until_the_shift_has_begun() -> None:
    assert run(World(a_plan_of())) == [
        "lease up/new",
        "free up/new",  # its checks take leases of their own
        "ask up/new",
        "lease up/new",
        "prepared",
        "free up/new",
    ]


def test_a_target_elsewhere_is_only_checked() -> None:
    assert run(World(a_plan_of()), local=False) == ["ask up/new", "prepared"]


def test_what_is_wrong_is_told_and_nothing_is_held() -> None:
    world = World(a_plan_of())
    world.answer = Answered(problem="no \ud800 answer")
    assert run(world)[-1] == ("failed: 0 of 1 checks passed, 1 must: check 1: no \\ud800 answer")
    world = World(a_plan_of())
    world.loading = Unavailable("the file is gone")
    assert run(world) == ["failed: the file is gone"]
    world = World(a_plan_of())
    world.memory_mb = 10
    assert run(world) == ["failed: 'up/new' needs 50 MB, and local models have 10 MB together"]
    world = World(a_plan_of(name="nobody"))
    assert run(world)[0].startswith("failed: there is no virtual model")


def test_our_own_faults_fail_a_swap_too() -> None:
    world = World(a_plan_of())
    world.answer = ZeroDivisionError()
    assert run(world)[-1] == "failed: something went wrong here; the log says what"


def test_a_ledger_that_is_away_is_told_when_it_is_back() -> None:
    world = World(a_plan_of())
    world.refusals = [LedgerUnavailable("away"), LedgerUnavailable("away")]
    assert run(world, local=False)[-1] == "prepared"


def test_a_swap_that_has_ended_meanwhile_is_left_alone() -> None:
    first, second = a_plan_of(), a_plan_of(name="cheap")
    second = msgspec.structs.replace(second, swap_id=2)
    world = World(first, second)
    world.refusals = [LedgerRefusal("conflict", "it is cancelled")]
    assert run(world, local=False).count("prepared") == 1


def test_the_old_model_goes_once_nobody_uses_it() -> None:
    swaps = [a_swap(i, name=n) for i, n in enumerate(("auto", "cheap"), 1)]
    world = World(*swaps)
    world.users = [2, 1, 0]
    assert run(world, until=1)[0] == "retire up/old"
    assert world.users == [0]  # it was looked at until nobody was there


def test_a_model_that_another_name_leads_to_stays() -> None:
    senseless = msgspec.structs.replace(a_plan_of(name="nobody"), swap_id=9)
    events = run(World(a_swap(1, name="auto"), senseless))
    assert not any(event.startswith("retire") for event in events)


def test_a_model_stays_loaded_while_its_swap_may_be_taken_back() -> None:
    rules = Rollback(error_rate=0.1, watch_s=100)
    swaps = [
        msgspec.structs.replace(a_swap(i, name=n, rollback=rules), full_at=NOW)
        for i, n in enumerate(("auto", "cheap"), 1)
    ]
    world = World(*swaps, msgspec.structs.replace(a_plan_of(name="nobody"), swap_id=9))
    assert not any(event.startswith("retire") for event in run(world))
    world = World(*swaps)
    world.now = NOW + 100
    assert run(world)[0] == "retire up/old"


def test_what_was_loaded_for_a_swap_that_failed_goes() -> None:
    world = World()
    table = local_table()

    async def scenario() -> None:
        preparations = Preparations(
            ledger=world,
            moves=Moves(world.told, b"secret"),
            table=lambda: table,
            models=world,
            clock=world,
            ask=world.ask,
        )
        preparations.start()
        world.on_swap(a_swap(state="failed", percent=0))
        async with asyncio.timeout(30):
            await world.happened.wait()
        await preparations.aclose()

    asyncio.run(scenario())
    assert world.events == ["retire up/new"]
