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
        input_tokens, output_tokens = question.input_tokens, question.expected_output
        known: list[tuple[int, Candidate]] = []
        last: list[Choice] = []
        for candidate in candidates:
            cost = candidate.price_nanousd(input_tokens, output_tokens)
            if cost is None:
                last.append(Choice(target=candidate.name, reason="no known price"))
            else:
                known.append((cost, candidate))
        known.sort(key=itemgetter(0))
        choices = [
            Choice(target=candidate.name, reason=f"expected cost ${cost / 1e9:.6f}")
            for cost, candidate in known
        ]
        return (*choices, *last)
