from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as IndependentVerifier

from proxy.webhooks import NotTaken, Webhook, signature, signing_key, url_problem
from tests.adapters.servers import Peer, ScriptedServer

NOW = 1_773_144_000


def post(
    server: ScriptedServer, path: str = "/hook", key: bytes | None = None, timeout_s: float = 10.0
) -> None:
    async def once() -> None:
        webhook = Webhook(server.url + path, key=key, timeout_s=timeout_s, environ={})
        try:
            await webhook.post("alert_1", b"{}", NOW)
        finally:
            await webhook.aclose()

    asyncio.run(once())


def answering(answer: bytes) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer)
        peer.is_gone()

    return script


def test_the_signature_is_that_of_the_standards_own_vector() -> None:
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    assert (
        signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body)
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@given(
    key=st.binary(min_size=24, max_size=80),
    body=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers()),
    padded=st.booleans(),
)
def test_an_independent_implementation_accepts_every_signature(
    key: bytes, body: dict[str, int], padded: bool
) -> None:
    from time import time

    encoded = base64.b64encode(key).decode()
    secret = "whsec_" + (encoded if padded else encoded.rstrip("="))
    raw, now = json.dumps(body).encode(), int(time())
    headers = {
        "webhook-id": "alert_1",
        "webhook-timestamp": str(now),
        "webhook-signature": signature(signing_key(secret), "alert_1", now, raw),
    }
    assert IndependentVerifier(secret).verify(raw, headers) == body


def test_a_plain_secret_is_its_own_key() -> None:
    assert signing_key("correct horse battery staple") == b"correct horse battery staple"


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        ("too short", "9 bytes"),
        ("whsec_" + base64.b64encode(b"x" * 23).decode(), "23 bytes"),
        ("whsec_!!!", "not base64"),
        ("", "0 bytes"),
    ],
)
def test_a_weak_secret_is_refused_and_not_quoted(secret: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        signing_key(secret)
    assert not secret or secret not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.slack.com/services/T0/B0/xyz",
        "http://127.0.0.1:8080",
        "https://[::1]:9/a?sig=%2F&b=1",
    ],
)
def test_a_url_that_can_be_posted_to(url: str) -> None:
    assert url_problem(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hook",
        "ftp://h/x",
        "https://",
        "https://u:p@h/x",
        "https://h/#x",
        "https://h/ä",
        "https://h:0x/",
    ],
)
def test_a_url_that_cannot_be_posted_to_is_not_quoted(url: str) -> None:
    problem = url_problem(url)
    assert problem is not None
    assert not url or url not in problem


def test_what_is_posted() -> None:
    seen = []

    def script(peer: Peer) -> None:
        seen.append(peer.read_request())
        peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        peer.is_gone()

    with ScriptedServer(script) as server:
        post(server, "/a/b?c=d", key=b"k" * 24)
    (request,) = seen
    assert request.line == "POST /a/b?c=d HTTP/1.1"
    assert request.body == b"{}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == "alert_1"
    assert request.headers["webhook-timestamp"] == str(NOW)
    assert request.headers["webhook-signature"] == signature(b"k" * 24, "alert_1", NOW, b"{}")


def test_without_a_key_nothing_claims_to_be_signed() -> None:
    seen = []

    def script(peer: Peer) -> None:
        seen.append(peer.read_request())
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        peer.is_gone()

    with ScriptedServer(script) as server:
        post(server)
    assert not [
        name for name in seen[0].headers if name in ("webhook-signature", "webhook-timestamp")
    ]


def test_the_body_of_the_answer_is_not_waited_for() -> None:
    with ScriptedServer(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")) as server:
        post(server)


@pytest.mark.parametrize(
    ("status", "header", "retry_after_s", "is_final"),
    [
        ("404 Not Found", "", None, False),
        ("410 Gone", "", None, True),
        ("429 Too Many Requests", "retry-after: 30\r\n", 30, False),
        ("503 Busy", "retry-after: Tue, 10 Mar 2026 12:02:00 GMT\r\n", 120, False),
        ("503 Busy", "retry-after: Tue, 10 Mar 2020 12:02:00 GMT\r\n", 0, False),
        ("503 Busy", "retry-after: soon\r\n", None, False),
        ("500 Oh", "retry-after: " + "9" * 400 + "\r\n", 999_999_999, False),
    ],
)
def test_what_is_no_2xx_was_not_taken(
    status: str, header: str, retry_after_s: float | None, is_final: bool
) -> None:
    answer = f"HTTP/1.1 {status}\r\n{header}content-length: 0\r\n\r\n".encode()
    with ScriptedServer(answering(answer)) as server, pytest.raises(NotTaken) as caught:
        post(server)
    assert status[:3] in str(caught.value)
    assert (caught.value.retry_after_s, caught.value.is_final) == (retry_after_s, is_final)


def test_a_redirect_is_not_followed() -> None:
    with ScriptedServer(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")) as other:
        to = f"HTTP/1.1 307 Elsewhere\r\nlocation: {other.url}/\r\ncontent-length: 0\r\n\r\n"
        with ScriptedServer(answering(to.encode())) as server, pytest.raises(NotTaken):
            post(server)
        assert other.connections == 0


def test_a_receiver_that_says_nothing_is_left() -> None:
    gone = []

    def script(peer: Peer) -> None:
        peer.read_request()
        gone.append(peer.is_gone())

    with ScriptedServer(script) as server, pytest.raises(NotTaken, match=r"0\.05 s"):
        post(server, timeout_s=0.05)
    assert gone == [True]


def test_a_receiver_that_drips_its_head_is_left() -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n")
        while not peer.is_gone(within_s=0.02):
            peer.send(b"x-drip: 1\r\n")

    with ScriptedServer(script) as server, pytest.raises(NotTaken, match=r"0\.2 s"):
        post(server, timeout_s=0.2)


def test_nobody_there_is_no_delivery() -> None:
    with ScriptedServer(answering(b"")) as server:
        gone = server.url

    async def once() -> None:
        await Webhook(gone, key=None, environ={}).post("alert_1", b"{}", NOW)

    with pytest.raises(NotTaken):
        asyncio.run(once())
