"""When requests came, by what is sent on real sockets to the protocol itself.

Clients and server share one event loop, so that what happens before what is certain.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from proxy.arrival import Arrival
from proxy.guard.admission import Admission
from proxy.guard.protocol import GuardedProtocol, Patience
from proxy.http import Exchange
from proxy.worker import new_event_loop

PATIENCE = Patience(head_s=600, body_s=600, reader_s=600, keep_alive_s=600)
MOST_BODY_BYTES = 1 << 20
STANDS_STILL_S = 0.2

Answer = Callable[[Exchange], Awaitable[None]]


class Clients:
    """A server that answers by `answer`, and connections to it."""

    def __init__(self, answer: Answer, **admission: Any) -> None:
        self._answer = answer
        self._admission = Admission(**({"most": 9, "queue": 9, "queue_s": 600.0} | admission))
        self._config = uvicorn.Config(
            self._app, interface="asgi3", ws="none", log_config=None, proxy_headers=False
        )
        self._open: list[socket.socket] = []

    async def connect(self) -> socket.socket:
        """A client, once its connection is the server's, too."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._open.append(ours)
        loop = asyncio.get_running_loop()
        make = partial(
            GuardedProtocol, PATIENCE, self._admission, self._config, ServerState(), app_state={}
        )
        await loop.connect_accepted_socket(make, theirs)
        return ours

    def close(self) -> None:
        for client in self._open:
            client.close()

    async def read_by_now(self) -> None:
        """Return when the server has read all that was sent before."""
        another = await self.connect()
        another.send(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n")
        await replied(another)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        exchange = Exchange(scope, receive, send)
        if scope["method"] == "GET":
            await exchange.reply(200, b"<end>")
        else:
            await self._answer(exchange)


def post(body: bytes, *lines: bytes) -> bytes:
    head = [b"POST /v1/x HTTP/1.1", b"host: x", b"content-length: %d" % len(body), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


async def replied(client: socket.socket, count: int = 1) -> None:
    """Read until so many replies have come, each of which ends with its mark."""
    said = b""
    while said.count(b"<end>") < count:
        part = await asyncio.get_running_loop().sock_recv(client, 65536)
        assert part, said
        said += part


def run(answer: Answer, scene: Callable[[Clients], Awaitable[None]], **admission: Any) -> None:
    """Play a scene with clients of a server that answers so."""

    async def within_time() -> None:
        clients = Clients(answer, **admission)
        try:
            await asyncio.wait_for(scene(clients), 60)
        finally:
            clients.close()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(within_time())


async def read(exchange: Exchange) -> Arrival:
    """Read the body; when, and after what wait, it came."""
    await exchange.read_body(MOST_BODY_BYTES)
    return exchange.arrival


def test_a_request_begins_before_its_turn_in_a_busy_process() -> None:
    ran: list[tuple[Arrival, float, float]] = []

    async def answer(exchange: Exchange) -> None:
        began_at = time.perf_counter()
        if not ran:
            time.sleep(STANDS_STILL_S)  # noqa: ASYNC251 - the process stands still
        ran.append((await read(exchange), began_at, time.perf_counter()))
        await exchange.reply(200, b"<end>")

    async def scene(clients: Clients) -> None:
        one, other = await clients.connect(), await clients.connect()
        one.send(post(b"x"))
        other.send(post(b"x"))  # before the loop looks at either
        await replied(one)
        await replied(other)

    run(answer, scene)
    (_, stood_still_at, ended_at), (second, began_at, _) = ran
    assert began_at >= ended_at
    assert second.at < stood_still_at, "it waited for its turn, and that is our time"
    assert second.client_s == 0


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_what_the_client_takes_to_send_is_its_own(pieces: int) -> None:
    arrivals: list[Arrival] = []

    async def answer(exchange: Exchange) -> None:
        arrivals.append(await read(exchange))
        await exchange.reply(200, b"<end>")

    paused_s = 0.0

    async def scene(clients: Clients) -> None:
        nonlocal paused_s
        client = await clients.connect()
        request = post(b"x" * 200, b"x-filler: " + b"y" * 200)
        size = -(-len(request) // pieces)
        for begin in range(0, len(request), size):
            if begin:
                await clients.read_by_now()
                pauses_at = time.perf_counter()
                await asyncio.sleep(STANDS_STILL_S)
                paused_s += time.perf_counter() - pauses_at
            client.send(request[begin : begin + size])
        await replied(client)

    run(answer, scene)
    (arrival,) = arrivals
    assert arrival.client_s >= paused_s
    assert (arrival.client_s > 0) is (pieces > 1)


def test_a_body_that_we_do_not_read_is_not_waited_for() -> None:
    """Nor is a client that waits to be told to go on."""
    told: list[tuple[Arrival, float]] = []

    async def answer(exchange: Exchange) -> None:
        queues_at = time.perf_counter()
        await asyncio.sleep(STANDS_STILL_S)  # a queue of ours
        queued_s = time.perf_counter() - queues_at
        arrival = await read(exchange)
        told.append((arrival, time.perf_counter() - arrival.at - queued_s))
        await exchange.reply(200, b"<end>")

    async def scene(clients: Clients) -> None:
        client = await clients.connect()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, post(b"x" * 900_000))
        await replied(client)
        head, _, body = post(b"x" * 100, b"expect: 100-continue").partition(b"\r\n\r\n")
        client.send(head + b"\r\n\r\n")
        assert (await loop.sock_recv(client, 100)).startswith(b"HTTP/1.1 100 ")
        client.send(body)
        await replied(client)

    run(answer, scene)
    assert len(told) == 2
    for arrival, at_most_s in told:
        assert arrival.client_s <= at_most_s


def test_the_wait_for_room_is_ours_and_that_for_the_reply_before_is_not() -> None:
    arrivals: dict[bytes, Arrival] = {}
    let_go = asyncio.Event()
    has_first = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        body = await exchange.read_body(MOST_BODY_BYTES)
        arrivals[body] = exchange.arrival
        if body == b"first":
            has_first.set()
            await let_go.wait()
        await exchange.reply(200, b"<end>")

    async def scene(clients: Clients) -> None:
        client, waiting = await clients.connect(), await clients.connect()
        client.send(post(b"first") + post(b"second"))
        await has_first.wait()
        waiting.send(post(b"waiting"))
        await clients.read_by_now()
        let_go_at.append(time.perf_counter())
        let_go.set()
        await replied(client, 2)
        await replied(waiting)

    let_go_at: list[float] = []
    run(answer, scene, most=1)
    (moment,) = let_go_at
    assert arrivals[b"waiting"].at < moment <= arrivals[b"second"].at
    assert arrivals[b"first"].at < arrivals[b"waiting"].at
    assert {arrival.client_s for arrival in arrivals.values()} == {0}
