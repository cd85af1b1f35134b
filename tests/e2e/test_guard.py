"""What comes in from clients: framing, sizes, slowness and too much of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.guard import heads
from proxy.guard.admission import MOST_REFUSALS_PER_S, UNTROUBLED_S
from tests.e2e.raw import Connection, chat, connect, post
from tests.e2e.tollway import ADMIN_TOKEN, Tollway, provider, serving
from tests.e2e.upstream import Call, Line, Upstream, chunk, completion, usage_chunk
from tests.waiting import until

GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = b"transfer-encoding: chunked"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"


@pytest.fixture(scope="module")
def hasty(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    """A server that waits for nobody."""
    config = provider(upstream.base_url, "m1")
    config["server"] |= {"head_s": 0.5, "body_s": 0.5, "reader_s": 1.0, "keep_alive_s": 1}
    with serving(tmp_path_factory.mktemp("hasty"), config) as running:
        yield running


# --- framing -------------------------------------------------------------------------------


@pytest.mark.negative(number=25)
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(HEAD + CHUNKED + b"\r\ncontent-length: 3\r\n\r\n0\r\n\r\n", id="CL+TE"),
        pytest.param(post(b"abc", CHUNKED), id="TE+CL"),
        pytest.param(post(b"abc", b"content-length: 3"), id="two lengths"),
        pytest.param(HEAD + b"content-length: 3, 3\r\n\r\nabc", id="list of lengths"),
        pytest.param(HEAD + b"content-length: +3\r\n\r\nabc", id="signed length"),
        pytest.param(HEAD + b"content-length: -1\r\n\r\nabc", id="negative length"),
        pytest.param(HEAD + b"content-length: 99999999999999999999\r\n\r\n", id="length overflow"),
        pytest.param(GET[:-2] + b"\n\r\n", id="bare LF"),
        pytest.param(GET + b"a: b\rc: d\r\n\r\n", id="bare CR"),
        pytest.param(GET + b"a: b\r\n c\r\n\r\n", id="obs-fold"),
        pytest.param(GET + b" a: b\r\n\r\n", id="obs-fold of the host"),
        pytest.param(GET + b"a : b\r\n\r\n", id="space before colon"),
        pytest.param(GET + b"a: b\0c\r\n\r\n", id="NUL in a value"),
        pytest.param(GET + b"a\0: b\r\n\r\n", id="NUL in a name"),
        pytest.param(GET.replace(b"healthz", b"health\0z") + b"\r\n", id="NUL in the path"),
        pytest.param(GET + b"no colon\r\n\r\n", id="no colon"),
        pytest.param(b"GET /healthz HTTP/1.1\r\n\r\n", id="no Host"),
        pytest.param(GET + b"host: localhost\r\n\r\n", id="two Hosts"),
        pytest.param(GET.replace(b"localhost", b"x/admin?") + b"\r\n", id="path in Host"),
        pytest.param(GET.replace(b"localhost", b"a@b") + b"\r\n", id="user in Host"),
        pytest.param(GET.replace(b"localhost", b"") + b"\r\n", id="empty Host"),
        pytest.param(post(b"", b"authorization: a", b"authorization: b"), id="two Authorizations"),
        pytest.param(post(b"", b"x-api-key: a", b"x-api-key: a"), id="two keys"),
        pytest.param(post(b"", b"x-tollway-tags: a", b"x-tollway-tags: b"), id="two of ours"),
        pytest.param(HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="coded TE"),
        pytest.param(HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", id="unknown TE"),
        pytest.param(HEAD + b"transfer-encoding: identity\r\n\r\n", id="identity TE"),
        pytest.param(HEAD + b"transfer-encoding: chunked, identity\r\n\r\n", id="TE after chunked"),
        pytest.param(HEAD + (CHUNKED + b"\r\n") * 2 + b"\r\n0\r\n\r\n", id="two TEs"),
        pytest.param(
            HEAD.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n\r\n0\r\n\r\n", id="TE in HTTP/1.0"
        ),
        pytest.param(HEAD + CHUNKED + b"\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", id="0x chunk"),
        pytest.param(HEAD + CHUNKED + b"\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", id="negative chunk"),
        pytest.param(HEAD + CHUNKED + b"\r\n\r\n" + b"f" * 17 + b"\r\n", id="chunk overflow"),
        pytest.param(HEAD + CHUNKED + b"\r\n\r\n2\r\nabc\r\n0\r\n\r\n", id="chunk too long"),
        pytest.param(HEAD + CHUNKED + b"\r\n\r\n3\nabc\n0\n\n", id="LF in chunks"),
        pytest.param(HEAD + CHUNKED + b"\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n", id="LF in extension"),
        pytest.param(
            HEAD + CHUNKED + b"\r\n\r\n3;" + b"a" * (1 << 20) + b"\r\nabc\r\n0\r\n\r\n",
            id="1 MB chunk extension",
        ),
        pytest.param(
            GET.replace(b"/healthz", b"http://localhost/healthz") + b"\r\n", id="absolute"
        ),
        pytest.param(b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n", id="asterisk"),
        pytest.param(b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n", id="CONNECT"),
        pytest.param(GET.replace(b"/healthz", b"/healthz#a") + b"\r\n", id="fragment"),
        pytest.param(GET.replace(b"/healthz", b"/\xc3\xa9") + b"\r\n", id="raw UTF-8 in the path"),
        pytest.param(b"GET /healthz\r\n\r\n", id="HTTP/0.9"),
        pytest.param(GET.replace(b"1.1", b"2.0") + b"\r\n", id="HTTP/2.0 by name"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2 preface"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", id="TLS"),
        pytest.param(b"get /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n", id="unknown method"),
    ],
)
def test_ambiguous_requests_are_refused_and_nothing_after_them_is_read(
    tollway: Tollway, upstream: Upstream, data: bytes
) -> None:
    with connect(tollway) as client:
        client.send(data + post(chat("smuggled")))
        refused = client.reply()
        assert (refused.status, refused.error["type"]) == (400, "invalid_request_error")
        assert refused.headers["connection"] == "close"
        assert client.is_closed()
    assert not upstream.calls


@pytest.mark.negative(number=22)
@pytest.mark.parametrize("number", [101, 50_000])
def test_too_many_headers(tollway: Tollway, number: int) -> None:
    with connect(tollway) as client:
        client.send(GET + b"a: b\r\n" * (number - 1) + b"\r\n")
        refused = client.reply()
    assert (refused.status, refused.error["code"]) == (431, "request_header_fields_too_large")


@pytest.mark.negative(number=22)
def test_a_hundred_headers_are_read(tollway: Tollway) -> None:
    with connect(tollway) as client:
        client.send(GET + b"a: b\r\n" * 99 + b"\r\n")
        assert client.reply().status == 200


@pytest.mark.negative(number=22)
@pytest.mark.parametrize("place", ["value", "name", "path"])
def test_a_large_head(tollway: Tollway, place: str) -> None:
    long = b"a" * heads.MOST_HEAD_BYTES
    data = {
        "value": GET + b"a: " + long + b"\r\n\r\n",
        "name": GET + long + b": a\r\n\r\n",
        "path": GET.replace(b"healthz", long) + b"\r\n",
    }[place]
    with connect(tollway) as client:
        client.send(data)
        assert client.reply().status == 431
        assert client.is_closed()


@pytest.mark.negative(number=22)
def test_a_head_without_end_is_refused_before_it_ends(tollway: Tollway) -> None:
    with connect(tollway) as client:
        client.send(GET + b"a: ")
        try:
            for _ in range(64):
                client.send(b"a" * (1 << 20))
        except ConnectionError:
            return  # closed while it was still being sent
        assert client.reply().status == 431


@pytest.mark.negative(number=8)
@pytest.mark.parametrize(
    ("path", "status"),
    [
        (b"//admin/v1/keys", 404),
        (b"/v1/%2e%2e/admin/v1/keys", 404),
        (b"/v1/models/../../admin/v1/keys", 404),
        (b"/%61dmin/v1/keys", 401),
        (b"/admin/v1/keys;x=/healthz", 404),
        (b"/admin/v1/keys?x=/healthz", 401),
        (b"/healthz%00", 404),
        (b"/healthz%0d%0aa:%20b", 404),
        (b"\\admin", 400),
    ],
)
def test_paths_are_what_they_say(tollway: Tollway, path: bytes, status: int) -> None:
    with connect(tollway) as client:
        client.send(GET.replace(b"/healthz", path) + b"\r\n")
        refused = client.reply()
        assert refused.status == status
        assert refused.error["message"]


@pytest.mark.negative(number=25)
def test_trailers_are_no_headers(tollway: Tollway, upstream: Upstream) -> None:
    body = chat()
    with connect(tollway) as client:
        client.send(HEAD + CHUNKED + b"\r\n\r\n%x\r\n%b\r\n" % (len(body), body))
        client.send(b"0\r\nauthorization: Bearer sk-tw-lost\r\norigin: http://evil\r\n\r\n")
        assert client.reply().status == 200
        # In one piece with the head they were read before the application was.
        trailer = b"0\r\nauthorization: Bearer sk-tw-lost\r\norigin: http://evil\r\n\r\n"
        client.send(HEAD + CHUNKED + b"\r\n\r\n%x\r\n%b\r\n%b" % (len(body), body, trailer))
        assert client.reply().status == 200
        client.send(GET + b"\r\n")
        assert client.reply().status == 200


# --- who asks, and what goes on upstream ---------------------------------------------------


@pytest.fixture(scope="module")
def keyed(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    """A server that has a key."""
    config = provider(upstream.base_url, "m1")
    with serving(tmp_path_factory.mktemp("keyed"), config) as running:
        running.admin("POST", "/keys", {"name": "somebody"})
        yield running


@pytest.mark.negative(number=5)
@pytest.mark.parametrize(
    "key", ["' OR 1=1--", "x" * 10_000, "sk-tw-", "{{7*7}}", "%s%n", "\u00e9", "a b", "*"]
)
def test_every_wrong_key_gets_the_same_answer(keyed: Tollway, key: str) -> None:
    said = {
        (reply.status_code, reply.json()["error"]["message"], reply.json()["error"]["code"])
        for name, value in (
            ("authorization", f"Bearer {key}"),
            ("x-api-key", key),
            ("api-key", key),
        )
        for reply in [keyed.chat(headers={name: value.encode("latin-1")})]
    }
    assert said == {(401, "the API key is unknown or revoked", "invalid_api_key")}


@pytest.mark.negative(number=7)
def test_a_key_in_the_url_is_none(keyed: Tollway, upstream: Upstream) -> None:
    key = keyed.admin("POST", "/keys", {"name": "url"})["key"]
    body = {"model": "up/m1", "messages": [{"role": "user", "content": "Hello"}]}
    for name in ("key", "api_key", "access_token"):
        reply = keyed.post(f"/v1/chat/completions?{name}={key}", body)
        assert reply.status_code == 401
        assert key not in reply.text
    assert not upstream.calls


@pytest.mark.negative(number=10)
def test_every_route_but_the_health_checks_asks_who_it_is(keyed: Tollway) -> None:
    bearer = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    document = keyed.get("/admin/v1/openapi.json", headers=bearer).json()
    routes = [(m, path) for path, methods in document["paths"].items() for m in methods]
    routes += [("get", path) for path in ("/admin/v1/openapi.json", "/metrics", "/v1/models")]
    routes += [("get", path) for path in ("/v1/models/auto", "/api/v1/key", "/v1/responses/x")]
    endpoints = ("chat/completions", "completions", "embeddings", "messages", "responses")
    endpoints += ("messages/count_tokens", "moderations", "images/generations", "rerank")
    endpoints += ("audio/transcriptions", "audio/speech", "responses/x/cancel")
    routes += [("post", f"/v1/{path}") for path in endpoints]
    routes += [("post", "/v2/rerank"), ("delete", "/v1/responses/x")]
    for method, path in routes:
        reply = httpx2.request(method, keyed.url + path.replace("{", "").replace("}", ""))
        assert reply.status_code == 401, f"{method} {path}: {reply.text}"
    assert [keyed.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]


@pytest.mark.negative(number=29)
def test_headers_of_clients_do_not_go_upstream(tollway: Tollway, upstream: Upstream) -> None:
    names = b"""x-forwarded-for x-forwarded-host forwarded x-real-ip via te trailer keep-alive
    cookie proxy-authorization proxy-connection x-evil x-tollway-user x-amz-date x-goog-api-key
    openai-organization anthropic-beta user-agent accept-encoding""".split()
    with connect(tollway) as client:
        client.send(
            post(chat(), b"connection: keep-alive, x-evil", *(n + b": evil" for n in names))
        )
        assert client.reply().status == 200
    (call,) = upstream.calls
    assert "evil" not in str(call.headers)


@pytest.mark.negative(number=28)
@pytest.mark.parametrize("name", [b"x-tollway-tags", b"x-request-id", b"x-tollway-user"])
def test_no_header_is_another_one(tollway: Tollway, upstream: Upstream, name: bytes) -> None:
    for value in (b"a%0d%0ax-evil: 1", b"a\\r\\nx-evil: 1", b"a\xe5\x98\x8dx-evil: 1"):
        with connect(tollway) as client:
            client.send(post(chat(), name + b": " + value))
            assert "x-evil" not in client.reply().headers
    assert not [call for call in upstream.calls if "x-evil" in call.headers]


# --- what must go on to work ---------------------------------------------------------------


@pytest.mark.parametrize("split", [False, True])
def test_an_upgrade_to_h2c_is_ignored(tollway: Tollway, upstream: Upstream, split: bool) -> None:
    """As Java's HttpClient sends it on its first request to a plain server."""
    request = post(
        chat("from Java"),
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    )
    with connect(tollway) as client:
        for part in (request[:80], request[80:]) if split else (request,):
            client.send(part)
        assert client.reply().status == 200
        client.send(request * 3 + GET + b"\r\n")
        assert [client.reply().status for _ in range(4)] == [200] * 4
    assert [call.body["messages"][0]["content"] for call in upstream.calls] == ["from Java"] * 4


