"""Chat for Amazon's Converse and back, by example and by property."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import base
from adapters.base import AdapterError, BadRequest, Call, Deadlines, MalformedAnswer, Unsupported
from adapters.wire.aws_event_stream import EventStreamDecoder
from adapters.wire.converse_answer import BROKEN, FINISH_REASONS, ConverseReader
from adapters.wire.converse_request import converse_request
from tests.adapters import clouds
from tests.adapters.test_bedrock import service

NOVA = "amazon.nova-pro-v1:0"
HI: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
ASKED = [{"role": "user", "content": [{"text": "Hi"}]}]
PNG = "data:image/png;base64,aGk="


def call(model: str = NOVA, *, drop_params: bool = False, **members: Any) -> Call:
    return Call(
        endpoint="chat",
        model=model,
        body=json.dumps({"model": model, **members}).encode(),
        stream=False,
        deadlines=Deadlines(),
        drop_params=drop_params,
    )


def sent(*messages: dict[str, Any], model: str = NOVA, **members: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(
        converse_request(call(model, messages=list(messages) or HI, **members)).body
    )
    return body


# --- requests -------------------------------------------------------------------------------------


def test_a_plain_request_has_messages_alone() -> None:
    assert sent() == {"messages": ASKED}


def test_hints_are_left_out_in_silence() -> None:
    hints: dict[str, Any] = {
        "stream_options": {"include_usage": True},
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "n": 1,
        "parallel_tool_calls": True,
        "logprobs": False,
        "temperature": None,
        "presence_penalty": 0,
        "service_tier": "auto",
    }
    made = converse_request(call(messages=HI, **hints))
    assert json.loads(made.body) == {"messages": ASKED}
    assert not made.dropped


def test_instructions_come_first() -> None:
    body = sent(
        {"role": "system", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "b"}]},
        *HI,
    )
    assert body == {"system": [{"text": "a"}, {"text": "b"}], "messages": ASKED}


def test_sampling_and_maximum() -> None:
    body = sent(max_tokens=5, max_completion_tokens=7, temperature=0, top_p=0.5, stop="x")
    assert body["inferenceConfig"] == {
        "maxTokens": 7,
        "temperature": 0,
        "topP": 0.5,
        "stopSequences": ["x"],
    }


def test_media_go_as_data() -> None:
    content = [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "image_url", "image_url": "data:image/jpg;base64,aGk="},
        {"type": "video_url", "video_url": {"url": "data:video/quicktime;base64,aGk="}},
        {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}},
        {
            "type": "file",
            "file": {"file_data": "data:application/pdf;base64,aGk=", "filename": "a__b  c.pdf"},
        },
        {"type": "file", "file": {"file_data": "data:text/plain;base64,aGk="}},
    ]
    source = {"bytes": "aGk="}
    assert sent({"role": "user", "content": content})["messages"][0]["content"] == [
        {"text": "Look"},
        {"image": {"format": "png", "source": source}},
        {"image": {"format": "jpeg", "source": source}},
        {"video": {"format": "mov", "source": source}},
        {"audio": {"format": "mp3", "source": source}},
        {"document": {"format": "pdf", "name": "a b c 1", "source": source}},
        {"document": {"format": "txt", "name": "2", "source": source}},
    ]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/tiff;base64,aGk="}},
        {"type": "image_url"},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"file_data": "data:application/zip;base64,aGk="}},
        {"type": "unheard_of"},
    ],
)
def test_what_is_no_data_is_refused_by_its_place(part: dict[str, Any]) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "Hi"}, part]}
    with pytest.raises(Unsupported) as caught:
        converse_request(call(messages=[message]))
    assert caught.value.param == "messages[0].content[1]"
    made = converse_request(call(messages=[message], drop_params=True))
    assert json.loads(made.body)["messages"] == ASKED
    assert made.dropped == ("messages[0].content[1]",)


def test_calls_and_results_alternate_as_turns() -> None:
    calls = [
        {"id": f"call/{i}", "type": "function", "function": {"name": "f", "arguments": arguments}}
        for i, arguments in enumerate(['{"a": 1}', ""])
    ]
    body = sent(
        *HI,
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call/0", "content": "one"},
        {"role": "tool", "tool_call_id": "call/1", "content": ""},
        {"role": "user", "content": "And?"},
    )
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"toolUse": {"toolUseId": "call_0", "name": "f", "input": {"a": 1}}},
                {"toolUse": {"toolUseId": "call_1", "name": "f", "input": {}}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "call_0", "content": [{"text": "one"}]}},
                {"toolResult": {"toolUseId": "call_1", "content": [{"text": "(nothing)"}]}},
                {"text": "And?"},
            ],
        },
    ]


def test_thoughts_go_back_where_they_are_signed() -> None:
    details = [
        {"type": "reasoning.text", "text": "Hm", "signature": "s"},
        {"type": "reasoning.encrypted", "data": "ZA=="},
    ]
    body = sent(*HI, {"role": "assistant", "content": "Ho", "reasoning_details": details})
    assert body["messages"][1]["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "s"}}},
        {"reasoningContent": {"redactedContent": "ZA=="}},
        {"text": "Ho"},
    ]


def test_a_thought_that_was_streamed_apart_from_its_signature_is_whole_again() -> None:
    streamed = {
        "role": "assistant",
        "reasoning_content": "Hm",
        "reasoning_details": [{"type": "reasoning.text", "signature": "s", "index": 0}],
    }
    assert sent(*HI, streamed)["messages"][1]["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "s"}}},
    ]


def test_what_another_provider_signed_is_left_out_and_named() -> None:
    detail = {"type": "reasoning.encrypted", "data": "x", "format": "google-gemini-v1"}
    answer = {"role": "assistant", "content": "Ho", "reasoning_details": [detail]}
    made = converse_request(call(messages=[*HI, answer]))
    assert json.loads(made.body)["messages"][1]["content"] == [{"text": "Ho"}]
    assert made.dropped == ("messages[1].reasoning_details",)


def test_what_a_message_says_besides_is_not_lost_in_silence() -> None:
    image = {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}}
    messages = [
        {"role": "user", "name": "ada", "content": [image]},
        {"role": "system", "content": "late"},
    ]
    made = converse_request(call(messages=messages))
    assert made.dropped == (
        "messages[0].name",
        "messages[0].content[0].image_url.detail",
        "messages[1].role",
    )
    for member in ({"audio": {"id": "a"}}, {"images": [{"image_url": {"url": PNG}}]}):
        answer = {"role": "assistant", "content": "Ho", **member}
        with pytest.raises(Unsupported) as caught:
            converse_request(call(messages=[*HI, answer]))
        assert caught.value.param == f"messages[1].{next(iter(member))}"


def test_thoughts_without_a_signature_are_left_out_and_named() -> None:
    answer = {"role": "assistant", "content": "Ho", "reasoning_content": "Hm"}
    made = converse_request(call(messages=[*HI, answer]))
    assert json.loads(made.body)["messages"][1]["content"] == [{"text": "Ho"}]
    assert made.dropped == ("messages[1].reasoning_content",)


TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "d",
        "parameters": {"properties": {"a": {"type": "string"}}},
        "strict": True,
    },
}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", None),
        ("required", {"any": {}}),
        ({"type": "function", "function": {"name": "f"}}, {"tool": {"name": "f"}}),
    ],
)
def test_tools_and_which_must_be_called(choice: Any, expected: Any) -> None:
    config = sent(tools=[TOOL], tool_choice=choice)["toolConfig"]
    assert config["tools"] == [
        {
            "toolSpec": {
                "name": "f",
                "description": "d",
                "inputSchema": {
                    "json": {"type": "object", "properties": {"a": {"type": "string"}}}
                },
                "strict": True,
            }
        }
    ]
    assert config.get("toolChoice") == expected


def test_tools_that_must_not_be_called_are_not_told_while_there_were_no_calls() -> None:
    assert "toolConfig" not in sent(tools=[TOOL], tool_choice="none")
    result = {"role": "tool", "tool_call_id": "1", "content": "x"}
    with pytest.raises(Unsupported) as caught:
        sent(*HI, result, tools=[TOOL], tool_choice="none")
    assert caught.value.param == "tool_choice"


def test_a_schema_for_the_answer() -> None:
    schema = {"type": "object", "properties": {}}
    asked = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    made = sent(response_format=asked)["outputConfig"]["textFormat"]
    assert made["type"] == "json_schema"
    assert made["structure"]["jsonSchema"]["name"] == "n"
    assert json.loads(made["structure"]["jsonSchema"]["schema"]) == schema


@pytest.mark.parametrize(
    ("model", "members", "expected"),
    [
        (
            "us.amazon.nova-2-lite-v1:0",
            {"reasoning_effort": "xhigh"},
            {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}},
        ),
        (
            "us.amazon.nova-2-lite-v1:0",
            {"reasoning": {"enabled": False}},
            {"reasoningConfig": {"type": "disabled"}},
        ),
        ("openai.gpt-oss-120b-1:0", {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        (NOVA, {"reasoning_effort": "none"}, None),
        (NOVA, {"additionalModelRequestFields": {"a": 1}}, {"a": 1}),
    ],
)
def test_how_hard_to_think_in_the_models_own_words(
    model: str, members: dict[str, Any], expected: Any
) -> None:
    assert sent(model=model, **members).get("additionalModelRequestFields") == expected


def test_a_service_tier() -> None:
    assert sent(service_tier="flex")["serviceTier"] == {"type": "flex"}


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("seed", 1),
        ("n", 2),
        ("logit_bias", {"1": 2}),
        ("presence_penalty", 0.5),
        ("parallel_tool_calls", False),
        ("response_format", {"type": "json_object"}),
        ("reasoning_effort", "high"),
        ("service_tier", "turbo"),
        ("top_k", 5),
        ("unheard_of", True),
    ],
)
def test_what_cannot_be_carried_is_refused_or_left_out_and_named(param: str, value: Any) -> None:
    with pytest.raises(Unsupported) as caught:
        converse_request(call(messages=HI, **{param: value}))
    assert caught.value.param == param
    made = converse_request(call(messages=HI, drop_params=True, **{param: value}))
    assert made.dropped == (param,)
    assert json.loads(made.body) == {"messages": ASKED}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": 1}, "messages"),
        ({"messages": [{"role": "unheard_of"}]}, "messages[0].role"),
        ({"messages": HI, "max_tokens": "5"}, "max_tokens"),
        ({"messages": HI, "additionalModelRequestFields": 1}, "additionalModelRequestFields"),
        (
            {"messages": HI, "response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_a_wrong_request_is_the_clients_fault(members: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        converse_request(call(**members))
    assert caught.value.param == param


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
MEMBERS = st.sampled_from(
    ["tools", "tool_choice", "response_format", "reasoning", "stop", "functions", "service_tier"]
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "x"])},
    optional=dict.fromkeys(
        ("content", "tool_calls", "tool_call_id", "reasoning_details", "refusal"), JSON
    ),
)


@given(
    messages=st.lists(MESSAGE, max_size=4) | JSON,
    members=st.dictionaries(MEMBERS, JSON, max_size=3),
    drop_params=st.booleans(),
)
def test_any_request_is_translated_or_refused(
    messages: Any, members: dict[str, Any], drop_params: bool
) -> None:
    try:
        made = converse_request(call(messages=messages, drop_params=drop_params, **members))
    except (BadRequest, Unsupported) as refused:
        assert refused.message
        return
    turns = json.loads(made.body).get("messages", [])
    roles = [turn["role"] for turn in turns]
    assert all(a != b for a, b in itertools.pairwise(roles))
    assert all(turn["content"] for turn in turns)


# --- answers --------------------------------------------------------------------------------------

BLOCKS = [
    {"reasoningContent": {"reasoningText": {"text": "Hm", "signature": "s"}}},
    {"reasoningContent": {"redactedContent": "ZA=="}},
    {"text": "Ho"},
    {"toolUse": {"toolUseId": "t1", "name": "f", "input": {"a": 1}}},
    {"toolUse": {"toolUseId": "t2", "name": "g", "input": {}}},
]
USAGE = {
    "inputTokens": 10,
    "outputTokens": 7,
    "totalTokens": 147,
    "cacheReadInputTokens": 100,
    "cacheWriteInputTokens": 30,
    "cacheDetails": [{"ttl": "1h", "inputTokens": 20}, {"ttl": "5m", "inputTokens": 10}],
}
CALLS = [
    {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
    {"id": "t2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
]


def answer(blocks: Any, reason: Any = "end_turn", **more: Any) -> dict[str, Any]:
    said = {
        "output": {"message": {"role": "assistant", "content": blocks}},
        "stopReason": reason,
        "usage": USAGE,
        **more,
    }
    read: dict[str, Any] = json.loads(ConverseReader(NOVA).read_body(json.dumps(said).encode()))
    return read


def streamed(*frames: bytes) -> tuple[list[dict[str, Any]], ConverseReader]:
    reader = ConverseReader(NOVA)
    payloads = EventStreamDecoder().feed(b"".join(frames))
    return [json.loads(payload) for payload in reader.read_payloads(payloads)], reader


def frames_of(blocks: Sequence[dict[str, Any]], reason: str = "end_turn") -> list[bytes]:
    """The stream of an answer: each text in two pieces."""
    frames = [clouds.event("messageStart", {"role": "assistant"})]
    for index, block in enumerate(blocks):
        place = {"contentBlockIndex": index}
        deltas: list[dict[str, Any]] = []
        if (use := block.get("toolUse")) is not None:
            start = {"toolUse": {"toolUseId": use["toolUseId"], "name": use["name"]}}
            frames.append(clouds.event("contentBlockStart", {**place, "start": start}))
            text = json.dumps(use["input"], separators=(",", ":")) if use["input"] else ""
            deltas = [{"toolUse": {"input": part}} for part in (text[:2], text[2:])]
        elif "text" in block:
            deltas = [{"text": part} for part in (block["text"][:1], block["text"][1:])]
        else:
            thought = block["reasoningContent"]
            if "redactedContent" in thought:
                deltas = [block]
            else:
                inner = thought["reasoningText"]
                deltas = [{"reasoningContent": {name: inner[name]}} for name in inner]
        frames += [clouds.event("contentBlockDelta", {**place, "delta": d}) for d in deltas]
        frames.append(clouds.event("contentBlockStop", place))
    frames.append(clouds.event("messageStop", {"stopReason": reason}))
    return [*frames, clouds.event("metadata", {"usage": USAGE, "metrics": {"latencyMs": 1}})]


def test_a_whole_answer() -> None:
    read = answer(BLOCKS, serviceTier={"type": "flex"})
    message = read["choices"][0]["message"]
    assert message["content"] == "Ho"
    assert message["reasoning_content"] == "Hm"
    assert message["reasoning_details"] == [
        {"type": "reasoning.text", "signature": "s", "index": 0, "text": "Hm"},
        {"type": "reasoning.encrypted", "data": "ZA==", "index": 1},
    ]
    assert message["tool_calls"] == CALLS
    assert read["choices"][0]["finish_reason"] == "tool_calls"
    assert read["service_tier"] == "flex"
    assert read["model"] == NOVA


def test_usage_includes_the_cache() -> None:
    assert answer(BLOCKS)["usage"] == {
        "prompt_tokens": 140,
        "completion_tokens": 7,
        "total_tokens": 147,
        "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 30},
        "cache_creation": {"ephemeral_1h_input_tokens": 20},
    }


def test_a_stream_says_the_same_as_the_whole() -> None:
    chunks, reader = streamed(*frames_of(BLOCKS))
    assert reader.is_done
    assert chunks[-1]["usage"] == answer(BLOCKS)["usage"]
    assert chunks[-1]["choices"] == []
    deltas = [c["delta"] for chunk in chunks for c in chunk["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(d.get("content", "") for d in deltas) == "Ho"
    assert "".join(d.get("reasoning_content", "") for d in deltas) == "Hm"
    assert [d for delta in deltas for d in delta.get("reasoning_details", ())] == [
        {"type": "reasoning.text", "signature": "s", "index": 0},
        {"type": "reasoning.encrypted", "data": "ZA==", "index": 1},
    ]
    made: list[dict[str, Any]] = [{}, {}]
    for entry in (e for delta in deltas for e in delta.get("tool_calls", ())):
        function = made[entry["index"]].setdefault("function", {"arguments": ""})
        function["arguments"] += entry["function"].pop("arguments")
        function |= entry.pop("function")
        made[entry.pop("index")] |= entry
    assert made == CALLS
    finishes = [c["finish_reason"] for chunk in chunks for c in chunk["choices"]]
    assert finishes == [None] * (len(finishes) - 1) + ["tool_calls"]
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1


def test_usage_before_the_reason_to_stop_ends_the_stream_too() -> None:
    *rest, stop, metadata = frames_of([{"text": "Ho"}])
    chunks, reader = streamed(*rest, metadata, stop)
    assert reader.is_done
    assert chunks[-1]["usage"]["total_tokens"] == 147


def test_an_answer_is_whole_without_its_usage_but_not_without_its_reason() -> None:
    frames = frames_of([{"text": "Ho"}])
    assert streamed(*frames[:-1])[1].is_whole
    assert not streamed(*frames[:-2])[1].is_whole


def test_every_reason_to_stop_is_known() -> None:
    known = set(service()["shapes"]["StopReason"]["enum"])
    assert FINISH_REASONS.keys() | BROKEN == known
    for reason, finish in FINISH_REASONS.items():
        assert answer([{"text": "Ho"}], reason)["choices"][0]["finish_reason"] == finish


def test_an_answer_of_no_use_is_an_error() -> None:
    with pytest.raises(base.UpstreamError) as caught:
        answer([{"text": "{"}], "malformed_model_output")
    assert caught.value.code == "malformed_model_output"
    chunks, reader = streamed(*frames_of([{"text": "{"}], "malformed_model_output"))
    assert chunks[-1]["error"]["code"] == "malformed_model_output"
    assert not reader.is_done
    assert not reader.is_whole


def test_an_answer_without_text_has_no_content() -> None:
    message = answer([BLOCKS[3]])["choices"][0]["message"]
    assert message["content"] is None


def test_lone_surrogates_go_on() -> None:
    assert answer([{"text": "\ud83d"}])["choices"][0]["message"]["content"] == "\ud83d"
    chunks, _ = streamed(*frames_of([{"text": "\ud83d\ude00"}]))
    assert [c["choices"][0]["delta"].get("content") for c in chunks[1:3]] == ["\ud83d", "\ude00"]


@pytest.mark.parametrize(
    "said", [[], {}, {"output": {}}, {"output": {"message": {"content": "Ho"}}}, {"output": 1}]
)
def test_an_answer_of_another_shape_is_malformed(said: Any) -> None:
    with pytest.raises(MalformedAnswer):
        ConverseReader(NOVA).read_body(json.dumps(said).encode())


@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(
                [
                    *("messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop"),
                    *("messageStop", "metadata", "unheardOf"),
                ]
            ),
            st.fixed_dictionaries(
                {},
                optional=dict.fromkeys(
                    ("contentBlockIndex", "start", "delta", "stopReason", "usage"), JSON
                ),
            ),
        ),
        max_size=5,
    )
)
def test_any_stream_is_read_or_malformed(events: list[tuple[str, Any]]) -> None:
    try:
        chunks, _ = streamed(*(clouds.event(name, payload) for name, payload in events))
    except AdapterError:
        return
    assert all("choices" in chunk or "error" in chunk for chunk in chunks)
