"""Requests for responses as the chats they stand for, and as themselves."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Unsupported
from proxy.errors import InvalidRequest
from proxy.wire.dialect import Upstream
from proxy.wire.responses import reasoning
from proxy.wire.responses.request import ResponsesRequest, parse, read

CHAT = Upstream(model="up")
NATIVE = Upstream(model="up", speaks=frozenset({"chat", "responses"}))
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "done"}


def asked(input: Any = "hi", **members: Any) -> ResponsesRequest:
    return parse(json.dumps({"model": "m", "input": input, **members}).encode())


def chat(input: Any = "hi", **members: Any) -> dict[str, Any]:
    """The chat that goes upstream."""
    sent = asked(input, **members).upstream(CHAT)
    assert sent.endpoint == "chat"
    body: dict[str, Any] = json.loads(sent.body)
    return body


def messages(*items: Any, **members: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chat(list(items), **members)["messages"]
    return found


def said(role: str, *parts: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": list(parts)}


def text(words: str, kind: str = "input_text") -> dict[str, str]:
    return {"type": kind, "text": words}


def function_call(call_id: str, name: str = "f", arguments: str = "{}") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


# --- messages -------------------------------------------------------------------------------------


def test_a_text_is_what_the_user_says() -> None:
    assert chat("hi") == {"model": "up", "messages": [{"role": "user", "content": "hi"}]}


def test_instructions_and_developers_are_one_system_message() -> None:
    found = messages(
        said("developer", text("Second")), said("user", text("hi")), instructions="First"
    )
    assert found == [
        {"role": "system", "content": "First\n\nSecond"},
        {"role": "user", "content": "hi"},
    ]


def test_a_message_needs_no_type() -> None:
    assert messages({"role": "user", "content": "hi"}) == [{"role": "user", "content": "hi"}]


def test_parts() -> None:
    (found,) = messages(
        said(
            "user",
            text("Look"),
            {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "original"},
            {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
            {"type": "input_file", "file_data": "data:application/pdf;base64,AA", "filename": "x"},
        )
    )
    assert found["content"] == [
        {"type": "text", "text": "Look"},
        {
            "type": "image_url",
            "image_url": {"url": "data:image/png;base64,AA", "detail": "high"},
        },
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA", "filename": "x"}},
    ]


def test_what_the_model_said_is_one_turn_with_its_outputs_behind_it() -> None:
    found = messages(
        said("user", text("go")),
        {"type": "reasoning", "summary": [], "content": [text("Hm", "reasoning_text")]},
        said("assistant", text("Now", "output_text")),
        CALL,
        {**CALL, "call_id": "c2"},
        said("user", text("wait")),
        {**OUTPUT, "call_id": "c2"},
        OUTPUT,
    )
    assert found == [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "content": "Now",
            "reasoning_content": "Hm",
            "tool_calls": [
                function_call("c1", arguments='{"a":1}'),
                function_call("c2", arguments='{"a":1}'),
            ],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "done"},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
        {"role": "user", "content": "wait"},
    ]


def test_calls_after_an_output_are_another_turn() -> None:
    found = messages(CALL, OUTPUT, {**CALL, "call_id": "c2"}, {**OUTPUT, "call_id": "c2"})
    assert [message["role"] for message in found] == ["assistant", "tool", "assistant", "tool"]


def test_what_the_model_said_in_pieces_is_one_message() -> None:
    found = messages(
        said("assistant", text("One", "output_text")),
        said("assistant", text("Two", "output_text")),
    )
    assert found == [{"role": "assistant", "content": "One\n\nTwo"}]
    (refused,) = messages(said("assistant", {"type": "refusal", "refusal": "No"}))
    assert refused["content"] == [{"type": "refusal", "refusal": "No"}]


def test_an_output_may_have_parts() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA"}
    found = messages(CALL, {**OUTPUT, "output": [text("see"), image]})
    assert found[1]["content"][1]["image_url"] == {"url": "data:image/png;base64,AA"}


def test_sealed_thoughts_come_back_as_they_were() -> None:
    details = [{"type": "reasoning.text", "text": "Hm", "signature": "s"}]
    item = {"type": "reasoning", "summary": [], "encrypted_content": reasoning.seal(details)}
    (found,) = messages(item, said("assistant", text("x", "output_text")))
    assert found["reasoning_details"] == details
    assert found["reasoning_content"] == "Hm"


def test_a_sealed_thought_without_a_secret_is_its_text() -> None:
    details = [{"type": "reasoning.text", "text": "Hm"}]
    item = {"type": "reasoning", "summary": [], "encrypted_content": reasoning.seal(details)}
    (found,) = messages(item, said("assistant", text("x", "output_text")))
    assert found == {"role": "assistant", "content": "x", "reasoning_content": "Hm"}


def test_what_belongs_to_a_call_comes_back_with_it() -> None:
    extra = {"google": {"thought_signature": "sig"}}
    kept = [{"type": "tool_call", "id": "c1", "extra_content": extra}]
    item = {"type": "reasoning", "summary": [], "encrypted_content": reasoning.seal(kept)}
    for items in ((item, CALL), (CALL, item)):
        (found,) = messages(*items)
        assert found["tool_calls"][0]["extra_content"] == extra


def test_thoughts_that_another_sealed_are_left_out_and_told() -> None:
    item = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    sent = asked([item, said("user", text("hi"))]).upstream(CHAT)
    assert json.loads(sent.body)["messages"] == [{"role": "user", "content": "hi"}]
    assert sent.dropped == ("input[0].encrypted_content",)


@pytest.mark.parametrize(
    "sealed",
    [
        "tw1.",
        "tw1.!!!",
        "tw1." + base64.urlsafe_b64encode(b"[1]").decode(),
        "tw1." + base64.urlsafe_b64encode(b"{").decode(),
        "tw1." + base64.urlsafe_b64encode(b"[" * 100_000).decode(),
    ],
)
def test_what_is_sealed_wrongly_is_no_crash(sealed: str) -> None:
    item = {"type": "reasoning", "summary": [], "encrypted_content": sealed}
    assert asked([item, said("user", text("hi"))]).upstream(CHAT).dropped


# --- tools ----------------------------------------------------------------------------------------


def test_functions() -> None:
    found = chat(tools=[FUNCTION], tool_choice={"type": "function", "name": "f"})
    function = {"name": "f", "parameters": {"type": "object"}, "strict": True}
    assert found["tools"] == [{"type": "function", "function": function}]
    assert found["tool_choice"] == {"type": "function", "function": {"name": "f"}}


def test_a_custom_tool_is_a_function_with_one_text() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: x"}
    tool = {"type": "custom", "name": "patch", "description": "Patches", "format": grammar}
    call = {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": 'a "b"'}
    output = {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"}
    body = chat([call, output], tools=[tool])
    function = body["tools"][0]["function"]
    assert function["parameters"]["required"] == ["input"]
    assert "Patches" in function["description"] and "start: x" in function["description"]
    said_call, said_output = body["messages"]
    arguments = said_call["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"input": 'a "b"'}
    assert said_output == {"role": "tool", "tool_call_id": "c", "content": "ok"}


def test_tools_that_stand_among_the_items() -> None:
    space = {"type": "namespace", "name": "ns", "description": "", "tools": [FUNCTION]}
    found = chat(
        [
            {"type": "additional_tools", "role": "developer", "tools": [space]},
            said("user", text("hi")),
            {**CALL, "namespace": "ns"},
            {"type": "tool_search_call", "call_id": "s", "arguments": {"query": "x"}},
            {"type": "tool_search_output", "call_id": "s", "tools": [{**FUNCTION, "name": "g"}]},
        ],
        tools=[{"type": "tool_search", "execution": "client", "parameters": {}}],
    )
    names = [tool["function"]["name"] for tool in found["tools"]]
    assert names == ["tool_search", "ns__f", "g"]
    calls = found["messages"][1]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["ns__f", "tool_search"]
    assert json.loads(calls[1]["function"]["arguments"]) == {"query": "x"}
    assert json.loads(found["messages"][2]["content"])[0]["name"] == "g"


def test_allowed_tools_are_the_only_ones() -> None:
    allowed = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "g"}],
    }
    found = chat(tools=[FUNCTION, {**FUNCTION, "name": "g"}], tool_choice=allowed)
    assert [tool["function"]["name"] for tool in found["tools"]] == ["g"]
    assert found["tool_choice"] == "required"


def test_a_choice_without_tools_is_left_out() -> None:
    assert "tool_choice" not in chat(tool_choice="auto", parallel_tool_calls=False)


# --- parameters -----------------------------------------------------------------------------------


def test_parameters() -> None:
    schema = {"name": "A", "schema": {"type": "object"}, "strict": True}
    found = chat(
        max_output_tokens=50,
        temperature=0.5,
        top_p=0.9,
        parallel_tool_calls=False,
        tools=[FUNCTION],
        reasoning={"effort": "low", "summary": "auto"},
        text={"verbosity": "low", "format": {"type": "json_schema", **schema}},
        top_logprobs=2,
        include=["message.output_text.logprobs"],
        service_tier="flex",
        user="u",
    )
    del found["messages"], found["tools"]
    assert found == {
        "model": "up",
        "max_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.9,
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "verbosity": "low",
        "response_format": {"type": "json_schema", "json_schema": schema},
        "logprobs": True,
        "top_logprobs": 2,
        "service_tier": "flex",
        "user": "u",
    }


def test_hints_are_left_out() -> None:
    found = chat(
        metadata={"a": "b"},
        store=False,
        prompt_cache_key="k",
        safety_identifier="s",
        include=["reasoning.encrypted_content"],
        truncation="disabled",
        client_metadata={"x": "y"},
        stream_options={"include_obfuscation": False},
        background=False,
        conversation=None,
        prompt=None,
    )
    assert found == chat()


def test_a_stream_asks_for_its_usage() -> None:
    assert chat(stream=True)["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "local_shell"}]}, "tools[0].type"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"top_k": 5}, "top_k"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        (
            {"input": [said("user", {"type": "input_image", "file_id": "f"})]},
            "input[0].content[0].file_id",
        ),
        (
            {"input": [said("user", {"type": "input_file", "file_url": "http://x"})]},
            "input[0].content[0].file_url",
        ),
        ({"input": [{"type": "computer_call", "call_id": "c"}]}, "input[0].type"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "mcp"}}, "tool_choice"),
    ],
)
def test_what_no_chat_can_say_is_refused_by_name(members: dict[str, Any], param: str) -> None:
    request = asked(**{"input": "hi", **members})
    with pytest.raises(Unsupported) as refused:
        request.upstream(CHAT)
    assert refused.value.param == param
    dropping = Upstream(model="up", drop_params=True)
    assert param in request.upstream(dropping).dropped
    sent = request.upstream(NATIVE)
    for name, value in members.items():
        assert json.loads(sent.body)[name] == value


@pytest.mark.parametrize(
    ("members", "unbounded"),
    [
        ({"tools": [FUNCTION, {"type": "web_search"}]}, "tools[1].type"),
        ({"prompt": {"id": "p"}}, "prompt"),
        (
            {"input": [said("user", {"type": "input_file", "file_url": "x"})]},
            "input[0].content[0].file_url",
        ),
        (
            {"input": [said("user", {"type": "input_file", "file_id": "x"})]},
            "messages[0].content[0].file",
        ),
        ({"models": ["a"]}, "models"),
        ({"tools": [FUNCTION]}, None),
    ],
)
def test_costs_without_a_bound_are_named(members: dict[str, Any], unbounded: str | None) -> None:
    request = asked(**{"input": "hi", **members})
    assert request.unbounded_at(NATIVE.speaks) == unbounded


def test_what_a_chat_is_never_told_costs_nothing_there() -> None:
    request = asked(tools=[{"type": "web_search"}])
    assert request.unbounded_at(NATIVE.speaks) == "tools[0].type"
    assert request.unbounded_at(CHAT.speaks) is None
    file = {"type": "input_file", "file_id": "x"}
    assert asked([said("user", file)]).unbounded_at(CHAT.speaks) is not None


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"input": 7}, "input"),
        ({"input": []}, "input"),
        ({"input": [7]}, "input[0]"),
        ({"input": [{"type": "function_call"}]}, "input[0].call_id"),
        ({"input": [said("user", {"type": 1})]}, "input[0].content[0].type"),
        ({"input": [said("wizard", text("x"))]}, "input[0].role"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"model": ""}, "model"),
        ({"text": {"format": {"type": "json_schema", "strict": 3}}}, "text.format.strict"),
        ({"metadata": {"tags": 3}}, "metadata.tags"),
    ],
)
def test_wrong_requests_name_the_parameter(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asked(**{"input": "hi", **members})
    assert refused.value.param == param


# --- as itself ------------------------------------------------------------------------------------


def test_a_provider_gets_it_as_it_is_but_for_what_is_kept_here() -> None:
    raw = (
        b'{"model":"m","input":"hi \\ud83d","x":1.0,"previous_response_id":null,'
        b'"metadata":{"a":"b"}}'
    )
    sent = parse(raw).upstream(NATIVE)
    assert sent.endpoint == "responses"
    assert sent.body == (
        b'{"model":"up","input":"hi \\ud83d","x":1.0,"metadata":{"a":"b"},"store":false}'
    )


def test_a_provider_is_asked_for_what_keeps_thoughts_over_turns() -> None:
    sent = asked(reasoning={"effort": "low"}).upstream(NATIVE)
    assert json.loads(sent.body)["include"] == ["reasoning.encrypted_content"]
    assert "include" not in json.loads(asked().upstream(NATIVE).body)
    stateless = asked(reasoning={"effort": "low"}, store=False).upstream(NATIVE)
    assert "include" not in json.loads(stateless.body)


def test_a_provider_gets_the_whole_history_but_for_what_only_we_can_read() -> None:
    sealed = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "tw1.W10="}
    theirs = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAA"}
    empty = {"type": "reasoning", "id": "rs_3", "summary": []}
    request = read(
        json.dumps({"model": "m", "input": "and?", "previous_response_id": "resp_1"}).encode()
    ).resolved([msgspec.Raw(json.dumps(item).encode()) for item in (sealed, theirs, empty, CALL)])
    sent = request.upstream(NATIVE)
    body = json.loads(sent.body)
    assert body["input"] == [theirs, CALL, said("user", text("and?"))]
    assert "previous_response_id" not in body
    assert sent.dropped == ("previous_response_id", "previous_response_id")


def test_money_bounds_go_to_a_provider() -> None:
    capped = Upstream(model="up", speaks=NATIVE.speaks, clamp=10)
    assert json.loads(asked(max_output_tokens=50).upstream(capped).body)["max_output_tokens"] == 10
    default = Upstream(model="up", speaks=NATIVE.speaks, default_max=99)
    assert json.loads(asked().upstream(default).body)["max_output_tokens"] == 99
    sent = asked(max_output_tokens=50).upstream(default)
    assert json.loads(sent.body)["max_output_tokens"] == 50


def test_money_bounds_go_to_a_chat() -> None:
    capped = Upstream(model="up", max_tokens_field="max_completion_tokens", clamp=10)
    assert (
        json.loads(asked(max_output_tokens=50).upstream(capped).body)["max_completion_tokens"] == 10
    )
    default = Upstream(model="up", default_max=99)
    assert json.loads(asked().upstream(default).body)["max_tokens"] == 99
    assert asked(max_output_tokens=50).max_output_tokens == 50


def test_the_bound_covers_what_no_chat_has() -> None:
    long = "x" * 10_000
    request = asked(tools=[{"type": "web_search", "filters": {"allowed_domains": [long]}}])
    assert request.input_bound(0) >= 10_000


def test_tools_that_are_not_allowed_are_in_the_bound_as_if_they_were() -> None:
    tools = [{**FUNCTION, "description": "d" * 10_000}, {**FUNCTION, "name": "g"}]
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": ""}]}
    request = asked(tools=tools, tool_choice=allowed)
    assert request.input_bound(0) >= asked(tools=tools).input_bound(0)
    allowed["tools"] = [{"type": "function", "name": "g"}]
    request = asked(tools=tools, tool_choice=allowed)
    assert request.input_bound(0) >= asked(tools=tools).input_bound(0)


@pytest.mark.parametrize(
    ("members", "unbounded"),
    [
        (
            {
                "input": [
                    {
                        "type": "computer_call_output",
                        "call_id": "c",
                        "output": {"type": "computer_screenshot", "image_url": "https://x/y.png"},
                    }
                ]
            },
            "input[0].type",
        ),
        ({"input": [{"type": "image_generation_call", "id": "ig_1"}]}, "input[0].type"),
        ({"instructions": [{"role": "user", "content": []}]}, "instructions"),
    ],
)
def test_what_may_hold_an_image_has_no_bound(members: dict[str, Any], unbounded: str) -> None:
    assert asked(**members).unbounded_at(NATIVE.speaks) == unbounded


def test_tags_are_ours() -> None:
    request = asked(metadata={"tags": ["a"], "b": "c"})
    assert request.tags == ("a",)
    assert json.loads(request.upstream(NATIVE).body)["metadata"] == {"b": "c"}


def test_references_are_found_and_resolved() -> None:
    raw = {
        "model": "m",
        "input": [{"type": "item_reference", "id": "fc_1"}, {"id": "fc_2"}, OUTPUT],
    }
    request = read(json.dumps(raw).encode())
    assert request.references() == {0: "fc_1", 1: "fc_2"}
    item = msgspec.Raw(json.dumps(CALL).encode())
    other = msgspec.Raw(json.dumps({**CALL, "call_id": "c2"}).encode())
    sent = request.resolved(referred={0: item, 1: other}).upstream(NATIVE)
    assert json.loads(sent.body)["input"] == [CALL, {**CALL, "call_id": "c2"}, OUTPUT]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
_types = st.sampled_from(
    [
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "reasoning",
        "tool_search_call",
        "tool_search_output",
        "additional_tools",
        "item_reference",
    ]
)
_names = st.sampled_from(
    [
        "role",
        "content",
        "call_id",
        "name",
        "arguments",
        "input",
        "output",
        "summary",
        "encrypted_content",
        "tools",
        "id",
    ]
)
_items = st.builds(
    lambda kind, rest: {"type": kind, **rest}, _types, st.dictionaries(_names, _json, max_size=5)
)
_members = st.dictionaries(
    st.sampled_from(
        [
            "tools",
            "tool_choice",
            "text",
            "reasoning",
            "include",
            "stream",
            "store",
            "metadata",
            "instructions",
            "prompt",
        ]
    ),
    _json,
    max_size=3,
)


@given(items=st.lists(_items | _json, max_size=4), members=_members)
def test_any_shape_is_read_or_refused(items: list[Any], members: dict[str, Any]) -> None:
    raw = json.dumps({"model": "m", "input": items, **members}).encode()
    try:
        request = read(raw)
        request.references()
        resolved = request.resolved()
        json.loads(resolved.upstream(NATIVE).body)
        json.loads(resolved.upstream(Upstream(model="up", drop_params=True)).body)
    except InvalidRequest as error:
        assert error.param is not None


_turns = st.lists(
    st.one_of(
        st.tuples(st.just("user"), st.text(min_size=1, max_size=5)),
        st.tuples(st.just("assistant"), st.text(min_size=1, max_size=5)),
        st.tuples(st.just("call"), st.text(min_size=1, max_size=5)),
    ),
    min_size=1,
    max_size=8,
)


@given(turns=_turns)
def test_nothing_that_was_said_is_lost(turns: list[tuple[str, str]]) -> None:
    items: list[dict[str, Any]] = []
    for number, (kind, words) in enumerate(turns):
        if kind == "call":
            items.append({**CALL, "call_id": f"c{number}", "arguments": words})
            items.append({**OUTPUT, "call_id": f"c{number}", "output": words})
        else:
            part = text(words, "output_text" if kind == "assistant" else "input_text")
            items.append(said(kind, part))
    found: list[tuple[str, str]] = []
    open_calls: list[str] = []
    for message in messages(*items):
        if message["role"] == "tool":
            assert open_calls.pop(0) == message["tool_call_id"]
            continue
        assert not open_calls, "the outputs follow their calls at once"
        if message["content"]:
            found.append((message["role"], message["content"]))
        for call in message.get("tool_calls", ()):
            open_calls.append(call["id"])
            found.append(("call", call["function"]["arguments"]))
    expected: list[tuple[str, str]] = []
    for kind, words in turns:
        if kind == "assistant" and expected and expected[-1][0] == kind:
            expected[-1] = (kind, f"{expected[-1][1]}\n\n{words}")
        else:
            expected.append((kind, words))
    assert found == expected


def test_what_belongs_to_calls_is_found_at_once() -> None:
    many = 20_000
    calls = [{**CALL, "call_id": f"c{n}"} for n in range(many)]
    entries = [
        {"type": reasoning.CALL, "id": f"c{many - 1}", "extra_content": {"n": n}}
        for n in range(many)
    ]
    thought = {"type": "reasoning", "summary": [], "encrypted_content": reasoning.seal(entries)}
    body = json.dumps({"model": "m", "input": [*calls, thought]}).encode()
    began = time.process_time()
    request = parse(body)
    assert time.process_time() - began < 4  # looking through all calls took a minute
    assert json.loads(request.upstream(CHAT).body)["messages"][0]["tool_calls"][-1] == {
        **function_call(f"c{many - 1}", arguments='{"a":1}'),
        "extra_content": {"n": many - 1},
    }
