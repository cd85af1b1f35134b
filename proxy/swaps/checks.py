"""What an answer of the new target is held against. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from proxy.pricing import format_usd
from proxy.swaps.core import Check, Plan

_QUOTED = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What came of a check's prompt. `problem` says why there is no answer."""

    text: str = ""
    latency_ms: int = 0
    cost_nanousd: int = 0
    problem: str = ""


def problem_of(check: Check, answered: Answered) -> str | None:
    """Why an answer does not pass; None where it does."""
    if answered.problem:
        return answered.problem
    text = answered.text
    for wanted in check.contains:
        if wanted not in text:
            return f"{_quoted(wanted)} is not in the answer {_quoted(text)}"
    if check.matches and re.search(check.matches, text) is None:
        return f"{_quoted(check.matches)} does not match the answer {_quoted(text)}"
    if check.json or check.json_schema is not None:
        misfit = _json_problem(check, text)
        if misfit is not None:
            return misfit
    if check.max_latency_ms is not None and answered.latency_ms > check.max_latency_ms:
        return f"the answer took {answered.latency_ms} ms; at most {check.max_latency_ms} ms may"
    if check.max_cost_nanousd is not None and answered.cost_nanousd > check.max_cost_nanousd:
        most = format_usd(check.max_cost_nanousd)
        return f"the answer cost {format_usd(answered.cost_nanousd)}; at most {most} may"
    return None


def verdict(plan: Plan, problems: Sequence[str | None]) -> str | None:
    """Why the new target is not fit, going by what is wrong with each answer; None where it is."""
    passed = sum(problem is None for problem in problems)
    needed = len(problems) if plan.passing is None else plan.passing
    if passed >= needed:
        return None
    told = "; ".join(f"check {i}: {p}" for i, p in enumerate(problems, 1) if p is not None)
    return f"{passed} of {len(problems)} checks passed, {needed} must: {told}"


def _json_problem(check: Check, text: str) -> str | None:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return f"the answer {_quoted(text)} is no JSON: {error}"
    if check.json_schema is None:
        return None
    from proxy.swaps.schemas import misfit  # an extra, which takes long to import

    problem = misfit(value, check.json_schema)
    return None if problem is None else f"the answer does not fit the schema: {problem[:300]}"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…")
