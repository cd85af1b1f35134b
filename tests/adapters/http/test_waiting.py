"""How long a transport waits, and how it gives up."""

from __future__ import annotations

import asyncio
import threading

import pytest

from adapters.base import (
    ConnectFailed,
    ConnectionLost,
    Deadlines,
    UpstreamTimeout,
)
from tests.adapters.http.clients import BODY, LENGTH, PATIENT, Client, ask, waiting_script
from tests.adapters.servers import (
    Peer,
    ScriptedServer,
    closed_port,
    deaf_listener,
    let_loop_turn,
)

# ---- deadlines


def test_a_refused_connection_says_to_whom_and_why(client: Client) -> None:
    port = closed_port()

    async def scenario() -> None:
        async with client.opened(f"http://127.0.0.1:{port}") as transport:
            with pytest.raises(ConnectFailed) as caught:
                await ask(transport)
            assert caught.value.message == (
                f"cannot connect to 127.0.0.1:{port}: Connection refused"
            )
            assert not caught.value.dispatched

    client.run(scenario())


def test_a_connection_that_nobody_accepts_times_out(client: Client) -> None:
    with deaf_listener() as port:

        async def scenario() -> None:
            async with client.opened(f"http://127.0.0.1:{port}") as transport:
                with pytest.raises(UpstreamTimeout, match=f"127.0.0.1:{port}") as caught:
                    await ask(transport, Deadlines(connect_s=0.1))
                assert caught.value.phase == "connect"
                assert not caught.value.dispatched

        client.run(scenario())


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\nContent-"])
def test_a_slow_first_byte_times_out_and_hangs_up(client: Client, before: bytes) -> None:
    gone = threading.Event()
    with ScriptedServer(waiting_script(before, gone)) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                with pytest.raises(UpstreamTimeout, match=f"127.0.0.1:{server.port}") as caught:
                    await ask(transport, Deadlines(first_byte_s=0.1))
                assert caught.value.phase == "first_byte"
                assert caught.value.dispatched

        client.run(scenario())
    assert gone.is_set()


def test_a_head_that_trickles_in_times_out(client: Client) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        for byte in b"HTTP/1.1 200 OK\r\nx: " + b"a" * 1000:
            peer.send(bytes([byte]))
            if peer.is_gone(within_s=0.02):
                return
        raise AssertionError("the client waited for the whole head")

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                with pytest.raises(UpstreamTimeout) as caught:
                    await ask(transport, Deadlines(connect_s=0.2, first_byte_s=0.2))
                assert caught.value.phase == "first_byte"

        client.run(scenario())


def test_a_stall_in_the_body_times_out_and_hangs_up(client: Client) -> None:
    gone = threading.Event()
    with ScriptedServer(waiting_script(LENGTH[:-3], gone)) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                response = await transport.post("/x", {}, b"", Deadlines(idle_s=0.1))
                assert await response.read() == BODY[:-3]
                with pytest.raises(UpstreamTimeout, match=f"127.0.0.1:{server.port}") as caught:
                    await response.read()
                assert caught.value.phase == "idle"
                response.close()

        client.run(scenario())
    assert gone.is_set()


def test_the_body_has_its_own_deadline(client: Client) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(LENGTH[:-3])
        peer.is_gone(within_s=0.8)
        peer.send(LENGTH[-3:])

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                assert await ask(transport, Deadlines(first_byte_s=0.5, idle_s=5)) == BODY

        client.run(scenario())


def test_a_slow_reader_does_not_make_the_server_late(client: Client) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(LENGTH[:-3])
        assert go_on.wait(10)
        peer.send(LENGTH[-3:])

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                response = await transport.post("/x", {}, b"", Deadlines(idle_s=0.5))
                assert await response.read() == BODY[:-3]
                await asyncio.sleep(0.7)  # what takes the reader so long
                go_on.set()
                assert await response.read() == BODY[-3:]
                response.close()

        client.run(scenario())


def test_framing_without_content_does_not_prolong_the_wait(small_client: Client) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;")
        for _ in range(1000):
            peer.send(b"x")
            if peer.is_gone(within_s=0.02):
                return
        raise AssertionError("the client was kept waiting")

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with small_client.opened(server.url) as transport:
                with pytest.raises(UpstreamTimeout) as caught:
                    await ask(transport, Deadlines(idle_s=0.2))
                assert caught.value.phase == "idle"

        small_client.run(scenario())


# ---- giving up


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\n", LENGTH[:-3]])
def test_cancelling_hangs_up_at_once(client: Client, before: bytes) -> None:
    gone = threading.Event()
    asked = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(before)
        asked.set()
        if peer.is_gone():
            gone.set()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                task = asyncio.create_task(ask(transport))
                assert await asyncio.to_thread(asked.wait, 10)
                await let_loop_turn()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await asyncio.to_thread(gone.wait, 2)

        client.run(scenario())


def test_cancelling_a_connect_leaves_nothing_open(client: Client) -> None:
    with deaf_listener() as port:

        async def scenario() -> None:
            async with client.opened(f"http://127.0.0.1:{port}") as transport:
                task = asyncio.create_task(ask(transport))
                await asyncio.sleep(0.05)  # into the middle of connecting, which never ends
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        client.run(scenario())


def test_a_cancelled_read_loses_nothing(client: Client) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(LENGTH[:-3])
        assert go_on.wait(10)
        peer.send(LENGTH[-3:])

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                response = await transport.post("/x", {}, b"", PATIENT)
                assert await response.read() == BODY[:-3]
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(response.read(), 0.05)
                go_on.set()
                assert await response.read() == BODY[-3:]
                assert await response.read() == b""
                response.close()

        client.run(scenario())


def test_closing_in_the_middle_hangs_up_at_once(client: Client) -> None:
    gone = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                peer.send(b"5\r\nhello\r\n" * 1000)
        except ConnectionError:
            gone.set()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                response = await transport.post("/x", {}, b"", PATIENT)
                assert await response.read()
                response.close()
                response.close()
                assert await asyncio.to_thread(gone.wait, 2)
                with pytest.raises(ConnectionLost, match="closed by its reader"):
                    await response.read()

        client.run(scenario())


def test_closing_wakes_a_reader(client: Client) -> None:
    gone = threading.Event()
    with ScriptedServer(waiting_script(LENGTH[:-3], gone)) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                response = await transport.post("/x", {}, b"", PATIENT)
                assert await response.read() == BODY[:-3]
                reader = asyncio.create_task(response.read())
                await let_loop_turn()
                response.close()
                with pytest.raises(ConnectionLost, match="closed by its reader"):
                    await reader

        client.run(scenario())
    assert gone.is_set()
