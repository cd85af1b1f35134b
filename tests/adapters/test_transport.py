"""The contract of `Transport` and `Response`, held against every transport on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import inspect
import itertools
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.base import (
    AdapterError,
    ConnectFailed,
    ConnectionLost,
    Deadlines,
    MalformedAnswer,
    UpstreamTimeout,
)
from adapters.http.http1 import Http1Transport
from adapters.http.http_rules import MAX_HEAD_BYTES, Origin
from adapters.http.httpx_transport import FOREIGN_ERRORS, HttpxTransport, translated
from adapters.http.transport import Transport, environment_proxy, open_transport
from tests.adapters.servers import (
    Peer,
    Request,
    ScriptedServer,
    closed_port,
    deaf_listener,
    let_loop_turn,
    make_certificate,
    serving_parts,
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


@pytest.fixture(params=[HTTP1, HTTP1_UVLOOP, HTTPX], ids=lambda client: client.name)
def client(request: pytest.FixtureRequest) -> Client:
    chosen = request.param
    assert isinstance(chosen, Client)
    return chosen


@pytest.fixture(params=[HTTP1, HTTP1_UVLOOP], ids=lambda client: client.name)
def small_client(request: pytest.FixtureRequest) -> Client:
    """What only our own client promises."""
    chosen = request.param
    assert isinstance(chosen, Client)
    return chosen


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    try:
        return make_certificate(tmp_path_factory.mktemp("tls"))
    except FileNotFoundError:
        pytest.skip("the openssl command is missing: nothing over TLS is tested")


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


# ---- requests


def test_sends_the_base_path_and_the_constant_headers_and_its_own(client: Client) -> None:
    seen: list[Request] = []

    def script(peer: Peer) -> None:
        for _ in range(2):
            seen.append(peer.read_request())
            peer.send(LENGTH.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n"))

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            key = {"Authorization": "Bearer sk-1"}
            async with client.opened(f"{server.url}/v1/", headers=key) as transport:
                extra = {"content-type": "application/json"}
                response = await transport.post("/chat?alt=sse", extra, b'{"a": 1}', PATIENT)
                await response.read_all(LIMIT)
                response.close()
                response = await transport.get("/models", {}, PATIENT)
                await response.read_all(LIMIT)
                response.close()

        client.run(scenario())
        post, get = seen
        host = f"127.0.0.1:{server.port}"
        common = {"host": host, "accept-encoding": "identity", "authorization": "Bearer sk-1"}
        assert post.line == "POST /v1/chat?alt=sse HTTP/1.1"
        assert post.headers == common | {"content-type": "application/json", "content-length": "8"}
        assert post.body == b'{"a": 1}'
        assert get.line == "GET /v1/models HTTP/1.1"
        assert get.headers == common


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 5_000_000])
def test_bodies_arrive_whole(client: Client, size: int) -> None:
    body = bytes(itertools.islice(itertools.cycle(range(251)), size))
    seen: list[bytes] = []

    def script(peer: Peer) -> None:
        seen.append(peer.read_request().body)
        peer.send(LENGTH)

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                assert await ask(transport, body=body) == BODY

        client.run(scenario())
        assert seen == [body]


@pytest.mark.parametrize(
    "headers",
    [
        {"x-tag": "a\r\nx-injected: 1"},
        {"x-tag": "a\nb"},
        {"x-tag": "a\0b"},
        {"x-tag": " padded"},
        {"x-tag": "日本"},
        {"x tag": "a"},
        {"x-tag:": "a"},
        {"": "a"},
        {"Host": "elsewhere"},
        {"content-length": "0"},
        {"Transfer-Encoding": "chunked"},
    ],
)
def test_headers_that_could_forge_a_request_are_refused(
    client: Client, headers: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="header"):
        client.make(Origin.parse("http://127.0.0.1:9"), headers=headers, ca=None)

    async def scenario() -> None:
        async with client.opened("http://127.0.0.1:9") as transport:
            with pytest.raises(ValueError, match="header"):
                await transport.post("/x", headers, b"", PATIENT)

    client.run(scenario())


def test_a_refused_credential_is_not_quoted(client: Client) -> None:
    with pytest.raises(ValueError, match="authorization") as caught:
        client.make(Origin.parse("http://h"), headers={"authorization": "sk-secret\n"}, ca=None)
    assert "secret" not in str(caught.value)


def test_a_request_cannot_override_a_constant_header(client: Client) -> None:
    async def scenario() -> None:
        async with client.opened("http://127.0.0.1:9", headers={"X-Key": "ours"}) as transport:
            with pytest.raises(ValueError, match="x-key"):
                await transport.post("/x", {"x-key": "theirs"}, b"", PATIENT)

    client.run(scenario())


@pytest.mark.parametrize("path", ["", "x", "/a b", "/a\r\nb", "/ü", "/a#b"])
def test_paths_that_http_cannot_carry_are_refused(client: Client, path: str) -> None:
    async def scenario() -> None:
        async with client.opened("http://127.0.0.1:9") as transport:
            with pytest.raises(ValueError, match="path"):
                await transport.get(path, {}, PATIENT)

    client.run(scenario())


# ---- answers


def test_status_and_headers_are_told(client: Client) -> None:
    answer = (
        b"HTTP/1.1 429 Slow Down\r\nRetry-After: 3\r\nVia: a\r\nVIA: b\r\nX-Empty:\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    )
    with ScriptedServer(answering(answer)) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                response = await transport.post("/x", {}, b"", PATIENT)
                assert response.status == 429
                assert response.headers["retry-after"] == "3"
                assert response.headers["via"] == "a, b"
                assert response.headers["x-empty"] == ""
                assert await response.read() == b"{}"
                assert await response.read() == b""
                assert await response.read() == b""
                response.close()

        client.run(scenario())


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, UNTIL_CLOSE], ids=["length", "chunked", "eof"])
def test_any_split_of_an_answer_gives_the_same_body(client: Client, answer: bytes) -> None:
    splits = [[answer[:at], answer[at:]] for at in range(1, len(answer))]
    splits.append([answer[at : at + 1] for at in range(len(answer))])

    async def scenario() -> None:
        for parts in splits:
            async with serving_parts(parts) as url, client.opened(url) as transport:
                assert await ask(transport) == BODY

    client.run(scenario())


def test_body_pieces_are_handed_on_as_they_arrive(client: Client) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        assert go_on.wait(10)
        peer.send(b"3\r\ntwo\r\n0\r\n\r\n")

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                response = await transport.post("/x", {}, b"", PATIENT)
                assert await response.read() == b"one"
                go_on.set()
                assert await response.read() == b"two"
                assert await response.read() == b""
                response.close()

        client.run(scenario())


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("answer", [LENGTH, CHUNKED], ids=["length", "chunked"])
def test_a_cut_at_any_byte_never_looks_like_the_end(
    client: Client, answer: bytes, how: str
) -> None:
    cuts = iter(range(len(answer)))

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer[: next(cuts)])
        peer.close() if how == "fin" else peer.reset()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                for cut in range(len(answer)):
                    with pytest.raises(ConnectionLost) as caught:
                        await ask(transport)
                    assert not caught.value.stale, cut
                    assert f"127.0.0.1:{server.port}" in caught.value.message

        client.run(scenario())
        assert server.connections == len(answer)


def test_bytes_before_a_cut_are_read_before_it_is_raised(client: Client) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(LENGTH[:-3])

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                response = await transport.post("/x", {}, b"", PATIENT)
                read = b""
                while len(read) < len(BODY) - 3:
                    read += await response.read()
                with pytest.raises(ConnectionLost):
                    await response.read()
                with pytest.raises(ConnectionLost):
                    await response.read()
                response.close()
                assert read == BODY[:-3]

        client.run(scenario())


def test_a_body_without_a_frame_ends_with_fin_but_not_with_reset(client: Client) -> None:
    resets = iter([False, True])
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(UNTIL_CLOSE)
        if next(resets):
            assert go_on.wait(10)
            peer.reset()

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                assert await ask(transport) == BODY
                response = await transport.post("/x", {}, b"", PATIENT)
                assert await response.read() == BODY
                go_on.set()
                with pytest.raises(ConnectionLost):
                    await response.read()
                response.close()

        client.run(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        b"\x15\x03\x01\x00\x02",
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"<html>no</html>\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nBad Name: 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
)
def test_what_is_not_http_is_malformed(client: Client, answer: bytes) -> None:
    with ScriptedServer(answering(answer)) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                with pytest.raises(MalformedAnswer, match=f"127.0.0.1:{server.port}"):
                    await ask(transport)

        client.run(scenario())


def test_interim_answers_are_skipped(client: Client) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    with ScriptedServer(answering(interim + LENGTH, interim + CHUNKED)) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                response = await transport.post("/x", {}, b"", PATIENT)
                assert response.status == 200
                assert "link" not in response.headers
                assert await response.read_all(LIMIT) == BODY
                response.close()
                assert await ask(transport) == BODY

        client.run(scenario())
        assert server.connections == 1


def test_an_answer_without_a_body_ends_at_its_head(client: Client) -> None:
    with ScriptedServer(answering(b"HTTP/1.1 204 No Content\r\n\r\n", LENGTH)) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                assert await ask(transport) == b""
                assert await ask(transport) == BODY

        client.run(scenario())
        assert server.connections == 1


@pytest.mark.negative(number=3)
@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308, 399])
def test_a_redirect_is_refused_and_nobody_else_is_asked(client: Client, status: int) -> None:
    with ScriptedServer(answering(LENGTH)) as elsewhere:
        redirect = (
            f"HTTP/1.1 {status} Moved\r\nLocation: {elsewhere.url}/x\r\nContent-Length: 0\r\n\r\n"
        )
        with ScriptedServer(answering(redirect.encode())) as server:

            async def scenario() -> None:
                async with client.opened(server.url, headers={"x-key": "sk-1"}) as transport:
                    with pytest.raises(MalformedAnswer, match="redirect"):
                        await ask(transport)

            client.run(scenario())
        assert elsewhere.connections == 0


# ---- bounds


@pytest.mark.negative(number=21)
def test_more_than_a_hundred_headers_are_refused(client: Client) -> None:
    def answer(count: int) -> bytes:
        fields = b"".join(b"x-%d: 1\r\n" % n for n in range(count - 1))
        return b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 0\r\n\r\n"

    with ScriptedServer(answering(answer(100), answer(101))) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                assert await ask(transport) == b""
                with pytest.raises(MalformedAnswer, match="101 headers"):
                    await ask(transport)

        client.run(scenario())


@pytest.mark.negative(number=21)
@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\nx-one: ", b"a" * 65_536),
        (b"HTTP/1.1 200 OK\r\n", b"x-many: 1\r\n" * 4_096),
        (b"HTTP/1.1 200 ", b"O" * 65_536),
    ],
    ids=["value", "count", "reason"],
)
def test_a_head_without_end_is_given_up(client: Client, start: bytes, piece: bytes) -> None:
    sent: list[int] = []

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(start)
        with contextlib.suppress(ConnectionError):
            for count in itertools.count():
                peer.send(piece)
                sent.append(count)

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                with pytest.raises(MalformedAnswer):
                    await ask(transport)

        client.run(scenario())
        assert len(sent) * len(piece) < 16_000_000  # what the sockets' buffers may hold


def test_a_large_head_is_taken_up_to_the_limit(client: Client) -> None:
    def answer(size: int) -> bytes:
        start, end = b"HTTP/1.1 200 OK\r\nx: ", b"\r\nContent-Length: 13\r\n\r\n"
        return start + b"a" * (size - len(start) - len(end)) + end + BODY

    # A few bytes of slack: httpx2 shows the headers, but not how many bytes they took.
    with ScriptedServer(answering(answer(MAX_HEAD_BYTES), answer(MAX_HEAD_BYTES + 64))) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                assert await ask(transport) == BODY
                with pytest.raises(MalformedAnswer, match="bytes of headers"):
                    await ask(transport)

        client.run(scenario())


def test_interim_answers_without_end_are_given_up(small_client: Client) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        with contextlib.suppress(ConnectionError):
            while True:
                peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100)

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with small_client.opened(server.url) as transport:
                with pytest.raises(MalformedAnswer, match="bytes of headers"):
                    await ask(transport)

        small_client.run(scenario())


@pytest.mark.negative(number=21)
@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"3\r\nabc\r\n3;ext=", b"a" * 10_000),
        (b"3\r\nabc\r\n0\r\nx-trailer: ", b"a" * 10_000),
        (b"3\r\nabc\r\n0\r\n", b"x-trailer: 1\r\n" * 1_000),
    ],
    ids=["extension", "trailer", "trailers"],
)
def test_framing_without_content_is_given_up(
    small_client: Client, start: bytes, piece: bytes
) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + start)
        with contextlib.suppress(ConnectionError):
            while True:
                peer.send(piece)

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with small_client.opened(server.url) as transport:
                with pytest.raises(MalformedAnswer, match="without content"):
                    await ask(transport)

        small_client.run(scenario())


def test_framing_between_content_may_add_up(small_client: Client) -> None:
    chunk = [b"3;" + b"x" * 40_000, b"\r\n", b"abc", b"\r\n"]
    parts = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *chunk * 4, b"0\r\n\r\n"]

    async def scenario() -> None:
        async with serving_parts(parts) as url, small_client.opened(url) as transport:
            assert await ask(transport) == b"abc" * 4

    small_client.run(scenario())


def test_read_all_stops_at_its_limit(client: Client) -> None:
    with ScriptedServer(answering(LENGTH, LENGTH)) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                response = await transport.post("/x", {}, b"", PATIENT)
                assert await response.read_all(13) == BODY
                response.close()
                response = await transport.post("/x", {}, b"", PATIENT)
                with pytest.raises(MalformedAnswer, match="larger than 12 bytes"):
                    await response.read_all(12)
                response.close()

        client.run(scenario())


def test_a_reader_who_stops_reading_stops_the_sender(client: Client) -> None:
    total = 64_000_000
    sent: list[int] = []
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        sent.append(peer.send_until_stuck(bytes(1 << 20), total))
        go_on.set()
        peer.send(bytes(total - sent[0]))

    with ScriptedServer(script) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                response = await transport.post("/x", {}, b"", PATIENT)
                first = await response.read()
                await asyncio.to_thread(go_on.wait, 10)
                second = await response.read()
                # What was read ahead, and no more than that, is handed out at once.
                assert len(second) <= 512 * 1024
                read = len(first) + len(second)
                while piece := await response.read():
                    read += len(piece)
                response.close()
                assert read == total

        client.run(scenario())
        assert sent[0] < 24_000_000  # the sockets' own buffers take a few megabytes


# ---- content codings


def gzipped(data: bytes) -> bytes:
    return zlib.compress(data, wbits=31)


def coded(coding: str, data: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", gzipped(BODY)),
        ("X-GZIP", gzipped(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", zlib.compress(BODY, wbits=-15)),
        ("identity", BODY),
        ("", BODY),
    ],
)
def test_a_coding_that_nobody_asked_for_is_undone(client: Client, coding: str, data: bytes) -> None:
    answer = coded(coding, data)

    async def scenario() -> None:
        for at in range(len(answer) - len(data), len(answer)):
            parts = [answer[:at], answer[at:]]
            async with serving_parts(parts) as url, client.opened(url) as transport:
                assert await ask(transport) == BODY

    client.run(scenario())


@pytest.mark.parametrize(
    ("coding", "data", "complaint"),
    [
        ("br", b"abc", "'br'"),
        ("gzip, gzip", gzipped(gzipped(BODY)), "'gzip, gzip'"),
        ("gzip", BODY, "is broken"),
        ("gzip", gzipped(BODY)[:-1], "stops in the middle"),
        ("gzip", gzipped(BODY) + b"x", "goes on after its end"),
        ("gzip", gzipped(BODY) + gzipped(BODY), "goes on after its end"),
    ],
)
def test_broken_codings_are_malformed(
    client: Client, coding: str, data: bytes, complaint: str
) -> None:
    with ScriptedServer(answering(coded(coding, data))) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                with pytest.raises(MalformedAnswer, match=complaint):
                    await ask(transport)

        client.run(scenario())


@pytest.mark.negative(number=21)
def test_a_compressed_bomb_is_unfolded_piece_by_piece(client: Client) -> None:
    size = 200_000_000
    squeeze = zlib.compressobj(wbits=31)
    bomb = b"".join(squeeze.compress(bytes(1_000_000)) for _ in range(200)) + squeeze.flush()
    with ScriptedServer(answering(coded("gzip", bomb))) as server:

        async def scenario() -> None:
            async with client.opened(server.url) as transport:
                with pytest.raises(MalformedAnswer, match="larger than"):
                    await ask(transport)
                response = await transport.post("/x", {}, b"", PATIENT)
                tracemalloc.start()
                read = 0
                while piece := await response.read():
                    read += len(piece)
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                response.close()
                assert read == size
                assert peak < 4_000_000

        client.run(scenario())


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


def waiting_script(before: bytes, gone: threading.Event) -> Callable[[Peer], None]:
    """Answer `before`, then nothing; `gone` is set once the client has hung up."""

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(before)
        if peer.is_gone():
            gone.set()

    return script


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


# ---- connections


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
                assert caught.value.stale
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


# ---- TLS


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


# ---- which transport serves


def test_the_small_client_serves_where_it_can() -> None:
    assert isinstance(
        open_transport("https://api.example.com/v1", headers={}, environ={}), Http1Transport
    )


@pytest.mark.parametrize(
    "environ",
    [
        {"HTTPS_PROXY": "http://proxy.example:3128"},
        {"https_proxy": "proxy.example:3128"},
        {"all_proxy": "http://proxy.example:3128"},
    ],
)
def test_httpx_serves_behind_a_proxy(environ: dict[str, str]) -> None:
    transport = open_transport("https://api.example.com", headers={}, environ=environ)
    assert isinstance(transport, HttpxTransport)


def test_httpx_serves_with_certificates_of_its_own(
    certificate: tuple[Path, ssl.SSLContext],
) -> None:
    ca, _ = certificate
    transport = open_transport("https://api.example.com", headers={}, ca_bundle=ca, environ={})
    assert isinstance(transport, HttpxTransport)


def test_a_missing_certificate_file_is_noticed_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_transport("https://h", headers={}, ca_bundle=tmp_path / "none.pem", environ={})


@pytest.mark.parametrize(
    ("package", "options"),
    [("h2", {"http2": True}), ("socksio", {"proxy": "socks5://127.0.0.1:1080"})],
)
def test_a_missing_optional_package_is_named(package: str, options: dict[str, object]) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(ImportError, match=f"'{package}': pip install"):
        open_transport("https://h", headers={}, environ={}, **options)  # type: ignore[arg-type] # one of several keywords


@pytest.mark.parametrize("proxy", ["ftp://me:secret@proxy", "http://me:secret@proxy:99999999"])
def test_a_bad_proxy_is_refused_without_quoting_it(proxy: str) -> None:
    with pytest.raises(ValueError, match="proxy must be") as caught:
        open_transport("https://h", headers={}, proxy=proxy, environ={})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("base_url", "environ", "proxy"),
    [
        ("http://h", {}, None),
        ("http://h", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("https://h", {"HTTP_PROXY": "http://p:1"}, None),
        ("https://h", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://h", {"HTTPS_PROXY": "p:1"}, "http://p:1"),
        ("https://h", {"HTTPS_PROXY": " "}, None),
        ("https://h", {"https_proxy": "http://low", "HTTPS_PROXY": "http://UP"}, "http://low"),
        ("https://h", {"ALL_PROXY": "socks5://p"}, "socks5://p"),
        ("http://h", {"ALL_PROXY": "http://all", "HTTP_PROXY": "http://p"}, "http://p"),
        ("https://h", {"ALL_PROXY": "http://p", "NO_PROXY": "*"}, None),
        ("https://h", {"ALL_PROXY": "http://p", "no_proxy": "g, h"}, None),
        ("https://a.h", {"ALL_PROXY": "http://p", "NO_PROXY": "h"}, None),
        ("https://a.h", {"ALL_PROXY": "http://p", "NO_PROXY": ".H"}, None),
        ("https://a.h", {"ALL_PROXY": "http://p", "NO_PROXY": "*.h"}, None),
        ("https://ah", {"ALL_PROXY": "http://p", "NO_PROXY": "h,.h, ,"}, "http://p"),
        ("https://h:8443", {"ALL_PROXY": "http://p", "NO_PROXY": "h:8443"}, None),
        ("https://h:8443", {"ALL_PROXY": "http://p", "NO_PROXY": "h:443"}, "http://p"),
        ("http://10.1.2.3", {"ALL_PROXY": "http://p", "NO_PROXY": "10.0.0.0/8"}, None),
        ("http://10.1.2.3", {"ALL_PROXY": "http://p", "NO_PROXY": "11.0.0.0/8"}, "http://p"),
        ("http://10.1.2.3:80", {"ALL_PROXY": "http://p", "NO_PROXY": "10.1.2.3:80"}, None),
        ("http://[fd00::1]", {"ALL_PROXY": "http://p", "NO_PROXY": "[fd00::1]"}, None),
        ("http://[fd00::1]", {"ALL_PROXY": "http://p", "NO_PROXY": "fd00::/8"}, None),
        ("http://localhost:1", {"ALL_PROXY": "http://p"}, None),
        ("http://me.localhost", {"ALL_PROXY": "http://p"}, None),
        ("http://127.9.9.9", {"ALL_PROXY": "http://p"}, None),
        ("http://[::1]", {"ALL_PROXY": "http://p"}, None),
        ("http://[::ffff:127.0.0.1]", {"ALL_PROXY": "http://p"}, None),
        ("http://localhost.example.com", {"ALL_PROXY": "http://p"}, "http://p"),
    ],
)
def test_the_environments_proxy(base_url: str, environ: dict[str, str], proxy: str | None) -> None:
    assert environment_proxy(Origin.parse(base_url), environ) == proxy


def test_a_plain_request_goes_through_the_environments_proxy() -> None:
    seen: list[Request] = []

    def script(peer: Peer) -> None:
        seen.append(peer.read_request())
        peer.send(LENGTH)
        peer.is_gone()

    with ScriptedServer(script) as proxy:

        async def scenario() -> None:
            transport = open_transport(
                "http://provider.example:8080/v1",
                headers={"authorization": "Bearer sk-1"},
                environ={"HTTP_PROXY": f"http://me:secret@127.0.0.1:{proxy.port}"},
            )
            assert await ask(transport) == BODY
            await transport.aclose()

        HTTPX.run(scenario())
    assert seen[0].line == "POST http://provider.example:8080/v1/chat/completions HTTP/1.1"
    assert seen[0].headers["host"] == "provider.example:8080"
    assert seen[0].headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"


def test_a_secure_request_goes_through_a_tunnel(
    certificate: tuple[Path, ssl.SSLContext],
) -> None:
    ca, tls = certificate
    tunnels: list[Request] = []

    with ScriptedServer(answering(LENGTH), tls) as server:

        def script(peer: Peer) -> None:
            tunnels.append(peer.read_head())
            peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            peer.join(server.port)

        with ScriptedServer(script) as proxy:

            async def scenario() -> None:
                transport = open_transport(
                    f"https://localhost:{server.port}",
                    headers={"authorization": "Bearer sk-1"},
                    proxy=proxy.url,
                    ca_bundle=ca,
                )
                assert await ask(transport) == BODY
                await transport.aclose()

            HTTPX.run(scenario())
    assert tunnels[0].line == f"CONNECT localhost:{server.port} HTTP/1.1"
    assert "authorization" not in tunnels[0].headers


def test_a_proxy_that_refuses_is_a_failed_connection() -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        peer.is_gone()

    with ScriptedServer(script) as proxy:

        async def scenario() -> None:
            transport = open_transport(
                "https://provider.example",
                headers={},
                proxy=f"http://me:secret@127.0.0.1:{proxy.port}",
            )
            with pytest.raises(ConnectFailed, match=r"provider\.example:443: 407") as caught:
                await ask(transport)
            assert "secret" not in caught.value.message
            assert not caught.value.dispatched
            await transport.aclose()

        HTTPX.run(scenario())


def test_httpx_is_not_loaded_before_it_is_needed() -> None:
    program = (
        "import sys, adapters.http.transport as t;"
        "t.open_transport('https://h', headers={}, environ={});"
        "assert 'httpx2' not in sys.modules"
    )
    root = Path(inspect.getfile(AdapterError)).parents[1]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)


# ---- httpx2's errors


def every_httpx_error() -> list[type[Exception]]:
    public = (getattr(httpx2, name) for name in dir(httpx2))
    return [kind for kind in public if isinstance(kind, type) and issubclass(kind, Exception)]


def an_error(kind: type[Exception]) -> Exception:
    request = httpx2.Request("GET", "http://h")
    known = {"message": "text", "request": request, "response": httpx2.Response(500)}
    parameters = inspect.signature(kind).parameters
    return kind(**{name: known[name] for name in parameters if name in known})


@pytest.mark.parametrize("kind", every_httpx_error(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("is_in_body", [False, True])
def test_every_httpx_error_is_caught_and_translated(
    kind: type[Exception], is_in_body: bool
) -> None:
    assert issubclass(kind, FOREIGN_ERRORS)
    error = translated(an_error(kind), "h:80", is_in_body=is_in_body)
    assert isinstance(error, AdapterError)
    assert "h:80" in error.message


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (httpx2.ConnectError, ConnectFailed),
        (httpx2.ProxyError, ConnectFailed),
        (httpx2.UnsupportedProtocol, ConnectFailed),
        (httpx2.InvalidURL, ConnectFailed),
        (httpx2.ConnectTimeout, UpstreamTimeout),
        (httpx2.PoolTimeout, UpstreamTimeout),
        (httpx2.ReadTimeout, UpstreamTimeout),
        (httpx2.WriteTimeout, UpstreamTimeout),
        (httpx2.ReadError, ConnectionLost),
        (httpx2.WriteError, ConnectionLost),
        (httpx2.CloseError, ConnectionLost),
        (httpx2.LocalProtocolError, ConnectionLost),
        (httpx2.StreamClosed, ConnectionLost),
        (httpx2.RemoteProtocolError, MalformedAnswer),
        (httpx2.DecodingError, MalformedAnswer),
        (httpx2.TooManyRedirects, MalformedAnswer),
    ],
)
def test_httpx_errors_keep_their_meaning(
    kind: type[Exception], expected: type[AdapterError]
) -> None:
    assert type(translated(an_error(kind), "h:80", is_in_body=False)) is expected


@pytest.mark.parametrize("kind", [httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ConnectError])
def test_what_never_left_cannot_be_billed(kind: type[Exception]) -> None:
    assert not translated(an_error(kind), "h:80", is_in_body=False).dispatched
