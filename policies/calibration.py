"""From scores to shares and back: where to cut so that so many requests are answered by the best.

A score only orders prompts. What it means depends on the traffic and on the two models, so that the
table which comes with the weights is a start, and one made of an operator's own log is the truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

STEPS = 20


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What sending the top scores to the strong tier does, in steps of equal shares.

    Of the prompts, a share of `k / (len(scores) - 1)` scores `scores[k]` or more: they fall.
    `quality[k]` is what answers are then worth, in shares of the strong tier's; empty where no
    outcome is known.
    """

    scores: tuple[float, ...]
    quality: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for what is no table."""
        if len(self.scores) < 2 or list(self.scores) != sorted(self.scores, reverse=True):
            raise ValueError("scores must be two or more, and fall")
        if self.quality and len(self.quality) != len(self.scores):
            raise ValueError("quality must have a value for every score, or none at all")

    def threshold(self, share: float) -> float:
        """The score that this share of the prompts reaches; 0 is above every score, 1 below."""
        if share <= 0:
            return float("inf")
        if share >= 1:
            return float("-inf")
        return _between(self.scores, share)

    def share_for(self, quality: float) -> float:
        """The least share, from 0 to 1, with which answers are worth this much of the best.

        1 where no smaller one is enough. Raises ValueError for a table without outcomes.
        """
        if not self.quality:
            raise ValueError("the calibration has no outcomes")
        if self.quality[0] >= quality:
            return 0.0
        last = len(self.quality) - 1
        for step in range(1, last + 1):
            before, here = self.quality[step - 1], self.quality[step]
            if here >= quality:
                return (step - 1 + (quality - before) / (here - before)) / last
        return 1.0

    def percentile(self, score: float) -> float:
        """The share of prompts that score less, from 0 to 1: how hard this one is among them."""
        last = len(self.scores) - 1
        for step, limit in enumerate(self.scores):
            if score >= limit:
                if step == 0:
                    return 1.0
                above = self.scores[step - 1]
                return 1 - (step - (score - limit) / (above - limit)) / last
        return 0.0


def calibrate(
    scores: Sequence[float],
    weak: Sequence[float] = (),
    strong: Sequence[float] = (),
    *,
    steps: int = STEPS,
) -> Calibration:
    """A table of these prompts' scores and, where known, of what either tier's answers were worth.

    `weak` and `strong` are in any one unit in which 0 is worthless, prompt by prompt. Needs two
    prompts at least; raises ValueError for fewer, or outcomes of another number.
    """
    if len(scores) < 2:
        raise ValueError("two scores at least make a table")
    outcomes = len(weak) or len(strong)
    if outcomes and not len(weak) == len(strong) == len(scores):
        raise ValueError("outcomes must be known for every score and for both tiers")
    order = sorted(range(len(scores)), key=lambda prompt: scores[prompt], reverse=True)
    falling = [float(scores[prompt]) for prompt in order]
    # Sorted, because what is between two scores may be off by the last bit.
    table = tuple(
        sorted((_between(falling, step / steps) for step in range(steps + 1)), reverse=True)
    )
    best = sum(strong)
    if not outcomes or best <= 0:
        return Calibration(scores=table)
    worth = [float(sum(weak))]
    for prompt in order:
        worth.append(worth[-1] + strong[prompt] - weak[prompt])
    return Calibration(
        scores=table,
        quality=tuple(_between(worth, step / steps) / best for step in range(steps + 1)),
    )


def _between(values: Sequence[float], share: float) -> float:
    """What stands at this share of the way through the values, on a straight line between two."""
    place = share * (len(values) - 1)
    before = min(int(place), len(values) - 2)
    part = place - before
    return values[before] + (values[before + 1] - values[before]) * part
