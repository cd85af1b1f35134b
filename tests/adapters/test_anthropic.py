"""The adapter for Anthropic's Messages API, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import pytest

from adapters import base
from adapters.anthropic import Anthropic
from adapters.base import Answer, Call, Deadlines, Endpoint
from adapters.wire.anthropic_failures import FAMILIES
from tests.adapters.contract import EVENTS
from tests.adapters.servers import Peer, Request, ScriptedServer
from tests.adapters.wire import END, head, whole
from tests.adapters.wire_anthropic import anthropic_event, anthropic_events, anthropic_message
from tests.adapters.wire_anthropic import error as anthropic_error

T = TypeVar("T")

Json = dict[str, Any]

KEY = "sk-ant-test-0123456789abcdef"
MESSAGE = anthropic_message({"type": "text", "text": "Hello, you"})
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
OWN = b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"x": 1.0}'


def call(
    endpoint: Endpoint = "chat",
    body: Json | bytes = CHAT,
    *,
    stream: bool = False,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Call:
    return Call(
        endpoint=endpoint,
        model="m",
        body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        stream=stream,
        deadlines=Deadlines(),
        headers=headers or {},
        **more,
    )


async def payloads_of(answer: Answer) -> list[bytes]:
    found: list[bytes] = []
    while payloads := await answer.payloads():
        found += payloads
    return found


async def body_of(answer: Answer) -> Json:
    body: Json = json.loads(await answer.body())
    return body


async def dropped_of(answer: Answer) -> list[str]:
    return list(answer.dropped)


def with_adapter(
    script: Callable[[Peer], None],
    play: Callable[[Anthropic], Awaitable[T]],
    *,
    path: str = "/v1",
    **settings: Any,
) -> T:
    async def run(url: str) -> T:
        adapter = Anthropic(base_url=url, **{"api_key": KEY, **settings})
        try:
            async with asyncio.timeout(10):
                return await play(adapter)
        finally:
            await adapter.aclose()

    with ScriptedServer(script) as server:
        return asyncio.run(run(f"{server.url}{path}"))


def talk(
    script: Callable[[Peer], None],
    asked: Call,
    read: Callable[[Answer], Awaitable[T]],
    **settings: Any,
) -> T:
    async def play(adapter: Anthropic) -> T:
        async with adapter.open(asked) as answer:
            return await read(answer)

    return with_adapter(script, play, **settings)


def answering(*answers: bytes, seen: list[Request] | None = None) -> Callable[[Peer], None]:
    """A script that answers one request with each of these."""

    def answer(peer: Peer) -> None:
        for said in answers:
            request = peer.read_request()
            if seen is not None:
                seen.append(request)
            peer.send(said)

    return answer


def request_of(asked: Call, **settings: Any) -> Request:
    """What the provider is sent."""
    seen: list[Request] = []
    talk(answering(whole(MESSAGE), seen=seen), asked, body_of, **settings)
    return seen[0]


def stream_of(*events: Json) -> bytes:
    return EVENTS + b"".join(map(anthropic_event, events)) + END


def failure_of(answer: bytes, asked: Call | None = None) -> base.AdapterError:
    asked = asked or call()
    read: Callable[[Answer], Awaitable[object]] = payloads_of if asked.stream else body_of
    with pytest.raises(base.AdapterError) as caught:
        talk(answering(answer), asked, read)
    return caught.value


# --- requests -------------------------------------------------------------------------------------


def test_chat_is_posted_as_a_message() -> None:
    request = request_of(call(headers={"anthropic-version": "2026-10-21"}))
    assert request.line == "POST /v1/messages HTTP/1.1"
    assert request.headers["x-api-key"] == KEY
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in request.headers
    assert json.loads(request.body) == {
        "model": "m",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "stream": False,
    }


@pytest.mark.parametrize(
    ("endpoint", "line"),
    [
        ("messages", "POST /v1/messages HTTP/1.1"),
        ("count_tokens", "POST /v1/messages/count_tokens HTTP/1.1"),
    ],
)
def test_anthropics_own_dialect_is_sent_as_it_was_given(endpoint: Endpoint, line: str) -> None:
    sent = {"anthropic-version": "2026-10-21", "anthropic-beta": "b1"}
    request = request_of(call(endpoint, OWN, headers=sent))
    assert request.line == line
    assert request.body == OWN
    assert request.headers["anthropic-version"] == "2026-10-21"
    assert request.headers["anthropic-beta"] == "b1"


def test_a_version_is_always_sent() -> None:
    assert request_of(call("messages", OWN)).headers["anthropic-version"] == "2023-06-01"


def test_the_operators_betas_stand_beside_the_clients() -> None:
    settings = {"headers": {"Anthropic-Beta": "ours"}}
    asked = call("messages", OWN, headers={"anthropic-beta": "theirs"})
    assert request_of(asked, **settings).headers["anthropic-beta"] == "ours,theirs"
    assert request_of(call(), **settings).headers["anthropic-beta"] == "ours"


def test_a_token_takes_the_place_of_the_key() -> None:
    headers = request_of(call(), headers={"Authorization": "Bearer t"}).headers
    assert headers["authorization"] == "Bearer t"
    assert "x-api-key" not in headers


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("", "POST /v1/messages HTTP/1.1"),
        ("/v1/", "POST /v1/messages HTTP/1.1"),
        ("/anthropic", "POST /anthropic/v1/messages HTTP/1.1"),
    ],
)
def test_an_address_may_be_as_anthropics_sdks_take_it(path: str, line: str) -> None:
    assert request_of(call(), path=path).line == line


def test_what_is_left_out_is_named() -> None:
    asked = call(body={**CHAT, "seed": 1, "temperature": 2}, drop_params=True)
    assert talk(answering(whole(MESSAGE)), asked, dropped_of) == ["seed", "temperature"]


def test_what_cannot_be_carried_is_not_sent() -> None:
    async def play(adapter: Anthropic) -> None:
        with pytest.raises(base.Unsupported):
            async with adapter.open(call(body={**CHAT, "seed": 1})):
                pass

    with_adapter(lambda peer: None, play)


def test_surrogates_that_stand_alone_are_sent_and_come_back() -> None:
    said = anthropic_message({"type": "text", "text": "\ud83d"})
    asked = call(body={"messages": [{"role": "user", "content": "\udc4b"}]})
    seen: list[Request] = []
    answer = talk(answering(whole(said), seen=seen), asked, body_of)
    assert json.loads(seen[0].body)["messages"][0]["content"][0]["text"] == "\udc4b"
    assert answer["choices"][0]["message"]["content"] == "\ud83d"


# --- answers --------------------------------------------------------------------------------------


def test_chat_is_answered_as_a_completion() -> None:
    answer = talk(answering(whole(MESSAGE)), call(), body_of)
    assert answer["choices"][0]["message"]["content"] == "Hello, you"


def test_chat_is_streamed_as_chunks() -> None:
    payloads = talk(
        answering(stream_of(*anthropic_events(MESSAGE))), call(stream=True), payloads_of
    )
    chunks = [json.loads(payload) for payload in payloads]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[-1]["usage"]["total_tokens"] == 8


def test_anthropics_own_answers_pass_as_they_came() -> None:
    assert talk(answering(whole(MESSAGE)), call("messages", OWN), body_of) == MESSAGE
    counted = {"input_tokens": 7}
    assert talk(answering(whole(counted)), call("count_tokens", OWN), body_of) == counted


def test_anthropics_own_stream_passes_with_its_errors() -> None:
    begun = anthropic_events(MESSAGE)[:4]
    events = [*begun, anthropic_error("overloaded_error")]

    async def read(answer: Answer) -> list[Json]:
        found: list[Json] = []
        with contextlib.suppress(base.ConnectionLost):
            while payloads := await answer.payloads():
                found += [json.loads(payload) for payload in payloads]
        return found

    found = talk(answering(stream_of(*events)), call("messages", OWN, stream=True), read)
    assert found == [event for event in events if event["type"] != "ping"]


@pytest.mark.parametrize("endpoint", ["chat", "messages"])
def test_a_stream_that_ends_without_its_mark_is_broken(endpoint: Endpoint) -> None:
    events = anthropic_events(MESSAGE)[:-1]
    failure = failure_of(stream_of(*events), asked=call(endpoint, stream=True))
    assert isinstance(failure, base.ConnectionLost)


def test_an_error_that_quotes_our_key_does_not_pass_it_on() -> None:
    error = anthropic_error("invalid_request_error", f"bad key {KEY}")
    assert KEY not in failure_of(whole(error, 400)).message
    found = talk(
        answering(stream_of(*anthropic_events(MESSAGE)[:2], error)),
        call(stream=True),
        lambda answer: _until_error(answer),
    )
    assert KEY.encode() not in found


async def _until_error(answer: Answer) -> bytes:
    while True:
        for payload in await answer.payloads():
            if b'"error"' in payload:
                return payload


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "family"),
    [
        (400, "invalid_request_error", base.BadRequest),
        (401, "authentication_error", base.UpstreamAuth),
        (402, "billing_error", base.RateLimited),
        (403, "permission_error", base.UpstreamAuth),
        (404, "not_found_error", base.UpstreamError),
        (409, "conflict_error", base.UpstreamError),
        (413, "request_too_large", base.BadRequest),
        (429, "rate_limit_error", base.RateLimited),
        (500, "api_error", base.Overloaded),
        (504, "timeout_error", base.Overloaded),
        (529, "overloaded_error", base.Overloaded),
        (400, "novel_error", base.BadRequest),
        (429, "novel_error", base.RateLimited),
        (503, "novel_error", base.Overloaded),
    ],
)
def test_every_documented_error_has_its_family(
    status: int, kind: str, family: type[base.UpstreamError]
) -> None:
    failure = failure_of(whole(anthropic_error(kind), status))
    assert type(failure) is family
    assert failure.status == status
    assert failure.type == kind


def test_no_documented_error_is_missing_above() -> None:
    (mark,) = test_every_documented_error_has_its_family.pytestmark  # type: ignore[attr-defined]
    assert FAMILIES.keys() == {kind for _, kind, _ in mark.args[1]} - {"novel_error"}


@pytest.mark.parametrize(
    ("status", "kind", "message", "family"),
    [
        (400, "invalid_request_error", "prompt is too long: 2 > 1", base.ContextExceeded),
        (
            400,
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit: 1 + 2 > 2",
            base.ContextExceeded,
        ),
        (
            400,
            "invalid_request_error",
            "Your credit balance is too low to access the Anthropic API.",
            base.RateLimited,
        ),
        (
            400,
            "invalid_request_error",
            "You have reached your specified API usage limits.",
            base.RateLimited,
        ),
        (
            400,
            "invalid_request_error",
            "Output blocked by content filtering policy",
            base.ContentRefused,
        ),
        (404, "not_found_error", "model: claude-9", base.ModelNotFound),
    ],
)
def test_the_words_tell_what_types_do_not(
    status: int, kind: str, message: str, family: type[base.UpstreamError]
) -> None:
    failure = failure_of(whole(anthropic_error(kind, message), status))
    assert type(failure) is family
    assert failure.message == message


def test_an_error_without_a_body_is_told_by_its_status() -> None:
    assert type(failure_of(head(529, content_length="0"))) is base.Overloaded


def test_headers_that_clients_act_on_come_with_an_error() -> None:
    failure = failure_of(
        whole(
            anthropic_error("rate_limit_error"),
            429,
            retry_after="7",
            anthropic_ratelimit_requests_remaining="0",
            anthropic_organization_id="internal",
        )
    )
    assert isinstance(failure, base.RateLimited)
    assert failure.headers == {
        "retry-after": "7",
        "anthropic-ratelimit-requests-remaining": "0",
    }


# --- models ---------------------------------------------------------------------------------------


def models_of(*pages: object, seen: list[Request] | None = None) -> tuple[str, ...]:
    async def play(adapter: Anthropic) -> tuple[str, ...]:
        return tuple(await adapter.models())

    return with_adapter(answering(*map(whole, pages), seen=seen), play)


def test_models_are_listed_page_by_page() -> None:
    seen: list[Request] = []
    first = {"data": [{"id": "a"}, {"id": "b"}], "has_more": True, "last_id": "b&c"}
    assert models_of(first, {"data": [{"id": "c"}], "has_more": False}, seen=seen) == (
        "a",
        "b",
        "c",
    )
    assert [request.line for request in seen] == [
        "GET /v1/models?limit=1000 HTTP/1.1",
        "GET /v1/models?limit=1000&after_id=b%26c HTTP/1.1",
    ]
    assert seen[0].headers["anthropic-version"] == "2023-06-01"


def test_a_list_of_models_that_is_none_or_has_no_end() -> None:
    for pages in ([b"[]"], [{"data": [{}]}], [{"data": [], "has_more": True, "last_id": "a"}] * 20):
        with pytest.raises(base.MalformedAnswer):
            models_of(*pages)
