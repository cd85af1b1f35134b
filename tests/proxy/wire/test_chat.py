"""Chat requests: what is refused, what is held for them, and what goes upstream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.wire import chat
from proxy.wire.chat import ChatRequest, parse
from proxy.wire.dialect import Upstream

HELLO = [{"role": "user", "content": "Hello"}]


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9_000}}


def request(**fields: Any) -> ChatRequest:
    return parse(json.dumps({"model": "m", "messages": HELLO, **fields}).encode())


def with_parts(*parts: Any) -> ChatRequest:
    return request(messages=[{"role": "user", "content": list(parts)}])


def upstream(asked: ChatRequest, **how: Any) -> dict[str, Any]:
    sent: dict[str, Any] = json.loads(asked.upstream(Upstream(model="real", **how)).body)
    return sent


# --- refusals -------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": 5}, "model"),
    ({"model": ""}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": "Hello"}, "messages"),
    ({"messages": {}}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": ["Hello"]}, "messages[0]"),
    ({"messages": [{"content": "Hello"}]}, "messages[0].role"),
    ({"messages": [*HELLO, {"role": 5}]}, "messages[1].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": True}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": {"type": "text"}}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["Hello"]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": 5}]}]}, "messages[0].content[0].type"),
    ({"stream": "true"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"stream_options": "usage"}, "stream_options"),
    ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    *(({name: bad}, name)
      for name in ("max_tokens", "max_completion_tokens")
      for bad in (-1, 0, 2**63, 10**30, 10_000_001, "10", 1.5, 10.0, True, [10])),
    *(({"n": bad}, "n") for bad in (-1, 0, 129, 10**6, "2", 1.5, True)),
    ({"tools": {}}, "tools"),
    ({"tools": ["search"]}, "tools[0]"),
    ({"tools": [{"type": 5}]}, "tools[0].type"),
    ({"functions": [{}]}, "functions[0].name"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": 1}}, "response_format.type"),
    ({"logprobs": "yes"}, "logprobs"),
    ({"modalities": "audio"}, "modalities"),
    ({"modalities": [1]}, "modalities[0]"),
    ({"service_tier": 1}, "service_tier"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), WRONG)
def test_a_wrong_field_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(**fields)
    assert (caught.value.status, caught.value.kind) == (400, "invalid_request_error")
    assert caught.value.param == param
    assert repr(param) in caught.value.message


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b"{}", "model"),
        (b'{"messages":[{"role":"user","content":""}]}', "model"),
        (b'{"model":"m"}', "messages"),
        (b'{"model":"m","messages":[{}]}', "messages[0].role"),
        (b'{"model":"m","messages":[{"role":"user"}],"max_tokens":1e4000}', "max_tokens"),
        (b'{"model":"m","messages":[{"role":"user"}],"n":%b}' % (b"9" * 4000), "n"),
    ],
)
def test_a_missing_or_unreadable_field_is_named(raw: bytes, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(raw)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "name",
    [
        "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "tools",
        "functions", "response_format", "logprobs", "modalities", "service_tier",
        "web_search_options", "prediction",
    ],
)  # fmt: skip
def test_null_is_the_same_as_absent(name: str) -> None:
    asked, plain = request(**{name: None}), request()
    for fact in ("stream", "wants_usage", "needs", "media", "max_output_tokens", "n", "unbounded"):
        assert getattr(asked, fact) == getattr(plain, fact), fact
    assert upstream(asked)[name] is None


def test_the_service_tier_and_the_images_of_a_request_are_known() -> None:
    parts = [IMAGE, {"type": "text", "text": "and"}, IMAGE]
    asked = request(service_tier="priority", messages=[{"role": "user", "content": parts}])
    assert (asked.service_tier, asked.images, asked.media) == ("priority", 2, 2)
    assert (request().service_tier, request().images) == (None, 0)


# --- what is known of a request -------------------------------------------------------------------


def test_both_maxima_are_relayed_and_the_larger_is_held() -> None:
    asked = request(max_tokens=10, max_completion_tokens=20)
    assert asked.max_output_tokens == 20
    assert request(max_tokens=30, max_completion_tokens=20).max_output_tokens == 30
    assert upstream(asked, default_max=5) == upstream(asked) | {
        "max_tokens": 10,
        "max_completion_tokens": 20,
    }


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, set()),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, {"tools"}),
        ({"tools": []}, set()),
        ({"functions": [{"name": "f"}]}, {"tools"}),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"json_schema"}),
        ({"response_format": {"type": "json_object"}}, set()),
        ({"logprobs": True}, {"logprobs"}),
        ({"logprobs": False}, set()),
        ({"n": 1}, set()),
        ({"n": 2}, {"n"}),
        ({"modalities": ["text"]}, set()),
        ({"modalities": ["text", "audio"]}, {"audio"}),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, {"vision"}),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, set()),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, {"audio"}),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, {"files"}),
    ],
)
def test_needs_follow_from_the_fields(fields: dict[str, Any], needs: set[str]) -> None:
    assert request(**fields).needs == {"chat"} | needs


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"plugins": [{"id": "web"}]}, "plugins"),
        ({"models": ["dearer/model"]}, "models"),
        ({"search_parameters": {"mode": "on"}}, "search_parameters"),
        ({"enable_search": True}, "enable_search"),
        ({"speed": "fast"}, "speed"),
        ({"data_sources": [{"type": "azure_search"}]}, "data_sources"),
        ({"cached_content": "cachedContents/1"}, "cached_content"),
        ({"google": {"cached_content": "cachedContents/1"}}, "google"),
        ({"image_config": {"image_size": "4K"}}, "image_config"),
        (
            {"additionalModelRequestFields": {"max_completion_tokens": 100_000}},
            "additionalModelRequestFields",
        ),
        ({"performanceConfig": {"latency": "optimized"}}, "performanceConfig"),
        ({"modalities": ["text", "image"]}, "modalities"),
        ({"tools": [{"function": {"name": "f"}}, {"type": "web_search"}]}, "tools[1].type"),
        (
            {"messages": [*HELLO, {"role": "assistant", "audio": {"id": "audio_1"}}]},
            "messages[1].audio",
        ),
        (
            {"messages": [{"role": "assistant", "content": "", "images": [IMAGE]}]},
            "messages[0].images",
        ),
    ],
)
def test_a_cost_without_a_bound_is_named(fields: dict[str, Any], param: str) -> None:
    assert request(**fields).unbounded == param


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "file", "file": {"file_data": "AAAA"}}, "file"),
        ({"file": {"file_id": "file-1"}}, "file"),
        ({"type": "text", "text": "x", "file": {"file_id": "file-1"}}, "file"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "input_audio"),
        ({"type": "text", "input_audio": {"data": "AAAA"}}, "input_audio"),
        ({"type": "video_url", "video_url": {"url": "https://x"}}, "type"),
        ({"type": "document_url", "document_url": "https://x"}, "type"),
        ({"type": "image", "source": {"type": "url", "url": "https://x"}}, "type"),
        ({"image_url": {"url": "https://x"}}, "type"),
        (picture("data:application/pdf;base64,AAAA"), "image_url"),
        (picture("data:video/mp4;base64,AAAA"), "image_url"),
        (picture("DATA:text/plain,a"), "image_url"),
        ({"type": "image_url", "image_url": "data:application/pdf;base64,AAAA"}, "image_url"),
        ({}, "type"),
    ],
)
def test_a_part_whose_cost_no_bytes_bound_is_named(part: dict[str, Any], param: str) -> None:
    text = {"type": "text", "text": "What is this?"}
    assert with_parts(text, part).unbounded == f"messages[0].content[1].{param}"


@pytest.mark.parametrize(
    "fields",
    [
        {"web_search_options": None},
        {"enable_search": False},
        {"plugins": []},
        {"service_tier": "auto"},
        {"service_tier": "flex"},
        {"service_tier": "priority"},  # the target's price tells whether it has a bound
        {"tools": [{"type": "custom", "custom": {"name": "f"}}]},
        {"messages": [{"role": "user", "content": [IMAGE]}]},
        {"messages": [{"role": "user", "content": [picture("https://x/y.pdf")]}]},
        {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
        {"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}]},
        {"messages": [{"role": "assistant", "content": None, "audio": None}]},
    ],
)
def test_a_bounded_cost_is_not_refused(fields: dict[str, Any]) -> None:
    assert request(**fields).unbounded is None


@pytest.mark.parametrize(
    "url",
    [
        rb'"data:application\/pdf;base64,A"',
        rb'"d\u0061ta:application/pdf;base64,A"',
        rb'"https://x","url":"data:application/pdf;base64,A"',
    ],
)
def test_no_spelling_of_a_books_url_makes_it_an_image(url: bytes) -> None:
    part = rb'{"type":"image_url","image_url":{"url":%b}}' % url
    raw = rb'{"model":"m","messages":[{"role":"user","content":[%b]}]}' % part
    assert parse(raw, {}).unbounded == "messages[0].content[0].image_url"


def test_an_image_may_be_spelled_as_php_spells_it() -> None:
    part = rb'{"type":"image_url","image_url":{"url":"data:image\/png;base64,AA\/A"}}'
    raw = rb'{"model":"m","messages":[{"role":"user","content":[%b]}]}' % part
    assert parse(raw, {}).unbounded is None


@pytest.mark.parametrize("kind", ["compact_20260112", "\\u0063ompact_20260112"])
def test_a_summary_of_the_context_has_no_maximum(kind: str) -> None:
    edits = b'{"edits":[{"type":"%b"}]}' % kind.encode()
    raw = rb'{"model":"m","messages":[{"role":"user","content":"a"}],"context_management":%b}'
    assert parse(raw % edits, {}).unbounded == "context_management"


# --- the bound of the input -----------------------------------------------------------------------


def test_images_count_by_their_number_and_not_by_their_bytes() -> None:
    plain = with_parts({"type": "text", "text": "What?"})
    asked = with_parts({"type": "text", "text": "What?"}, IMAGE, IMAGE)
    assert asked.media == 2
    assert asked.input_tokens - plain.input_tokens < 50
    added = asked.input_bound(1_000) - plain.input_bound(1_000)
    assert 2_000 <= added < 2_200
    assert asked.input_bound(5_000) - asked.input_bound(1_000) == 8_000


def test_an_image_in_a_part_of_another_type_is_counted_too() -> None:
    for part in (
        {"image_url": {"url": "https://x/y.png"}},
        {"type": "text", "text": "x", "image_url": {"url": "https://x/y.png"}},
        {"type": "image_url"},
    ):
        asked = with_parts(part)
        assert asked.media == 1
        assert "vision" in asked.needs


def test_files_and_sounds_do_not_pass_for_long_prompts() -> None:
    payload = {"data": "A" * 4_000_000, "format": "mp3"}
    asked = with_parts({"type": "input_audio", "input_audio": payload})
    assert asked.input_tokens < 100


@given(
    st.lists(st.text(st.characters() | st.sampled_from('\ud83d\udc4b"\\\n\0é中👋'))),
    st.booleans(),
)
def test_the_bound_is_never_below_the_bytes_of_the_text(texts: list[str], escape: bool) -> None:
    messages = [{"role": "user", "content": text} for text in texts or [""]]
    try:
        raw = json.dumps({"model": "m", "messages": messages}, ensure_ascii=escape).encode()
    except UnicodeEncodeError:
        raw = json.dumps({"model": "m", "messages": messages}).encode()
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    bound = parse(raw).input_bound(0)
    assert bound >= size + chat.MESSAGE_TOKENS * len(messages) + chat.PROMPT_TOKENS


def test_every_field_that_a_template_may_print_is_in_the_bound() -> None:
    plain = request().input_bound(0)
    long = "x" * 10_000
    for fields in (
        {"messages": [{"role": "assistant", "content": None, "reasoning_content": long}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": long}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": long}]}]},
        {"messages": [{"role": "user", "content": "a", "name": long}]},
        {"tools": [{"type": "function", "function": {"name": "f", "description": long}}]},
        {"functions": [{"name": "f", "description": long}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": long}}},
        {"chat_template_kwargs": {"documents": long}},
    ):
        assert request(**fields).input_bound(0) >= plain + 10_000, fields


def test_tools_printed_anew_stay_in_the_bound() -> None:
    """Templates such as Llama's print tools indented: compact JSON grows, spaces are few tokens."""
    parameters = {
        "enum": [1] * 1_000,
        "properties": {"é中👋"[i % 3] * (i + 1): {} for i in range(99)},
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    raw = json.dumps({"model": "m", "messages": HELLO, "tools": tools}, separators=(",", ":"))
    lines = [line.strip() for line in json.dumps(tools, indent=4).splitlines()]
    tokens = sum(len(line) + 1 for line in lines)  # each line's break and indentation is one
    assert parse(raw.encode()).input_bound(0) >= tokens


# --- what goes upstream ---------------------------------------------------------------------------


def test_everything_but_the_model_is_passed_on_byte_for_byte() -> None:
    rest = (
        rb'"messages":[{"role":"developer","content":[{"type":"text","text":"\ud83d \u2028"}]},'
        rb'{"role":"assistant","content":null,"reasoning_content":"hm","tool_calls":[{"id":"c",'
        rb'"type":"function","function":{"name":"f","arguments":"{}"},'
        rb'"extra_content":{"google":{"thought_signature":"abc=="}}}]},'
        rb'{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x",'
        rb'"detail":"low"}}]}],"temperature":1.0,"seed":12345678901234567,"stop":null,'
        rb'"logit_bias":{"50256":-100},"top_k":5,"chat_template_kwargs":{"enable_thinking":false},'
        rb'"max_tokens":10,"max_completion_tokens":20,"tools":[{"type":"function","function":'
        rb'{"name":"f","strict":true,"parameters":{"$ref":"#/$defs/a","$defs":{"a":{}}}}}],'
        rb'"parallel_tool_calls":false,"user":"u","metadata":{"a":"b"},"store":false'
    )
    asked = parse(b'{"model":"auto",%b}' % rest)
    body = asked.upstream(Upstream(model="real", default_max=9)).body
    assert body == b'{"model":"real",%b}' % rest


def test_the_model_is_replaced_where_it_stands() -> None:
    raw = b'{ "messages": [{"role": "user"}], "model" : "auto" }'
    body = parse(raw).upstream(Upstream(model='a "b"')).body
    assert body == rb'{"messages":[{"role": "user"}],"model":"a \"b\""}'


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"include_usage": True}),
        ({"stream_options": None}, {"include_usage": True}),
        ({"stream_options": {}}, {"include_usage": True}),
        ({"stream_options": {"include_usage": False}}, {"include_usage": True}),
        ({"stream_options": {"include_usage": True}}, {"include_usage": True}),
        (
            {"stream_options": {"include_obfuscation": False}},
            {"include_obfuscation": False, "include_usage": True},
        ),
    ],
)
def test_usage_is_asked_for_and_other_options_are_kept(
    options: dict[str, Any], expected: dict[str, Any]
) -> None:
    asked = request(stream=True, **options)
    assert upstream(asked)["stream_options"] == expected
    assert asked.wants_usage == bool((options.get("stream_options") or {}).get("include_usage"))


