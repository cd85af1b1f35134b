"""Training: what was set by hand, plus what the words of the prompts add to it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import scipy.sparse as sparse
from scipy.sparse.linalg import lsqr

from benchmarks.routing.contamination import overlapping
from benchmarks.routing.metrics import Array
from benchmarks.routing.outcomes import FAMILIES, Outcomes
from policies.calibration import Calibration, calibrate
from policies.difficulty import Difficulty, Weights, terms_weight
from policies.prompt_features import Features, features

# Common knowledge of which requests cheap models fail at; nothing here was fitted. Fitting it made
# the weights worse on kinds of prompts that they had not seen: there are too few kinds to fit to.
SHAPE = {
    "length": 0.9,
    "numbers": 0.2,
    "proving": 0.2,
    "computing": 0.15,
    "programming": 0.15,
    "markup": 0.12,
    "puzzles": 0.12,
    "brackets": 0.08,
    "comparing": 0.08,
    "operators": 0.08,
    "quantities": 0.08,
    "science": 0.08,
    "formats": 0.06,
    "law": 0.05,
    "money": 0.05,
    "medicine": 0.03,
    "extracting": -0.05,
    "talking": -0.06,
    "writing": -0.1,
    "facts": -0.15,
    "rewording": -0.2,
}
# Requests as people make them, in many languages, with how hard they are thought to be. They are
# trained on as one more group, and their scores are those that shares are shares of: nobody's
# traffic is exams and puzzles.
REQUESTS = Path(__file__).with_name("requests.tsv")
# What a cheap model's answers and a strong one's might be worth, by how hard the request is.
_WORTH = ((0.95, 1.0), (0.75, 1.0), (0.45, 0.95), (0.15, 0.8))
# A prompt is hard where cheap models fail; half as much again where strong ones then do not.
_GAIN = 0.5
# A term must be in so many prompts to be learned. One that is in every tenth is how people write,
# and would carry what it means in one kind of prompt over to all others.
_FEWEST_PROMPTS = 6
_COMMON = 0.1
_MOST_TERMS = 8_000
_PENALTY = 15.0
_ROUNDS = 40  # of the solver: more change nothing
_LARGEST = 127


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """The training rows, side by side."""

    found: list[Features]
    families: list[str]
    groups: list[str]
    worst: Array
    best: Array

    def __len__(self) -> int:
        return len(self.found)

    def where(self, places: Iterable[int]) -> Prompts:
        """Those rows alone."""
        kept = list(places)
        return Prompts(
            found=[self.found[place] for place in kept],
            families=[self.families[place] for place in kept],
            groups=[self.groups[place] for place in kept],
            worst=self.worst[kept],
            best=self.best[kept],
        )


def without_tests(
    training: Sequence[Outcomes], tests: Sequence[Outcomes]
) -> tuple[list[Outcomes], int]:
    """The training sets without prompts that are in a test, and how many those were."""
    seen = [prompt for test in tests for prompt in test.prompts]
    clean = [
        outcomes.where(~np.array(overlapping(outcomes.prompts, seen))) for outcomes in training
    ]
    before, after = (sum(len(one.prompts) for one in sets) for sets in (training, clean))
    return clean, before - after


def prompts(training: Sequence[Outcomes]) -> Prompts:
    """The rows of all sets, one after the other."""
    thirds = [outcomes.thirds() for outcomes in training]
    return Prompts(
        found=[features(prompt) for outcomes in training for prompt in outcomes.prompts],
        families=[FAMILIES[each.name][group] for each in training for group in each.groups],
        groups=[f"{each.name}/{group}" for each in training for group in each.groups],
        worst=np.concatenate([worst for worst, _ in thirds]),
        best=np.concatenate([best for _, best in thirds]),
    )


def with_requests(rows: Prompts) -> Prompts:
    """The rows, and after them the hand-written requests, which are a family of their own."""
    lines = REQUESTS.read_text(encoding="utf-8").splitlines()
    levels, texts = zip(*(line.split("\t") for line in lines), strict=True)
    worst, best = np.array([_WORTH[int(level)] for level in levels]).T
    return Prompts(
        found=[*rows.found, *map(features, texts)],
        families=[*rows.families, *["requests"] * len(texts)],
        groups=[*rows.groups, *["requests"] * len(texts)],
        worst=np.concatenate([rows.worst, worst]),
        best=np.concatenate([rows.best, best]),
    )


def train(rows: Prompts, calibration: Calibration) -> Weights:
    """The weights that these rows give: ridge regression of what the shape leaves unexplained."""
    target = (1 - rows.worst) + _GAIN * (rows.best - rows.worst)
    by_hand = Difficulty(by_hand_alone(calibration))
    left = target - [by_hand.of(found) for found in rows.found]
    # A group counts by the root of its size, so that no large one drowns the others.
    size = Counter(rows.groups)
    weight = np.array([size[group] ** -0.5 for group in rows.groups])
    weight /= weight.mean()
    terms = _terms(rows.found, weight)
    left -= np.average(left, weights=weight)
    root = np.sqrt(weight)
    learned = lsqr(
        sparse.diags_array(root) @ _matrix(rows.found, terms),
        root * left,
        damp=math.sqrt(_PENALTY),
        iter_lim=_ROUNDS,
    )[0]
    unit = float(np.abs(learned).max(initial=0.0)) / _LARGEST or 1.0
    rounded = {term: round(float(value) / unit) for term, value in zip(terms, learned, strict=True)}
    return Weights(
        shape=SHAPE,
        term_unit=unit,
        terms={term: value for term, value in rounded.items() if value},
        calibration=calibration,
    )


def by_hand_alone(calibration: Calibration) -> Weights:
    """Weights that have learned nothing."""
    return Weights(shape=SHAPE, term_unit=1.0, terms={}, calibration=calibration)


def train_and_calibrate(rows: Prompts, unseen: Array) -> Weights:
    """Weights with a table of the shares that reach a score, and of what answers are then worth.

    The shares are of the requests. What answers are worth is measured, on prompts of which the
    weights had not seen the family (`unseen` scores), every family counting the same.
    """
    requests = [place for place, family in enumerate(rows.families) if family == "requests"]
    size = Counter(rows.families)
    del size["requests"]
    largest = max(size.values())
    drawn: list[int] = []
    for family in sorted(size):
        members = [place for place, name in enumerate(rows.families) if name == family]
        drawn += (members * (largest // len(members) + 1))[:largest]
    measured = calibrate(
        unseen[drawn].tolist(), rows.worst[drawn].tolist(), rows.best[drawn].tolist()
    )
    weights = train(rows, _NONE)
    difficulty = Difficulty(weights)
    shares = calibrate([difficulty.of(rows.found[place]) for place in requests])
    table = Calibration(
        scores=tuple(round(score, 4) for score in shares.scores),
        quality=tuple(round(worth, 4) for worth in measured.quality),
    )
    return msgspec.structs.replace(weights, calibration=table)


def scores_unseen(rows: Prompts) -> Array:
    """Each row's score by weights that were trained without its family."""
    scores = np.zeros(len(rows))
    for family in sorted(set(rows.families)):
        is_out = np.array([name == family for name in rows.families])
        weights = train(rows.where(np.flatnonzero(~is_out)), _NONE)
        difficulty = Difficulty(weights)
        for place in np.flatnonzero(is_out):
            scores[place] = difficulty.of(rows.found[place])
    return scores


