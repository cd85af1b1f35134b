"""Second attempts never take more than their share of the requests, nor of the money."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from proxy.ensembles.allowance import MOST_SAVED, Allowance

MONEY = st.integers(0, 1000) | st.integers(0, 10**15)


class Hedged(RuleBasedStateMachine):
    """Requests come, some are asked twice, and each costs at most what was at stake."""

    under_way = Bundle("under_way")

    def __init__(self) -> None:
        super().__init__()
        self.came = self.begun = self.spent = self.extra = 0

    @initialize(share=st.sampled_from(("0.02", "0.1", "0.5", "1")))
    def begin(self, share: str) -> None:
        self.share = Fraction(share)
        self.allowance = Allowance(float(share))

    @rule(requests=st.integers(1, 300), cost=MONEY)
    def requests_come(self, requests: int, cost: int) -> None:
        for _ in range(requests):
            self.allowance.came()
        self.allowance.spend(cost)
        self.came += requests
        self.spent += cost

    @rule(target=under_way, most=MONEY)
    def one_is_slow(self, most: int) -> object:
        if not self.allowance.begin(most):
            return multiple()
        self.begun += 1
        return most

    @rule(most=consumes(under_way), share=st.fractions(0, 1))
    def it_ends(self, most: int, share: Fraction) -> None:
        extra = int(most * share)
        self.allowance.end(most, extra)
        self.extra += extra

    @invariant()
    def no_share_is_exceeded(self) -> None:
        assert self.begun <= self.share * self.came
        assert self.extra <= self.share * self.spent


Hedged.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHedged = Hedged.TestCase


def test_what_is_saved_in_good_times_is_bounded() -> None:
    allowance = Allowance(0.5)
    for _ in range(10_000):
        allowance.came()
    assert sum(allowance.begin(0) for _ in range(1000)) == MOST_SAVED


def test_a_share_that_has_no_exact_sum_is_reached_all_the_same() -> None:
    allowance = Allowance(0.1)
    for _ in range(10):
        allowance.came()
    assert allowance.begin(0)
    assert not allowance.begin(0)


def test_what_is_under_way_counts_at_its_most_and_what_has_ended_at_its_cost() -> None:
    allowance = Allowance(0.5)
    for _ in range(10):
        allowance.came()
    allowance.spend(100)
    assert not allowance.begin(51)
    assert allowance.begin(50)
    assert not allowance.begin(1)
    allowance.end(50, 10)
    assert not allowance.begin(41)
    assert allowance.begin(40)
