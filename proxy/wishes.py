"""What a request says of how it wants to be routed: its headers, and OpenRouter's body members.

    x-tollway-weights: cost=0.7,latency=0.2,quality=0.1
    x-tollway-max-cost-usd: 0.01
    x-tollway-max-latency-ms: 1500

What cannot be understood is refused: a limit that is silently ignored is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from policies import weights
from policies.base import Candidate, Choice, Question
from policies.constraints import Constraints, is_named
from policies.weights import Weights
from proxy import request_headers
from proxy.errors import InvalidRequest
from proxy.wire.preferences import Preferences, Sort

WEIGHTS_HEADER = b"x-tollway-weights"
LIMITS = {
    b"x-tollway-max-cost-usd": "max_cost_per_request",
    b"x-tollway-max-latency-ms": "max_latency_ms",
}
_LONGEST_QUOTE = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """Weights in place of the configured ones, and constraints on top of them.

    Then, however the policy orders: `sort`, and what `order` names first. Without fallbacks only
    those are tried, or the first where it names none. `models` come after all of the model's own.
    Where parameters are required, none is left out for a target that lacks it.
    """

    weights: Weights | None = None
    constraints: tuple[Constraints, ...] = ()
    sort: Sort | None = None
    order: tuple[str, ...] = ()
    allows_fallbacks: bool = True
    requires_parameters: bool = False
    models: tuple[str, ...] = ()

    def and_of(self, preferences: Preferences) -> Wishes:
        """These and those of a body together."""
        provider = preferences.provider
        limits = Constraints(
            models=None if provider.only is None else frozenset(provider.only),
            excluded_models=frozenset(provider.ignore),
            max_input_price=provider.max_price.prompt,
            max_output_price=provider.max_price.completion,
            zero_retention=provider.zdr or provider.data_collection == "deny",
        )
        return replace(
            self,
            constraints=(*self.constraints, limits),
            sort=provider.sort,
            order=provider.order,
            allows_fallbacks=provider.allow_fallbacks,
            requires_parameters=provider.require_parameters,
            models=preferences.models,
        )

    def ordered(
        self, choices: tuple[Choice, ...], candidates: Sequence[Candidate], question: Question
    ) -> tuple[Choice, ...]:
        """The choices of a policy in the order that is wished for."""
        if self.sort is not None:
            by_name = {candidate.name: candidate for candidate in candidates}
            key = _SORTS[self.sort]
            choices = tuple(sorted(choices, key=lambda c: key(by_name[c.target], question)))
        if self.order:
            places = {choice.target: self._place(choice.target) for choice in choices}
            choices = tuple(sorted(choices, key=lambda choice: places[choice.target]))
            if not self.allows_fallbacks:
                choices = tuple(c for c in choices if places[c.target] < len(self.order))
        elif not self.allows_fallbacks:
            choices = choices[:1]
        return choices

    def _place(self, target: str) -> int:
        """Where the first name that is for a target stands in the order; else after all."""
        places = (place for place, name in enumerate(self.order) if is_named(target, (name,)))
        return next(places, len(self.order))


NO_WISHES = Wishes()


def _price(candidate: Candidate, question: Question) -> float:
    cost = candidate.cost_nanousd(question)
    return math.inf if cost is None else cost


def _latency(candidate: Candidate, question: Question) -> float:
    return math.inf if candidate.latency_ms is None else candidate.latency_ms


def _throughput(candidate: Candidate, question: Question) -> float:
    return -(candidate.tokens_per_second or 0.0)


_SORTS: Mapping[Sort, Callable[[Candidate, Question], float]] = {
    "price": _price,
    "latency": _latency,
    "throughput": _throughput,
}


def read(headers: Mapping[bytes, bytes]) -> Wishes:
    """The wishes in the headers of a request; raises `InvalidRequest` that names the header.

    One of ours that nothing reads is refused, too.
    """
    if not request_headers.are_in(headers):
        return NO_WISHES
    limits: dict[str, Any] = {
        name: _number(header.decode(), headers[header].decode("latin-1"), name)
        for header, name in LIMITS.items()
        if header in headers
    }
    request_headers.check(headers)
    wanted = _weights(headers[WEIGHTS_HEADER]) if WEIGHTS_HEADER in headers else None
    if not limits and wanted is None:
        return NO_WISHES
    return Wishes(weights=wanted, constraints=(Constraints(**limits),) if limits else ())


def _weights(text: bytes) -> Weights:
    try:
        return weights.parse(text.decode("latin-1"))
    except ValueError as error:
        name = WEIGHTS_HEADER.decode()
        raise InvalidRequest(f"{name}: {error}", param=name) from None


def _number(header: str, text: str, field: str) -> float:
    """A number that the constraint of that name may be."""
    try:
        return float(getattr(msgspec.convert({field: float(text)}, Constraints), field))
    except (ValueError, msgspec.ValidationError):
        raise InvalidRequest(
            f"{header}: {text[:_LONGEST_QUOTE]!r} is no amount that can be", param=header
        ) from None
