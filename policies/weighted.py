"""`weighted`: the best sum of cost, latency, quality, reliability and capabilities first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Annotated

import msgspec

from policies.base import Analysis, Candidate, Choice, Complexity, Question, Sense, Task
from policies.weights import Criterion, Weights

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]

# What is reckoned with where nothing is declared and nothing measured: neither praise nor blame.
_UNKNOWN_QUALITY = 0.5
_UNKNOWN_RELIABILITY = 0.95
_UNKNOWN_SCORE = 0.5

DEFAULT_WEIGHTS = Weights(performance=0.4, cost=0.3, reliability=0.2, capabilities=0.1)
# Whoever talks waits; of code and proofs a wrong one is worth nothing. Where costs are held against
# the dearest, all of their scale is used, and of that of quality a fifth: hence so much of it.
_FOR_QUALITY = Weights(quality=0.7, cost=0.1, reliability=0.1, latency=0.05, capabilities=0.05)
TASK_WEIGHTS: Mapping[Task, Weights] = {
    "chat": Weights(latency=0.3, quality=0.1, cost=0.3, reliability=0.2, capabilities=0.1),
    "coding": _FOR_QUALITY,
    "reasoning": _FOR_QUALITY,
}
# A request that is not read counts as one in the middle.
_UNREAD = Analysis(
    task="chat",
    complexity="medium",
    domain="general",
    language="und",
    modality="text",
    output_tokens=256,
    latency_sensitivity="normal",
)


class Scales(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a score of 0 is. Unset, it is at the dearest or slowest candidate of the request."""

    cost_per_1k_input_usd: _Positive | None = None
    """By the price of 1,000 input tokens in place of what this very request is expected to cost."""
    latency_ms: _Positive | None = None


class Reserve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The share of a hard budget that must be left before a request may go by its score.

    Without that much it goes by price alone. A caller under no hard budget always goes by score.
    """

    simple: _Share = 1.0
    medium: _Share = 0.5
    complex: _Share = 0.3
    very_complex: _Share = 0.1

    def of(self, complexity: Complexity) -> float:
        """The share for requests of this complexity."""
        share: float = getattr(self, complexity)
        return share


class WeightedOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `router.yaml` may say of a weighted choice."""

    weights: Weights | None = None
    task_weights: dict[Task, Weights] | None = None
    """In place of `weights` for requests of a kind; ours, where both are left out."""
    scales: Scales = Scales()
    reserve: Reserve = Reserve()


class Weighted:
    """By score; equal ones by expected cost, then in configuration order."""

    name = "weighted"
    reads: frozenset[Sense] = frozenset({"prompt", "budget", "live", "weights"})
    Options = WeightedOptions

    def __init__(self, options: WeightedOptions) -> None:
        self._options = options
        self._weights = options.weights or DEFAULT_WEIGHTS
        # Weights of the operator's own are for every task that has none.
        ours = TASK_WEIGHTS if options.weights is None else {}
        self._task_weights = ours if options.task_weights is None else options.task_weights

    def decide(self, question: Question, candidates: Sequence[Candidate]) -> tuple[Choice, ...]:
        """The candidates by score; by price alone where the budget has no more than that left."""
        analysis = question.analysis or _UNREAD
        scored = self._scored(question, candidates, analysis)
        needed = self._options.reserve.of(analysis.complexity)
        left = question.budget_left
        # A full budget is left for simple requests too, and buys them nothing.
        if left is not None and left <= needed:
            why = f"by price: {analysis.complexity}, {left:.0%} of the budget left; "
            scored.sort(key=lambda entry: entry[0])
        else:
            why = ""
            scored.sort(key=lambda entry: (-entry[1], entry[0]))
        return tuple(
            Choice(
                target=candidate.name,
                reason=f"{why}score {score:.3f} for {analysis.task}",
                score=round(score, 6),
                scores=scores,
            )
            for _, score, scores, candidate in scored
        )

    def _scored(
        self, question: Question, candidates: Sequence[Candidate], analysis: Analysis
    ) -> list[tuple[float, float, Mapping[str, float], Candidate]]:
        """Each candidate with its expected cost, its score, and that by criterion."""
        weights = question.weights or self._task_weights.get(analysis.task) or self._weights
        case = _Case(
            question=question,
            candidates=candidates,
            analysis=analysis,
            scales=self._options.scales,
            costs=[candidate.cost_nanousd(question) for candidate in candidates],
        )
        names, shares = zip(*weights.shares, strict=True)
        by_candidate = zip(*(_CRITERIA[name](case) for name in names), strict=True)
        scored: list[tuple[float, float, Mapping[str, float], Candidate]] = []
        for candidate, cost, found in zip(candidates, case.costs, by_candidate, strict=True):
            scores = {name: round(each, 6) for name, each in zip(names, found, strict=True)}
            score = math.fsum(map(mul, shares, found))
            scored.append((math.inf if cost is None else cost, score, scores, candidate))
        return scored


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """What the criteria go by; `costs` are those of the candidates, in their order."""

    question: Question
    candidates: Sequence[Candidate]
    analysis: Analysis
    scales: Scales
    costs: Sequence[int | None]


