"""`consensus`: several targets at the same time, and the answer that most of them give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from policies.base import Candidate, Choice, Question, Sense
from policies.strategies import Consensus, Judge, named


class ConsensusOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `router.yaml` may say of a consensus."""

    targets: Annotated[int, msgspec.Meta(ge=2, le=10)] = 3
    """How many are asked, in configuration order."""
    judge: Judge | None = None
    """What picks the best of the answers, in place of their majority."""


class Agreed:
    """The targets as the operator listed them: of answers given equally often, the earliest."""

    name = "consensus"
    reads: frozenset[Sense] = frozenset()
    Options = ConsensusOptions

    def __init__(self, options: ConsensusOptions) -> None:
        self.strategy = Consensus(targets=options.targets, judge=options.judge)
        self.targets = named(options.judge)

    def decide(self, question: Question, candidates: Sequence[Candidate]) -> tuple[Choice, ...]:
        """The candidates in configuration order."""
        return tuple(Choice(target=candidate.name, reason=self.name) for candidate in candidates)
