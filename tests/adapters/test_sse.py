"""The event-stream decoder: the standard's rules, whatever the cuts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters.base import MalformedAnswer
from adapters.wire.sse import MAX_EVENT_BYTES, EventDecoder, NamedPayload


def decoded(chunks: Iterable[bytes], limit: int = MAX_EVENT_BYTES) -> list[bytes]:
    decoder = EventDecoder(limit=limit)
    return [payload for chunk in chunks for payload in decoder.feed(chunk)]


def named(payloads: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    """Name and payload of each event; the default name is `message`."""
    return [(getattr(payload, "event", b"message"), bytes(payload)) for payload in payloads]


def reference(stream: bytes) -> list[tuple[bytes, bytes]]:
    """The standard's algorithm, step by step, on the whole stream."""
    events = []
    data, event = b"", b""
    *lines, _unfinished = re.split(rb"\r\n|\r|\n", stream.removeprefix(b"\xef\xbb\xbf"))
    for line in lines:
        if line == b"":
            if data:
                events.append((event or b"message", data[:-1]))
            data, event = b"", b""
            continue
        field, colon, value = line.partition(b":")
        if colon and value.startswith(b" "):
            value = value[1:]
        if field == b"data":
            data += value + b"\n"
        elif field == b"event":
            event = value
    return events


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b'data: {"a": 1}\n\n', [(b"message", b'{"a": 1}')]),
        (b"data: a\n\ndata: b\n\n", [(b"message", b"a"), (b"message", b"b")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [(b"message", b"a"), (b"message", b"b")]),
        (b"data: a\r\rdata: b\r\r", [(b"message", b"a"), (b"message", b"b")]),
        (b"data: a\ndata: b\n\n", [(b"message", b"a\nb")]),
        (b"data: a\r\ndata: b\r\n\r\n", [(b"message", b"a\nb")]),
        (b"data:a\n\n", [(b"message", b"a")]),
        (b"data:  a \n\n", [(b"message", b" a ")]),
        (b"data: a: b\n\n", [(b"message", b"a: b")]),
        (b"data\n\n", [(b"message", b"")]),
        (b"data:\n\n", [(b"message", b"")]),
        (b"data: \n\n", [(b"message", b"")]),
        (b"data\ndata\n\n", [(b"message", b"\n")]),
        (b": comment\n\n", []),
        (b": comment\ndata: a\n: another\n\n", [(b"message", b"a")]),
        (b"event: ping\n\n", []),
        (b"event: ping\n\ndata: a\n\n", [(b"message", b"a")]),
        (b"event: error\ndata: a\n\ndata: b\n\n", [(b"error", b"a"), (b"message", b"b")]),
        (b"data: a\nevent: error\n\n", [(b"error", b"a")]),
        (b"event: x\nevent: y\ndata: a\n\n", [(b"y", b"a")]),
        (b"event: x\nevent\ndata: a\n\n", [(b"message", b"a")]),
        (b"event: message\ndata: a\n\n", [(b"message", b"a")]),
        (b"id: 1\nretry: 5\nunknown: x\nnonsense\ndata: a\n\n", [(b"message", b"a")]),
        (b" data: a\n\n", []),
        (b"Data: a\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [(b"message", b"a")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [(b"message", b"a")]),
        (b"\n\n\ndata: a\n\n\n\n", [(b"message", b"a")]),
        (
            "data: a\u2028b\u0085c\x0bd\x0ce\n\n".encode(),
            [(b"message", b"a\xe2\x80\xa8b\xc2\x85c\x0bd\x0ce")],
        ),
        (b"data: \xff\xfe\0\n\n", [(b"message", b"\xff\xfe\0")]),
        (b"data: a\n", []),
        (b"", []),
    ],
)
def test_follows_the_standard(stream: bytes, events: list[tuple[bytes, bytes]]) -> None:
    assert reference(stream) == events
    assert named(decoded([stream])) == events
    assert named(decoded([stream[at : at + 1] for at in range(len(stream))])) == events


