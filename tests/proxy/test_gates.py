"""Requests wait for a place for a moment, in turn, and a place is given back once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.clock import SystemClock
from proxy.config import Adaptive
from proxy.gates import Crowded, Gates, Place
from proxy.targets import Target
from proxy.telemetry import Metrics
from tests.proxy.test_costs import _target

METRICS = Metrics()
TARGET: Target = _target(None)


def _gates(**settings: Any) -> Gates:
    adaptive = Adaptive(**{"first": 2, "most": 2, **settings})
    return Gates({TARGET.provider: adaptive}, METRICS, SystemClock())


def _run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 60))


async def _entered(gates: Gates, caller: str = "a") -> Place:
    place = await gates.enter(TARGET, caller, "normal")
    assert place is not None
    return place


async def _settled() -> None:
    """Everybody who can go on has."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_target_without_a_limit_has_no_gate() -> None:
    async def scene() -> None:
        assert not Gates({}, METRICS, SystemClock()).are_there
        other = replace(TARGET, provider="other")
        assert await _gates().enter(other, "a", "normal") is None

    _run(scene())


def test_one_goes_on_when_another_leaves() -> None:
    async def scene() -> None:
        gates = _gates(queue_s=50)
        first, _ = await _entered(gates), await _entered(gates)
        third, fourth = (asyncio.create_task(_entered(gates)) for _ in range(2))
        await _settled()
        assert not third.done()
        first.leave(0.1)
        first.leave(0.1)  # once is enough
        await third
        await _settled()
        assert not fourth.done()
        third.result().leave()
        await fourth

    _run(scene())


def test_who_waits_too_long_is_turned_away() -> None:
    async def scene() -> None:
        gates = _gates(queue_s=0.02)
        first, second = await _entered(gates), await _entered(gates)
        with pytest.raises(Crowded) as crowded:
            await _entered(gates)
        assert "has as many requests as it takes" in crowded.value.answer.message
        first.leave()
        second.leave()
        await _entered(gates)

    _run(scene())


def test_a_flood_is_turned_away_and_others_are_not() -> None:
    async def scene() -> None:
        gates = _gates(queue=5, queue_s=50)
        first, second = await _entered(gates), await _entered(gates)
        flood = [asyncio.create_task(_entered(gates, "a")) for _ in range(20)]
        await _settled()
        other = asyncio.create_task(_entered(gates, "b"))
        await _settled()
        assert sum(task.done() for task in flood) == 16
        first.leave()
        second.leave()
        await _settled()
        assert other.done()
        for task in flood:
            task.cancel()
        results = await asyncio.gather(*flood, return_exceptions=True)
        kinds = Counter(type(result) for result in results)
        assert kinds == {Crowded: 16, Place: 1, asyncio.CancelledError: 3}

    _run(scene())


def test_other_settings_of_one_provider_leave_the_others_their_limits() -> None:
    other = replace(TARGET, name="other/m", provider="other", metric_name="other/m")
    before, after = Adaptive(first=2, most=2), Adaptive(first=4, most=4)
    shown = METRICS.concurrency_limit.labels(TARGET.metric_name)

    async def scene() -> None:
        gates = Gates({TARGET.provider: before, "other": before}, METRICS, SystemClock())
        places = [await _entered(gates) for _ in range(2)]
        others = [await gates.enter(other, "a", "normal") for _ in range(2)]
        waiting = asyncio.create_task(gates.enter(other, "a", "normal"))
        await _settled()
        gates.follow({TARGET.provider: after, "other": before})
        assert shown.cell[0] == 0
        assert gates.limit_of(TARGET) is None and gates.limit_of(other) == 2
        places += [await _entered(gates) for _ in range(4)]
        late = asyncio.create_task(gates.enter(other, "a", "normal"))
        await _settled()
        assert not waiting.done() and not late.done()
        for place in places[:2]:  # of the gate that is gone
            place.leave(0.1, overloaded=True)
        assert shown.cell[0] == gates.limit_of(TARGET) == 4
        for own in others:
            assert own is not None
            own.leave()
        await waiting
        await late

    _run(scene())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["enter", "leave", "cancel", "step"]), max_size=80), st.integers())
def test_places_are_neither_lost_nor_made(steps: list[str], seed: int) -> None:
    chance = random.Random(seed)

    async def scene() -> None:
        gates = _gates(queue=4, queue_s=50)
        tasks: list[asyncio.Task[Place]] = []
        places: list[Place] = []
        for step in steps:
            if step == "enter":
                tasks.append(asyncio.create_task(_entered(gates, chance.choice("abc"))))
            elif step == "cancel" and tasks:
                chance.choice(tasks).cancel()
            elif step == "leave" and places:
                places.pop().leave(0.1)
            else:
                await asyncio.sleep(0)
            for task in [task for task in tasks if task.done()]:
                tasks.remove(task)
                if not task.cancelled() and task.exception() is None:
                    places.append(task.result())
            assert len(places) <= 2
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Place):
                places.append(result)
        for place in places:
            place.leave()
        # All of it is there again.
        assert len([await _entered(gates) for _ in range(2)]) == 2
        waiting = asyncio.create_task(_entered(gates))
        await _settled()
        assert not waiting.done()
        waiting.cancel()

    _run(scene())
