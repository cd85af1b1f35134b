"""Chat streams as no provider should send them: every dialect's grammar holds all the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import UpstreamDown
from proxy.pricing import Usage
from proxy.wire import chat, completions
from proxy.wire.dialect import Identity, Request, Stream
from proxy.wire.messages import request as messages
from proxy.wire.responses import request as responses
from tests.proxy.wire.messages.grammar import read
from tests.proxy.wire.response_events import decoded, told
from tests.proxy.wire.streams import HEAD, STOP, call, chunk, encode, entry, say

IDENTITY = Identity(request_id="req_0123456789abcdef", model="fallback", created=1)
SAID = {"model": "m", "stream": True}
HI = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}]

REQUESTS: dict[str, Request] = {
    "chat": chat.parse(encode({**SAID, "messages": HI})),
    "completions": completions.parse(encode({**SAID, "prompt": "hi"})),
    "messages": messages.parse(encode({**SAID, "messages": HI, "max_tokens": 5})),
    "responses": responses.parse(encode({**SAID, "input": "hi", "tools": TOOLS})),
}

_texts = st.sampled_from(["", "a", "{}", '{"a":1}', "}", "\ud83d", "\udc4b", 'é\n"\\', "≡text≡"])
_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _texts,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["type", "text", "id", "index", "name", "google", "content"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=4,
)


def _members(**of: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=of)


_called = _members(name=st.sampled_from(["f", "g", ""]), arguments=_texts, input=_texts) | _anything
_entries = _members(
    index=st.sampled_from([0, 1, None]) | _anything,
    id=st.sampled_from(["c0", "c1", ""]) | _anything,
    type=_anything,
    function=_called,
    custom=_called,
    extra_content=_anything,
)
_details = _members(
    type=st.sampled_from(["reasoning.text", "reasoning.encrypted", "reasoning.summary"]),
    text=_texts | _anything,
    signature=_texts,
    data=_texts,
    index=_anything,
)
_deltas = _members(
    content=_texts | _anything,
    reasoning_content=_texts,
    reasoning=_anything,
    refusal=_texts,
    reasoning_details=st.lists(_details, max_size=2) | _anything,
    tool_calls=st.lists(_entries, max_size=2) | _anything,
    annotations=_anything,
    role=_anything,
)
_choices = st.fixed_dictionaries(
    {"delta": _deltas},
    optional={
        "index": st.sampled_from([0, 1]) | _anything,
        "finish_reason": st.sampled_from(["stop", "length", "tool_calls", "eos"]) | _anything,
        "logprobs": _anything,
    },
)
_chunks = st.builds(
    lambda choices, rest: {**HEAD, "choices": choices, **rest},
    st.lists(_choices, max_size=2),
    _members(usage=_anything, service_tier=_anything, id=_anything),
)


def opened(dialect: str) -> Stream:
    return REQUESTS[dialect].read_stream("chat", IDENTITY, reads_cost=False)


def check(dialect: str, events: bytes, *, is_whole: bool) -> None:
    events.decode()
    if dialect == "messages":
        read(events, is_whole=is_whole)
    elif dialect != "responses":
        assert events.endswith(b"data: [DONE]\n\n") == is_whole
    elif is_whole:
        told(events)
    else:
        numbers = [event["sequence_number"] for event in decoded(events)]
        assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("dialect", REQUESTS)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    sent=st.lists(_chunks | st.just(say("a")), max_size=6),
    end=st.sampled_from(["end", "cap", "fail"]),
)
def test_the_grammar_holds_whatever_a_provider_sends(
    dialect: str, sent: list[Any], end: str
) -> None:
    stream = opened(dialect)
    events, failure = stream.feed_all([json.dumps(each).encode() for each in [*sent, STOP]])
    if failure is not None or end == "fail":
        events, is_whole = events + stream.fail(UpstreamDown("it broke")), False
    elif end == "cap":
        events += stream.cap({"reason": "budget"}, Usage(input_tokens=1, output_tokens=2))
        is_whole = True
    else:
        events, is_whole = events + stream.end(), True
    check(dialect, events, is_whole=is_whole)


@pytest.mark.parametrize("dialect", REQUESTS)
@pytest.mark.parametrize(
    "sent",
    [
        [call({"index": 0, "custom": {"name": "g"}}), call(entry(0, arguments="a"))],
        [call(entry(0, "c", "f"), {"index": 0, "custom": {"input": "a"}})],
        [call({"index": 0, "id": "c", "function": {"name": "f"}, "custom": "no"})],
        [call(entry(0, "c", "f"), entry(0), finish="tool_calls")],
        [call(entry(0, "c", "f", "{}"), finish="tool_calls"), call(entry(0, arguments=""))],
        [call(entry(0, "c", "f", "{}"), finish="tool_calls"), call(entry(0, arguments="{}"))],
        [{**chunk({"content": "a"}), "choices": [{"delta": {"content": "a"}, "logprobs": "no"}]}],
    ],
)
def test_odd_calls_break_no_grammar(dialect: str, sent: list[Any]) -> None:
    stream = opened(dialect)
    events, failure = stream.feed_all([encode(each) for each in [*sent, STOP]])
    events += stream.end() if failure is None else stream.fail(UpstreamDown("it broke"))
    check(dialect, events, is_whole=failure is None)


def test_a_call_in_one_piece_keeps_its_id_beside_others_without_arguments() -> None:
    stream = opened("responses")
    events, _ = stream.feed_all([encode(call(entry(0, "c", "f"), entry(0), finish="tool_calls"))])
    (made,) = told(events + stream.end()).of("function_call")
    assert (made["call_id"], made["name"], made["arguments"]) == ("c", "f", "{}")
