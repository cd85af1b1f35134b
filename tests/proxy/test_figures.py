"""What is measured takes the place of what is declared, and fades again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.figures import _MOST_KEPT, HALF_LIFE_S, UNKNOWN, Figures
from proxy.ledger.protocol import Outcome
from proxy.pricing import Usage
from proxy.targets import Target
from tests.proxy.test_costs import _target


class Hands:
    """A clock whose hands are moved by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def _made(**declared: Any) -> tuple[Figures, Hands, Target]:
    hands = Hands()
    return Figures(hands), hands, replace(_target(None), **declared)


def _attempt(
    figures: Figures,
    target: Target,
    outcome: Outcome = "ok",
    *,
    status: int = 200,
    tokens: int = 100,
    first_s: float | None = 0.2,
    total_s: float = 1.2,
    **more: Any,
) -> None:
    figures.began(target)
    figures.ended(
        target,
        outcome=outcome,
        status=status,
        usage=Usage(input_tokens=10, output_tokens=tokens),
        first_token_s=first_s,
        total_s=total_s,
        **more,
    )


def test_what_is_declared_stands_until_something_is_measured() -> None:
    figures, _, target = _made(latency_ms=900.0, reliability=0.99)
    assert figures.candidate(target) is target.candidate


def test_measured_figures_replace_the_declared_ones_as_they_come_in() -> None:
    figures, _, target = _made(latency_ms=2000.0, reliability=0.99)
    seen = [2000.0]
    for _ in range(40):
        _attempt(figures, target)
        latency_ms = figures.candidate(target).latency_ms
        assert latency_ms is not None
        seen.append(latency_ms)
    assert seen == sorted(seen, reverse=True)
    assert 1000 < seen[1] < 2000  # one answer is not the whole truth
    assert seen[-1] == pytest.approx(200, rel=0.02)
    assert figures.candidate(target).tokens_per_second == pytest.approx(99)


def test_a_first_failure_is_not_yet_a_target_that_always_fails() -> None:
    figures, _, target = _made()
    _attempt(figures, target, "timeout", status=0)
    after_one = figures.candidate(target).reliability
    assert after_one is not None
    assert 0.6 < after_one < 0.95
    for _ in range(30):
        _attempt(figures, target, "upstream_error", status=503)
    after_many = figures.candidate(target).reliability
    assert after_many is not None
    assert after_many < 0.05


def test_a_target_that_was_left_alone_is_tried_again() -> None:
    figures, hands, target = _made(reliability=0.99, latency_ms=500.0)
    for _ in range(30):
        _attempt(figures, target, "broken", status=0)
    hands.now += 8 * HALF_LIFE_S
    reliability = figures.candidate(target).reliability
    assert reliability is not None
    assert reliability > 0.9


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_itself_at_fault_says_nothing_of_the_target(status: int) -> None:
    figures, _, target = _made()
    _attempt(figures, target, "upstream_error", status=status)
    _attempt(figures, target, "client_gone")
    assert figures.candidate(target).reliability is None


def test_a_whole_answer_began_as_long_ago_as_it_takes_to_say_it() -> None:
    figures, _, target = _made()
    _attempt(figures, target, tokens=101, first_s=0.5, total_s=1.5)  # 100 tokens a second
    _attempt(figures, target, tokens=200, first_s=None, total_s=2.5)
    assert figures.candidate(target).latency_ms == pytest.approx(500)


def test_what_is_open_is_counted_for_each_target_behind_a_wildcard() -> None:
    figures, _, target = _made(metric_name="up/*")
    other = replace(target, name="up/other")
    for each in (target, other, target):
        figures.began(each)
    assert [figures.candidate(each).in_flight for each in (target, other)] == [2, 1]


def test_operators_see_what_was_measured_last_however_long_ago() -> None:
    figures, hands, target = _made(latency_ms=900.0)
    assert figures.of(target) == UNKNOWN
    _attempt(figures, target, tokens=101, first_s=1.0, total_s=3.0)
    hands.now += 3600 * 6
    found = figures.of(target)
    assert found.tokens_per_second == pytest.approx(50.0)
    assert found.first_token_s == pytest.approx(1.0)
    assert found.answered_at == 1000.0
    assert figures.candidate(target).latency_ms == pytest.approx(900.0, rel=0.2)


