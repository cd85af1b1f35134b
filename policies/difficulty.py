"""How much a strong model would improve on a cheap one, guessed from the prompt alone.

The guess is a sum. What a prompt's length and subject say was set by hand; what its words say was
learned from the answers of some ninety models to public prompts (`benchmarks/routing`, which writes
`difficulty.json`). A word that was not learned says nothing, so a prompt unlike any in the training
is judged by its length and subject. Tens of microseconds, the standard library, no download.
"""

from __future__ import annotations

import math
from functools import cache
from operator import mul
from pathlib import Path

import msgspec

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


class Difficulty:
    """Scores prompts. Higher ones gain more by a strong model; the unit has no meaning."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._shape = [weights.shape.get(name, 0.0) for name in NAMES]

    @property
    def calibration(self) -> Calibration:
        """Of the prompts that the weights were made from."""
        return self._weights.calibration

    def score(self, text: str) -> float:
        """The score of a text, whatever it is: finite, and the same every time."""
        return self.of(features(text))

    def of(self, found: Features) -> float:
        """The score of a text's features."""
        by_shape: float = sum(map(mul, self._shape, found.shape))
        return by_shape + self._by_words(found)

    def reasons(self, found: Features) -> tuple[str, ...]:
        """What moves the score of a text most, most first: `+proving`, `-facts`, `+words`.

        Length is not among them, since every text has one; nor is any word of the text, since this
        is written down where prompts are not.
        """
        moves = [
            (weight * value, name)
            for name, weight, value in zip(NAMES, self._shape, found.shape, strict=True)
            if name != "length"
        ]
        moves.append((self._by_words(found), "words"))
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
    return Difficulty(msgspec.json.decode(WEIGHTS.read_bytes(), type=Weights))
