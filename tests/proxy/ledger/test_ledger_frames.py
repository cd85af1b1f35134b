from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger import frames
from proxy.ledger.frames import FrameSplitter, MalformedFrame, op_reader, reply_reader
from proxy.ledger.protocol import MAX_FRAME_BYTES, Budgets, ListBudgets, Op, Settled


@given(payloads=st.lists(st.binary(max_size=300), max_size=8), data=st.data())
def test_payloads_survive_any_split_of_the_stream(
    payloads: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(len(payload).to_bytes(4, "big") + payload for payload in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    splitter = FrameSplitter()
    assert [payload for piece in pieces for payload in splitter.feed(piece)] == payloads


@given(stream=st.binary(max_size=400))
def test_garbage_is_malformed_or_waits_for_more(stream: bytes) -> None:
    try:
        op_reader().feed(stream)
    except MalformedFrame as error:
        assert str(error)


def test_a_frame_beyond_the_bound_is_refused_before_it_is_read() -> None:
    header = (MAX_FRAME_BYTES + 1).to_bytes(4, "big")
    with pytest.raises(MalformedFrame, match=str(MAX_FRAME_BYTES)):
        FrameSplitter().feed(header)


@given(count=st.integers(1, 300))
def test_encoded_messages_come_back_in_order(count: int) -> None:
    messages = [msgspec.msgpack.encode(Settled(n)) for n in range(count)]
    assert reply_reader().feed(frames.frames(messages)) == [[Settled(n) for n in range(count)]]


def test_messages_that_do_not_fit_into_one_frame_make_several() -> None:
    half = b"\xc4" * (frames.MAX_MESSAGE_BYTES - 10)
    splitter = FrameSplitter()
    sizes = [len(payload) for payload in splitter.feed(frames.frames([half, half, b"x"]))]
    assert len(sizes) == 2
    assert max(sizes) <= MAX_FRAME_BYTES


def test_ops_and_replies_are_not_taken_for_each_other() -> None:
    op: Op = ListBudgets(1)
    assert op_reader().feed(frames.frames([msgspec.msgpack.encode(op)])) == [[op]]
    reply = Budgets(1, ())
    assert reply_reader().feed(frames.frames([msgspec.msgpack.encode(reply)])) == [[reply]]
