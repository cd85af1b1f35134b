"""Decoding AWS's binary event streams (`application/vnd.amazon.eventstream`) as they arrive.

Source: Smithy's specification, "Amazon Event Stream Specification".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final
from zlib import crc32

import msgspec

from adapters.base import MalformedAnswer
from adapters.wire.sse import NamedPayload

CONTENT_TYPE: Final = "application/vnd.amazon.eventstream"
# Both are Amazon's own limits.
MAX_HEADERS_BYTES: Final = 128 * 1024
MAX_PAYLOAD_BYTES: Final = 24 * 1024 * 1024

_PRELUDE: Final = struct.Struct("!III")  # length of all, length of the headers, checksum of both
_CHECKSUM: Final = struct.Struct("!I")
_LENGTH: Final = struct.Struct("!H")
_CHECKED: Final = 8  # bytes of the prelude that its own checksum covers
# What a header's value takes, by its type; bytes (6) and text (7) have a length of their own.
_SIZES: Final[Mapping[int, int]] = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_SIZED: Final = (6, 7)
_TEXT: Final = 7


class FailedPayload(NamedPayload):
    """What a message says that ends the stream with an error; `event` is the error's name."""


class EventStreamDecoder:
    """Turns the bytes of one event stream into the payloads of its messages, by name.

    However the bytes are cut into pieces, the same payloads come out. A message that is not whole
    (its checksums, its lengths) raises `MalformedAnswer`; the decoder is of no use after that.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._needed = _PRELUDE.size

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads of the messages that `chunk` completes, in order."""
        self._pending += chunk
        if len(self._pending) < self._needed:
            return []
        messages = bytes(self._pending)
        payloads: list[bytes] = []
        start = 0
        while (end := self._end(messages, start)) <= len(messages):
            payloads.append(_payload(messages, start, end))
            start = end
        self._needed = end - start
        del self._pending[:start]
        return payloads

    def finish(self) -> bytes | None:
        """The stream has ended: a message that was cut off says nothing."""
        return None

    def _end(self, messages: bytes, start: int) -> int:
        """Where the message ends that starts here; that of its prelude where there is no more."""
        if len(messages) < start + _PRELUDE.size:
            return start + _PRELUDE.size
        length, headers, checksum = _PRELUDE.unpack_from(messages, start)
        if crc32(messages[start : start + _CHECKED]) != checksum:
            raise MalformedAnswer("the prelude of a stream message has a wrong checksum")
        payload = length - headers - _PRELUDE.size - _CHECKSUM.size
        if headers > MAX_HEADERS_BYTES or not 0 <= payload <= MAX_PAYLOAD_BYTES:
            raise MalformedAnswer("a stream message has impossible lengths")
        return start + int(length)


def _payload(messages: bytes, start: int, end: int) -> bytes:
    body = end - _CHECKSUM.size
    if crc32(messages[start:body]) != _CHECKSUM.unpack_from(messages, body)[0]:
        raise MalformedAnswer("a stream message has a wrong checksum")
    first = start + _PRELUDE.size
    past = first + _PRELUDE.unpack_from(messages, start)[1]
    try:
        headers = dict(_headers(messages[first:past]))
    except (struct.error, IndexError, KeyError):
        raise MalformedAnswer("the headers of a stream message cannot be read") from None
    payload = messages[past:body]
    match headers.get(b":message-type"):
        case b"event":
            return NamedPayload(payload, headers.get(b":event-type", b""))
        case b"exception":
            return FailedPayload(payload, headers.get(b":exception-type", b""))
        case b"error":
            said = headers.get(b":error-message", b"").decode(errors="replace")
            text = msgspec.json.encode({"message": said})
            return FailedPayload(text, headers.get(b":error-code", b""))
    raise MalformedAnswer("a stream message is of no known type")


def _headers(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and values; only text is of use, so that any other value is empty."""
    at = 0
    while at < len(text):
        past = at + 1 + text[at]
        name, kind = text[at + 1 : past], text[past]
        at = past + 1
        if kind in _SIZED:
            (size,) = _LENGTH.unpack_from(text, at)
            at += _LENGTH.size
        else:
            size = _SIZES[kind]
        if at + size > len(text):
            raise IndexError(at)
        yield name, text[at : at + size] if kind == _TEXT else b""
        at += size
