"""Amazon's event streams, however they are cut, and whatever is wrong with them."""

from __future__ import annotations

import contextlib
import itertools
import json
import struct
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import MalformedAnswer
from adapters.wire.aws_event_stream import EventStreamDecoder, FailedPayload
from adapters.wire.sse import NamedPayload
from tests.adapters import clouds

EVENT = clouds.header(":message-type", "event") + clouds.header(":event-type", "chunk")
# One header of each kind of value, in the order of their types, with a text among them.
OTHERS = b"".join(
    bytes([1]) + name + bytes([kind]) + value
    for name, kind, value in [
        (b"a", 0, b""),
        (b"b", 1, b""),
        (b"c", 2, b"\x01"),
        (b"d", 3, b"\x01\x02"),
        (b"e", 4, b"\x00" * 4),
        (b"f", 5, b"\x00" * 8),
        (b"g", 6, b"\x00\x03abc"),
        (b"h", 8, b"\x00" * 8),
        (b"i", 9, b"\x00" * 16),
    ]
)


def names_and_payloads(stream: bytes, cuts: list[int]) -> list[tuple[bytes, bytes]]:
    decoder = EventStreamDecoder()
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    found = []
    for start, end in itertools.pairwise(places):
        for payload in decoder.feed(stream[start:end]):
            assert isinstance(payload, NamedPayload)
            found.append((payload.event, bytes(payload)))
    return found


@given(
    messages=st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=200)), max_size=5),
    cuts=st.lists(st.integers(min_value=0), max_size=20),
)
def test_any_cut_gives_the_same_messages(
    messages: list[tuple[str, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(
        clouds.message(
            clouds.header(":message-type", "event") + clouds.header(":event-type", name), payload
        )
        for name, payload in messages
    )
    expected = [(name.encode(), payload) for name, payload in messages]
    assert names_and_payloads(stream, cuts) == expected


@given(data=st.data())
def test_no_flipped_bit_goes_unnoticed(data: st.DataObject) -> None:
    stream = bytearray(clouds.message(EVENT, b'{"bytes": "aGk="}'))
    place = data.draw(st.integers(0, len(stream) - 1))
    stream[place] ^= 1 << data.draw(st.integers(0, 7))
    decoder = EventStreamDecoder()
    with pytest.raises(MalformedAnswer):
        decoder.feed(bytes(stream))


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_messages_or_malformed(junk: bytes) -> None:
    decoder = EventStreamDecoder()
    with contextlib.suppress(MalformedAnswer):
        assert decoder.feed(junk) == []


@given(st.binary(max_size=60))
def test_headers_of_any_kind_are_read_or_malformed(headers: bytes) -> None:
    try:
        payloads = EventStreamDecoder().feed(clouds.message(EVENT + headers, b"{}"))
    except MalformedAnswer:
        return
    assert payloads == [b"{}"]


def test_headers_of_every_type_are_stepped_over() -> None:
    stream = clouds.message(OTHERS + EVENT, b"{}")
    assert names_and_payloads(stream, []) == [(b"chunk", b"{}")]


def test_what_these_tests_send_is_what_amazons_own_decoder_takes() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(clouds.message(OTHERS + EVENT, b"{}") + clouds.exception("x", "no"))
    first, second = buffer
    assert (first.headers[":event-type"], first.payload) == ("chunk", b"{}")
    assert first.headers["a"] is True
    assert second.headers[":exception-type"] == "x"


def test_a_message_that_is_cut_off_is_none() -> None:
    decoder = EventStreamDecoder()
    assert decoder.feed(clouds.message(EVENT, b"{}")[:-1]) == []
    assert decoder.finish() is None


@pytest.mark.parametrize(
    ("length", "headers"), [(15, 0), (16, 1), (2**31, 0), (2**20, 2**19), (0, 0)]
)
def test_impossible_lengths_are_not_waited_for(length: int, headers: int) -> None:
    lengths = struct.pack("!II", length, headers)
    with pytest.raises(MalformedAnswer, match="lengths"):
        EventStreamDecoder().feed(lengths + struct.pack("!I", crc32(lengths)))


def test_errors_are_told_from_events() -> None:
    unforeseen = clouds.header(":message-type", "error")
    unforeseen += clouds.header(":error-code", "Oops") + clouds.header(":error-message", "no")
    stream = clouds.exception("throttlingException", "slow down") + clouds.message(unforeseen, b"")
    payloads = EventStreamDecoder().feed(stream)
    assert all(isinstance(payload, FailedPayload) for payload in payloads)
    assert [json.loads(payload) for payload in payloads] == [
        {"message": "slow down"},
        {"message": "no"},
    ]


def test_a_message_of_no_known_type_is_malformed() -> None:
    with pytest.raises(MalformedAnswer):
        EventStreamDecoder().feed(clouds.message(clouds.header(":message-type", "x"), b""))
