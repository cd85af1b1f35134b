"""What the ledger keeps in memory of money: budgets, balances and holds. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

from proxy import budgets
from proxy.ledger.protocol import BudgetState, ConfigBudget, Mode, Window
from proxy.ledger.store import BudgetRow

# Soft budgets admit everything below this; it only keeps sums inside SQLite's 64 bits.
_SOFT_CEILING = 2**61


class Balance:
    """The money of one budget in one of its windows."""

    __slots__ = ("__weakref__", "budget_id", "held", "overrun", "spent", "window_start")

    def __init__(
        self, budget_id: int, window_start: int, spent: int, held: int, overrun: int
    ) -> None:
        self.budget_id = budget_id
        self.window_start = window_start
        self.spent = spent
        self.held = held
        self.overrun = overrun


class Budget:
    """A budget with its window that is open now; `ends_at` is infinite for a lifetime."""

    __slots__ = (
        "balance",
        "ceiling",
        "created_at",
        "ends_at",
        "hard",
        "id",
        "limit",
        "managed",
        "scope",
        "starts_at",
        "timezone",
        "window",
        "zone",
    )

    def __init__(self, row: BudgetRow) -> None:
        self.id = row.id
        self.scope = row.scope
        self.window = cast(Window, row.window)
        self.timezone = row.timezone
        self.zone = budgets.time_zone(row.timezone)
        self.managed = cast(Literal["api", "config"], row.managed)
        self.created_at = row.created_at
        self.balance = Balance(row.id, 0, 0, 0, 0)
        self.starts_at, self.ends_at = 0, -math.inf  # no window is open yet
        self.allow(row.limit_nanousd, cast(Mode, row.mode))

    def allow(self, limit_nanousd: int, mode: Mode) -> None:
        """Set the limit and the mode."""
        self.limit = limit_nanousd
        self.hard = mode == "hard"
        self.ceiling = limit_nanousd if self.hard else _SOFT_CEILING

    def left(self) -> int:
        """What is neither spent nor held."""
        return self.ceiling - self.balance.spent - self.balance.held

    def state(self) -> BudgetState:
        """What others see of it."""
        ends = self.window != "lifetime"
        return BudgetState(
            budget_id=self.id,
            scope=self.scope,
            window=self.window,
            timezone=self.timezone,
            limit_nanousd=self.limit,
            mode="hard" if self.hard else "soft",
            managed=self.managed,
            spent_nanousd=self.balance.spent,
            held_nanousd=self.balance.held,
            overrun_nanousd=self.balance.overrun,
            starts_at=self.starts_at if ends else None,
            opens_at=int(self.ends_at) if ends else None,
            created_at=self.created_at,
        )


class Hold:
    """Money set aside for an attempt; of an orphan, what may still turn out to be spent."""

    __slots__ = ("amount", "deadline", "floor", "legs")

    def __init__(self, amount: int, floor: int, deadline: int, legs: Sequence[Balance]) -> None:
        self.amount = amount
        self.floor = floor
        self.deadline = deadline
        self.legs = legs


def fault_of(budget: ConfigBudget) -> str | None:
    """What is wrong with a budget that was asked for, as far as its types leave it open."""
    if not budget.scope:
        return "a budget needs a scope"
    try:
        budgets.time_zone(budget.timezone)
    except ValueError as error:
        return str(error)
    return None


def matched(present: Sequence[Budget], wanted: Sequence[ConfigBudget]) -> dict[int, Budget]:
    """Which budget keeps its balance as which wanted one (by index): same scope and calendar.

    Where a scope has several over one window (a soft one below a hard one), modes tell them apart
    first, and order does for what is left.
    """
    free: dict[tuple[str, str, str], list[Budget]] = {}
    for budget in present:
        free.setdefault((budget.scope, budget.window, budget.timezone), []).append(budget)
    kept: dict[int, Budget] = {}
    for same_mode in (True, False):
        for index, want in enumerate(wanted):
            candidates = free.get((want.scope, want.window, want.timezone), [])
            matches = (b for b in candidates if not same_mode or b.hard == (want.mode == "hard"))
            match = next(matches, None) if index not in kept else None
            if match is not None:
                candidates.remove(match)
                kept[index] = match
    return kept