def _cost(case: _Case) -> Sequence[float]:
    """What is saved of the scale; nothing where no price is known."""
    if case.scales.cost_per_1k_input_usd is not None:
        most = case.scales.cost_per_1k_input_usd * 1e12  # nano-USD a million tokens
        return [_below(candidate.input_nanousd, most, 0.0) for candidate in case.candidates]
    dearest = max((cost for cost in case.costs if cost is not None), default=0)
    return [_below(cost, dearest, 0.0) for cost in case.costs]


def _latency(case: _Case) -> Sequence[float]:
    """What is saved of the scale, or of the slowest.

    To the first token; of an answer that comes whole to its end, where the speeds are known.
    """
    times = [candidate.latency_ms for candidate in case.candidates]
    if case.scales.latency_ms is not None:
        return [_below(ms, case.scales.latency_ms, _UNKNOWN_SCORE) for ms in times]
    speeds = [candidate.tokens_per_second for candidate in case.candidates]
    if not case.question.stream and all(speeds):
        tokens = case.question.expected_output
        times = [
            None if ms is None or not speed else ms + tokens / speed * 1e3
            for ms, speed in zip(times, speeds, strict=True)
        ]
    slowest = max((ms for ms in times if ms is not None), default=0.0)
    return [_below(ms, slowest, _UNKNOWN_SCORE) for ms in times]


def _quality(case: _Case) -> Sequence[float]:
    known = [candidate.quality_of(case.analysis.task) for candidate in case.candidates]
    return [_UNKNOWN_QUALITY if quality is None else quality for quality in known]


def _reliability(case: _Case) -> Sequence[float]:
    known = [candidate.reliability for candidate in case.candidates]
    return [_UNKNOWN_RELIABILITY if share is None else share for share in known]


def _capabilities(case: _Case) -> Sequence[float]:
    """Half for what it is made for, half for how much it can do beside the others."""
    kinds = {case.analysis.task, case.analysis.domain}
    most = max(len(candidate.capabilities) for candidate in case.candidates) or 1
    return [
        (0.5 if kinds & candidate.specialisations else 0.0) + len(candidate.capabilities) / most / 2
        for candidate in case.candidates
    ]


_CRITERIA: Mapping[Criterion, Callable[[_Case], Sequence[float]]] = {
    "cost": _cost,
    "latency": _latency,
    "quality": _quality,
    "reliability": _reliability,
    "capabilities": _capabilities,
}


def _below(amount: float | None, most: float, unknown: float) -> float:
    """How far an amount is below the scale's end: from 0 there to 1."""
    if amount is None:
        return unknown
    return 1.0 - min(1.0, amount / most) if most > 0 else 1.0
