"""What a model thinks, told from what it says.

Source: the chat templates of DeepSeek-R1 and Qwen3, which put thoughts between these marks; some
write the first of them themselves, at the end of the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from adapters.children.stops import overlap

Kind = Literal["reasoning_content", "content"]

_OPENING, _CLOSING = "<think>", "</think>"


def is_begun(prompt: str) -> bool:
    """Whether a prompt ends in the middle of a thought."""
    return prompt.rstrip().endswith(_OPENING)


class Thoughts:
    """Cuts a text, as it comes, into the thoughts at its beginning and the answer after them."""

    def __init__(self, *, is_thinking: bool) -> None:
        self._kind: Kind | None = "reasoning_content" if is_thinking else None
        self._text = ""
        self._skips_blanks = False  # those between a thought and the answer

    def feed(self, text: str) -> Iterator[tuple[Kind, str]]:
        """What is sure of it."""
        self._text += text
        if self._kind is None:
            self._begin()
        if self._kind == "reasoning_content":
            yield from self._think()
        if self._skips_blanks:
            self._text = self._text.lstrip()
            self._skips_blanks = not self._text
        if self._kind == "content" and self._text:
            yield "content", self._take(len(self._text))

    def end(self) -> Iterator[tuple[Kind, str]]:
        """What is left when the model has ended."""
        if self._text:
            yield self._kind or "content", self._take(len(self._text))

    def _begin(self) -> None:
        start = self._text.lstrip()
        if start.startswith(_OPENING):
            self._kind, self._text = "reasoning_content", start[len(_OPENING) :]
        elif not _OPENING.startswith(start):
            self._kind = "content"

    def _think(self) -> Iterator[tuple[Kind, str]]:
        end = self._text.find(_CLOSING)
        thought = self._take(end if end >= 0 else len(self._text) - overlap(self._text, _CLOSING))
        if thought:
            yield "reasoning_content", thought
        if end >= 0:
            self._kind, self._text = "content", self._text[len(_CLOSING) :]
            self._skips_blanks = True

    def _take(self, length: int) -> str:
        taken, self._text = self._text[:length], self._text[length:]
        return taken
