"""`race`: several targets at the same time, and the first good answer wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from policies.base import Candidate, Choice, Question, Sense
from policies.strategies import Race


class RaceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `router.yaml` may say of a race."""

    targets: Annotated[int, msgspec.Meta(ge=2, le=10)] = 2
    """How many run at the same time; the others take the places of those that fail."""
    stagger_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 0.0
    """How long each waits for the one before it."""


class Raced:
    """The targets as the operator listed them."""

    name = "race"
    reads: frozenset[Sense] = frozenset()
    Options = RaceOptions

    def __init__(self, options: RaceOptions) -> None:
        self.strategy = Race(targets=options.targets, stagger_s=options.stagger_s)

    def decide(self, question: Question, candidates: Sequence[Candidate]) -> tuple[Choice, ...]:
        """The candidates in configuration order."""
        return tuple(Choice(target=candidate.name, reason=self.name) for candidate in candidates)
