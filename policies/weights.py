"""How much each criterion counts in a weighted choice."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, get_args

import msgspec

Criterion = Literal["cost", "latency", "quality", "reliability", "capabilities"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)

# So that a sum of them is a number that says something.
_Weight = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]


class Weights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """Of any sum: only their ratios count. What is not named does not count at all.

    `performance` is latency and quality in equal parts.
    """

    cost: _Weight = 0.0
    latency: _Weight = 0.0
    quality: _Weight = 0.0
    reliability: _Weight = 0.0
    capabilities: _Weight = 0.0
    performance: _Weight = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError where nothing counts."""
        if not any(getattr(self, name) for name in self.__struct_fields__):
            raise ValueError("at least one weight must be above 0")

    @cached_property
    def shares(self) -> tuple[tuple[Criterion, float], ...]:
        """The criteria that count, with their parts of 1."""
        half = self.performance / 2
        amounts = {name: float(getattr(self, name)) for name in CRITERIA}
        amounts["latency"] += half
        amounts["quality"] += half
        total = sum(amounts.values())
        return tuple((name, amount / total) for name, amount in amounts.items() if amount)


def parse(text: str) -> Weights:
    """`cost=0.7,latency=0.2` as weights; raises ValueError that names what is wrong in it."""
    amounts: dict[str, float] = {}
    for part in text.split(","):
        name, equals, amount = (piece.strip() for piece in part.partition("="))
        if not equals or name not in Weights.__struct_fields__:
            known = ", ".join(Weights.__struct_fields__)
            raise ValueError(f"{part.strip()[:100]!r} is not of the form NAME=NUMBER with {known}")
        if name in amounts:
            raise ValueError(f"{name!r} is there twice")
        try:
            amounts[name] = float(amount)
        except ValueError:
            raise ValueError(f"{name}: {amount[:100]!r} is no number") from None
    try:
        return msgspec.convert(amounts, Weights)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
