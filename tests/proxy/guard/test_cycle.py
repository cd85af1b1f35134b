"""What a client gets of a reply, and who hears that it has left, on real sockets."""

from __future__ import annotations

import asyncio
import logging
import tracemalloc
from typing import Any

import pytest

from proxy.http import ClientGone, Exchange
from tests.proxy.guard.test_arrivals import Clients, post, read, replied, run


async def whole_reply(clients: Clients) -> bytes:
    """All that a client gets until its connection is closed."""
    said = b""
    client = await clients.connect()
    client.send(post(b"x"))
    while part := await asyncio.get_running_loop().sock_recv(client, 65536):
        said += part
    return said


def test_who_watches_hears_once_that_the_client_left() -> None:
    told: list[str] = []
    left = asyncio.Event()

    def gone() -> None:
        told.append("gone")
        left.set()

    async def answer(exchange: Exchange) -> None:
        await read(exchange)
        exchange.watch(lambda: told.append("before"))
        exchange.watch(gone)
        await exchange.start(200, b"text/plain", [])
        await exchange.write(b"<end>")
        await left.wait()
        assert exchange.is_gone
        exchange.unwatch()
        exchange.watch(lambda: told.append("late"))  # it has left already

    async def scene(clients: Clients) -> None:
        client = await clients.connect()
        client.send(post(b"x"))
        await replied(client)
        client.close()
        await asyncio.wait_for(left.wait(), 30)
        await clients.read_by_now()

    run(answer, scene)
    assert told == ["gone", "late"]


@pytest.mark.parametrize("ends", ["unwatched", "ended"])
def test_who_has_its_reply_may_leave(ends: str) -> None:
    told: list[str] = []

    async def answer(exchange: Exchange) -> None:
        await read(exchange)
        exchange.watch(lambda: told.append("gone"))
        await exchange.reply(200, b"<end>")
        if ends == "unwatched":
            exchange.unwatch()

    async def scene(clients: Clients) -> None:
        client = await clients.connect()
        client.send(post(b"x"))
        await replied(client)
        client.close()
        await clients.read_by_now()

    run(answer, scene)
    assert told == []


def test_a_client_that_leaves_with_its_body_is_nobodys_to_answer() -> None:
    raised: list[Exception] = []
    done = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        try:
            await read(exchange)
        except ClientGone as error:
            raised.append(error)
            done.set()
            return
        raise AssertionError

    async def scene(clients: Clients) -> None:
        client = await clients.connect()
        client.send(post(b"x" * 100)[:-1])
        await clients.read_by_now()
        client.close()
        await asyncio.wait_for(done.wait(), 30)

    run(answer, scene)
    assert len(raised) == 1


@pytest.mark.parametrize("begun", [False, True])
def test_what_the_application_leaves_open_ends(
    begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    said = b""

    async def answer(exchange: Exchange) -> None:
        await read(exchange)
        if begun:
            await exchange.start(200, b"text/plain", [])

    async def scene(clients: Clients) -> None:
        nonlocal said
        said = await whole_reply(clients)

    with caplog.at_level(logging.ERROR, "tollway"):
        run(answer, scene)
    assert said.startswith(b"HTTP/1.1 200 " if begun else b"HTTP/1.1 500 ")
    assert said.endswith(b"\r\n\r\n" if begun else b"Internal Server Error")
    assert "left its reply open" in caplog.text


def test_a_line_break_in_a_header_is_no_reply() -> None:
    said = b""

    async def answer(exchange: Exchange) -> None:
        await read(exchange)
        headers: Any = [(b"x-one", b"1\r\nx-two: 2")]
        await exchange.reply(200, b"<end>", headers)

    async def scene(clients: Clients) -> None:
        nonlocal said
        said = await whole_reply(clients)

    run(answer, scene)
    assert b"x-two" not in said


def test_a_body_in_small_pieces_takes_little_more_than_its_size() -> None:
    async def scene(clients: Clients) -> None:
        busy = await clients.connect()
        busy.send(post(b"x"))
        await clients.read_by_now()
        waiting = await clients.connect()
        waiting.send(
            post(b"", b"transfer-encoding: chunked").replace(b"content-length: 0\r\n", b"")
        )
        await clients.read_by_now()
        tracemalloc.start()
        try:
            for _ in range(20):
                waiting.send(b"2\r\nab\r\n" * 1_000)
                await clients.read_by_now()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 300_000
        release.set()
        await replied(busy)

    release = asyncio.Event()

    async def answer(exchange: Exchange) -> None:
        await read(exchange)
        await release.wait()
        await exchange.reply(200, b"<end>")

    run(answer, scene, most=1)
