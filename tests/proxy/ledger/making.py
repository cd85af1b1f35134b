"""What the ledger's tests ask for, in short."""

from __future__ import annotations

from pathlib import Path

from proxy.ledger.core import Ledger, Step
from proxy.ledger.protocol import (
    ATTEMPT_BITS,
    Attempt,
    Budgets,
    BudgetSettings,
    BudgetState,
    CreateBudget,
    Extend,
    Hello,
    Holds,
    ListBudgets,
    Mode,
    Outcome,
    Reply,
    Reserve,
    Settle,
    Settlement,
    Usage,
    Welcome,
    Window,
)

NOON = 1_773_144_000  # Tuesday 2026-03-10 12:00:00 UTC


def an_attempt(
    number: int,
    hold: int = 100,
    *,
    scopes: tuple[str, ...] = ("global",),
    floor: int = 10,
    deadline: int = NOON + 600,
    key_id: str = "",
    priced: bool = True,
    request_id: str | None = None,
    least: int | None = None,
    tokens: int = 0,
    first: bool = True,
    target: str = "openai/gpt-4o",
) -> Attempt:
    return Attempt(
        attempt=number,
        request_id=request_id or f"req_{number}",
        number=1 if first else 2,
        endpoint="chat",
        key_id=key_id,
        virtual_model="auto",
        target=target,
        provider=target.partition("/")[0],
        policy="cheapest",
        route_reason="cheapest of 3",
        scopes=scopes,
        hold_nanousd=hold,
        floor_nanousd=floor,
        deadline=deadline,
        priced=priced,
        least_nanousd=least,
        tokens=tokens,
    )


def a_settlement(
    number: int,
    cost: int = 60,
    *,
    outcome: Outcome = "ok",
    estimated: bool = False,
    uncertain: int = 0,
    tokens: int = 18,
) -> Settlement:
    return Settlement(
        attempt=number,
        outcome=outcome,
        cost_nanousd=cost,
        usage=Usage(input=max(0, tokens - 7), cached=3, output=min(7, tokens), reasoning=2),
        estimated=estimated,
        status=200,
        first_token_us=1_500,
        total_us=9_000,
        uncertain_nanousd=uncertain,
    )


def a_budget(
    limit: int,
    window: Window = "day",
    mode: Mode = "hard",
    timezone: str = "UTC",
    holds: Holds = "sliced",
) -> BudgetSettings:
    return BudgetSettings(
        limit_nanousd=limit, window=window, mode=mode, timezone=timezone, holds=holds
    )


class Books:
    """A real ledger core on a real file, spoken to one op at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = Ledger.open(path, synchronous="NORMAL")
        self.now: float = NOON
        self.session = self.hello()

    def close(self) -> None:
        self.ledger.close()

    def do(self, op: Step) -> Reply | None:
        ((reply,),) = self.ledger.apply([[op]], self.now)
        return reply

    def hello(self, session: int = 0) -> int:
        welcome = self.do(Hello("worker", "w", session))
        assert isinstance(welcome, Welcome)
        return welcome.session

    def number(self, counter: int) -> int:
        return self.session << ATTEMPT_BITS | counter

    def reserve(self, counter: int, hold: int = 100, **fields: object) -> Reply | None:
        attempt = an_attempt(self.number(counter), hold, **fields)  # type: ignore[arg-type]
        return self.do(Reserve(counter, attempt))

    def settle(self, counter: int, cost: int = 60, **fields: object) -> Reply | None:
        settlement = a_settlement(self.number(counter), cost, **fields)  # type: ignore[arg-type]
        return self.do(Settle(counter, settlement))

    def extend(self, counter: int, hold: int, most: int | None = None) -> Reply | None:
        return self.do(Extend(counter, self.number(counter), hold, hold if most is None else most))

    def restart(self) -> None:
        """Close it and open it again; the session stays attached."""
        self.ledger.close()
        self.ledger = Ledger.open(self.path, synchronous="NORMAL")
        self.hello(self.session)

    def budget(
        self,
        limit: int,
        *,
        scope: str = "global",
        window: Window = "day",
        mode: Mode = "hard",
        timezone: str = "UTC",
        holds: Holds = "sliced",
    ) -> int:
        made = self.do(CreateBudget(0, scope, a_budget(limit, window, mode, timezone, holds)))
        assert isinstance(made, Budgets)
        return made.budgets[0].budget_id

    def state(self, budget_id: int) -> BudgetState:
        listed = self.do(ListBudgets(0))
        assert isinstance(listed, Budgets)
        return next(state for state in listed.budgets if state.budget_id == budget_id)

    def money(self, budget_id: int) -> tuple[int, int, int]:
        state = self.state(budget_id)
        return state.spent_nanousd, state.held_nanousd, state.overrun_nanousd
