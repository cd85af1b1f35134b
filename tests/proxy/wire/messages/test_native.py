"""Anthropic's own streams and answers are relayed and read; what clients trip over is repaired."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.base import AdapterError, MalformedAnswer, UpstreamError
from proxy.errors import UpstreamDown
from proxy.pricing import Usage
from proxy.wire.messages import native
from proxy.wire.messages.native import MessageStream
from tests.proxy.wire.messages.asked import IDENTITY, request
from tests.proxy.wire.messages.grammar import read
from tests.proxy.wire.streams import encode

START_USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 30,
    "cache_read_input_tokens": 100,
    "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
    "output_tokens": 1,
    "service_tier": "priority",
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": START_USAGE,
}
START = {"type": "message_start", "message": MESSAGE}
STOP = {"type": "message_stop"}


def opens(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def says(index: int, text: str) -> dict[str, Any]:
    delta = {"type": "text_delta", "text": text}
    return {"type": "content_block_delta", "index": index, "delta": delta}


def closes(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def finishes(reason: str = "end_turn", output: int = 7) -> dict[str, Any]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return {"type": "message_delta", "delta": delta, "usage": {"output_tokens": output}}


HELLO = [
    START,
    opens(0, type="text", text=""),
    says(0, "Hel"),
    says(0, "lo"),
    closes(0),
    finishes(),
]


def stream() -> MessageStream:
    return MessageStream(IDENTITY)


def relayed(*events: object) -> tuple[bytes, MessageStream]:
    relay = stream()
    payloads = [event if isinstance(event, bytes) else encode(event) for event in events]
    written, failure = relay.feed_all(payloads)
    assert failure is None
    return written, relay


def test_events_go_on_as_they_are_each_under_its_name() -> None:
    written, relay = relayed(*HELLO)
    assert relay.is_finished
    expected = b"".join(
        b"event: %b\ndata: %b\n\n" % (event["type"].encode(), encode(event))
        for event in [*HELLO, STOP]
    )
    assert written + relay.end() == expected
    assert read(expected).text == "Hello"


def test_the_end_is_written_once_and_by_us() -> None:
    written, relay = relayed(*HELLO, STOP)
    assert (written + relay.end()).count(b"event: message_stop") == 1


def test_usage_is_that_of_both_events() -> None:
    _, relay = relayed(*HELLO)
    assert relay.usage == Usage(
        input_tokens=140,
        cached_tokens=100,
        cache_write_tokens=30,
        cache_write_1h_tokens=20,
        output_tokens=7,
    )
    assert relay.service_tier == "priority"


def test_later_counts_stand_in_place_of_earlier_ones() -> None:
    start = {**MESSAGE, "usage": {"input_tokens": 0, "output_tokens": 0}}
    end = {**finishes(), "usage": {"input_tokens": 5, "output_tokens": 9}}
    _, relay = relayed({"type": "message_start", "message": start}, end)
    assert relay.usage == Usage(input_tokens=5, output_tokens=9)


def test_what_was_generated_is_counted() -> None:
    relay = stream()
    relay.feed_all([encode(event) for event in HELLO[:2]])
    assert not relay.has_payload
    relay.feed_all([encode(says(0, "Hé"))])
    assert relay.has_payload
    assert (relay.output_events, relay.output_bytes) == (1, 3)
    relay.feed_all(
        [encode(closes(0)), encode(opens(1, type="tool_use", id="t", name="f", input={}))]
    )
    assert relay.output_events == 2


def test_kinds_that_nobody_knows_yet_go_on() -> None:
    new = [
        opens(0, type="new_block", x=1),
        {"type": "content_block_delta", "index": 0, "delta": {"type": "new_delta", "y": 2}},
        closes(0),
        {"type": "new_event", "z": 3},
    ]
    written, _ = relayed(START, *new, finishes())
    for event in new:
        assert encode(event) in written


def test_an_event_over_several_lines_becomes_one() -> None:
    pretty = json.dumps(says(0, "a\nb"), indent=1).encode()
    written, _ = relayed(*HELLO[:2], pretty.replace(b"\n", b"\r\n"))
    assert written.count(b"\n\n") == 3
    assert read(written, is_whole=False).text == "a\nb"


def test_a_beginning_without_its_usage_is_completed() -> None:
    for message in ({}, {**MESSAGE, "usage": None}, {**MESSAGE, "content": None}):
        written, relay = relayed({"type": "message_start", "message": message}, *HELLO[1:])
        seen = read(written + relay.end())
        assert seen.text == "Hello"
        assert seen.message["usage"].keys() >= {"input_tokens", "output_tokens"}


def test_an_end_without_its_usage_is_completed() -> None:
    for end in ({"delta": {"stop_reason": "max_tokens"}}, {**finishes("max_tokens"), "usage": {}}):
        written, relay = relayed(*HELLO[:5], {"type": "message_delta", **end})
        seen = read(written + relay.end())
        assert seen.delta["usage"]["output_tokens"] == 1
        assert seen.delta["delta"]["stop_reason"] == "max_tokens"


@pytest.mark.parametrize(
    "events",
    [
        [b"{"],
        [b"[]"],
        [b'"x"'],
        [b'{"type":5}'],
        [b'{"type":"content_block_delta","index":0,"delta":{"text":"\xff"}}'],
        [{"no": "type"}],
        [opens(0, type="text", text="")],
        [finishes()],
        [{"type": "message_start"}],
        [START, START],
        [START, says(0, "x")],
        [START, opens(1, type="text", text="")],
        [START, opens(0, type="text", text=""), opens(1, type="text", text="")],
        [START, opens(0, type="text", text=""), says(1, "x")],
        [START, opens(0, type="text", text=""), {"type": "content_block_delta", "index": 0}],
        [START, closes(0)],
        [*HELLO[:5], says(0, "x")],
        [START, {"type": "bad\nname"}],
    ],
)
def test_what_no_client_could_put_together_is_refused(events: list[Any]) -> None:
    payloads = [event if isinstance(event, bytes) else encode(event) for event in events]
    written, failure = stream().feed_all(payloads)
    assert isinstance(failure, MalformedAnswer)
    read(written, is_whole=False)


def test_what_came_before_a_failure_is_not_lost_with_it() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    relay = stream()
    written, failure = relay.feed_all([encode(event) for event in [*HELLO[:3], error]])
    assert isinstance(failure, UpstreamError)
    assert (failure.message, failure.type) == ("Overloaded", "overloaded_error")
    seen = read(written + relay.fail(UpstreamDown("it broke")), is_whole=False)
    assert seen.text == "Hel"
    assert seen.error is not None


def test_a_stream_that_a_budget_cut_ends_as_if_its_maximum_were_reached() -> None:
    written, relay = relayed(*HELLO[:3])
    seen = read(written + relay.cap({"reason": "x"}, Usage(input_tokens=9, output_tokens=4)))
    assert seen.delta["delta"]["stop_reason"] == "max_tokens"
    assert seen.delta["tollway"] == {"reason": "x"}


def test_lone_surrogates_pass() -> None:
    written, _ = relayed(*HELLO[:2], encode(says(0, "\ud83d")), encode(says(0, "\udc4b")))
    assert b"\\ud83d" in written and b"\\udc4b" in written


_words = """
    type index delta content_block message usage error text stop_reason input_tokens
