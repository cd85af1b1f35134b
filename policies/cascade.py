"""`cascade`: the cheap target first, and a dearer one where the answer does not pass."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from policies.base import Candidate, Choice, Question, Sense
from policies.cheapest import Cheapest
from policies.ordered import Ordered
from policies.strategies import Cascade, Judge, named


class CascadeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `router.yaml` may say of a cascade: an answer must pass all that is given."""

    order: Literal["cost", "listed"] = "cost"
    regex: Annotated[str, msgspec.Meta(max_length=20_000)] = ""
    """What is found in the answer."""
    json: bool = False
    schema: dict[str, Any] | None = None
    """A JSON Schema that the answer fits."""
    confidence: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    """The least mean probability of its tokens, from targets that tell it."""
    judge: Judge | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for what is no regular expression."""
        try:
            re.compile(self.regex)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"'regex' is no regular expression: {error}") from None


class Cascading:
    """The targets by expected cost, or as the operator listed them."""

    name = "cascade"
    reads: frozenset[Sense] = frozenset()
    Options = CascadeOptions

    def __init__(self, options: CascadeOptions) -> None:
        self.strategy = Cascade(
            regex=options.regex,
            json=options.json,
            schema=options.schema,
            confidence=options.confidence,
            judge=options.judge,
        )
        self.targets = named(options.judge)
        self._order = Cheapest() if options.order == "cost" else Ordered()

    def decide(self, question: Question, candidates: Sequence[Candidate]) -> tuple[Choice, ...]:
        """The candidates in the order in which they are to be asked."""
        choices = self._order.decide(question, candidates)
        return tuple(msgspec.structs.replace(choice, reason=self.name) for choice in choices)
