"""When a budget runs out, if it goes on being spent as in its window so far. Pure arithmetic."""

from __future__ import annotations

import re

from proxy.ledger.protocol import BudgetState

_ROLLING = re.compile(r"(\d+)([mhd])")
_UNIT_S = {"m": 60, "h": 3_600, "d": 86_400}


def runs_out_at(budget: BudgetState, now: int) -> int | None:
    """The Unix second at which nothing of it is left; `now` where nothing is left already.

    None where that is never: nothing is spent, or what is spent leaves the window first.
    """
    left = budget.settings.limit_nanousd - budget.spent_nanousd
    if left <= 0:
        return now
    if budget.spent_nanousd <= 0:
        return None
    rolling = _ROLLING.fullmatch(budget.settings.window)
    if rolling is None:
        began, ends = max(budget.starts_at or 0, budget.created_at), budget.opens_at
    else:
        # Once it has existed for its whole length, as much leaves it as is added.
        length_s = int(rolling[1]) * _UNIT_S[rolling[2]]
        began, ends = max(now - length_s, budget.created_at), budget.created_at + length_s
    elapsed_s = max(now - began, 1)
    out = now + -(-left * elapsed_s // budget.spent_nanousd)
    return out if ends is None or out < ends else None