def test_http_1_0_gets_no_chunks(tollway: Tollway) -> None:
    """As nginx asks its upstreams, unless it is told otherwise."""
    with connect(tollway) as client:
        client.send(post(chat(stream=True), version=b"HTTP/1.0"))
        reply = client.reply()
    assert reply.status == 200
    assert "transfer-encoding" not in reply.headers
    assert reply.body.startswith(b"data: {")
    assert reply.body.endswith(b"data: [DONE]\n\n")


def test_http_1_0_streams_as_it_comes(tollway: Tollway, upstream: Upstream) -> None:
    goes_on = threading.Event()

    async def answer(call: Call, line: Line) -> None:
        await line.start_stream()
        await line.event(chunk({"role": "assistant", "content": "first"}))
        while not goes_on.is_set():
            await line.send(b"")
            await _soon()
        await line.event(chunk({}, "stop"))
        await line.event(usage_chunk())
        await line.end_stream()

    upstream.scripts["m1"] = answer
    with connect(tollway) as client:
        client.send(post(chat(stream=True), version=b"HTTP/1.0"))
        assert b"first" in client.read_until(b"first")
        goes_on.set()
        client.read_until(b"data: [DONE]\n\n")
        assert client.is_closed()


async def _soon() -> None:
    await asyncio.sleep(0.01)


