"""The legacy endpoint: as it is where a target has it, otherwise as a chat."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import Completion

from adapters.base import AdapterError, MalformedAnswer, Unsupported, UpstreamError
from proxy.errors import InvalidRequest, UpstreamDown
from proxy.pricing import Usage
from proxy.wire import chat
from proxy.wire.completions import CompletionsRequest, parse
from proxy.wire.dialect import Identity, Upstream
from tests.proxy.wire.response_events import merged
from tests.proxy.wire.streams import HEAD, ROLE, STOP, USAGE, USAGE_CHUNK, chunk, encode, say
from tests.proxy.wire.test_chunks_properties import Upstream as Sent
from tests.proxy.wire.test_chunks_properties import upstreams

IDENTITY = Identity(request_id="req_1", model="m", created=1)
CHAT = Upstream(model="up")
NATIVE = Upstream(model="up", speaks=frozenset({"chat", "completions"}))
DONE = b"data: [DONE]\n\n"


def asked(prompt: Any = "Once", **members: Any) -> CompletionsRequest:
    return parse(json.dumps({"model": "m", "prompt": prompt, **members}).encode())


def fed(endpoint: Any, *payloads: object, request: CompletionsRequest) -> bytes:
    relay = request.read_stream(endpoint, IDENTITY, reads_cost=False)
    found, failure = relay.feed_all(
        [payload if isinstance(payload, bytes) else encode(payload) for payload in payloads]
    )
    if failure is not None:
        raise failure
    assert relay.is_finished
    return found + relay.end()


def chunks(events: bytes) -> list[dict[str, Any]]:
    *written, done, nothing = events.split(b"\n\n")
    assert (done, nothing) == (b"data: [DONE]", b"")
    return [json.loads(event.removeprefix(b"data: ")) for event in written]


def piece(text: str, finish: str | None = None, index: int = 0, **members: Any) -> dict[str, Any]:
    choice = {"text": text, "index": index, "logprobs": None, "finish_reason": finish}
    return {"id": "cmpl-up", "object": "text_completion", "choices": [choice], **members}


# --- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"modalities": ["image"]}, "modalities"),
        ({"plugins": [{"id": "web"}]}, "plugins"),
    ],
)
def test_what_has_no_bound_in_a_chat_has_none_here(members: dict[str, Any], named: str) -> None:
    assert asked(**members).unbounded_at(CHAT.speaks) == named


def test_the_maximum_of_a_chat_is_none_of_a_text() -> None:
    request = asked(max_completion_tokens=100_000)
    assert request.unbounded_at(NATIVE.speaks) == "max_completion_tokens"
    with pytest.raises(Unsupported, match="max_completion_tokens"):
        request.upstream(CHAT)
    held = Upstream(
        model="up", max_tokens_field="max_completion_tokens", default_max=50, drop_params=True
    )
    sent = request.upstream(held)
    assert json.loads(sent.body)["max_completion_tokens"] == 50
    assert sent.dropped == ("max_completion_tokens",)


def test_what_a_chat_adds_is_in_the_bound_of_the_input() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "d" * 1000}}]
    request = asked(tools=tools, reasoning_effort="high")
    sent = request.upstream(Upstream(model="m"))
    assert request.input_bound(0) >= chat.parse(sent.body).input_bound(0)
    assert request.reasons and not asked().reasons


def test_a_server_that_has_it_gets_it_as_it_is() -> None:
    request = asked(["a", "b"], echo=True, logprobs=2, suffix="x", stream=True)
    sent = request.upstream(NATIVE)
    assert sent.endpoint == "completions"
    assert json.loads(sent.body) == {
        "model": "up",
        "prompt": ["a", "b"],
        "echo": True,
        "logprobs": 2,
        "suffix": "x",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_text_is_what_the_user_says() -> None:
    sent = asked(max_tokens=5, temperature=0.5, stop=["x"], best_of=1, echo=False).upstream(CHAT)
    assert sent.endpoint == "chat"
    assert json.loads(sent.body) == {
        "model": "up",
        "messages": [{"role": "user", "content": "Once"}],
        "max_tokens": 5,
        "temperature": 0.5,
        "stop": ["x"],
    }


def test_a_list_of_one_text_is_that_text() -> None:
    body = json.loads(asked(["Once"]).upstream(CHAT).body)
    assert body["messages"][0]["content"] == "Once"


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"echo": True}, "echo"),
        ({"logprobs": 0}, "logprobs"),
        ({"best_of": 3}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_no_chat_can_say_is_refused_by_name(members: dict[str, Any], param: str) -> None:
    with pytest.raises(Unsupported) as refused:
        asked(**{"prompt": "Once", **members}).upstream(CHAT)
    assert refused.value.param == param


def test_what_is_dropped_is_told() -> None:
    dropping = Upstream(model="up", drop_params=True)
    assert asked(suffix="x").upstream(dropping).dropped == ("suffix",)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"prompt": 7}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [[-1]]}, "prompt"),
        ({"n": 0}, "n"),
        ({"best_of": 1000}, "best_of"),
        ({"max_tokens": -1}, "max_tokens"),
    ],
)
def test_wrong_requests_name_the_parameter(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asked(**{"prompt": "Once", **members})
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("members", "answers", "most"),
    [
        ({}, 1, 4),
        ({"n": 2}, 2, 4),
        ({"n": 2, "best_of": 5}, 5, 4),
        ({"prompt": ["ab", "cde"], "best_of": 3}, 6, 5),
        ({"prompt": [1, 2, 3]}, 1, 3),
        ({"prompt": [[1, 2], [3]]}, 2, 3),
    ],
)
def test_what_money_needs(members: dict[str, Any], answers: int, most: int) -> None:
    request = asked(**{"prompt": "Once", **members})
    assert request.n == answers
    assert request.input_bound(0) >= most


def test_what_stands_beside_the_prompt_is_in_the_bound() -> None:
    assert asked(suffix="x" * 1000).input_bound(0) >= 1000


def test_money_bounds_go_upstream() -> None:
    clamped = Upstream(model="up", speaks=NATIVE.speaks, clamp=3)
    assert json.loads(asked(max_tokens=9).upstream(clamped).body)["max_tokens"] == 3
    default = Upstream(model="up", speaks=NATIVE.speaks, default_max=7)
    assert json.loads(asked().upstream(default).body)["max_tokens"] == 7
    newer = Upstream(model="up", max_tokens_field="max_completion_tokens")
    body = json.loads(asked(max_tokens=9).upstream(newer).body)
    assert body["max_completion_tokens"] == 9 and "max_tokens" not in body


# --- a chat's answers -----------------------------------------------------------------------------


def test_a_chat_stream_is_one_of_texts() -> None:
    request = asked(stream=True, stream_options={"include_usage": True})
    sent = (ROLE, say("Hello"), say(" there"), say(" 👋"), STOP, USAGE_CHUNK)
    *said, last = chunks(fed("chat", *sent, request=request))
    assert "".join(one["choices"][0]["text"] for one in said) == "Hello there 👋"
    assert said[-1]["choices"][0]["finish_reason"] == "stop"
    assert last["usage"] == USAGE and last["choices"] == []
    for one in (*said, last):
        assert one["object"] == "text_completion" and one["id"] == "cmpl-req_1"
        Completion.model_validate(
            {**one, "choices": [{**c, "finish_reason": "stop"} for c in one["choices"]]}
        )


def test_usage_comes_only_if_it_was_asked_for() -> None:
    events = fed("chat", say("x"), STOP, USAGE_CHUNK, request=asked(stream=True))
    assert all("usage" not in one for one in chunks(events))


def test_thoughts_are_left_out() -> None:
    sent = (chunk({"reasoning_content": "Hm"}), chunk({"reasoning_content": "Hm"}), say("x"), STOP)
    texts = [c["choices"][0]["text"] for c in chunks(fed("chat", *sent, request=asked()))]
    assert texts == ["x", ""]


def test_a_whole_chat_is_a_completion() -> None:
    choices = [
        {"index": i, "message": {"content": f"t{i}"}, "finish_reason": "length"} for i in range(2)
    ]
    body = encode({**HEAD, "choices": choices, "usage": USAGE})
    facts, whole = asked().read_whole("chat", body, IDENTITY, reads_cost=False)
    assert whole is not None and facts.usage is not None
    found = Completion.model_validate(json.loads(whole.body))
    assert [choice.text for choice in found.choices] == ["t0", "t1"]
    assert found.choices[0].finish_reason == "length"
    assert found.usage is not None and found.usage.total_tokens == 5


def test_a_broken_stream_is_an_error_event() -> None:
    for endpoint in ("chat", "completions"):
        relay = asked().read_stream(endpoint, IDENTITY, reads_cost=False)  # type: ignore[arg-type]  # a literal
        event = relay.fail(UpstreamDown("gone"))
        assert json.loads(event.removeprefix(b"data: "))["error"]["message"] == "gone"


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(sent=upstreams())
def test_any_chat_stream_keeps_its_texts(sent: Sent) -> None:
    try:
        found = chunks(fed("chat", *sent.payloads, request=asked()))
    except AdapterError:
        return  # the canonical stream breaks just so: tested there
    texts: dict[int, str] = {}
    for one in found:
        for choice in one["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    for index, text in texts.items():
        assert merged(text) == merged(sent.texts.get((index, "content"), ""))


# --- a server's own -------------------------------------------------------------------------------


def test_texts_pass_as_they_came_and_usage_last() -> None:
    request = asked(stream=True, stream_options={"include_usage": True})
    sent = [
        encode(piece("a")),
        encode(piece("b", "stop")),
        encode({**piece(""), "choices": [], "usage": USAGE}),
    ]
    events = fed("completions", *sent, request=request)
    assert events == b"".join(b"data: %b\n\n" % payload for payload in sent) + DONE


def test_usage_in_the_last_text_is_taken_out() -> None:
    request = asked(stream=True)
    relay = request.read_stream("completions", IDENTITY, reads_cost=False)
    events, _ = relay.feed_all([encode(piece("a")), encode(piece("", "stop", usage=USAGE))])
    assert all("usage" not in one for one in chunks(events + relay.end()))
    assert relay.usage is not None and relay.usage.output_tokens == 2
    assert relay.output_bytes == 1


def test_a_text_stream_without_its_end_is_not_finished() -> None:
    relay = asked(stream=True).read_stream("completions", IDENTITY, reads_cost=False)
    relay.feed_all([encode(piece("a", "stop")), encode(piece("b", index=1))])
    assert not relay.is_finished
    capped = relay.cap({"budget": "b"}, Usage(input_tokens=1, output_tokens=1))
    (last,) = chunks(capped)
    assert last["choices"][0]["index"] == 1
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["tollway"] == {"budget": "b"}


@pytest.mark.parametrize(
    "payload", [b"{", b"7", b'{"choices":7}', b'{"choices":[{"text":7}]}', b'"\xff"']
)
def test_what_is_no_chunk_is_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        fed("completions", payload, request=asked(stream=True))
    with pytest.raises(MalformedAnswer):
        asked().read_whole("completions", payload, IDENTITY, reads_cost=False)


def test_an_error_in_the_stream_is_an_error() -> None:
    with pytest.raises(UpstreamError, match="Sorry"):
        fed("completions", {"error": {"message": "Sorry"}}, request=asked(stream=True))


def test_a_whole_completion_passes_as_it_came() -> None:
    body = encode({**piece("Hi", "stop"), "usage": USAGE})
    facts, whole = asked().read_whole("completions", body, IDENTITY, reads_cost=False)
    assert whole is not None and whole.body == body
    assert facts.usage is not None and facts.output_bytes == 2


@given(
    prompt=st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=6,
    )
)
def test_any_prompt_is_read_or_refused(prompt: Any) -> None:
    try:
        request = asked(prompt)
    except InvalidRequest as error:
        assert error.param == "prompt"
    else:
        assert json.loads(request.upstream(NATIVE).body)["prompt"] == prompt
