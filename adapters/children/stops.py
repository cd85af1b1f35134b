"""The bytes of tokens as text that ends where it is told to."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Text:
    """Gives out whole characters, without the stop that ends them nor what may become one.

    `given` counts the characters given out, `decoded` those that tokens have had so far.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.is_stopped = False
        self.given = 0
        self.decoded = 0

    def feed(self, piece: bytes) -> str:
        """The text that is sure once these bytes have come."""
        decoded = self._decoder.decode(piece)
        self.decoded += len(decoded)
        text = self._held + decoded
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            return self._give(text, min(found))
        return self._give(text, len(text) - self._doubtful(text))

    def end(self) -> str:
        """What is left at the end of the tokens."""
        if self.is_stopped:
            return ""
        rest = self._decoder.decode(b"", final=True)
        self.decoded += len(rest)
        text = self._held + rest
        return self._give(text, len(text))

    def _give(self, text: str, length: int) -> str:
        self._held = text[length:]
        self.given += length
        return text[:length]

    def _doubtful(self, text: str) -> int:
        return max((overlap(text, stop) for stop in self._stops), default=0)


def overlap(text: str, mark: str) -> int:
    """How many characters at the end of a text are the beginning of a mark, but not all of it."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
