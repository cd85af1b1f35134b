"""What each provider is told of a request, and how its own answers and errors are read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import base, registry
from adapters.base import Call, Deadlines, Endpoint
from adapters.presets import PRESETS
from adapters.wire.failures import read_error
from adapters.wire.fitting import OPTIONAL, Rules, fit
from adapters.wire.ranking import cohere_ranking
from adapters.wire.thoughts import joined, renamed
from tests.adapters.contract import DONE, EVENTS, chunk, event, refusing
from tests.adapters.servers import Peer, Request, ScriptedServer
from tests.adapters.wire import END, whole

KEY = "sk-test-0123456789abcdef"
USER = {"role": "user", "content": "Hi"}
TOOL_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}

Json = dict[str, Any]


class Asked:
    """One exchange: the request as it arrived, what was dropped, and the answer."""

    def __init__(self, request: Request, dropped: tuple[str, ...], answer: list[Json]) -> None:
        self.line = request.line
        self.headers = request.headers
        self.raw = request.body
        self.dropped = dropped
        self.answer = answer

    @property
    def body(self) -> Json:
        found: Json = json.loads(self.raw)
        return found


def ask(
    name: str,
    body: Json | bytes,
    answer: bytes | None = None,
    *,
    endpoint: Endpoint = "chat",
    stream: bool = False,
    drop: bool = False,
    path: str = "",
    **settings: Any,
) -> Asked:
    """Ask the provider `name`, which gives this answer."""
    seen: list[Request] = []

    def script(peer: Peer) -> None:
        seen.append(peer.read_request())
        peer.send(whole({"choices": []}) if answer is None else answer)

    raw = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    call = Call(
        endpoint=endpoint,
        model="m",
        body=raw,
        stream=stream,
        deadlines=Deadlines(),
        drop_params=drop,
    )

    async def run(url: str) -> tuple[tuple[str, ...], list[Json]]:
        adapter = registry.make(
            name,
            registry.Settings(name=name, base_url=url + path, **{"api_key": KEY, **settings}),
        )
        try:
            async with asyncio.timeout(10), adapter.open(call) as opened:
                if not stream:
                    return tuple(opened.dropped), [json.loads(await opened.body())]
                found: list[Json] = []
                while payloads := await opened.payloads():
                    found += [json.loads(payload) for payload in payloads]
                return tuple(opened.dropped), found
        finally:
            await adapter.aclose()

    with ScriptedServer(script) as server:
        dropped, answered = asyncio.run(run(server.url))
    return Asked(seen[0], dropped, answered)


def fitted(
    name: str, body: bytes, *, drop: bool = False, model: str = "m"
) -> tuple[bytes, Sequence[str]]:
    call = Call(
        endpoint="chat",
        model=model,
        body=body,
        stream=False,
        deadlines=Deadlines(),
        drop_params=drop,
    )
    return fit(call, PRESETS[name].rules["chat"])


@pytest.mark.parametrize(
    ("model", "dropped"),
    [("gpt-4o-mini", ["reasoning_effort"]), ("ft:gpt-4.1:me", ["reasoning_effort"]), ("gpt-5", [])],
)
def test_an_effort_is_told_only_to_models_that_reason(model: str, dropped: list[str]) -> None:
    body = json.dumps(chat(reasoning_effort="high")).encode()
    sent, told = fitted("openai", body, model=model)
    assert told == tuple(dropped)
    assert ("reasoning_effort" in json.loads(sent)) == (not dropped)
    if not dropped:
        assert sent == body


def chat(*messages: Json, **fields: Any) -> Json:
    return {"model": "m", "messages": list(messages or [USER]), **fields}


def refused(name: str, body: Json, endpoint: Endpoint = "chat") -> base.Unsupported:
    with pytest.raises(base.Unsupported) as caught:
        ask(name, body, endpoint=endpoint)
    assert not caught.value.dispatched
    return caught.value


# --- what goes on as it is ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["openai_compatible", *(n for n in PRESETS if "chat" in PRESETS[n].speaks)]
)
def test_a_request_without_anything_special_arrives_byte_for_byte(name: str) -> None:
    body = '{ "model" : "m","messages":[{"role":"user","content":"\\ud83d \u2028 1.0"}], "x":1.0}'
    plain = body.replace(', "x":1.0', "") if name == "mistral" else body
    assert ask(name, plain.encode()).raw == plain.encode()


def test_a_server_of_which_nothing_is_known_gets_everything() -> None:
    told = chat(
        {"role": "developer", "content": [{"type": "text", "text": "a", "cache_control": {}}]},
        {"role": "assistant", "reasoning_content": "r", "reasoning_details": [], "content": "b"},
        seed=1,
        max_tokens=2,
        max_completion_tokens=3,
        top_k=4,
        cache_control={},
    )
    asked = ask("openai_compatible", told)
    assert asked.body == told
    assert asked.dropped == ()


@given(
    body=st.dictionaries(
        st.sampled_from(["temperature", "x", "messages", "stop"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
            max_leaves=8,
        ),
    )
)
@pytest.mark.parametrize("name", ["openai", "deepseek", "groq", "cerebras", "together"])
def test_what_nobody_refuses_is_not_touched(name: str, body: Json) -> None:
    raw = json.dumps(body).encode()
    assert fitted(name, raw) == (raw, ())


_MEMBER = st.sampled_from(sorted(OPTIONAL | {"role", "content", "tool_calls", "x"}))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["developer", "\ud83d", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_MEMBER, inner, max_size=4),
    max_leaves=15,
)


@given(messages=_JSON, tools=_JSON)
@pytest.mark.parametrize("name", sorted(n for n in PRESETS if "chat" in PRESETS[n].rules))
def test_any_json_for_messages_is_fitted_or_passed_on(name: str, messages: Any, tools: Any) -> None:
    body = json.dumps({"model": "m", "messages": messages, "tools": tools}).encode()
    once, _ = fitted(name, body, drop=True)
    again, dropped = fitted(name, once)
    assert json.loads(again) == json.loads(once)
    assert not dropped


@pytest.mark.parametrize(
    "body", [b'["max_tokens"]', b'"max_tokens"', b'{"max_tokens"', b"[" * 50_000 + b'"max_tokens"']
)
def test_a_body_that_is_no_object_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(base.BadRequest):
        fitted("openai", body)


# --- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["openai", "azure"])
def test_openai_is_told_the_newer_name_of_the_maximum(name: str) -> None:
    assert ask(name, chat(max_tokens=5)).body == chat(max_completion_tokens=5)
    both = chat(max_tokens=5, max_completion_tokens=4)
    assert ask(name, both).body == chat(max_completion_tokens=4)


@pytest.mark.parametrize(
    "maxima",
    [
        {"max_completion_tokens": 5, "max_tokens": None},
        {"max_tokens": None, "max_completion_tokens": 5},
    ],
)
def test_a_null_does_not_take_the_place_of_a_maximum(maxima: Json) -> None:
    assert ask("mistral", chat(**maxima)).body == chat(max_tokens=5)


@pytest.mark.parametrize("name", ["mistral", "deepseek", "together", "lm_studio", "perplexity"])
def test_who_knows_only_the_older_name_of_the_maximum_is_told_that(name: str) -> None:
    assert ask(name, chat(max_completion_tokens=5)).body == chat(max_tokens=5)


@pytest.mark.parametrize(
    ("name", "fields", "param"),
    [
        ("openai", {"top_k": 5}, "top_k"),
        ("mistral", {"logit_bias": {"1": 2}}, "logit_bias"),
        ("mistral", {"store": True}, "store"),
        ("mistral", {"anything": 1}, "anything"),
        ("mistral", {"reasoning": {"effort": "low"}}, "reasoning"),
        ("deepseek", {"n": 2}, "n"),
        ("deepseek", {"response_format": {"type": "json_schema"}}, "response_format"),
        ("groq", {"logprobs": True}, "logprobs"),
        ("groq", {"n": 2}, "n"),
        ("cerebras", {"store": True}, "store"),
        ("perplexity", {"seed": 0}, "seed"),
        ("cohere", {"n": 3}, "n"),
    ],
)
def test_a_parameter_that_cannot_be_carried_is_refused_or_dropped(
    name: str, fields: Json, param: str
) -> None:
    failure = refused(name, chat(**fields))
    assert failure.param == param
    assert repr(param) in failure.message
    asked = ask(name, chat(**fields), drop=True)
    assert asked.body == chat()
    assert asked.dropped == (param,)


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u"},
        {"stream_options": {"include_usage": True}},
        {"store": False},
        {"logit_bias": {}},
        {"verbosity": None},
        {"safety_identifier": "s"},
        {"modalities": ["text"]},
    ],
)
def test_what_changes_nothing_is_left_out_without_a_word(fields: Json) -> None:
    asked = ask("mistral", chat(**fields))
    assert asked.body == chat()
    assert asked.dropped == ()


def test_a_schema_is_passed_on_where_it_is_understood() -> None:
    told = chat(response_format={"type": "json_schema", "json_schema": {"name": "x"}})
    assert ask("groq", told).body == told
    plain = chat(response_format={"type": "json_object"}, user='about "json_schema"')
    assert ask("deepseek", plain).body == plain


def test_mistral_calls_the_seed_by_another_name() -> None:
    assert ask("mistral", chat(seed=7)).body == chat(random_seed=7)


def test_numbers_and_texts_beside_a_change_stay_the_bytes_they_were() -> None:
    body = (
        b'{"model":"m","temperature":1.0,"x":12345678901234567890,"max_tokens":5, "messages": []}'
    )
    asked = ask("openai", body)
    assert asked.raw == (
        b'{"model":"m","temperature":1.0,"x":12345678901234567890,'
        b'"max_completion_tokens":5,"messages":[]}'
    )


def test_a_lone_surrogate_survives_a_change() -> None:
    body = b'{"model":"m","\\udc4b":1,"messages":[{"content":"\\ud83d"}],"max_tokens":5}'
    asked = ask("openai", body)
    assert asked.raw.count(b"\\ud83d") == asked.raw.count(b"\\udc4b") == 1
    assert asked.body["max_completion_tokens"] == 5


# --- messages -------------------------------------------------------------------------------------


def test_openai_is_spared_what_others_put_into_messages() -> None:
    told = chat(
        {
            "role": "developer",
            "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
        },
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Hm",
            "reasoning_details": [{"type": "reasoning.text", "text": "Hm"}],
            "tool_calls": [{**TOOL_CALL, "extra_content": {"google": {"thought_signature": "s"}}}],
            "refusal": None,
        },
        tools=[{"type": "function", "function": {"name": "f"}, "cache_control": {}}],
    )
    asked = ask("openai", told)
    assert asked.body == chat(
        {"role": "developer", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL], "refusal": None},
        tools=[{"type": "function", "function": {"name": "f"}}],
    )
    assert asked.dropped == (
        "messages[1].reasoning_content",
        "messages[1].reasoning_details",
        "messages[1].tool_calls[0].extra_content",
    )


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("groq", "reasoning"),
        ("cerebras", "reasoning"),
        ("openrouter", "reasoning"),
        ("deepseek", "reasoning_content"),
        ("fireworks", "reasoning_content"),
        ("xai", "reasoning_content"),
    ],
)
@pytest.mark.parametrize("given_name", ["reasoning", "reasoning_content"])
def test_a_thought_goes_back_under_the_providers_own_name(
    name: str, own: str, given_name: str
) -> None:
    asked = ask(name, chat({"role": "assistant", "content": "a", given_name: "Hm"}, USER))
    assert asked.body == chat({"role": "assistant", "content": "a", own: "Hm"}, USER)
    assert asked.dropped == ()


def test_a_thought_under_both_names_goes_back_under_one() -> None:
    told = {"role": "assistant", "content": "a", "reasoning_content": "no", "reasoning": "yes"}
    asked = ask("groq", chat(told))
    assert asked.body == chat({"role": "assistant", "content": "a", "reasoning": "yes"})


def test_openrouter_understands_markers_and_signatures() -> None:
    told = chat(
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}]},
        {"role": "assistant", "reasoning_details": [{"signature": "s"}], "content": "b"},
    )
    assert ask("openrouter", told).body == told


@pytest.mark.parametrize("name", ["mistral", "deepseek", "together", "perplexity"])
def test_who_has_no_developers_has_a_system(name: str) -> None:
    asked = ask(name, chat({"role": "developer", "content": "developer"}, USER))
    assert asked.body == chat({"role": "system", "content": "developer"}, USER)


def test_an_answer_as_the_sdk_dumps_it_can_be_sent_back_to_mistral() -> None:
    dumped = {
        "role": "assistant",
        "content": "a",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    asked = ask("mistral", chat(dumped, USER))
    assert asked.body == chat({"role": "assistant", "content": "a", "tool_calls": None}, USER)
    assert asked.dropped == ()


def test_a_speakers_name_is_no_hint() -> None:
    told = chat({**USER, "name": "Ada"})
    assert refused("groq", told).param == "messages[0].name"
    asked = ask("groq", told, drop=True)
    assert asked.body == chat()
    assert asked.dropped == ("messages[0].name",)


def test_a_tools_name_beside_its_calls_id_is_said_twice() -> None:
    result = {"role": "tool", "tool_call_id": "c", "content": "1"}
    asked = ask("groq", chat(USER, {**result, "name": "f"}))
    assert asked.body == chat(USER, result)
    assert asked.dropped == ()


# --- addresses and keys ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "version", "expected"),
    [
        ("", None, "/openai/v1/chat/completions"),
        ("/openai/v1/", None, "/openai/v1/chat/completions"),
        ("/openai", "2024-10-21", "/openai/deployments/m/chat/completions?api-version=2024-10-21"),
    ],
)
def test_azure_is_asked_at_the_operators_resource(
    path: str, version: str | None, expected: str
) -> None:
    asked = ask("azure", chat(), path=path, api_version=version)
    assert asked.line == f"POST {expected} HTTP/1.1"
    assert asked.headers["api-key"] == KEY
    assert "authorization" not in asked.headers


def test_a_deployments_name_is_one_step_of_the_path() -> None:
    async def path_of(model: str) -> str:
        settings = registry.Settings(name="a", base_url="http://a", api_version="1")
        adapter: Any = registry.make("azure", settings)
        call = Call(endpoint="chat", model=model, body=b"{}", stream=False, deadlines=Deadlines())
        return str((await adapter.prepare(call)).path)

    assert asyncio.run(path_of("a/../b?c")).startswith("/openai/deployments/a%2F..%2Fb%3Fc/chat/")


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("chat", "/compatibility/v1/chat/completions"),
        ("embeddings", "/compatibility/v1/embeddings"),
        ("rerank", "/v2/rerank"),
    ],
)
def test_cohere_has_three_dialects_at_one_host(endpoint: Endpoint, path: str) -> None:
    assert ask("cohere", chat(), whole({}), endpoint=endpoint).line == f"POST {path} HTTP/1.1"


@pytest.mark.parametrize("name", PRESETS)
def test_an_entry_says_what_its_preset_says(name: str) -> None:
    entry, preset = registry.BUILT_IN[name], PRESETS[name]
    assert entry.speaks == preset.speaks
    assert entry.base_url == preset.base_url
    assert registry.max_tokens_field(name) == preset.max_tokens_field
    assert registry.stream_usage(name) == preset.stream_usage
    assert preset.rules.keys() <= preset.speaks


def test_models_are_listed_in_coheres_way_too() -> None:
    def script(peer: Peer) -> None:
        assert peer.read_request().line == "GET /v1/models HTTP/1.1"
        peer.send(whole({"models": [{"name": "command-a"}, {"name": ""}]}))

    async def run(url: str) -> list[str]:
        adapter = registry.make("cohere", registry.Settings(name="c", base_url=url))
        try:
            return list(await adapter.models())
        finally:
            await adapter.aclose()

    with ScriptedServer(script) as server:
        assert asyncio.run(run(server.url)) == ["command-a"]


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in PRESETS if PRESETS[n].answers == "reasoning"])
def test_a_thought_comes_under_everybodys_name(name: str) -> None:
    said = EVENTS + event(chunk({"reasoning": 'say \\"reasoning\\":'})) + DONE + END
    (payload,) = ask(name, chat(stream=True), said, stream=True).answer
    assert payload["choices"][0]["delta"] == {"reasoning_content": 'say \\"reasoning\\":'}
    message = {"content": "a", "reasoning": "Hm"}
    (body,) = ask(name, chat(), whole({"choices": [{"message": message}]})).answer
    assert body["choices"][0]["message"] == {"content": "a", "reasoning_content": "Hm"}


def test_an_answer_with_both_names_keeps_them() -> None:
    both = b'{"reasoning":"a","reasoning_content":"a"}'
    assert renamed(both) is both


@given(text=st.text())
def test_no_text_is_taken_for_the_name(text: str) -> None:
    answer = json.dumps({"content": f'{text}"reasoning":{text}', "reasoning": text}).encode()
    assert json.loads(renamed(answer)) == {
        "content": f'{text}"reasoning":{text}',
        "reasoning_content": text,
    }


def test_mistrals_parts_become_a_text_and_a_thought() -> None:
    content = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}, {"text": "."}]},
        {"type": "text", "text": "Once"},
        {"type": "reference", "reference_ids": [1]},
        {"type": "text", "text": " upon"},
    ]
    said = EVENTS + event(chunk({"content": content})) + DONE + END
    (payload,) = ask("mistral", chat(stream=True), said, stream=True).answer
    assert payload["choices"][0]["delta"] == {"content": "Once upon", "reasoning_content": "Hm."}
    (body,) = ask("mistral", chat(), whole({"choices": [{"message": {"content": content}}]})).answer
    assert body["choices"][0]["message"]["reasoning_content"] == "Hm."


def test_parts_with_half_a_letter_are_joined_too() -> None:
    said = json.dumps({"choices": [{"delta": {"content": [{"type": "text", "text": "\ud83d"}]}}]})
    assert json.loads(joined(said.encode()))["choices"][0]["delta"] == {"content": "\ud83d"}


@given(content=_JSON, choice=_JSON)
def test_loose_json_for_parts_is_read_or_passed_on(content: Any, choice: Any) -> None:
    for choices in (choice, [choice, {"delta": {"content": [content]}}]):
        json.loads(joined(json.dumps({"content": [], "choices": choices}).encode()))


# --- vectors and rankings -------------------------------------------------------------------------


def test_voyage_calls_the_dimensions_by_another_name_and_is_asked_for_floats() -> None:
    body = {"model": "m", "input": ["a"], "dimensions": 256, "encoding_format": "base64"}
    asked = ask("voyage", {**body, "input_type": "query", "user": "u"}, endpoint="embeddings")
    assert asked.body == {
        "model": "m",
        "input": ["a"],
        "output_dimension": 256,
        "input_type": "query",
    }
    assert asked.dropped == ()


def test_cohere_cannot_choose_dimensions() -> None:
    body = {"model": "m", "input": "a", "dimensions": 256, "encoding_format": "float"}
    assert refused("cohere", body, "embeddings").param == "dimensions"


RANKING = {"model": "m", "query": "q", "documents": ["a", "b"], "top_n": 1}


def test_voyage_ranks_in_coheres_dialect() -> None:
    data = [{"index": 1, "relevance_score": 0.5}]
    said = whole({"object": "list", "data": data, "model": "m", "usage": {"total_tokens": 9}})
    asked = ask("voyage", RANKING, said, endpoint="rerank")
    assert asked.line == "POST /rerank HTTP/1.1"
    assert asked.body == {"model": "m", "query": "q", "documents": ["a", "b"], "top_k": 1}
    (answer,) = asked.answer
    assert answer["results"] == data
    assert answer["meta"] == {"tokens": {"input_tokens": 9}}
    assert refused("voyage", {**RANKING, "priority": 1}, "rerank").param == "priority"


def test_coheres_own_ranking_is_passed_on() -> None:
    said = {"id": "1", "results": [], "meta": {"billed_units": {"search_units": 1}}}
    asked = ask("cohere", RANKING, whole(said), endpoint="rerank")
    assert asked.body == RANKING
    assert asked.answer == [said]


@given(answer=st.binary() | _JSON.map(lambda value: json.dumps(value).encode()))
def test_any_ranking_is_read_or_passed_on(answer: bytes) -> None:
    assert cohere_ranking(answer) == answer


# --- errors, as providers really word them --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status", "body", "kind", "said"),
    [
        (
            "mistral",
            422,
            {
                "object": "error",
                "message": {
                    "detail": [
                        {
                            "type": "extra_forbidden",
                            "loc": ["body", "seed"],
                            "msg": "Extra inputs are not permitted",
                            "input": -1,
                        }
                    ]
                },
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            },
            base.BadRequest,
            "seed: Extra inputs are not permitted",
        ),
        (
            "mistral",
            400,
            {
                "object": "error",
                "message": "Invalid model: mistral-huge",
                "type": "invalid_model",
                "param": None,
                "code": "1500",
            },
            base.ModelNotFound,
            "Invalid model: mistral-huge",
        ),
        (
            "azure",
            400,
            {
                "error": {
                    "message": "The response was filtered due to the prompt triggering Azure "
                    "OpenAI's content management policy.",
                    "type": None,
                    "param": "prompt",
                    "code": "content_filter",
                    "status": 400,
                    "innererror": {
                        "code": "ResponsibleAIPolicyViolation",
                        "content_filter_result": {"sexual": {"filtered": True}},
                    },
                }
            },
            base.ContentRefused,
            "content management policy",
        ),
        (
            "azure",
            404,
            {
                "error": {
                    "code": "DeploymentNotFound",
                    "message": "The API deployment for this resource does not exist.",
                }
            },
            base.ModelNotFound,
            "does not exist",
        ),
        (
            "deepseek",
            402,
            {
                "error": {
                    "message": "Insufficient Balance",
                    "type": "unknown_error",
                    "param": None,
                    "code": "invalid_request_error",
                }
            },
            base.RateLimited,
            "Insufficient Balance",
        ),
        (
            "xai",
            400,
            {
                "code": "invalid-argument",
                "error": "Argument not supported on this model: presencePenalty",
            },
            base.BadRequest,
            "presencePenalty",
        ),
        (
            "xai",
            400,
            {
                "code": "Client specified an invalid argument",
                "error": "Incorrect API key provided: xa***23. You can obtain an API key from "
                "https://console.x.ai.",
            },
            base.UpstreamAuth,
            "credentials",
        ),
        (
            "xai",
            400,
            {
                "code": "Client specified an invalid argument",
                "error": "This model's maximum prompt length is 131072 but the request contains "
                "537812 tokens.",
            },
            base.ContextExceeded,
            "131072",
        ),
        (
            "xai",
            403,
            {
                "code": "The caller does not have permission to execute the specified operation",
                "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO",
            },
            base.ContentRefused,
            "usage guidelines",
        ),
        (
            "xai",
            403,
            {
                "code": "The caller does not have permission to execute the specified operation",
                "error": "Your newly created team doesn't have any credits yet.",
            },
            base.RateLimited,
            "credits",
        ),
        (
            "groq",
            400,
            {
                "error": {
                    "message": "Failed to call a function. Please adjust your prompt. See "
                    "'failed_generation' for more details.",
                    "type": "invalid_request_error",
                    "code": "tool_use_failed",
                    "failed_generation": "<function=f>",
                }
            },
            base.UpstreamError,
            "Failed to call a function",
        ),
        (
            "groq",
            400,
            {
                "error": {
                    "message": "Please reduce the length of the messages or completion.",
                    "type": "invalid_request_error",
                    "param": "messages",
                    "code": "context_length_exceeded",
                }
            },
            base.ContextExceeded,
            "reduce the length",
        ),
        (
            "groq",
            498,
            {"error": {"message": "Flex tier capacity exceeded", "code": "capacity_exceeded"}},
            base.Overloaded,
            "capacity",
        ),
        (
            "openrouter",
            429,
            {
                "error": {
                    "message": "Provider returned error",
                    "code": 429,
                    "metadata": {
                        "raw": "z-ai/glm-5.3-flash is temporarily rate-limited upstream.",
                        "provider_name": "BaseTen",
                    },
                }
            },
            base.RateLimited,
            "BaseTen: z-ai/glm-5.3-flash is temporarily rate-limited upstream.",
        ),
        (
            "openrouter",
            400,
            {
                "error": {
                    "message": "Provider returned error",
                    "code": 400,
                    "metadata": {
                        "raw": '{"error":{"message":"Model \'k\' supports at most 1 image per '
                        'prompt.","type":"invalid_request_error"}}',
                        "provider_name": "Crucible",
                    },
                },
                "user_id": "user_1",
            },
            base.BadRequest,
            "Crucible: Model 'k' supports at most 1 image per prompt.",
        ),
        (
            "openrouter",
            403,
            {
                "error": {
                    "code": 403,
                    "message": "Your input was flagged",
                    "metadata": {"reasons": ["violence"], "provider_name": "OpenAI"},
                }
            },
            base.ContentRefused,
            "flagged",
        ),
        (
            "together",
            422,
            {
                "id": "1",
                "error": {
                    "message": "Input validation error: `inputs` tokens + `max_new_tokens` must be "
                    "<= 4097. Given: 5000 `inputs` tokens and 512 `max_new_tokens`",
                    "type": "invalid_request_error",
                    "param": "max_tokens",
                    "code": None,
                },
            },
            base.ContextExceeded,
            "must be <= 4097",
        ),
        (
            "fireworks",
            400,
            {
                "error": {
                    "object": "error",
                    "type": "invalid_request_error",
                    "code": "invalid_request_error",
                    "message": "The prompt is too long: 9217, model maximum context length: 8191",
                }
            },
            base.ContextExceeded,
            "too long",
        ),
        (
            "vllm",
            400,
            {
                "object": "error",
                "message": "This model's maximum context length is 1024 tokens.",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            },
            base.ContextExceeded,
            "1024 tokens",
        ),
        (
            "lm_studio",
            400,
            {
                "error": "Trying to keep the first 5000 tokens when context the overflows. "
                "However, the model is loaded with context length of only 4096 tokens."
            },
            base.ContextExceeded,
            "4096",
        ),
        (
            "llama_server",
            400,
            {
                "error": {
                    "code": 400,
                    "message": "the request exceeds the available context size, try increasing it",
                    "type": "exceed_context_size_error",
                }
            },
            base.ContextExceeded,
            "context size",
        ),
        (
            "cerebras",
            400,
            {
                "message": "messages.2.assistant.reasoning_content: property is unsupported",
                "type": "invalid_request_error",
                "param": "validation_error",
                "code": "wrong_api_format",
            },
            base.BadRequest,
            "unsupported",
        ),
        (
            "voyage",
            400,
            {"detail": "Model voyage-9 is not supported. Supported models are ['voyage-4']."},
            base.ModelNotFound,
            "voyage-9",
        ),
        (
            "llama_server",
            500,
            {"error": {"code": 500, "message": "input (16000 tokens) is too large to process."}},
            base.ContextExceeded,
            "16000",
        ),
        (
            "llama_server",
            500,
            {"error": {"code": 500, "message": "image input is not supported - hint: mmproj"}},
            base.BadRequest,
            "image",
        ),
    ],
)
def test_a_providers_own_error_is_read(
    name: str, status: int, body: Json, kind: type[base.UpstreamError], said: str
) -> None:
    endpoint: Endpoint = "chat" if "chat" in registry.speaks(name) else "embeddings"
    call = Call(endpoint=endpoint, model="m", body=b"{}", stream=False, deadlines=Deadlines())

    async def run(url: str) -> None:
        adapter = registry.make(name, registry.Settings(name=name, base_url=url))
        try:
            async with adapter.open(call):
                pass
        finally:
            await adapter.aclose()

    with ScriptedServer(refusing(status, body)) as server, pytest.raises(base.UpstreamError) as got:
        asyncio.run(run(server.url))
    assert type(got.value) is kind
    assert said in got.value.message
    assert got.value.retry_elsewhere is (not issubclass(kind, base.BadRequest))


def test_the_parameter_that_a_validator_names_is_passed_on() -> None:
    body = {"message": {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "no"}]}}
    assert read_error(json.dumps(body).encode()).param == "messages.0.role"


@given(body=_JSON)
def test_loose_json_for_an_error_is_read(body: Any) -> None:
    for shape in (body, {"error": body}, {"error": {"metadata": body, "message": body}}):
        read_error(json.dumps(shape).encode())


def test_rules_that_change_nothing_have_no_signs() -> None:
    assert Rules().signs is None


@pytest.mark.parametrize(
    ("model", "can"),
    [
        ("claude-3-5-haiku-20241022", True),
        ("claude-3-opus-20240229", True),
        ("claude-3-7-sonnet-latest", True),
        ("claude-sonnet-4-20250514", True),
        ("claude-opus-4-1-20250805", True),
        ("claude-haiku-4-5", True),
        ("claude-sonnet-4-5@20250929", True),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", True),
        ("claude-opus-4-6", False),
        ("claude-sonnet-4-6-20260217", False),
        ("us.anthropic.claude-opus-4-6-v1", False),
        ("claude-sonnet-4-10", False),
        ("claude-opus-5", False),
        ("gemini-3-pro", False),
        ("amazon.nova-pro-v1:0", False),
    ],
)
def test_claudes_before_4_6_go_on_with_what_was_begun(model: str, can: bool) -> None:
    for adapter in ("anthropic", "bedrock", "vertex"):
        assert registry.prefill(adapter, model) == ("plain" if can else None)


def test_who_goes_on_with_what_was_begun_and_how() -> None:
    known = {name: registry.prefill(name, "m") for name in registry.BUILT_IN}
    assert {name: how for name, how in known.items() if how} == {
        "mistral": "prefix",
        "groq": "plain",
        "vllm": "continue",
        "llama_server": "plain",
    }


@pytest.mark.parametrize("name", ["mistral", "deepseek"])
def test_the_mark_of_an_answer_that_was_begun_reaches_the_provider(name: str) -> None:
    begun = {"role": "assistant", "content": "One", "prefix": True}
    body = json.dumps({"model": "m", "messages": [USER, begun], "seed": None}).encode()
    call = Call(endpoint="chat", model="m", body=body, stream=True, deadlines=Deadlines())
    fitted, _ = fit(call, PRESETS[name].rules["chat"])
    assert json.loads(fitted)["messages"][-1] == begun