def test_http_1_0_without_a_host_and_whole_answers(tollway: Tollway) -> None:
    with connect(tollway) as client:
        client.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        reply = client.reply()
        assert (reply.status, reply.body) == (200, b'{"status":"ok"}')
        assert client.is_closed()


def test_expect_100_continue(tollway: Tollway) -> None:
    body = chat()
    head, _, _ = post(body, b"expect: 100-continue").partition(b"\r\n\r\n")
    with connect(tollway) as client:
        client.send(head + b"\r\n\r\n")
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(body)
        assert client.reply().status == 200


def test_http_1_0_is_not_told_to_continue(tollway: Tollway) -> None:
    with connect(tollway) as client:
        request = post(chat(), b"expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
        head, mark, body = request.partition(b"\r\n\r\n")
        client.send(head + mark)
        client.send(body)
        assert [reply.status for reply in client.replies()] == [200]


def test_a_refused_body_is_read_past(tollway: Tollway) -> None:
    """What is still on its way when it is refused is not the next request."""
    body = b"GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n" + b"x" * 100_000
    with connect(tollway) as client:
        request = post(body, b"authorization: Bearer sk-tw-lost")
        client.send(request[:500])
        assert client.reply().status == 401
        client.send(request[500:] + GET + b"\r\n")
        assert client.reply().body == b'{"status":"ok"}'


# --- several requests on a connection ------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(tollway: Tollway, upstream: Upstream) -> None:
    async def slow(call: Call, line: Line) -> None:
        await _soon()
        text = call.body["messages"][0]["content"]
        await line.start_stream()
        await line.event(chunk({"role": "assistant", "content": text}))
        await line.event(chunk({}, "stop"))
        await line.event(usage_chunk())
        await line.end_stream()

    upstream.scripts["m1"] = slow
    with connect(tollway) as client:
        client.send(b"".join(post(chat(f"number {i}", stream=True)) for i in range(10)))
        replies = [client.reply().body for _ in range(10)]
    assert [b"number %d" % i in body for i, body in enumerate(replies)] == [True] * 10


def test_a_flood_of_pipelined_requests_is_cut(tollway: Tollway) -> None:
    with connect(tollway) as client:
        client.send((GET + b"\r\n") * 5_000)
        replies = client.replies()
    assert 0 < len(replies) < 50
    assert {reply.status for reply in replies} == {200}
    assert replies[-1].headers["connection"] == "close"


def test_of_a_flood_with_bodies_all_that_is_begun_is_answered(tollway: Tollway) -> None:
    """One that waited for a body which is not read any more would have its place for good."""
    with connect(tollway) as client:
        client.send(post(chat()) * 60)
        replies = client.replies()
    assert 0 < len(replies) < 60
    assert {reply.status for reply in replies} == {200}
    assert replies[-1].headers["connection"] == "close"


def test_garbage_behind_a_stream_does_not_get_into_it(tollway: Tollway, upstream: Upstream) -> None:
    with connect(tollway) as client:
        client.send(post(chat(stream=True)) + b"garbage\r\n\r\n" + post(chat("smuggled")))
        (reply,) = client.replies()
    assert reply.body.endswith(b"data: [DONE]\n\n")
    assert len(upstream.calls) == 1


def test_a_client_that_leaves_before_its_next_request_is_answered(
    tollway: Tollway, upstream: Upstream
) -> None:
    async def endless(call: Call, line: Line) -> None:
        await line.start_stream()
        await line.event(chunk({"role": "assistant", "content": "word"}))
        await line.until_closed()

    upstream.scripts["m1"] = endless
    with connect(tollway) as client:
        client.send(post(chat(stream=True)))
        client.read_until(b"word")
        client.send(GET + b"\r\n")
    assert upstream.calls[0].closed.wait(30)


# --- property: framing ---------------------------------------------------------------------

_cuts = st.lists(st.integers(0, 3_000), max_size=6)


@st.composite
def _requests(draw: st.DrawFn) -> list[tuple[bytes, str]]:
    """Some requests, each with what its reply's body must have in it."""
    found = []
    for i in range(draw(st.integers(1, 5))):
        body = chat(f"number {i}", filler="x" * draw(st.integers(0, 300)))
        shape = draw(st.sampled_from(["length", "chunks", "h2c", "get"]))
        if shape == "length":
            found.append((post(body), "chat.completion"))
        elif shape == "h2c":
            found.append((post(body, b"connection: upgrade", b"upgrade: h2c"), "chat.completion"))
        elif shape == "get":
            found.append((GET + b"\r\n", '{"status":"ok"}'))
        else:
            sizes = draw(st.lists(st.integers(1, 99), min_size=1, max_size=4))
            found.append((HEAD + CHUNKED + b"\r\n\r\n" + _chunked(body, sizes), "chat.completion"))
    return found


def _chunked(body: bytes, sizes: list[int]) -> bytes:
    parts, at = [], 0
    for size in (*sizes, len(body)):
        if part := body[at : at + size]:
            parts.append(b"%x;ext=1\r\n%b\r\n" % (len(part), part))
        at += size
    return b"".join(parts) + b"0\r\ntrailer: 1\r\n\r\n"


@given(requests=_requests(), cuts=_cuts)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_requests_are_the_same_however_they_are_cut(
    tollway: Tollway, upstream: Upstream, requests: list[tuple[bytes, str]], cuts: list[int]
) -> None:
    data = b"".join(request for request, _ in requests)
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    with connect(tollway) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = 0
        for end in ends:
            client.send(data[begin:end])
            begin = end
        for _, said in requests:
            assert said in client.reply().body.decode()


_nasty = st.sampled_from(
    [
        *(bytes([byte]) for byte in b"\r\n\0 \t:;,9\x80"),
        *(b"\r\n ", b"\r\n\r\n", b"0\r\n\r\n"),
        *(b"content-length: 0\r\n", b"transfer-encoding: chunked\r\n", b"host: evil\r\n"),
    ]
)


@pytest.mark.negative(number=25)
@given(
    shape=st.sampled_from(["length", "chunks"]),
    faults=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), _nasty), min_size=1, max_size=3),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_fault_in_the_framing_lets_a_body_be_a_request(
    hasty: Tollway,
    upstream: Upstream,
    shape: str,
    faults: list[tuple[float, int, bytes]],
) -> None:
    """With a request within a body and a fault in what is around it, only whole bodies pass."""
    upstream.calls.clear()
    inner = post(chat("smuggled")).decode("latin-1")
    body = chat("outer", inner=inner).replace(b"\\r\\n", b"\r\n").replace(b'\\"', b'"')
    data = bytearray(
        post(body) if shape == "length" else HEAD + CHUNKED + b"\r\n\r\n" + _chunked(body, [40])
    )
    head_end = data.index(b"\r\n\r\n")
    for share, removed, added in faults:
        at = int(share * head_end)
        data[at : at + removed] = added
    with connect(hasty) as client:
        client.send(bytes(data))
        for reply in client.replies():
            assert 200 <= reply.status < 500
            json.loads(reply.body)
    assert not [call for call in upstream.calls if call.body["messages"][0]["content"] != "outer"]


