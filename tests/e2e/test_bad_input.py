"""Bad input gets a clear error in OpenAI's shape, and loses nothing."""

from __future__ import annotations

import gzip
import json
import socket
from typing import Any

import httpx2
import pytest

from tests.e2e.tollway import Tollway
from tests.e2e.upstream import Upstream

MESSAGES = [{"role": "user", "content": "Hello"}]


def _error(reply: httpx2.Response) -> dict[str, Any]:
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"].startswith("req_")
    body = reply.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["message"] == error["message"].strip()
    return error


@pytest.mark.negative(number=26)
@pytest.mark.negative(number=27)
@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"null", None),
        (b'{"model":"auto","messages":[],"x":NaN}', None),
        (b'{"model":"auto","messages":[{"role":"user","content":"\xff"}]}', None),
        (b"[" * 100_000, None),
        (b'{"a":' * 100_000, None),
        (b'{"model":"auto","model":"best","messages":[]}', "model"),
        (json.dumps({"messages": MESSAGES}).encode(), "model"),
        (json.dumps({"model": "auto"}).encode(), "messages"),
        (json.dumps({"model": "", "messages": MESSAGES}).encode(), "model"),
        (json.dumps({"model": 5, "messages": MESSAGES}).encode(), "model"),
        (json.dumps({"model": "auto", "messages": []}).encode(), "messages"),
        (json.dumps({"model": "auto", "messages": "Hello"}).encode(), "messages"),
        (json.dumps({"model": "auto", "messages": [{}]}).encode(), "messages[0].role"),
        (json.dumps({"model": "auto", "messages": MESSAGES, "stream": "yes"}).encode(), "stream"),
        (
            json.dumps({"model": "auto", "messages": MESSAGES, "max_tokens": -1}).encode(),
            "max_tokens",
        ),
        (
            json.dumps({"model": "auto", "messages": MESSAGES, "max_tokens": 2**63}).encode(),
            "max_tokens",
        ),
        (
            json.dumps({"model": "auto", "messages": MESSAGES, "max_tokens": "10"}).encode(),
            "max_tokens",
        ),
        (json.dumps({"model": "auto", "messages": MESSAGES, "n": 10**6}).encode(), "n"),
        (b'{"model":"auto","messages":[{"role":"user"}],"n":1' + b"0" * 4000 + b"}", "n"),
    ],
)
def test_malformed_chat_request(
    tollway: Tollway, upstream: Upstream, body: bytes, param: str | None
) -> None:
    reply = httpx2.post(f"{tollway.url}/v1/chat/completions", content=body)
    assert reply.status_code == 400
    error = _error(reply)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert not upstream.calls


@pytest.mark.parametrize(
    "value", [None, "", [], {}, 7, ["a", 1], [[1], "a"], [-1], [["a"]], ["a"] * 2049]
)
def test_malformed_embeddings_input(tollway: Tollway, upstream: Upstream, value: object) -> None:
    reply = tollway.post("/v1/embeddings", {"model": "vectors", "input": value})
    if value == "":
        assert reply.status_code in (200, 400)  # providers differ; it is theirs to say
        return
    assert reply.status_code == 400
    assert _error(reply)["param"] == "input"
    assert not upstream.calls


@pytest.mark.negative(number=26)
def test_a_lone_surrogate_is_accepted(tollway: Tollway, upstream: Upstream) -> None:
    body = b'{"model":"auto","messages":[{"role":"user","content":"\\ud83d"}]}'
    assert httpx2.post(f"{tollway.url}/v1/chat/completions", content=body).status_code == 200
    assert b"\\ud83d" in upstream.calls[0].raw


@pytest.mark.negative(number=15)
@pytest.mark.parametrize("name", ["nobody", "../../x", "up/none", "a\r\nb", "\0", "x" * 1_000_000])
def test_unknown_model(tollway: Tollway, name: str) -> None:
    reply = tollway.chat(name)
    assert reply.status_code == 404
    error = _error(reply)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert len(reply.content) < 2000


def test_unknown_model_is_not_retrieved(tollway: Tollway) -> None:
    assert _error(tollway.get("/v1/models/nobody"))["code"] == "model_not_found"
    assert tollway.get("/v1/models/up%2Fm1").json()["id"] == "up/m1"
    assert tollway.get("/v1/models/up/m1").json()["id"] == "up/m1"


def test_wrong_endpoint_for_a_model(tollway: Tollway) -> None:
    assert _error(tollway.chat("up/embed"))["param"] == "model"
    reply = tollway.post("/v1/embeddings", {"model": "up/m1", "input": "x"})
    assert (reply.status_code, _error(reply)["param"]) == (400, "model")
    assert tollway.post("/v1/embeddings", {"model": "auto", "input": "x"}).status_code == 400


