"""What a provider says in its own bytes becomes the same chat, and so does what goes wrong.

The bytes are those of each provider's documentation (`wire_*.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from adapters import base, registry
from adapters.base import Adapter, AdapterError, Answer, Call, Deadlines
from tests.adapters import (
    clouds,
    wire_anthropic,
    wire_bedrock_claude,
    wire_converse,
    wire_gemini,
    wire_ollama,
    wire_openai,
)
from tests.adapters.servers import Peer, ScriptedServer, serving_parts
from tests.adapters.wire import (
    END,
    Called,
    Counts,
    Json,
    Said,
    Wire,
    piece,
    saying,
    stream_head,
    whole,
)

T = TypeVar("T")

SECRET = "sk-test-0123456789"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a wire is spoken: behind which adapter, by which model."""

    wire: Wire
    adapter: str
    model: str = "model-x"


PLACES: Mapping[str, Place] = {
    "anthropic": Place(wire_anthropic, "anthropic"),
    "gemini": Place(wire_gemini, "gemini"),
    "ollama": Place(wire_ollama, "ollama"),
    "openai_compatible": Place(wire_openai, "openai_compatible"),
    "bedrock, claude": Place(wire_bedrock_claude, "bedrock", "anthropic.claude-sonnet-4-5"),
    "bedrock, others": Place(wire_converse, "bedrock", "amazon.nova-pro-v1:0"),
    "vertex, claude": Place(wire_anthropic, "vertex", "claude-sonnet-4-5@20250929"),
    "vertex, gemini": Place(wire_gemini, "vertex", "gemini-3.8-flash"),
}

ELSEWHERE: Mapping[str, str] = {
    "scripted": "no provider: its answers are made up",
    "http": "says what its template says (test_templated_http.py)",
    "local": "leases what `llama_server` speaks to (test_local.py)",
}
"""The adapters without a place, and why."""

OPENAI_LIKE = sorted(
    name
    for name in registry.BUILT_IN
    if "chat" in registry.speaks(name)
    and name not in {*ELSEWHERE, *(place.adapter for place in PLACES.values())}
)

ONE = Called(id="call_1", name="get_weather", arguments={"city": "Paris", "days": 2})
TWO = Called(id="call_2", name="get_time", arguments={"zone": "Européan/“Rome”"})
BARE = Called(id="call_3", name="ping", arguments={})
COUNTS = Counts(prompt=140, output=17, reasoned=10, cached=100, written=30, written_1h=20)

SCENES: Mapping[str, Said] = {
    "text": Said(texts=("Once ", "upon ", "a time.\n", "“Ünï\u2028ç\U0001f44b”")),
    "empty": Said(),
    "length": Said(texts=("Once",), finish="length"),
    "refused": Said(texts=("I",), finish="content_filter"),
    "a tool": Said(calls=(ONE,), finish="tool_calls"),
    "text and a tool": Said(texts=("Let me ", "see."), calls=(ONE,), finish="tool_calls"),
    "parallel tools": Said(calls=(ONE, TWO, BARE), finish="tool_calls"),
    "reasoning": Said(thoughts=("Hm", "m. "), texts=("Yes",)),
    "signed reasoning": Said(thoughts=("Hm", "m."), signature="c2ln", texts=("Yes",)),
    "redacted reasoning": Said(redacted="ZW5jcnlwdGVk", texts=("Yes",)),
    "a signed tool": Said(
        calls=(Called(id="c", name="f", arguments={}, signature="c2ln"),), finish="tool_calls"
    ),
    "usage": Said(texts=("Yes",), counts=COUNTS),
}

_UNSIGNED = ("signed reasoning", "redacted reasoning", "a signed tool")
_GEMINI = ("gemini", "vertex, gemini")
_CLAUDE = ("anthropic", "bedrock, claude", "bedrock, others", "vertex, claude")
CANNOT: Mapping[tuple[str, str], str] = {
    ("ollama", "refused"): "a refusal is text like any other",
    **{
        (name, scene): "thoughts are not signed"
        for name in ("ollama", "openai_compatible")
        for scene in _UNSIGNED
    },
    **{(name, "a signed tool"): "signatures are the thoughts' own" for name in _CLAUDE},
    **{(name, "signed reasoning"): "signatures are those of calls and texts" for name in _GEMINI},
    **{(name, "redacted reasoning"): "thoughts are summaries" for name in _GEMINI},
}
"""The scenes that a dialect has no words for, and why."""

