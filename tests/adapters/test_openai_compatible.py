"""OpenAI's dialect as servers really speak it, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import pytest

from adapters import base
from adapters.base import Answer, Call, Deadlines, Endpoint
from adapters.openai_compatible import OpenAICompatible
from tests.adapters.contract import DONE, EVENTS, chunk, event
from tests.adapters.servers import Peer, Request, ScriptedServer
from tests.adapters.wire import END, head, piece, whole

T = TypeVar("T")

KEY = "sk-test-0123456789abcdef"
SAID = {"content": "Hi"}


def call(*, stream: bool = True, **deadlines: float) -> Call:
    return Call(
        endpoint="chat",
        model="m",
        body=b'{"model":"m"}',
        stream=stream,
        deadlines=Deadlines(**deadlines),
    )


async def payloads_of(answer: Answer) -> list[bytes]:
    found: list[bytes] = []
    while payloads := await answer.payloads():
        found += payloads
    return found


async def body_of(answer: Answer) -> bytes:
    return await answer.body()


def talk(
    script: Callable[[Peer], None],
    asked: Call,
    read: Callable[[Answer], Awaitable[T]],
    **settings: Any,
) -> T:
    """Open a call to a server with this script, and read its answer."""

    async def run(url: str) -> T:
        adapter = OpenAICompatible(base_url=url, **{"api_key": KEY, **settings})
        try:
            async with asyncio.timeout(10), adapter.open(asked) as answer:
                return await read(answer)
        finally:
            await adapter.aclose()

    with ScriptedServer(script) as server:
        return asyncio.run(run(f"{server.url}/v1"))


def answering(*parts: bytes, seen: list[Request] | None = None) -> Callable[[Peer], None]:
    """A script that reads one request and sends these bytes."""

    def answer(peer: Peer) -> None:
        request = peer.read_request()
        if seen is not None:
            seen.append(request)
        for part in parts:
            peer.send(part)

    return answer


def failure_of(
    *parts: bytes,
    stream: bool = True,
    settings: Mapping[str, Any] | None = None,
    **deadlines: float,
) -> base.AdapterError:
    with pytest.raises(base.AdapterError) as caught:
        talk(
            answering(*parts),
            call(stream=stream, **deadlines),
            payloads_of if stream else body_of,  # type: ignore[arg-type]
            **(settings or {}),
        )
    return caught.value


def stream_of(*parts: bytes) -> list[bytes]:
    return talk(answering(EVENTS, *parts), call(), payloads_of)


# --- requests -------------------------------------------------------------------------------------


def test_a_request_is_sent_as_it_was_given() -> None:
    seen: list[Request] = []
    body = '{"model":"m","x":1.0,"y":"\\ud83d \u2028"}'.encode()
    asked = Call(endpoint="chat", model="m", body=body, stream=False, deadlines=Deadlines())
    assert talk(answering(whole({"ok": 1}), seen=seen), asked, body_of) == b'{"ok": 1}'
    assert seen[0].line == "POST /v1/chat/completions HTTP/1.1"
    assert seen[0].body == body
    assert seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert seen[0].headers["content-type"] == "application/json"
    assert seen[0].headers["user-agent"] == "tollway"


def test_embeddings_have_their_own_path() -> None:
    seen: list[Request] = []
    asked = Call(endpoint="embeddings", model="m", body=b"{}", stream=False, deadlines=Deadlines())
    talk(answering(whole({}), seen=seen), asked, body_of)
    assert seen[0].line == "POST /v1/embeddings HTTP/1.1"


def test_without_a_key_none_is_sent() -> None:
    seen: list[Request] = []
    talk(answering(whole({}), seen=seen), call(stream=False), body_of, api_key=None)
    assert "authorization" not in seen[0].headers


def test_the_operators_headers_replace_ours_whatever_their_case() -> None:
    seen: list[Request] = []
    settings = {"headers": {"User-Agent": "mine", "Authorization": "Token abc", "X-Org": "o"}}
    talk(answering(whole({}), seen=seen), call(stream=False), body_of, **settings)
    assert seen[0].headers["user-agent"] == "mine"
    assert seen[0].headers["authorization"] == "Token abc"
    assert seen[0].headers["x-org"] == "o"


def test_no_header_is_sent_twice() -> None:
    heads: list[bytes] = []

    def answer(peer: Peer) -> None:
        while b"\r\n\r\n" not in (received := peer._received):
            peer._receive()
        heads.append(received)
        peer.send(whole({}))

    settings = {"headers": {"User-Agent": "mine", "CONTENT-TYPE": "application/json"}}
    talk(answer, call(stream=False), body_of, **settings)
    lines = heads[0].partition(b"\r\n\r\n")[0].split(b"\r\n")
    names = [line.partition(b":")[0].lower() for line in lines]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "ftp://host"},
        {"base_url": "http://"},
        {"base_url": "http://user:pass@host"},
        {"base_url": "http://host/v1?x=1"},
        {"api_key": "sk\nx: y"},
        {"api_key": "sk-\u2028"},
        {"headers": {"x": "a\r\nb"}},
        {"headers": {"host": "other"}},
        {"headers": {"Content-Length": "5"}},
    ],
)
def test_settings_that_http_cannot_carry_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        OpenAICompatible(**{"base_url": "http://host/v1", **settings})
    assert "pass@" not in str(caught.value)
    assert "sk" not in str(caught.value)


# --- streams --------------------------------------------------------------------------------------


def test_what_says_nothing_is_not_a_payload() -> None:
    silence = [
        b": comment\n\n",
        b"\n\n",
        b"data:\n\n",
        b"data: \n\n",
        b"retry: 3000\n\n",
        b"id: 1\n\n",
    ]
    silence += [b"data:   \n\n", b"event: ping\n\n", b'event: ping\ndata: {"type":"ping"}\n\n']
    parts = [part for silent in silence for part in (piece(silent), event(chunk(SAID)))]
    assert [json.loads(p) for p in stream_of(*parts, DONE, END)] == [chunk(SAID)] * len(silence)


@pytest.mark.parametrize("mark", [b"[DONE]", b" [DONE] ", b"[DONE]\t"])
def test_any_way_to_write_the_end_mark_ends_the_stream(mark: bytes) -> None:
    after = event(chunk({"content": "late"}))
    assert len(stream_of(event(chunk(SAID)), piece(b"data:%b\n\n" % mark), after, END)) == 1


def test_the_end_mark_needs_no_blank_line_behind_it() -> None:
    assert len(stream_of(event(chunk(SAID)), piece(b"data: [DONE]"), END)) == 1


def test_an_answer_without_any_event_but_the_mark_is_empty() -> None:
    assert stream_of(DONE, END) == []


@pytest.mark.parametrize(
    "parts",
    [
        (END,),
        (event(chunk(SAID)), END),
        (event(chunk({}, "stop")), END),
        (event(chunk(SAID)), piece(b"data: [DON"), END),
        (event(chunk(SAID)),),
        (event(chunk(SAID)), b"5\r\nda"),
        (piece(b": [DONE]\n\n"), END),
        (event({"x": "[DONE]"}), END),
    ],
    ids=[
        "nothing",
        "clean end",
        "finished",
        "half a mark",
        "cut",
        "cut in a piece",
        "comment",
        "text",
    ],
)
def test_a_stream_without_its_end_mark_is_lost(parts: tuple[bytes, ...]) -> None:
    assert isinstance(failure_of(EVENTS, *parts), base.ConnectionLost)


def test_a_stream_that_ends_with_the_connection_needs_its_mark_too() -> None:
    plain = head(content_type="text/event-stream", connection="close")
    said = b"data: %b\n\n" % json.dumps(chunk(SAID)).encode()
    assert isinstance(failure_of(plain, said), base.ConnectionLost)
    assert len(talk(answering(plain, said + b"data: [DONE]\n\n"), call(), payloads_of)) == 1


def test_events_before_the_end_mark_in_one_piece_are_all_delivered() -> None:
    body = b"".join(b'data: {"n":%d}\n\n' % n for n in range(5)) + b"data: [DONE]\n\n"
    assert [json.loads(p)["n"] for p in stream_of(piece(body), END)] == [0, 1, 2, 3, 4]


LAST_EVENTS: list[tuple[Endpoint, str]] = [
    ("images", "image_generation.completed"),
    ("transcriptions", "transcript.text.done"),
    ("speech", "speech.audio.done"),
]


def typed(endpoint: Endpoint) -> Call:
    return Call(endpoint=endpoint, model="m", body=b"{}", stream=True, deadlines=Deadlines())


@pytest.mark.parametrize(("endpoint", "last"), LAST_EVENTS)
@pytest.mark.parametrize("rest", [(), (DONE, END), (END,)], ids=["open", "mark", "end"])
def test_a_stream_of_typed_events_ends_with_its_last(
    endpoint: Endpoint, last: str, rest: tuple[bytes, ...]
) -> None:
    quoted = {"type": "delta", "delta": f'"{last}"'}
    parts = (EVENTS, event(quoted), event({"type": last}), *rest)
    found = talk(answering(*parts), typed(endpoint), payloads_of)
    assert [json.loads(payload)["type"] for payload in found] == ["delta", last]


@pytest.mark.parametrize(("endpoint", "last"), LAST_EVENTS)
def test_a_stream_of_typed_events_without_its_last_is_lost(endpoint: Endpoint, last: str) -> None:
    parts = (EVENTS, event({"type": "delta", "delta": f'"{last}"'}), END)
    with pytest.raises(base.ConnectionLost):
        talk(answering(*parts), typed(endpoint), payloads_of)


def test_a_form_keeps_its_content_type() -> None:
    seen: list[Request] = []
    asked = Call(
        endpoint="transcriptions",
        model="m",
        body=b"--x--\r\n",
        content_type="multipart/form-data; boundary=x",
        stream=False,
        deadlines=Deadlines(),
    )
    talk(answering(whole({}), seen=seen), asked, body_of)
    assert seen[0].line == "POST /v1/audio/transcriptions HTTP/1.1"
    assert seen[0].headers["content-type"] == asked.content_type
    assert seen[0].body == asked.body


def test_sound_comes_in_pieces() -> None:
    async def pieces_of(answer: Answer) -> bytes:
        found = b""
        while received := await answer.pieces():
            found += received
        return found

    asked = Call(endpoint="speech", model="m", body=b"{}", stream=False, deadlines=Deadlines())
    sound = head(content_type="audio/mpeg", transfer_encoding="chunked")
    parts = (sound, piece(b"\xff\xf3"), piece(b"\x00"), END)
    assert talk(answering(*parts), asked, pieces_of) == b"\xff\xf3\x00"
    with pytest.raises(base.ConnectionLost):
        talk(answering(*parts[:-1]), asked, pieces_of)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"error":{"message":"no"}}', "no"),
        (b'{"type":"overloaded_error","message":"no"}', "no"),
        (b'{"error":"no"}', "no"),
        (b"overloaded", "overloaded"),
        (b"[DONE]", "[DONE]"),
        (b'{"detail":[1]}', "[1]"),
    ],
)
def test_a_named_error_event_becomes_openais_error_object(data: bytes, message: str) -> None:
    payloads = stream_of(piece(b"event: error\ndata: %b\n\n" % data), DONE, END)
    assert json.loads(payloads[0])["error"]["message"] == message


def test_events_of_other_names_are_taken_for_what_they_hold() -> None:
    named = piece(b"event: completion.chunk\ndata: %b\n\n" % json.dumps(chunk(SAID)).encode())
    assert [json.loads(p) for p in stream_of(named, DONE, END)] == [chunk(SAID)]


@pytest.mark.parametrize(
    "kind", ["text/event-stream; charset=utf-8", "TEXT/EVENT-STREAM", "text/plain", None]
)
def test_servers_that_name_their_stream_otherwise_are_read(kind: str | None) -> None:
    headers = {"transfer_encoding": "chunked"} | ({} if kind is None else {"content_type": kind})
    said = answering(head(**headers), event(chunk(SAID)), DONE, END)
    assert len(talk(said, call(), payloads_of)) == 1


@pytest.mark.parametrize("kind", ["text/html", "application/x-ndjson", "image/png"])
def test_an_answer_of_another_kind_is_no_stream(kind: str) -> None:
    failure = failure_of(whole(b"<html>", content_type=kind))
    assert isinstance(failure, base.MalformedAnswer)
    assert kind in failure.message


def test_an_error_with_status_200_in_the_place_of_a_stream_is_an_error() -> None:
    said = {"error": {"message": f"no, {KEY}", "type": "t", "code": 529}}
    failure = failure_of(whole(said))
    assert isinstance(failure, base.Overloaded)
    assert (failure.message, failure.type, failure.code) == ("no, [redacted]", "t", "529")


def test_a_whole_answer_in_the_place_of_a_stream_is_malformed() -> None:
    said = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
    assert isinstance(failure_of(whole(said)), base.MalformedAnswer)


def test_an_event_without_bound_is_malformed() -> None:
    def endless(peer: Peer) -> None:
        peer.read_request()
        peer.send(EVENTS + piece(b"data: "))
        peer.send_until_stuck(piece(b"x" * (1 << 20)), 20 << 20)

    with pytest.raises(base.MalformedAnswer):
        talk(endless, call(), payloads_of)


def test_a_connection_is_used_again_when_the_end_trails_the_mark() -> None:
    went_on = []

    def twice(peer: Peer) -> None:
        for _ in range(2):
            peer.read_request()
            peer.send(EVENTS + event(chunk(SAID)) + DONE)
            peer.send(END)
            went_on.append(1)

    async def run(url: str) -> None:
        adapter = OpenAICompatible(base_url=url)
        for _ in range(2):
            async with adapter.open(call()) as answer:
                await payloads_of(answer)
        await adapter.aclose()

    with ScriptedServer(twice) as server:
        asyncio.run(run(server.url))
        assert server.connections == 1
    assert went_on == [1, 1]


def test_an_end_that_does_not_come_holds_up_nobody() -> None:
    def lingering(peer: Peer) -> None:
        peer.read_request()
        peer.send(EVENTS + event(chunk(SAID)) + DONE)
        assert peer.is_gone(within_s=5)

    assert len(talk(lingering, call(idle_s=30), payloads_of)) == 1


def test_a_silent_provider_times_out_before_its_first_byte() -> None:
    def silent(peer: Peer) -> None:
        peer.read_request()
        assert peer.is_gone()

    with pytest.raises(base.UpstreamTimeout) as caught:
        talk(silent, call(first_byte_s=0.1), payloads_of)
    assert caught.value.phase == "first_byte"
    assert caught.value.dispatched


# --- errors ---------------------------------------------------------------------------------------


def error_of(
    status: int, body: object = b"", settings: Mapping[str, Any] | None = None, **headers: str
) -> base.UpstreamError:
    failure = failure_of(whole(body, status, **headers), stream=False, settings=settings)
    assert isinstance(failure, base.UpstreamError)
    assert failure.status == status
    return failure


def said(message: str = "no", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, said(), base.BadRequest),
        (409, said(), base.BadRequest),
        (413, said(), base.BadRequest),
        (422, said(), base.BadRequest),
        (400, said(code="context_length_exceeded"), base.ContextExceeded),
        (400, said("This model's maximum context length is 8192 tokens"), base.ContextExceeded),
        (400, said("the request exceeds the available context size"), base.ContextExceeded),
        (400, said("prompt is too long: 210000 tokens > 200000"), base.ContextExceeded),
        (
            400,
            said("input token count (9) exceeds the maximum number of tokens allowed (8)"),
            base.ContextExceeded,
        ),
        (413, said("Please reduce the length of the messages"), base.ContextExceeded),
        (400, said(code="content_filter"), base.ContentRefused),
        (400, said("blocked by our content management policy"), base.ContentRefused),
        (403, said("Your input was flagged", code=403), base.ContentRefused),
        (401, said(), base.UpstreamAuth),
        (403, said(), base.UpstreamAuth),
        (401, b"", base.UpstreamAuth),
        (403, said(code="model_not_found"), base.ModelNotFound),
        (404, said("The model `x` does not exist"), base.ModelNotFound),
        (404, {"object": "error", "message": "The model `x` does not exist."}, base.ModelNotFound),
        (404, said("The API deployment for this resource does not exist"), base.ModelNotFound),
        (404, b"<html>404 Not Found</html>", base.UpstreamError),
        (404, {"detail": "Not Found"}, base.UpstreamError),
        (405, b"", base.UpstreamError),
        (402, said(), base.RateLimited),
        (429, said(), base.RateLimited),
        (429, b"slow down", base.RateLimited),
        (400, said(code="insufficient_quota"), base.RateLimited),
        (413, said("Request too large", code="rate_limit_exceeded"), base.RateLimited),
        (408, b"", base.Overloaded),
        (498, said(), base.Overloaded),
        (500, b"", base.Overloaded),
        (502, b"<html>Bad gateway</html>", base.Overloaded),
        (503, said("model is loading"), base.Overloaded),
        (529, said(), base.Overloaded),
        (500, said("context length"), base.Overloaded),
    ],
)
def test_families_of_errors(status: int, body: object, kind: type[base.UpstreamError]) -> None:
    assert type(error_of(status, body)) is kind


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (said("no", code="c"), "no", "c"),
        (said("no", code=429), "no", "429"),
        ([said("no")], "no", None),
        ({"error": "no"}, "no", None),
        ({"message": "no", "code": 7}, "no", "7"),
        ({"detail": "no"}, "no", None),
        ({"detail": [{"msg": "bad"}]}, "bad", None),
        (
            {"detail": [{"loc": ["body", "n", 0], "msg": "bad"}, {"msg": "too"}]},
            "n.0: bad; too",
            None,
        ),
        ({"detail": [1, {"msg": None}]}, '[1,{"msg":null}]', None),
        (said(""), "the provider answered with HTTP status 418", None),
        (b"", "the provider answered with HTTP status 418", None),
        (b"<html>teapot</html>", "the provider answered with HTTP status 418", None),
        (b"\xff{", "the provider answered with HTTP status 418", None),
        (b'"text"', "the provider answered with HTTP status 418", None),
        (b"[]", "the provider answered with HTTP status 418", None),
        (b"[" * 50_000, "the provider answered with HTTP status 418", None),
        (said("x" * 9_999), "x" * 2_000, None),
    ],
)
def test_words_of_errors(body: object, message: str, code: str | None) -> None:
    failure = error_of(418, body)
    assert (failure.message, failure.code) == (message, code)


def test_only_what_clients_act_on_leaves_of_an_errors_headers() -> None:
    failure = error_of(
        429,
        said(),
        retry_after="7",
        retry_after_ms="7000",
        x_should_retry="true",
        x_ratelimit_remaining_requests="0",
        set_cookie="a=b",
        x_internal="10.0.0.1",
    )
    assert failure.headers == {
        "retry-after": "7",
        "retry-after-ms": "7000",
        "x-should-retry": "true",
        "x-ratelimit-remaining-requests": "0",
    }


@pytest.mark.parametrize(
    "body", [b"", b'{"error":{"mess', b"x" * (2 << 20)], ids=["none", "cut", "without bound"]
)
def test_a_status_stands_whatever_becomes_of_its_body(body: bytes) -> None:
    lines = head(503, content_length=str(len(body) + 10))
    failure = failure_of(lines, body, stream=False)
    assert type(failure) is base.Overloaded
    assert failure.status == 503


def test_the_bodys_idle_deadline_does_not_hide_a_status() -> None:
    def stalling(peer: Peer) -> None:
        peer.read_request()
        peer.send(head(503, content_length="10"))
        assert peer.is_gone()

    with pytest.raises(base.Overloaded):
        talk(stalling, call(idle_s=0.1), payloads_of)


def test_a_redirect_is_not_followed() -> None:
    moved = head(307, location="http://127.0.0.1:1/v1", content_length="0")
    assert isinstance(failure_of(moved), base.MalformedAnswer)


SECRETS = {"x-api-key": "canary-0123456789", "Authorization": "Token canary-abcdef"}


@pytest.mark.parametrize(
    "canary", [KEY, "canary-0123456789", "Token canary-abcdef", "canary-abcdef"]
)
def test_what_a_provider_quotes_of_our_credentials_is_redacted(canary: str) -> None:
    # One adapter sends the key, the other the operator's own headers.
    settings: dict[str, Any] = {} if canary == KEY else {"headers": SECRETS}
    quoted = said(f"key {canary} is wrong", type=canary, code=canary, param=canary)
    failure = error_of(400, quoted, settings)
    assert canary not in repr(vars(failure))
    assert failure.message == "key [redacted] is wrong"

    body = talk(answering(whole(said(f"key {canary}"))), call(stream=False), body_of, **settings)
    assert canary.encode() not in body

    error = event(said(f"key {canary}"))
    payloads = talk(answering(EVENTS, error, DONE, END), call(), payloads_of, **settings)
    assert canary.encode() not in b"".join(payloads)


def test_words_of_an_answer_are_left_alone() -> None:
    content = {"choices": [{"message": {"content": f"the word {KEY}"}}]}
    body = talk(answering(whole(content)), call(stream=False), body_of)
    assert json.loads(body) == content


def test_ordinary_headers_are_not_taken_for_secrets() -> None:
    settings = {"headers": {"X-Title": "My application", "x-token": "short"}}
    body = talk(
        answering(whole(said("My application is short"))), call(stream=False), body_of, **settings
    )
    assert b"My application is short" in body


def test_refused_credentials_are_told_without_the_providers_words() -> None:
    failure = error_of(401, said(f"Incorrect API key provided: {KEY[:7]}***"))
    assert failure.message == "the provider refused the credentials that are configured for it"


# --- models ---------------------------------------------------------------------------------------


def models_of(*parts: bytes) -> tuple[str, ...]:
    async def run(url: str) -> tuple[str, ...]:
        adapter = OpenAICompatible(base_url=url, api_key=KEY)
        try:
            return tuple(await adapter.models())
        finally:
            await adapter.aclose()

    with ScriptedServer(answering(*parts)) as server:
        return asyncio.run(run(f"{server.url}/v1"))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"object": "list", "data": [{"id": "a", "object": "model"}, {"id": "b"}]}, ("a", "b")),
        ({"object": "list", "data": []}, ()),
        ({"object": "list", "data": None}, ()),
        ([{"id": "a", "type": "chat"}], ("a",)),
    ],
)
def test_lists_of_models(body: object, expected: tuple[str, ...]) -> None:
    assert models_of(whole(body)) == expected


@pytest.mark.parametrize(
    "body", [b"<html>", b"", b'{"data":[{"id":5}]}', b'{"data":{}}', b'{"data":[{"id":"\xff"}]}']
)
def test_what_is_no_list_of_models_is_malformed(body: bytes) -> None:
    with pytest.raises(base.MalformedAnswer):
        models_of(whole(body))


def test_a_refused_list_of_models_is_an_error() -> None:
    with pytest.raises(base.UpstreamAuth):
        models_of(whole(said(), 401))
