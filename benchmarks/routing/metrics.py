"""RouteLLM's figures of a router between two models (arXiv 2406.18665, section 4), exactly.

Each prompt has a score, and what the weak and the strong model's answers are worth. As the cut-off
falls, more prompts go to the strong model, those with the highest scores first. Every distinct
score is a cut-off; prompts of one score go in equal parts (in expectation), so a constant score is
the random router and no figure depends on the order of the data. RouteLLM's own code takes ten
cut-offs, which differs in the third decimal.

PGR    the performance gap recovered: 0 is the weak model's mean, 1 the strong one's
APGR   the area under PGR over the share of strong calls: 0.5 at random
CPT(x) the least share of strong calls, in percent, with which PGR is x
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Of one router on one test; percentages are 0 to 100, and nan is what there is not."""

    apgr: float
    cpt50: float
    cpt80: float
    calls95: float
    """Share of strong calls with which quality is 95 % of the strong model's."""
    cost95: float
    """The cost then, in percent of sending all to the strong model."""
    auc: float
    """How often a prompt that gains by the strong model scores above one that does not."""


def figures(score: Array, weak: Array, strong: Array, *, price_ratio: float = 0.0) -> Figures:
    """All figures; `price_ratio` is what the weak model costs, the strong one costing 1."""
    share, quality = curve(score, weak, strong)
    recovered = (quality - weak.mean()) / (strong.mean() - weak.mean())
    calls = _first(share, quality, 0.95 * strong.mean())
    return Figures(
        apgr=float(np.trapezoid(recovered, share)),
        cpt50=100 * _first(share, recovered, 0.5),
        cpt80=100 * _first(share, recovered, 0.8),
        calls95=100 * calls,
        cost95=100 * (calls + (1 - calls) * price_ratio),
        auc=auc(score, strong > weak),
    )


def curve(score: Array, weak: Array, strong: Array) -> tuple[Array, Array]:
    """Share of strong calls, from 0 to 1, and mean quality at each of them."""
    order = np.argsort(-score, kind="stable")
    sorted_score = score[order]
    ends = np.flatnonzero(np.append(sorted_score[1:] != sorted_score[:-1], True))
    gained = np.cumsum((strong - weak)[order])[ends]
    share = np.concatenate([[0.0], (ends + 1) / len(score)])
    return share, weak.mean() + np.concatenate([[0.0], gained]) / len(score)


def auc(score: Array, label: NDArray[np.bool_]) -> float:
    """The area under the ROC curve, ties counting half; nan where all labels are the same."""
    positive = int(label.sum())
    negative = len(label) - positive
    if not positive or not negative:
        return float("nan")
    _, value, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = np.cumsum(count) - (count - 1) / 2
    above = rank[value][label].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))


def interval(
    score: Array,
    weak: Array,
    strong: Array,
    *,
    price_ratio: float = 0.0,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % of each figure over prompts drawn anew, with replacement (percentile bootstrap)."""
    draw = np.random.default_rng(seed)
    found: list[Figures] = []
    for _ in range(resamples):
        drawn = draw.integers(0, len(score), len(score))
        if strong[drawn].mean() > weak[drawn].mean():
            found.append(figures(score[drawn], weak[drawn], strong[drawn], price_ratio=price_ratio))
    return {name: _middle([getattr(one, name) for one in found]) for name in NAMES}


NAMES = tuple(field.name for field in fields(Figures))


def _middle(values: list[float]) -> tuple[float, float]:
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def _first(x: Array, y: Array, target: float) -> float:
    """The smallest x at which the line through the points reaches the target; nan if nowhere."""
    reached = np.flatnonzero(y >= target - 1e-12)
    if not len(reached):
        return float("nan")
    here = int(reached[0])
    if here == 0 or y[here] == y[here - 1]:
        return float(x[here])
    part = (target - y[here - 1]) / (y[here] - y[here - 1])
    return float(x[here - 1] + part * (x[here] - x[here - 1]))
