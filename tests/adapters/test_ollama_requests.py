"""OpenAI's requests in Ollama's words."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import BadRequest, Call, Deadlines, Endpoint, Unsupported
from adapters.wire.ollama_request import Translated, to_chat, to_embed, to_generate
from tests.adapters.shapes import damaged

Json = dict[str, Any]

QUESTION = [{"role": "user", "content": "Hi"}]


def call(
    body: object, *, endpoint: Endpoint = "chat", stream: bool = True, drop_params: bool = False
) -> Call:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Call(
        endpoint=endpoint,
        model="m",
        body=text,
        stream=stream,
        deadlines=Deadlines(),
        drop_params=drop_params,
    )


def translate(members: Json, **more: Any) -> Translated:
    return to_chat(call({"messages": QUESTION, **members}, **more))


def chat(members: Json, **more: Any) -> Json:
    body: Json = json.loads(translate(members, **more).body(None))
    return body


def messages(*given: Json) -> list[Json]:
    found: list[Json] = chat({"messages": list(given)})["messages"]
    return found


def test_a_chat_is_never_cut_in_silence() -> None:
    assert chat({}) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "truncate": False,
        "shift": False,
        "options": {},
    }
    assert chat({}, stream=False)["stream"] is False
    assert chat({"truncate": True, "shift": True})["truncate"] is True


def test_parameters_are_options() -> None:
    assert chat(
        {
            "temperature": 0,
            "top_p": 0.5,
            "top_k": 3,
            "min_p": 0.1,
            "seed": 7,
            "stop": "x",
            "max_tokens": 9,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
            "repetition_penalty": 1.5,
            "options": {"mirostat": 1, "temperature": 0.25},
        }
    )["options"] == {
        "temperature": 0.25,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "seed": 7,
        "stop": ["x"],
        "num_predict": 9,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repeat_penalty": 1.5,
        "mirostat": 1,
    }


def test_ollamas_own_members_pass() -> None:
    body = chat({"keep_alive": "5m", "think": "low", "logprobs": True, "top_logprobs": 2})
    assert body["keep_alive"] == "5m"
    assert body["think"] == "low"
    assert body["logprobs"] is True
    assert body["top_logprobs"] == 2


@pytest.mark.parametrize(
    ("members", "think"),
    [
        ({}, None),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, "low"),
        ({"reasoning_effort": "high"}, "high"),
        ({"reasoning_effort": "xhigh"}, "max"),
        ({"reasoning": {"effort": "medium"}}, "medium"),
        ({"reasoning": {"enabled": True}}, True),
        ({"reasoning": {"enabled": False}}, False),
        ({"reasoning": {"max_tokens": 100}}, True),
    ],
)
def test_effort_is_how_to_think(members: Json, think: object) -> None:
    assert chat(members).get("think") == think


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, "json"),
        (
            {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
            {"type": "object"},
        ),
    ],
)
def test_the_format_of_an_answer(wanted: Json, expected: object) -> None:
    assert chat({"response_format": wanted}).get("format") == expected


# --- messages -------------------------------------------------------------------------------------


def test_images_and_sounds_stand_beside_the_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    sound = {"type": "input_audio", "input_audio": {"data": "BBBB", "format": "wav"}}
    texts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages({"role": "user", "content": [texts[0], image, texts[1], sound]}) == [
        {"role": "user", "content": "a\nb", "images": ["AAAA", "BBBB"]}
    ]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://a/b.png"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,QQ=="}},
        {"type": "novelty"},
    ],
)
def test_a_part_that_cannot_be_carried_is_named(part: Json) -> None:
    members = {"messages": [{"role": "user", "content": [part]}]}
    with pytest.raises(Unsupported) as caught:
        translate(members)
    assert caught.value.param == "messages[0].content[0]"
    assert translate(members, drop_params=True).dropped == ["messages[0].content[0]"]


def test_calls_are_objects_and_results_have_the_names_of_their_functions() -> None:
    function = {"name": "f", "arguments": '{"x": 1}'}
    found = messages(
        {"role": "developer", "content": "Be"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [{"id": "a", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "5"},
    )
    called = {"index": 0, "name": "f", "arguments": {"x": 1}}
    assert found == [
        {"role": "system", "content": "Be"},
        {
            "role": "assistant",
            "content": "",
            "thinking": "hm",
            "tool_calls": [{"id": "a", "function": called}],
        },
        {"role": "tool", "content": "5", "tool_name": "f", "tool_call_id": "a"},
    ]


# --- tools ----------------------------------------------------------------------------------------

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("auto", ["f", "g"]),
        ("none", None),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": TOOLS[1:]}}, ["g"]),
    ],
)
def test_the_model_chooses_among_the_functions_it_is_told(
    choice: object, names: list[str] | None
) -> None:
    tools = chat({"tools": TOOLS, "tool_choice": choice}).get("tools")
    assert (tools and [tool["function"]["name"] for tool in tools]) == names


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"tools": [{"type": "custom"}]}, "tools[0]"),
        ({"n": 2}, "n"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"novelty": 1}, "novelty"),
    ],
)
def test_what_ollama_lacks_is_refused_or_left_out_and_named(members: Json, param: str) -> None:
    with pytest.raises(Unsupported) as caught:
        translate(members)
    assert caught.value.param == param
    assert translate(members, drop_params=True).dropped == [param]


# --- the context it needs -------------------------------------------------------------------------


def needs(members: Json) -> int | None:
    return translate(members).needs_context


def test_what_is_said_and_what_may_be_answered_need_room() -> None:
    least = needs({"max_tokens": 10})
    assert least is not None
    text = {"role": "user", "content": "ä" * 3000}
    assert needs({"messages": [text, *QUESTION], "max_tokens": 10}) == least + 2000
    assert needs({"max_tokens": 510}) == least + 500
    assert needs({"max_tokens": 10**6}) == least - 10 + 8192
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}
    seen = [*QUESTION, {"role": "user", "content": [image]}]
    assert needs({"messages": seen, "max_tokens": 10}) == least + 1024


@pytest.mark.parametrize("members", [{"num_ctx": 512}, {"options": {"num_ctx": 512}}])
def test_the_clients_own_word_stands(members: Json) -> None:
    translated = translate(members)
    assert translated.needs_context is None
    assert json.loads(translated.body(None))["options"] == {"num_ctx": 512}


def test_what_was_chosen_goes_into_the_options() -> None:
    assert json.loads(translate({}).body(8192))["options"] == {"num_ctx": 8192}


# --- completions and embeddings -------------------------------------------------------------------


def test_a_completion_continues_a_text() -> None:
    body = {"prompt": ["Once"], "suffix": "end", "max_tokens": 5, "logprobs": 3}
    translated = to_generate(call(body, stream=False))
    assert json.loads(translated.body(None)) == {
        "model": "m",
        "prompt": "Once",
        "stream": False,
        "truncate": False,
        "shift": False,
        "options": {"num_predict": 5},
        "suffix": "end",
        "logprobs": True,
        "top_logprobs": 3,
    }


@pytest.mark.parametrize(("asked", "told"), [(0, 0), (2, 2), (None, None)])
def test_a_completion_tells_likelihoods_if_asked(asked: int | None, told: int | None) -> None:
    body = {"prompt": "a", "logprobs": asked, "echo": False, "best_of": 1, "n": 1}
    made = json.loads(to_generate(call(body)).body(None))
    assert made.get("top_logprobs") == told


@pytest.mark.parametrize("prompt", [["a", "b"], [1, 2], [[1]]])
def test_a_completion_is_of_one_text(prompt: object) -> None:
    with pytest.raises(Unsupported) as caught:
        to_generate(call({"prompt": prompt}))
    assert caught.value.param == "prompt"


def test_embeddings_are_not_cut_either() -> None:
    body = {"input": ["a", "b" * 3000], "dimensions": 8, "encoding_format": "base64"}
    translated = to_embed(call(body, stream=False))
    assert translated.needs_context == 1000 + 256
    assert json.loads(translated.body(None)) == {
        "model": "m",
        "input": ["a", "b" * 3000],
        "truncate": False,
        "options": {},
        "dimensions": 8,
    }


@pytest.mark.parametrize("tokens", [[1, 2], [[1], [2]]])
def test_token_ids_cannot_be_embedded(tokens: object) -> None:
    with pytest.raises(Unsupported) as caught:
        to_embed(call({"input": tokens}, drop_params=True))
    assert caught.value.param == "input"


# --- any request ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": [{"role": "wizard"}]}, "messages[0].role"),
        ({"options": []}, "options"),
        ({"num_ctx": "big"}, "num_ctx"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_a_wrong_type_is_named(members: Json, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        translate(members)
    assert caught.value.param == param


_ASKED: Json = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "x"},
                {"type": "image_url", "image_url": {"url": "data:a/b;base64,AAAA"}},
            ],
        },
        {
            "role": "assistant",
            "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}],
            "images": [{"image_url": {"url": "data:a/b;base64,AAAA"}}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "5"},
    ],
    "tools": TOOLS,
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": TOOLS}},
    "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
    "reasoning": {"effort": "low"},
    "options": {"num_ctx": 5},
    "stop": ["a"],
    "keep_alive": "5m",
    "logprobs": 1,
    "prompt": "a",
    "input": ["a"],
}


@given(damaged(_ASKED), st.booleans())
def test_no_shape_of_a_request_is_more_than_a_refusal(asked: object, drop_params: bool) -> None:
    for translate in (to_chat, to_generate, to_embed):
        try:
            assert translate(call(asked, drop_params=drop_params)).body(5)
        except (BadRequest, Unsupported) as refusal:
            assert refusal.message


@pytest.mark.parametrize("depth", [100, 900, 2000, 100_000])
def test_what_is_nested_too_deeply_is_refused(depth: int) -> None:
    arguments = '{"a":' * depth + "1" + "}" * depth
    calls = [{"id": "a", "function": {"name": "f", "arguments": arguments}}]
    try:
        assert chat({"messages": [{"role": "assistant", "tool_calls": calls}]})
    except BadRequest as refusal:
        assert depth > 100 and refusal.status == 400


def test_a_surrogate_that_stands_alone_survives() -> None:
    translated = to_chat(call(b'{"messages":[{"role":"user","content":"a\\ud83d"}]}'))
    assert json.loads(translated.body(None))["messages"][0]["content"] == "a\ud83d"


def test_the_options_do_not_raise_the_maximum_that_is_held() -> None:
    asked = {"max_tokens": 5, "options": {"num_predict": -1, "mirostat": 1}}
    assert chat(asked)["options"] == {"num_predict": 5, "mirostat": 1}
    assert chat({"options": {"num_predict": 7}})["options"] == {"num_predict": 7}


def test_many_results_are_sorted_at_once() -> None:
    calls = [{"id": f"c{i}", "function": {"name": "f", "arguments": "{}"}} for i in range(20_000)]
    results = [{"role": "tool", "tool_call_id": f"c{i}", "content": ""} for i in range(20_000)]
    began = time.process_time()
    found = messages({"role": "assistant", "tool_calls": calls}, *reversed(results))
    assert time.process_time() - began < 2
    assert [m["tool_call_id"] for m in found[1:]] == [f"c{i}" for i in range(20_000)]


def test_arguments_that_were_cut_off_go_back_as_they_are() -> None:
    calls = [{"id": "a", "function": {"name": "f", "arguments": '{"x": "ab'}}]
    asked = translate({"messages": [*QUESTION, {"role": "assistant", "tool_calls": calls}]})
    sent = json.loads(asked.body(None))["messages"][1]["tool_calls"][0]["function"]
    assert sent["arguments"] == {"arguments": '{"x": "ab'}
    assert asked.dropped == ["messages[1].tool_calls[0].function.arguments"]


def test_many_allowed_tools_are_picked_at_once() -> None:
    tools = [{"type": "function", "function": {"name": f"f{i}"}} for i in range(20_000)]
    allowed = {"mode": "auto", "tools": tools[1:]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    began = time.process_time()
    assert len(chat({"tools": tools, "tool_choice": choice})["tools"]) == 19_999
    assert time.process_time() - began < 1


def test_what_ollama_does_not_hold_to_is_told() -> None:
    tools = [{"type": "function", "function": {"name": "f", "strict": True}}]
    assert translate({"tools": tools}).dropped == ["tools[].function.strict"]
    assert translate({"include_reasoning": False}).dropped == ["include_reasoning"]
    assert translate({"include_reasoning": True}).dropped == []
