"""Gemini's answers, streams and errors over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from adapters import base
from adapters.base import Answer, Call, Deadlines, Endpoint
from adapters.gemini import Gemini
from adapters.wire import gemini_answer
from adapters.wire.gemini_answer import FAMILIES, FINISH_REASONS, ChatReader, EmbeddingsReader
from adapters.wire.sse import EventDecoder
from tests.adapters.contract import EVENTS, event
from tests.adapters.servers import Peer, Request, ScriptedServer
from tests.adapters.shapes import damaged
from tests.adapters.wire import END, head, piece, whole
from tests.adapters.wire_gemini import gemini

T = TypeVar("T")
Json = dict[str, Any]

KEY = "AIza-test-0123456789abcdef"
BODY = {"messages": [{"role": "user", "content": "Hi"}]}


def call(
    endpoint: Endpoint = "chat", body: object = BODY, *, stream: bool = False, model: str = "m"
) -> Call:
    text = json.dumps(body).encode()
    return Call(endpoint=endpoint, model=model, body=text, stream=stream, deadlines=Deadlines())


def talk(
    script: Callable[[Peer], None], play: Callable[[Gemini], Awaitable[T]], **settings: Any
) -> T:
    """Do something with an adapter whose provider does what a script says."""

    async def run(url: str) -> T:
        adapter = Gemini(base_url=f"{url}/v1beta", **{"api_key": KEY, **settings})
        try:
            async with asyncio.timeout(10):
                return await play(adapter)
        finally:
            await adapter.aclose()

    with ScriptedServer(script) as server:
        return asyncio.run(run(server.url))


def answering(*parts: bytes, seen: list[Request] | None = None) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        request = peer.read_request()
        if seen is not None:
            seen.append(request)
        for part in parts:
            peer.send(part)

    return answer


def body_of(said: object, asked: Call | None = None, **settings: Any) -> Json:
    async def play(adapter: Gemini) -> Json:
        async with adapter.open(asked or call()) as answer:
            body: Json = json.loads(await answer.body())
            return body

    return talk(answering(whole(said)), play, **settings)


def message_of(*parts: Json, **candidate: Any) -> Json:
    answer = gemini(*parts, finish="STOP")
    answer["candidates"][0] |= candidate
    message: Json = body_of(answer)["choices"][0]["message"]
    return message


async def chunks_of(answer: Answer) -> list[Json]:
    found: list[Json] = []
    while payloads := await answer.payloads():
        found += [json.loads(payload) for payload in payloads]
    return found


def stream_of(*said: Json) -> list[Json]:
    async def play(adapter: Gemini) -> list[Json]:
        async with adapter.open(call(stream=True)) as answer:
            return await chunks_of(answer)

    return talk(answering(EVENTS, *map(event, said), END), play)


def failure_of(*parts: bytes, stream: bool = False) -> base.AdapterError:
    async def play(adapter: Gemini) -> base.AdapterError:
        with pytest.raises(base.AdapterError) as caught:
            async with adapter.open(call(stream=stream)) as answer:
                await (chunks_of(answer) if stream else answer.body())
        return caught.value

    return talk(answering(*parts), play)


def deltas(chunks: list[Json]) -> list[Json]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


# --- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        (call(), "/models/m:generateContent"),
        (call(model="models/m"), "/models/m:generateContent"),
        (call(model="tunedModels/m"), "/tunedModels/m:generateContent"),
        (call(model="a?b #c"), "/models/a%3Fb%20%23c:generateContent"),
        (call("embeddings", {"input": "a"}), "/models/m:batchEmbedContents"),
    ],
)
def test_the_model_stands_in_the_path(asked: Call, path: str) -> None:
    seen: list[Request] = []

    async def play(adapter: Gemini) -> None:
        async with adapter.open(asked):
            pass

    talk(answering(whole(gemini()), seen=seen), play)
    assert seen[0].line == f"POST /v1beta{path} HTTP/1.1"
    assert seen[0].headers["x-goog-api-key"] == KEY
    assert "authorization" not in seen[0].headers


def test_a_stream_is_asked_for_as_events() -> None:
    seen: list[Request] = []

    async def play(adapter: Gemini) -> list[Json]:
        async with adapter.open(call(stream=True)) as answer:
            return await chunks_of(answer)

    said = event(gemini({"text": "a"}, finish="STOP"))
    talk(answering(EVENTS, said, END, seen=seen), play)
    assert seen[0].line == "POST /v1beta/models/m:streamGenerateContent?alt=sse HTTP/1.1"


def test_what_was_left_out_is_told() -> None:
    asked = call(body={**BODY, "logit_bias": {"1": 1}})
    asked = structs.replace(asked, drop_params=True)

    async def play(adapter: Gemini) -> list[str]:
        async with adapter.open(asked) as answer:
            return list(answer.dropped)

    assert talk(answering(whole(gemini())), play) == ["logit_bias"]


def test_models_are_listed_page_by_page() -> None:
    def answer(peer: Peer) -> None:
        assert peer.read_request().line.startswith("GET /v1beta/models?pageSize=1000 ")
        peer.send(whole({"models": [{"name": "models/a"}], "nextPageToken": "x/y"}))
        assert "&pageToken=x%2Fy " in peer.read_request().line
        peer.send(whole({"models": [{"name": "tunedModels/b"}]}))

    assert talk(answer, Gemini.models) == ("a", "tunedModels/b")


# --- whole answers --------------------------------------------------------------------------------


def test_a_whole_answer_is_a_chat_completion() -> None:
    body = body_of(gemini({"text": "Hel"}, {"text": "lo"}, finish="STOP"))
    assert body.pop("created")
    assert body == {
        "id": "chatcmpl-r1",
        "object": "chat.completion",
        "model": "model-x",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "logprobs": None,
                "finish_reason": "stop",
                "native_finish_reason": "STOP",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 5,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_an_answer_without_a_name_has_the_one_that_was_asked() -> None:
    answer = gemini({"text": "a"}, finish="STOP")
    del answer["modelVersion"]
    assert body_of(answer, call(model="asked"))["model"] == "asked"


def test_thoughts_and_signatures_are_told_apart_from_the_text() -> None:
    message = message_of({"text": "Hm", "thought": True}, {"text": "Well", "thoughtSignature": "S"})
    assert message["reasoning_content"] == "Hm"
    assert message["content"] == "Well"
    assert message["reasoning_details"] == [
        {"type": "reasoning.encrypted", "data": "S", "format": "google-gemini-v1", "index": 0}
    ]


def test_calls_get_ids_and_keep_their_signature() -> None:
    message = message_of(
        {"functionCall": {"name": "f", "args": {"x": 1.0}}, "thoughtSignature": "S"},
        {"functionCall": {"name": "g", "id": "own"}},
    )
    first, second = message["tool_calls"]
    assert first["id"].startswith("call_")
    assert first["function"] == {"name": "f", "arguments": '{"x":1.0}'}
    assert first["extra_content"] == {"google": {"thought_signature": "S"}}
    assert second == {
        "id": "own",
        "type": "function",
        "function": {"name": "g", "arguments": "{}"},
    }


def test_images_speech_and_code_that_was_run_are_kept() -> None:
    message = message_of(
        {"text": "Look"},
        {"executableCode": {"language": "PYTHON", "code": "1+1"}},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "2"}},
        {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
        {"inlineData": {"mimeType": "audio/L16;rate=24000", "data": "BBBB"}},
    )
    assert message["content"] == "Look\n```python\n1+1\n```\n\n```\n2\n```\n"
    url = {"url": "data:image/png;base64,AAAA"}
    assert message["images"] == [{"index": 0, "type": "image_url", "image_url": url}]
    assert message["audio"]["data"] == "BBBB"


def test_sources_are_cited_where_they_are_used() -> None:
    grounding = {
        "groundingChunks": [{"web": {"uri": "https://a", "title": "A"}}, {"web": {"title": "B"}}],
        "groundingSupports": [
            {"segment": {"startIndex": 3, "endIndex": 5}, "groundingChunkIndices": [0, 1, 9]}
        ],
    }
    message = message_of({"text": "äö!"}, groundingMetadata=grounding)
    # The first byte of the three is in the middle of the second letter.
    citation = {"url": "https://a", "title": "A", "start_index": 1, "end_index": 3}
    assert message["annotations"] == [{"type": "url_citation", "url_citation": citation}]
    sources = {"citationSources": [{"endIndex": 4, "uri": "https://b"}]}
    message = message_of({"text": "äö!"}, citationMetadata=sources)
    citation = {"url": "https://b", "title": "", "start_index": 0, "end_index": 2}
    assert message["annotations"] == [{"type": "url_citation", "url_citation": citation}]


def test_likelihoods_are_told_for_each_token() -> None:
    answer = gemini({"text": "a"}, finish="STOP")
    answer["candidates"][0]["logprobsResult"] = {
        "chosenCandidates": [{"token": "a", "logProbability": -0.5}],
        "topCandidates": [{"candidates": [{"token": "b", "logProbability": "-Infinity"}]}],
    }
    assert body_of(answer)["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": "a",
                "logprob": -0.5,
                "bytes": [97],
                "top_logprobs": [{"token": "b", "logprob": -9999.0, "bytes": [98]}],
            }
        ],
        "refusal": None,
    }


def test_usage_counts_thoughts_as_output_and_results_of_tools_as_input() -> None:
    answer = gemini({"text": "a"}, finish="STOP")
    answer["usageMetadata"] = {
        "promptTokenCount": 55,
        "candidatesTokenCount": 51,
        "toolUsePromptTokenCount": 89,
        "thoughtsTokenCount": 56,
        "totalTokenCount": 251,
        "cachedContentTokenCount": 40,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 50},
            {"modality": "AUDIO", "tokenCount": 5},
        ],
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1}],
        "serviceTier": "flex",
    }
    body = body_of(answer)
    assert body["usage"] == {
        "prompt_tokens": 144,
        "completion_tokens": 107,
        "total_tokens": 251,
        "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 56, "image_tokens": 1},
    }
    assert body["service_tier"] == "flex"


def test_embeddings_without_a_count_have_no_usage() -> None:
    said = {"embeddings": [{"values": [0.5]}, {"values": [1.5]}]}
    body = body_of(said, call("embeddings", {"input": ["a", "b"]}))
    assert body["data"] == [
        {"object": "embedding", "index": 0, "embedding": [0.5]},
        {"object": "embedding", "index": 1, "embedding": [1.5]},
    ]
    assert "usage" not in body


# --- ends -----------------------------------------------------------------------------------------

# The enumerations of Google's reference (`Candidate.FinishReason`).
ENDS = [
    *("STOP", "MAX_TOKENS", "SAFETY", "RECITATION", "LANGUAGE", "OTHER", "BLOCKLIST", "SPII"),
    *("PROHIBITED_CONTENT", "MALFORMED_FUNCTION_CALL", "IMAGE_SAFETY", "IMAGE_RECITATION"),
    *("IMAGE_PROHIBITED_CONTENT", "IMAGE_OTHER", "NO_IMAGE", "UNEXPECTED_TOOL_CALL"),
    *("TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE", "MALFORMED_RESPONSE", "ESCALATION"),
    *("PUP_LIMITED_DISABLED", "CONTINUATION", "MODEL_ARMOR", "NOVELTY", "FUNCTION_CALL"),
]


@pytest.mark.parametrize("reason", ENDS)
def test_an_answer_that_broke_off_is_no_answer(reason: str) -> None:
    said = gemini({"text": "a"}, finish=reason)
    if reason in FINISH_REASONS:
        assert body_of(said)["choices"][0]["finish_reason"] == FINISH_REASONS[reason]
    else:
        failure = failure_of(whole(said))
        assert isinstance(failure, base.UpstreamError)
        assert failure.code == reason
        assert failure.retry_elsewhere


def test_calls_end_an_answer_as_calls() -> None:
    body = body_of(gemini({"functionCall": {"name": "f"}}, finish="STOP"))
    assert body["choices"][0]["finish_reason"] == "tool_calls"


BLOCKED = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "modelVersion": "m"}


@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_that_was_blocked_is_refused(stream: bool) -> None:
    parts = (EVENTS, event(BLOCKED), END) if stream else (whole(BLOCKED),)
    failure = failure_of(*parts, stream=stream)
    assert type(failure) is base.ContentRefused
    assert "PROHIBITED_CONTENT" in failure.message


@pytest.mark.parametrize(
    "said", [{}, [], {"candidates": []}, {"candidates": [5]}, b"{", {"candidates": {"a": 1}}]
)
def test_an_answer_that_is_none_is_malformed(said: object) -> None:
    assert type(failure_of(whole(said))) is base.MalformedAnswer


# --- streams --------------------------------------------------------------------------------------


def test_a_stream_is_chunks_of_one_shape() -> None:
    chunks = stream_of(
        gemini({"text": "Hm", "thought": True}),
        gemini({"text": "a"}),
        gemini({"text": "b"}),
        gemini({"text": "", "thoughtSignature": "S"}, finish="STOP"),
    )
    signature = {
        "type": "reasoning.encrypted",
        "data": "S",
        "format": "google-gemini-v1",
        "index": 0,
    }
    assert deltas(chunks) == [
        {"role": "assistant", "reasoning_content": "Hm"},
        {"content": "a"},
        {"content": "b"},
        {"reasoning_details": [signature]},
    ]
    assert len({tuple(chunk)[:5] for chunk in chunks[:-1]}) == 1
    assert list(chunks[1]["choices"][0]) == ["index", "delta", "finish_reason"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 8


def test_calls_are_counted_through_a_stream() -> None:
    chunks = stream_of(
        gemini({"functionCall": {"name": "f", "args": {"a": 1}}}),
        gemini({"functionCall": {"name": "g"}}, {"functionCall": {}}),
        gemini({"text": ""}, finish="STOP"),
    )
    calls = [entry for delta in deltas(chunks) for entry in delta.get("tool_calls", ())]
    assert [(c["index"], c["function"]["name"]) for c in calls] == [(0, "f"), (1, "g")]
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_candidates_are_told_apart_by_their_index() -> None:
    first, second = gemini({"text": "a"}, finish="STOP"), gemini({"text": "b"}, finish="MAX_TOKENS")
    second["candidates"][0]["index"] = 1
    both = {**first, "candidates": first["candidates"] + second["candidates"]}
    choices = stream_of(both)[0]["choices"] + stream_of(both)[1]["choices"]
    assert [(c["index"], c["finish_reason"]) for c in choices] == [(0, "stop"), (1, "length")]


def test_a_stream_that_ends_without_a_reason_is_broken() -> None:
    failure = failure_of(EVENTS, event(gemini({"text": "a"})), END, stream=True)
    assert type(failure) is base.ConnectionLost
    assert type(failure_of(EVENTS, END, stream=True)) is base.ConnectionLost


def test_a_failure_after_the_first_words_is_an_error_in_the_stream() -> None:
    reader = ChatReader()
    said = [gemini({"text": "a"}), gemini(finish="MALFORMED_FUNCTION_CALL")]
    payloads = reader.read_payloads([json.dumps(event).encode() for event in said])
    assert json.loads(payloads[0])["choices"][0]["delta"]["content"] == "a"
    assert json.loads(payloads[1])["error"]["code"] == "MALFORMED_FUNCTION_CALL"
    assert not reader.is_whole


def test_a_failure_before_the_first_word_is_raised() -> None:
    said = {"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}}
    failure = failure_of(EVENTS, event(said), END, stream=True)
    assert type(failure) is base.RateLimited


def test_surrogates_that_stand_alone_survive_in_their_order() -> None:
    halves = [b'{"candidates":[{"content":{"parts":[{"text":"%b"}]}}]}' % half for half in (
        b"\\ud83d",
        b"\\udc4b",
    )]  # fmt: skip
    chunks = [json.loads(payload) for payload in ChatReader().read_payloads(halves)]
    said = "".join(delta["content"] for delta in deltas(chunks))
    assert said.encode("utf-16", "surrogatepass").decode("utf-16") == "👋"


_EVENTS = b"".join(
    b"data: %b\r\n\r\n" % json.dumps(said, ensure_ascii=False).encode()
    for said in (
        gemini({"text": "Grüße 👋"}),
        gemini({"text": "\u2028x"}),
        gemini({"functionCall": {"name": "f", "id": "i", "args": {"a": "ä"}}}),
        gemini({"text": ""}, finish="STOP"),
    )
)


@given(st.lists(st.integers(min_value=0, max_value=len(_EVENTS)), max_size=12))
def test_however_the_bytes_are_cut_the_same_is_said(places: list[int]) -> None:
    def said(cuts: list[int]) -> list[Json]:
        decoder, reader = EventDecoder(), ChatReader()
        found: list[bytes] = []
        for start, end in zip([0, *cuts], [*cuts, len(_EVENTS)], strict=True):
            found += reader.read_payloads(decoder.feed(_EVENTS[start:end]))
        assert reader.is_whole
        return [json.loads(payload) | {"created": 0} for payload in found]

    assert said(sorted(places)) == said([])


_ANSWERED: Json = {
    "candidates": [
        {
            "content": {
                "parts": [
                    {"text": "a", "thoughtSignature": "s"},
                    {"functionCall": {"name": "f", "args": {"a": 1}}},
                    {"inlineData": {"mimeType": "image/png", "data": "A"}},
                    {"executableCode": {"code": "a", "language": "PYTHON"}},
                ]
            },
            "finishReason": "STOP",
            "index": 0,
            "groundingMetadata": {
                "groundingChunks": [{"web": {"uri": "a", "title": "b"}}],
                "groundingSupports": [
                    {"segment": {"startIndex": 1, "endIndex": 2}, "groundingChunkIndices": [0]}
                ],
            },
            "citationMetadata": {"citationSources": [{"uri": "a", "startIndex": 1}]},
            "logprobsResult": {
                "chosenCandidates": [{"token": "a", "logProbability": -1}],
                "topCandidates": [{"candidates": [{"token": "a"}]}],
            },
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 1,
        "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 1}],
    },
    "promptFeedback": {"blockReason": ""},
    "embeddings": [{"values": [1.0]}],
    "models": [{"name": "a"}],
}
_FAILED: Json = {
    "error": {
        "code": 429,
        "message": "a",
        "status": "RESOURCE_EXHAUSTED",
        "details": [{"retryDelay": "5s", "reason": "a"}],
    }
}


@given(damaged(_ANSWERED) | damaged(_FAILED))
def test_no_shape_of_an_answer_is_more_than_a_failure(said: object) -> None:
    text = json.dumps(said).encode()
    for read in (
        ChatReader().read_body,
        lambda text: ChatReader().read_payloads([text, text]),
        EmbeddingsReader("m").read_body,
        gemini_answer.read_models,
    ):
        try:
            read(text)
        except base.AdapterError as failure:
            assert failure.message.encode()
    assert gemini_answer.error_of(429, {}, text).message.encode()


# --- errors ---------------------------------------------------------------------------------------

# `google.rpc.Code`, with the HTTP status of each.
CODES = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
}


def error_of(status: int, name: str, message: str = "no", *details: Json) -> base.UpstreamError:
    error = {"code": status, "message": message, "status": name, "details": list(details)}
    return gemini_answer.error_of(status, {}, json.dumps({"error": error}).encode())


def test_every_code_has_its_family() -> None:
    assert FAMILIES.keys() == CODES.keys()
    for name, status in CODES.items():
        failure = error_of(status, name)
        assert type(failure) is FAMILIES[name]
        assert failure.status == status
        assert failure.code == name


@pytest.mark.parametrize(
    ("status", "name", "message", "details", "family"),
    [
        (400, "INVALID_ARGUMENT", "no", {"reason": "API_KEY_INVALID"}, base.UpstreamAuth),
        (400, "INVALID_ARGUMENT", "exceeds the maximum number of tokens", {}, base.ContextExceeded),
        (418, "NOVELTY", "no", {}, base.BadRequest),
        (599, "NOVELTY", "no", {}, base.Overloaded),
    ],
)
def test_what_an_error_says_tells_its_family(
    status: int, name: str, message: str, details: Json, family: type
) -> None:
    assert type(error_of(status, name, message, details)) is family


@pytest.mark.parametrize(
    ("delay", "expected"),
    [("34.4s", "35"), ("0s", "0"), ("x", None), ("infs", None), ("-1s", None), (5, None)],
)
def test_when_to_come_back_is_told(delay: object, expected: str | None) -> None:
    failure = error_of(429, "RESOURCE_EXHAUSTED", "no", {"retryDelay": delay})
    assert failure.headers.get("retry-after") == expected


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"error":5}', b'{"error":{"status":5,"details":5}}', b"[[1]]"],
)
def test_an_error_of_any_shape_has_the_family_of_its_status(body: bytes) -> None:
    assert type(gemini_answer.error_of(503, {}, body)) is base.Overloaded


def test_our_key_is_never_quoted() -> None:
    error = {"error": {"code": 400, "message": f"bad {KEY}", "status": "INVALID_ARGUMENT"}}
    assert KEY not in failure_of(whole(error, 400)).message


def test_what_google_quotes_of_our_key_is_redacted() -> None:
    quoted = {"error": {"code": 400, "message": f"key {KEY}", "status": f"X {KEY}"}}
    spelled = json.dumps(quoted).replace("AIza", "\\u0041Iza").encode()
    for failure in (
        failure_of(EVENTS, event(quoted), END, stream=True),
        failure_of(whole(quoted)),
        failure_of(EVENTS, piece(b"data: " + spelled + b"\n\n"), END, stream=True),
        failure_of(head(400, content_length=str(len(spelled))) + spelled),
    ):
        assert KEY not in repr((failure.args, vars(failure)))


def test_a_key_that_was_renewed_meanwhile_is_not_quoted_either() -> None:
    async def play(adapter: Gemini) -> str:
        adapter.guard({"authorization": "Bearer first-token-0123"})
        adapter.guard({"authorization": "Bearer other-token-0123"})
        with pytest.raises(base.AdapterError) as caught:
            async with adapter.open(call()) as answer:
                await answer.body()
        return caught.value.message

    said = {"error": {"code": 400, "message": "first-token-0123 other-token-0123"}}
    assert talk(answering(whole(said)), play) == "[redacted] [redacted]"
