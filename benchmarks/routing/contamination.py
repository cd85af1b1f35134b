"""Which training prompts are test prompts in other words: they must not be trained on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b

# As many words in a row as GPT-3's authors took for a copy (arXiv 2005.14165, appendix C).
RUN_WORDS = 13
_words = re.compile(r"[^\W_]+").findall


def overlapping(training: Sequence[str], tests: Iterable[str]) -> list[bool]:
    """Whether each training prompt shares 13 words in a row with a test, or is one altogether.

    Case, punctuation and spacing are looked past.
    """
    known = {mark for prompt in tests for mark in _marks(prompt)}
    return [not known.isdisjoint(_marks(prompt)) for prompt in training]


def _marks(prompt: str) -> Iterable[bytes]:
    words = _words(prompt.lower())
    yield _digest(words)
    for start in range(len(words) - RUN_WORDS + 1):
        yield _digest(words[start : start + RUN_WORDS])


def _digest(words: Sequence[str]) -> bytes:
    return blake2b(" ".join(words).encode("utf-8", "replace"), digest_size=8).digest()
