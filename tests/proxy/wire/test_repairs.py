"""Whole chat answers: what SDKs choke on is put right, and nothing else is written anew."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from adapters.base import AdapterError
from proxy.wire.answers import read_chat
from proxy.wire.dialect import Identity
from proxy.wire.repairs import repaired

IDENTITY = Identity(request_id="req-0123456789ab", model="up-model", created=1_700_000_001)
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
MESSAGE = {"role": "assistant", "content": "Hello"}
FUNCTION = {"name": "f", "arguments": '{"a":1}'}
CALL = {"id": "call_1", "type": "function", "function": FUNCTION}
CUSTOM = {"id": "call_2", "type": "custom", "custom": {"name": "g", "input": ""}}


def choice(*, without: str = "", **changes: Any) -> dict[str, Any]:
    made = {"index": 0, "message": MESSAGE, "logprobs": None, "finish_reason": "stop", **changes}
    return {name: value for name, value in made.items() if name != without}


def answer(*, without: str = "", **changes: Any) -> dict[str, Any]:
    made = {
        "id": "chatcmpl-up",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "theirs",
        "choices": [choice()],
        "usage": USAGE,
        **changes,
    }
    return {name: value for name, value in made.items() if name != without}


def calling(*calls: Any, finish: object = "tool_calls") -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "tool_calls": list(calls)}
    return answer(choices=[choice(message=message, finish_reason=finish)])


def repair(sent: object) -> Any:
    body = json.dumps(sent).encode()
    read_chat(body)
    fixed = repaired(body, IDENTITY)
    assert fixed is not None
    # What was put right is right, and the SDK's own type says so.
    assert repaired(fixed, IDENTITY) == fixed
    ChatCompletion.model_validate_json(fixed)
    return json.loads(fixed)


@pytest.mark.parametrize(
    "sent",
    [
        answer(),
        answer(usage=None),
        answer(choices=[choice(without="logprobs")]),
        answer(choices=[choice(logprobs={"content": [], "refusal": None})]),
        answer(choices=[choice(index=1), choice(index=0, finish_reason="length")]),
        answer(choices=[choice(message={**MESSAGE, "reasoning_content": "…", "tool_calls": []})]),
        calling(CALL, CUSTOM),
        calling(CALL, finish="length"),
    ],
)
@pytest.mark.parametrize("spaces", [None, (" , ", " : ")])
def test_an_answer_that_is_right_keeps_every_byte(sent: Any, spaces: Any) -> None:
    body = json.dumps({"x": 1.0, **sent}, separators=spaces).encode()
    assert repaired(body, IDENTITY) == body


def test_lone_surrogates_alone_are_no_reason_to_write_anew() -> None:
    body = json.dumps(answer(choices=[choice(message={**MESSAGE, "content": "\ud83d"})])).encode()
    assert repaired(body, IDENTITY) == body
    assert repaired(body.replace(b'"theirs"', b'"\\udead"'), IDENTITY) is not None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("id", "chatcmpl-req-0123456789ab"),
        ("object", "chat.completion"),
        ("created", 1_700_000_001),
        ("model", "up-model"),
    ],
)
@pytest.mark.parametrize("said", ["missing", None, "", [], {}, 1.5])
def test_an_identity_that_is_missing_or_odd_is_filled_in(
    name: str, expected: object, said: object
) -> None:
    sent = answer(without=name) if said == "missing" else answer(**{name: said})
    assert repair(sent) == answer(**{name: expected})


@pytest.mark.parametrize(
    ("said", "has_calls", "expected"),
    [
        ("eos", False, "stop"),
        ("STOP", False, "stop"),
        ("", False, "stop"),
        (None, False, "stop"),
        (7, False, "stop"),
        ("max_tokens", False, "length"),
        ("end_turn", True, "tool_calls"),
        ("stop", True, "tool_calls"),
        (None, True, "tool_calls"),
        ("SAFETY", True, "content_filter"),
    ],
)
def test_finish_reasons_are_openais(said: object, has_calls: bool, expected: str) -> None:
    sent = calling(CALL, finish=said) if has_calls else answer(choices=[choice(finish_reason=said)])
    assert repair(sent)["choices"][0]["finish_reason"] == expected


@pytest.mark.parametrize("reason", ["error", "aborted", "network_error"])
def test_an_answer_that_broke_off_is_none(reason: str) -> None:
    body = json.dumps(answer(choices=[choice(finish_reason=reason)])).encode()
    assert repaired(body, IDENTITY) is None


PREFIX = "call_0123456789ab_0_"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ([{"function": FUNCTION}], [{**CALL, "id": f"{PREFIX}0"}]),
        ([{**CALL, "id": None}], [{**CALL, "id": f"{PREFIX}0"}]),
        ([{**CALL, "id": ""}], [{**CALL, "id": f"{PREFIX}0"}]),
        ([CALL, CALL], [CALL, {**CALL, "id": f"{PREFIX}1"}]),
        ([{**CALL, "type": None}], [CALL]),
        ([{**CALL, "function": {"name": "f", "arguments": {"a": 1}}}], [CALL]),
        (
            [{**CALL, "function": {"name": "f", "arguments": ""}}],
            [{**CALL, "function": {"name": "f", "arguments": "{}"}}],
        ),
        (
            [{**CALL, "function": {"name": "f"}, "extra_content": {"x": 1}}],
            [
                {
                    **CALL,
                    "function": {"name": "f", "arguments": "{}"},
                    "extra_content": {"x": 1},
                }
            ],
        ),
        ([{**CUSTOM, "type": "function"}, None, "x"], [CUSTOM]),
    ],
)
def test_tool_calls_are_openais(sent: list[Any], expected: list[Any]) -> None:
    assert repair(calling(*sent))["choices"][0]["message"]["tool_calls"] == expected


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ([choice(without="index")], [choice()]),
        ([choice(index=None)], [choice()]),
        ([choice(), choice()], [choice(), choice(index=1)]),
        ([choice(index=1), choice(without="index")], [choice(index=1), choice(index=2)]),
        ([choice(message={"content": "Hello"})], [choice()]),
        ([choice(message={**MESSAGE, "role": "model"})], [choice()]),
        (
            [choice(message={"role": "assistant"})],
            [choice(message={"role": "assistant", "content": None})],
        ),
        ([choice(logprobs={"content": []})], [choice(logprobs={"content": [], "refusal": None})]),
    ],
)
def test_choices_are_openais(sent: list[Any], expected: list[Any]) -> None:
    assert repair(answer(choices=sent))["choices"] == expected


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 2}, USAGE),
        ({"prompt_tokens": 3, "total_tokens": 5, "cost": 0.1}, {**USAGE, "cost": 0.1}),
        ({**USAGE, "completion_tokens": None}, USAGE),
        ({**USAGE, "total_tokens": None}, USAGE),
        ("none", None),
        (None, None),
    ],
)
def test_usage_has_the_three_counts(sent: object, expected: object) -> None:
    body = json.dumps(answer(usage=sent)).encode()
    fixed = repaired(body, IDENTITY)
    assert fixed is not None
    assert json.loads(fixed)["usage"] == expected


def test_what_is_right_beside_what_is_wrong_keeps_its_bytes() -> None:
    right = b'{"index" : 0, "message":{"role":"assistant","content":"\\u00e9", "x":1.0},'
    right += b'"finish_reason":"stop"}'
    wrong = b'{"message":{"content":"Hello"}}'
    body = b'{"choices":[%b , %b], "score": 1.50, "n": 12345678901234567890}' % (right, wrong)
    fixed = repaired(body, IDENTITY)
    assert fixed is not None
    assert right in fixed
    assert b'"score":1.50,"n":12345678901234567890' in fixed
    assert [c["index"] for c in json.loads(fixed)["choices"]] == [0, 1]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=3)
    | st.sampled_from(["stop", "function", "assistant", "call_1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["id", "type", "function", "name", "arguments", "custom", "role",
                         "content", "tool_calls", "x"]), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@given(
    st.lists(
        st.fixed_dictionaries(
            {"message": st.dictionaries(st.sampled_from(["role", "tool_calls", "x"]), json_values)},
            optional={"index": json_values, "finish_reason": json_values, "logprobs": json_values},
        ),
        min_size=1,
        max_size=3,
    ),
    st.fixed_dictionaries({}, optional=dict.fromkeys(["id", "created", "usage"], json_values)),
)
def test_whatever_a_provider_says_comes_out_canonical(choices: list[Any], more: Any) -> None:
    body = json.dumps({**more, "choices": choices}).encode()
    try:
        read_chat(body)
    except AdapterError:
        return
    fixed = repaired(body, IDENTITY)
    assert fixed is not None
    assert repaired(fixed, IDENTITY) == fixed
    said = json.loads(fixed)
    assert len({c["index"] for c in said["choices"]}) == len(choices)
    for one in said["choices"]:
        for call in one["message"].get("tool_calls") or ():
            assert json.loads(json.dumps(call["id"])) and call["type"] in ("function", "custom")
            assert isinstance(call[call["type"]]["name"], str)
