"""The scripted provider: what it says, its faults, and that no request can hurt it."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import base
from adapters.base import AdapterError, BadRequest, Call, Deadlines
from adapters.scripted import Fault, Reply, Script, Scripted, ToolCall, sample, tokenize

HELLO = [{"role": "user", "content": "Hello there"}]


def scripted(*replies: Reply) -> Scripted:
    return Scripted(Script(models=["m"], replies=list(replies)))


def asked(
    adapter: Scripted, *, stream: bool, endpoint: Any = "chat", model: str = "m", **body: Any
) -> Any:
    """The answer: a decoded body, or the decoded chunks of a stream."""
    fields = {"model": model, **({"messages": HELLO} if endpoint == "chat" else {}), **body}
    call = Call(
        endpoint=endpoint,
        model=model,
        body=json.dumps(fields).encode(),
        stream=stream,
        deadlines=Deadlines(idle_s=0.05),
    )

    async def run() -> Any:
        async with adapter.open(call) as answer:
            if not stream:
                return json.loads(await answer.body())
            found = []
            while payloads := await answer.payloads():
                found += [json.loads(payload) for payload in payloads]
            return found

    return asyncio.run(run())


def put_together(chunks: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Message and finish reason of each choice of a stream."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            whole = choices.setdefault(
                choice["index"],
                {"content": "", "reasoning_content": "", "calls": [], "finish": None},
            )
            for name in ("content", "reasoning_content"):
                whole[name] += choice["delta"].get(name) or ""
            for entry in choice["delta"].get("tool_calls", ()):
                if "id" in entry:
                    whole["calls"].append({"name": entry["function"]["name"], "arguments": ""})
                whole["calls"][entry["index"]]["arguments"] += entry["function"]["arguments"]
            whole["finish"] = choice["finish_reason"] or whole["finish"]
    return choices


def as_stream(body: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The same of a whole answer."""
    return {
        choice["index"]: {
            "content": choice["message"]["content"] or "",
            "reasoning_content": choice["message"].get("reasoning_content", ""),
            "calls": [call["function"] for call in choice["message"].get("tool_calls", ())],
            "finish": choice["finish_reason"],
        }
        for choice in body["choices"]
    }


_replies = st.builds(
    Reply,
    text=st.text(max_size=20),
    reasoning=st.text(max_size=10),
    tool_calls=st.lists(
        st.builds(
            ToolCall,
            name=st.sampled_from(["f", "g"]),
            arguments=st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
        ),
        max_size=2,
    ),
)


@settings(deadline=None)
@given(_replies, st.none() | st.integers(1, 10), st.none() | st.integers(1, 3))
def test_a_stream_and_a_whole_answer_say_and_count_the_same(
    reply: Reply, limit: int | None, n: int | None
) -> None:
    adapter = scripted(reply)
    body = {"max_tokens": limit, "n": n, "stream_options": {"include_usage": True}}
    *chunks, last = asked(adapter, stream=True, **body)
    whole = asked(adapter, stream=False, **body)
    assert put_together(chunks) == as_stream(whole)
    assert last["usage"] == whole["usage"]
    assert len(whole["choices"]) == (n or 1)
    each = whole["usage"]["completion_tokens"] / (n or 1)
    assert limit is None or each <= limit
    cut = limit is not None and each == limit
    finish = whole["choices"][0]["finish_reason"]
    assert finish in ({"stop", "tool_calls"} | ({"length"} if cut else set()))


@given(st.text())
def test_tokens_are_the_text_again(text: str) -> None:
    assert "".join(tokenize(text)) == text


def test_the_first_reply_that_matches_the_last_user_message_is_given() -> None:
    adapter = scripted(
        Reply(when="weather", text="Sunny"), Reply(when="(?i)HELLO", text="Hi"), Reply(text="Else")
    )

    def said(*contents: Any) -> str:
        messages = [{"role": "user", "content": content} for content in contents]
        messages.append({"role": "assistant", "content": "weather"})
        body = asked(adapter, stream=False, messages=messages)
        text: str = body["choices"][0]["message"]["content"]
        return text

    assert said("the weather?") == "Sunny"
    assert said("weather", "hello") == "Hi"
    assert said([{"type": "text", "text": "my"}, {"type": "text", "text": "weather"}]) == "Sunny"
    assert said(None) == "Else"


def test_without_a_matching_reply_the_request_is_at_fault() -> None:
    with pytest.raises(BadRequest):
        asked(scripted(Reply(when="weather")), stream=True)


def test_an_unknown_model_is_not_found() -> None:
    for endpoint in ("chat", "embeddings"):
        with pytest.raises(base.ModelNotFound):
            asked(scripted(Reply()), stream=False, model="other", endpoint=endpoint, input="x")