every_scene = pytest.mark.parametrize(
    ("name", "scene"),
    [(name, scene) for name in PLACES for scene in SCENES if (name, scene) not in CANNOT],
)
every_place = pytest.mark.parametrize("name", PLACES)
either_kind = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def call(name: str, *, stream: bool, drop_params: bool = False, **members: Any) -> Call:
    model = PLACES[name].model if name in PLACES else "model-x"
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Tell me"}],
        "stream": stream,
        **members,
    }
    return Call(
        endpoint="chat",
        model=model,
        body=json.dumps(body).encode(),
        stream=stream,
        deadlines=Deadlines(),
        drop_params=drop_params,
    )


def playing(
    name: str, script: Callable[[Peer], None], play: Callable[[Adapter], Awaitable[T]]
) -> T:
    """Run `play` with an adapter whose provider follows the script."""
    with ScriptedServer(script) as server:
        return asyncio.run(played(name, server.url, play))


async def played(name: str, url: str, play: Callable[[Adapter], Awaitable[T]]) -> T:
    with contextlib.ExitStack() as opened:
        adapter = made(name, url, opened)
        try:
            async with asyncio.timeout(10):
                return await play(adapter)
        finally:
            await adapter.aclose()


def made(name: str, url: str, opened: contextlib.ExitStack) -> Adapter:
    adapter = PLACES[name].adapter if name in PLACES else name
    settings = registry.Settings(name=name, base_url=f"{url}/v1", api_key=SECRET)
    if adapter == "bedrock":
        settings = replace(settings, region="us-east-1")
    elif adapter == "vertex":
        folder = Path(opened.enter_context(TemporaryDirectory()))
        file = opened.enter_context(clouds.TokenService().running(folder))
        settings = replace(
            settings, api_key=None, project="p", region="global", credentials_file=file
        )
    return registry.make(adapter, settings)


async def chunks_of(answer: Answer) -> list[Json]:
    found = []
    while payloads := await answer.payloads():
        found += [json.loads(payload) for payload in payloads]
    return found


async def heard(adapter: Adapter, asked: Call) -> Json:
    """The message of an answer, with its finish and usage, however it came."""
    async with adapter.open(asked) as answer:
        if not asked.stream:
            body = json.loads(await answer.body())
            [choice] = body["choices"]
            return _plain(choice["message"], choice["finish_reason"], body.get("usage"))
        return gathered(await chunks_of(answer))


def gathered(chunks: list[Json]) -> Json:
    """The message that a canonical stream stands for; fails where it is not canonical."""
    assert len({chunk["id"] for chunk in chunks}) == 1
    message: Json = {"content": "", "reasoning_content": "", "reasoning_details": []}
    calls: list[Json] = []
    finish = usage = None
    for chunk in chunks:
        assert chunk["object"] == "chat.completion.chunk"
        assert usage is None, "nothing follows the usage"
        usage = chunk.get("usage")
        for choice in chunk["choices"]:
            assert choice["index"] == 0
            assert finish is None, "nothing follows the finish"
            finish = choice["finish_reason"]
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            message["reasoning_content"] += delta.get("reasoning_content") or ""
            message["reasoning_details"] += delta.get("reasoning_details") or ()
            for entry in delta.get("tool_calls") or ():
                _add_call(calls, entry)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    return _plain({**message, "tool_calls": calls}, finish, usage)


def _add_call(calls: list[Json], entry: Json) -> None:
    assert entry["index"] in (len(calls) - 1, len(calls)), "calls are numbered as they come"
    if entry["index"] == len(calls):
        assert entry["type"] == "function"
        assert isinstance(entry["id"], str)
        calls.append({**entry, "function": dict(entry["function"])})
    else:
        calls[-1]["function"]["arguments"] += entry["function"]["arguments"]


