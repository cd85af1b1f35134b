"""Large bodies are worked at one after the other, and small ones at once."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections import Counter
from typing import Any

import pytest

from proxy.http import Exchange, Message
from proxy.turns import LARGE_BYTES, Turns

_PIECE = b"x" * (LARGE_BYTES // 4)


class Loop:
    """Counts the turns of the event loop."""

    def __init__(self) -> None:
        self.turn = 0
        self._loop = asyncio.get_running_loop()
        self._next()

    def _next(self) -> None:
        self.turn += 1
        self._handle = self._loop.call_soon(self._next)

    def close(self) -> None:
        self._handle.cancel()


async def _nothing(message: Message) -> None:
    return


def _exchange(pieces: int, turns: Turns | None) -> Exchange:
    left = pieces

    async def receive() -> Message:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": _PIECE, "more_body": left > 0}

    scope: dict[str, Any] = {"type": "http", "method": "POST", "headers": []}
    exchange = Exchange(scope, receive, _nothing)
    exchange.turns = turns
    return exchange


def test_no_two_large_steps_are_in_one_turn_of_the_loop() -> None:
    steps: Counter[int] = Counter()

    async def read(loop: Loop, turns: Turns) -> None:
        exchange = _exchange(5, turns)
        assert len(await exchange.read_body(1 << 30)) == 5 * len(_PIECE)
        for _ in range(3):
            steps[loop.turn] += 1  # a large step, from here to the next `await`
            await exchange.turn()

    async def run() -> None:
        loop, turns = Loop(), Turns()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(read(loop, turns))
        loop.close()

    asyncio.run(run())
    assert steps.total() == 8 * 3
    assert set(steps.values()) == {1}


def test_who_is_cancelled_while_it_waits_holds_up_nobody() -> None:
    async def run() -> None:
        turns = Turns()
        waiting = [asyncio.create_task(turns.next()) for _ in range(5)]
        await asyncio.sleep(0)
        for task in waiting[:-1]:
            task.cancel()
        async with asyncio.timeout(30):
            await waiting[-1]

    asyncio.run(run())


@pytest.mark.parametrize(("pieces", "is_large"), [(1, False), (3, False), (4, True), (9, True)])
@pytest.mark.parametrize("turns", [None, "some"])
def test_a_body_is_whole_however_it_is_read(pieces: int, is_large: bool, turns: str | None) -> None:
    exchange = _exchange(pieces, None if turns is None else Turns())
    assert asyncio.run(exchange.read_body(1 << 30)) == _PIECE * pieces
    assert exchange.is_large is is_large


def test_others_go_on_while_a_compressed_body_is_inflated() -> None:
    sent = gzip.compress(os.urandom(LARGE_BYTES))

    async def receive() -> Message:
        return {"type": "http.request", "body": sent, "more_body": False}

    async def run() -> int:
        headers = [(b"content-encoding", b"gzip")]
        exchange = Exchange(
            {"type": "http", "method": "POST", "headers": headers}, receive, _nothing
        )
        loop = Loop()
        before = loop.turn
        assert len(await exchange.read_body(1 << 30)) == LARGE_BYTES
        assert exchange.is_large
        loop.close()
        return loop.turn - before

    assert asyncio.run(run()) > 0
