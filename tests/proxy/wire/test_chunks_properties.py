"""Whatever an upstream sends and however it arrives, the same stream comes out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.base import AdapterError
from adapters.wire.sse import EventDecoder
from proxy.wire import chunks
from tests.proxy.wire.streams import (
    HEAD,
    USAGE,
    calls_of,
    decoded,
    finishes,
    stream,
    text_of,
)

_pieces = st.text(
    st.characters() | st.sampled_from('\ud83d\udc4b\u2028\u2261"\\/\n\0é中👋 a'), max_size=6
)


@dataclass(kw_only=True)
class Upstream:
    """A stream as one provider would send it, and what it says."""

    payloads: list[bytes]
    texts: dict[tuple[int, str], str] = field(default_factory=dict)
    calls: dict[int, list[tuple[str, str]]] = field(default_factory=dict)
    has_usage: bool = False


@st.composite
def upstreams(draw: st.DrawFn) -> Upstream:
    """Streams of a provider with fixed habits, and now and then an exception to them."""
    n = draw(st.sampled_from([1, 1, 1, 2, 3]))
    habits = _Habits(draw)
    sent = Upstream(payloads=[])
    for _ in range(draw(st.integers(0, 20))):
        index = draw(st.integers(0, n - 1))
        kind = draw(st.sampled_from(["content", "content", "content", "reasoning_content", "call"]))
        if kind == "call":
            delta = {"tool_calls": [_tool_call(draw, habits, sent.calls.setdefault(index, []))]}
        else:
            piece = draw(_pieces)
            sent.texts[index, kind] = sent.texts.get((index, kind), "") + piece
            delta = {**dict.fromkeys(habits.nulls), kind: piece}
        sent.payloads.append(habits.payload(index, delta, None))
    for index in range(n):
        sent.payloads.append(habits.payload(index, draw(st.sampled_from([{}, None])), "stop"))
    if draw(st.booleans()):
        sent.has_usage = True
        sent.payloads.append(habits.encode({**HEAD, "choices": [], "usage": USAGE}))
    return sent


class _Habits:
    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._escapes = draw(st.booleans())
        self._spaces = draw(st.booleans())
        self._repeats_role = draw(st.booleans())
        self._head = dict(HEAD)
        for name in draw(st.sets(st.sampled_from(list(HEAD)))):
            del self._head[name]
        self._tail: dict[str, Any] = draw(
            st.sampled_from(
                [{}, {"usage": None}, {"system_fingerprint": "≡text≡"}, {"error": None}]
            )
        )
        self._pads = draw(st.booleans())
        self._choice_tail = draw(st.sampled_from([{}, {"logprobs": None}]))
        self.nulls = draw(st.sets(st.sampled_from(["reasoning_content", "refusal", "tool_calls"])))
        self.ids = draw(st.sampled_from(["once", "always", "never"]))
        self.names = draw(st.sampled_from(["once", "always"]))
        self.numbers = draw(st.sampled_from(["right", "from 1", "missing", "always 0"]))

    def payload(self, index: int, delta: Any, finish: str | None) -> bytes:
        if self._repeats_role and isinstance(delta, dict):
            delta = {"role": "assistant", **delta}
        choice = {"index": index, "delta": delta, **self._choice_tail, "finish_reason": finish}
        value = {**self._head, "choices": [choice], **self._tail}
        if self._pads:
            value["obfuscation"] = "x" * self._draw(st.integers(0, 3))
        if self._draw(st.integers(0, 9)) == 0:
            value |= self._draw(
                st.sampled_from([{"id": "late"}, {"created": 5}, {"x": {"content": "y"}}])
            )
        return self.encode(value)

    def encode(self, value: dict[str, Any]) -> bytes:
        separators = (", ", ": ") if self._spaces else (",", ":")
        try:
            return json.dumps(value, separators=separators, ensure_ascii=self._escapes).encode()
        except UnicodeEncodeError:
            return json.dumps(value, separators=separators).encode()


def _tool_call(draw: st.DrawFn, habits: _Habits, calls: list[tuple[str, str]]) -> dict[str, Any]:
    """The next piece of the last call, or the first one of another."""
    begins = not calls or draw(st.integers(0, 3)) == 0
    # Names differ from one call to the next: without an id nothing else would tell them apart.
    name = f"f{len(calls)}" if begins else calls[-1][0]
    piece = draw(_pieces)
    # With its name again, text after complete arguments is how other servers begin a call.
    was_complete = not begins and calls[-1][1].endswith("}")
    if begins:
        calls.append((name, piece))
    else:
        calls[-1] = (name, calls[-1][1] + piece)
    number = len(calls) - 1
    entry: dict[str, Any] = {}
    if habits.numbers != "missing":
        entry["index"] = {"right": number, "from 1": number + 1, "always 0": 0}[habits.numbers]
    if habits.ids == "always" or (begins and habits.ids == "once"):
        entry["id"] = f"id-{number}"
    function = {"arguments": piece}
    if begins or (habits.names == "always" and not was_complete):
        function["name"] = name
    return {**entry, "type": "function", "function": function}


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


_many = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@_many
@given(upstreams(), st.booleans())
def test_what_was_said_comes_out_in_canonical_form(sent: Upstream, wants_usage: bool) -> None:
    relay = stream(wants_usage=wants_usage)
    events, failure = relay.feed_all(sent.payloads)
    assert failure is None
    assert relay.is_finished
    read = decoded(events + relay.end())
    if wants_usage and sent.has_usage:
        assert read.pop()["usage"] == USAGE
    assert len({(item["id"], item["created"], item["object"]) for item in read}) == 1
    for item in read:
        assert item.get("usage") is None
        assert ("usage" in item) == wants_usage
        assert item["choices"]
        assert "error" not in item
    for (index, field_name), text in sent.texts.items():
        assert _utf16(text_of(read, field_name, index)) == _utf16(text)
    for index, reasons in finishes(read).items():
        calls = [(c["name"], _utf16(c["arguments"])) for c in calls_of(read, index)]
        expected = [(name, _utf16(text or "{}")) for name, text in sent.calls.get(index, [])]
        assert calls == expected
        assert reasons == ["tool_calls" if calls else "stop"]
    for index in {choice["index"] for item in read for choice in item["choices"]}:
        deltas = [c["delta"] for item in read for c in item["choices"] if c["index"] == index]
        assert ["role" in delta for delta in deltas] == [True] + [False] * (len(deltas) - 1)


@_many
@given(upstreams(), st.booleans())
def test_templates_change_nothing(sent: Upstream, wants_usage: bool) -> None:
    learning, decoding = (
        stream(wants_usage=wants_usage, learns=learns) for learns in (True, False)
    )
    for payload in sent.payloads:
        by_template, by_decoding = learning.feed(payload), decoding.feed(payload)
        assert _read(by_template) == _read(by_decoding)
        assert learning.has_payload == decoding.has_payload
        assert learning.output_bytes == decoding.output_bytes
        assert learning.output_events == decoding.output_events
        assert learning.is_finished == decoding.is_finished
    assert learning.usage == decoding.usage
    assert _read(learning.end()) == _read(decoding.end())


def _read(events: bytes) -> list[Any]:
    payloads = events.removesuffix(b"\n\n").split(b"\n\n") if events else []
    return [
        payload if payload == b"data: [DONE]" else json.loads(payload.removeprefix(b"data: "))
        for payload in payloads
    ]


@_many
@given(upstreams(), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.booleans(), st.data())
def test_cuts_in_the_upstreams_bytes_change_nothing(
    sent: Upstream, line_end: bytes, bom: bool, data: st.DataObject
) -> None:
    body = (b"\xef\xbb\xbf" if bom else b"") + b"".join(
        b"data: %b%b%b" % (payload, line_end, line_end) for payload in sent.payloads
    )
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=12).map(sorted))
    at_once, relay, decoder, came = stream(), stream(), EventDecoder(), b""
    whole, _ = at_once.feed_all(sent.payloads)
    for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        events, failure = relay.feed_all(decoder.feed(body[begin:end]))
        assert failure is None
        came += events
    assert came == whole
    assert relay.output_bytes == at_once.output_bytes
    assert relay.output_events == at_once.output_events


@_many
@given(upstreams(), st.data())
def test_damaged_bytes_never_leave_broken_json(sent: Upstream, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(sent.payloads) - 1))
    payload = bytearray(sent.payloads[at])
    place = data.draw(st.integers(0, len(payload) - 1))
    payload[place] = data.draw(st.integers(0, 255))
    damaged = [*sent.payloads[:at], bytes(payload), *sent.payloads[at + 1 :]]
    learning, decoding = (stream(learns=learns) for learns in (True, False))
    events, failure = learning.feed_all(damaged)
    expected, same_failure = decoding.feed_all(damaged)
    assert type(failure) is type(same_failure)
    assert _read(events) == _read(expected)
    decoded(events + chunks.DONE)


_words = """
    id choices index delta role content tool_calls function custom name arguments input logprobs
    finish_reason usage error x_groq obfuscation model created object type
"""
_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-1, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
)
_json: st.SearchStrategy[Any] = st.recursive(
    _scalars | st.text(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_words.split()), inner, max_size=6)
    ),
    max_leaves=25,
)


@_many
@given(st.lists(_json, max_size=6), st.booleans())
def test_no_json_raises_anything_but_an_adapter_error(items: list[Any], wants_usage: bool) -> None:
    learning, decoding = (
        stream(wants_usage=wants_usage, learns=learns) for learns in (True, False)
    )
    for item in items:
        payload = json.dumps(item).replace("Infinity", "1e5").encode()
        try:
            events = learning.feed(payload)
        except AdapterError:
            return
        assert _read(events) == _read(decoding.feed(payload))
    decoded(learning.end())
