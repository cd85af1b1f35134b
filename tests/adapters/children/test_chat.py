"""Chat as every local model answers it: shown with one that recites."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import OpenAI

from tests.adapters.children.child import HELLO, joined
from tests.adapters.children.conftest import Reciting

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CALL = '{"name": "weather", "arguments": {"city": "Paris"}}'


def test_a_whole_answer(shared: Reciting) -> None:
    with shared(["Good", " day"]) as child:
        answer = child.chat()
        assert answer["object"] == "chat.completion" and answer["model"] == "tiny"
        assert answer["choices"] == [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Good day", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ]
        assert answer["usage"] == {
            "prompt_tokens": 4,
            "completion_tokens": 2,
            "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 0},
        }


def test_a_stream_is_the_same_answer(shared: Reciting) -> None:
    with shared(["Good", " day"]) as child:
        *chunks, usage = child.chunks(stream_options={"include_usage": True})
        assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
            {"role": "assistant", "content": ""},
            {"content": "Good"},
            {"content": " day"},
            {},
        ]
        reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
        assert reasons == [None, None, None, "stop"]
        assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks}) == 1
        assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 2


def test_nothing_said_is_an_answer_too(shared: Reciting) -> None:
    with shared([], []) as child:
        assert child.text() == ""
        deltas = [chunk["choices"][0]["delta"] for chunk in child.chunks()]
        assert deltas == [{"role": "assistant", "content": ""}] or deltas[-1] == {
            "role": "assistant",
            "content": "",
        }


def test_characters_come_whole(shared: Reciting) -> None:
    pieces = [bytes([byte]).decode("utf-8", "surrogateescape") for byte in "né😀".encode()]
    with shared(pieces) as child:
        chunks = child.chunks()
        assert [c["choices"][0]["delta"].get("content") for c in chunks[1:-1]] == ["n", "é", "😀"]


def test_half_a_character_at_the_end_is_replaced(shared: Reciting) -> None:
    with shared(["a", "\udcf0", "\udc9f"]) as child:
        assert child.text() == "a\ufffd"


@pytest.mark.parametrize(
    ("stop", "text", "tokens"),
    [
        ("STOP", "one two ", 4),
        (["never", "two"], "one ", 2),
        ("one", "", 1),
        ("", "one two STOP three", 5),
        ("threes", "one two STOP three", 5),
    ],
)
def test_a_stop_ends_the_answer_wherever_tokens_end(
    shared: Reciting, stop: Any, text: str, tokens: int
) -> None:
    pieces = ["one ", "two ", "ST", "OP", " three"]
    with shared(pieces, pieces) as child:
        answer = child.chat(stop=stop)
        assert answer["choices"][0]["message"]["content"] == text
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] == tokens
        assert joined(child.chunks(stop=stop)) == text


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_limit_cuts_the_answer(shared: Reciting, field: str) -> None:
    with shared(["a", "b", "c"]) as child:
        answer = child.chat(**{field: 2})
        choice = answer["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("ab", "length")
        assert answer["usage"]["completion_tokens"] == 2


def test_the_context_cuts_the_answer(shared: Reciting) -> None:
    with shared(["a", "b", "c"], context=6) as child:
        choice = child.chat(max_tokens=100)["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("ab", "length")


@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_that_does_not_fit_is_refused(shared: Reciting, stream: bool) -> None:
    with shared(context=4) as child:
        status, error = child.refusal("chat/completions", messages=HELLO, stream=stream)
        assert (status, error["code"]) == (400, "context_length_exceeded")
        assert "maximum context length is 4 tokens" in error["message"]


def test_several_choices(shared: Reciting) -> None:
    with shared(["a"], ["b", "b"], ["a"], ["b"]) as child:
        answer = child.chat(n=2)
        assert [choice["message"]["content"] for choice in answer["choices"]] == ["a", "bb"]
        assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (4, 3)
        chunks = child.chunks(n=2)
        assert (joined(chunks, 0), joined(chunks, 1)) == ("a", "b")


def test_logprobs_of_what_is_given_out(shared: Reciting) -> None:
    pieces = ["yes", " no", "\udcc3", "\udca9", "X", "Y"]
    with shared(pieces, pieces) as child:
        asked = {"logprobs": True, "top_logprobs": 1, "stop": "XY"}
        told = child.chat(**asked)["choices"][0]["logprobs"]["content"]
        assert [entry["bytes"] for entry in told] == [
            *([121, 101, 115], [32, 110, 111]),
            *([0xC3], [0xA9]),
        ]
        assert told[0] == {
            "token": "yes",
            "logprob": -0.5,
            "bytes": [121, 101, 115],
            "top_logprobs": [{"token": "other", "logprob": -9999.0, "bytes": list(b"other")}],
        }
        choices = [chunk["choices"][0] for chunk in child.chunks(**asked)]
        streamed = [e for c in choices if c["logprobs"] for e in c["logprobs"]["content"]]
        assert streamed == told


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 1e30}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logit_bias": {"100": 1}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_object", "schema": {"type": "nonsense"}}}, None),
        ({"response_format": {"type": "json_object"}, "tools": [CLOCK]}, "response_format"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": {"function": {"name": "x"}}}, "tool_choice"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"unheard_of": 1}, "unheard_of"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    shared: Reciting, asked: dict[str, Any], param: str | None
) -> None:
    with shared() as child:
        status, error = child.refusal("chat/completions", **{"messages": HELLO, **asked})
        assert (status, error["type"]) == (400, "invalid_request_error")
        assert error["param"].startswith(param or "response_format")


def test_what_changes_nothing_is_taken(shared: Reciting) -> None:
    with shared(["ok"]) as child:
        hints = {"user": "me", "store": False, "metadata": {}, "parallel_tool_calls": False}
        nulls = {"seed": None, "stop": None, "logit_bias": None, "tools": None, "audio": None}
        assert child.text(**hints, **nulls, tool_choice="none", logprobs=False) == "ok"


def test_messages_of_every_kind_reach_the_template(shared: Reciting) -> None:
    with shared(["ok"]) as child:
        function = {"name": "clock", "arguments": '{"zone": "UTC"}'}
        calls = [{"id": "c1", "type": "function", "function": function}]
        messages = [
            {"role": "developer", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "\ud83d"}]},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c1", "content": "noon"},
        ]
        assert (
            child.client.post(
                "/v1/chat/completions", content=json.dumps({"messages": messages})
            ).status_code
            == 200
        )


@pytest.mark.parametrize("template", ["", "with <tool_call> tags"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_forced_call_is_read_as_it_comes(shared: Reciting, template: str, size: int) -> None:
    text = f"<tool_call>\n{CALL}\n</tool_call>" if template else CALL
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    asked: dict[str, Any] = {
        "tools": [CLOCK, WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
    }
    with shared(pieces, pieces, template=template) as child:
        choice = child.chat(**asked)["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        (call,) = choice["message"]["tool_calls"]
        assert call["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
        assert call["type"] == "function" and call["id"].startswith("call_")
        deltas = [chunk["choices"][0]["delta"] for chunk in child.chunks(**asked)]
        told = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
        assert [entry.get("id") is None for entry in told] == [False, *([True] * (len(told) - 1))]
        arguments = "".join(entry["function"]["arguments"] for entry in told)
        assert arguments == '{"city": "Paris"}'


def test_a_forced_call_that_is_cut_off(shared: Reciting) -> None:
    with shared(['{"name": "weather", "arguments": {"ci', "ty"]) as child:
        choice = child.chat(tools=[WEATHER], tool_choice="required", max_tokens=1)["choices"][0]
        assert choice["finish_reason"] == "length"
        assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"ci'


LLAMA = '{"name": "weather", "parameters": {"city": "Paris"}}'


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("plain words", "plain words", 0),
        (f"<tool_call>\n{CALL}\n</tool_call>", None, 1),
        (f"Well.<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", "Well.", 2),
        (f"<tool_call>{CALL}", None, 1),
        (f"[TOOL_CALLS] [{CALL}, {CALL}]", None, 2),
        (f"<|python_tag|>{LLAMA}", None, 1),
        (LLAMA, None, 1),
        ('{"an": "object"}', '{"an": "object"}', 0),
        ('{"name": "unknown", "arguments": {}}', '{"name": "unknown", "arguments": {}}', 0),
        ("<tool_call>no JSON</tool_call>", "<tool_call>no JSON</tool_call>", 0),
        ("a < b, and <tool", "a < b, and <tool", 0),
    ],
)
def test_calls_of_its_own_will(
    shared: Reciting, text: str, content: str | None, calls: int, size: int
) -> None:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    with shared(pieces) as child:
        choice = child.chat(tools=[WEATHER])["choices"][0]
        message = choice["message"]
        assert message["content"] == content
        assert len(message.get("tool_calls", ())) == calls
        for call in message.get("tool_calls", ()):
            assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
        assert choice["finish_reason"] == ("tool_calls" if calls else "stop")


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "is_thinking", "thought", "content"),
    [
        ("<think>\nWell</think>\n\nYes", False, "\nWell", "Yes"),
        ("\n<think>Well", False, "Well", ""),
        ("Well</think>Yes", True, "Well", "Yes"),
        ("Well</thi", True, "Well</thi", ""),
        ("Yes <think>no</think>", False, None, "Yes <think>no</think>"),
        (" <thin", False, None, " <thin"),
        ("<think></think>Yes", False, None, "Yes"),
    ],
)
def test_thoughts_are_told_from_the_answer(
    shared: Reciting, text: str, is_thinking: bool, thought: str | None, content: str, size: int
) -> None:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    with shared(pieces, pieces, is_thinking=is_thinking) as child:
        message = child.chat()["choices"][0]["message"]
        assert message.get("reasoning_content") == thought
        assert message["content"] == content
        deltas = [chunk["choices"][0]["delta"] for chunk in child.chunks()]
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == (thought or "")
        assert "".join(delta.get("content", "") for delta in deltas) == content


def test_a_call_after_a_thought(shared: Reciting) -> None:
    with shared([f"Hm.</think>\n<tool_call>{CALL}</tool_call>"], is_thinking=True) as child:
        message = child.chat(tools=[WEATHER])["choices"][0]["message"]
        assert message["reasoning_content"] == "Hm." and message["content"] is None
        assert message["tool_calls"][0]["function"]["name"] == "weather"


def test_the_openai_client_is_content(shared: Reciting) -> None:
    with (
        shared(["Good", " day"]) as child,
        OpenAI(base_url=f"{child.url}/v1", api_key="none") as client,
        client.chat.completions.stream(
            model="tiny", messages=[{"role": "user", "content": "Hello"}]
        ) as stream,
    ):
        final = stream.get_final_completion()
        assert final.choices[0].message.content == "Good day"
