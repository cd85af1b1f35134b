"""Exact token counts where a tokenizer is at hand: OpenAI's models, with the extra `tokens`.

Which encoding a model has is tiktoken's word; the vocabulary comes from bpe-openai, which ships it,
so that nothing is ever downloaded. Without the extra, or for any other model, nothing is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import cache

# What is counted before others get their turn: about two milliseconds.
_PIECE = 8_192


async def count(model: str, texts: Iterable[str]) -> int | None:
    """The tokens of some texts, each by itself; None where they cannot be counted exactly.

    A long text is cut into pieces and counted piece by piece, so that the event loop goes on
    between them; each cut can only add to the count, a token or two.
    """
    # Of a model that was not loaded at the start: that takes tens of milliseconds.
    encode = await asyncio.to_thread(_encoder, _encoding(model))
    if encode is None:
        return None
    total = since = 0
    for text in texts:
        for start in range(0, len(text), _PIECE):
            piece = text[start : start + _PIECE]
            total += len(encode(piece.encode("utf-8", "replace").decode()))
            since += len(piece)
            if since >= _PIECE:
                since = 0
                await asyncio.sleep(0)
    return total


def load(models: Iterable[str]) -> None:
    """Load what is needed to count the tokens of these models, if the extra is there. Blocks."""
    for name in {_encoding(model) for model in models}:
        _encoder(name)


def is_countable(model: str) -> bool:
    """Whether `count` may know the model's tokens."""
    return _encoding(model) != ""


@cache
def _encoder(name: str) -> Callable[[str], list[int]] | None:
    """Loads a vocabulary once: tens of milliseconds, and tens of megabytes."""
    if not name:
        return None
    try:
        # An extra, which takes a second to import.
        import bpe_openai

        encode: Callable[[str], list[int]] = bpe_openai.get_encoding(name).encode_ordinary
    except (ImportError, KeyError, ValueError):
        return None
    return encode


@cache
def _named() -> Callable[[str], str] | None:
    try:
        from tiktoken.model import encoding_name_for_model
    except ImportError:
        return None
    return encoding_name_for_model


def _encoding(model: str) -> str:
    """The encoding of a model, by its own name at whatever provider; "" where that is not known."""
    find = _named()
    try:
        name = "" if find is None else find(model.rpartition("/")[2].lower())
    except KeyError:
        return ""
    return "o200k_base" if name == "o200k_harmony" else name  # but for its special tokens
