"""A swap as an operator asks for it, in a request or on the command line."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Annotated, Any

import msgspec

from proxy.admin.shapes import Amount, Body, nanousd
from proxy.errors import InvalidRequest
from proxy.swaps import core
from proxy.swaps.core import MOST_CHECKS, Check, Name, Percent, Plan, Rollback, Seconds, Text

SCHEMA_PACKAGE = "jsonschema"


class NewCheck(Body, frozen=True, kw_only=True):
    """A prompt, and what the answer of the new target must keep to."""

    prompt: Annotated[str, msgspec.Meta(min_length=1, max_length=20_000)]
    system: Text = ""
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 256
    contains: Text | tuple[Text, ...] = ()
    matches: Text = ""
    json: bool = False
    json_schema: dict[str, Any] | None = None
    max_latency_ms: Annotated[int, msgspec.Meta(ge=1, le=3_600_000)] | None = None
    max_cost_usd: Amount | None = None

    def check(self, param: str) -> Check:
        """The check; raises `InvalidRequest` that names what cannot be."""
        try:
            re.compile(self.matches)
        except (re.error, OverflowError, RecursionError) as error:
            raise InvalidRequest(
                f"{param}.matches: is no regular expression: {error}", param=f"{param}.matches"
            ) from None
        if self.json_schema is not None:
            check_schema(self.json_schema, f"{param}.json_schema")
        most = self.max_cost_usd
        return Check(
            prompt=self.prompt,
            system=self.system,
            max_tokens=self.max_tokens,
            contains=(self.contains,) if isinstance(self.contains, str) else self.contains,
            matches=self.matches,
            json=self.json,
            json_schema=self.json_schema,
            max_latency_ms=self.max_latency_ms,
            max_cost_nanousd=None if most is None else nanousd(most, f"{param}.max_cost_usd"),
        )


class NewRollback(Rollback, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a swap is rolled back by itself."""

    def rollback(self) -> Rollback | None:
        """The rules; None where there are no limits to keep to."""
        if self.error_rate is None and self.p95_latency_ms is None:
            return None
        return Rollback(**msgspec.structs.asdict(self))


class NewSwap(Body, frozen=True, kw_only=True):
    """`POST /admin/v1/swaps`."""

    name: Name
    """The virtual model or the alias."""
    source: Name = msgspec.field(name="from")
    target: Name = msgspec.field(name="to")
    steps: Annotated[tuple[Percent, ...], msgspec.Meta(min_length=1, max_length=100)] = (100,)
    step_s: Seconds = 60
    grace_s: Seconds = 30
    keep_conversations: bool = False
    prepare_s: Seconds | None = None
    checks: Annotated[tuple[NewCheck, ...], msgspec.Meta(max_length=MOST_CHECKS)] = ()
    passing: Annotated[int, msgspec.Meta(ge=1, le=MOST_CHECKS)] | None = None
    """How many of the checks must pass; null is all."""
    rollback: NewRollback | None = None

    def plan(self) -> Plan:
        """What is wanted; raises `InvalidRequest` that names what cannot be."""
        plan = Plan(
            name=self.name,
            source=self.source,
            target=self.target,
            steps=self.steps,
            step_s=self.step_s,
            grace_s=self.grace_s,
            keeps_conversations=self.keep_conversations,
            checks=tuple(each.check(f"checks[{i}]") for i, each in enumerate(self.checks)),
            passing=self.passing,
            rollback=None if self.rollback is None else self.rollback.rollback(),
        )
        if self.prepare_s is not None:
            plan = msgspec.structs.replace(plan, prepare_s=self.prepare_s)
        problem = core.problem(plan)
        if problem is not None:
            raise InvalidRequest(problem)
        return plan


def check_schema(schema: dict[str, Any], param: str) -> None:
    """Raise `InvalidRequest` unless answers can be checked against it here."""
    if find_spec(SCHEMA_PACKAGE) is None:
        raise InvalidRequest(
            f"{param}: needs a package that is not installed; pip install 'tollway[swaps]'",
            param=param,
        )
    from proxy.swaps.schemas import schema_problem  # the package takes long to import

    problem = schema_problem(schema)
    if problem is not None:
        raise InvalidRequest(f"{param}: {problem}", param=param)
