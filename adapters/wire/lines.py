"""Decoding newline-delimited JSON (`application/x-ndjson`) as it arrives."""

from __future__ import annotations

from adapters.base import MalformedAnswer
from adapters.wire.sse import MAX_EVENT_BYTES


class LineDecoder:
    """Turns the bytes of one body into its lines, those that are blank left out.

    However the bytes are cut into pieces, the same lines come out. A line of more than `limit`
    bytes raises `MalformedAnswer`; the decoder is of no use after that.
    """

    def __init__(self, *, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._line = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes, without their ends."""
        *lines, tail = chunk.split(b"\n")
        if lines and self._line:
            lines[0] = bytes(self._line) + lines[0]
            self._line.clear()
        self._line += tail
        if max(len(self._line), *map(len, lines), 0) > self._limit:
            raise MalformedAnswer(f"a line of the answer is larger than {self._limit} bytes")
        return [line for line in lines if not line.isspace() and line]

    def finish(self) -> bytes | None:
        """The body has ended: the line that no end completed, or None."""
        line = bytes(self._line).strip()
        self._line.clear()
        return line or None