@pytest.mark.parametrize("after", [0, 1, 3, 100])
@pytest.mark.parametrize(
    ("kind", "failure"),
    [("disconnect", base.ConnectionLost), ("stall", base.UpstreamTimeout)],
)
def test_a_fault_strikes_after_so_many_tokens(
    kind: Any, failure: type[AdapterError], after: int
) -> None:
    adapter = scripted(Reply(text="a b c d", fault=Fault(kind=kind, after_tokens=after)))
    call = Call(
        endpoint="chat",
        model="m",
        body=json.dumps({"messages": HELLO}).encode(),
        stream=True,
        deadlines=Deadlines(idle_s=0.01),
    )
    came: list[dict[str, Any]] = []

    async def run() -> None:
        async with adapter.open(call) as answer:
            while payloads := await answer.payloads():
                came.extend(json.loads(payload) for payload in payloads)

    with pytest.raises(failure):
        asyncio.run(run())
    assert put_together(came)[0]["content"] == "".join(tokenize("a b c d")[:after])
    assert put_together(came)[0]["finish"] is None


@pytest.mark.parametrize("kind", ["disconnect", "stall"])
def test_faults_strike_whole_answers_too(kind: Any) -> None:
    adapter = scripted(Reply(text="a", fault=Fault(kind=kind, after_tokens=9)))
    with pytest.raises((base.ConnectionLost, base.UpstreamTimeout)):
        asked(adapter, stream=False)


def test_malformed_answers_are_no_json() -> None:
    adapter = scripted(Reply(text="a b", fault=Fault(kind="malformed", after_tokens=1)))
    for stream in (True, False):
        with pytest.raises(ValueError, match=r"."):
            asked(adapter, stream=stream)


def test_an_error_ends_the_stream_it_strikes() -> None:
    fault = Fault(kind="error", message="no", code="c", after_tokens=1)
    chunks = asked(scripted(Reply(text="a b", fault=fault)), stream=True)
    assert chunks[-1] == {"error": {"message": "no", "code": "c"}}
    assert put_together(chunks[:-1])[0] == {
        "content": "a",
        "reasoning_content": "",
        "calls": [],
        "finish": None,
    }


def test_usage_can_be_left_out() -> None:
    adapter = scripted(Reply(text="a", fault=Fault(kind="no_usage")))
    assert "usage" not in asked(adapter, stream=False)
    options = {"stream_options": {"include_usage": True}}
    assert all("usage" not in chunk for chunk in asked(adapter, stream=True, **options))


def test_usage_in_a_stream_is_given_only_if_asked_for() -> None:
    chunks = asked(scripted(Reply(text="a")), stream=True)
    assert all("usage" not in chunk for chunk in chunks)


def test_the_pace_is_kept() -> None:
    adapter = scripted(Reply(text="a b c", first_token_s=0.02, tokens_per_s=100))
    for stream in (True, False):
        began = time.perf_counter()
        asked(adapter, stream=stream)
        assert 0.05 <= time.perf_counter() - began < 5


# --- what a request insists on --------------------------------------------------------------------

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 3},
                "unit": {"enum": ["C", "F"]},
            },
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time"}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("required", ("get_weather", {"city": "demonstration", "days": 3, "unit": "C"})),
        ({"type": "function", "function": {"name": "get_time"}}, ("get_time", {})),
        ({"type": "function", "function": {"name": "other"}}, None),
        ("auto", None),
        ("none", None),
        (None, None),
    ],
)
def test_a_demanded_tool_is_called(choice: Any, expected: tuple[str, Any] | None) -> None:
    body = asked(
        scripted(Reply(text="Hi")), stream=False, tools=[WEATHER, CLOCK], tool_choice=choice
    )
    message = body["choices"][0]["message"]
    if expected is None:
        assert message["content"] == "Hi"
        assert "tool_calls" not in message
        return
    function = message["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"])) == expected


def test_a_demanded_schema_is_kept() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "number"}}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = asked(scripted(Reply(text="Hi")), stream=False, response_format=form)
    assert json.loads(body["choices"][0]["message"]["content"]) == {"a": [1]}
    body = asked(scripted(Reply(text="Hi")), stream=False, response_format={"type": "json_object"})
    assert isinstance(json.loads(body["choices"][0]["message"]["content"]), dict)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, "demonstration"),
        ({"type": ["integer", "null"]}, 1),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"const": 5}, 5),
        ({"default": [1]}, [1]),
        ({"enum": ["a", "b"]}, "a"),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        ({"type": "array", "minItems": 2, "items": {"type": "null"}}, [None, None]),
        ({"$defs": {"a": {"type": "boolean"}}, "$ref": "#/$defs/a"}, True),
        ({"properties": {"x": {"type": "string"}}}, {"x": "demonstration"}),
    ],
)
def test_samples_fit_their_schema(schema: dict[str, Any], expected: Any) -> None:
    assert sample(schema) == expected


