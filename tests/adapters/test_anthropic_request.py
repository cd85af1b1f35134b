"""What OpenAI's chat requests become for Anthropic."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.base import BadRequest, Unsupported
from adapters.wire import loose_json
from adapters.wire.anthropic_models import UNKNOWN, model_of
from adapters.wire.anthropic_request import to_messages
from adapters.wire.losses import Losses
from tests.adapters.shapes import damaged

BUDGETS = "claude-sonnet-4-5-20250929"
ADAPTS = "claude-opus-4-8"
ALWAYS_THINKS = "claude-opus-5-5"

Json = dict[str, Any]

USER = {"role": "user", "content": "Hi"}
HI = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
PIXEL = "data:image/png;base64,iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
FUNCTION = {"name": "f", "description": "d", "parameters": SCHEMA}
TOOL = {"type": "function", "function": FUNCTION}


def translated(
    *messages: Json,
    model: str = BUDGETS,
    drop: bool = False,
    default: int | None = None,
    **more: Any,
) -> tuple[Json, list[str]]:
    body = json.dumps({"model": "m", "messages": list(messages) or [USER], **more}).encode()
    result = to_messages(body, model=model, default_max_tokens=default, drop_params=drop)
    return result.members, result.dropped


def members(*messages: Json, model: str = BUDGETS, **more: Any) -> Json:
    """The translation of what can be carried whole."""
    found, dropped = translated(*messages, model=model, **more)
    assert dropped == []
    return found


def refused(*messages: Json, model: str = BUDGETS, **more: Any) -> str:
    """The parameter that is refused, and named where it may be left out."""
    with pytest.raises(Unsupported) as caught:
        translated(*messages, model=model, **more)
    assert not caught.value.dispatched
    _, dropped = translated(*messages, model=model, drop=True, **more)
    assert dropped == [caught.value.param]
    return caught.value.param


def invalid(*messages: Any, **more: Any) -> str | None:
    with pytest.raises(BadRequest) as caught:
        translated(*messages, **more)
    assert caught.value.status == 400
    return caught.value.param


def turns(*messages: Json, model: str = BUDGETS) -> list[Json]:
    found: list[Json] = members(*messages, model=model)["messages"]
    return found


def call(call_id: str, arguments: str = '{"x":1}', name: str = "f") -> Json:
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def calling(*calls: Json, **more: Any) -> Json:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


def result(call_id: str, content: Any = "r") -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


# --- parameters -----------------------------------------------------------------------------------


def test_the_plainest_request() -> None:
    assert members() == {"max_tokens": 4096, "messages": HI}


@pytest.mark.parametrize(
    ("given", "default", "maximum"),
    [
        ({}, None, 4096),
        ({}, 9, 9),
        ({"max_tokens": None}, 9, 9),
        ({"max_tokens": 5}, 9, 5),
        ({"max_completion_tokens": 6}, 9, 6),
        ({"max_completion_tokens": 6, "max_tokens": 5}, 9, 6),
    ],
)
def test_a_maximum_is_always_told(given: Json, default: int | None, maximum: int) -> None:
    assert translated(default=default, **given)[0]["max_tokens"] == maximum


@pytest.mark.parametrize(
    "hint",
    [
        {"stream": True, "stream_options": {"include_usage": True}},
        {"store": False, "metadata": {"a": "b"}, "usage": {"include": True}},
        {"prompt_cache_key": "k", "prompt_cache_retention": "24h"},
        {"n": 1, "logprobs": False, "top_logprobs": 0, "presence_penalty": 0},
        {"frequency_penalty": 0.0, "repetition_penalty": 1.0},
        {"logit_bias": {}, "modalities": ["text"], "verbosity": "medium"},
        {"temperature": None, "top_p": 1, "seed": None, "stop": None, "tools": None},
        {"temperature": 1, "service_tier": "auto", "response_format": {"type": "text"}},
        {"parallel_tool_calls": True, "tool_choice": "auto", "reasoning_effort": None},
    ],
)
def test_what_changes_nothing_is_left_out_without_a_word(hint: Json) -> None:
    assert members(**hint) == {"max_tokens": 4096, "messages": HI}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"1": 2}),
        ("seed", 7),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "x"}),
        ("prediction", {"type": "content"}),
        ("web_search_options", {}),
        ("verbosity", "low"),
        ("service_tier", "flex"),
        ("min_p", 0.1),
        ("mcp_servers", [{"url": "https://x"}]),
        ("response_format", {"type": "json_object"}),
        ("stop", ["\n\n"]),
    ],
)
def test_what_cannot_be_carried_is_refused_by_name(name: str, value: Any) -> None:
    assert refused(**{name: value}) == name
    assert translated(drop=True, **{name: value})[0] == {"max_tokens": 4096, "messages": HI}


def test_the_rest_has_its_counterpart() -> None:
    found = members(
        temperature=0.5, top_k=5, stop="END", user="u", service_tier="default", cache_control={}
    )
    del found["messages"], found["max_tokens"]
    assert found == {
        "temperature": 0.5,
        "top_k": 5,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u"},
        "service_tier": "standard_only",
    }
    assert members(user="u", safety_identifier="s")["metadata"] == {"user_id": "s"}
    assert members(stop=["a", "", "b"])["stop_sequences"] == ["a", "b"]


def test_anthropics_own_parameters_pass() -> None:
    own = {
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "output_config": {"effort": "low"},
        "cache_control": {"type": "ephemeral"},
        "context_management": {"edits": []},
    }
    assert members(**own).items() >= own.items()


def test_a_temperature_above_anthropics_range_is_its_highest_and_told() -> None:
    found, dropped = translated(temperature=1.7)
    assert "temperature" not in found  # 1 is the default
    assert dropped == ["temperature"]


def test_sampling_as_far_as_the_model_takes_it() -> None:
    assert members(top_p=0.9)["top_p"] == 0.9
    assert refused(temperature=0.2, top_p=0.9) == "top_p"
    for name in ("temperature", "top_p", "top_k"):
        found, dropped = translated(model=ADAPTS, **{name: 0})
        assert (name in found, dropped) == (False, [name])
    found, dropped = translated(reasoning_effort="high", max_tokens=5000, temperature=0)
    assert ("temperature" in found, dropped) == (False, ["temperature"])
    found = members(reasoning_effort="high", max_tokens=5000, top_p=0.96)
    assert found["top_p"] == 0.96


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"messages": "Hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}, "messages[0].content[0]"),
        ({"messages": [USER, {"role": "tool", "content": "r"}]}, "messages[1].tool_call_id"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"tools": [{"type": "function", "function": {"name": 1}}]}, "tools[0].function.name"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"reasoning_effort": "colossal"}, "reasoning_effort"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ],
)
def test_a_wrong_shape_is_the_clients_fault_and_named(given: Json, param: str) -> None:
    assert invalid(**given) == param


@pytest.mark.parametrize("body", [b"", b"[]", b"nonsense", b'{"messages":[{"role":NaN}]}'])
def test_what_is_no_request_at_all_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        to_messages(body, model=BUDGETS)


# --- messages -------------------------------------------------------------------------------------


def test_leading_instructions_are_the_system_prompt() -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    found = members(
        {"role": "system", "content": "A"},
        {"role": "developer", "content": [{"type": "text", "text": "B", "cache_control": mark}]},
        USER,
    )
    assert found["system"] == [
        {"type": "text", "text": "A"},
        {"type": "text", "text": "B", "cache_control": mark},
    ]
    assert found["messages"] == HI


def test_later_instructions_keep_their_place() -> None:
    late = {"role": "system", "content": "Be brief"}
    said = {"type": "text", "text": "Be brief"}
    found, dropped = translated(USER, late)
    assert found["messages"] == [{"role": "user", "content": [*HI[0]["content"], said]}]
    assert dropped == ["messages[1].role"]
    assert turns(USER, late, model=ADAPTS) == [*HI, {"role": "system", "content": [said]}]


def test_instructions_where_no_model_hears_them_become_the_users() -> None:
    late = {"role": "system", "content": "S"}
    found, dropped = translated(USER, late, USER, model=ADAPTS)
    assert [turn["role"] for turn in found["messages"]] == ["user"]
    assert dropped == ["messages[1].role"]


def test_instructions_alone_are_asked_as_the_user() -> None:
    found, dropped = translated({"role": "system", "content": "Say hi"})
    assert "system" not in found
    assert found["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Say hi"}]}]
    assert dropped == ["messages[0].role"]


def test_what_is_blank_is_left_out() -> None:
    empty = {"role": "assistant", "content": ""}
    blank = {"role": "user", "content": [{"type": "text", "text": " \n"}]}
    assert turns(USER, empty, blank, USER) == [{"role": "user", "content": HI[0]["content"] * 2}]
    assert invalid({"role": "user", "content": ""}) == "messages"


def test_all_results_of_parallel_calls_are_in_one_turn_before_all_else() -> None:
    found = turns(
        USER,
        calling(call("a"), call("b")),
        {"role": "user", "content": "and"},
        result("a"),
        result("b"),
    )
    assert [turn["role"] for turn in found] == ["user", "assistant", "user"]
    assert [block["type"] for block in found[1]["content"]] == ["tool_use", "tool_use"]
    assert [block["type"] for block in found[2]["content"]] == [
        "tool_result",
        "tool_result",
        "text",
    ]
    assert [block["tool_use_id"] for block in found[2]["content"][:2]] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "given", "dropped"),
    [
        ('{"x":1}', {"x": 1}, False),
        ("", {}, False),
        ("{}", {}, False),
        ('{"x":"\\ud83d"}', {"x": "\ud83d"}, False),
        ('{"x":', {"arguments": '{"x":'}, True),
        ("[1]", {"arguments": "[1]"}, True),
    ],
)
def test_arguments_are_an_object(arguments: str, given: Json, dropped: bool) -> None:
    found, told = translated(USER, calling(call("a", arguments)), result("a"))
    assert found["messages"][1]["content"][0]["input"] == given
    assert told == (["messages[1].tool_calls[0].function.arguments"] if dropped else [])


def test_ids_of_other_providers_are_made_acceptable_on_both_ends() -> None:
    found = turns(USER, calling(call("functions.f:0")), result("functions.f:0"))
    assert found[1]["content"][0]["id"] == "functions_f_0" == found[2]["content"][0]["tool_use_id"]


def test_results_may_hold_pictures_and_marks() -> None:
    mark = {"type": "ephemeral"}
    parts = [
        {"type": "text", "text": "see", "cache_control": mark},
        {"type": "image_url", "image_url": {"url": PIXEL}},
    ]
    (block,) = turns(USER, calling(call("a")), result("a", parts))[2]["content"]
    assert [inner["type"] for inner in block["content"]] == ["text", "image"]
    assert "cache_control" not in block["content"][0]
    assert block["cache_control"] == mark
    (empty,) = turns(USER, calling(call("a")), result("a", ""))[2]["content"]
    assert "content" not in empty


def test_calls_in_the_old_form() -> None:
    asked = {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}
    answered = {"role": "function", "name": "f", "content": "r"}
    found = turns(USER, asked, answered, asked, answered)
    ids = [block.get("id") or block.get("tool_use_id") for t in found[1:] for block in t["content"]]
    assert ids == ["function_call_1", "function_call_1", "function_call_2", "function_call_2"]


def test_a_refusal_is_text_of_the_answer() -> None:
    parts = [{"type": "text", "text": "No"}, {"type": "refusal", "refusal": "Sorry"}]
    found = turns(USER, {"role": "assistant", "content": parts, "refusal": "Never"}, USER)
    assert [block["text"] for block in found[1]["content"]] == ["No", "Sorry", "Never"]


def test_a_mark_on_a_message_is_on_its_last_part() -> None:
    mark = {"type": "ephemeral"}
    parts = [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
    (turn,) = turns({"role": "user", "content": parts, "cache_control": mark})
    assert [block.get("cache_control") for block in turn["content"]] == [None, mark]


def test_an_answer_begun_is_continued_where_the_model_can() -> None:
    begun = {"role": "assistant", "content": "The answer is "}
    assert turns(USER, begun)[1]["content"] == [{"type": "text", "text": "The answer is"}]
    for model in (ADAPTS, ALWAYS_THINKS):
        with pytest.raises(Unsupported) as caught:
            translated(USER, begun, model=model, drop=True)
        assert caught.value.param == "messages[1].role"


def test_a_conversation_begins_with_the_user() -> None:
    with pytest.raises(Unsupported) as caught:
        translated({"role": "assistant", "content": "Hello"}, USER)
    assert caught.value.param == "messages[0].role"


def test_a_greeting_is_left_out_if_it_may_be() -> None:
    said = {"role": "assistant", "content": "Hello"}
    found, dropped = translated(said, USER, drop=True)
    assert found["messages"] == HI
    assert dropped == ["messages[0].role"]
    with pytest.raises(BadRequest):
        translated(said, drop=True)


def test_names_are_told_as_left_out() -> None:
    found, dropped = translated({**USER, "name": "ada"})
    assert found["messages"] == HI
    assert dropped == ["messages[0].name"]


# --- pictures and files ---------------------------------------------------------------------------


def part_of(part: Json) -> Json:
    (turn,) = turns({"role": "user", "content": [part]})
    (block,) = turn["content"]
    assert isinstance(block, dict)
    return block


def image(url: Any) -> Json:
    return {"type": "image_url", "image_url": url}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            image({"url": "https://x/a.png", "detail": "auto"}),
            {"type": "image", "source": {"type": "url", "url": "https://x/a.png"}},
        ),
        (
            image(PIXEL),
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
            },
        ),
        (
            image({"url": "data:image/jpg;base64,AAAA"}),
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/jpeg", "data": "AAAA"},
            },
        ),
        (
            {
                "type": "file",
                "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0"},
            },
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0"},
                "title": "a.pdf",
            },
        ),
        (
            {"type": "file", "file": {"file_data": "JVBERi0"}},
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0"},
            },
        ),
        (
            {"type": "file", "file": {"file_data": "https://x/a.pdf"}},
            {"type": "document", "source": {"type": "url", "url": "https://x/a.pdf"}},
        ),
        (
            {"type": "file", "file": {"file_data": f"data:text/csv;base64,{encoded('a,ä')}"}},
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "a,ä"},
            },
        ),
        (
            {"type": "file", "file": {"file_data": "data:,a%20b"}},
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "a b"},
            },
        ),
        (
            {"type": "file", "file": {"file_id": "file_011"}},
            {"type": "document", "source": {"type": "file", "file_id": "file_011"}},
        ),
    ],
)
def test_pictures_and_files(part: Json, block: Json) -> None:
    assert part_of(part) == block
    mark = {"type": "ephemeral"}
    assert part_of({**part, "cache_control": mark}) == {**block, "cache_control": mark}


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}, "type"),
        ({"type": "video_url", "video_url": {"url": "https://x"}}, "type"),
        ({"type": "file", "file": {"file_id": "file-abc"}}, "file.file_id"),
        (image({"url": "data:image/tiff;base64,AAAA"}), "image_url.url"),
    ],
)
def test_what_claude_does_not_take_is_refused(part: Json, param: str) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "Hi"}, part]}
    assert refused(message) == f"messages[0].content[1].{param}"
    assert translated(message, drop=True)[0]["messages"] == HI


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "file"}, "file"),
        ({"type": "image_url"}, "image_url"),
        (image("ftp://x"), "image_url.url"),
        (image("data:image/png"), "image_url.url"),
        ({"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}}, "file.file_data"),
    ],
)
def test_a_part_that_is_none_is_the_clients_fault(part: Json, param: str) -> None:
    assert invalid({"role": "user", "content": [part]}) == f"messages[0].content[0].{param}"


def test_the_detail_of_a_picture_is_told_as_left_out() -> None:
    part = image({"url": "https://x", "detail": "low"})
    _, dropped = translated({"role": "user", "content": [part]})
    assert dropped == ["messages[0].content[0].image_url.detail"]


# --- what was thought before ----------------------------------------------------------------------

SIGNED = {"type": "reasoning.text", "text": "Hm", "signature": "s"}
THINKING = {"type": "thinking", "thinking": "Hm", "signature": "s"}
HIDDEN = {"type": "reasoning.encrypted", "data": "d"}
REDACTED = {"type": "redacted_thinking", "data": "d"}


def answered(**more: Any) -> tuple[list[Json], list[str]]:
    found, dropped = translated(USER, {"role": "assistant", "content": "A", **more}, USER)
    blocks: list[Json] = found["messages"][1]["content"]
    return blocks, dropped


@pytest.mark.parametrize(
    "said",
    [
        {"reasoning_details": [SIGNED, HIDDEN]},
        {"reasoning_details": [SIGNED, HIDDEN], "reasoning_content": "Hm", "reasoning": "Hm"},
        {"thinking_blocks": [THINKING, REDACTED], "reasoning_content": "Hm"},
        {"reasoning_details": [{**SIGNED, "format": "anthropic-claude-v1"}, HIDDEN]},
        {
            "reasoning_details": [{"type": "reasoning.text", "signature": "s"}, HIDDEN],
            "reasoning_content": "Hm",
        },
    ],
)
def test_thoughts_go_back_unchanged_and_first(said: Json) -> None:
    assert answered(**said) == ([THINKING, REDACTED, {"type": "text", "text": "A"}], [])


def test_thoughts_go_back_to_their_places() -> None:
    details = [{**SIGNED, "index": 0}, {**HIDDEN, "index": 2}]
    message = calling(call("a"), call("b"), reasoning_details=details)
    found = turns(USER, message, result("a"), result("b"))
    assert [block["type"] for block in found[1]["content"]] == [
        "thinking",
        "tool_use",
        "redacted_thinking",
        "tool_use",
    ]


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"reasoning_content": "Hm"}, "reasoning_content"),
        ({"reasoning": "Hm"}, "reasoning"),
        ({"reasoning_details": [{"type": "reasoning.text", "text": "Hm"}]}, "reasoning_details"),
        ({"reasoning_details": [{"type": "reasoning.summary"}]}, "reasoning_details"),
        ({"reasoning_details": [{**HIDDEN, "format": "openai-responses-v1"}]}, "reasoning_details"),
        ({"thinking_blocks": [{"type": "thinking", "thinking": "Hm"}]}, "thinking_blocks"),
    ],
)
def test_thoughts_that_nobody_signed_are_left_out_and_told(said: Json, param: str) -> None:
    assert answered(**said) == ([{"type": "text", "text": "A"}], [f"messages[1].{param}"])


# --- tools ----------------------------------------------------------------------------------------


def test_functions_are_tools() -> None:
    mark = {"type": "ephemeral"}
    tool = {"name": "f", "description": "d", "input_schema": SCHEMA}
    assert members(tools=[TOOL])["tools"] == [tool]
    assert members(tools=[{**TOOL, "cache_control": mark}])["tools"] == [
        {**tool, "cache_control": mark}
    ]
    assert members(functions=[FUNCTION])["tools"] == [tool]
    bare = {"type": "function", "function": {"name": "f"}}
    assert members(tools=[bare])["tools"] == [
        {"name": "f", "input_schema": {"type": "object", "properties": {}}}
    ]


@pytest.mark.parametrize("schema", [None, {}, {"type": None, "properties": {}}])
def test_the_arguments_of_a_tool_are_an_object(schema: Json | None) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    (found,) = members(tools=[tool])["tools"]
    assert found["input_schema"] == {"type": "object", "properties": {}}


def test_a_strict_tool_has_a_closed_schema() -> None:
    strict = {"type": "function", "function": {**FUNCTION, "strict": True}}
    (tool,) = members(tools=[strict])["tools"]
    assert tool["strict"] is True
    assert tool["input_schema"] == {**SCHEMA, "additionalProperties": False}


def test_anthropics_own_tools_pass_and_others_do_not() -> None:
    bash = {"type": "bash_20250124", "name": "bash"}
    assert members(tools=[bash])["tools"] == [bash]
    assert refused(tools=[TOOL, {"type": "custom", "custom": {"name": "c"}}]) == "tools[1].type"


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"type": "tool", "name": "f"},
        ),
        ({"function_call": {"name": "f"}}, {"type": "tool", "name": "f"}),
        ({"function_call": "none"}, {"type": "none"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"parallel_tool_calls": False, "tool_choice": "required"},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
        ({"parallel_tool_calls": False, "tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": "auto"}, None),
    ],
)
def test_choices_of_tools(given: Json, choice: Json | None) -> None:
    assert members(tools=[TOOL], **given).get("tool_choice") == choice
    assert "tool_choice" not in members(**given)  # Anthropic refuses one without tools


def test_choices_that_cannot_be_told() -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}
    assert refused(tools=[TOOL], tool_choice=allowed) == "tool_choice"
    assert refused(tools=[TOOL], tool_choice="required", model=ALWAYS_THINKS) == "tool_choice"


# --- structured outputs ---------------------------------------------------------------------------


def schema_of(schema: Json) -> tuple[Json, list[str]]:
    asked = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    found, dropped = translated(response_format=asked)
    output = found["output_config"]["format"]
    assert output["type"] == "json_schema"
    return output["schema"], dropped


def test_a_schema_for_the_answer() -> None:
    nested = {
        "type": "object",
        "properties": {"o": SCHEMA, "l": {"type": "array", "items": SCHEMA}},
    }
    closed = {**SCHEMA, "additionalProperties": False}
    assert schema_of(nested) == (
        {
            "type": "object",
            "properties": {"o": closed, "l": {"type": "array", "items": closed}},
            "additionalProperties": False,
        },
        [],
    )


def test_what_a_schema_cannot_hold_claude_to_is_said_in_words_and_told() -> None:
    number = {"type": "integer", "minimum": 1, "description": "Size"}
    found, dropped = schema_of({"type": "object", "properties": {"a": number}})
    assert found["properties"]["a"] == {
        "type": "integer",
        "description": 'Size\n\n{"minimum":1}',
    }
    assert dropped == ["response_format.json_schema.schema"]


def test_a_property_may_be_called_like_a_keyword() -> None:
    properties = {"minimum": {"type": "string"}, "properties": {"type": "string"}}
    found, dropped = schema_of({"type": "object", "properties": properties})
    assert found["properties"] == properties
    assert dropped == []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"any": {"type": "object", "description": "d"}}},
    ],
)
def test_objects_with_any_property_cannot_be_had(schema: Json) -> None:
    asked = {"type": "json_schema", "json_schema": {"schema": schema}}
    assert refused(response_format=asked) == "response_format.json_schema.schema"


# --- thinking -------------------------------------------------------------------------------------


def thought(model: str, **more: Any) -> Any:
    return members(model=model, max_tokens=10_000, **more).get("thinking")


def test_a_budget_is_a_share_of_the_maximum_which_is_never_raised() -> None:
    found = members(reasoning_effort="high", max_tokens=10_000)
    assert found["thinking"] == {"type": "enabled", "budget_tokens": 8000}
    assert found["max_tokens"] == 10_000
    assert thought(BUDGETS, reasoning={"max_tokens": 3000})["budget_tokens"] == 3000
    assert thought(BUDGETS, reasoning={"enabled": True})["budget_tokens"] == 5000
    assert members(reasoning_effort="low")["thinking"]["budget_tokens"] == 1024
    found, dropped = translated(reasoning={"max_tokens": 99_000}, max_tokens=2000)
    assert found["thinking"]["budget_tokens"] == 1999
    assert dropped == ["reasoning"]
    assert refused(reasoning_effort="low", max_tokens=1024) == "reasoning_effort"


def test_newer_models_think_as_far_as_they_find_good() -> None:
    found = members(model=ADAPTS, reasoning_effort="xhigh")
    assert found["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert found["output_config"] == {"effort": "xhigh"}
    assert refused(model=ADAPTS, reasoning={"max_tokens": 3000}) == "reasoning.max_tokens"
    assert thought("claude-sonnet-4-6", reasoning_effort="low") == {"type": "adaptive"}
    assert thought(ADAPTS, reasoning={"effort": "low", "exclude": True}) == {
        "type": "adaptive",
        "display": "omitted",
    }


@pytest.mark.parametrize(
    ("model", "asked", "sent"),
    [
        ("claude-sonnet-4-6", "xhigh", "high"),
        ("claude-sonnet-4-6", "minimal", "low"),
        (ADAPTS, "minimal", "low"),
    ],
)
def test_an_effort_the_model_does_not_know_is_the_nearest_below(
    model: str, asked: str, sent: str
) -> None:
    found, dropped = translated(model=model, reasoning_effort=asked)
    assert found["output_config"]["effort"] == sent
    assert dropped == ["reasoning_effort"]


@pytest.mark.parametrize(
    ("model", "off"),
    [
        (BUDGETS, None),
        (ADAPTS, None),
        ("claude-opus-5", {"type": "disabled"}),
        ("claude-haiku-5-5", {"type": "disabled"}),
        ("claude-sonnet-5-5", {"type": "between_tools"}),
    ],
)
def test_thinking_is_turned_off(model: str, off: Json | None) -> None:
    assert thought(model, reasoning_effort="none") == off
    assert thought(model, reasoning={"enabled": False}) == off


def test_a_model_that_always_thinks_thinks_least() -> None:
    assert refused(model=ALWAYS_THINKS, reasoning_effort="none") == "reasoning_effort"
    found, _ = translated(model=ALWAYS_THINKS, reasoning_effort="none", drop=True)
    assert found["output_config"] == {"effort": "low"}


def test_who_must_call_a_tool_does_not_think() -> None:
    asked = {"tools": [TOOL], "tool_choice": "required", "reasoning_effort": "low"}
    assert refused(**asked) == "reasoning_effort"


def test_a_model_that_cannot_think_is_not_asked_to() -> None:
    assert refused(model="claude-3-5-haiku-20241022", reasoning_effort="low") == "reasoning_effort"


def test_a_budget_is_not_set_where_an_unthinking_answer_goes_on() -> None:
    messages = (USER, calling(call("a")), result("a"))
    found, dropped = translated(*messages, reasoning_effort="high", max_tokens=5000)
    assert "thinking" not in found
    assert dropped == ["reasoning_effort"]
    thinking = calling(call("a"), reasoning_details=[SIGNED])
    found, dropped = translated(
        USER, thinking, result("a"), reasoning_effort="high", max_tokens=5000
    )
    assert found["thinking"]["type"] == "enabled"
    assert dropped == []


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("claude-opus-4-20250514", "claude-opus-4-0"),
        ("anthropic.claude-opus-4-8-v1:0", ADAPTS),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", BUDGETS),
        ("claude-sonnet-4-5@20250929", BUDGETS),
        ("anthropic/claude-opus-5.5", ALWAYS_THINKS),
        ("claude-3-7-sonnet-latest", "claude-3.7-sonnet"),
        ("claude-opus-5-20260724", "claude-opus-5"),
    ],
)
def test_models_are_known_by_any_of_their_names(name: str, like: str) -> None:
    assert model_of(name) == model_of(like) != UNKNOWN


def test_an_unknown_model_is_asked_whatever_the_client_asks() -> None:
    assert model_of("house-model") == UNKNOWN
    found = members(model="house-model", temperature=0.2, top_p=0.5)
    assert (found["temperature"], found["top_p"]) == (0.2, 0.5)


# --- whatever the conversation --------------------------------------------------------------------

texts = st.text(alphabet="ab \n\ud83d", max_size=4)
contents = st.one_of(
    st.none(), texts, st.lists(texts.map(lambda text: {"type": "text", "text": text}), max_size=2)
)


@st.composite
def conversations(draw: st.DrawFn) -> list[Json]:
    """Any roles in any order; calls are answered, some time before the assistant goes on."""
    messages: list[Json] = draw(
        st.lists(
            st.fixed_dictionaries({"role": st.sampled_from(["system"]), "content": contents}),
            max_size=1,
        )
    )
    messages.append({"role": "user", "content": "Hi"})
    for number in range(draw(st.integers(0, 4))):
        calls = [call(f"c.{number}.{k}") for k in range(draw(st.integers(0, 2)))]
        answer: Json = {"role": "assistant", "content": draw(contents)}
        if calls:
            answer["tool_calls"] = calls
        if draw(st.booleans()):
            answer["reasoning_details"] = [SIGNED]
        between = draw(
            st.lists(
                st.fixed_dictionaries(
                    {"role": st.sampled_from(["user", "system", "developer"]), "content": contents}
                ),
                max_size=2,
            )
        )
        replies = [result(c["id"], draw(contents)) for c in calls] + between
        messages += [answer, *draw(st.permutations(replies)), USER]
    return messages


@settings(deadline=None, max_examples=150)
@given(conversations(), st.sampled_from([BUDGETS, ADAPTS, ALWAYS_THINKS]))
def test_any_conversation_is_one_that_anthropic_takes(messages: list[Json], model: str) -> None:
    found, _ = translated(*messages, model=model)
    turns = found["messages"]
    assert turns[0]["role"] == "user"
    for turn, following in zip(turns, [*turns[1:], None], strict=True):
        assert turn["content"]
        kinds = [block["type"] for block in turn["content"]]
        assert all(b["text"].strip() for b in turn["content"] if b["type"] == "text")
        if turn["role"] == "system":
            assert following is None or following["role"] == "assistant"
            continue
        assert following is None or following["role"] != turn["role"]
        asked = [b["id"] for b in turn["content"] if b["type"] == "tool_use"]
        if asked:
            assert following is not None
            answered = following["content"][: len(asked)]
            assert {b.get("tool_use_id") for b in answered} == set(asked)
        if "thinking" in kinds:
            assert turn["role"] == "assistant"
            assert kinds[0] == "thinking"


shapes = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "role", "content", "name"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("messages", "tools", "tool_choice", "response_format", "reasoning", "stop"),
                *("max_tokens", "temperature", "functions", "function_call", "thinking", "n"),
            ]
        ),
        shapes,
    ),
    shapes,
)
def test_any_shape_is_translated_or_refused(request: Json, message: Any) -> None:
    body = {"messages": [USER, message], **request}
    for drop in (True, False):
        try:
            to_messages(json.dumps(body).encode(), model=BUDGETS, drop_params=drop)
        except (BadRequest, Unsupported) as error:
            assert error.param


def test_an_index_of_a_thought_may_be_any_number() -> None:
    detail = {"type": "reasoning.text", "text": "t", "signature": "s", "index": 2**63}
    said = {"role": "assistant", "content": "a", "reasoning_details": [detail]}
    turns = translated(USER, said, USER)[0]["messages"]
    assert [block["type"] for block in turns[1]["content"]] == ["text", "thinking"]


def test_a_name_that_is_no_text_is_the_clients_fault() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"a"}],"\\ud83d":1}'
    with pytest.raises(BadRequest):
        to_messages(body, model="claude-opus-4-5", drop_params=True)


def test_ten_thousand_losses_are_told_at_once() -> None:
    losses = Losses(drop_params=True)
    began = time.process_time()
    for _ in range(2):
        for i in range(30_000):
            losses.tell(f"messages[{i}].name")
    assert time.process_time() - began < 1
    assert len(losses.dropped) == 30_000


_ASKED: Json = {
    "messages": [
        {"role": "system", "content": "s"},
        {
            "role": "user",
            "name": "n",
            "content": [
                {"type": "text", "text": "t", "cache_control": {"type": "ephemeral"}},
                image({"url": PIXEL, "detail": "low"}),
                {"type": "file", "file": {"file_data": "data:text/plain;base64,AAAA"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "r",
            "reasoning_details": [
                {"type": "reasoning.text", "signature": "s", "index": 0},
                {"type": "reasoning.encrypted", "data": "d", "format": "anthropic"},
            ],
            "thinking_blocks": [{"type": "thinking", "thinking": "x", "signature": "s"}],
            "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": '{"a":1}'}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "r"}]},
        {"role": "system", "content": "late"},
        {"role": "user", "content": "Hi"},
    ],
    "tools": [{**TOOL, "function": {**FUNCTION, "strict": True}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
    "max_tokens": 5000,
    "stop": ["a"],
    "temperature": 0.5,
    "reasoning": {"effort": "low", "max_tokens": 2000},
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "output_config": {"effort": "low"},
}


@given(damaged(_ASKED), st.sampled_from([BUDGETS, ADAPTS, ALWAYS_THINKS]), st.booleans())
def test_any_request_is_translated_or_refused(asked: Any, model: str, drop: bool) -> None:
    try:
        found = to_messages(json.dumps(asked).encode(), model=model, drop_params=drop)
    except (BadRequest, Unsupported):
        return
    maximum = asked.get("max_tokens")
    assert found.members["max_tokens"] == (4096 if maximum is None else maximum)
    loose_json.encode(found.members)
