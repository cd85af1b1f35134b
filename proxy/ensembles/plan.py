"""What the strategy of a route comes to, and what it can cost at most, before anything is asked."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, assert_never

from policies.base import Route
from policies.strategies import Cascade, Consensus, Hedge, Judge, Race, Strategy
from proxy import costs
from proxy.ensembles.judge import picking_request
from proxy.targets import Target, TargetTable
from proxy.wire.dialect import Request

_BYTES_PER_TOKEN = 4
_CHECKS = ("regex", "json", "schema", "confidence", "judge")


def most_nanousd(request: Request, target: Target) -> int:
    """The most that one answer of a target can cost; 0 where no price is known."""
    most = request.max_output_tokens
    default_max = costs.default_maximum(request, target)
    return costs.bounds_of(request, target, most, default_max, metered=False).most


def shown(route: Route, request: Request, table: TargetTable) -> dict[str, Any] | None:
    """A strategy as JSON has it; None where the targets are asked one after the other.

    `worst_case_cost_usd` is for every attempt at its hold, those that are made for others that
    failed included, and null where a price is not known.
    """
    strategy = route.strategy
    if strategy is None:
        return None
    worst = _worst_nanousd(route, strategy, request, table)
    return {
        "kind": type(strategy).__name__.lower(),
        **_told(strategy),
        "worst_case_cost_usd": None if worst is None else worst / 1e9,
    }


def _told(strategy: Strategy) -> dict[str, Any]:
    """What callers are told of a strategy: not what its judge is told."""
    match strategy:
        case Race() | Hedge():
            return asdict(strategy)
        case Cascade(judge=judge):
            checks = [name for name in _CHECKS if getattr(strategy, name)]
            return {"checks": checks, "judge": None if judge is None else judge.target}
        case Consensus(judge=judge):
            return {
                "targets": strategy.targets,
                "judge": None if judge is None else judge.target,
            }
        case _:
            assert_never(strategy)


def _worst_nanousd(
    route: Route, strategy: Strategy, request: Request, table: TargetTable
) -> int | None:
    targets = [table.target(choice.target) for choice in route.choices]
    known = [target for target in targets if target is not None and target.price is not None]
    if len(known) < len(targets):
        return None
    answers = [most_nanousd(request, target) for target in known]
    match strategy:
        case Race():
            return sum(answers)
        case Hedge():
            return sum(answers) * (2 if len(answers) == 1 else 1)
        case Cascade(judge=judge):
            judgements, shown_to_it = len(known) - 1, 1
        case Consensus(judge=judge):
            judgements, shown_to_it = 1, min(strategy.targets, len(known))
        case _:
            assert_never(strategy)
    if judge is None:
        return sum(answers)
    target = table.target(judge.target)
    if target is None or target.price is None:
        return None
    return sum(answers) + judgements * _judgement(judge, target, request, known, shown_to_it)


def _judgement(
    judge: Judge, target: Target, request: Request, answering: list[Target], answers: int
) -> int:
    """What a judge can cost that is shown so many answers, of four bytes to the token."""
    longest = max(
        request.max_output_tokens
        or costs.default_maximum(request, each)
        or costs.DEFAULT_MAX_OUTPUT_TOKENS
        for each in answering
    )
    texts = ["x" * (_BYTES_PER_TOKEN * longest)] * answers
    return most_nanousd(picking_request(judge, target, request, texts), target)