# --- slowness ------------------------------------------------------------------------------


@pytest.mark.negative(number=23)
@pytest.mark.parametrize("data", [b"", b"POST /v1/chat", GET, GET + b"a: b\r\n"])
def test_a_slow_head_is_closed(hasty: Tollway, data: bytes) -> None:
    with connect(hasty) as client:
        client.send(data)
        assert client.is_closed()


@pytest.mark.negative(number=23)
def test_a_head_that_drips_is_closed(hasty: Tollway) -> None:
    with connect(hasty) as client:
        client.send(GET)
        # Within the limit on headers, and of those on time far beyond.
        assert _answer_to_drops(client, b"a", most=3_000) == b""


def _answer_to_drops(client: Connection, drop: bytes, *, most: int) -> bytes:
    """What comes back while bytes are sent one by one; nothing where the connection is closed."""
    client.sock.settimeout(0.05)
    with contextlib.suppress(ConnectionError):
        for _ in range(most):
            client.send(drop)
            with contextlib.suppress(TimeoutError):
                return client.sock.recv(65536)
        raise AssertionError("no answer, however long")
    return b""


@pytest.mark.negative(number=23)
@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/messages"])
def test_a_stalled_body_is_a_408(hasty: Tollway, upstream: Upstream, path: bytes) -> None:
    with connect(hasty) as client:
        client.send(post(chat(), path=path)[:-5])
        refused = client.reply()
        assert refused.status == 408
        kinds = {"invalid_request_error", "timeout_error"}
        assert json.loads(refused.body)["error"]["type"] in kinds
        assert client.is_closed()
    assert not upstream.calls