def _plain(message: Json, finish: str | None, usage: Json | None) -> Json:
    calls = message.get("tool_calls") or ()
    functions = [call["function"] for call in calls]
    prompt = (usage or {}).get("prompt_tokens_details") or {}
    output = (usage or {}).get("completion_tokens_details") or {}
    hour = (usage or {}).get("cache_creation") or {}
    return {
        "text": message.get("content") or "",
        "thought": message.get("reasoning_content") or "",
        "details": [
            {k: v for k, v in detail.items() if k in ("type", "signature", "data")}
            for detail in message.get("reasoning_details") or ()
        ],
        "calls": [(f["name"], json.loads(f["arguments"])) for f in functions],
        "ids": [call["id"] for call in calls],
        "signatures": [
            call["extra_content"]["google"]["thought_signature"]
            for call in calls
            if "extra_content" in call
        ],
        "finish": finish,
        "usage": usage
        and {
            "prompt": usage["prompt_tokens"],
            "output": usage["completion_tokens"],
            "total": usage["total_tokens"],
            "reasoned": output.get("reasoning_tokens") or 0,
            "cached": prompt.get("cached_tokens") or 0,
            "written": prompt.get("cache_write_tokens") or 0,
            "written_1h": hour.get("ephemeral_1h_input_tokens") or 0,
        },
    }


def expected(said: Said, wire: Wire) -> Json:
    details = []
    if said.signature:
        details.append({"type": "reasoning.text", "signature": said.signature})
    if said.redacted:
        details.append({"type": "reasoning.encrypted", "data": said.redacted})
    counts = said.counts
    more = {"reasoned", "cached", "written", "written_1h"}
    return {
        "text": said.text,
        "thought": said.thought,
        "details": details,
        "calls": [(call.name, call.arguments) for call in said.calls],
        "ids": [call.id for call in said.calls],
        "signatures": [call.signature for call in said.calls if call.signature],
        "finish": said.finish,
        "usage": {
            "prompt": counts.prompt,
            "output": counts.output,
            "total": counts.prompt + counts.output,
            **{name: getattr(counts, name) if name in wire.tells else 0 for name in more},
        },
    }


def test_every_wire_and_every_exception_is_of_an_adapter() -> None:
    assert {*(place.adapter for place in PLACES.values()), *ELSEWHERE} <= registry.BUILT_IN.keys()


@pytest.mark.parametrize(("name", "scene"), CANNOT)
def test_what_a_dialect_cannot_say_is_a_scene(name: str, scene: str) -> None:
    assert name in PLACES
    assert scene in SCENES
    with pytest.raises(AssertionError):
        test_what_is_said_is_heard(name, scene, stream=True)


@either_kind
@every_scene
def test_what_is_said_is_heard(name: str, scene: str, stream: bool) -> None:
    wire, said = PLACES[name].wire, SCENES[scene]
    found = playing(name, saying(wire, said), lambda a: heard(a, call(name, stream=stream)))
    assert found == expected(said, wire)


@pytest.mark.parametrize("scene", ["text", "text and a tool", "parallel tools", "usage"])
@either_kind
@pytest.mark.parametrize("name", OPENAI_LIKE)
def test_presets_hear_what_openai_says(name: str, scene: str, stream: bool) -> None:
    said = SCENES[scene]
    found = playing(name, saying(wire_openai, said), lambda a: heard(a, call(name, stream=stream)))
    assert found == expected(said, wire_openai)


@pytest.mark.parametrize(
    ("name", "error"),
    [(name, error) for name, place in PLACES.items() for error in place.wire.failing],
)
@either_kind
def test_every_documented_error_has_its_family(name: str, error: str, stream: bool) -> None:
    wire = PLACES[name].wire
    failing = wire.failing[error]

    def refuse(peer: Peer) -> None:
        wire.read(peer)
        peer.send(failing.answer)

    async def play(adapter: Adapter) -> base.UpstreamError:
        with pytest.raises(base.UpstreamError) as caught:
            async with adapter.open(call(name, stream=stream)):
                pass
        return caught.value

    found = playing(name, refuse, play)
    assert type(found) is failing.family
    assert found.status == failing.status
    assert found.message
    assert found.headers.get("retry-after") == failing.retry_after


