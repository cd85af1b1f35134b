from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.forecast import runs_out_at
from proxy.ledger.protocol import BudgetSettings, BudgetState

DAY = 86_400


def _budget(
    window: str,
    *,
    spent: int,
    limit: int = 100,
    created_at: int = 0,
    starts_at: int | None = None,
    opens_at: int | None = None,
) -> BudgetState:
    return BudgetState(
        budget_id=1,
        scope="global",
        settings=BudgetSettings(limit_nanousd=limit, window=window),
        managed="api",
        spent_nanousd=spent,
        held_nanousd=0,
        overrun_nanousd=0,
        starts_at=starts_at,
        opens_at=opens_at,
        created_at=created_at,
    )


@pytest.mark.parametrize(
    ("budget", "now", "out"),
    [
        # A quarter in six hours: the rest lasts eighteen more.
        (_budget("day", spent=25, starts_at=0, opens_at=DAY), DAY // 4, None),
        (_budget("day", spent=26, starts_at=0, opens_at=DAY), DAY // 4, 83_077),
        (_budget("day", spent=0, starts_at=0, opens_at=DAY), DAY // 4, None),
        (_budget("day", spent=100, starts_at=0, opens_at=DAY), 7, 7),
        (_budget("day", spent=130, starts_at=0, opens_at=DAY), 7, 7),
        # It was made in the middle of its window: what is earlier does not count.
        (_budget("day", spent=10, created_at=1_000, starts_at=0, opens_at=DAY), 2_000, 11_000),
        # One request tells no pace: what was spent in the first seconds counts as ten minutes'.
        (_budget("day", spent=10, created_at=1_000, starts_at=0, opens_at=DAY), 1_100, 6_500),
        (_budget("lifetime", spent=10, created_at=1_000), 2_000, 11_000),
        # Rolling: in its first hour it can run out, after that it is in balance.
        (_budget("1h", spent=60, created_at=0), 1_800, 3_000),
        (_budget("1h", spent=40, created_at=0), 1_800, None),
        (_budget("1h", spent=99, created_at=0), 7_200, None),
    ],
)
def test_forecast(budget: BudgetState, now: int, out: int | None) -> None:
    assert runs_out_at(budget, now) == out


@given(
    spent=st.integers(1, 10**16),
    limit=st.integers(0, 10**16),
    born=st.integers(0, 2**33),
    age=st.integers(0, 2**31),
)
def test_at_the_same_pace_it_is_spent_by_then_and_not_before(
    spent: int, limit: int, born: int, age: int
) -> None:
    now = born + age
    out = runs_out_at(_budget("lifetime", spent=spent, limit=limit, created_at=born), now)
    assert out is not None
    if spent >= limit:
        assert out == now
        return
    elapsed = max(age, 600)
    left = limit - spent
    assert spent * (out - now) >= left * elapsed
    assert spent * (out - now - 1) < left * elapsed
