"""`expect` in `router.yaml`: whether the rules, models and policies decide as the operator says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from policies.base import Denial
from policies.constraints import matches
from proxy.auth import ANONYMOUS
from proxy.circuits import Circuits
from proxy.clock import Clock
from proxy.config import Circuit, Expectation
from proxy.errors import ApiError
from proxy.explain import parse
from proxy.figures import Figures
from proxy.moments import parse_moment
from proxy.routing import Decision, Router
from proxy.targets import TargetTable


def unmet(
    expected: Iterable[Expectation], table: Callable[[], TargetTable], clock: Clock
) -> list[str]:
    """What is not as expected, a line each with its place; by what is declared of targets."""
    router = Router(
        table=table,
        figures=Figures(clock),
        circuits=Circuits(Circuit(), clock),
        secret=b"",
        clock=clock,
    )
    found = ((i, each, _problem(each, router)) for i, each in enumerate(expected))
    return [f"expect[{i}]: {each.ask[:100]!r} {problem}" for i, each, problem in found if problem]


def _problem(expected: Expectation, router: Router) -> str:
    try:
        decision = _decided(expected, router)
    except ApiError as error:
        return "" if expected.refused else f"is refused: {error.message}"
    if expected.rules is not None and decision.rules != expected.rules:
        held = ", ".join(decision.rules) or "none"
        return f"has the rules {held}, not {', '.join(expected.rules) or 'none'}"
    if isinstance(decision.outcome, Denial):
        reasons = "; ".join(f"{r.target}: {r.reason}" for r in decision.outcome.rejections)
        return "" if expected.refused else f"is refused: {reasons or 'there is no target'}"
    first = decision.outcome.choices[0]
    if expected.refused:
        return f"is not refused but goes to {first.target} ({first.reason})"
    if expected.target is not None and not matches(first.target, expected.target):
        return f"goes to {first.target} ({first.reason}), not to {expected.target}"
    return ""


def _decided(expected: Expectation, router: Router) -> Decision:
    body: dict[str, Any] = {
        "model": expected.model,
        "messages": [{"role": "user", "content": expected.ask}],
    }
    if expected.input_tokens is not None:
        body["input_tokens"] = expected.input_tokens
    request = parse(msgspec.json.encode(body))
    return router.decide(
        router.find(ANONYMOUS, expected.model),
        request,
        scopes=expected.scopes,
        budget_left=expected.budget_left,
        at=parse_moment(expected.at),
    )