@pytest.mark.negative(number=23)
def test_a_body_that_drips_is_a_408(hasty: Tollway, upstream: Upstream) -> None:
    with connect(hasty) as client:
        client.send(post(chat("x" * 100_000))[:500])
        received = _answer_to_drops(client, b"x", most=3_000)
        assert received.startswith(b"HTTP/1.1 408 ")
    assert not upstream.calls


@pytest.mark.negative(number=23)
def test_a_slow_body_of_an_admin_is_answered(hasty: Tollway) -> None:
    token = f"authorization: Bearer {ADMIN_TOKEN}".encode()
    with connect(hasty) as client:
        client.send(post(b'{"name": "a"}', token, path=b"/admin/v1/keys")[:-3])
        assert client.reply().status == 408
    assert "Traceback" not in hasty.log()


def test_a_broken_chunk_of_a_body_that_is_being_read(tollway: Tollway, upstream: Upstream) -> None:
    with connect(tollway) as client:
        client.send(HEAD + CHUNKED + b"\r\n\r\n3\r\nabc\r\n")
        client.send(b"nonsense\r\n")
        assert client.reply().status == 400
        assert client.is_closed()


def test_an_idle_connection_is_kept_for_its_time(hasty: Tollway) -> None:
    with connect(hasty) as client:
        client.send(GET + b"\r\n")
        assert client.reply().status == 200
        assert client.is_closed()


