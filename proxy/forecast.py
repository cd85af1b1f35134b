"""When a budget runs out, if it goes on being spent as in its window so far. Pure arithmetic."""

from __future__ import annotations

from proxy import budgets
from proxy.ledger.protocol import BudgetState

# What was spent in less time counts as spent in this: one request tells no pace.
_LEAST_S = 600


def runs_out_at(budget: BudgetState, now: int) -> int | None:
    """The Unix second at which nothing of it is left; `now` where nothing is left already.

    None where that is never: nothing is spent, or what is spent leaves the window first.
    """
    left = budget.settings.limit_nanousd - budget.spent_nanousd
    if left <= 0:
        return now
    if budget.spent_nanousd <= 0:
        return None
    length_s = budgets.rolling_s(budget.settings.window)
    if length_s is None:
        began, ends = max(budget.starts_at or 0, budget.created_at), budget.opens_at
    else:
        # Once it has existed for its whole length, as much leaves it as is added.
        began, ends = max(now - length_s, budget.created_at), budget.created_at + length_s
    elapsed_s = max(now - began, _LEAST_S)
    out = now + -(-left * elapsed_s // budget.spent_nanousd)
    return out if ends is None or out < ends else None