fragments = st.sampled_from(
    [
        b"data: ",
        b"data:",
        b"data",
        b"event: ",
        b"event:error",
        b"id: 7",
        b"retry: 9",
        b": comment",
        b":",
        b" ",
        b"\n",
        b"\n\n",
        b"\r",
        b"\r\n",
        b"\r\n\r\n",
        b"\xef\xbb\xbf",
        b'{"content": "x"}',
        b"[DONE]",
        "日本🚕".encode(),
        b"\xff",
    ]
)
usual_events = st.sampled_from(
    [
        b'data: {"choices": []}\n\n',
        b"data: [DONE]\n\n",
        b": keepalive\n\n",
        b"event: error\ndata: {}\n\n",
        b"data: a\ndata: b\n\n",
        b"data: \n\n",
    ]
)
streams = st.lists(fragments | usual_events | st.binary(max_size=4), max_size=30).map(b"".join)


@settings(deadline=None)
@given(stream=streams, cuts=st.lists(st.integers(min_value=0, max_value=300), max_size=12))
@example(stream=b"data: a\r\n\r\ndata: b\n\n", cuts=[8, 10])
@example(stream=b"data: a\r\ndata: b\n\n", cuts=[8, 8])
@example(stream=b"data: a\n\n\ndata: b\n\n", cuts=[])
@example(stream=b"data: a\n\ndata: b\n\n", cuts=[8])
def test_any_split_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert named(decoded(chunks)) == reference(stream)


@settings(deadline=None)
@given(streams, st.integers(min_value=0, max_value=300), st.integers(min_value=1, max_value=40))
def test_a_limit_strikes_whatever_the_split(stream: bytes, cut: int, limit: int) -> None:
    def outcome(chunks: list[bytes]) -> list[bytes] | str:
        try:
            return decoded(chunks, limit)
        except MalformedAnswer as error:
            return error.message

    # An unfinished line at the end is measured as it grows, so it has its end here.
    stream += b"\n"
    assert outcome([stream]) == outcome([stream[:cut], stream[cut:]])


@settings(deadline=None)
@given(streams, st.integers(min_value=0, max_value=300))
def test_finish_gives_what_a_missing_blank_line_held_back(stream: bytes, cut: int) -> None:
    decoder = EventDecoder()
    payloads = decoder.feed(stream[:cut]) + decoder.feed(stream[cut:])
    last = decoder.finish()
    payloads += [] if last is None else [last]
    assert named(payloads) == reference(stream + b"\n\n")


def test_finish_returns_the_payload_of_an_unterminated_event() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b"data: a\n\ndata: [DONE]") == [b"a"]
    assert decoder.finish() == b"[DONE]"
    assert decoder.finish() is None


def test_finish_knows_a_complete_stream() -> None:
    decoder = EventDecoder()
    decoder.feed(b"data: a\n\n: bye")
    assert decoder.finish() is None


def test_an_event_is_given_out_with_its_last_byte() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b"data: a\r\n\r") == [b"a"]
    assert decoder.feed(b"\ndata: b\n") == []
    assert decoder.feed(b"\n") == [b"b"]


def test_a_named_payload_is_its_bytes_and_its_name() -> None:
    (payload,) = decoded([b"event: error\ndata: {}\n\n"])
    assert isinstance(payload, NamedPayload)
    assert payload == b"{}"
    assert payload.event == b"error"


def test_a_nameless_payload_is_plain_bytes() -> None:
    payloads = decoded([b"data: a\n\n", b"event: message\ndata: b\n\n"])
    assert [type(payload) for payload in payloads] == [bytes, bytes]


@pytest.mark.parametrize(
    "chunks",
    [
        [b"data: " + b"x" * 1_000 + b"\n\n"],
        [b"data: ", *[b"x" * 10] * 100],
        [b"data: 12345678\n"] * 20,
        [b"data\n"] * 200,
        [b": ", *[b"x" * 10] * 100],
        [b"event: " + b"x" * 1_000 + b"\n"],
    ],
    ids=["whole", "pieces", "lines", "empty lines", "comment", "name"],
)
def test_an_event_without_end_is_refused(chunks: list[bytes]) -> None:
    with pytest.raises(MalformedAnswer, match="larger than 100 bytes"):
        decoded(chunks, limit=100)


def test_a_long_stream_of_small_events_has_no_limit() -> None:
    stream = b"data: 12345678\n\n" * 100 + b": comment\n" * 100 + b"event: x\nid: 1\n" * 100
    assert len(decoded([stream], limit=100)) == 100
