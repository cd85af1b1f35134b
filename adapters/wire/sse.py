"""Decoding an event stream (`text/event-stream`) as it arrives.

The format is the WHATWG HTML standard's, section 9.2, "Server-sent events".
"""

from __future__ import annotations

from typing import Final

from adapters.base import MalformedAnswer

# Room for a generated image in one event, in base64.
MAX_EVENT_BYTES: Final = 16 * 1024 * 1024

_BOM: Final = b"\xef\xbb\xbf"


class NamedPayload(bytes):
    """The payload of an event that has a name of its own, in `event` (`b"error"`, for instance).

    Payloads of nameless events, and of those called `message`, are plain `bytes`.
    """

    event: bytes

    def __new__(cls, payload: bytes, event: bytes) -> NamedPayload:
        """Not `__init__`, which comes too late for bytes."""
        self = super().__new__(cls, payload)
        self.event = event
        return self


class EventDecoder:
    """Turns the bytes of one event stream into the payloads of its events.

    However the bytes are cut into pieces, the same payloads come out. Lines end in LF, CRLF or CR.
    A payload is the event's `data` lines joined by LF: bytes as they came, not checked to be
    UTF-8, and empty for an event whose only data line is empty. Events without a data line,
    comments, `id` and `retry` leave no trace.

    A line, or the data lines of one event, of more than `limit` bytes raise `MalformedAnswer`;
    the decoder is of no use after that.
    """

    # What holds at the start, and mostly ever after.
    _is_between = True  # nothing that came before has a say in what comes next
    _is_started = False
    _mark = b""  # what may turn out to be a byte order mark
    _skips_lf = False  # the last line ended in CR, which may be the first half of CRLF

    def __init__(self, *, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        # The event under way: its line that has no end yet, its data lines with an LF each, and
        # its name.
        self._line = bytearray()
        self._data = bytearray()
        self._event = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads of the events that `chunk` completes, in order."""
        # The hot path. Nearly all that providers send is whole events of one data line; these are
        # cut apart, and shown to be nothing else, by a few searches in C: with two LFs to each
        # payload there is no LF left that could begin another line.
        if self._is_between and chunk.startswith(b"data: ") and chunk.endswith(b"\n\n"):
            payloads = chunk[6:-2].split(b"\n\ndata: ")
            if (
                chunk.count(b"\n") == 2 * len(payloads)
                and b"\r" not in chunk
                and len(chunk) <= self._limit
            ):
                self._is_started = True
                return payloads
        payloads = self._feed_any(chunk)
        self._is_between = not (
            self._mark or self._skips_lf or self._line or self._data or self._event
        )
        return payloads

    def _feed_any(self, chunk: bytes) -> list[bytes]:
        if not self._is_started:
            chunk = self._without_mark(chunk)
        if self._skips_lf or b"\r" in chunk:
            chunk = self._with_lf_only(chunk)
        if not (self._line or self._data or self._event):
            return self._whole_events(chunk)
        end = self._end_of_event(chunk)
        if end == len(chunk):
            return self._by_line(chunk)
        return self._by_line(chunk[:end]) + self._whole_events(chunk[end:])

    def finish(self) -> bytes | None:
        """The stream has ended: the payload of an event that no blank line completed, or None.

        The standard discards such an event, and it may be cut anywhere; but many providers leave
        the last blank line out, so the caller decides.
        """
        if self._line:
            self._take_line(bytes(self._line))
            self._line.clear()
        return self._dispatch()

    def _whole_events(self, chunk: bytes) -> list[bytes]:
        # As in `feed`, for what is in front of an event that is cut.
        end = chunk.rfind(b"\n\n") + 2
        if chunk.startswith(b"data: ") and 2 <= end <= self._limit:
            payloads = chunk[6 : end - 2].split(b"\n\ndata: ")
            if chunk.count(b"\n", 0, end) == 2 * len(payloads):
                return payloads if end == len(chunk) else payloads + self._by_line(chunk[end:])
        return self._by_line(chunk)

    def _end_of_event(self, chunk: bytes) -> int:
        if not self._line and chunk.startswith(b"\n"):
            return 1
        blank = chunk.find(b"\n\n")
        return len(chunk) if blank < 0 else blank + 2

    def _by_line(self, chunk: bytes) -> list[bytes]:
        payloads = []
        *lines, tail = chunk.split(b"\n")
        if lines and self._line:
            lines[0] = bytes(self._line) + lines[0]
            self._line.clear()
        for line in lines:
            if line:
                self._take_line(line)
            elif (payload := self._dispatch()) is not None:
                payloads.append(payload)
        self._line += tail
        self._check_size(len(self._line))
        return payloads

    def _take_line(self, line: bytes) -> None:
        self._check_size(len(line))
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data += value.removeprefix(b" ")
            self._data += b"\n"
            self._check_size(len(self._data))
        elif name == b"event":
            self._event = value.removeprefix(b" ")

    def _dispatch(self) -> bytes | None:
        event, self._event = self._event, b""
        if not self._data:
            return None
        self._data.pop()
        payload = bytes(self._data)
        self._data.clear()
        return payload if event in (b"", b"message") else NamedPayload(payload, event)

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise MalformedAnswer(f"a stream event is larger than {self._limit} bytes")

    def _without_mark(self, chunk: bytes) -> bytes:
        chunk = self._mark + chunk
        if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
            self._mark = chunk
            return b""
        self._is_started = True
        self._mark = b""
        return chunk.removeprefix(_BOM)

    def _with_lf_only(self, chunk: bytes) -> bytes:
        if not chunk:
            return chunk
        if self._skips_lf:
            chunk = chunk.removeprefix(b"\n")
        self._skips_lf = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
