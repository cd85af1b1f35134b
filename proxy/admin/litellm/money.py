"""LiteLLM's budgets as ours: `max_budget`, `soft_budget`, and the templates behind `budget_id`.

A key's or a team's `max_budget` is a hard budget on its scope with the name `max_budget`, its
`soft_budget` a soft one named alike. What LiteLLM calls a budget is a template: budgets on the
scope `template:<budget_id>`, which no attempt has. Whoever refers to it gets budgets of its own
with the same settings, named `<budget_id>`, so that changing the template finds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from proxy.admin.books import Books
from proxy.admin.litellm.bodies import LiteLlmBody
from proxy.admin.litellm.durations import window_of
from proxy.admin.shapes import Amount, nanousd
from proxy.errors import InvalidRequest, NotFound
from proxy.ledger.protocol import (
    Budgets,
    BudgetSettings,
    BudgetState,
    CreateBudget,
    Mode,
    UpdateBudget,
    Window,
)

BudgetId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}$")]

FIELDS: dict[str, Mode] = {"max_budget": "hard", "soft_budget": "soft"}
"""Which field is which kind of budget; also the names they have."""

_TEMPLATE = "template:"


class MoneyFields(LiteLlmBody, frozen=True, kw_only=True):
    """What a key or a team may spend. Null is the same as nothing, or takes away."""

    max_budget: Amount | UnsetType | None = UNSET
    soft_budget: Amount | UnsetType | None = UNSET
    budget_duration: str | UnsetType | None = UNSET

    def limits(self) -> dict[str, int | None]:
        """The limits that are named, in nano-USD; None takes one away. Raises `InvalidRequest`."""
        limits: dict[str, int | None] = {}
        for field in FIELDS:
            value = getattr(self, field)
            if value is not UNSET:
                limits[field] = None if value in (None, "") else nanousd(value, field)
        return limits

    def window(self) -> Window | None:
        """The window, where the duration is named."""
        duration = self.budget_duration
        return None if isinstance(duration, UnsetType) else window_of(duration or None)


class ReferringFields(MoneyFields, frozen=True, kw_only=True):
    """The same, of what may refer to a template."""

    budget_id: str | UnsetType | None = UNSET


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The budgets on one scope, as LiteLLM sees them."""

    own: dict[str, BudgetState]
    """By field: `max_budget`, `soft_budget`."""
    template: dict[str, BudgetState]
    """The same of those that come from a template."""
    budget_id: str | None

    def limit(self, field: str) -> int | None:
        """What may be spent at most, nano-USD; None where nothing says so."""
        budget = self.own.get(field)
        return None if budget is None else budget.settings.limit_nanousd

    @property
    def counting(self) -> BudgetState | None:
        """The budget whose balance is LiteLLM's `spend`."""
        for found in (self.own, self.template):
            for field in FIELDS:
                if field in found:
                    return found[field]
        return None


