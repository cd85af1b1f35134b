"""Which connection a request goes over, and what ends one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.base import (
    AdapterError,
    ConnectFailed,
    ConnectionLost,
    Deadlines,
    MalformedAnswer,
)
from adapters.http.http1 import Http1Transport
from adapters.http.http_rules import Origin
from tests.adapters.http.clients import (
    BODY,
    CHUNKED,
    HTTP1,
    HTTPX,
    LENGTH,
    LIMIT,
    PATIENT,
    UNTIL_CLOSE,
    Client,
    answering,
    ask,
)
from tests.adapters.servers import (
    Peer,
    ScriptedServer,
    let_loop_turn,
    serving_parts,
)


def test_a_connection_is_used_again(client: Client) -> None:
    with ScriptedServer(answering(LENGTH, CHUNKED, LENGTH, CHUNKED)) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                for _ in range(4):
                    assert await ask(transport) == BODY

        client.run(scenario())
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        LENGTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        LENGTH.replace(b"HTTP/1.1", b"HTTP/1.0"),
        UNTIL_CLOSE,
    ],
)
def test_a_connection_that_the_server_ends_is_not_used_again(client: Client, answer: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer)

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                for _ in range(2):
                    assert await ask(transport) == BODY

        client.run(scenario())
        assert server.connections == 2


def test_concurrent_requests_get_their_own_answers(client: Client) -> None:
    def script(peer: Peer) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                body = peer.read_request().body
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:

                async def several(who: int) -> None:
                    for n in range(10):
                        body = b"%d/%d" % (who, n)
                        assert await ask(transport, body=body) == body

                await asyncio.gather(*(several(who) for who in range(20)))

        client.run(scenario())
        assert server.connections <= 20


def test_an_early_answer_to_a_large_request_is_read(client: Client) -> None:
    answer = LENGTH.replace(b"200 OK", b"413 Too Large")

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer)
        peer.is_gone()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                response = await transport.post("/x", {}, bytes(8_000_000), PATIENT)
                assert response.status == 413
                assert await response.read_all(LIMIT) == BODY
                response.close()

        client.run(scenario())


def test_an_early_answer_is_read_while_nobody_takes_the_request(small_client: Client) -> None:
    answer = LENGTH.replace(b"200 OK", b"413 Too Large")
    answered = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer)
        assert answered.wait(10)

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with small_client.opened(server.url) as transport:
                for _ in range(2):
                    answered.clear()
                    response = await transport.post("/x", {}, bytes(16_000_000), PATIENT)
                    assert response.status == 413
                    assert await response.read_all(LIMIT) == BODY
                    response.close()
                    answered.set()

        small_client.run(scenario())
        assert server.connections == 2  # half a request is left on the first


def test_a_request_that_nobody_takes_ends_when_the_server_hangs_up(small_client: Client) -> None:
    released = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.finish()
        assert released.wait(10)

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with small_client.opened(server.url) as transport:
                with pytest.raises(ConnectionLost):
                    await ask(transport, body=bytes(16_000_000))
                released.set()

        small_client.run(scenario())


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_kept_connection_that_closes_under_a_request_is_lost(client: Client, how: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(LENGTH)
        peer.read_request()
        peer.close() if how == "fin" else peer.reset()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                assert await ask(transport) == BODY
                with pytest.raises(ConnectionLost) as caught:
                    await ask(transport)
                assert caught.value.stale is (client is not HTTPX)

        client.run(scenario())


def test_after_a_stale_connection_the_next_one_is_new(client: Client) -> None:
    """A server that ends its idle connections ends them all: one more try must be enough."""
    if client is HTTPX:
        pytest.skip("httpx2 keeps its own pool")
    together = threading.Barrier(3)

    def script(peer: Peer) -> None:
        peer.read_request()
        if server.connections <= 3:
            together.wait(10)
        peer.send(LENGTH)
        peer.read_request()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                await asyncio.gather(*(ask(transport) for _ in range(3)))
                with pytest.raises(ConnectionLost) as caught:
                    await ask(transport)
                assert caught.value.stale is (client is not HTTPX)
                assert await ask(transport) == BODY

        client.run(scenario())
        assert server.connections == 4


def test_a_fresh_request_goes_over_a_new_connection(client: Client) -> None:
    """Idle ones may have come back since one of them was found closed."""
    if client is HTTPX:
        pytest.skip("httpx2 keeps its own pool")

    def script(peer: Peer) -> None:
        while peer.read_request():
            peer.send(LENGTH)

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                for expected, fresh in ((1, False), (1, False), (2, True), (2, False)):
                    response = await transport.post("/x", {}, b"{}", PATIENT, fresh=fresh)
                    assert await response.read_all(LIMIT) == BODY
                    response.close()
                    assert server.connections == expected

        client.run(scenario())


def test_a_kept_connection_that_closes_inside_the_answer_is_not_stale(client: Client) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(LENGTH)
        peer.read_request()
        peer.send(LENGTH[:1])

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                assert await ask(transport) == BODY
                with pytest.raises(ConnectionLost) as caught:
                    await ask(transport)
                assert not caught.value.stale

        client.run(scenario())


def test_an_idle_connection_that_the_server_closes_is_dropped(client: Client) -> None:
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(LENGTH)
        peer.close()
        closed.set()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                for _ in range(3):
                    closed.clear()
                    assert await ask(transport) == BODY
                    assert await asyncio.to_thread(closed.wait, 10)
                    await let_loop_turn()

        client.run(scenario())
        assert server.connections == 3


@pytest.mark.parametrize("surplus", [LENGTH, b"H", b"garbage"])
def test_bytes_behind_an_answer_never_answer_the_next_request(
    small_client: Client, surplus: bytes
) -> None:
    answers = iter([LENGTH + surplus, CHUNKED])

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(next(answers))
        peer.is_gone()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with small_client.opened(server.url) as transport:
                assert await ask(transport) == BODY
                response = await transport.post("/x", {}, b"", PATIENT)
                assert response.headers.get("transfer-encoding") == "chunked"
                response.close()

        small_client.run(scenario())
        assert server.connections == 2


def test_bytes_on_an_idle_connection_close_it(client: Client) -> None:
    idle, pushed = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(LENGTH)
        assert idle.wait(10)
        peer.send(LENGTH)
        pushed.set()
        peer.is_gone()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                for _ in range(2):
                    idle.clear()
                    pushed.clear()
                    assert await ask(transport) == BODY
                    idle.set()
                    assert await asyncio.to_thread(pushed.wait, 10)
                    await let_loop_turn()

        client.run(scenario())
        assert server.connections == 2


def test_a_server_that_speaks_first_gets_no_request(small_client: Client) -> None:
    def script(peer: Peer) -> None:
        peer.send(b"220 mail.example.com ESMTP\r\n")
        peer.is_gone()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with small_client.opened(server.url) as transport:
                with pytest.raises((ConnectFailed, MalformedAnswer)):
                    await ask(transport)

        small_client.run(scenario())


def test_idle_connections_expire(small_client: Client) -> None:
    gone = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(LENGTH)
        if peer.is_gone():
            gone.set()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            transport = Http1Transport(Origin.parse(server.url), headers={}, idle_expiry_s=0.1)
            assert await ask(transport) == BODY
            assert await asyncio.to_thread(gone.wait, 5)
            await transport.aclose()

        small_client.run(scenario())


def test_an_expired_connection_is_not_used_by_a_loop_that_was_busy(small_client: Client) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(LENGTH)
        peer.is_gone()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            transport = Http1Transport(Origin.parse(server.url), headers={}, idle_expiry_s=0.05)
            assert await ask(transport) == BODY
            time.sleep(0.1)  # noqa: ASYNC251 - so that no timer can fire
            await asyncio.sleep(0)
            assert await ask(transport) == BODY
            await transport.aclose()

        small_client.run(scenario())
        assert server.connections == 2


@pytest.mark.parametrize(
    ("promise", "connections"),
    [
        (b"timeout=1", 2),
        (b"max=100, timeout=0", 2),
        (b"timeout=5, max=100", 1),
        (b"timeout=99999999999999", 1),
        (b"nonsense", 1),
    ],
)
def test_the_servers_word_on_idle_time_is_kept(
    small_client: Client, promise: bytes, connections: int
) -> None:
    answer = LENGTH.replace(b"\r\n\r\n", b"\r\nKeep-Alive: " + promise + b"\r\n\r\n")

    def script(peer: Peer) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                peer.read_request()
                peer.send(answer)

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with small_client.opened(server.url) as transport:
                for _ in range(2):
                    assert await ask(transport) == BODY

        small_client.run(scenario())
        assert server.connections == connections


def test_no_more_idle_connections_than_allowed_are_kept(small_client: Client) -> None:
    barrier = threading.Barrier(3)
    gone = threading.Semaphore(0)

    def script(peer: Peer) -> None:
        peer.read_request()
        barrier.wait(10)
        peer.send(LENGTH)
        peer.is_gone()
        gone.release()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            transport = Http1Transport(Origin.parse(server.url), headers={}, max_idle=1)
            await asyncio.gather(*(ask(transport) for _ in range(3)))
            for _ in range(2):
                assert await asyncio.to_thread(gone.acquire, timeout=5)
            assert not gone.acquire(blocking=False)
            await transport.aclose()

        small_client.run(scenario())


def test_closing_the_transport_spares_answers_under_way(client: Client) -> None:
    go_on, gone = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(LENGTH[:-3])
        assert go_on.wait(10)
        peer.send(LENGTH[-3:])
        if peer.is_gone():
            gone.set()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                response = await transport.post("/x", {}, b"", PATIENT)
                await transport.aclose()
                go_on.set()
                assert await response.read_all(LIMIT) == BODY
                response.close()
                assert await asyncio.to_thread(gone.wait, 5)

        client.run(scenario())


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_a_connection_that_is_lost_after_an_answer_without_a_body_is_stale(
    client: Client, status: str
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(f"HTTP/1.1 {status}\r\n\r\n".encode())
        peer.read_request()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                assert await ask(transport) == b""
                with pytest.raises(ConnectionLost) as caught:
                    await asyncio.wait_for(ask(transport), 5)
                assert caught.value.stale is (client is not HTTPX)

        client.run(scenario())
        assert server.connections == 1


@pytest.mark.parametrize("parts", [1, 3])
@settings(max_examples=80, deadline=None)
@given(
    answer=st.lists(
        st.sampled_from(
            [
                b"HTTP/1.1 200 OK\r\n",
                b"HTTP/1.0 200 OK\r\n",
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.1 204 \r\n",
                b"Content-Length: 3\r\n",
                b"Content-Length: 0\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Content-Encoding: gzip\r\n",
                b"Connection: close\r\n",
                b"Keep-Alive: timeout=5\r\n",
                b"Upgrade: x\r\nConnection: upgrade\r\n",
                b"\r\n",
                b"3\r\nabc\r\n",
                b"0\r\n\r\n",
                b"0\r\nX-T: 1\r\n\r\n",
                b"abc",
            ]
        )
        | st.binary(max_size=3),
        max_size=10,
    ).map(b"".join)
)
def test_whatever_a_server_sends_only_our_errors_are_raised(answer: bytes, parts: int) -> None:
    async def scenario() -> None:
        step = len(answer) // parts + 1
        pieces = [answer[at : at + step] for at in range(0, len(answer), step)]
        async with serving_parts(pieces, [LENGTH]) as url, HTTP1.opened(url) as transport:
            for _ in range(2):
                # Short, because an answer may well wait for more than it gets.
                with contextlib.suppress(AdapterError):
                    await ask(transport, Deadlines(first_byte_s=0.02, idle_s=0.02))

    HTTP1.run(scenario())
