"""`ordered`: the targets as the operator listed them."""

from __future__ import annotations

from collections.abc import Sequence

from policies.base import Candidate, Choice, Question, Sense


class Ordered:
    """First the first, then the next."""

    name = "ordered"
    reads: frozenset[Sense] = frozenset()

    def decide(self, question: Question, candidates: Sequence[Candidate]) -> tuple[Choice, ...]:
        """The candidates in configuration order."""
        return tuple(
            Choice(target=candidate.name, reason=f"number {place} in the configured order")
            for place, candidate in enumerate(candidates, 1)
        )