class Money:
    """Reads and changes the budgets behind LiteLLM's fields."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def new_budgets(self, body: ReferringFields) -> tuple[BudgetSettings, ...]:
        """The budgets to make something with; raises `InvalidRequest`."""
        window = body.window() or "lifetime"
        made = [
            BudgetSettings(limit_nanousd=limit, window=window, mode=FIELDS[field], name=field)
            for field, limit in body.limits().items()
            if limit is not None
        ]
        if body.budget_duration not in (UNSET, None) and not made:
            raise InvalidRequest(
                "budget_duration: there is no max_budget or soft_budget to set back",
                param="budget_duration",
            )
        if isinstance(body.budget_id, str):
            made += [row.settings for row in await self._referred(body.budget_id)]
        return tuple(made)

    async def change(self, scope: str, body: ReferringFields) -> None:
        """Make the budgets on a scope what the body says; raises `InvalidRequest`.

        A window cannot change, so a new one is a new budget, which counts from now on. It is there
        before the old one ends.
        """
        standing = await self.standing(scope)
        limits, window = body.limits(), body.window()
        for field in FIELDS:
            await self._change_one(scope, field, standing.own.get(field), limits, window)
        if not isinstance(body.budget_id, UnsetType):
            await self._refer(scope, standing, body.budget_id)

    async def standing(self, scope: str) -> Standing:
        """What there is on one scope."""
        return standing_of(await self._books.budgets(), scope)

    async def template(self, budget_id: str) -> tuple[BudgetState, ...]:
        """The budgets of a template; none where there is no such."""
        return await self._books.budgets(_TEMPLATE + budget_id)

    async def change_template(
        self, budget_id: str, limits: dict[str, int | None], window: Window | None
    ) -> None:
        """Change a template and everything that refers to it; raises `NotFound`."""
        budgets = await self._books.budgets()
        scopes = referring(budgets, budget_id)
        if _TEMPLATE + budget_id not in scopes:
            raise NotFound(f"there is no budget {budget_id[:100]!r}")
        for scope in scopes:
            rows = {
                field: row
                for row in budgets
                if row.scope == scope and row.settings.name == budget_id
                for field, mode in FIELDS.items()
                if row.settings.mode == mode
            }
            shared = next(iter(rows.values())).settings.window
            for field in FIELDS:
                await self._change_one(
                    scope, field, rows.get(field), limits, window, name=budget_id, shared=shared
                )

    async def _change_one(
        self,
        scope: str,
        field: str,
        row: BudgetState | None,
        limits: dict[str, int | None],
        window: Window | None,
        *,
        name: str = "",
        shared: Window = "lifetime",
    ) -> None:
        limit = limits.get(field, row.settings.limit_nanousd if row is not None else None)
        if limit is None:
            if row is not None:
                await self._books.end_budget(row.budget_id)
            return
        wanted = window or (row.settings.window if row is not None else shared)
        if row is not None and row.settings.window == wanted:
            if row.settings.limit_nanousd != limit:
                op = UpdateBudget(0, row.budget_id, {"limit_nanousd": limit})
                await self._books.call(op, Budgets)
            return
        settings = BudgetSettings(
            limit_nanousd=limit, window=wanted, mode=FIELDS[field], name=name or field
        )
        await self._books.call(CreateBudget(0, scope, settings), Budgets)
        if row is not None:
            await self._books.end_budget(row.budget_id)

    async def _refer(self, scope: str, standing: Standing, budget_id: str | None) -> None:
        if budget_id == standing.budget_id:
            return
        templates = () if not budget_id else await self._referred(budget_id)
        for template in templates:
            await self._books.call(CreateBudget(0, scope, template.settings), Budgets)
        for row in standing.template.values():
            await self._books.end_budget(row.budget_id)

    async def _referred(self, budget_id: str) -> tuple[BudgetState, ...]:
        rows = await self.template(budget_id)
        if not rows:
            raise InvalidRequest(
                f"budget_id: there is no budget {budget_id[:100]!r}", param="budget_id"
            )
        return rows


def standing_of(budgets: Iterable[BudgetState], scope: str) -> Standing:
    """What there is on one scope, among all the budgets."""
    budgets = list(budgets)
    templates = {row.scope.removeprefix(_TEMPLATE) for row in budgets if is_template(row)}
    own: dict[str, BudgetState] = {}
    template: dict[str, BudgetState] = {}
    for row in budgets:
        if row.scope != scope:
            continue
        for field, mode in FIELDS.items():
            if row.settings.mode == mode and row.settings.name in (field, ""):
                own.setdefault(field, row)
            elif row.settings.mode == mode and row.settings.name in templates:
                template.setdefault(field, row)
    budget_id = next((row.settings.name for row in template.values()), None)
    return Standing(own=own, template=template, budget_id=budget_id)


def is_template(row: BudgetState) -> bool:
    """Whether it is there to be referred to, and nothing is ever charged to it."""
    return row.scope.startswith(_TEMPLATE)


def referring(budgets: Sequence[BudgetState], budget_id: str) -> list[str]:
    """The scopes with budgets of this template: its own, and those of the keys and teams."""
    kinds = ("key:", "team:")
    return list(
        dict.fromkeys(
            row.scope
            for row in budgets
            if row.settings.name == budget_id
            and (
                row.scope == _TEMPLATE + budget_id
                or (row.scope.startswith(kinds) and " & " not in row.scope)
            )
        )
    )
