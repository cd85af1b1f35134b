"""What a transport sends, and what it makes of the answer."""

from __future__ import annotations

import itertools
import threading

import pytest

from adapters.base import (
    ConnectionLost,
    MalformedAnswer,
)
from adapters.http.http_rules import Origin
from tests.adapters.http.clients import (
    BODY,
    CHUNKED,
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
    Request,
    ScriptedServer,
    serving_parts,
)

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
