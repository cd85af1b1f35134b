"""A whole chat completion becomes the message it stands for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import AdapterError
from tests.proxy.wire.messages.asked import IDENTITY, request
from tests.proxy.wire.streams import encode


def completion(finish: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion", "model": "gpt-x", "choices": [choice]}


def message(answer: object, **asked: Any) -> dict[str, Any]:
    body = answer if isinstance(answer, bytes) else encode(answer)
    _, whole = request(**asked).read_whole("chat", body, IDENTITY, reads_cost=False)
    assert whole is not None
    told: dict[str, Any] = json.loads(whole.body)
    return told


def call(arguments: object, **fields: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {"id": "call_1", "type": "function", "function": function, **fields}


def test_text() -> None:
    told = message(completion(content="Hello"))
    usage = told.pop("usage")
    assert told == {
        "id": "msg_0123456789abcdef",
        "type": "message",
        "role": "assistant",
        "model": "gpt-x",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    assert usage["input_tokens"] > 0 and usage["output_tokens"] > 0  # estimates


def test_usage_and_tier() -> None:
    counts = {"prompt_tokens": 140, "completion_tokens": 7, "total_tokens": 147}
    details = {"cached_tokens": 100, "cache_write_tokens": 30}
    answer = {
        **completion(content="A"),
        "usage": {
            **counts,
            "prompt_tokens_details": details,
            "cache_creation": {"ephemeral_1h_input_tokens": 20},
        },
        "service_tier": "priority",
    }
    assert message(answer)["usage"] == {
        "input_tokens": 10,
        "cache_creation_input_tokens": 30,
        "cache_read_input_tokens": 100,
        "output_tokens": 7,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        "service_tier": "priority",
    }


def test_what_was_thought_said_and_called() -> None:
    details = [
        {"type": "reasoning.text", "text": "Hm.", "signature": "sig", "index": 0},
        {"type": "reasoning.encrypted", "data": "xyz", "index": 2},
    ]
    told = message(
        completion(
            "tool_calls",
            content="A",
            reasoning_content="Hm.",
            reasoning_details=details,
            tool_calls=[call('{"a": 1}'), call("")],
        )
    )
    assert told["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
        {"type": "text", "text": "A"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {}},
    ]
    assert told["stop_reason"] == "tool_use"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thinking_that_nobody_signed(name: str) -> None:
    told = message(completion(content="A", **{name: "Hm."}))
    assert told["content"][0] == {"type": "thinking", "thinking": "Hm.", "signature": "unsigned"}


def test_a_call_ends_the_turn_whatever_the_provider_says() -> None:
    assert message(completion("stop", tool_calls=[call("{}")]))["stop_reason"] == "tool_use"


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "5"])
def test_arguments_that_are_no_object_are_told_as_such(arguments: str) -> None:
    (block,) = message(completion(tool_calls=[call(arguments)]))["content"]
    assert block["input"] == {"INVALID_JSON": arguments}


def test_arguments_that_some_servers_send_as_an_object() -> None:
    (block,) = message(completion(tool_calls=[call({"a": 1}, id=None)]))["content"]
    assert block["input"] == {"a": 1}
    assert block["id"]


def test_a_refusal_is_text() -> None:
    told = message(completion("content_filter", content=None, refusal="No"))
    assert told["content"] == [{"type": "text", "text": "No"}]
    assert told["stop_reason"] == "refusal"


def test_which_sequence_stopped_it() -> None:
    answer = completion(content="A")
    answer["choices"][0]["stop_reason"] = "END"
    told = message(answer, stop_sequences=["END"])
    assert (told["stop_reason"], told["stop_sequence"]) == ("stop_sequence", "END")


def test_a_lone_surrogate_does_not_cost_the_answer() -> None:
    told = message(json.dumps(completion(content="a\ud83d")).encode())
    assert told["content"][0]["text"] == "a\ufffd"


_words = """
    content refusal reasoning_content reasoning reasoning_details tool_calls id type function name
    arguments text signature data extra_content
"""
_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just("reasoning.text"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_words.split()), inner, max_size=5)
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(_words.split()), _json, max_size=5))
def test_any_message_is_read_or_is_none(said: dict[str, Any]) -> None:
    body = json.dumps(completion(**said)).encode()
    try:
        _, whole = request().read_whole("chat", body, IDENTITY, reads_cost=False)
    except AdapterError:
        return
    if whole is not None:
        for block in json.loads(whole.body)["content"]:
            assert block["type"] in {"text", "thinking", "redacted_thinking", "tool_use"}
