"""What a prompt looks like, in numbers: its length, what it is about, and the words it uses.

One pass over `SAMPLED_CHARACTERS` of the text at most, whatever is in it, with nothing kept between
calls. The words that tell a subject (`subjects.json`: a dozen languages, then scripts that put no
spaces between words) are compared by their first six letters, which is stemming enough.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

# Orders stand at the beginning or at the end of a long text.
SAMPLED_CHARACTERS = 1500
_TAIL_CHARACTERS = 500

_STEM_CHARACTERS = 6
_MOST_DIGITS = 4  # a number counts by its length, and from here on all are alike
# Beyond these, prompts are as short or as long as any: a document is no harder for being a book.
_SHORT_CHARACTERS = 20
_LONG_CHARACTERS = 1200
_MANY_NUMBERS = 50
# So many words of a subject weigh half of what any number of them could.
_HALF_COUNT = 0.5
# A character of the scripts without spaces says as much as this many letters.
_LETTERS_PER_IDEOGRAPH = 3

_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_tokens = re.compile(rf"\n|\d+|[{_UNSPACED}]+|[^\W\d_{_UNSPACED}]+|[^\w\s]|_").findall
_ideographs = re.compile(f"[{_UNSPACED}]").findall


class _Subjects(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By subject: words, symbols, and phrases that are looked for anywhere. Lines of them."""

    words: dict[str, list[str]]
    symbols: dict[str, list[str]]
    phrases: dict[str, list[str]]


_subjects = msgspec.json.decode(
    Path(__file__).with_name("subjects.json").read_bytes(), type=_Subjects
)
_COUNTED = (*_subjects.words, *_subjects.symbols)
_SUBJECT_OF = {
    word[:_STEM_CHARACTERS]: _COUNTED.index(subject)
    for subject, lines in (*_subjects.words.items(), *_subjects.symbols.items())
    for word in " ".join(lines).split()
}
_PHRASES = tuple(
    (phrase, _COUNTED.index(subject))
    for subject, lines in _subjects.phrases.items()
    for phrase in " ".join(lines).split()
)
NAMES = (*_COUNTED, "length", "numbers")


@dataclass(frozen=True, slots=True)
class Features:
    """What `NAMES` name, each from 0 to 1; and the distinct words and pairs of words."""

    shape: list[float]
    terms: set[str]


def sample(text: str) -> str:
    """The text, or where it is long its beginning and its end."""
    if len(text) <= SAMPLED_CHARACTERS:
        return text
    return f"{text[: SAMPLED_CHARACTERS - _TAIL_CHARACTERS]}\n{text[-_TAIL_CHARACTERS:]}"


def features(text: str) -> Features:
    """All that weights are for, from a sample of the text."""
    text = sample(text).strip().lower()
    counts = [0] * len(_COUNTED)
    terms: set[str] = set()
    find, add = _SUBJECT_OF.get, terms.add
    numbers = 0
    before = "\n"
    for word in _tokens(text):
        if word == "\n":
            before = word
            continue
        subject = find(word[:_STEM_CHARACTERS])
        if subject is not None:
            counts[subject] += 1
        elif word.isdecimal():
            numbers += 1
            word = "0" * min(len(word), _MOST_DIGITS)
        add(word)
        add(f"{before} {word}")
        before = word
    length = len(text)
    if not text.isascii():
        length += len(_ideographs(text)) * (_LETTERS_PER_IDEOGRAPH - 1)
        for phrase, subject in _PHRASES:
            counts[subject] += phrase in text
    shape = [count / (count + _HALF_COUNT) for count in counts]
    length = min(max(length, _SHORT_CHARACTERS), _LONG_CHARACTERS)
    shape.append(math.log(length / _SHORT_CHARACTERS, _LONG_CHARACTERS / _SHORT_CHARACTERS))
    shape.append(math.log1p(min(numbers, _MANY_NUMBERS)) / math.log1p(_MANY_NUMBERS))
    return Features(shape, terms)
