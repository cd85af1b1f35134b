"""A provider's own responses and their streams, passed on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import MalformedAnswer, UpstreamError
from proxy.errors import UpstreamDown
from proxy.pricing import Usage
from proxy.wire.dialect import Identity
from proxy.wire.responses import native
from proxy.wire.responses.request import ResponsesRequest, parse
from tests.proxy.wire.response_events import decoded, told

IDENTITY = Identity(request_id="req_0123456789abcdef", model="m", created=1)
USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 15,
}
ITEM = {
    "id": "msg_up",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Hi 👋", "annotations": [], "logprobs": []}],
}


def response(status: str, **members: Any) -> dict[str, Any]:
    return {
        "id": "resp_up",
        "object": "response",
        "status": status,
        "store": False,
        "previous_response_id": None,
        "model": "up-model",
        "output": [],
        "new_member": {"a": 1.0},
        **members,
    }


def events() -> list[dict[str, Any]]:
    where = {"item_id": "msg_up", "output_index": 0, "content_index": 0}
    part = ITEM["content"][0]
    said: list[dict[str, Any]] = [
        {"type": "response.created", "response": response("in_progress")},
        {"type": "response.in_progress", "response": response("in_progress")},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**ITEM, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **where, "part": {**part, "text": ""}},
        {"type": "response.output_text.delta", **where, "delta": "Hi", "logprobs": []},
        {"type": "response.output_text.delta", **where, "delta": " 👋", "logprobs": []},
        {"type": "response.output_text.done", **where, "text": "Hi 👋", "logprobs": []},
        {"type": "response.content_part.done", **where, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": ITEM},
        {
            "type": "response.completed",
            "response": response("completed", output=[ITEM], usage=USAGE, service_tier="flex"),
        },
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(said)]


def encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def asked(**members: Any) -> ResponsesRequest:
    return parse(encode({"model": "m", "input": "hi", "stream": True, **members}))


def stream(request: ResponsesRequest | None = None) -> native.Stream:
    made = (request or asked()).read_stream("responses", IDENTITY, reads_cost=True)
    assert isinstance(made, native.Stream)
    return made


def fed(relay: native.Stream, *payloads: object) -> bytes:
    found, failure = relay.feed_all(
        [payload if isinstance(payload, bytes) else encode(payload) for payload in payloads]
    )
    if failure is not None:
        raise failure
    return found


def test_a_stream_is_passed_on_under_our_id() -> None:
    request = asked(store=True)
    relay = stream(request)
    found = told(fed(relay, *events()) + relay.end())
    assert found.response["id"] == "resp_0123456789abcdef"
    assert found.response["store"] is True
    assert found.response["new_member"] == {"a": 1.0}
    assert found.texts("output_text") == "Hi 👋"
    assert relay.usage == Usage(
        input_tokens=10,
        output_tokens=5,
        cached_tokens=4,
        cache_write_tokens=2,
        reasoning_tokens=3,
    )
    assert relay.service_tier == "flex"
    assert relay.output_bytes == len("Hi 👋".encode())
    assert relay.output_events == 2
    assert request.result.response is not None
    assert json.loads(request.result.response) == found.response


def test_deltas_pass_as_they_came() -> None:
    relay = stream()
    fed(relay, *events()[:4])
    payload = b'{"type":"response.output_text.delta", "delta":"\\ud83d","sequence_number":4}'
    assert fed(relay, payload) == b"event: response.output_text.delta\ndata: %b\n\n" % payload


def test_nothing_leaves_before_something_is_said() -> None:
    relay = stream()
    assert fed(relay, *events()[:2]) == b""
    assert not relay.has_payload
    kinds = [event["type"] for event in decoded(fed(relay, events()[2]))]
    assert kinds == [event["type"] for event in events()[:3]]


def test_a_stream_is_finished_by_its_last_event_alone() -> None:
    relay = stream()
    fed(relay, *events()[:-1])
    assert not relay.is_finished
    fed(relay, events()[-1])
    assert relay.is_finished


def test_a_failed_response_is_an_error() -> None:
    failed = {
        "type": "response.failed",
        "response": response("failed", error={"code": "server_error", "message": "Sorry"}),
    }
    with pytest.raises(UpstreamError, match="Sorry"):
        fed(stream(), failed)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "code": "c", "message": "Sorry", "param": None},
        {"type": "error", "error": {"code": "c", "message": "Sorry"}},
    ],
)
def test_an_error_event_is_an_error(event: object) -> None:
    with pytest.raises(UpstreamError, match="Sorry") as raised:
        fed(stream(), event)
    assert raised.value.code == "c"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"7",
        b"{}",
        b'{"type":7}',
        b'{"type":"response.completed","response":7}',
        b'{"type":"response.output_text.delta","delta":"x","y":"\xff"}',
        b'{"type":"response.created","response":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_what_is_no_event_is_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        fed(stream(), payload)


def test_a_stream_that_only_begins_is_malformed() -> None:
    with pytest.raises(MalformedAnswer):
        fed(stream(), *[events()[0]] * 100)


def test_a_broken_stream_goes_on_counting() -> None:
    relay = stream()
    fed(relay, *events()[:6])
    failed, error = decoded(relay.fail(UpstreamDown("gone")))
    assert (failed["type"], failed["sequence_number"]) == ("response.failed", 6)
    assert (error["type"], error["sequence_number"]) == ("error", 7)


def test_a_capped_stream_keeps_what_was_whole() -> None:
    request = asked()
    relay = stream(request)
    begun = fed(relay, *events()[:9])
    found = told(begun + relay.cap({"budget": "b"}, Usage(input_tokens=1, output_tokens=2)))
    assert found.response["status"] == "incomplete"
    assert found.response["tollway"] == {"budget": "b"}
    assert request.result.response is not None


def test_a_whole_response_gets_our_id() -> None:
    request = asked()
    body = encode(response("completed", output=[ITEM], usage=USAGE))
    facts, whole = request.read_whole("responses", body, IDENTITY, reads_cost=False)
    assert whole is not None and facts.usage is not None
    assert facts.usage.reasoning_tokens == 3
    assert facts.output_bytes == len("Hi 👋".encode())
    found = json.loads(whole.body)
    assert found == {**json.loads(body), "id": "resp_0123456789abcdef", "store": True}
    assert request.result.response == whole.body


def test_a_whole_response_that_failed_is_an_error() -> None:
    body = encode(response("failed", error={"code": "c", "message": "Sorry"}))
    with pytest.raises(UpstreamError, match="Sorry"):
        asked().read_whole("responses", body, IDENTITY, reads_cost=False)


def test_a_whole_response_that_is_no_text_is_refused() -> None:
    body = encode(response("completed", output=[])).replace(b"completed", b"\xff")
    with pytest.raises(MalformedAnswer):
        asked().read_whole("responses", body, IDENTITY, reads_cost=False)


def test_a_response_without_output_is_no_use_but_billed() -> None:
    body = encode(response("completed", output=None, usage=USAGE))
    facts, whole = asked().read_whole("responses", body, IDENTITY, reads_cost=False)
    assert whole is None
    assert facts.usage is not None


_json = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["usage", "output", "error", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
_kinds = st.sampled_from([event["type"] for event in events()] + ["error", "response.failed"])


@given(
    sent=st.lists(
        st.builds(
            lambda kind, rest: {"type": kind, **rest},
            _kinds,
            st.dictionaries(
                st.sampled_from(["delta", "response", "item", "sequence_number", "error"]),
                _json,
                max_size=3,
            ),
        ),
        max_size=5,
    )
)
def test_any_event_is_passed_on_or_refused(sent: list[dict[str, Any]]) -> None:
    relay = stream()
    found, _ = relay.feed_all([encode(event) for event in sent])
    decoded(found + relay.end())
