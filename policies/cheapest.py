"""`cheapest`: the lowest expected price for this very request first."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from policies.base import Candidate, Choice, Question, Sense


class Cheapest:
    """By expected cost; equal ones in configuration order, those without a known price last."""

    name = "cheapest"
    reads: frozenset[Sense] = frozenset()

    def decide(self, question: Question, candidates: Sequence[Candidate]) -> tuple[Choice, ...]:
        """The candidates by what the question is expected to cost there."""
        priced = [(candidate.cost_nanousd(question), candidate) for candidate in candidates]
        known = sorted(
            ((cost, candidate) for cost, candidate in priced if cost is not None),
            key=itemgetter(0),
        )
        unknown = (candidate for cost, candidate in priced if cost is None)
        return (
            *(
                Choice(target=candidate.name, reason=f"expected cost ${cost / 1e9:.6f}")
                for cost, candidate in known
            ),
            *(Choice(target=candidate.name, reason="no known price") for candidate in unknown),
        )
