"""The learned router, made anew of an operator's own log: its dial, and its weights.

The dial is recalibrated to what was asked. The weights are refitted to what callers said of the
cheap tier's answers: a prompt is hard where these were bad. They are only taken if they tell bad
answers from good ones better than the weights in use, on answers that the fit has not seen.

Pure arithmetic on two dozen numbers a prompt; no word of any prompt is needed.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from policies.base import Reading
from policies.calibration import calibrate
from policies.difficulty import Difficulty, OwnWeights
from policies.prompt_features import NAMES

LEAST_REQUESTS = 100
"""Of fewer no table is made."""

LEAST_LABELS = 100
LEAST_OF_EACH = 10
"""Of good and of bad answers that are held back, so that comparing says anything."""

SURE = 0.95
"""In so large a share of resamples the refit has to be the better one."""

# The latest ones. A fit to as many takes half a minute.
_MOST_LABELS = 10_000
_HELD_BACK = 0.3
_RESAMPLES = 400
_FOLDS = 4
# How strongly what is not in the weights in use is held at zero; the best is found by folds. The
# last one allows no change.
_RIDGES = (3.0, 30.0, 300.0, 1e9)
_NEWTON_STEPS = 12
_NEGLIGIBLE = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A request that was written down; `worth` of the cheap tier's answer, if it was judged."""

    request_id: str
    readings: tuple[Reading, ...]
    worth: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Refit:
    """How a refit compares with what is in use, on what it has not seen."""

    labels: int
    held_back: int
    auc_before: float
    auc_after: float
    better_in: float
    """The share of resamples of the held-back answers in which it is the better one."""

    @property
    def is_kept(self) -> bool:
        """Whether it improves."""
        return self.better_in >= SURE


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """What came of it: `own` is ready to be written."""

    own: OwnWeights
    requests: int
    labels: int
    refit: Refit | None
    """None where there are too few labels, or all but a few are alike."""


def learn(examples: Sequence[Example], used: Difficulty) -> Learned:
    """A table of what was asked, and weights if they improve on those in use.

    Raises ValueError for fewer than `LEAST_REQUESTS`.
    """
    if len(examples) < LEAST_REQUESTS:
        raise ValueError(f"{len(examples)} requests are too few; {LEAST_REQUESTS} make a table")
    labelled = [each for each in examples if each.worth is not None][-_MOST_LABELS:]
    shape, words = used.shape, used.words
    refit = None
    if len(labelled) >= LEAST_LABELS:
        fitted = _refitted(labelled, used)
        if fitted is not None:
            refit, found = fitted
            if refit.is_kept:
                *changed, words = found
                shape = tuple(changed)
    best = used.with_weights(shape, words)
    table = calibrate([score(best, each) for each in examples])
    made: dict[str, object] = {"requests": len(examples), "labels": len(labelled)}
    if refit is not None:
        made |= {
            "held_back": refit.held_back,
            "auc_before": round(refit.auc_before, 4),
            "auc_after": round(refit.auc_after, 4),
            "better_in": round(refit.better_in, 4),
            "kept": refit.is_kept,
        }
    own = OwnWeights(
        shape=dict(zip(NAMES, shape, strict=True)), words=words, calibration=table, made=made
    )
    return Learned(own=own, requests=len(examples), labels=len(labelled), refit=refit)


def score(difficulty: Difficulty, example: Example) -> float:
    """As `learned` scores a request: by the harder of its messages."""
    return max(map(difficulty.weigh, example.readings))


def auc(scores: Sequence[float], is_bad: Sequence[bool]) -> float:
    """How often a bad one scores above a good one, ties counting half; 0.5 without either."""
    good = sorted(value for value, bad in zip(scores, is_bad, strict=True) if not bad)
    bad = [value for value, bad in zip(scores, is_bad, strict=True) if bad]
    if not good or not bad:
        return 0.5
    above = sum(bisect_left(good, value) + bisect_right(good, value) for value in bad)
    return above / (2 * len(good) * len(bad))


# --- the refit ---------------------------------------------------------------------------------


def _refitted(
    labelled: Sequence[Example], used: Difficulty
) -> tuple[Refit, tuple[float, ...]] | None:
    """The weights of shape and words, and how they do; None where nothing can be compared."""
    held = [each for each in labelled if _is_held_back(each.request_id)]
    seen = [each for each in labelled if not _is_held_back(each.request_id)]
    is_bad = [_is_bad(each) for each in held]
    if min(sum(is_bad), len(is_bad) - sum(is_bad)) < LEAST_OF_EACH:
        return None
    found = _fitted(seen, used)
    after = used.with_weights(found[:-1], found[-1])
    scores = [(score(used, each), score(after, each)) for each in held]
    refit = Refit(
        labels=len(labelled),
        held_back=len(held),
        auc_before=auc([before for before, _ in scores], is_bad),
        auc_after=auc([now for _, now in scores], is_bad),
        better_in=_better_in(scores, is_bad),
    )
    return refit, found


def _is_held_back(request_id: str) -> bool:
    """The same for a request whenever it is asked: no later fit sees what an earlier held back."""
    digest = blake2b(request_id.encode("utf-8", "replace"), digest_size=4).digest()
    return int.from_bytes(digest) < _HELD_BACK * 2**32


