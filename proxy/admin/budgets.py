"""`/admin/v1/budgets`, and the budgets that are made together with a key or a group."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, UnsetType

from proxy.admin.books import Books
from proxy.admin.limits import NewLimits
from proxy.admin.operations import Operation, operation
from proxy.admin.shapes import Amount, Body, Shown, Usd, iso, nanousd, usd
from proxy.budgets import time_zone, window_problem
from proxy.errors import InvalidRequest, NotFound
from proxy.forecast import runs_out_at
from proxy.ledger.protocol import (
    Budgets,
    BudgetSettings,
    BudgetState,
    CreateBudget,
    Holds,
    Mode,
    UpdateBudget,
    Window,
)


class OwnBudget(Body, frozen=True, kw_only=True):
    """A budget without a scope: of what it is made with."""

    limit_usd: Amount
    window: Window = "month"
    mode: Mode = "hard"
    timezone: str = "UTC"
    holds: Holds = "sliced"
    name: str = ""

    def settings(self) -> BudgetSettings:
        """As the ledger keeps it; raises `InvalidRequest`."""
        check_window(self.window, "window")
        try:
            time_zone(self.timezone)
        except ValueError as error:
            raise InvalidRequest(f"timezone: {error}", param="timezone") from None
        return BudgetSettings(
            limit_nanousd=nanousd(self.limit_usd, "limit_usd"),
            window=self.window,
            mode=self.mode,
            timezone=self.timezone,
            holds=self.holds,
            name=self.name,
        )


class NewBudget(OwnBudget, frozen=True, kw_only=True):
    """`POST /admin/v1/budgets`."""

    scope: str
    window: Window = "day"


class WithBudgets(NewLimits, frozen=True, kw_only=True):
    """What can be made together with limits and budgets of its own."""

    budget_usd: Amount | None = None
    """A hard budget; short for the one in `budgets` that most people want."""
    budget_window: Window = "month"
    budgets: tuple[OwnBudget, ...] = ()

    def own_budgets(self) -> tuple[BudgetSettings, ...]:
        """All of them; raises `InvalidRequest`."""
        budgets = [budget.settings() for budget in self.budgets]
        if self.budget_usd is not None:
            check_window(self.budget_window, "budget_window")
            limit = nanousd(self.budget_usd, "budget_usd")
            budgets.insert(0, BudgetSettings(limit_nanousd=limit, window=self.budget_window))
        return tuple(budgets)


class ChangedBudget(Body, frozen=True, kw_only=True):
    """`PATCH /admin/v1/budgets/{id}`: its window and time zone stay what they are."""

    limit_usd: Amount | UnsetType = UNSET
    mode: Mode | UnsetType = UNSET
    holds: Holds | UnsetType = UNSET
    name: str | UnsetType = UNSET
    deleted: Literal[True] | UnsetType = UNSET

    def changes(self) -> dict[str, Any]:
        """Fields of the settings, by name; raises `InvalidRequest`."""
        changes: dict[str, Any] = {}
        if not isinstance(self.limit_usd, UnsetType):
            changes["limit_nanousd"] = nanousd(self.limit_usd, "limit_usd")
        for name in ("mode", "holds", "name"):
            if (value := getattr(self, name)) is not UNSET:
                changes[name] = value
        return changes


class BudgetQuery(Body, frozen=True, kw_only=True):
    """Which budgets."""

    scope: str = ""


class Budget(Shown, frozen=True, kw_only=True):
    """A budget with the balance of the window that is open now."""

    id: int
    scope: str
    name: str
    window: str
    timezone: str
    mode: Mode
    holds: Holds
    managed: Literal["api", "config", "each"]
    limit_usd: Usd
    spent_usd: Usd
    held_usd: Usd
    overrun_usd: Usd
    remaining_usd: Usd
    starts_at: str | None
    opens_at: str | None
    runs_out_at: str | None
    """When nothing is left at the pace of its window; null where it opens again first."""
    created_at: str | None


class BudgetList(Shown, frozen=True, kw_only=True):
    """Budgets."""

    data: list[Budget]


def check_window(window: Window, param: str) -> None:
    """Raise `InvalidRequest` that names `param` unless there is such a window."""
    problem = window_problem(window)
    if problem is not None:
        raise InvalidRequest(f"{param}: {problem}", param=param)


def shown_budget(budget: BudgetState, now: float) -> Budget:
    """A budget as the API shows it."""
    settings = budget.settings
    return Budget(
        id=budget.budget_id,
        scope=budget.scope,
        name=settings.name,
        window=settings.window,
        timezone=settings.timezone,
        mode=settings.mode,
        holds=settings.holds,
        managed=budget.managed,
        limit_usd=usd(settings.limit_nanousd),
        spent_usd=usd(budget.spent_nanousd),
        held_usd=usd(budget.held_nanousd),
        overrun_usd=usd(budget.overrun_nanousd),
        remaining_usd=usd(budget.left_nanousd),
        starts_at=iso(budget.starts_at),
        opens_at=iso(budget.opens_at),
        runs_out_at=iso(runs_out_at(budget, int(now))),
        created_at=iso(budget.created_at),
    )


class BudgetsApi:
    """The operations on budgets."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def operations(self) -> list[Operation]:
        """All of them."""
        path = "/admin/v1/budgets"
        return [
            operation("GET", path, self.list_budgets, tag="budgets"),
            operation("POST", path, self.create_budget, tag="budgets", status=201),
            operation("GET", f"{path}/{{budget_id}}", self.get_budget, tag="budgets"),
            operation("PATCH", f"{path}/{{budget_id}}", self.update_budget, tag="budgets"),
            operation("DELETE", f"{path}/{{budget_id}}", self.delete_budget, tag="budgets"),
        ]

    async def list_budgets(self, query: BudgetQuery) -> BudgetList:
        """Every budget with the balance of its open window, or those of one scope."""
        return BudgetList(data=[self._shown(b) for b in await self._books.budgets(query.scope)])

    async def create_budget(self, body: NewBudget) -> Budget:
        """Set a limit on a scope over a window."""
        await self._books.check_scope(body.scope)
        made = await self._books.call(CreateBudget(0, body.scope, body.settings()), Budgets)
        return self._shown(made.budgets[0])

    async def get_budget(self, budget_id: int) -> Budget:
        """One budget."""
        for budget in await self._books.budgets():
            if budget.budget_id == budget_id:
                return self._shown(budget)
        raise NotFound(f"there is no budget {budget_id}")

    async def update_budget(self, budget_id: int, body: ChangedBudget) -> Budget:
        """Change a limit, a mode, how it is held or its name; or end it."""
        op = UpdateBudget(0, budget_id, body.changes(), deleted=body.deleted is True)
        changed = await self._books.call(op, Budgets)
        return self._shown(changed.budgets[0])

    async def delete_budget(self, budget_id: int) -> Budget:
        """End a budget; what was spent under it stays on record."""
        return self._shown(await self._books.end_budget(budget_id))

    def _shown(self, budget: BudgetState) -> Budget:
        return shown_budget(budget, self._books.clock.time())
