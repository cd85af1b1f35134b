"""The transports that the tests here hold against the contract, and what they are asked."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path

import uvloop

from adapters.base import (
    Deadlines,
)
from adapters.http.http1 import Http1Transport
from adapters.http.http_rules import Origin
from adapters.http.httpx_transport import HttpxTransport
from adapters.http.transport import Transport
from tests.adapters.servers import (
    Peer,
)

TEST_LIMIT_S = 30.0
LIMIT = 1 << 20
PATIENT = Deadlines(connect_s=5, first_byte_s=5, idle_s=5)
BODY = b'{"ok": "yes"}'
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n" + BODY
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5\r\n{"ok"\r\n8;why=not\r\n: "yes"}\r\n0\r\nX-Trailer: 1\r\n\r\n'
)
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + BODY


@dataclass(frozen=True)
class Client:
    """A transport to test, and the event loop to test it on."""

    name: str
    make: Callable[..., Transport]
    new_loop: Callable[[], asyncio.AbstractEventLoop]

    @contextlib.asynccontextmanager
    async def opened(
        self, base_url: str, headers: Mapping[str, str] | None = None, ca: Path | None = None
    ) -> AsyncIterator[Transport]:
        transport = self.make(Origin.parse(base_url), headers=headers or {}, ca=ca)
        try:
            yield transport
        finally:
            await transport.aclose()

    def run(self, scenario: Coroutine[object, object, None]) -> None:
        unhandled: list[Mapping[str, object]] = []
        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            # Errors in callbacks of the event loop reach nobody otherwise.
            runner.get_loop().set_exception_handler(lambda _, context: unhandled.append(context))
            runner.run(asyncio.wait_for(scenario, TEST_LIMIT_S))
            gc.collect()  # what the scenario leaked is reported here, not in another test
        assert not unhandled


def make_http1(origin: Origin, *, headers: Mapping[str, str], ca: Path | None) -> Transport:
    context = None if ca is None else ssl.create_default_context(cafile=ca)
    return Http1Transport(origin, headers=headers, ssl_context=context)


def make_httpx(origin: Origin, *, headers: Mapping[str, str], ca: Path | None) -> Transport:
    return HttpxTransport(origin, headers=headers, proxy=None, http2=False, ca_bundle=ca)


HTTP1 = Client("http1", make_http1, asyncio.new_event_loop)
HTTP1_UVLOOP = Client("http1-uvloop", make_http1, uvloop.new_event_loop)
HTTPX = Client("httpx", make_httpx, asyncio.new_event_loop)


async def ask(transport: Transport, deadlines: Deadlines = PATIENT, body: bytes = b"{}") -> bytes:
    """One whole exchange; returns the body of its answer."""
    response = await transport.post("/chat/completions", {}, body, deadlines)
    try:
        return await response.read_all(LIMIT)
    finally:
        response.close()


def answering(*answers: bytes) -> Callable[[Peer], None]:
    """A script that gives these answers on one connection, then waits for the client to go."""

    def script(peer: Peer) -> None:
        for answer in answers:
            peer.read_request()
            peer.send(answer)
        assert peer.is_gone()

    return script


def waiting_script(before: bytes, gone: threading.Event) -> Callable[[Peer], None]:
    """Answer `before`, then nothing; `gone` is set once the client has hung up."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(before)
        if peer.is_gone():
            gone.set()

    return script
