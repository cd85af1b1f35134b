"""Callers who go on coming when the server turns some of them away, in a process of their own.

It takes one order a line on its standard input, as JSON, and answers each with a `Report`.
"""

from __future__ import annotations

import asyncio
import gc
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import cast

import msgspec
import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after:\s*(\d+)", re.IGNORECASE)
_OK, _TURNED_AWAY = b"200", b"503"
_GIVE_UP_S = 30.0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, how often, and what those do who are turned away.

    With `per_s` requests arrive by chance, so many a second, whatever became of others before.
    Without it `callers` ask again and again, each when it has its answer.
    """

    port: int
    request: bytes
    seconds: float
    per_s: float = 0.0
    callers: int = 0
    keeps_connections: bool = True
    """Whether a connection serves for another request, as in clients' pools."""
    heeds_retry_after: bool = False
    """Whether those of `callers` who are turned away wait for as long as they are told."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an order."""

    answered: int
    """Within its seconds; those below are of all."""
    answered_ms: list[float]
    """From wanting to ask, connecting included, to the last byte."""
    refused_ms: list[float]
    others: dict[str, int]
    """How often something else happened."""
    connections: int


class Crowd:
    """Carries out one order."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._stop_at = time.perf_counter() + order.seconds
        self._idle: list[Caller] = []
        self._all: set[Caller] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._asking = 0
        self._connections = 0
        self._answered = 0
        self._answered_ms: list[float] = []
        self._refused_ms: list[float] = []
        self._others: Counter[str] = Counter()

    async def run(self) -> Report:
        """Ask for as long as was ordered, and hear everybody out."""
        if self._order.per_s:
            await self._arrive()
        else:
            for _ in range(self._order.callers):
                self._ask()
            await asyncio.sleep(self._order.seconds)
        async with asyncio.timeout(_GIVE_UP_S):
            while self._asking:
                self._ended.clear()
                await self._ended.wait()
        for caller in self._all:
            caller.close()
        return Report(
            answered=self._answered,
            answered_ms=self._answered_ms,
            refused_ms=self._refused_ms,
            others=dict(self._others),
            connections=self._connections,
        )

    async def _arrive(self) -> None:
        chance = random.Random(7)
        at = time.perf_counter()
        while (at := at + chance.expovariate(self._order.per_s)) < self._stop_at:
            wait_s = at - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self._ask()

    def _ask(self) -> None:
        self._asking += 1
        if self._idle:
            self._idle.pop().ask(time.perf_counter())
            return
        task = self._loop.create_task(self._open(time.perf_counter()))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, began_at: float) -> None:
        self._connections += 1
        try:
            _, caller = await self._loop.create_connection(
                lambda: Caller(self._order.request, self._replied), "127.0.0.1", self._order.port
            )
        except OSError as error:
            self._over(f"no connection: {error}")
            return
        self._all.add(caller)
        caller.ask(began_at)

    def _replied(self, caller: Caller, status: bytes, took_s: float, retry_after_s: float) -> None:
        if status == _OK:
            self._answered_ms.append(took_s * 1e3)
            self._answered += time.perf_counter() < self._stop_at
        elif status == _TURNED_AWAY:
            self._refused_ms.append(took_s * 1e3)
        if self._order.keeps_connections and not caller.is_closed:
            self._idle.append(caller)
        else:
            self._all.discard(caller)
            caller.close()
        self._over("" if status in (_OK, _TURNED_AWAY) else status.decode("latin-1"))
        if self._order.per_s:
            return
        if self._order.heeds_retry_after and status == _TURNED_AWAY:
            self._loop.call_later(retry_after_s, self._ask_again)
        else:
            self._ask_again()

    def _ask_again(self) -> None:
        if time.perf_counter() < self._stop_at:
            self._ask()

    def _over(self, other: str) -> None:
        if other:
            self._others[other] += 1
        self._asking -= 1
        self._ended.set()


class Caller(asyncio.Protocol):
    """One connection, with one request at a time."""

    _transport: asyncio.Transport

    def __init__(
        self, request: bytes, replied: Callable[[Caller, bytes, float, float], None]
    ) -> None:
        """`replied` is told the status, or what happened, the seconds it took and to wait."""
        self._request = request
        self._replied = replied
        self._received = b""
        self._asked_at = 0.0
        self.is_closed = False

    def ask(self, began_at: float) -> None:
        """Send the request."""
        self._asked_at = began_at
        if self.is_closed:
            self._reply(b"closed while idle", 0.0)
        else:
            self._transport.write(self._request)

    def close(self) -> None:
        """Close the connection."""
        self.is_closed = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._reply(f"connection lost: {exc or 'cleanly'}".encode(), 0.0)

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data
        end = received.find(b"\r\n\r\n")
        length = _LENGTH.search(received, 0, end) if end >= 0 else None
        if length is None or len(received) < end + 4 + int(length[1]):
            return
        self._received = b""
        told = _RETRY_AFTER.search(received, 0, end)
        self._reply(received[9:12], float(told[1]) if told else 0.0)

    def _reply(self, status: bytes, retry_after_s: float) -> None:
        asked_at, self._asked_at = self._asked_at, 0.0
        if asked_at:
            self._replied(self, status, time.perf_counter() - asked_at, retry_after_s)


async def _carry_out(order: Order) -> Report:
    return await Crowd(order).run()


def _main() -> None:
    gc.freeze()
    for line in sys.stdin:
        report = uvloop.run(_carry_out(msgspec.json.decode(line, type=Order)))
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
