"""An episode of failures or slowness is told once, when it begins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import baselines
from proxy.baselines import Baselines, Problem
from proxy.config import Alerts
from proxy.figures import Figures
from proxy.ledger.errors import LedgerUnavailable
from proxy.spreads import RECENT_S
from proxy.targets import Target
from tests.proxy.test_figures import Hands, _attempt, _made


class Watched:
    """One target, and whoever compares its figures with limits."""

    def __init__(self, limits: Alerts | None = None) -> None:
        self.figures: Figures
        self.hands: Hands
        self.target: Target
        self.figures, self.hands, self.target = _made()
        self.baselines = Baselines(limits or Alerts(), self.figures)

    def answers(self, times: int, *, first_s: float = 0.2) -> None:
        for _ in range(times):
            _attempt(self.figures, self.target, first_s=first_s, total_s=first_s + 1)

    def fails(self, times: int) -> None:
        for _ in range(times):
            _attempt(self.figures, self.target, "upstream_error", status=503, problem="down")

    def look(self) -> list[str]:
        return [problem.kind for problem in self.baselines.look()]


def test_failures_are_told_once_and_again_after_a_recovery() -> None:
    watched = Watched()
    watched.answers(19)
    watched.fails(1)
    assert watched.look() == []  # one in twenty is just allowed
    watched.fails(1)
    (problem,) = watched.baselines.look()
    assert problem == Problem(
        kind="errors",
        target=watched.target.name,
        text=f"{watched.target.name}: 2 of 21 attempts of the last five minutes failed, "
        "more than 0.05 of them",
    )
    watched.fails(5)
    assert watched.look() == []
    watched.answers(130)  # 7 of 156: below the limit, and not well below
    assert watched.look() == []
    watched.fails(3)
    assert watched.look() == []
    watched.answers(140)  # 10 of 299: well below
    assert watched.look() == []
    watched.fails(20)
    assert watched.look() == ["errors"]


def test_few_attempts_say_nothing() -> None:
    watched = Watched()
    watched.fails(19)
    assert watched.look() == []
    watched.fails(1)
    assert watched.look() == ["errors"]
    # And none at all do not end it.
    watched.hands.now += RECENT_S * 2
    assert watched.look() == []
    watched.fails(20)
    assert watched.look() == []


def test_slowness_is_told_in_the_operators_terms() -> None:
    watched = Watched()
    watched.answers(40, first_s=1.8)
    assert watched.look() == []
    watched.answers(3, first_s=4.0)
    (problem,) = watched.baselines.look()
    assert problem.kind == "latency"
    assert "ms, not within 2000 ms" in problem.text


def test_what_is_much_slower_than_usual_is_told() -> None:
    watched = Watched()
    watched.answers(200, first_s=0.1)
    watched.hands.now += RECENT_S + 60
    watched.answers(30, first_s=0.15)
    assert watched.look() == []
    watched.answers(10, first_s=0.3)
    (problem,) = watched.baselines.look()
    assert "times what is usual" in problem.text
    # It becomes usual, in time.
    for _ in range(10):
        watched.hands.now += RECENT_S + 60
        watched.answers(200, first_s=0.3)
        assert watched.look() == []


def test_limits_can_be_taken_away() -> None:
    watched = Watched(Alerts(error_rate=None, p95_latency_ms=None, latency_drift=None))
    watched.fails(100)
    watched.answers(100, first_s=30.0)
    assert watched.look() == []
    strict = Watched(Alerts(error_rate=0.0))
    strict.answers(100)
    assert strict.look() == []
    strict.fails(1)
    assert strict.look() == ["errors"]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.floats(0, 120))))
def test_between_two_of_a_kind_it_was_well_below(steps: list[tuple[int, int, float]]) -> None:
    watched = Watched()
    was_low = True
    for answers, failures, pause_s in steps:
        watched.answers(answers)
        watched.fails(failures)
        recent = watched.figures.recent(watched.target.name)
        told = watched.look()
        if recent.attempts >= 20:
            assert ("errors" in told) == (recent.error_rate / 0.05 > 1 and was_low)
            if "errors" in told:
                was_low = False
            if recent.error_rate / 0.05 < 0.8:
                was_low = True
        else:
            assert told == []
        watched.hands.now += pause_s


def test_what_the_ledger_did_not_hear_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "LOOK_S", 0)
    watched = Watched()
    watched.fails(20)
    told: list[str] = []

    async def tell(problem: Problem) -> None:
        told.append(problem.kind)
        if len(told) == 1:
            raise LedgerUnavailable("not now")
        if len(told) == 2:
            raise asyncio.CancelledError

    async def run(tell: Callable[[Problem], Awaitable[object]]) -> None:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(watched.baselines.run(tell), 30)

    asyncio.run(run(tell))
    assert told == ["errors", "errors"]
