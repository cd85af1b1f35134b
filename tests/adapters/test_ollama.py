"""Ollama's answers, streams and the context of a model, over real sockets."""

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
from adapters.listing import Progress
from adapters.ollama import Ollama, Shown
from adapters.wire.lines import LineDecoder
from adapters.wire.ollama_answer import ChatReader, CompletionReader, EmbeddingsReader
from tests.adapters.servers import Peer, ScriptedServer
from tests.adapters.shapes import damaged
from tests.adapters.wire import END, piece, whole
from tests.adapters.wire_ollama import LINES, line

T = TypeVar("T")
Json = dict[str, Any]

DONE = {"done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 5}


def call(
    endpoint: Endpoint = "chat", body: Json | None = None, *, stream: bool = False, size: int = 1
) -> Call:
    question = {"messages": [{"role": "user", "content": "x" * size}]}
    text = json.dumps(body or question).encode()
    return Call(endpoint=endpoint, model="m", body=text, stream=stream, deadlines=Deadlines())


def talk(script: Callable[[Peer], None], play: Callable[[Ollama], Awaitable[T]]) -> T:
    """Do something with an adapter whose server does what a script says."""

    async def run(url: str) -> T:
        adapter = Ollama(base_url=url)
        try:
            async with asyncio.timeout(10):
                return await play(adapter)
        finally:
            await adapter.aclose()

    with ScriptedServer(script) as server:
        return asyncio.run(run(server.url))


def serving(
    *parts: bytes, seen: list[Json] | None = None, **aside: object
) -> Callable[[Peer], None]:
    """Answer calls in these parts, and what is asked aside (`ps`, `show`) by the names of that."""

    def answer(peer: Peer) -> None:
        while True:
            request = peer.read_request()
            path = request.line.split()[1].removeprefix("/api/")
            if path in ("ps", "show"):
                said = aside.get(path)
                peer.send(
                    whole(said if said is not None else {"error": "no"}, 200 if said else 404)
                )
                continue
            if seen is not None:
                seen.append({"path": path, **json.loads(request.body)})
            for part in parts:
                peer.send(part)

    return answer


def open_and(
    read: Callable[[Answer], Awaitable[T]], asked: Call
) -> Callable[[Ollama], Awaitable[T]]:
    async def play(adapter: Ollama) -> T:
        async with adapter.open(asked) as answer:
            return await read(answer)

    return play


async def chunks_of(answer: Answer) -> list[Json]:
    found: list[Json] = []
    while payloads := await answer.payloads():
        found += [json.loads(payload) for payload in payloads]
    return found


async def body_of(answer: Answer) -> Json:
    body: Json = json.loads(await answer.body())
    return body


def stream_of(*parts: bytes, asked: Call | None = None) -> list[Json]:
    play = open_and(chunks_of, asked or call(stream=True))
    return talk(serving(LINES, *parts, END), play)


def failure_of(*parts: bytes, stream: bool = False) -> base.AdapterError:
    async def play(adapter: Ollama) -> base.AdapterError:
        with pytest.raises(base.AdapterError) as caught:
            async with adapter.open(call(stream=stream)) as answer:
                await (chunks_of(answer) if stream else body_of(answer))
        return caught.value

    return talk(serving(*parts), play)


# --- answers --------------------------------------------------------------------------------------


def test_a_whole_answer_is_a_chat_completion() -> None:
    message = {"role": "assistant", "content": "Hello", "thinking": "Hm"}
    said = whole({"model": "m", "message": message, **DONE})
    body = talk(serving(said), open_and(body_of, call()))
    assert body.pop("id").startswith("chatcmpl-")
    assert body.pop("created")
    assert body == {
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello",
                    "reasoning_content": "Hm",
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    }


def test_a_stream_is_chunks_of_one_shape() -> None:
    likely = [{"token": "b", "logprob": -0.5, "bytes": [98], "top_logprobs": [{"token": "c"}]}]
    chunks = stream_of(
        line({"role": "assistant", "content": "", "thinking": "Hm"}),
        line({"role": "assistant", "content": "a"}),
        line({"role": "assistant", "content": "b"}, logprobs=likely),
        line({"role": "assistant", "content": ""}),
        line({"role": "assistant", "content": ""}, **DONE),
    )
    assert [choice["delta"] for chunk in chunks for choice in chunk["choices"]] == [
        {"role": "assistant", "content": "", "reasoning_content": "Hm"},
        {"content": "a"},
        {"content": "b"},
        {},
    ]
    assert list(chunks[1]["choices"][0]) == ["index", "delta", "finish_reason"]
    assert len({tuple(chunk.items())[:4] for chunk in chunks}) == 1
    top = {"token": "c", "logprob": 0.0, "bytes": None}
    token = {"token": "b", "logprob": -0.5, "bytes": [98], "top_logprobs": [top]}
    assert chunks[2]["choices"][0]["logprobs"] == {"content": [token], "refusal": None}
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["total_tokens"] == 8


def test_calls_are_counted_and_end_an_answer_as_calls() -> None:
    def called(name: str, **more: object) -> Json:
        return {"tool_calls": [{"function": {"index": 0, "name": name}, **more}]}

    chunks = stream_of(line(called("f")), line(called("g", id="own")), line({}, **DONE))
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    first, second = (delta["tool_calls"][0] for delta in deltas[:2])
    assert first["id"].startswith("call_")
    assert first["function"] == {"name": "f", "arguments": "{}"}
    assert (first["index"], second["index"], second["id"]) == (0, 1, "own")
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("reason", "finish"), [("stop", "stop"), ("length", "length"), ("load", "stop"), (None, "stop")]
)
def test_the_end_has_openais_word(reason: str | None, finish: str) -> None:
    chunks = stream_of(line({"content": "a"}, done=True, done_reason=reason))
    assert chunks[-1]["choices"][0]["finish_reason"] == finish


