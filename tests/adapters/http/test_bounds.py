"""What a server may send at most, packed or not."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import tracemalloc
import zlib

import pytest

from adapters.base import (
    MalformedAnswer,
)
from adapters.http.http_rules import MAX_HEAD_BYTES
from tests.adapters.http.clients import BODY, LENGTH, PATIENT, Client, answering, ask
from tests.adapters.servers import (
    Peer,
    ScriptedServer,
    serving_parts,
)

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
