"""LiteLLM's budgets as ours: `max_budget`, `soft_budget`, and the templates behind `budget_id`.

A key's or a team's `max_budget` is a hard budget on its scope with the name `max_budget`, its
`soft_budget` a soft one named alike. What LiteLLM calls a budget is a template: budgets on the
scope `template:<budget_id>`, which no attempt has. Whoever refers to it gets budgets of its own
with the same settings, named `<budget_id>`, so that changing the template finds them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from proxy.admin.books import Books
from proxy.admin.litellm.bodies import LiteLlmBody
from proxy.admin.litellm.durations import window_of
from proxy.admin.shapes import Amount, nanousd
from proxy.errors import Conflict, InvalidRequest, NotFound
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
    """The budgets on one scope, as LiteLLM sees them: by field, `max_budget` and `soft_budget`."""

    own: dict[str, list[BudgetState]]
    template: list[BudgetState]
    """Those that come from a template."""

    @property
    def budget_id(self) -> str | None:
        """The template that it refers to."""
        return self.template[0].settings.name if self.template else None

    def limit(self, field: str) -> int | None:
        """What may be spent at most, nano-USD; None where nothing says so."""
        rows = self.own[field]
        return rows[0].settings.limit_nanousd if rows else None

    @property
    def counting(self) -> BudgetState | None:
        """The budget whose balance is LiteLLM's `spend`."""
        hard_first = [*self.own["max_budget"], *self.template, *self.own["soft_budget"]]
        return hard_first[0] if hard_first else None


class Standings:
    """Where everybody stands, among all the budgets there are."""

    def __init__(self, budgets: Iterable[BudgetState]) -> None:
        self._by_scope: dict[str, list[BudgetState]] = {}
        for row in budgets:
            # What `key:*` made for this key is that budget's, and not to be changed on its own.
            if row.managed != "each":
                self._by_scope.setdefault(row.scope, []).append(row)

    def of(self, scope: str) -> Standing:
        """What there is on one scope."""
        rows = self._by_scope.get(scope, [])
        own = {field: self._own(rows, field, mode) for field, mode in FIELDS.items()}
        template = [row for row in rows if self.template(row.settings.name)]
        return Standing(own=own, template=sorted(template, key=lambda row: row.settings.mode))

    def template(self, budget_id: str) -> list[BudgetState]:
        """The budgets of a template; none where there is no such."""
        return self._by_scope.get(_TEMPLATE + budget_id, []) if budget_id else []

    def templates(self) -> dict[str, list[BudgetState]]:
        """Every template, by its `budget_id`."""
        return {
            scope.removeprefix(_TEMPLATE): rows
            for scope, rows in self._by_scope.items()
            if scope.startswith(_TEMPLATE)
        }

    def referring(self, budget_id: str) -> dict[str, list[BudgetState]]:
        """The budgets that keys and teams have from a template, by scope."""
        found = {
            scope: [row for row in rows if row.settings.name == budget_id]
            for scope, rows in self._by_scope.items()
            if scope.startswith(("key:", "team:")) and " & " not in scope
        }
        return {scope: rows for scope, rows in found.items() if rows}

    @staticmethod
    def _own(rows: Iterable[BudgetState], field: str, mode: Mode) -> list[BudgetState]:
        """Those named after the field; else the first without a name, made at `/admin/v1`."""
        rows = [row for row in rows if row.settings.mode == mode]
        named = [row for row in rows if row.settings.name == field]
        return named or [row for row in rows if not row.settings.name][:1]


class Money:
    """Reads and changes the budgets behind LiteLLM's fields."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def standings(self) -> Standings:
        """Where everybody stands now."""
        return Standings(await self._books.budgets())

    async def new_budgets(self, body: ReferringFields) -> tuple[BudgetSettings, ...]:
        """The budgets to make something with; raises `InvalidRequest`."""
        window = body.window() or "lifetime"
        made = [
            BudgetSettings(limit_nanousd=limit, window=window, mode=FIELDS[field], name=field)
            for field, limit in body.limits().items()
            if limit is not None
        ]
        if body.budget_duration and not made:
            raise _nothing_to_set_back()
        if isinstance(body.budget_id, str) and body.budget_id:
            standings = await self.standings()
            made += [row.settings for row in _referred(standings, body.budget_id)]
        return tuple(made)

    async def change(self, scope: str, body: ReferringFields) -> None:
        """Make the budgets on a scope what the body says; raises `InvalidRequest`.

        A window cannot change, so a new one is a new budget, which counts from now on. It is there
        before the old one ends.
        """
        standings = await self.standings()
        standing = standings.of(scope)
        limits, window = body.limits(), body.window()
        if body.budget_duration and not any(limits.values()) and not any(standing.own.values()):
            raise _nothing_to_set_back()
        if isinstance(body.budget_id, UnsetType) or body.budget_id == standing.budget_id:
            referred = None
        else:
            referred = _referred(standings, body.budget_id) if body.budget_id else []
        for field, rows in standing.own.items():
            if field in limits or window is not None:
                await self._settle(scope, field, rows, limits, window)
        if referred is not None:
            for row in referred:
                await self._books.call(CreateBudget(0, scope, row.settings), Budgets)
            for row in standing.template:
                await self._books.end_budget(row.budget_id)

    async def change_template(
        self, budget_id: str, limits: dict[str, int | None], window: Window | None
    ) -> None:
        """Change a template and everything that refers to it; raises `NotFound`.

        Asked again after a failure, it does what is left to do.
        """
        standings = await self.standings()
        template = standings.template(budget_id)
        if not template:
            raise NotFound(f"there is no budget {budget_id[:100]!r}")
        shared = window or template[0].settings.window
        for scope, found in {
            _TEMPLATE + budget_id: template,
            **standings.referring(budget_id),
        }.items():
            for field, mode in FIELDS.items():
                rows = [row for row in found if row.settings.mode == mode]
                await self._settle(scope, field, rows, limits, shared, name=budget_id)

    async def _settle(
        self,
        scope: str,
        field: str,
        rows: list[BudgetState],
        limits: dict[str, int | None],
        window: Window | None,
        *,
        name: str = "",
    ) -> None:
        """Make one budget of these rows, with that limit and window, or none."""
        if any(row.managed == "config" for row in rows):
            raise Conflict(f"the budget of {scope!r} is managed by router.yaml", param=field)
        limit = limits.get(field, rows[0].settings.limit_nanousd if rows else None)
        window = window or (rows[0].settings.window if rows else "lifetime")
        fitting = [row for row in rows if row.settings.window == window and limit is not None]
        if fitting:
            if fitting[0].settings.limit_nanousd != limit:
                op = UpdateBudget(0, fitting[0].budget_id, {"limit_nanousd": limit})
                await self._books.call(op, Budgets)
        elif limit is not None:
            settings = BudgetSettings(
                limit_nanousd=limit, window=window, mode=FIELDS[field], name=name or field
            )
            await self._books.call(CreateBudget(0, scope, settings), Budgets)
        for row in rows:
            if row not in fitting[:1]:
                await self._books.end_budget(row.budget_id)


def _referred(standings: Standings, budget_id: str) -> list[BudgetState]:
    rows = standings.template(budget_id)
    if not rows:
        raise InvalidRequest(
            f"budget_id: there is no budget {budget_id[:100]!r}", param="budget_id"
        )
    return rows


def _nothing_to_set_back() -> InvalidRequest:
    return InvalidRequest(
        "budget_duration: there is no max_budget or soft_budget to set back",
        param="budget_duration",
    )