def test_a_prompt_that_was_cached_counts_as_nothing() -> None:
    chunks = stream_of(line({"content": "a"}, done=True, eval_count=5))
    assert chunks[-1]["usage"] == {"prompt_tokens": 0, "completion_tokens": 5, "total_tokens": 5}


def test_a_completion_is_text() -> None:
    said = [{"response": "a", "done": False}, {"response": "b", **DONE}]
    parts = [piece(json.dumps(each).encode() + b"\n") for each in said]
    chunks = stream_of(*parts, asked=call("completions", {"prompt": "x"}, stream=True))
    assert [choice["text"] for chunk in chunks for choice in chunk["choices"]] == ["a", "b"]
    assert chunks[0]["object"] == "text_completion"
    assert chunks[1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[2]["usage"]["total_tokens"] == 8
    body = talk(serving(whole(said[1])), open_and(body_of, call("completions", {"prompt": "x"})))
    assert body["choices"][0]["text"] == "b"


def test_embeddings_have_their_own_path() -> None:
    seen: list[Json] = []
    said = whole({"model": "m", "embeddings": [[0.5]], "prompt_eval_count": 2})
    body = talk(serving(said, seen=seen), open_and(body_of, call("embeddings", {"input": "a"})))
    assert seen[0]["path"] == "embed"
    assert body["data"] == [{"object": "embedding", "index": 0, "embedding": [0.5]}]
    assert body["usage"] == {"prompt_tokens": 2, "total_tokens": 2}


def test_a_stream_that_is_not_done_is_broken() -> None:
    assert type(failure_of(LINES, line({"content": "a"}), END, stream=True)) is base.ConnectionLost
    assert type(failure_of(whole({"message": {}}))) is base.MalformedAnswer


def test_an_error_before_the_first_word_is_raised() -> None:
    error = piece(b'{"error":"the prompt is longer than the context length"}\n')
    assert type(failure_of(LINES, error, END, stream=True)) is base.ContextExceeded
    error = piece(b'{"error":"model runner has unexpectedly stopped"}\n')
    failure = failure_of(LINES, error, END, stream=True)
    assert type(failure) is base.UpstreamError
    assert failure.retry_elsewhere


def test_an_error_later_on_is_one_in_the_stream() -> None:
    reader = ChatReader()
    payloads = reader.read_payloads([b'{"message":{"content":"a"}}', b'{"error":"no"}'])
    assert json.loads(payloads[1]) == {
        "error": {"message": "no", "type": None, "param": None, "code": None}
    }
    assert not reader.is_whole


_LINES = b"".join(
    json.dumps(said, ensure_ascii=False).encode() + b"\n"
    for said in (
        {"message": {"thinking": "Grüße 👋"}},
        {"message": {"content": "\u2028x"}},
        {"message": {"tool_calls": [{"id": "i", "function": {"name": "f", "arguments": {}}}]}},
        {"message": {"content": ""}, **DONE},
    )
)


@given(st.lists(st.integers(min_value=0, max_value=len(_LINES)), max_size=12))
def test_however_the_bytes_are_cut_the_same_is_said(places: list[int]) -> None:
    def said(cuts: list[int]) -> list[Json]:
        decoder, reader = LineDecoder(), ChatReader()
        found: list[bytes] = []
        for start, end in zip([0, *cuts], [*cuts, len(_LINES)], strict=True):
            found += reader.read_payloads(decoder.feed(_LINES[start:end]))
        assert reader.is_done
        return [json.loads(payload) | {"created": 0, "id": ""} for payload in found]

    assert said(sorted(places)) == said([])


_ANSWERED: Json = {
    "model": "m",
    "message": {
        "content": "a",
        "thinking": "b",
        "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}, "id": "a"}],
    },
    "response": "a",
    "logprobs": [{"token": "a", "logprob": -1, "bytes": [1], "top_logprobs": [{"token": "b"}]}],
    "embeddings": [[1.0]],
    **DONE,
}


@given(damaged(_ANSWERED) | damaged({"error": {"message": "a", "code": "b"}}))
def test_no_shape_of_an_answer_is_more_than_a_failure(said: object) -> None:
    text = json.dumps(said).encode()
    for read in (
        ChatReader().read_body,
        CompletionReader().read_body,
        EmbeddingsReader().read_body,
        lambda text: ChatReader().read_payloads([text, text]),
        lambda text: CompletionReader().read_payloads([text]),
    ):
        try:
            read(text)
        except base.AdapterError as failure:
            assert failure.message.encode()


# --- the context of a model -----------------------------------------------------------------------


def loaded(length: int, name: str = "m:latest") -> Json:
    return {"models": [{"name": name, "context_length": length}]}


def shown(length: int, parameters: str = "") -> Json:
    info = {"general.architecture": "llama", "llama.context_length": length}
    return {"model_info": info, "parameters": parameters, "capabilities": ["completion", "tools"]}


@pytest.mark.parametrize(
    ("size", "aside", "expected"),
    [
        (1, {}, None),
        (1, {"ps": {"models": []}}, None),
        (1, {"ps": loaded(16384)}, 16384),
        (1, {"ps": loaded(2048), "show": shown(131072)}, 4096),
        (1, {"ps": loaded(16384, "other")}, None),
        (30_000, {}, 16384),
        (30_000, {"show": shown(131072)}, 16384),
        (30_000, {"show": shown(8192)}, 8192),
        (30_000, {"show": shown(131072, "stop  x\nnum_ctx    32768")}, None),
        (30_000, {"show": shown(131072, f"num_ctx {'9' * 5000}")}, 16384),
        (30_000, {"ps": loaded(4096), "show": shown(131072, "num_ctx 32768")}, 16384),
        (30_000, {"ps": loaded(65536)}, 65536),
        (30_000, {"ps": b"<html>", "show": b"[]"}, 16384),
    ],
)
def test_the_context_is_as_long_as_the_request_needs(
    size: int, aside: Json, expected: int | None
) -> None:
    seen: list[Json] = []
    said = whole({"message": {"content": "a"}, **DONE})
    talk(serving(said, seen=seen, **aside), open_and(body_of, call(size=size)))
    assert seen[0]["options"].get("num_ctx") == expected


def test_nothing_is_asked_aside_where_the_client_says_it() -> None:
    def answer(peer: Peer) -> None:
        request = peer.read_request()
        assert request.line == "POST /api/chat HTTP/1.1"
        assert json.loads(request.body)["options"] == {"num_ctx": 512}
        peer.send(whole({"message": {"content": "a"}, **DONE}))

    body = {"messages": [{"role": "user", "content": "x"}], "num_ctx": 512}
    talk(answer, open_and(body_of, call(body=body)))


def test_a_model_tells_what_it_can_do() -> None:
    found = talk(serving(show=shown(8192, "num_ctx 4096")), lambda adapter: adapter.show("m"))
    assert found == Shown(
        capabilities=frozenset({"completion", "tools"}), context_length=8192, num_ctx=4096
    )


def test_models_are_listed() -> None:
    def answer(peer: Peer) -> None:
        assert peer.read_request().line == "GET /api/tags HTTP/1.1"
        peer.send(whole({"models": [{"name": "llama3:latest"}, {"name": "b"}]}))

    assert talk(answer, Ollama.models) == ("llama3:latest", "b")


@pytest.mark.parametrize("said", [[], {"models": [{}]}, b"<html>"])
def test_a_list_of_models_that_is_none_is_malformed(said: object) -> None:
    def answer(peer: Peer) -> None:
        peer.read_request()
        peer.send(whole(said))

    with pytest.raises(base.MalformedAnswer):
        talk(answer, Ollama.models)


def test_the_operators_context_length_is_always_asked_for() -> None:
    seen: list[Json] = []
    said = whole({"message": {"content": "a"}, **DONE})
    for size in (1, 30_000):
        asked = structs.replace(call(size=size), context_length=12_288)
        talk(serving(said, seen=seen, ps=loaded(4096)), open_and(body_of, asked))
    own = {"messages": [{"role": "user", "content": "x"}], "num_ctx": 512}
    asked = structs.replace(call(body=own), context_length=12_288)
    talk(serving(said, seen=seen), open_and(body_of, asked))
    assert [each["options"]["num_ctx"] for each in seen] == [12_288, 12_288, 512]


# --- fetching models ------------------------------------------------------------------------------


def pulling(*lines: Json | bytes) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        request = peer.read_request()
        assert request.line == "POST /api/pull HTTP/1.1"
        assert json.loads(request.body) == {"model": "m", "stream": True}
        text = b"".join(
            line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines
        )
        peer.send(whole(text, content_type="application/x-ndjson"))

    return answer


async def _pull(adapter: Ollama) -> list[Progress]:
    return [progress async for progress in adapter.pull("m")]


def test_a_pull_tells_how_far_it_is() -> None:
    steps = talk(
        pulling(
            {"status": "pulling manifest"},
            {"status": "pulling aa", "digest": "aa", "total": 100},
            {"status": "pulling aa", "digest": "aa", "total": 100, "completed": 40},
            {"status": "pulling bb", "digest": "bb", "total": 10, "completed": 10},
            {"status": "success"},
        ),
        _pull,
    )
    assert [(step.done_bytes, step.total_bytes) for step in steps] == [
        (0, 0),
        (0, 100),
        (40, 100),
        (50, 110),
        (50, 110),
    ]
    assert steps[-1].status == "success"


@pytest.mark.parametrize(
    ("lines", "kind", "says"),
    [
        ([{"error": "pull model manifest: file does not exist"}], base.UpstreamError, "not exist"),
        ([{"status": "pulling manifest"}], base.MalformedAnswer, "middle"),
        ([], base.MalformedAnswer, "middle"),
        ([b"<html>\n"], base.MalformedAnswer, "JSON"),
    ],
)
def test_a_pull_that_fails_says_why(
    lines: list[Json | bytes], kind: type[base.AdapterError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        talk(pulling(*lines), _pull)