def broken(asked: Call, name: str, *parts: bytes, reset: bool = False) -> AdapterError:
    """How a stream fails that is cut after these bytes."""
    wire = PLACES[name].wire

    def cut(peer: Peer) -> None:
        wire.read(peer)
        peer.send(stream_head(wire.content_type) + b"".join(map(piece, parts)))
        if not reset:
            peer.send(END)

    async def play(adapter: Adapter) -> AdapterError:
        try:
            async with adapter.open(asked) as answer:
                while await answer.payloads():
                    pass
        except AdapterError as error:
            return error
        raise AssertionError("a stream that was cut ended as if it were whole")

    return playing(name, cut, play)


FULL = Said(thoughts=("Hm",), texts=("Let me ", "see."), calls=(ONE, TWO), finish="tool_calls")


@pytest.mark.parametrize("reset", [False, True], ids=["ended", "dropped"])
@every_place
def test_a_stream_that_is_cut_anywhere_does_not_end(name: str, reset: bool) -> None:
    events = PLACES[name].wire.stream(FULL)
    for count in range(len(events) - PLACES[name].wire.optional):
        failure = broken(call(name, stream=True), name, *events[:count], reset=reset)
        assert type(failure) is base.ConnectionLost, (count, failure)
        assert failure.dispatched


