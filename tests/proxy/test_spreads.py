"""Percentiles of the last minutes, and of what went before."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.spreads import RECENT_S, USUAL_HALF_LIFE_S, Attempted, Recent, Spread

_MS = st.floats(0.01, 1e6)


@given(st.lists(_MS, min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_right_to_five_percent(values: list[float], share: float) -> None:
    spread = Spread()
    for value in values:
        spread.add(value)
    found = spread.quantile(share)
    exact = sorted(values)[math.ceil(share * len(values) - 1e-9) - 1]
    assert found == pytest.approx(exact, rel=0.0501)


def test_nothing_has_no_quantile() -> None:
    assert Spread().quantile(0.5) is None
    assert Attempted().recent(1e6) == Recent()
    assert Recent().error_rate == 0


@given(st.lists(st.tuples(st.floats(0, 100), st.one_of(st.none(), _MS)), max_size=200))
def test_recent_is_what_came_in_the_last_minutes(steps: list[tuple[float, float | None]]) -> None:
    attempted, seen, now = Attempted(), list[tuple[float, float | None]](), 5_000.0
    for pause_s, latency_ms in steps:
        now += pause_s
        attempted.add(latency_ms, now)
        seen.append((now, latency_ms))
    recent = attempted.recent(now)
    kept = [ms for at, ms in seen if at // 60 > (now - RECENT_S) // 60]
    assert recent.attempts == len(kept)
    assert recent.failures == kept.count(None)
    gone = [ms for at, ms in seen if at // 60 <= (now - RECENT_S) // 60 and ms is not None]
    assert recent.usual_attempts <= len(gone)
    assert (recent.usual_p95_ms is None) == (not gone)


def test_what_is_usual_fades() -> None:
    attempted = Attempted()
    for _ in range(1000):
        attempted.add(100.0, 0.0)
    then = RECENT_S + 60
    assert attempted.recent(then).usual_attempts == 1000
    assert attempted.recent(then).attempts == 0
    for _ in range(1000):
        attempted.add(1000.0, then + USUAL_HALF_LIFE_S * 4)
    later = attempted.recent(then + USUAL_HALF_LIFE_S * 4 + RECENT_S + 60)
    assert 1060 <= later.usual_attempts <= 1065
    assert later.usual_p50_ms == pytest.approx(1000, rel=0.06)