@pytest.mark.resilience(row="readers")
def test_a_reader_that_stalls_is_given_up_with_little_waiting(
    hasty: Tollway, upstream: Upstream
) -> None:
    """The upstream is not read on, and its stream is closed."""
    sent_bytes = 0

    async def endless(call: Call, line: Line) -> None:
        nonlocal sent_bytes
        await line.start_stream()
        while True:
            await line.event(chunk({"role": "assistant", "content": "x" * 1_000}))
            sent_bytes += 1_000

    upstream.scripts["m1"] = endless
    with connect(hasty) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(post(chat(stream=True)))
        assert upstream.wait_for_calls(1)[0].closed.wait(30)
    (row,) = [row for row in hasty.rows(1) if row["started_at"] == hasty.rows()[-1]["started_at"]]
    assert row["outcome"] == "client_gone"
    # What lies in the buffers of four sockets and two processes.
    assert sent_bytes < 20 << 20


def test_a_slow_reader_that_goes_on_reading_gets_it_all(hasty: Tollway, upstream: Upstream) -> None:
    words = 3_000

    async def much(call: Call, line: Line) -> None:
        await line.start_stream()
        for _ in range(words):
            await line.event(chunk({"role": "assistant", "content": "x" * 1_000}))
        await line.event(chunk({}, "stop"))
        await line.event(usage_chunk())
        await line.end_stream()

    upstream.scripts["m1"] = much
    with connect(hasty) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        client.send(post(chat(stream=True)))
        reply = client.reply()
    assert reply.body.count(b"x" * 1_000) == words
    assert reply.body.endswith(b"data: [DONE]\n\n")


