from __future__ import annotations

import math

import pytest

np = pytest.importorskip("numpy", reason="the routing benchmark's metrics are in numpy")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from benchmarks.routing.metrics import auc, curve, figures, interval  # noqa: E402

# Four prompts: the strong model is better at the first two, worse at the last.
WEAK = np.array([0.0, 0.0, 1.0, 1.0])
STRONG = np.array([1.0, 1.0, 1.0, 0.5])


def test_the_best_order_by_hand() -> None:
    found = figures(np.array([4.0, 3.0, 2.0, 1.0]), WEAK, STRONG)
    share, quality = curve(np.array([4.0, 3.0, 2.0, 1.0]), WEAK, STRONG)
    assert share == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert quality == pytest.approx([0.5, 0.75, 1, 1, 0.875])
    # PGR 0, 2/3, 4/3, 4/3, 1: trapezoids of a quarter each.
    assert found.apgr == pytest.approx((1 / 3 + 1 + 4 / 3 + 7 / 6) / 4)
    assert found.cpt50 == pytest.approx(100 * 0.25 * 0.75)
    assert found.cpt80 == pytest.approx(100 * (0.25 + 0.25 * (0.8 - 2 / 3) / (2 / 3)))
    # 95 % of 0.875 is 0.83125, a third of the way from 0.75 to 1.
    assert found.calls95 == pytest.approx(100 * (0.25 + 0.25 * 0.325))
    assert found.auc == 1


def test_the_worst_order_by_hand() -> None:
    found = figures(np.array([1.0, 2.0, 3.0, 4.0]), WEAK, STRONG)
    # PGR 0, -1/3, -1/3, 1/3, 1
    assert found.apgr == pytest.approx((-1 / 6 - 1 / 3 + 0 + 2 / 3) / 4)
    assert found.cpt50 == pytest.approx(100 * (0.75 + 0.25 * (0.5 - 1 / 3) / (2 / 3)))
    assert found.auc == 0


def test_one_score_for_all_is_the_random_router() -> None:
    found = figures(np.zeros(4), WEAK, STRONG, price_ratio=0.1)
    assert found.apgr == pytest.approx(0.5)
    assert found.cpt50 == pytest.approx(50)
    assert found.cpt80 == pytest.approx(80)
    assert found.auc == pytest.approx(0.5)
    assert found.cost95 == pytest.approx(found.calls95 * 0.9 + 10)


def test_ties_count_half() -> None:
    labels = np.array([True, False, True, False])
    assert auc(np.array([2.0, 1.0, 1.0, 0.0]), labels) == pytest.approx(3.5 / 4)
    assert math.isnan(auc(np.array([1.0, 2.0]), np.array([True, True])))


outcomes = st.lists(
    st.tuples(st.integers(-3, 3), st.sampled_from((0.0, 0.5, 1.0)), st.sampled_from((0.5, 1.0))),
    min_size=4,
    max_size=60,
).filter(lambda rows: sum(strong for _, _, strong in rows) > sum(weak for _, weak, _ in rows))


@given(outcomes, st.randoms())
def test_the_order_of_the_data_and_the_unit_of_scores_mean_nothing(rows, random) -> None:  # type: ignore[no-untyped-def]
    score, weak, strong = (np.array(column, float) for column in zip(*rows, strict=True))
    shuffled = list(rows)
    random.shuffle(shuffled)
    again = [np.array(column, float) for column in zip(*shuffled, strict=True)]
    found, other = figures(score, weak, strong), figures(again[0] * 7 - 3, again[1], again[2])
    for name in ("apgr", "cpt50", "cpt80", "calls95"):
        assert getattr(found, name) == pytest.approx(getattr(other, name), abs=1e-6)


@given(outcomes)
def test_no_router_beats_the_oracle(rows) -> None:  # type: ignore[no-untyped-def]
    score, weak, strong = (np.array(column, float) for column in zip(*rows, strict=True))
    best, found = figures(strong - weak, weak, strong), figures(score, weak, strong)
    assert found.apgr <= best.apgr + 1e-9
    assert found.cpt50 >= best.cpt50 - 1e-9


def test_an_interval_holds_the_figure_and_is_repeatable() -> None:
    draw = np.random.default_rng(1)
    weak, score = draw.integers(0, 2, 300).astype(float), draw.random(300)
    strong = np.maximum(weak, draw.integers(0, 2, 300))
    found = figures(score, weak, strong).apgr
    low, high = interval(score, weak, strong, resamples=100)["apgr"]
    assert low < found < high
    assert interval(score, weak, strong, resamples=100)["apgr"] == (low, high)
