"""The same inside TLS."""

from __future__ import annotations

import asyncio
import ssl
import threading
from pathlib import Path

import pytest

from adapters.base import (
    ConnectFailed,
    ConnectionLost,
    Deadlines,
    UpstreamTimeout,
)
from tests.adapters.http.clients import (
    BODY,
    CHUNKED,
    HTTP1_UVLOOP,
    LENGTH,
    LIMIT,
    PATIENT,
    UNTIL_CLOSE,
    Client,
    answering,
    ask,
    waiting_script,
)
from tests.adapters.servers import (
    Peer,
    ScriptedServer,
    let_loop_turn,
)


def test_a_trusted_certificate_is_accepted(
    client: Client, certificate: tuple[Path, ssl.SSLContext]
) -> None:
    ca, tls = certificate
    with ScriptedServer(answering(LENGTH, CHUNKED, LENGTH), tls) as server:

        async def scenario() -> None:
            async with client.opened(server.url, ca=ca) as transport:
                assert await ask(transport) == BODY
                assert await ask(transport, body=bytes(300_000)) == BODY
                assert await ask(transport) == BODY

        client.run(scenario())
        assert server.connections == 1


def test_an_untrusted_certificate_is_refused(
    client: Client, certificate: tuple[Path, ssl.SSLContext]
) -> None:
    _, tls = certificate
    with ScriptedServer(answering(), tls) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                with pytest.raises(ConnectFailed, match=f"localhost:{server.port}.*certificate"):
                    await ask(transport)

        client.run(scenario())


def test_a_certificate_for_another_name_is_refused(
    client: Client, certificate: tuple[Path, ssl.SSLContext]
) -> None:
    ca, tls = certificate
    with ScriptedServer(answering(), tls) as server:
        url = server.url.replace("localhost", "127.0.0.1")

        async def scenario() -> None:
            async with client.opened(url, ca=ca) as transport:
                with pytest.raises(ConnectFailed, match="certificate"):
                    await ask(transport)

        client.run(scenario())


def test_https_to_a_plain_server_cannot_connect(client: Client) -> None:
    def script(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        peer.is_gone()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            url = server.url.replace("http:", "https:")
            async with client.opened(url) as transport:
                with pytest.raises(ConnectFailed, match=f"127.0.0.1:{server.port}"):
                    await ask(transport)

        client.run(scenario())


@pytest.mark.parametrize("gives_up", ["deadline", "cancelled"])
def test_a_handshake_without_end_is_given_up(client: Client, gives_up: str) -> None:
    asked, gone = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        asked.set()
        if peer.is_gone():
            gone.set()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url.replace("http:", "https:")) as transport:
                if gives_up == "deadline":
                    with pytest.raises(UpstreamTimeout) as caught:
                        await ask(transport, Deadlines(connect_s=0.1))
                    assert caught.value.phase == "connect"
                else:
                    task = asyncio.create_task(ask(transport))
                    assert await asyncio.to_thread(asked.wait, 10)
                    await let_loop_turn()
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                assert await asyncio.to_thread(gone.wait, 2)

        client.run(scenario())


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_cut_inside_tls_never_looks_like_the_end(
    client: Client, certificate: tuple[Path, ssl.SSLContext], how: str
) -> None:
    ca, tls = certificate
    cuts = iter(range(0, len(CHUNKED), 3))

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(CHUNKED[: next(cuts)])
        peer.close() if how == "fin" else peer.reset()

    with ScriptedServer(script, tls) as server:

        async def scenario() -> None:
            async with client.opened(server.url, ca=ca) as transport:
                for _ in range(0, len(CHUNKED), 3):
                    with pytest.raises(ConnectionLost):
                        await ask(transport)

        client.run(scenario())


@pytest.mark.parametrize("is_proper", [True, False])
def test_uvloop_notices_a_cut_inside_tls_without_any_frame(
    certificate: tuple[Path, ssl.SSLContext], is_proper: bool
) -> None:
    ca, tls = certificate

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(UNTIL_CLOSE)
        if is_proper:
            peer.say_goodbye()

    with ScriptedServer(script, tls) as server:

        async def scenario() -> None:
            async with HTTP1_UVLOOP.opened(server.url, ca=ca) as transport:
                if is_proper:
                    assert await ask(transport) == BODY
                else:
                    with pytest.raises(ConnectionLost):
                        await ask(transport)

        HTTP1_UVLOOP.run(scenario())


def test_cancelling_hangs_up_inside_tls(
    client: Client, certificate: tuple[Path, ssl.SSLContext]
) -> None:
    ca, tls = certificate
    gone = threading.Event()
    with ScriptedServer(waiting_script(LENGTH[:-3], gone), tls) as server:

        async def scenario() -> None:
            async with client.opened(server.url, ca=ca) as transport:
                response = await transport.post("/x", {}, b"", PATIENT)
                try:
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(response.read_all(LIMIT), 0.05)
                finally:
                    response.close()
                assert await asyncio.to_thread(gone.wait, 2)

        client.run(scenario())
