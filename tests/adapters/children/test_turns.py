"""What a model's thread gives reaches whoever waits for it: all of it, in order, and in time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from adapters.children.turns import ModelThread

PATIENCE_S = 20.0


def run(play: Callable[[ModelThread], Awaitable[Any]]) -> Any:
    async def within() -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return await play(ModelThread())

    return asyncio.run(within())


async def read(thread: ModelThread, work: Callable[[], Iterator[bytes]]) -> list[bytes]:
    async with thread.run(work) as pieces:
        return [piece async for piece in pieces]


def test_pieces_that_come_fast_are_handed_on_together() -> None:
    words = [b"%d," % number for number in range(10_000)]
    read_ = run(lambda thread: read(thread, lambda: iter(words)))
    assert b"".join(read_) == b"".join(words)
    assert len(read_) < 1000


def test_no_piece_waits_for_another() -> None:
    was_read = threading.Semaphore(0)

    def work() -> Iterator[bytes]:
        for number in range(50):
            yield b"%d" % number
            assert was_read.acquire(timeout=PATIENCE_S)

    async def play(thread: ModelThread) -> list[bytes]:
        read_ = []
        async with thread.run(work) as pieces:
            async for piece in pieces:
                read_.append(piece)
                was_read.release()
        return read_

    assert run(play) == [b"%d" % number for number in range(50)]


def test_what_came_before_an_error_is_handed_on() -> None:
    def work() -> Iterator[bytes]:
        yield b"a"
        yield b"b"
        raise ValueError("broken")

    read_: list[bytes] = []

    async def play(thread: ModelThread) -> None:
        async with thread.run(work) as pieces:
            async for piece in pieces:
                read_.append(piece)

    with pytest.raises(ValueError, match="broken"):
        run(play)
    assert b"".join(read_) == b"ab"


def test_an_abandoned_turn_makes_room_for_the_next() -> None:
    is_abandoned = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"."
        finally:
            is_abandoned.set()

    async def play(thread: ModelThread) -> list[bytes]:
        async with thread.run(endless) as pieces:
            assert (await anext(pieces)).startswith(b".")
        return await read(thread, lambda: iter([b"next"]))

    assert run(play) == [b"next"]
    assert is_abandoned.is_set()