"""
_names = [
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
    "ping",
    "error",
    "new",
]
_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.sampled_from(["text", "end_turn", ""]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(_words.split()), inner, max_size=4)
    ),
    max_leaves=12,
)
_events = st.fixed_dictionaries(
    {"type": st.sampled_from(_names)},
    optional={
        "index": st.integers(0, 1) | st.none(),
        "delta": _json,
        "content_block": st.just({"type": "text", "text": ""}) | _json,
        "message": st.just(MESSAGE) | _json,
        "usage": _json,
        "error": _json,
    },
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(_events | _json, max_size=8))
def test_no_json_raises_anything_but_an_adapter_error(items: list[Any]) -> None:
    relay = stream()
    written, failure = relay.feed_all([encode(item) for item in [START, *items]])
    assert failure is None or isinstance(failure, AdapterError)
    assert relay.usage is None or relay.usage.input_tokens > 0
    for event in written.split(b"\n\n")[:-1]:
        name, data = event.split(b"\n")
        assert json.loads(data[6:])["type"] == name[7:].decode()


# --- whole ----------------------------------------------------------------------------------------


def test_a_whole_answer_passes_as_it_came() -> None:
    answer = {**MESSAGE, "content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn"}
    body = json.dumps(answer, indent=1).encode()
    facts, whole = request().read_whole("messages", body, IDENTITY, reads_cost=False)
    assert whole is not None and whole.body == body
    assert facts.usage is not None and facts.usage.input_tokens == 140
    assert facts.output_bytes >= 5
    assert facts.service_tier == "priority"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"content":5}', b'{"content":[]}', b"\xff"])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        native.read(body, reads_cost=False)


def test_an_error_in_a_whole_answer_is_one() -> None:
    body = b'{"type":"error","error":{"type":"api_error","message":"no"}}'
    with pytest.raises(UpstreamError, match="no"):
        native.read(body, reads_cost=False)


def test_the_cost_that_openrouter_reports_is_read() -> None:
    body = encode({**MESSAGE, "usage": {**START_USAGE, "cost": 0.5, "is_byok": False}})
    facts = native.read(body, reads_cost=True)
    assert facts.cost is not None and facts.cost.nanousd == 500_000_000