def test_a_virtual_model_without_targets_is_a_503(tollway: Tollway) -> None:
    reply = tollway.chat("nothing")
    assert (reply.status_code, _error(reply)["code"]) == (503, "no_target")


def test_too_long_for_every_context(tollway: Tollway) -> None:
    reply = tollway.chat("auto", messages=[{"role": "user", "content": "x" * 2_000_000}])
    assert (reply.status_code, _error(reply)["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/chat", "/v1/nothing", "/admin/v1/x", "/v1//models"]
)
def test_unknown_path(tollway: Tollway, path: str) -> None:
    reply = tollway.get(path)
    assert reply.status_code == 404
    assert _error(reply)["code"] == "not_found"


def test_wrong_method(tollway: Tollway) -> None:
    reply = tollway.get("/v1/chat/completions")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert _error(reply)["code"] == "method_not_allowed"
    assert httpx2.delete(f"{tollway.url}/v1/models/auto").status_code == 405


def test_head_answers_without_a_body(tollway: Tollway) -> None:
    reply = httpx2.head(f"{tollway.url}/healthz")
    assert (reply.status_code, reply.content) == (200, b"")


@pytest.mark.negative(number=19)
def test_oversized_body(tollway: Tollway, upstream: Upstream) -> None:
    body = b'{"model":"auto","messages":"' + b"x" * (33 << 20)
    reply = httpx2.post(f"{tollway.url}/v1/chat/completions", content=body, timeout=30)
    assert (reply.status_code, _error(reply)["code"]) == (413, "request_too_large")

    def endless() -> Any:
        for _ in range(40):
            yield b"x" * (1 << 20)

    try:
        reply = httpx2.post(f"{tollway.url}/v1/chat/completions", content=endless(), timeout=30)
        assert reply.status_code == 413
    except httpx2.WriteError:
        pass  # it was refused while it was still being sent
    assert not upstream.calls


@pytest.mark.negative(number=20)
def test_gzip_bomb_and_unknown_encodings(tollway: Tollway, upstream: Upstream) -> None:
    url = f"{tollway.url}/v1/chat/completions"
    bomb = gzip.compress(b"x" * (64 << 20))
    reply = httpx2.post(url, content=bomb, headers={"content-encoding": "gzip"})
    assert (reply.status_code, _error(reply)["code"]) == (413, "request_too_large")
    reply = httpx2.post(url, content=b"x", headers={"content-encoding": "gzip"})
    assert reply.status_code == 400
    for coding in ("br", "zstd", "gzip, gzip"):
        reply = httpx2.post(url, content=b"x", headers={"content-encoding": coding})
        assert (reply.status_code, _error(reply)["code"]) == (415, "unsupported_encoding")
    assert not upstream.calls


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "null"},
    ],
)
def test_no_web_page_spends_money(
    tollway: Tollway, upstream: Upstream, headers: dict[str, str]
) -> None:
    reply = tollway.chat("auto", headers=headers)
    assert (reply.status_code, _error(reply)["code"]) == (403, "forbidden")
    assert not upstream.calls
    assert tollway.chat("auto", headers={"origin": "http://localhost:3000"}).status_code == 200


def test_a_key_of_ours_that_is_unknown_is_refused_even_without_keys(tollway: Tollway) -> None:
    reply = tollway.chat("auto", headers={"authorization": "Bearer sk-tw-lost"})
    assert (reply.status_code, _error(reply)["code"]) == (401, "invalid_api_key")


@pytest.mark.negative(number=7)
def test_two_keys_that_differ_are_refused(tollway: Tollway) -> None:
    headers = {"authorization": "Bearer a", "x-api-key": "b"}
    assert _error(tollway.chat("auto", headers=headers))["code"] == "invalid_api_key"


def test_metrics_need_the_admin_token(tollway: Tollway) -> None:
    assert tollway.get("/metrics").status_code == 401
    wrong = tollway.get("/metrics", headers={"authorization": "Bearer wrong"})
    assert (wrong.status_code, _error(wrong)["code"]) == (401, "invalid_api_key")


def test_garbage_on_the_socket_does_not_end_the_service(tollway: Tollway) -> None:
    host, _, port = tollway.url.removeprefix("http://").partition(":")
    for garbage in (
        b"\x16\x03\x01",
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
    ):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(garbage + b"\r\n" * 4)
            client.shutdown(socket.SHUT_WR)
            client.settimeout(5)
            while client.recv(65536):
                pass
    assert tollway.get("/readyz").status_code == 200
