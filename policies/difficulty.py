"""How much a strong model would improve on a cheap one, guessed from the prompt alone.

The guess is a sum. What a prompt's length and subject say was set by hand; what its words say was
learned from the answers of some ninety models to public prompts (`benchmarks/routing`, which writes
`difficulty.json`). A word that was not learned says nothing, so a prompt unlike any in the training
is judged by its length and subject. Tens of microseconds, the standard library, no download.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from operator import mul
from pathlib import Path
from typing import Any

import msgspec

from policies.base import Prompt, Reading
from policies.calibration import Calibration
from policies.prompt_features import NAMES, Features, features

WEIGHTS = Path(__file__).with_name("difficulty.json")
_MOST_REASONS = 3
# The words of a short prompt are too few to be taken at their full weight.
_FEW_TERMS = 40


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What each feature adds to a score; of terms, in units of `term_unit`.

    All terms together are divided by the root of their number (`terms_weight`), so that many words
    say more than one but a long text is not judged by its length twice.
    """

    shape: dict[str, float]
    term_unit: float
    terms: dict[str, int]
    calibration: Calibration

    def __post_init__(self) -> None:
        """Raise ValueError where the weights are for other features."""
        unknown = self.shape.keys() - set(NAMES)
        if unknown:
            raise ValueError(f"no features: {', '.join(sorted(unknown))}")


class OwnWeights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator's own log says of the weights; `tollway learn` writes it.

    `shape` stands in the place of what is shipped, and all words together count `words` times.
    """

    shape: dict[str, float]
    words: float = 1.0
    calibration: Calibration
    made: dict[str, Any] = {}
    """Of what it was made, and how it did; for people."""

    def __post_init__(self) -> None:
        """Raise ValueError where the weights are for other features, or are none."""
        unknown = self.shape.keys() - set(NAMES)
        if unknown:
            raise ValueError(f"no features: {', '.join(sorted(unknown))}")
        if not all(map(math.isfinite, (*self.shape.values(), self.words))):
            raise ValueError("a weight is no finite number")


class Difficulty:
    """Scores prompts. Higher ones gain more by a strong model; the unit has no meaning."""

    def __init__(self, weights: Weights, own: OwnWeights | None = None) -> None:
        self._weights = weights
        shape = weights.shape if own is None else own.shape
        self._shape = [shape.get(name, 0.0) for name in NAMES]
        self.words = 1.0 if own is None else own.words
        """How many times the words count of what they do by the weights that are shipped."""
        self.calibration = weights.calibration if own is None else own.calibration
        """Of the prompts that the weights were made from."""

    @property
    def shape(self) -> tuple[float, ...]:
        """The weights of what `NAMES` name."""
        return tuple(self._shape)

    def with_weights(self, shape: Sequence[float], words: float) -> Difficulty:
        """The same words, and other weights of what `NAMES` name."""
        named = dict(zip(NAMES, shape, strict=True))
        own = OwnWeights(shape=named, words=words, calibration=self.calibration)
        return Difficulty(self._weights, own)

    def readings(self, prompt: Prompt) -> tuple[Reading, ...]:
        """What there is to judge a prompt by: its last message, and its first if it is another."""
        if prompt.readings:
            return prompt.readings
        texts = (prompt.text, prompt.opening) if prompt.opening else (prompt.text,)
        return tuple(self.reading(features(text)) for text in texts)

    def reading(self, found: Features) -> Reading:
        """What a text's features come to, whoever weighs them."""
        return Reading(tuple(found.shape), self._by_words(found))

    def weigh(self, reading: Reading) -> float:
        """The score of a reading."""
        by_shape: float = sum(map(mul, self._shape, reading.shape))
        return by_shape + self.words * reading.words

    def score(self, text: str) -> float:
        """The score of a text, whatever it is: finite, and the same every time."""
        return self.of(features(text))

    def of(self, found: Features) -> float:
        """The score of a text's features."""
        return self.weigh(self.reading(found))

    def reasons(self, found: Features) -> tuple[str, ...]:
        """What moves the score of a text most; see `moves`."""
        return self.moves(self.reading(found))

    def moves(self, reading: Reading) -> tuple[str, ...]:
        """What moves the score of a text most, most first: `+proving`, `-facts`, `+words`.

        Length is not among them, since every text has one; nor is any word of the text, since this
        is written down where prompts are not.
        """
        moves = [
            (weight * value, name)
            for name, weight, value in zip(NAMES, self._shape, reading.shape, strict=True)
            if name != "length"
        ]
        moves.append((self.words * reading.words, "words"))
        moves.sort(key=lambda move: (-abs(move[0]), move[1]))
        return tuple(
            f"{'+' if move > 0 else '-'}{name}" for move, name in moves[:_MOST_REASONS] if move
        )

    def _by_words(self, found: Features) -> float:
        weight = self._weights.terms.get
        # Integers: a set has no order, and their sum does not depend on one.
        said = sum([weight(term, 0) for term in found.terms])
        return said * self._weights.term_unit / terms_weight(found)


def terms_weight(found: Features) -> float:
    """What the sum of a text's terms is divided by: the root of their number, of few ones more."""
    return math.sqrt(max(len(found.terms), _FEW_TERMS))


@cache
def shipped() -> Difficulty:
    """With the weights that come with the package, read once."""
    return Difficulty(_shipped_weights())


@cache  # once, as all code of policies: a server that runs must not meet a file that was changed
def own(path: str) -> Difficulty:
    """With the operator's own weights; raises ValueError that names the file."""
    try:
        said = msgspec.json.decode(Path(path).read_bytes(), type=OwnWeights)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; 'tollway learn' makes such a file") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"{path}: {error}; 'tollway learn' makes such a file") from None
    return Difficulty(_shipped_weights(), said)


@cache
def _shipped_weights() -> Weights:
    return msgspec.json.decode(WEIGHTS.read_bytes(), type=Weights)
