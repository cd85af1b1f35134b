"""Credentials that age: one fetch at a time, and nobody waits who need not."""

from __future__ import annotations

import asyncio
import threading

import pytest

from adapters.http.renewed import Renewed, State


class Source:
    """Counts its fetches; each waits until it is let go."""

    def __init__(self, state: State = "fresh") -> None:
        self.state: State = state
        self.fetches = 0
        self.goes = threading.Event()
        self.goes.set()
        self.error: Exception | None = None

    def fetch(self) -> int:
        assert threading.current_thread() is not threading.main_thread()
        assert self.goes.wait(10)
        self.fetches += 1
        if self.error is not None:
            raise self.error
        return self.fetches

    def state_of(self, value: int) -> State:
        return self.state

    def renewed(self) -> Renewed[int]:
        return Renewed(self.fetch, self.state_of)


async def settled(renewed: Renewed[int]) -> None:
    """Wait until no fetch is under way."""
    async with asyncio.timeout(10):
        while renewed.is_fetching:  # noqa: ASYNC110 # it tells nobody
            await asyncio.sleep(0)


def test_a_fresh_value_is_fetched_once() -> None:
    source = Source()

    async def play() -> list[int]:
        renewed = source.renewed()
        return [await renewed.get() for _ in range(3)]

    assert asyncio.run(play()) == [1, 1, 1]


def test_all_who_wait_share_one_fetch() -> None:
    source = Source()

    async def play() -> list[int]:
        renewed = source.renewed()
        return await asyncio.gather(*(renewed.get() for _ in range(20)))

    assert asyncio.run(play()) == [1] * 20


def test_an_ageing_value_is_given_out_while_its_successor_is_fetched() -> None:
    source = Source()

    async def play() -> list[int]:
        renewed = source.renewed()
        first = await renewed.get()
        source.state = "ageing"
        source.goes.clear()
        during = [await renewed.get() for _ in range(3)]
        source.state = "fresh"
        source.goes.set()
        await settled(renewed)
        return [first, *during, await renewed.get()]

    assert asyncio.run(play()) == [1, 1, 1, 1, 2]


def test_a_stale_value_is_waited_for() -> None:
    source = Source("stale")

    async def play() -> list[int]:
        renewed = source.renewed()
        return [await renewed.get(), await renewed.get()]

    assert asyncio.run(play()) == [1, 2]


def test_a_failed_renewal_is_silent_while_the_old_value_is_good_and_tried_again() -> None:
    source = Source()

    async def play() -> list[int]:
        renewed = source.renewed()
        await renewed.get()
        source.state, source.error = "ageing", ValueError("no")
        during = await renewed.get()
        await settled(renewed)
        source.state = "stale"
        with pytest.raises(ValueError, match="no"):
            await renewed.get()
        source.error = None
        return [during, await renewed.get()]

    assert asyncio.run(play()) == [1, 4]


def test_who_leaves_while_waiting_does_not_end_the_fetch_of_others() -> None:
    source = Source()
    source.goes.clear()

    async def play() -> int:
        renewed = source.renewed()
        leaving, staying = (asyncio.create_task(renewed.get()) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        source.goes.set()
        return await staying

    assert asyncio.run(play()) == 1
    assert source.fetches == 1
