"""The operator's rules: when a request has other weights, further limits or other targets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Annotated, Literal, get_args
from zoneinfo import ZoneInfo

import msgspec

from policies.base import Analysis, Complexity, Domain, Sense, Task
from policies.constraints import NO_CONSTRAINTS, Constraints, matches
from policies.weights import Weights

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[Day, ...] = get_args(Day)
_Tokens = Annotated[int, msgspec.Meta(ge=0)]
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9]"
_Hours = Annotated[str, msgspec.Meta(pattern=f"^{_TIME}-{_TIME}$")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Circumstances:
    """What rules look at. `at` is in Unix seconds."""

    scopes: tuple[str, ...]
    input_tokens: int
    analysis: Analysis | None
    budget_left: float | None
    at: float


class When(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that is said must hold; of a list, any."""

    models: frozenset[str] | None = None
    """Virtual models; all if unset."""
    scopes: frozenset[str] | None = None
    """The caller, as budgets name it: `key:ID`, `team:ID`, `user:NAME`, `tag:TAG` ...; with `*`."""
    tasks: frozenset[Task] | None = None
    complexities: frozenset[Complexity] | None = None
    domains: frozenset[Domain] | None = None
    languages: frozenset[str] | None = None
    min_input_tokens: _Tokens = 0
    max_input_tokens: _Tokens | None = None
    hours: _Hours | None = None
    """`22:00-06:00`: from the first on, until before the second."""
    days: frozenset[Day] | None = None
    timezone: str = "UTC"
    budget_left: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """At most this share of the hard budget that is nearest its limit."""

    def __post_init__(self) -> None:
        """Raise ValueError for what never holds."""
        if self.max_input_tokens is not None and self.max_input_tokens < self.min_input_tokens:
            raise ValueError("'max_input_tokens' is below 'min_input_tokens'")

    @property
    def reads(self) -> frozenset[Sense]:
        """What has to be known of a request."""
        analysed = (self.tasks, self.complexities, self.domains, self.languages)
        reads: set[Sense] = set()
        if any(said is not None for said in analysed):
            reads.add("prompt")
        if self.budget_left is not None:
            reads.add("budget")
        return frozenset(reads)

    def holds(self, now: Circumstances) -> bool:
        """Whether all of it is so."""
        return (
            self._is_of_size(now.input_tokens)
            and self._is_called_by(now.scopes)
            and self._is_about(now.analysis)
            and self._has_spent(now.budget_left)
            and self._is_time(now.at)
        )

    def _is_of_size(self, tokens: int) -> bool:
        most = self.max_input_tokens
        return self.min_input_tokens <= tokens and (most is None or tokens <= most)

    def _is_called_by(self, scopes: Iterable[str]) -> bool:
        if self.scopes is None:
            return True
        return any(matches(scope, said) for scope in scopes for said in self.scopes)

    def _is_about(self, analysis: Analysis | None) -> bool:
        if analysis is None:
            return not self.reads - {"budget"}
        return (
            (self.tasks is None or analysis.task in self.tasks)
            and (self.complexities is None or analysis.complexity in self.complexities)
            and (self.domains is None or analysis.domain in self.domains)
            and (self.languages is None or analysis.language in self.languages)
        )

    def _has_spent(self, left: float | None) -> bool:
        if self.budget_left is None:
            return True
        return left is not None and left <= self.budget_left

    def _is_time(self, at: float) -> bool:
        if self.hours is None and self.days is None:
            return True
        local = datetime.fromtimestamp(at, ZoneInfo(self.timezone))
        if self.days is not None and _DAYS[local.weekday()] not in self.days:
            return False
        if self.hours is None:
            return True
        begin, _, end = self.hours.partition("-")
        clock = local.strftime("%H:%M")
        # Over midnight the end is before the beginning.
        return begin <= clock < end if begin < end else clock >= begin or clock < end


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """What holds when."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    when: When = When()
    weights: Weights | None = None
    constraints: Constraints = NO_CONSTRAINTS
    targets: tuple[str, ...] | None = None
    """In place of the virtual model's."""

    @cached_property
    def reads(self) -> frozenset[Sense]:
        """What has to be known of a request to tell whether it holds."""
        return self.when.reads
