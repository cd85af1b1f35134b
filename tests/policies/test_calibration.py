from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.calibration import Calibration, calibrate

some_scores = st.lists(st.floats(-10, 10), min_size=2, max_size=200)
shares = st.floats(0, 1)


def test_by_hand() -> None:
    # Hardest first: the strong model gains 1, 1, 0 and 0 on top of the weak one's 2 of 4.
    table = calibrate([0.1, 0.4, 0.2, 0.3], [1, 0, 1, 0], [1, 1, 1, 1], steps=4)
    assert table.scores == pytest.approx((0.4, 0.325, 0.25, 0.175, 0.1))
    assert table.quality == pytest.approx((0.5, 0.75, 1, 1, 1))
    assert table.threshold(0.5) == pytest.approx(0.25)
    assert table.share_for(0.75) == pytest.approx(0.25)
    assert table.share_for(0.875) == pytest.approx(0.375)
    assert table.share_for(0.4) == 0
    assert table.share_for(1.01) == 1
    assert table.percentile(0.25) == pytest.approx(0.5)
    assert table.percentile(0.4) == 1
    assert table.percentile(0.0) == 0


@given(some_scores, shares)
def test_about_as_many_reach_the_threshold_as_were_asked_for(
    scores: list[float], share: float
) -> None:
    distinct = sorted({round(score, 3) for score in scores})
    if len(distinct) < 2:
        return
    table = calibrate(distinct, steps=max(2, len(distinct) - 1))
    reached = sum(score >= table.threshold(share) for score in distinct) / len(distinct)
    assert abs(reached - share) <= 1.5 / len(distinct)


@given(some_scores, shares, shares)
def test_a_larger_share_never_has_a_higher_threshold(
    scores: list[float], one: float, other: float
) -> None:
    table = calibrate(scores)
    assert table.threshold(max(one, other)) <= table.threshold(min(one, other))


@given(some_scores, st.floats(-10, 10), st.floats(-10, 10))
def test_a_higher_score_never_has_a_lower_percentile(
    scores: list[float], one: float, other: float
) -> None:
    table = calibrate(scores)
    low, high = table.percentile(min(one, other)), table.percentile(max(one, other))
    assert 0 <= low <= high + 1e-9 <= 1 + 2e-9


@given(st.lists(st.tuples(st.floats(-5, 5), shares, shares), min_size=2, max_size=60), shares)
def test_the_share_for_a_quality_is_enough_for_it(
    rows: list[tuple[float, float, float]], quality: float
) -> None:
    scores, weak, strong = zip(*rows, strict=True)
    if sum(strong) < 0.01:
        return
    table = calibrate(scores, weak, strong)
    share = table.share_for(quality)
    assert 0 <= share <= 1
    if share < 1:
        place = share * (len(table.quality) - 1)
        before = min(int(place), len(table.quality) - 2)
        part = place - before
        worth = table.quality[before] * (1 - part) + table.quality[before + 1] * part
        assert worth >= quality - 1e-6


def test_the_ends_of_the_dial_are_everything_and_nothing() -> None:
    table = calibrate([1.0, 2.0])
    assert table.threshold(0) == float("inf")
    assert table.threshold(1) == float("-inf")


@pytest.mark.parametrize(
    ("scores", "quality"), [((1.0,), ()), ((0.0, 1.0), ()), ((1.0, 0.0), (0.5,))]
)
def test_refuses_what_is_no_table(scores: tuple[float, ...], quality: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must"):
        Calibration(scores=scores, quality=quality)


def test_refuses_outcomes_that_do_not_fit_the_scores() -> None:
    with pytest.raises(ValueError, match="both tiers"):
        calibrate([1, 2], [1, 1], [1])
    with pytest.raises(ValueError, match="two scores"):
        calibrate([1])
    with pytest.raises(ValueError, match="no outcomes"):
        calibrate([1, 2]).share_for(0.9)
