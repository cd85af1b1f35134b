"""The load generator: requests that were made beforehand, and as little reading as is honest.

It runs in a process of its own, so that its CPU time is nobody else's. It takes one order a line
on its standard input, as JSON: opens the connections, warms them up, says `{"ready": true}`, waits
for any line, runs, answers with a `Report`, waits for any line, and closes the connections.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import re
import sys
import time
from collections.abc import Iterator
from typing import Literal, cast

import msgspec
import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_GIVE_UP_S = 20.0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to send, and how; `end` is among the last bytes of a stream that is whole.

    `saturate` keeps every connection busy for `seconds`. `rate` sends `per_s` requests a second,
    arriving by chance as independent callers do, however long the answers take. `hold` begins one
    streamed request on every connection and leaves it open. `others` are sent in turn with the
    request.
    """

    port: int
    request: bytes
    others: list[bytes] = []
    end: bytes
    mode: Literal["saturate", "rate", "hold"]
    connections: int
    seconds: float = 0.0
    per_s: float = 0.0
    warm_s: float = 0.1


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an order. Latencies in ms, only of `rate`; `late_ms` is our own delay."""

    requests: int
    elapsed_s: float
    warm_requests: int = 0
    """Sent before the run, to warm up."""
    first_ms: list[float] = []
    """From sending the request to the answer's first byte of body."""
    total_ms: list[float] = []
    late_ms: list[float] = []