def _is_bad(example: Example) -> bool:
    assert example.worth is not None
    return example.worth < 0.5


def _better_in(scores: Sequence[tuple[float, float]], is_bad: Sequence[bool]) -> float:
    """The share of resamples in which the second score tells bad from good better."""
    lots = random.Random(0)  # noqa: S311 # the same figures every time
    better = 0
    for _ in range(_RESAMPLES):
        drawn = lots.choices(range(len(scores)), k=len(scores))
        bad = [is_bad[place] for place in drawn]
        before = auc([scores[place][0] for place in drawn], bad)
        better += auc([scores[place][1] for place in drawn], bad) > before
    return better / _RESAMPLES


def _fitted(seen: Sequence[Example], used: Difficulty) -> tuple[float, ...]:
    """The weights of shape and words that tell how bad answers were, by the best of the ridges."""
    rows = _Rows.of(seen, used)
    losses = {ridge: _loss_by_folds(rows, ridge) for ridge in _RIDGES}
    return rows.weights(_logistic(rows.values, rows.labels, min(losses, key=losses.__getitem__)))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """What is fitted: of each prompt 1, its score in use, and its features, in units of spread."""

    values: list[list[float]]
    labels: list[float]
    """How bad each answer was, from 0 to 1."""
    base: tuple[float, ...]
    """The weights in use, of shape and words."""
    spread: list[float]
    """Of the score in use, then of each feature; 0 where it is the same for all."""

    @classmethod
    def of(cls, seen: Sequence[Example], used: Difficulty) -> _Rows:
        columns: list[list[float]] = []
        spread: list[float] = []
        hardest = [max(each.readings, key=used.weigh) for each in seen]
        raw = [(used.weigh(found), *found.shape, found.words) for found in hardest]
        for column in zip(*raw, strict=True):
            mean = math.fsum(column) / len(column)
            deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in column) / len(column))
            spread.append(deviation if deviation > _NEGLIGIBLE else 0.0)
            unit = spread[-1] or 1.0
            columns.append([(x - mean) / unit for x in column])
        return cls(
            values=[[1.0, *row] for row in zip(*columns, strict=True)],
            labels=[1.0 - each.worth for each in seen if each.worth is not None],
            base=(*used.shape, used.words),
            spread=spread,
        )

    def weights(self, found: Sequence[float]) -> tuple[float, ...]:
        """What is found, as weights of the features as they are."""
        _, by_score, *by_feature = found
        kept = by_score / self.spread[0] if self.spread[0] else 0.0
        return tuple(
            kept * base + (part / unit if unit else 0.0)
            for base, part, unit in zip(self.base, by_feature, self.spread[1:], strict=True)
        )


def _loss_by_folds(rows: _Rows, ridge: float) -> float:
    """The mean loss on each fold of a fit to the others."""
    loss = 0.0
    for fold in range(_FOLDS):
        others = [n for n in range(len(rows.labels)) if n % _FOLDS != fold]
        found = _logistic([rows.values[n] for n in others], [rows.labels[n] for n in others], ridge)
        own = range(fold, len(rows.labels), _FOLDS)
        loss += math.fsum(_loss(found, rows.values[n], rows.labels[n]) for n in own)
    return loss / len(rows.labels)


def _logistic(
    rows: Sequence[Sequence[float]], labels: Sequence[float], ridge: float
) -> list[float]:
    """Logistic regression by Newton's method; all but the first two coefficients are held small."""
    width = len(rows[0])
    held = [_NEGLIGIBLE, 0.1, *[ridge] * (width - 2)]
    found = [0.0] * width
    for _ in range(_NEWTON_STEPS):
        slope = [held[i] * found[i] for i in range(width)]
        curve = [[held[i] if i == j else 0.0 for j in range(width)] for i in range(width)]
        for row, label in zip(rows, labels, strict=True):
            chance = _chance(found, row)
            weight = chance * (1 - chance)
            for i, value in enumerate(row):
                slope[i] += (chance - label) * value
                line, weighted = curve[i], weight * value
                for j in range(i + 1):
                    line[j] += weighted * row[j]
        for i in range(width):
            curve[i][i] += _NEGLIGIBLE
            for j in range(i):
                curve[j][i] = curve[i][j]
        step = _solved(curve, slope)
        found = [now - change for now, change in zip(found, step, strict=True)]
        if max(map(abs, step)) < 1e-8:
            break
    return found


def _chance(found: Sequence[float], row: Sequence[float]) -> float:
    total = math.fsum(a * b for a, b in zip(found, row, strict=True))
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, total))))


def _loss(found: Sequence[float], row: Sequence[float], label: float) -> float:
    chance = _chance(found, row)
    return -label * math.log(chance) - (1 - label) * math.log(1 - chance)


def _solved(matrix: list[list[float]], right: Sequence[float]) -> list[float]:
    """The solution of a system whose matrix is symmetric and positive: Gauss, without pivots."""
    size = len(right)
    rows = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    for i in range(size):
        for j in range(i + 1, size):
            factor = rows[j][i] / rows[i][i]
            if factor:
                rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    found = [0.0] * size
    for i in reversed(range(size)):
        known = math.fsum(rows[i][j] * found[j] for j in range(i + 1, size))
        found[i] = (rows[i][size] - known) / rows[i][i]
    return found