_BRANCHING = {
    f"d{i}": {"properties": {k: {"$ref": f"#/$defs/d{i + 1}"} for k in "xy"}} for i in range(50)
}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}},
        {"$defs": _BRANCHING, "$ref": "#/$defs/d0"},
        {"type": "array", "minItems": 10**12},
        {"type": "array", "minItems": 100, "items": {"type": "array", "minItems": 100}},
        {"$ref": 5},
        {"$ref": "#/nowhere/at/all"},
        {"anyOf": [True]},
        {"anyOf": {}},
        {"type": []},
        {"type": 5},
        {"properties": []},
        {"enum": []},
        True,
        None,
        [],
        json.loads('{"items":' * 400 + "{}" + "}" * 400),
    ],
    ids=lambda schema: str(schema)[:30],
)
def test_hostile_schemas_are_answered_in_no_time(schema: Any) -> None:
    began = time.perf_counter()
    json.dumps(sample(schema))
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    "body",
    [
        {"messages": "Hello"},
        {"messages": [{"role": 5}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"tools": [1]},
        {"tools": [{"function": {"name": "a b"}}], "tool_choice": "required"},
        {"tools": [{"function": {"name": "\ud83d"}}], "tool_choice": "required"},
        {"response_format": 5},
        {"stream_options": []},
    ],
)
def test_a_request_that_cannot_be_read_is_at_fault(body: dict[str, Any]) -> None:
    for stream in (True, False):
        with pytest.raises(BadRequest):
            asked(scripted(Reply(text="Hi")), stream=stream, **body)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "\ud83d"}]},
        {"tools": [{"type": "custom", "custom": {"name": "f"}}], "tool_choice": "required"},
        {"tools": [], "tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": None}},
        {"response_format": {"type": "json_schema", "json_schema": None}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"schema": {"const": "\udc4b"}},
            }
        },
    ],
)
def test_odd_requests_are_answered(body: dict[str, Any]) -> None:
    for stream in (True, False):
        assert asked(scripted(Reply(text="Hi")), stream=stream, **body)


# --- embeddings -----------------------------------------------------------------------------------


def embedded(value: Any, **body: Any) -> Any:
    return asked(scripted(), stream=False, endpoint="embeddings", input=value, **body)


@pytest.mark.parametrize(
    ("value", "items", "tokens"),
    [
        ("a cat", 1, 2),
        (["a cat", "dog"], 2, 3),
        ([1, 2, 3], 1, 3),
        ([[1, 2], [3]], 2, 3),
        ("\ud83d", 1, 1),
        ("", 1, 0),
    ],
)
def test_every_input_gets_a_vector_of_length_one(value: Any, items: int, tokens: int) -> None:
    body = embedded(value)
    assert [item["index"] for item in body["data"]] == list(range(items))
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    for item in body["data"]:
        assert len(item["embedding"]) == 256
        assert math.hypot(*item["embedding"]) == pytest.approx(1 if tokens else 0)


def test_similar_texts_have_similar_vectors() -> None:
    one, two, other = (
        item["embedding"] for item in embedded(["the black cat", "The cat", "seven ships"])["data"]
    )
    assert _dot(one, two) > 0.5
    assert abs(_dot(one, other)) < 0.5


def _dot(one: list[float], two: list[float]) -> float:
    return sum(a * b for a, b in zip(one, two, strict=True))


def test_vectors_come_in_base64_and_in_other_sizes() -> None:
    floats = embedded("a cat", dimensions=16)["data"][0]["embedding"]
    packed = embedded("a cat", dimensions=16, encoding_format="base64")["data"][0]["embedding"]
    assert list(struct.unpack("<16f", base64.b64decode(packed))) == pytest.approx(floats)


@pytest.mark.parametrize(
    "fields", [{"value": 5}, {"value": [None]}, {"value": "x", "dimensions": 10**9}]
)
def test_embeddings_that_cannot_be_made_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        embedded(**fields)


# --- scripts --------------------------------------------------------------------------------------


def test_a_script_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "script.yaml"
    file.write_text("models: [m]\nreplies:\n  - {when: hello, text: Hi}\n  - {text: Else}\n")
    adapter = Scripted.from_file(file)
    assert asyncio.run(_models(adapter)) == ["m"]
    body = asked(adapter, stream=False)
    assert body["choices"][0]["message"]["content"] == "Else"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "replies: {}",
        "replies: [{txt: Hi}]",
        "replies: [{when: '('}]",
        "replies: [{fault: {kind: explode}}]",
        "a: [",
        "\0",
    ],
)
def test_what_is_no_script_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "script.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"script\.yaml"):
        Scripted.from_file(file)


def test_an_unreadable_script_is_refused_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "script.yaml"
    with pytest.raises(ValueError, match=r"script\.yaml"):
        Scripted.from_file(file)
    file.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"script\.yaml"):
        Scripted.from_file(file)


@pytest.mark.parametrize("prompt", ["Hello", "What is the capital of France?"])
def test_the_demonstration_says_that_it_is_one(prompt: str) -> None:
    adapter = Scripted.demonstrating()
    assert adapter.demonstration
    messages = [{"role": "user", "content": prompt}]
    body = asked(adapter, stream=False, model="demo", messages=messages, max_tokens=30)
    assert "demonstration" in body["choices"][0]["message"]["content"]
    assert asyncio.run(_models(adapter)) == ["demo", "demo-embed"]


async def _models(adapter: Scripted) -> list[str]:
    return list(await adapter.models())
