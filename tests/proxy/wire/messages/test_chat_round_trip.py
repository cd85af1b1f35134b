"""A chat that Anthropic's adapter made Messages, and we a chat again, means the same.

The other way round is in `test_round_trip.py`.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.wire.anthropic_answer import ChatReader
from adapters.wire.anthropic_request import to_messages
from proxy.wire import chunks
from tests.proxy.wire.messages.asked import IDENTITY, chat, request
from tests.proxy.wire.messages.test_writer import stream as writing
from tests.proxy.wire.streams import encode

Json = dict[str, Any]

_texts = st.text(min_size=1, max_size=8).filter(lambda text: not text.isspace())
_objects = st.dictionaries(st.sampled_from("abc"), st.integers() | _texts, max_size=2)
_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}
_PDF_URL = "data:application/pdf;base64,JVBERi0x"
_PDF = {"type": "file", "file": {"filename": "a.pdf", "file_data": _PDF_URL}}
_FORCED = {"type": "function", "function": {"name": "f"}}
_marks = st.sampled_from([{}, {}, {"cache_control": {"type": "ephemeral", "ttl": "1h"}}])
_parts = st.builds(lambda text, mark: {"type": "text", "text": text, **mark}, _texts, _marks)
_said = st.lists(_parts | st.sampled_from([_IMAGE, _PDF]), min_size=1, max_size=3) | _texts
_many = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@st.composite
def _assistants(draw: st.DrawFn, number: int) -> Json:
    calls = [
        {
            "id": f"call_{number}_{place}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(draw(_objects))},
        }
        for place, name in enumerate(draw(st.lists(st.sampled_from(["f", "g"]), max_size=2)))
    ]
    message: Json = {"role": "assistant"}
    if not calls or draw(st.booleans()):
        message["content"] = draw(_texts)
    if calls:
        message["tool_calls"] = calls
    if draw(st.booleans()):
        thought = draw(_texts)
        signed = {"type": "reasoning.text", "text": thought, "signature": "s+/=", "index": 0}
        message |= {"reasoning_content": thought, "reasoning_details": [signed]}
    return message


@st.composite
def _conversations(draw: st.DrawFn) -> list[Json]:
    messages: list[Json] = [
        {"role": "system", "content": text} for text in draw(st.lists(_texts, max_size=1))
    ]
    messages.append({"role": "user", "content": draw(_said)})
    for number in range(draw(st.integers(0, 2))):
        answer = draw(_assistants(number))
        messages.append(answer)
        calls = answer.get("tool_calls", [])
        messages += [
            {"role": "tool", "tool_call_id": call["id"], "content": draw(_texts)} for call in calls
        ]
        if not calls or draw(st.booleans()):
            messages.append({"role": "user", "content": draw(_said)})
    return messages


def _plain(message: Json) -> Json:
    """A message without what there are two ways to say."""
    told = {name: value for name, value in message.items() if value is not None}
    content = told.get("content")
    if isinstance(content, list) and all(part.keys() == {"type", "text"} for part in content):
        told["content"] = "".join(part["text"] for part in content)
    for call in told.get("tool_calls", ()):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return told


@_many
@given(
    _conversations(),
    st.sampled_from(
        [None, "auto", "none", "required", {"type": "function", "function": {"name": "f"}}]
    ),
    st.booleans(),
    st.lists(_texts, max_size=2),
)
def test_requests(messages: list[Json], choice: Any, parallel: bool, stop: list[str]) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    tools = [
        {"type": "function", "function": {"name": name, "parameters": schema}} for name in "fg"
    ]
    asked: Json = {"model": "m", "messages": messages, "tools": tools, "max_tokens": 9}
    asked |= {"tool_choice": choice} if choice else {}
    asked |= {"stop": stop} if stop else {}
    asked |= {} if parallel or choice == "none" else {"parallel_tool_calls": False}
    translated = to_messages(encode(asked), model="claude-sonnet-4-5")
    assert translated.dropped == []
    again = chat(request(model="m", **translated.members))
    assert [*map(_plain, again["messages"])] == [*map(_plain, messages)]
    assert [t["function"]["name"] for t in again["tools"]] == ["f", "g"]
    assert [t["function"]["parameters"] for t in again["tools"]] == [schema, schema]
    assert again.get("tool_choice", "auto") == (choice or "auto")
    assert again.get("parallel_tool_calls", True) == asked.get("parallel_tool_calls", True)
    assert (again.get("stop") or []) == stop
    assert again["max_tokens"] == 9


_calls = st.lists(_objects, max_size=2).map(
    lambda found: [
        {
            "id": f"call_{place}",
            "type": "function",
            "function": {"name": "f", "arguments": json.dumps(arguments)},
        }
        for place, arguments in enumerate(found)
    ]
)
_USAGE = {
    "prompt_tokens": 140,
    "completion_tokens": 7,
    "total_tokens": 147,
    "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 30},
    "cache_creation": {"ephemeral_1h_input_tokens": 20},
}
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


@_many
@given(st.none() | _texts, _calls, st.none() | _texts)
def test_whole_answers(text: str | None, calls: list[Json], thought: str | None) -> None:
    if text is None and not calls:
        text = "x"
    message: Json = {"role": "assistant", "content": text, "tool_calls": calls or None}
    finish = "tool_calls" if calls else "stop"
    if thought:
        signed = {"type": "reasoning.text", "text": thought, "signature": "s+/=", "index": 0}
        message |= {"reasoning_content": thought, "reasoning_details": [signed]}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    told = {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice]}
    _, whole = request().read_whole(
        "chat", encode({**told, "usage": _USAGE}), IDENTITY, reads_cost=False
    )
    assert whole is not None
    again = json.loads(ChatReader("m").read_body(whole.body))
    assert again["choices"][0]["finish_reason"] == finish
    said = again["choices"][0]["message"]
    assert (said["content"] or None) == text
    assert said.get("reasoning_content") == thought
    assert [d["signature"] for d in said.get("reasoning_details", ())] == ["s+/="] * bool(thought)
    assert [*map(_called, said.get("tool_calls", ()))] == [*map(_called, calls)]
    assert [again["usage"][name] for name in _COUNTS] == [_USAGE[name] for name in _COUNTS]
    assert again["usage"]["prompt_tokens_details"] == _USAGE["prompt_tokens_details"]


@_many
@given(st.lists(_texts, max_size=3), _calls, st.lists(_texts, max_size=2))
def test_streams(texts: list[str], calls: list[Json], thoughts: list[str]) -> None:
    texts = texts if texts or calls else ["x"]
    finish = "tool_calls" if calls else "stop"
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    deltas += ({"reasoning_content": thought} for thought in thoughts)
    deltas += ({"content": text} for text in texts)
    for place, call in enumerate(calls):
        function = call["function"]
        opened = {**call, "index": place, "function": {**function, "arguments": ""}}
        piece = {"index": place, "function": {"arguments": function["arguments"]}}
        deltas += ({"tool_calls": [opened]}, {"tool_calls": [piece]})
    events: list[Json] = [
        {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    events.append({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    events.append({"id": "c", "choices": [], "usage": _USAGE})
    relay = writing()
    written, failure = relay.feed_all([encode(event) for event in events])
    assert failure is None
    written += relay.end()
    reader = ChatReader("m")
    again = chunks.Stream(wants_usage=True, identity=IDENTITY)
    seen, failure = again.feed_all(reader.read_payloads(reader.decoder().feed(written)))
    assert failure is None
    assert reader.is_done
    said = [json.loads(e[6:]) for e in (seen + again.end()).split(b"\n\n") if e[6:7] == b"{"]
    choices = [choice for chunk in said for choice in chunk["choices"]]
    found = [choice["delta"] for choice in choices]
    assert "".join(d.get("content") or "" for d in found) == "".join(texts)
    assert "".join(d.get("reasoning_content") or "" for d in found) == "".join(thoughts)
    entries = [entry for d in found for entry in d.get("tool_calls", ())]
    names = [e["function"]["name"] for e in entries if e["function"].get("name")]
    assert names == ["f"] * len(calls)
    for place, call in enumerate(calls):
        mine = [e["function"].get("arguments", "") for e in entries if e["index"] == place]
        assert json.loads("".join(mine)) == json.loads(call["function"]["arguments"])
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == [finish]
    assert [said[-1]["usage"][name] for name in _COUNTS] == [_USAGE[name] for name in _COUNTS]


def _called(call: Json) -> tuple[str, str, Any]:
    function = call["function"]
    return call["id"], function["name"], json.loads(function["arguments"] or "{}")
