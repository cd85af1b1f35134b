"""Frames on a byte stream: a 4-byte big-endian length, then that many bytes of MessagePack."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from proxy.ledger.protocol import MAX_FRAME_BYTES, Op, Reply

_HEADER_BYTES = 4
_ARRAY_HEADER_BYTES = 5

MAX_MESSAGE_BYTES = MAX_FRAME_BYTES // 2

T = TypeVar("T")


class MalformedFrame(Exception):
    """The stream does not carry the ledger's protocol; nothing more can be read from it."""


class FrameSplitter:
    """Cuts a byte stream into payloads, whatever pieces it arrives in."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that `data` completes. Raises `MalformedFrame` for one that is too long."""
        buffer = self._buffer
        buffer += data
        payloads = []
        start = 0
        while len(buffer) - start >= _HEADER_BYTES:
            body = start + _HEADER_BYTES
            length = int.from_bytes(buffer[start:body], "big")
            if length > MAX_FRAME_BYTES:
                raise MalformedFrame(f"a frame of {length} bytes; the bound is {MAX_FRAME_BYTES}")
            if len(buffer) - body < length:
                break
            payloads.append(bytes(buffer[body : body + length]))
            start = body + length
        del buffer[:start]
        return payloads


def frames(messages: Iterable[bytes]) -> bytes:
    """Encoded messages as frames, as few as the bound allows; each is at most half of it."""
    out = bytearray()
    gathered: list[bytes] = []
    size = 0
    for message in messages:
        if gathered and size + len(message) > MAX_MESSAGE_BYTES:
            out += _frame(gathered)
            gathered, size = [], 0
        gathered.append(message)
        size += len(message)
    out += _frame(gathered)
    return bytes(out)


def _frame(messages: Sequence[bytes]) -> bytes:
    payload = b"".join(messages)
    length = len(payload) + _ARRAY_HEADER_BYTES
    # MessagePack's array 32: the mark, the number of elements, the elements.
    header = b"\xdd" + len(messages).to_bytes(4, "big")
    return length.to_bytes(_HEADER_BYTES, "big") + header + payload


class FrameReader(Generic[T]):
    """Reads the messages of one side of a connection."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[list[T]]) -> None:
        self._splitter = FrameSplitter()
        self._decoder = decoder

    def feed(self, data: bytes) -> list[list[T]]:
        """The messages of each frame that `data` completes. Raises `MalformedFrame`."""
        return [self._decode(payload) for payload in self._splitter.feed(data)]

    def _decode(self, payload: bytes) -> list[T]:
        try:
            return self._decoder.decode(payload)
        # Text that is not UTF-8 surfaces as the codec's own error.
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedFrame(str(error)) from error


def op_reader() -> FrameReader[Op]:
    """Reads what clients send."""
    return FrameReader(msgspec.msgpack.Decoder(list[Op]))


def reply_reader() -> FrameReader[Reply]:
    """Reads what the ledger sends."""
    return FrameReader(msgspec.msgpack.Decoder(list[Reply]))