class Run:
    """The connections of one order.

    A phase (warming up, or the run itself) has ended when nothing keeps it open any more: no
    request under way, and not the code that starts them.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._loop = asyncio.get_running_loop()
        self._requests = itertools.cycle([order.request, *order.others])
        self._clients: list[Client] = []
        self._idle: list[Client] = []
        self._opening: set[asyncio.Task[Client]] = set()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._open = 0
        self._stop_at = 0.0
        self._done = 0
        self._first_ms: list[float] = []
        self._total_ms: list[float] = []

    async def connect(self) -> None:
        """Open the connections."""
        for _ in range(self._order.connections):
            self._idle.append(await self._connect())

    async def saturate(self, seconds: float) -> Report:
        """Keep every connection busy."""
        began_at = self._begin()
        self._stop_at = began_at + seconds
        clients, self._idle = self._idle, []
        for client in clients:
            self._send(client)
        await self._end()
        return Report(requests=self._done, elapsed_s=time.perf_counter() - began_at)

    async def rate(self, seconds: float, per_s: float) -> Report:
        """Send requests at times that do not depend on the answers."""
        chance = random.Random(7)
        offsets, at_s = [], 0.0
        while (at_s := at_s + chance.expovariate(per_s)) < seconds:
            offsets.append(at_s)
        began_at = self._begin()
        late_ms = []
        for offset in offsets:
            wait_s = began_at + offset - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            late_ms.append(max(0.0, time.perf_counter() - began_at - offset) * 1e3)
            if self._idle:
                self._send(self._idle.pop())
            else:
                self._open_another()
        await self._end()
        return Report(
            requests=self._done,
            elapsed_s=time.perf_counter() - began_at,
            first_ms=self._first_ms,
            total_ms=self._total_ms,
            late_ms=late_ms,
        )

    async def hold(self) -> Report:
        """Begin a stream on every connection; returns when each has its first byte."""
        began_at = self._begin()
        for client in self._idle:
            self._send(client)
        await self._end()
        return Report(requests=len(self._idle), elapsed_s=time.perf_counter() - began_at)

    def close(self) -> None:
        """Close every connection."""
        for client in self._clients:
            client.close()

    # What clients report.

    def begun(self) -> None:
        """The first byte of an answer is here."""
        if self._order.mode == "hold":
            self._release()

    def done(self, client: Client, first_s: float, total_s: float) -> None:
        """A client has its whole answer."""
        self._done += 1
        if self._stop_at:
            if time.perf_counter() < self._stop_at:
                client.send()
                return
        else:
            self._first_ms.append(first_s * 1e3)
            self._total_ms.append(total_s * 1e3)
        self._idle.append(client)
        self._release()

    def failed(self, reason: str) -> None:
        """Something answered what it should not have: nothing that was measured counts."""
        if not self._ended.done():
            self._ended.set_exception(RuntimeError(reason))

    def _begin(self) -> float:
        self._done, self._stop_at = 0, 0.0
        self._first_ms, self._total_ms = [], []
        self._ended = self._loop.create_future()
        self._open = 1
        return time.perf_counter()

    async def _end(self) -> None:
        self._release()
        async with asyncio.timeout(_GIVE_UP_S):
            await self._ended

    def _release(self) -> None:
        self._open -= 1
        if not self._open and not self._ended.done():
            self._ended.set_result(None)

    def _send(self, client: Client) -> None:
        self._open += 1
        client.send()

    def _open_another(self) -> None:
        self._open += 1
        task = self._loop.create_task(self._connect())
        self._opening.add(task)
        task.add_done_callback(self._send_on_opened)

    def _send_on_opened(self, task: asyncio.Task[Client]) -> None:
        self._opening.discard(task)
        if task.exception() is not None:
            self.failed(f"no connection: {task.exception()}")
        else:
            task.result().send()

    async def _connect(self) -> Client:
        _, client = await self._loop.create_connection(
            lambda: Client(self, self._requests, self._order.end),
            "127.0.0.1",
            self._order.port,
        )
        self._clients.append(client)
        return client


class Client(asyncio.Protocol):
    """One connection that sends one request after the other."""

    __slots__ = (
        "_end",
        "_first_at",
        "_has_head",
        "_left",
        "_requests",
        "_run",
        "_sent_at",
        "_tail",
        "_transport",
    )

    _transport: asyncio.Transport

    def __init__(self, run: Run, requests: Iterator[bytes], end: bytes) -> None:
        self._run = run
        self._requests = requests
        self._end = end
        self._sent_at = self._first_at = 0.0
        self._has_head = False
        self._left = 0
        self._tail = b""

    def send(self) -> None:
        """Send the next request."""
        self._has_head = False
        self._first_at = 0.0
        self._tail = b""
        self._sent_at = time.perf_counter()
        self._transport.write(next(self._requests))

    def close(self) -> None:
        """Close the connection at once."""
        self._sent_at = 0.0
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sent_at:
            self._run.failed(f"a connection was closed: {exc or 'cleanly'}")

    def data_received(self, data: bytes) -> None:
        if not self._has_head:
            data = self._tail + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._tail = data
                return
            if not data.startswith(b"HTTP/1.1 200 "):
                self._run.failed(f"the answer was: {data[:2000].decode('latin-1')}")
                return
            self._has_head = True
            length = _LENGTH.search(data, 0, end)
            self._left = int(length[1]) if length else -1
            # With its last line break, so that the end is found in a body that is only the end.
            self._tail = b"\r\n"
            data = data[end + 4 :]
        if not data:
            return
        if not self._first_at:
            self._first_at = time.perf_counter()
            self._run.begun()
        if self._left >= 0:
            self._left -= len(data)
            is_complete = self._left <= 0
        else:
            self._tail = (self._tail + data)[-64:]
            is_complete = self._tail.endswith(_LAST_CHUNK)
        if is_complete:
            self._complete()

    def _complete(self) -> None:
        if self._left < 0 and self._end not in self._tail:
            self._run.failed(f"a stream ended with {self._tail!r}")
            return
        now = time.perf_counter()
        self._run.done(self, self._first_at - self._sent_at, now - self._sent_at)


async def _carry_out(order: Order) -> None:
    run = Run(order)
    await run.connect()
    warm_requests = (await run.saturate(order.warm_s)).requests if order.warm_s else 0
    _say({"ready": True})
    # Reading blocks the loop: nothing is under way now, and nothing has to be read.
    sys.stdin.readline()
    if order.mode == "saturate":
        report = await run.saturate(order.seconds)
    elif order.mode == "rate":
        report = await run.rate(order.seconds, order.per_s)
    else:
        report = await run.hold()
    _say(msgspec.structs.replace(report, warm_requests=warm_requests))
    sys.stdin.readline()
    run.close()
    await asyncio.sleep(0)


def _say(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def _main() -> None:
    gc.freeze()
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        try:
            uvloop.run(_carry_out(order))
        except (RuntimeError, OSError) as error:
            # TimeoutError is an OSError, and says nothing by itself.
            _say({"error": str(error) or f"no answer within {_GIVE_UP_S:g} s"})


if __name__ == "__main__":
    _main()
