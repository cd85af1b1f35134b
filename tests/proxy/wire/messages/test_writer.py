"""Any chat stream becomes a Messages stream that says the same."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from adapters.base import AdapterError, MalformedAnswer
from proxy.errors import UpstreamDown
from proxy.pricing import Usage
from proxy.wire import chunks
from proxy.wire.messages.writer import MessageWriter
from tests.proxy.wire.messages.asked import IDENTITY
from tests.proxy.wire.messages.grammar import Read, read
from tests.proxy.wire.streams import HEAD, ROLE, STOP, call, chunk, encode, entry, say
from tests.proxy.wire.test_chunks_properties import Upstream, upstreams


def stream(*, learns: bool = True, stops: Iterable[str] = ()) -> chunks.Stream:
    return chunks.Stream(
        wants_usage=True,
        identity=IDENTITY,
        learns=learns,
        writer=MessageWriter(IDENTITY, 42, frozenset(stops)),
    )


def written(upstream: Iterable[object], **how: Any) -> bytes:
    relay = stream(**how)
    events, failure = relay.feed_all([encode(item) for item in upstream])
    assert failure is None
    assert relay.is_finished
    return events + relay.end()


def client_of(*upstream: object, **how: Any) -> Read:
    return read(written(upstream, **how))


def thought(text: str) -> dict[str, Any]:
    return chunk({"reasoning_content": text})


def detail(**fields: Any) -> dict[str, Any]:
    return chunk({"reasoning_details": [fields]})


def begins(index: int, name: str = "f", arguments: str = "") -> dict[str, Any]:
    return call(entry(index, f"call_{index}", name, arguments, type="function"))


def continues(index: int, arguments: str) -> dict[str, Any]:
    return call(entry(index, arguments=arguments))


CALLED = chunk({}, "tool_calls")


def test_text_is_one_block() -> None:
    seen = client_of(ROLE, say("Once "), say("upon"), say(" a time"), STOP)
    assert seen.blocks == [{"type": "text", "text": "Once upon a time"}]
    assert seen.delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert seen.message["model"] == "gpt-x"
    assert seen.message["id"] == "msg_0123456789abcdef"
    assert seen.message["usage"]["input_tokens"] == 42


def test_every_piece_leaves_at_once() -> None:
    relay = stream()
    for piece in ("Once", " upon", " a"):
        assert json.dumps(piece).encode() in relay.feed(encode(say(piece)))


@pytest.mark.parametrize("kind", ["reasoning_content", "reasoning"])
def test_thinking_comes_before_what_is_said(kind: str) -> None:
    seen = client_of(chunk({kind: "Hm"}), chunk({kind: "m."}), say("A"), say("B"), STOP)
    assert seen.blocks == [
        {"type": "thinking", "thinking": "Hmm.", "signature": "unsigned"},
        {"type": "text", "text": "AB"},
    ]


def test_signatures_end_what_was_thought() -> None:
    seen = client_of(
        thought("one"),
        detail(type="reasoning.text", signature="s1"),
        thought("two"),
        detail(type="reasoning.text", text="two", signature="s2"),
        detail(type="reasoning.encrypted", data="xyz"),
        detail(type="reasoning.text", signature="s3"),
        detail(type="reasoning.summary", summary="in short"),
        detail(type="new"),
        say("A"),
        STOP,
    )
    assert seen.blocks == [
        {"type": "thinking", "thinking": "one", "signature": "s1"},
        {"type": "thinking", "thinking": "two", "signature": "s2"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "thinking", "thinking": "", "signature": "s3"},
        {"type": "thinking", "thinking": "in short", "signature": "unsigned"},
        {"type": "text", "text": "A"},
    ]


def test_calls_come_one_after_the_other() -> None:
    seen = client_of(
        say("I look."),
        begins(0),
        continues(0, '{"a":'),
        continues(0, " 1}"),
        begins(1, "g"),
        continues(1, '{"b": "}"}'),
        CALLED,
    )
    assert seen.text == "I look."
    assert seen.calls == [("call_0", "f", '{"a": 1}'), ("call_1", "g", '{"b": "}"}')]
    assert seen.delta["delta"]["stop_reason"] == "tool_use"


def test_calls_that_interleave_wait_for_each_other() -> None:
    upstream = [
        begins(0),
        begins(1),
        continues(0, '{"a"'),
        continues(1, '{"b"'),
        say("meanwhile"),
        continues(1, ":2}"),
        continues(0, ":1}"),
        begins(2, arguments="{}"),
        CALLED,
    ]
    seen = client_of(*upstream)
    assert seen.calls == [
        ("call_0", "f", '{"a":1}'),
        ("call_1", "f", '{"b":2}'),
        ("call_2", "f", "{}"),
    ]
    assert seen.text == "meanwhile"


def test_a_complete_call_makes_room_at_once() -> None:
    relay = stream()
    relay.feed_all([encode(begins(0)), encode(continues(0, '{"a":1}'))])
    assert b'"content_block_stop","index":0' in relay.feed(encode(begins(1, "g")))
    assert b"partial_json" in relay.feed(encode(continues(1, '{"b"')))


def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert client_of(begins(0), begins(1), CALLED).calls == [
        ("call_0", "f", "{}"),
        ("call_1", "f", "{}"),
    ]


def test_a_call_that_had_ended_is_not_gone_back_to() -> None:
    relay = stream()
    sent = [begins(0), continues(0, "{}"), say("A"), continues(0, " "), continues(0, '"')]
    events, failure = relay.feed_all([encode(item) for item in sent])
    assert isinstance(failure, MalformedAnswer)
    assert read(events, is_whole=False).calls == [("call_0", "f", "{}")]


def test_what_gemini_wants_back_travels_in_the_id() -> None:
    extra = {"google": {"thought_signature": "sig=="}}
    seen = client_of(
        call(entry(0, "call_0", "f", "{}", type="function", extra_content=extra)), CALLED
    )
    assert seen.calls[0][0].startswith("call_0__thought__")


@pytest.mark.parametrize(
    ("finish", "stop_reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("function_call", "tool_use"),
        ("content_filter", "refusal"),
        ("eos", "end_turn"),
    ],
)
def test_why_it_stopped(finish: str, stop_reason: str) -> None:
    seen = client_of(say("A"), chunk({}, finish))
    assert seen.delta["delta"]["stop_reason"] == stop_reason


def test_which_sequence_stopped_it_is_told_where_it_is_known() -> None:
    stop = chunk({}, "stop")
    stop["choices"][0]["stop_reason"] = "END"  # as vLLM says it
    assert client_of(say("A"), stop, stops=["END"]).delta["delta"] == {
        "stop_reason": "stop_sequence",
        "stop_sequence": "END",
    }
    assert client_of(say("A"), stop).delta["delta"]["stop_reason"] == "end_turn"
    stop["choices"][0]["native_finish_reason"] = "stop_sequence"  # as OpenRouter does
    assert client_of(say("A"), stop).delta["delta"] == {
        "stop_reason": "stop_sequence",
        "stop_sequence": None,
    }


def test_a_refusal_is_text() -> None:
    seen = client_of(chunk({"refusal": "I will "}), chunk({"refusal": "not"}), STOP)
    assert seen.text == "I will not"


def test_usage_leaves_out_what_the_cache_holds() -> None:
    usage = {
        "prompt_tokens": 140,
        "completion_tokens": 7,
        "total_tokens": 147,
        "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    seen = client_of(say("A"), STOP, {**HEAD, "choices": [], "usage": usage})
    assert seen.delta["usage"] == {
        "input_tokens": 10,
        "cache_creation_input_tokens": 30,
        "cache_read_input_tokens": 100,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 3},
    }


def test_without_usage_it_is_estimated() -> None:
    seen = client_of(*(say("four") for _ in range(10)), STOP)
    assert seen.delta["usage"]["input_tokens"] == 42
    assert seen.delta["usage"]["output_tokens"] == 10


def test_a_stream_that_a_budget_cut_ends_as_if_its_maximum_were_reached() -> None:
    relay = stream()
    events, _ = relay.feed_all([encode(ROLE), encode(begins(0)), encode(continues(0, '{"a'))])
    reason = {"reason": "budget", "scope": "global"}
    seen = read(events + relay.cap(reason, Usage(input_tokens=9, output_tokens=4)))
    assert seen.delta["delta"]["stop_reason"] == "max_tokens"
    assert seen.delta["tollway"] == reason
    assert seen.delta["usage"]["output_tokens"] == 4


def test_a_stream_that_broke_ends_with_an_error() -> None:
    relay = stream()
    events, _ = relay.feed_all([encode(say("A"))])
    seen = read(events + relay.fail(UpstreamDown("it broke")), is_whole=False)
    assert seen.error is not None
    assert (seen.error["type"], seen.error["message"]) == ("api_error", "it broke")


def test_words_in_parts_are_words() -> None:
    seen = client_of(chunk({"content": [{"type": "text", "text": "A"}, {"type": "x"}]}), STOP)
    assert seen.text == "A"


_many = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


@_many
@given(upstreams())
def test_what_was_said_comes_out_in_the_grammar(sent: Upstream) -> None:
    relay = stream()
    events, failure = relay.feed_all(sent.payloads)
    assume(failure is None)  # it goes back to a call that was complete
    seen = read(events + relay.end())
    assert _utf16(seen.text) == _utf16(sent.texts.get((0, "content"), ""))
    assert _utf16(seen.thinking) == _utf16(sent.texts.get((0, "reasoning_content"), ""))
    calls = [(name, _utf16(arguments)) for _, name, arguments in seen.calls]
    assert calls == [(name, _utf16(text or "{}")) for name, text in sent.calls.get(0, [])]
    assert seen.delta["delta"]["stop_reason"] == ("tool_use" if calls else "end_turn")
    if sent.has_usage:
        assert seen.delta["usage"]["output_tokens"] == 2


@_many
@given(upstreams())
def test_templates_change_nothing(sent: Upstream) -> None:
    learning, decoding = stream(), stream(learns=False)
    for payload in sent.payloads:
        quick, quick_failure = learning.feed_all([payload])
        slow, slow_failure = decoding.feed_all([payload])
        assert type(quick_failure) is type(slow_failure)
        assert [json.loads(line[6:]) for line in quick.split(b"\n") if line[:5] == b"data:"] == [
            json.loads(line[6:]) for line in slow.split(b"\n") if line[:5] == b"data:"
        ]
        if quick_failure is not None:
            return
    assert learning.output_bytes == decoding.output_bytes


_words = """
    id choices index delta role content tool_calls function name arguments reasoning_content text
    reasoning_details signature data type finish_reason usage refusal extra_content google
    reasoning.text reasoning.encrypted
"""
_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.text(max_size=2) | st.just("stop"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_words.split()), inner, max_size=6)
    ),
    max_leaves=25,
)
_deltas = st.dictionaries(st.sampled_from(_words.split()), _json, max_size=4)


@_many
@given(st.lists(_deltas, max_size=6))
def test_no_delta_breaks_the_grammar(deltas: list[dict[str, Any]]) -> None:
    relay = stream()
    events = b""
    for delta in [*deltas, {"content": "x"}]:
        payload = json.dumps(chunk(delta)).encode()
        try:
            events += relay.feed(payload)
        except AdapterError:
            read(events + relay.fail(UpstreamDown("broken")), is_whole=False)
            return
    events += relay.feed(encode(STOP))
    read(events + relay.end())