def test_stream_options_go_to_no_provider_that_refuses_them() -> None:
    asked = request(stream=True, stream_options={"include_usage": True})
    assert asked.wants_usage
    assert "stream_options" not in upstream(asked, ask_usage=False)


def test_a_whole_answer_is_not_asked_for_stream_options() -> None:
    assert "stream_options" not in upstream(request())


@pytest.mark.parametrize(
    ("fields", "target_field", "sent"),
    [
        ({}, "max_tokens", {"max_tokens": 500}),
        ({}, "max_completion_tokens", {"max_completion_tokens": 500}),
        ({"max_tokens": None}, "max_tokens", {"max_tokens": 500}),
        ({"max_tokens": 7}, "max_tokens", {"max_tokens": 7}),
        # OpenAI reads the older field too, and refuses both at once.
        ({"max_tokens": 7}, "max_completion_tokens", {"max_tokens": 7}),
        # A server that does not know the newer field would answer without any bound.
        (
            {"max_completion_tokens": 7},
            "max_tokens",
            {"max_completion_tokens": 7, "max_tokens": 7},
        ),
        (
            {"max_completion_tokens": 7, "max_tokens": None},
            "max_tokens",
            {"max_completion_tokens": 7, "max_tokens": 7},
        ),
        ({"max_completion_tokens": 7}, "max_completion_tokens", {"max_completion_tokens": 7}),
    ],
)
def test_under_a_hard_budget_the_provider_gets_a_maximum_it_obeys(
    fields: dict[str, Any], target_field: str, sent: dict[str, int]
) -> None:
    body = upstream(request(**fields), max_tokens_field=target_field, default_max=500)
    names = ("max_tokens", "max_completion_tokens")
    assert {name: body[name] for name in names if body.get(name) is not None} == sent


def test_without_a_hard_budget_no_maximum_is_added() -> None:
    assert upstream(request()).keys() == {"model", "messages"}
    assert "max_tokens" not in upstream(request(max_completion_tokens=7))


def test_lone_surrogates_in_what_we_read_do_not_break_it() -> None:
    raw = rb'{"model":"m\ud83d","messages":[{"role":"\udc4b","content":"\ud83d"}],"user":"\ud83d"}'
    asked = parse(raw)
    assert asked.model == "m\ufffd"
    assert rb'"content":"\ud83d"' in asked.body.join({})


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
_FIELDS = sorted({param.partition("[")[0].partition(".")[0] for _, param in WRONG})


@given(st.dictionaries(st.sampled_from(_FIELDS), _json))
def test_no_values_raise_anything_but_a_refusal(fields: dict[str, Any]) -> None:
    try:
        asked = request(**fields)
    except InvalidRequest as error:
        assert error.param is not None
        return
    assert asked.input_bound(1) > 0
    assert 1 <= asked.n <= 128
    upstream(asked, default_max=5)
