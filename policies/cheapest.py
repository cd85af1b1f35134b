"""`cheapest`: the lowest expected price for this very request first."""

from __future__ import annotations

import math
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
        priced: list[tuple[float, str]] = []
        for candidate in candidates:
            cost = candidate.price_nanousd(input_tokens, output_tokens)
            priced.append((math.inf if cost is None else cost, candidate.name))
        priced.sort(key=itemgetter(0))
        choices = [
            Choice(
                target=name,
                reason="no known price" if cost == math.inf else f"expected cost ${cost / 1e9:.6f}",
            )
            for cost, name in priced
        ]
        return tuple(choices)
