"""Second attempts never take more than their share of the requests, nor of the money."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from proxy.ensembles.allowance import MOST_SAVED, Allowance

MONEY = st.integers(0, 10**12)


class Hedged(RuleBasedStateMachine):
    """Requests come, some are asked twice, and each costs at most what was at stake."""

    under_way = Bundle("under_way")

    def __init__(self) -> None:
        super().__init__()
        self.share = Fraction(1, 50)
        self.allowance = Allowance(0.02)
        self.came = self.begun = self.spent = self.extra = 0

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
