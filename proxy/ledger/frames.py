"""Frames on a byte stream: a 4-byte big-endian length, then that many bytes of MessagePack."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import msgspec

from proxy.ledger.protocol import MAX_FRAME_BYTES, Op, Reply

# A frame's length, then MessagePack's array 32: the mark, the number of elements, the elements.
_LENGTH = struct.Struct(">I")
_HEADER_BYTES = _LENGTH.size
_FRAME = struct.Struct(">IBI")
_ARRAY_32 = 0xDD
_ARRAY_HEADER_BYTES = _FRAME.size - _HEADER_BYTES

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
        # Nearly every read brings one whole frame.
        if not buffer and _HEADER_BYTES <= len(data) <= MAX_FRAME_BYTES:
            (length,) = _LENGTH.unpack_from(data)
            if length == len(data) - _HEADER_BYTES:
                return [data[_HEADER_BYTES:]]
        buffer += data
        payloads = []
        start = 0
        while len(buffer) - start >= _HEADER_BYTES:
            body = start + _HEADER_BYTES
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > MAX_FRAME_BYTES:
                raise MalformedFrame(f"a frame of {length} bytes; the bound is {MAX_FRAME_BYTES}")
            if len(buffer) - body < length:
                break
            payloads.append(bytes(buffer[body : body + length]))
            start = body + length
        del buffer[:start]
        return payloads


def frames(messages: Sequence[bytes]) -> bytes:
    """Encoded messages as frames, as few as the bound allows; each is at most half of it."""
    payload = b"".join(messages)
    if len(payload) > MAX_MESSAGE_BYTES:
        return b"".join(_frame(b"".join(some), len(some)) for some in _parted(messages))
    return _frame(payload, len(messages))


def _frame(payload: bytes, count: int) -> bytes:
    return _FRAME.pack(len(payload) + _ARRAY_HEADER_BYTES, _ARRAY_32, count) + payload


def _parted(messages: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The messages in pieces of at most half the bound."""
    gathered: list[bytes] = []
    size = 0
    for message in messages:
        if gathered and size + len(message) > MAX_MESSAGE_BYTES:
            yield gathered
            gathered, size = [], 0
        gathered.append(message)
        size += len(message)
    yield gathered


class FrameReader(Generic[T]):
    """Reads the messages of one side of a connection."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[list[T]]) -> None:
        self._splitter = FrameSplitter()
        self._decode = decoder.decode

    def feed(self, data: bytes) -> list[list[T]]:
        """The messages of each frame that `data` completes. Raises `MalformedFrame`."""
        try:
            return list(map(self._decode, self._splitter.feed(data)))
        # Text that is not UTF-8 surfaces as the codec's own error.
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedFrame(str(error)) from error


def op_reader() -> FrameReader[Op]:
    """Reads what clients send."""
    return FrameReader(msgspec.msgpack.Decoder(list[Op]))


def reply_reader() -> FrameReader[Reply]:
    """Reads what the ledger sends."""
    return FrameReader(msgspec.msgpack.Decoder(list[Reply]))