def test_failures_count_until_something_is_answered() -> None:
    figures, hands, target = _made()
    for _ in range(3):
        _attempt(figures, target, "upstream_error", status=502, problem="refused")
    assert (figures.of(target).failures, figures.of(target).problem) == (3, "refused")
    hands.now += 1
    _attempt(figures, target)
    found = figures.of(target)
    assert (found.failures, found.problem, found.failed_at) == (0, "", 1000.0)


def test_what_is_no_fault_of_the_target_is_not_held_against_it() -> None:
    figures, _, target = _made(reliability=1.0)
    _attempt(figures, target, "not_dispatched", status=0, is_at_fault=False)
    _attempt(figures, target, "upstream_error", status=400)
    assert figures.of(target) == UNKNOWN
    assert figures.candidate(target).reliability == 1.0


def test_only_so_many_targets_are_remembered_and_none_that_is_in_use_is_forgotten() -> None:
    figures, _, target = _made()
    figures.began(target)
    for number in range(3000):
        _attempt(figures, replace(target, name=f"up/{number}"), "timeout", status=0)
    assert figures.candidate(target).in_flight == 1
    assert figures.of(replace(target, name="up/0")) == UNKNOWN
    assert figures.of(replace(target, name="up/2999")).failures == 1


attempts = st.lists(
    st.tuples(
        st.sampled_from(("ok", "timeout", "broken", "upstream_error", "client_gone")),
        st.floats(0.001, 60),
        st.floats(0, 600),
        st.integers(0, 5000),
    ),
    max_size=40,
)


@given(attempts, st.none() | st.floats(1, 9000), st.none() | st.floats(0, 1))
def test_figures_stay_within_what_was_measured_and_declared(
    attempts: list[tuple[Outcome, float, float, int]],
    latency_ms: float | None,
    reliability: float | None,
) -> None:
    figures, hands, target = _made(latency_ms=latency_ms, reliability=reliability)
    seen = [] if latency_ms is None else [latency_ms]
    for outcome, first_s, later_s, tokens in attempts:
        _attempt(figures, target, outcome, status=503, tokens=tokens, first_s=first_s, total_s=90)
        if outcome == "ok":
            seen.append(first_s * 1e3)
        hands.now += later_s
        shown = figures.candidate(target)
        assert shown.in_flight == 0
        assert shown.reliability is None or -1e-9 <= shown.reliability <= 1 + 1e-9
        if shown.latency_ms is not None:
            assert min(seen) * 0.999 <= shown.latency_ms <= max(seen) * 1.001


def test_of_however_many_targets_none_has_fewer_than_no_requests_open() -> None:
    figures, _, first = _made()
    targets = [replace(first, name=f"up/m{number}") for number in range(_MOST_KEPT + 5)]
    for target in targets:
        figures.began(target)
    for target in targets:
        figures.ended(
            target,
            outcome="client_gone",
            status=0,
            usage=Usage(input_tokens=0, output_tokens=0),
            first_token_s=None,
            total_s=1.0,
        )
    assert {figures.candidate(target).in_flight for target in targets} == {0}


def test_the_p95_is_told_once_there_is_enough_by_kind_of_answer() -> None:
    figures, _, target = _made()
    for _ in range(19):
        _attempt(figures, target, first_s=0.1, stream=True)
    assert figures.p95_s(target, stream=True) is None
    _attempt(figures, target, first_s=5.0, stream=True)
    assert figures.p95_s(target, stream=True) == 0.1
    _attempt(figures, target, first_s=6.0, stream=True)
    assert figures.p95_s(target, stream=True) == 5.0
    assert figures.p95_s(target, stream=False) is None
    for _ in range(20):
        _attempt(figures, target, first_s=None, total_s=3.0)
    assert figures.p95_s(target, stream=False) == 3.0


def test_what_was_given_up_counts_where_it_was_in_the_tail() -> None:
    """Else the p95 of a target whose slow answers are all beaten would fall and fall."""
    figures, _, target = _made()
    for _ in range(38):
        _attempt(figures, target, first_s=0.1, stream=True)
    for total_s in (0.01, 0.5, 0.5, 0.5):
        _attempt(figures, target, "cancelled", first_s=None, total_s=total_s, stream=True)
    assert figures.p95_s(target, stream=True) == 0.5
    for _ in range(300):
        _attempt(figures, target, first_s=0.2, stream=True)
    assert figures.p95_s(target, stream=True) == 0.2


def test_what_was_given_up_says_nothing_of_reliability() -> None:
    figures, _, target = _made()
    _attempt(figures, target, "cancelled", status=0)
    assert figures.candidate(target).reliability is None