STALLED = int(os.environ.get("TOLLWAY_STALLED_CLIENTS", "150"))


@pytest.mark.resilience(row="readers")
@pytest.mark.negative(number=24)
def test_stalled_clients_harm_nobody(upstream: Upstream, tmp_path: Path) -> None:
    """Some stall in their head, some in their body, some in what they are sent, some say nothing.

    `make chaos` has a thousand of them.
    """
    least_sent = threading.Semaphore(0)

    async def much(call: Call, line: Line) -> None:
        await line.start_stream()
        for i in range(100_000):
            await line.event(chunk({"role": "assistant", "content": "x" * 8_000}))
            if i == 20:
                least_sent.release()

    upstream.scripts["m2"] = much
    config = provider(upstream.base_url, "m1", "m2")
    config["server"] |= {"head_s": 600, "body_s": 600, "reader_s": 600, "drain_s": 0.5}
    shapes = (b"", GET, post(chat("x" * 4_000))[:-9], post(chat(model="up/m2", stream=True)))
    with contextlib.ExitStack() as stack:
        tollway = stack.enter_context(serving(tmp_path, config))
        (worker,) = tollway.workers()
        assert tollway.chat("up/m1").status_code == 200
        before_bytes = worker.memory_info().rss
        for i in range(STALLED):
            client = stack.enter_context(connect(tollway))
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.send(shapes[i % len(shapes)])
        for _ in range(STALLED // len(shapes)):
            assert least_sent.acquire(timeout=60)
        for _ in range(20):
            assert tollway.chat("up/m1").status_code == 200
        grown_bytes = worker.memory_info().rss - before_bytes
        print(f"\n{STALLED} stalled clients: RSS +{grown_bytes >> 20} MB")
        assert grown_bytes < 300_000 * STALLED + (30 << 20)


# --- too much of it ------------------------------------------------------------------------


@pytest.mark.negative(number=32)
@pytest.mark.negative(number=30)
def test_processes_dump_no_core_and_may_have_files(tollway: Tollway) -> None:
    for child in tollway.children():
        assert resource.prlimit(child.pid, resource.RLIMIT_CORE)[0] == 0
        soft, hard = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
        assert soft == hard


@pytest.mark.resilience(row="overload")
def test_overload_waits_then_is_turned_away_before_the_body(
    upstream: Upstream, tmp_path: Path
) -> None:
    goes_on = threading.Event()

    async def held(call: Call, line: Line) -> None:
        while not goes_on.is_set():
            await _soon()
        await line.json(completion())

    upstream.scripts["m1"] = held
    config = provider(upstream.base_url, "m1")
    config["server"] |= {"max_concurrent": 2, "queue": 1, "queue_s": 600}
    with contextlib.ExitStack() as stack:
        tollway = stack.enter_context(serving(tmp_path, config))
        first, second, waiting, refused = (stack.enter_context(connect(tollway)) for _ in range(4))
        first.send(post(chat("first")))
        second.send(post(chat("second")))
        upstream.wait_for_calls(2)
        waiting.send(post(chat("third")))
        # The two below would wait in its place if it did not.
        _until_accepted(tollway, 3)
        refused.send(post(chat("x" * 100_000))[:1_000])
        reply = refused.reply()
        assert (reply.status, reply.error["code"]) == (503, "overloaded")
        assert (reply.error["type"], reply.headers["retry-after"]) == ("server_error", "1")
        refused.send(post(chat("x" * 100_000))[1_000:])
        refused.send(post(chat(), path=b"/v1/messages"))
        reply = refused.reply()
        assert (reply.status, json.loads(reply.body)["error"]["type"]) == (503, "overloaded_error")
        assert tollway.get("/healthz").status_code == 200
        assert tollway.admin("GET", "/keys")["data"] == []
        assert len(upstream.calls) == 2
        goes_on.set()
        assert [client.reply().status for client in (first, second, waiting)] == [200] * 3
        refused.send(post(chat()))
        assert refused.reply().status == 200


@pytest.mark.resilience(row="overload")
def test_who_is_turned_away_and_asks_again_at_once_is_heard_later(
    upstream: Upstream, tmp_path: Path
) -> None:
    async def held(call: Call, line: Line) -> None:
        await line.until_closed()

    upstream.scripts["m1"] = held
    config = provider(upstream.base_url, "m1")
    config["server"] |= {"max_concurrent": 1, "queue": 0, "drain_s": 0.5}
    callers, rounds = 20, 30
    with contextlib.ExitStack() as stack:
        tollway = stack.enter_context(serving(tmp_path, config))
        first, *others = (stack.enter_context(connect(tollway)) for _ in range(1 + callers))
        first.send(post(chat()))
        upstream.wait_for_calls(1)
        began_at = time.monotonic()
        for _ in range(rounds):
            for other in others:
                other.send(post(chat("x" * 1_000)))
            assert {other.reply().status for other in others} == {503}
        took_s = time.monotonic() - began_at
        assert took_s > callers * (rounds - 2) / MOST_REFUSALS_PER_S - UNTROUBLED_S
        # Those that rest are let go like all others.
        first.sock.close()
        assert tollway.stop() == 0


def _until_accepted(tollway: Tollway, number: int) -> None:
    """Wait until the server has so many requests, whose bytes it has read."""
    (worker,) = tollway.workers()

    def has_them() -> bool:
        clients = [c for c in worker.net_connections() if c.status == "ESTABLISHED"]
        return len(clients) >= number and tollway.get("/healthz").status_code == 200

    until(has_them)


def test_who_waits_too_long_is_turned_away(upstream: Upstream, tmp_path: Path) -> None:
    async def held(call: Call, line: Line) -> None:
        await line.until_closed()

    upstream.scripts["m1"] = held
    config = provider(upstream.base_url, "m1")
    config["server"] |= {"max_concurrent": 1, "queue": 1, "queue_s": 0.1, "drain_s": 0.5}
    with serving(tmp_path, config) as tollway, connect(tollway) as first:
        first.send(post(chat()))
        upstream.wait_for_calls(1)
        assert tollway.chat("up/m1").json()["error"]["code"] == "overloaded"


def test_the_end_of_a_drain_is_told(upstream: Upstream, tmp_path: Path) -> None:
    """A stream ends in an error event, an answer that has not begun is a 503."""

    async def endless(call: Call, line: Line) -> None:
        if call.body.get("stream"):
            await line.start_stream()
            await line.event(chunk({"role": "assistant", "content": "word"}))
        await line.until_closed()

    upstream.scripts["m1"] = endless
    config = provider(upstream.base_url, "m1")
    config["server"]["drain_s"] = 0.5
    with contextlib.ExitStack() as stack:
        tollway = stack.enter_context(serving(tmp_path, config))
        stream, messages, whole = (stack.enter_context(connect(tollway)) for _ in range(3))
        stream.send(post(chat(stream=True)))
        messages.send(post(chat(stream=True, max_tokens=9), path=b"/v1/messages"))
        whole.send(post(chat()))
        for client in (stream, messages):
            client.read_until(b"word")
        upstream.wait_for_calls(3)
        os.kill(tollway.pid, signal.SIGTERM)
        ended = stream.read_until(b"0\r\n\r\n")
        assert b'"code":"server_stopping"' in ended
        assert b"[DONE]" not in ended
        assert b"event: error" in messages.read_until(b"0\r\n\r\n")
        reply = whole.reply()
        assert (reply.status, reply.error["code"]) == (503, "server_stopping")
        assert tollway.stop() == 0
        assert [row["outcome"] for row in tollway.rows(3)] == ["client_gone"] * 3
        assert "Traceback" not in tollway.log()