@every_place
def test_an_event_that_is_cut_in_half_is_not_read(name: str) -> None:
    events = PLACES[name].wire.stream(FULL)
    half = events[-1][: len(events[-1]) // 2].rstrip(b"\n")
    failure = broken(call(name, stream=True), name, *events[:3], half)
    assert isinstance(failure, base.ConnectionLost | base.MalformedAnswer)


@pytest.mark.parametrize("rubbish", [b"{not json}", b'"text"', b"[1]", b"7", b"\xff\xfe"])
@every_place
def test_rubbish_in_a_stream_is_not_taken_for_an_answer(name: str, rubbish: bytes) -> None:
    wire = PLACES[name].wire
    failure = broken(call(name, stream=True), name, *wire.stream(FULL)[:2], wire.frame(rubbish))
    assert isinstance(failure, base.ConnectionLost | base.MalformedAnswer)


@every_place
def test_a_page_in_place_of_a_stream_is_no_answer(name: str) -> None:
    wire = PLACES[name].wire

    def page(peer: Peer) -> None:
        wire.read(peer)
        peer.send(whole(b"<html>Welcome</html>", content_type="text/html"))

    async def play(adapter: Adapter) -> None:
        with pytest.raises(base.MalformedAnswer):
            async with adapter.open(call(name, stream=True)):
                pass

    playing(name, page, play)


@every_place
@pytest.mark.parametrize("after", [0, 3])
def test_an_error_in_the_stream_is_told(name: str, after: int) -> None:
    wire = PLACES[name].wire
    events = [*wire.stream(FULL)[:after], wire.error_event("it broke", "overloaded_error")]

    def fail(peer: Peer) -> None:
        wire.read(peer)
        peer.send(stream_head(wire.content_type) + b"".join(map(piece, events)) + END)

    async def play(adapter: Adapter) -> str:
        seen: list[Json] = []
        try:
            async with adapter.open(call(name, stream=True)) as answer:
                while not any("error" in chunk for chunk in seen):
                    seen += map(json.loads, await answer.payloads())
        except base.UpstreamError as error:
            return error.message
        message: str = seen[-1]["error"]["message"]
        return message

    assert playing(name, fail, play) == "it broke"


@settings(max_examples=25, deadline=None)
@given(cuts=st.sets(st.integers(1, 4000), max_size=30), each_byte=st.booleans())
@every_place
def test_how_bytes_arrive_changes_nothing(name: str, cuts: set[int], each_byte: bool) -> None:
    wire = PLACES[name].wire
    body = b"".join(wire.stream(FULL))
    places = sorted(c for c in cuts if c < len(body)) if not each_byte else range(1, len(body), 3)
    ends = [0, *places, len(body)]
    parts = [piece(body[a:b]) for a, b in itertools.pairwise(ends)]
    aside = [[whole({"models": []})]] if name == "ollama" else []

    async def play() -> Json:
        head = stream_head(wire.content_type)
        async with serving_parts(*aside, [head, *parts, END]) as url:
            return await played(name, url, lambda a: heard(a, call(name, stream=True)))

    assert asyncio.run(play()) == expected(FULL, wire)


# --- Anthropic's own dialect ----------------------------------------------------------------------

in_messages = pytest.mark.parametrize(
    "name",
    [name for name, p in PLACES.items() if p.wire in (wire_anthropic, wire_bedrock_claude)],
)


def messages(name: str, *, stream: bool) -> Call:
    return structs.replace(call(name, stream=stream, max_tokens=100), endpoint="messages")


@in_messages
def test_messages_are_heard_as_they_were_said(name: str) -> None:
    async def play(adapter: Adapter) -> tuple[list[Json], Json]:
        async with adapter.open(messages(name, stream=True)) as answer:
            events = await chunks_of(answer)
        async with adapter.open(messages(name, stream=False)) as answer:
            return events, json.loads(await answer.body())

    events, body = playing(name, saying_again(PLACES[name].wire, FULL), play)
    said = (event.partition(b"data: ")[2] for event in wire_anthropic.stream(FULL))
    assert events == [e for e in map(json.loads, said) if e["type"] != "ping"]
    assert body == wire_anthropic.whole(FULL)


def saying_again(wire: Wire, said: Said) -> Callable[[Peer], None]:
    """A provider that says it each time it is asked."""
    say = saying(wire, said)

    def answer(peer: Peer) -> None:
        while True:
            say(peer)

    return answer


@in_messages
def test_messages_that_are_cut_anywhere_do_not_end(name: str) -> None:
    events = PLACES[name].wire.stream(FULL)
    for count in range(len(events)):
        failure = broken(messages(name, stream=True), name, *events[:count])
        assert type(failure) is base.ConnectionLost, count


# --- what is asked --------------------------------------------------------------------------------


def asked_of(name: str, asked: Call) -> tuple[Json, tuple[str, ...]]:
    """What the provider is sent, and what it is not told."""
    wire, sent = PLACES[name].wire, []

    def listen(peer: Peer) -> None:
        sent.append(json.loads(wire.read(peer).body))
        peer.send(whole(wire.whole(Said(texts=("Yes",)))))

    async def play(adapter: Adapter) -> tuple[str, ...]:
        async with adapter.open(asked) as answer:
            await answer.body()
            return tuple(answer.dropped)

    dropped = playing(name, listen, play)
    [request] = sent
    return request, dropped


def _strings(value: Any) -> Iterable[str]:
    """Every text anywhere in some JSON, the names of members too."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, str):
        yield value


@every_place
def test_an_image_is_sent_as_it_is(name: str) -> None:
    url = {"url": "data:image/png;base64,aW1hZ2U="}
    parts = [{"type": "text", "text": "This?"}, {"type": "image_url", "image_url": url}]
    sent, dropped = asked_of(
        name, call(name, stream=False, messages=[{"role": "user", "content": parts}])
    )
    assert {"This?", "aW1hZ2U="} <= {s.rpartition(",")[2] for s in _strings(sent)}
    assert not dropped


@every_place
def test_a_schema_for_the_answer_is_sent(name: str) -> None:
    schema = {
        "type": "object",
        "properties": {"headline": {"type": "string"}},
        "required": ["headline"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": schema}}
    sent, dropped = asked_of(name, call(name, stream=False, response_format=wanted))
    assert any("headline" in text for text in _strings(sent))
    assert not dropped


@every_place
def test_what_cannot_be_carried_is_refused_by_name_or_left_out_and_told(name: str) -> None:
    members = {"logit_bias": {"50256": -100}}
    if name == "openai_compatible":  # whatever it is, the server may know it
        sent, dropped = asked_of(name, call(name, stream=False, **members))
        assert sent["logit_bias"] == members["logit_bias"]
        assert not dropped
        return

    async def refused(adapter: Adapter) -> base.Unsupported:
        with pytest.raises(base.Unsupported) as caught:
            async with adapter.open(call(name, stream=False, **members)):
                pass
        return caught.value

    failure = playing(name, lambda peer: None, refused)
    assert failure.param == "logit_bias"
    assert not failure.dispatched
    sent, dropped = asked_of(name, call(name, stream=False, drop_params=True, **members))
    assert "logit_bias" in dropped
    assert "logit_bias" not in set(_strings(sent))