_NONE = Calibration(scores=(1.0, 0.0))


def _terms(found: Sequence[Features], weight: Array) -> list[str]:
    """Those to be learned, the most frequent where there are too many, in alphabetical order."""
    prompts_with: Counter[str] = Counter()
    share_of: Counter[str] = Counter()
    for each, its_weight in zip(found, weight / weight.sum(), strict=True):
        prompts_with.update(each.terms)
        for term in each.terms:
            share_of[term] += its_weight
    usable = [
        term
        for term, number in prompts_with.items()
        if number >= _FEWEST_PROMPTS and share_of[term] <= _COMMON
    ]
    usable.sort(key=lambda term: (-prompts_with[term], term))
    return sorted(usable[:_MOST_TERMS])


def _matrix(found: Sequence[Features], terms: Sequence[str]) -> sparse.csr_array:
    """A row a prompt: for each learned term in it, what `Difficulty` multiplies its weight by."""
    column = {term: place for place, term in enumerate(terms)}
    columns: list[int] = []
    values: list[float] = []
    starts = [0]
    for each in found:
        known = sorted(column[term] for term in each.terms if term in column)
        columns += known
        values += [1 / terms_weight(each)] * len(known)
        starts.append(len(columns))
    return sparse.csr_array((values, columns, starts), shape=(len(found), len(terms)))
