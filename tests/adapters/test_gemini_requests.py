"""OpenAI's requests in Gemini's words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import BadRequest, Call, Deadlines, Unsupported
from adapters.wire.gemini_request import Translated, clean_schema, to_batch_embed, to_generate
from tests.adapters.shapes import damaged

Json = dict[str, Any]

PNG = "data:image/png;base64,AAAA"
QUESTION = [{"role": "user", "content": "Hi"}]


def call(body: object, *, model: str = "gemini-3.8-flash", drop_params: bool = False) -> Call:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Call(
        endpoint="chat",
        model=model,
        body=text,
        stream=False,
        deadlines=Deadlines(),
        drop_params=drop_params,
    )


def translate(members: Json, **more: Any) -> Translated:
    return to_generate(call({"messages": QUESTION, **members}, **more))


def generated(members: Json, **more: Any) -> Json:
    body: Json = json.loads(translate(members, **more).body)
    return body


def contents(*messages: Json, **more: Any) -> list[Json]:
    found: list[Json] = generated({"messages": list(messages)}, **more)["contents"]
    return found


def config(members: Json, **more: Any) -> Json:
    found: Json = generated(members, **more).get("generationConfig", {})
    return found


def refused(members: Json, **more: Any) -> str:
    with pytest.raises(Unsupported) as caught:
        translate(members, **more)
    return caught.value.param


def called(*calls: tuple[str, str, str], **more: Any) -> Json:
    entries = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id, name, arguments in calls
    ]
    return {"role": "assistant", "content": None, "tool_calls": entries, **more}


# --- messages -------------------------------------------------------------------------------------


def test_instructions_stand_apart_from_what_is_said() -> None:
    body = generated(
        {
            "messages": [
                {"role": "system", "content": "Be"},
                {"role": "developer", "content": [{"type": "text", "text": "brief"}]},
                *QUESTION,
                {"role": "assistant", "content": "Hello"},
            ]
        }
    )
    assert body["systemInstruction"] == {"parts": [{"text": "Be"}, {"text": "brief"}]}
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "Hi"}]},
        {"role": "model", "parts": [{"text": "Hello"}]},
    ]


def test_instructions_alone_are_what_is_asked() -> None:
    body = generated({"messages": [{"role": "system", "content": "Be"}]})
    assert body == {"contents": [{"role": "user", "parts": [{"text": "Be"}]}]}


def test_neighbours_of_one_role_are_one_turn() -> None:
    assert contents(*QUESTION, *QUESTION) == [
        {"role": "user", "parts": [{"text": "Hi"}, {"text": "Hi"}]}
    ]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            {"type": "image_url", "image_url": {"url": PNG}},
            {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
        ),
        (
            {"type": "image_url", "image_url": {"url": "https://a/b.png?c"}},
            {"fileData": {"fileUri": "https://a/b.png?c", "mimeType": "image/png"}},
        ),
        (
            {"type": "image_url", "image_url": "https://a/b"},
            {"fileData": {"fileUri": "https://a/b", "mimeType": "image/jpeg"}},
        ),
        (
            {"type": "file", "file": {"file_data": "https://a/b"}},
            {"fileData": {"fileUri": "https://a/b"}},
        ),
        (
            {"type": "video_url", "video_url": {"url": "https://youtu.be/x"}},
            {"fileData": {"fileUri": "https://youtu.be/x"}},
        ),
        (
            {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
            {"inlineData": {"mimeType": "video/mp4", "data": "AAAA"}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "mp3"}},
            {"inlineData": {"mimeType": "audio/mp3", "data": "QQ=="}},
        ),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,QQ=="}},
            {"inlineData": {"mimeType": "application/pdf", "data": "QQ=="}},
        ),
    ],
)
def test_what_is_no_text_goes_along(part: Json, expected: Json) -> None:
    assert contents({"role": "user", "content": [part]})[0]["parts"] == [expected]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://a/b.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png,raw"}},
        {"type": "image_url"},
        {"type": "image_url", "image_url": {"url": "https://a/b.mp4"}},
        {"type": "image_url", "image_url": {"url": "https://www.youtube.com/watch?v=x"}},
        {"type": "image_url", "image_url": {"url": "data:video/mp4;base64,AAAA"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "novelty"},
    ],
)
def test_a_part_that_cannot_be_carried_is_named(part: Json) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]
    assert refused({"messages": messages}) == "messages[0].content[1]"
    translated = translate({"messages": messages}, drop_params=True)
    assert translated.dropped == ("messages[0].content[1]",)
    assert json.loads(translated.body)["contents"][0]["parts"] == [{"text": "a"}]


def test_results_find_the_names_of_their_calls_and_keep_the_order_of_these() -> None:
    found = contents(
        *QUESTION,
        called(("a", "f", '{"x": 1.0}'), ("b", "g", "")),
        {"role": "tool", "tool_call_id": "b", "content": "fine"},
        {"role": "tool", "tool_call_id": "a", "content": '{"y": 2}'},
        {"role": "user", "content": "more"},
        model="gemini-2.5-flash",
    )
    assert found[1]["parts"] == [
        {"functionCall": {"id": "a", "name": "f", "args": {"x": 1.0}}},
        {"functionCall": {"id": "b", "name": "g", "args": {}}},
    ]
    assert found[2] == {
        "role": "user",
        "parts": [
            {"functionResponse": {"id": "a", "name": "f", "response": {"y": 2}}},
            {"functionResponse": {"id": "b", "name": "g", "response": {"output": "fine"}}},
        ],
    }
    assert found[3] == {"role": "user", "parts": [{"text": "more"}]}


def test_vertex_ai_has_no_ids() -> None:
    messages = [called(("a", "f", "{}")), {"role": "tool", "tool_call_id": "a", "content": "1"}]
    body = json.loads(to_generate(call({"messages": messages}), on_vertex=True).body)
    assert body["contents"][0]["parts"][0]["functionCall"] == {"name": "f", "args": {}}
    response = body["contents"][1]["parts"][0]["functionResponse"]
    assert response == {"name": "f", "response": {"output": "1"}}


def test_vertex_ai_has_its_tiers_elsewhere() -> None:
    with pytest.raises(Unsupported) as caught:
        to_generate(call({"messages": QUESTION, "service_tier": "flex"}), on_vertex=True)
    assert caught.value.param == "service_tier"


def test_how_closely_to_look_is_left_out_and_named() -> None:
    image = {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}}
    translated = translate({"messages": [{"role": "user", "content": [image]}]})
    assert translated.dropped == ("messages[].content[].image_url.detail",)


def test_the_one_call_of_the_older_dialect_has_its_result_by_its_name() -> None:
    found = contents(
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
    )
    assert found[0]["parts"][0]["functionCall"]["name"] == "f"
    assert found[1]["parts"][0]["functionResponse"]["name"] == "f"


@pytest.mark.parametrize(
    ("model", "place"),
    [("gemini-3.8-flash", "inside"), ("gemini-2.5-flash", "beside")],
)
def test_an_image_that_a_function_gave_back_goes_along(model: str, place: str) -> None:
    image = {"type": "image_url", "image_url": {"url": PNG}}
    text = {"type": "text", "text": "see"}
    result = {"role": "tool", "tool_call_id": "a", "content": [text, image]}
    parts = contents(called(("a", "f", "{}")), result, model=model)[1]["parts"]
    inline = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
    assert parts[0]["functionResponse"]["response"] == {"output": "see"}
    if place == "inside":
        assert parts[0]["functionResponse"]["parts"] == [inline]
    else:
        assert parts[1] == inline


def test_an_address_that_a_function_gave_back_stands_beside_its_result() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://a/b.png"}}
    result = {"role": "tool", "tool_call_id": "a", "content": [image]}
    parts = contents(called(("a", "f", "{}")), result)[1]["parts"]
    assert "parts" not in parts[0]["functionResponse"]
    assert parts[1]["fileData"]["fileUri"] == "https://a/b.png"


def test_images_that_the_model_made_go_back() -> None:
    message = {"role": "assistant", "content": "a", "images": [{"image_url": {"url": PNG}}]}
    inline = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
    assert contents(message)[0]["parts"] == [{"text": "a"}, inline]
    message["images"] = [{"image_url": {"url": "http://a/b"}}]
    assert refused({"messages": [message]}) == "messages[0].images[0]"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "tool", "tool_call_id": "x", "content": ""}], "messages[0].tool_call_id"),
        ([{"role": "wizard", "content": ""}], "messages[0].role"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"content": "a"}], "messages[0]"),
        ([{"role": "user", "content": ""}], "messages"),
        ("Hi", "messages"),
    ],
)
def test_what_makes_no_sense_is_the_clients_own_fault(messages: object, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        to_generate(call({"messages": messages}))
    assert caught.value.param == param
    assert caught.value.status == 400


@pytest.mark.parametrize("body", [b"", b"[]", b'{"messages":', b"[" * 100_000])
def test_a_body_that_is_no_request_is_the_clients_own_fault(body: bytes) -> None:
    with pytest.raises(BadRequest):
        to_generate(call(body))


# --- thoughts -------------------------------------------------------------------------------------


def test_signatures_go_back_where_they_came_from() -> None:
    message = called(("a", "f", "{}"), ("b", "g", "{}"))
    message["tool_calls"][0]["extra_content"] = {"google": {"thought_signature": "S"}}
    parts = contents(message)[0]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == ["S", None]


def test_a_signature_of_the_text_and_one_that_openrouter_gave_a_call_go_back() -> None:
    details = [
        {"type": "reasoning.encrypted", "data": "T", "format": "google-gemini-v1"},
        {"type": "reasoning.encrypted", "data": "C", "format": "google-gemini-v1", "id": "a"},
    ]
    message = called(("a", "f", "{}"), reasoning_details=details) | {"content": "Well"}
    parts = contents(message)[0]["parts"]
    assert parts[0] == {"text": "Well", "thoughtSignature": "T"}
    assert parts[1]["thoughtSignature"] == "C"


def test_a_call_that_another_model_made_says_so() -> None:
    parts = contents(called(("a", "f", "{}"), ("b", "g", "{}")))[0]["parts"]
    signatures = [part.get("thoughtSignature") for part in parts]
    assert signatures == ["skip_thought_signature_validator", None]


def test_thoughts_of_others_are_left_out_and_named() -> None:
    details = [{"type": "reasoning.encrypted", "data": "x", "format": "anthropic-claude-v1"}]
    message = {"role": "assistant", "content": "a", "reasoning_content": "hm"}
    translated = translate({"messages": [*QUESTION, message | {"reasoning_details": details}]})
    assert translated.dropped == (
        "messages[].reasoning_details",
        "messages[].reasoning_content",
    )
    assert b"hm" not in translated.body


@pytest.mark.parametrize(
    ("model", "members", "expected"),
    [
        (
            "gemini-3.8-flash",
            {"reasoning_effort": "low"},
            {"includeThoughts": True, "thinkingLevel": "LOW"},
        ),
        (
            "gemini-4-argon",
            {"reasoning": {"effort": "xhigh", "exclude": True}},
            {"thinkingLevel": "HIGH"},
        ),
        ("gemini-3.8-flash", {"reasoning": {"enabled": True}}, {"includeThoughts": True}),
        (
            "gemini-3.8-flash",
            {"reasoning": {"max_tokens": 5000}},
            {"includeThoughts": True, "thinkingLevel": "MEDIUM"},
        ),
        (
            "gemini-2.5-flash",
            {"reasoning_effort": "medium"},
            {"includeThoughts": True, "thinkingBudget": 8192},
        ),
        ("models/gemini-2.5-flash", {"reasoning_effort": "none"}, {"thinkingBudget": 0}),
        ("gemini-2.5-flash", {"reasoning": {"enabled": False}}, {"thinkingBudget": 0}),
        (
            "gemini-2.5-pro",
            {"reasoning": {"max_tokens": 5000}},
            {"includeThoughts": True, "thinkingBudget": 5000},
        ),
        ("gemini-2.5-pro", {"include_reasoning": True}, {"includeThoughts": True}),
        (
            "gemini-3.8-flash",
            {"extra_body": {"google": {"thinking_config": {"thinking_level": "low"}}}},
            {"thinkingLevel": "low"},
        ),
        ("gemini-3.8-flash", {"include_reasoning": False}, None),
        ("gemini-2.0-flash", {"reasoning_effort": "none"}, None),
    ],
)
def test_effort_is_told_in_the_words_of_the_models_generation(
    model: str, members: Json, expected: Json | None
) -> None:
    assert config(members, model=model).get("thinkingConfig") == expected


@pytest.mark.parametrize("model", ["gemini-3.8-flash", "gemini-2.5-pro", "gemini-flash-latest"])
def test_models_that_always_think_are_not_told_to_stop(model: str) -> None:
    assert refused({"reasoning_effort": "none"}, model=model) == "reasoning_effort"
    assert refused({"reasoning": {"enabled": False}}, model=model) == "reasoning"


def test_a_model_that_does_not_think_is_not_asked_to() -> None:
    assert refused({"reasoning_effort": "low"}, model="gemini-2.0-flash") == "reasoning_effort"


# --- parameters -----------------------------------------------------------------------------------


def test_parameters_have_googles_names() -> None:
    assert config(
        {
            "temperature": 0,
            "top_p": 0.5,
            "top_k": 3,
            "seed": 7,
            "stop": "x",
            "n": 2,
            "max_tokens": 9,
            "max_completion_tokens": 10,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
            "logprobs": True,
            "top_logprobs": 4,
        }
    ) == {
        "temperature": 0.0,
        "topP": 0.5,
        "topK": 3,
        "seed": 7,
        "stopSequences": ["x"],
        "candidateCount": 2,
        "maxOutputTokens": 10,
        "presencePenalty": 0.5,
        "frequencyPenalty": -0.5,
        "responseLogprobs": True,
        "logprobs": 4,
    }


def test_hints_and_what_says_nothing_are_left_out() -> None:
    body = generated(
        {
            "model": "m",
            "stream": True,
            "stream_options": {"include_usage": True},
            "user": "u",
            "store": False,
            "metadata": {"a": "b"},
            "service_tier": "auto",
            "prompt_cache_key": "k",
            "parallel_tool_calls": True,
            "n": 1,
            "logprobs": False,
            "temperature": None,
            "presence_penalty": 0,
            "frequency_penalty": 0.0,
            "logit_bias": {},
            "modalities": ["text"],
            "response_format": {"type": "text"},
            "web_search_options": None,
        }
    )
    assert body == {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"prediction": {}}, "prediction"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"store": True}, "store"),
        ({"verbosity": "low"}, "verbosity"),
        ({"novelty": 1}, "novelty"),
        ({"seed": 2**31}, "seed"),
        ({"service_tier": "scale"}, "service_tier"),
        ({"modalities": ["smell"]}, "modalities"),
        ({"modalities": ["audio"], "audio": {"format": "mp3", "voice": "v"}}, "audio.format"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0]"),
    ],
)
def test_what_gemini_lacks_is_refused_or_left_out_and_named(members: Json, param: str) -> None:
    assert refused(members) == param
    assert translate(members, drop_params=True).dropped == (param,)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tools": {}}, "tools"),
        ({"reasoning_effort": "some"}, "reasoning_effort"),
        ({"google": []}, "google"),
        ({"google": {"novelty": 1}}, "google"),
        ({"extra_body": {"novelty": 1}}, "extra_body"),
        ({"tool_choice": {"type": "custom"}, "functions": [{"name": "f"}]}, "tool_choice"),
    ],
)
def test_a_wrong_type_is_named(members: Json, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        translate(members)
    assert caught.value.param == param


def test_googles_own_members_are_taken_wherever_they_stand() -> None:
    setting = {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}
    for members in (
        {"cached_content": "cachedContents/1", "safety_settings": [setting]},
        {"google": {"cached_content": "cachedContents/1", "safety_settings": [setting]}},
    ):
        body = generated(members)
        assert body["cachedContent"] == "cachedContents/1"
        assert body["safetySettings"] == [setting]
    assert generated({"service_tier": "flex"})["serviceTier"] == "flex"


def test_images_and_speech_are_asked_for() -> None:
    found = config({"modalities": ["image", "text"], "image_config": {"aspect_ratio": "1:1"}})
    assert found["responseModalities"] == ["IMAGE", "TEXT"]
    assert found["imageConfig"] == {"aspectRatio": "1:1"}
    found = config({"modalities": ["audio"], "audio": {"voice": "Kore", "format": "pcm16"}})
    voice = {"prebuiltVoiceConfig": {"voiceName": "Kore"}}
    assert found["speechConfig"] == {"voiceConfig": voice}


def test_a_schema_is_what_the_answer_must_be_of() -> None:
    schema = {"type": "object", "$schema": "x"}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    assert config({"response_format": wanted}) == {
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object"},
    }
    wanted = {"type": "json_object"}
    assert config({"response_format": wanted}) == {"responseMimeType": "application/json"}


# --- tools ----------------------------------------------------------------------------------------


def tool(name: str, **more: Any) -> Json:
    return {"type": "function", "function": {"name": name, **more}}


def test_functions_are_declared_with_their_schemas() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "string"}}}
    body = generated({"tools": [tool("f", description="d", parameters=parameters), tool("g")]})
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {"name": "f", "description": "d", "parametersJsonSchema": parameters},
                {"name": "g", "description": ""},
            ]
        }
    ]
    assert "toolConfig" not in body


@pytest.mark.parametrize(
    ("parameters", "is_told"),
    [
        ({"type": "object", "properties": {}}, False),
        ({"type": "object", "properties": {}, "additionalProperties": False}, False),
        ({"type": "object", "additionalProperties": True}, True),
        ({"$ref": "#/$defs/T"}, True),
    ],
)
def test_a_function_without_arguments_has_no_schema(parameters: Json, is_told: bool) -> None:
    body = generated({"tools": [tool("f", parameters=parameters)]})
    declared = body["tools"][0]["functionDeclarations"][0]
    assert ("parametersJsonSchema" in declared) is is_told


def test_googles_own_tools_are_asked_for_by_their_type() -> None:
    body = generated({"tools": [{"type": "google_search"}, {"type": "url_context"}]})
    assert body["tools"] == [{"googleSearch": {}}, {"urlContext": {}}]
    assert "tools" not in generated({"tools": [{"type": "google_search"}], "tool_choice": "none"})


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"tool_choice": "none"}, {"mode": "NONE"}),
        ({"tool_choice": "auto"}, {"mode": "AUTO"}),
        ({"tool_choice": "required"}, {"mode": "ANY"}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"mode": "ANY", "allowedFunctionNames": ["f"]},
        ),
        ({"function_call": {"name": "f"}}, {"mode": "ANY", "allowedFunctionNames": ["f"]}),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [tool("f")]},
                }
            },
            {"mode": "VALIDATED", "allowedFunctionNames": ["f"]},
        ),
        ({"tools": [tool("f", strict=True)]}, {"mode": "VALIDATED"}),
    ],
)
def test_which_function_must_be_called(members: Json, expected: Json) -> None:
    body = generated({"tools": [tool("f")], **members})
    assert body["toolConfig"] == {"functionCallingConfig": expected}


def test_calls_one_at_a_time_cannot_be_had() -> None:
    members = {"parallel_tool_calls": False}
    assert refused({"tools": [tool("f")], **members}) == "parallel_tool_calls"
    assert translate(members).dropped == ()


def test_schemas_are_told_in_words_that_gemini_has() -> None:
    assert clean_schema(
        {
            "$schema": "x",
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "const": {"const": 1},
                "many": {"type": "array", "items": {"examples": [1], "type": "string"}},
                "above": {"type": "integer", "exclusiveMinimum": 0},
                "either": {"anyOf": [{"$ref": "#/definitions/T", "description": "d"}]},
            },
            "definitions": {"T": {"type": "number", "exclusiveMaximum": 2.5}},
        }
    ) == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "const": {"enum": [1]},
            "many": {"type": "array", "items": {"type": "string"}},
            "above": {"type": "integer", "minimum": 1},
            "either": {"anyOf": [{"description": "d", "anyOf": [{"$ref": "#/$defs/T"}]}]},
        },
        "$defs": {"T": {"type": "number", "maximum": 2.5}},
    }


# --- embeddings -----------------------------------------------------------------------------------


def embedded(body: Json, **more: Any) -> Json:
    found: Json = json.loads(to_batch_embed(call(body, **more), "models/e").body)
    return found


@pytest.mark.parametrize("texts", ["a", ["a"], ["a", "b"]])
def test_each_text_is_a_request_of_its_own(texts: str | list[str]) -> None:
    body = embedded({"input": texts, "dimensions": 8, "encoding_format": "base64", "user": "u"})
    assert body["requests"] == [
        {"model": "models/e", "content": {"parts": [{"text": text}]}, "outputDimensionality": 8}
        for text in texts
    ]


@pytest.mark.parametrize("tokens", [[1, 2], [[1], [2]]])
@pytest.mark.parametrize("drop_params", [True, False])
def test_token_ids_cannot_be_embedded(tokens: object, drop_params: bool) -> None:
    with pytest.raises(Unsupported) as caught:
        embedded({"input": tokens}, drop_params=drop_params)
    assert caught.value.param == "input"


# --- any request ----------------------------------------------------------------------------------

_text = st.text(max_size=8)
_content = (
    st.none() | _text | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": _text}))
)
_turns = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["system", "developer", "user", "assistant"]), _content),
        st.tuples(st.just("calls"), st.integers(min_value=1, max_value=3)),
    ),
    max_size=6,
)


def conversation(turns: list[tuple[str, Any]]) -> list[Json]:
    """Messages as clients send them: each call has its result, in any order."""
    messages: list[Json] = []
    for place, (kind, what) in enumerate(turns):
        if kind != "calls":
            messages.append({"role": kind, "content": what})
            continue
        ids = [f"{place}-{n}" for n in range(what)]
        messages.append(called(*((id, f"f{id}", "{}") for id in ids)))
        messages += [{"role": "tool", "tool_call_id": id, "content": id} for id in reversed(ids)]
    return messages


@given(_turns)
def test_every_call_is_followed_by_its_results(turns: list[tuple[str, Any]]) -> None:
    found = contents(*conversation([*turns, ("user", "Hi")]))
    assert all(content["parts"] for content in found)
    for place, content in enumerate(found):
        calls = [part["functionCall"] for part in content["parts"] if "functionCall" in part]
        if calls:
            results = [part["functionResponse"] for part in found[place + 1]["parts"]]
            assert [result["id"] for result in results] == [call["id"] for call in calls]


_ASKED: Json = {
    "messages": [
        {"role": "system", "content": "a"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "x"},
                {"type": "image_url", "image_url": {"url": PNG, "detail": "auto"}},
                {"type": "input_audio", "input_audio": {"data": "a", "format": "wav"}},
                {"type": "file", "file": {"file_data": PNG}},
            ],
        },
        called(("a", "f", "{}"))
        | {
            "images": [{"image_url": {"url": PNG}}],
            "reasoning_details": [{"data": "x", "format": "google-gemini-v1"}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "{}"},
    ],
    "tools": [tool("f", strict=True, parameters={"properties": {"a": {"$ref": "#", "const": 1}}})],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
    "reasoning": {"effort": "low", "max_tokens": 5},
    "google": {"thinking_config": {"a": 1}, "image_config": {"a": {"b_c": 1}}},
    "safety_settings": [{"a": 1}],
    "audio": {"voice": "v"},
    "modalities": ["audio"],
    "stop": ["a"],
    "seed": 1,
}


@given(damaged(_ASKED), st.booleans())
def test_no_shape_of_a_request_is_more_than_a_refusal(asked: object, drop_params: bool) -> None:
    try:
        assert to_generate(call(asked, drop_params=drop_params)).body
    except (BadRequest, Unsupported) as refusal:
        assert refusal.message


@given(damaged({"input": ["a"], "dimensions": 5, "task_type": "x"}))
def test_no_shape_of_an_embeddings_request_is_more_than_a_refusal(asked: object) -> None:
    try:
        assert to_batch_embed(call(asked), "models/e").body
    except (BadRequest, Unsupported) as refusal:
        assert refusal.message


@pytest.mark.parametrize("depth", [100, 300, 500, 900, 2000, 100_000])
def test_what_is_nested_too_deeply_is_refused(depth: int) -> None:
    schema = '{"items":' * depth + "{}" + "}" * depth
    function = '{"type":"function","function":{"name":"f","parameters":' + schema + "}}"
    body = '{"messages":[{"role":"user","content":"a"}],"tools":[' + function + "]}"
    try:
        assert to_generate(call(body.encode())).body
    except BadRequest as refusal:
        assert depth > 100 and refusal.status == 400


def test_a_surrogate_that_stands_alone_survives() -> None:
    body = b'{"messages":[{"role":"user","content":"a\\ud83d"}],"user":"u","n":1}'
    translated = to_generate(call(body))
    assert json.loads(translated.body)["contents"][0]["parts"] == [{"text": "a\ud83d"}]


def test_a_file_at_google_is_no_image_by_its_name() -> None:
    url = "https://generativelanguage.googleapis.com/v1beta/files/film.png"
    part = {"type": "image_url", "image_url": {"url": url}}
    asked = {"messages": [{"role": "user", "content": [part]}]}
    assert refused(asked) == "messages[0].content[0]"


def test_a_name_that_every_result_repeats_is_short() -> None:
    calls = called(("a", "f" * 257, "{}"))
    with pytest.raises(BadRequest) as caught:
        generated({"messages": [*QUESTION, calls]})
    assert caught.value.param == "messages[1].tool_calls[0].function.name"


def test_arguments_that_were_cut_off_go_back_as_they_are() -> None:
    translated = translate({"messages": [*QUESTION, called(("a", "f", '{"x": "ab'))]})
    call_of_it = json.loads(translated.body)["contents"][1]["parts"][0]["functionCall"]
    assert call_of_it["args"] == {"arguments": '{"x": "ab'}
    assert translated.dropped == ("messages[1].tool_calls[0].function.arguments",)


def test_empty_texts_are_not_sent() -> None:
    empty = {"type": "text", "text": ""}
    messages = [
        {"role": "system", "content": ""},
        {"role": "user", "content": [empty, {"type": "text", "text": "a"}]},
    ]
    body = generated({"messages": messages})
    assert body == {"contents": [{"role": "user", "parts": [{"text": "a"}]}]}


def test_instructions_among_the_messages_are_told_to_come_first() -> None:
    late = {"role": "system", "content": "Be brief"}
    translated = translate({"messages": [*QUESTION, late, *QUESTION]})
    assert json.loads(translated.body)["systemInstruction"] == {"parts": [{"text": "Be brief"}]}
    assert translated.dropped == ("messages[1].role",)


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "gemini-3.8-flash"])
def test_an_effort_above_the_greatest_is_told(model: str) -> None:
    translated = translate({"messages": QUESTION, "reasoning_effort": "max"}, model=model)
    assert translated.dropped == ("reasoning_effort",)
