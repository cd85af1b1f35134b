from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from policies import registry
from proxy.downgrades import LEAVE_PERCENT, PPM_PER_PERCENT, tier_at
from proxy.targets import Downgrade, VirtualModel


def tiers(*percents: int) -> tuple[Downgrade, ...]:
    model = VirtualModel(name="auto", description="", policy=registry.make("ordered"), targets=())
    return tuple(Downgrade(at_percent=percent, model=model) for percent in percents)


@dataclass
class Course:
    """A virtual model on its way through a window: what was reached is remembered."""

    of: tuple[Downgrade, ...]
    reached: int = 0

    def at(self, ppm: int) -> int:
        tier = tier_at(self.of, ppm, self.reached)
        self.reached = 0 if tier is None else tier.at_percent
        return self.reached


def test_a_tier_is_reached_at_its_very_share() -> None:
    course = Course(tiers(75, 90))
    assert course.at(749_999) == 0
    assert course.at(750_000) == 75
    assert course.at(899_999) == 75
    assert course.at(900_000) == 90


def test_a_tier_is_left_well_below_its_edge_and_the_next_one_by_its_own() -> None:
    course = Course(tiers(75, 90))
    assert course.at(2_000_000) == 90  # spent beyond a limit that was lowered
    assert course.at(850_000) == 90
    assert course.at(849_999) == 75
    assert course.at(899_999) == 75
    assert course.at(700_000) == 75
    assert course.at(699_999) == 0
    assert course.at(749_999) == 0


def test_a_jump_over_several_tiers_takes_the_last_and_one_back_takes_what_is_left() -> None:
    course = Course(tiers(10, 50, 75))
    assert course.at(990_000) == 75
    assert course.at(100_000) == 10
    assert course.at(0) == 0


def test_without_tiers_there_is_none() -> None:
    assert tier_at((), 1_000_000, 0) is None


shares = st.integers(0, 1_200_000)


@given(percents=st.sets(st.integers(1, 100), min_size=1, max_size=4), spent=st.lists(shares))
def test_no_share_that_grows_ever_leaves_a_tier_and_none_flaps_at_an_edge(
    percents: set[int], spent: list[int]
) -> None:
    growing, free = Course(tiers(*sorted(percents))), Course(tiers(*sorted(percents)))
    before = 0
    for ppm in sorted(spent):
        now = growing.at(ppm)
        assert now >= before
        assert now == max((p for p in percents if p * PPM_PER_PERCENT <= ppm), default=0)
        before = now
    for ppm in spent:
        before = free.reached
        now = free.at(ppm)
        # At or above what is spent at most by what a tier is left later than it is reached.
        assert (now - LEAVE_PERCENT) * PPM_PER_PERCENT <= ppm
        assert now <= max(before, ppm // PPM_PER_PERCENT)
        assert all(p <= now for p in percents if p * PPM_PER_PERCENT <= ppm)
