"""Messages requests: what is refused, what they are as a chat, and what goes upstream as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Unsupported
from proxy.errors import InvalidRequest
from proxy.wire.messages import call_ids
from proxy.wire.messages.request import end_user, parse, parse_prompt
from tests.proxy.wire.messages.asked import (
    HELLO,
    body,
    chat,
    messages,
    native,
    request,
    saying,
    sent,
)

PNG = {"type": "base64", "media_type": "image/png", "data": "iVBO"}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}
CACHED = {"type": "ephemeral", "ttl": "1h"}
USE = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}

# --- refusals -------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": ...}, "model"),
    ({"model": ""}, "model"),
    ({"model": 5}, "model"),
    ({"max_tokens": ...}, "max_tokens"),
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": 10_000_001}, "max_tokens"),
    ({"messages": ...}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "Hello"}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": saying("Hello")}, "messages[0].content[0]"),
    ({"messages": saying({"text": "Hello"})}, "messages[0].content[0].type"),
    ({"messages": saying({"type": 5})}, "messages[0].content[0].type"),
    ({"messages": saying({"type": "text"})}, "messages[0].content[0].text"),
    ({"messages": saying({"type": "text", "text": 5})}, "messages[0].content[0].text"),
    ({"messages": saying({"type": "image"})}, "messages[0].content[0].source"),
    (
        {"messages": saying({"type": "image", "source": {"type": "url"}})},
        "messages[0].content[0].source",
    ),
    ({"messages": saying(USE)}, "messages[0].content[0]"),
    (
        {"messages": saying({**USE, "input": "{}"}, role="assistant")},
        "messages[0].content[0].input",
    ),
    (
        {"messages": saying({"type": "tool_result", "tool_use_id": "x"}, role="assistant")},
        "messages[0].content[0]",
    ),
    ({"system": 5}, "system"),
    ({"system": [{"type": "image"}]}, "system[0].type"),
    ({"stream": "yes"}, "stream"),
    ({"temperature": "hot"}, "temperature"),
    ({"stop_sequences": "x"}, "stop_sequences"),
    ({"tools": {}}, "tools"),
    ({"tools": [5]}, "tools[0]"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
    ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens"),
    ({"output_config": {"effort": 5}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
    ({"metadata": {"user_id": 5}}, "metadata.user_id"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG)
def test_names_the_parameter_that_is_wrong(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(**fields)
    assert caught.value.param == param


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "source", "content", "name", "id", "input", "data"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
_kinds = st.sampled_from(
    ["text", "image", "document", "search_result", "thinking", "tool_use", "tool_result", "new"]
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["system", "tools", "tool_choice", "thinking", "output_config", "metadata", "stream"]
        ),
        _json,
        max_size=3,
    ),
    st.lists(_json | st.fixed_dictionaries({"type": _kinds, "content": _json, "source": _json})),
)
def test_whatever_is_sent_is_read_or_refused(fields: dict[str, Any], blocks: list[Any]) -> None:
    try:
        asked = request(messages=saying(*blocks), **fields)
    except InvalidRequest:
        return
    assert native(asked)["model"] == "real"
    assert chat(asked, drop_params=True)["model"] == "real"


def test_a_prompt_to_be_counted_needs_no_maximum() -> None:
    assert parse_prompt(body(max_tokens=...)).max_output_tokens is None


# --- as a chat ------------------------------------------------------------------------------------


def test_plain_members_keep_their_values() -> None:
    asked = request(
        system="Be brief",
        temperature=0.5,
        top_p=0.25,
        top_k=40,
        stop_sequences=["END"],
        stream=True,
        metadata={"user_id": "u1"},
        service_tier="standard_only",
    )
    assert chat(asked) == {
        "model": "real",
        "messages": [{"role": "system", "content": "Be brief"}, *HELLO],
        "max_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 40,
        "stop": ["END"],
        "stream": True,
        "user": "u1",
        "service_tier": "default",
        "stream_options": {"include_usage": True},
    }


def test_the_maximum_has_the_name_that_the_target_knows() -> None:
    told = chat(request(), max_tokens_field="max_completion_tokens")
    assert told["max_completion_tokens"] == 100
    assert "max_tokens" not in told


def test_a_clamp_takes_the_place_of_the_maximum_in_both_dialects() -> None:
    assert chat(request(), clamp=7)["max_tokens"] == 7
    assert native(request(), clamp=7)["max_tokens"] == 7


def test_a_user_that_openai_would_refuse_is_for_us_alone() -> None:
    asked = request(metadata={"user_id": "u" * 65})
    assert asked.user == "u" * 65
    assert "user" not in chat(asked)


@pytest.mark.parametrize(
    ("user_id", "who"),
    [
        (None, None),
        ("", None),
        ("alice", "alice"),
        ("user_1f_account_2e_session_3d", "user_1f_account_2e"),
        ('{"device_id":"d","account_uuid":"","session_id":"s"}', "d"),
        ('{"device_id":"d","account_uuid":"a","session_id":"s"}', "a"),
        ('{"device_id":5}', '{"device_id":5}'),
        ("{alice}", "{alice}"),
    ],
)
def test_the_end_user_is_no_session(user_id: str | None, who: str | None) -> None:
    assert end_user(user_id) == who


def test_system_blocks_keep_their_cache_marks() -> None:
    blocks = [{"type": "text", "text": "A", "cache_control": CACHED}, {"type": "text", "text": "B"}]
    assert chat(request(system=blocks))["messages"][0] == {"role": "system", "content": blocks}


def test_a_system_message_stays_where_it_is() -> None:
    said = [*HELLO, {"role": "system", "content": [{"type": "text", "text": "Now be brief"}]}]
    assert messages(*said) == [*HELLO, {"role": "system", "content": "Now be brief"}]


def test_images_become_image_urls() -> None:
    assert messages(
        *saying(
            {"type": "text", "text": "Look"},
            {"type": "image", "source": PNG, "cache_control": CACHED},
            {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        )
    ) == saying(
        {"type": "text", "text": "Look"},
        {
            "type": "image_url",
            "image_url": {"url": "data:image/png;base64,iVBO"},
            "cache_control": CACHED,
        },
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    )


def test_documents_become_files_or_text() -> None:
    text = {"type": "text", "media_type": "text/plain", "data": "Once"}
    inner = {"type": "content", "content": [{"type": "text", "text": "a"}]}
    pictured = {"type": "content", "content": [{"type": "image", "source": PNG}]}
    assert messages(
        *saying(
            {"type": "document", "source": PDF, "title": "T.pdf", "context": "From afar"},
            {"type": "document", "source": text, "title": "T"},
            {"type": "document", "source": inner},
            {"type": "document", "source": {"type": "content", "content": "b"}},
            {"type": "document", "source": pictured},
        )
    ) == saying(
        {"type": "text", "text": "From afar"},
        {
            "type": "file",
            "file": {"filename": "T.pdf", "file_data": "data:application/pdf;base64,JVBE"},
        },
        {"type": "text", "text": "<document>\n<title>T</title>\nOnce\n</document>"},
        {"type": "text", "text": "<document>\na\n</document>"},
        {"type": "text", "text": "<document>\nb\n</document>"},
        {"type": "text", "text": "<document>\n"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}},
        {"type": "text", "text": "</document>"},
    )


def test_search_results_become_text() -> None:
    found = {
        "type": "search_result",
        "source": "https://example.com",
        "title": "T",
        "content": [{"type": "text", "text": "It is so."}],
    }
    (message,) = messages(*saying(found))
    for part in ("https://example.com", "<title>T</title>", "It is so."):
        assert part in message["content"]


def test_what_an_assistant_said_thought_and_called() -> None:
    said = saying(
        {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "I look "},
        {"type": "text", "text": "it up"},
        USE,
        {**USE, "id": "toolu_2", "input": {}, "cache_control": CACHED},
        role="assistant",
    )
    assert messages(*HELLO, *said)[1] == {
        "role": "assistant",
        "content": "I look it up",
        "reasoning_content": "Hm.",
        "reasoning_details": [
            {"type": "reasoning.text", "text": "Hm.", "signature": "sig", "index": 0},
            {"type": "reasoning.encrypted", "data": "xyz", "index": 1},
        ],
        "tool_calls": [
            {
                "id": "toolu_1",
                "type": "function",
                "function": {"name": "f", "arguments": '{"a": 1}'},
            },
            {"id": "toolu_2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ],
        "cache_control": CACHED,
    }


@pytest.mark.parametrize("signature", ["", "unsigned"])
def test_thinking_that_nobody_signed_goes_along_as_text_alone(signature: str) -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": signature}
    said = saying(thought, {"type": "text", "text": "A"}, role="assistant")
    assert messages(*HELLO, *said)[1] == {
        "role": "assistant",
        "content": "A",
        "reasoning_content": "Hm.",
    }


def test_results_come_before_what_the_user_says() -> None:
    said = saying(
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "one"},
        {
            "type": "tool_result",
            "tool_use_id": "toolu_2",
            "content": [{"type": "text", "text": "two"}, {"type": "text", "text": "three"}],
            "cache_control": CACHED,
        },
        {"type": "tool_result", "tool_use_id": "toolu_3"},
        {"type": "text", "text": "Go on"},
    )
    assert messages(*said) == [
        {"role": "tool", "tool_call_id": "toolu_1", "content": "one"},
        {
            "role": "tool",
            "tool_call_id": "toolu_2",
            "content": "two\nthree",
            "cache_control": CACHED,
        },
        {"role": "tool", "tool_call_id": "toolu_3", "content": ""},
        {"role": "user", "content": "Go on"},
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [("not found", "Error: not found"), ("Error: no", "Error: no"), ("an error", "an error")],
)
def test_a_result_that_failed_says_so(text: str, told: str) -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": text, "is_error": True}
    assert messages(*saying(result))[0]["content"] == told


def test_images_of_results_follow_with_a_line_whose_they_are() -> None:
    image = {"type": "image", "source": PNG}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [image]}
    tool, user = messages(*saying(result, {"type": "text", "text": "What is it?"}))
    assert tool["role"] == "tool" and tool["content"]
    line, picture, question = user["content"]
    assert "toolu_1" in line["text"]
    assert picture["image_url"]["url"] == "data:image/png;base64,iVBO"
    assert question["text"] == "What is it?"


def test_what_gemini_wants_back_travels_in_the_id() -> None:
    extra = {"google": {"thought_signature": "a+b/c=="}}
    call_id = call_ids.with_signature({"id": "call_1", "extra_content": extra})
    assert call_id.replace("_", "").replace("-", "").isalnum()
    use = saying({**USE, "id": call_id}, role="assistant")
    result = saying({"type": "tool_result", "tool_use_id": call_id, "content": "x"})
    _, call, tool = messages(*HELLO, *use, *result)
    assert call["tool_calls"][0]["id"] == "call_1"
    assert call["tool_calls"][0]["extra_content"] == extra
    assert tool["tool_call_id"] == "call_1"


def test_tools_and_their_choice() -> None:
    tool = {
        "name": "f",
        "description": "d",
        "input_schema": SCHEMA,
        "strict": True,
        "cache_control": CACHED,
    }
    function = {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}
    told = chat(
        request(tools=[tool], tool_choice={"type": "any", "disable_parallel_tool_use": True})
    )
    assert told["tools"] == [{"type": "function", "function": function, "cache_control": CACHED}]
    assert told["tool_choice"] == "required"
    assert told["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_a_choice_of_tools(choice: dict[str, Any], told: object) -> None:
    tools = [{"type": "custom", "name": "f", "input_schema": SCHEMA}]
    assert chat(request(tools=tools, tool_choice=choice))["tool_choice"] == told
    assert "tool_choice" not in chat(request(tool_choice=choice))


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 20000}}, "high"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, "max"),
        (
            {
                "thinking": {"type": "enabled", "budget_tokens": 1024},
                "output_config": {"effort": "high"},
            },
            "high",
        ),
        ({"thinking": {"type": "disabled"}}, None),
        ({"thinking": None, "output_config": None}, None),
    ],
)
def test_how_hard_to_think(fields: dict[str, Any], effort: str | None) -> None:
    assert chat(request(**fields)).get("reasoning_effort") == effort


def test_that_thinking_cannot_be_turned_off_is_told() -> None:
    assert sent(request(thinking={"type": "disabled"})).dropped == ("thinking",)


@pytest.mark.parametrize("name", ["output_config", "output_format"])
def test_a_schema_of_the_answer(name: str) -> None:
    shape = {"type": "json_schema", "schema": SCHEMA}
    asked = request(**{name: {"format": shape} if name == "output_config" else shape})
    told = chat(asked)["response_format"]
    assert told["json_schema"]["schema"] == SCHEMA
    assert told["json_schema"]["strict"] is True
    assert "json_schema" in asked.needs


# --- what no chat can say -------------------------------------------------------------------------

SEARCH = {"type": "web_search_20250305", "name": "web_search"}
LOST: list[tuple[dict[str, Any], str]] = [
    ({"tools": [SEARCH]}, "tools[0]"),
    ({"tools": [{"type": "browser_toolset_20260801"}]}, "tools[0]"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]"),
    (
        {"tools": [{"name": "f", "input_schema": {}, "input_examples": [{}]}]},
        "tools[0].input_examples",
    ),
    (
        {"tools": [{"name": "f", "input_schema": {}, "allowed_callers": ["x"]}]},
        "tools[0].allowed_callers",
    ),
    ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
    ({"container": "c"}, "container"),
    ({"inference_geo": "us"}, "inference_geo"),
    ({"speed": "fast"}, "speed"),
    ({"something_new": 1}, "something_new"),
    ({"output_config": {"task_budget": {}}}, "output_config"),
    ({"max_tokens": 0}, "max_tokens"),
    (
        {"messages": saying({"type": "container_upload", "file_id": "f"})},
        "messages[0].content[0]",
    ),
    (
        {"messages": saying({"type": "image", "source": {"type": "file", "file_id": "f"}})},
        "messages[0].content[0].source",
    ),
    (
        {"messages": saying({"type": "document", "source": PDF, "citations": {"enabled": True}})},
        "messages[0].content[0].citations",
    ),
]


@pytest.mark.parametrize(("fields", "param"), LOST)
def test_what_no_chat_can_say_is_refused_or_dropped_and_told(
    fields: dict[str, Any], param: str
) -> None:
    asked = request(**fields)
    with pytest.raises(Unsupported) as caught:
        sent(asked)
    assert caught.value.param == param
    dropped = sent(asked, drop_params=True)
    assert dropped.dropped == (param,)
    assert native(asked) == json.loads(body(**{**fields, "model": "real"}))


@pytest.mark.parametrize(
    "fields",
    [
        {"context_management": {"edits": []}},
        {"diagnostics": {"previous_message_id": None}},
        {"tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]},
    ],
)
def test_what_a_chat_does_without_is_told(fields: dict[str, Any]) -> None:
    assert sent(request(**fields)).dropped


@pytest.mark.parametrize(
    "fields",
    [
        {"cache_control": CACHED},
        {"service_tier": "auto"},
        {"speed": "standard"},
        {"mcp_servers": []},
        {"container": None},
        {"metadata": {}},
        {"tools": []},
        {"thinking": {"type": "adaptive"}},
    ],
)
def test_hints_are_left_out(fields: dict[str, Any]) -> None:
    told = sent(request(**fields))
    assert told.dropped == ()
    assert json.loads(told.body) == {"model": "real", "messages": HELLO, "max_tokens": 100}


# --- money ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [SEARCH]}, "tools[0]"),
        ({"container": "c"}, "container"),
        ({"speed": "fast"}, "speed"),
        ({"plugins": [{"id": "web"}]}, "plugins"),
        ({"models": ["claude-opus"]}, "models"),
        (
            {"context_management": {"edits": [{"type": "compact_20260112"}]}},
            "context_management",
        ),
        (
            {"messages": saying({"type": "document", "source": PDF})},
            "messages[0].content[0].source",
        ),
        ({"context_management": {"edits": [{"type": "clear_thinking_20251015"}]}}, None),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, None),
        ({"speed": "standard"}, None),
    ],
)
def test_what_has_no_bounded_cost_is_named(fields: dict[str, Any], param: str | None) -> None:
    assert request(**fields).unbounded == param


def test_the_bound_covers_the_body_in_either_dialect() -> None:
    asked = request(messages=saying({"type": "text", "text": "x" * 5000}), new="y" * 3000)
    assert asked.input_bound(1000) >= 8000
    plain = request()
    own = request(tools=[{"type": "bash_20250124", "name": "bash"}])
    assert own.input_bound(1000) >= plain.input_bound(1000) + 2048


def test_images_count_as_images_and_not_as_text() -> None:
    source = {**PNG, "data": "A" * 90_000}
    asked = request(messages=saying({"type": "image", "source": source}))
    assert asked.images == 1
    assert asked.input_tokens < 1000
    assert 1500 <= asked.input_bound(1500) < 10_000
    assert "vision" in asked.needs


@given(st.text(), st.lists(st.text(), max_size=3))
def test_the_bound_is_never_below_the_text(system: str, texts: list[str]) -> None:
    said = [{"role": "user", "content": text} for text in texts] or HELLO
    asked = request(system=system, messages=said)
    size = len(system.encode()) + sum(len(text.encode()) for text in texts)
    assert asked.input_bound(0) >= size


# --- as it is -------------------------------------------------------------------------------------


def test_a_target_that_speaks_the_dialect_gets_the_body_as_it_is() -> None:
    said = b'"messages":[{"role":"user","content":"\\ud83d"}]'
    raw = b'{ "max_tokens":5, "new": 1.0, "model": "m",\n %b}' % said
    asked = parse(raw, {b"anthropic-beta": b"b1,b2", b"anthropic-version": b"2026-10-21"})
    told = sent(asked, speaks=frozenset({"messages"}))
    assert told.endpoint == "messages"
    assert told.body == b'{"max_tokens":5,"new":1.0,"model":"real",%b}' % said
    assert told.headers == {"anthropic-version": "2026-10-21", "anthropic-beta": "b1,b2"}
    assert sent(asked, drop_params=True).headers == {}


def test_our_tags_do_not_go_upstream() -> None:
    asked = request(metadata={"user_id": "u", "tags": ["a", "b"]})
    assert asked.tags == ("a", "b")
    assert native(asked)["metadata"] == {"user_id": "u"}


@pytest.mark.parametrize("signature", ["", "unsigned"])
def test_thinking_that_nobody_signed_does_not_go_to_anthropic(signature: str) -> None:
    unsigned = {"type": "thinking", "thinking": "Hm\ud83d", "signature": signature}
    signed = {"type": "thinking", "thinking": "Ah.", "signature": "sig"}
    said = [
        *HELLO,
        *saying(unsigned, {"type": "text", "text": "A"}, role="assistant"),
        *HELLO,
        *saying(unsigned, role="assistant"),
        *HELLO,
        *saying(signed, {"type": "text", "text": "B"}, role="assistant"),
    ]
    asked = request(messages=said)
    kept = native(asked)["messages"]
    assert [m["content"] for m in kept] == [
        "Hello",
        [{"type": "text", "text": "A"}],
        "Hello",
        "Hello",
        [signed, {"type": "text", "text": "B"}],
    ]
    assert sent(asked, speaks=frozenset({"messages"})).dropped == ("messages.thinking",)


@pytest.mark.parametrize(
    ("thinking", "reasons"),
    [
        ({"type": "adaptive"}, True),
        ({"type": "adaptive", "display": "omitted"}, True),
        ({"type": "enabled", "budget_tokens": 1024}, True),
        ({"type": "disabled"}, False),
        (None, False),
    ],
)
def test_who_thinks_as_much_as_it_likes_reasons(
    thinking: dict[str, Any] | None, reasons: bool
) -> None:
    assert request(thinking=thinking).reasons is reasons


def test_what_is_dropped_for_a_chat_is_held() -> None:
    """A cache that is only warmed takes nothing, but a chat answers with a token at least."""
    asked = request(max_tokens=0)
    assert asked.max_output_tokens == chat(asked, drop_params=True)["max_tokens"] == 1
    assert native(asked)["max_tokens"] == 0
