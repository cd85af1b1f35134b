"""`/budget/…`: templates that keys and teams refer to by `budget_id`."""

from __future__ import annotations

import secrets

from msgspec import UNSET

from proxy.admin.books import Books
from proxy.admin.litellm.bodies import LiteLlmBody
from proxy.admin.litellm.durations import duration_of
from proxy.admin.litellm.money import (
    FIELDS,
    BudgetId,
    Money,
    MoneyFields,
)
from proxy.admin.operations import Operation, operation
from proxy.admin.shapes import Shown, Usd, iso, usd
from proxy.budgets import TEMPLATE
from proxy.errors import Conflict, InvalidRequest, NotFound
from proxy.ledger.protocol import Budgets, BudgetSettings, BudgetState, CreateBudget

_SCOPE = f"{TEMPLATE}:"


class LiteLlmNewBudget(MoneyFields, frozen=True, kw_only=True):
    """`/budget/new`. Limits on requests and tokens are set on the key or the team."""

    budget_id: BudgetId | None = None


class LiteLlmChangedBudget(MoneyFields, frozen=True, kw_only=True):
    """`/budget/update`."""

    budget_id: str


class BudgetIds(LiteLlmBody, frozen=True, kw_only=True):
    """`/budget/info`."""

    budgets: list[str]


class DeletedBudget(LiteLlmBody, frozen=True, kw_only=True):
    """`/budget/delete`."""

    id: str


class LiteLlmBudget(Shown, frozen=True, kw_only=True):
    """LiteLLM's `LiteLLM_BudgetTable`."""

    budget_id: str
    max_budget: Usd | None
    soft_budget: Usd | None
    budget_duration: str | None
    budget_reset_at: str | None
    created_at: str | None
    max_parallel_requests: int | None = None
    tpm_limit: int | None = None
    rpm_limit: int | None = None
    model_max_budget: dict[str, float] | None = None


class LiteLlmBudgets:
    """The operations on templates."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._money = Money(books)

    def operations(self) -> list[Operation]:
        """All of them."""
        return [
            operation("POST", "/budget/new", self.new_budget, tag="litellm"),
            operation("POST", "/budget/info", self.budget_info, tag="litellm"),
            operation("POST", "/budget/update", self.update_budget_id, tag="litellm"),
            operation("POST", "/budget/delete", self.delete_budget_id, tag="litellm"),
            operation("GET", "/budget/list", self.list_budget_ids, tag="litellm"),
        ]

    async def new_budget(self, body: LiteLlmNewBudget) -> LiteLlmBudget:
        """Make a template that keys and teams can refer to."""
        budget_id = body.budget_id or f"budget_{secrets.token_hex(6)}"
        limits = {field: limit for field, limit in body.limits().items() if limit is not None}
        if not limits:
            raise InvalidRequest("max_budget or soft_budget is missing", param="max_budget")
        if budget_id in FIELDS:
            raise InvalidRequest(f"{budget_id!r} cannot be a budget_id", param="budget_id")
        if (await self._money.standings()).template(budget_id):
            raise Conflict(f"there is a budget {budget_id!r} already", param="budget_id")
        window = body.window() or "lifetime"
        for field, limit in limits.items():
            settings = BudgetSettings(
                limit_nanousd=limit, window=window, mode=FIELDS[field], name=budget_id
            )
            await self._books.call(CreateBudget(0, _SCOPE + budget_id, settings), Budgets)
        return await self._one(budget_id)

    async def budget_info(self, body: BudgetIds) -> list[LiteLlmBudget]:
        """The templates of these ids that there are."""
        if not body.budgets:
            raise InvalidRequest("'budgets' names no budget", param="budgets")
        return [shown for shown in await self._all() if shown.budget_id in body.budgets]

    async def list_budget_ids(self) -> list[LiteLlmBudget]:
        """Every template."""
        return await self._all()

    async def update_budget_id(self, body: LiteLlmChangedBudget) -> LiteLlmBudget:
        """Change a template, and the budgets of all that refer to it."""
        limits = body.limits()
        before = await self._one(body.budget_id)
        left = {field: getattr(before, field) is not None for field in FIELDS}
        left |= {field: limit is not None for field, limit in limits.items()}
        if not any(left.values()):
            raise InvalidRequest(
                "max_budget: a budget needs this or soft_budget; use /budget/delete to end it",
                param="max_budget",
            )
        window = None if body.budget_duration is UNSET else body.window()
        await self._money.change_template(body.budget_id, limits, window)
        return await self._one(body.budget_id)

    async def delete_budget_id(self, body: DeletedBudget) -> LiteLlmBudget:
        """End a template; 409 while anything refers to it, which would lose its limit."""
        shown = await self._one(body.id)
        standings = await self._money.standings()
        users = list(standings.referring(body.id))
        if users:
            raise Conflict(
                f"{len(users)} still refer to the budget {body.id!r}, e.g. {users[0]!r}; "
                "take their budget_id away first",
                param="id",
            )
        for row in standings.template(body.id):
            await self._books.end_budget(row.budget_id)
        return shown

    async def _one(self, budget_id: str) -> LiteLlmBudget:
        rows = (await self._money.standings()).template(budget_id)
        if not rows:
            raise NotFound(f"there is no budget {budget_id[:100]!r}")
        return shown_template(budget_id, rows)

    async def _all(self) -> list[LiteLlmBudget]:
        templates = (await self._money.standings()).templates()
        return [shown_template(budget_id, rows) for budget_id, rows in templates.items()]


def shown_template(budget_id: str, rows: list[BudgetState]) -> LiteLlmBudget:
    """A template as LiteLLM shows a budget."""
    limits = {
        field: usd(row.settings.limit_nanousd)
        for field, mode in FIELDS.items()
        for row in rows
        if row.settings.mode == mode
    }
    return LiteLlmBudget(
        budget_id=budget_id,
        max_budget=limits.get("max_budget"),
        soft_budget=limits.get("soft_budget"),
        budget_duration=duration_of(rows[0].settings.window),
        budget_reset_at=iso(rows[0].opens_at),
        created_at=iso(min(row.created_at for row in rows)),
    )
