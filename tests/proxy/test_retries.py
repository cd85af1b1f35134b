"""Retries are a bounded share of the requests, however many come, and wait as they are told."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.retries import RetryBudget, delay_s
from proxy.retry_after import asked_s

NOW = 1_700_000_000.0


@given(
    share=st.floats(0, 1),
    per_s=st.floats(0, 20),
    steps=st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=200),
)
def test_a_budget_is_never_overdrawn(
    share: float, per_s: float, steps: list[tuple[bool, float]]
) -> None:
    budget = RetryBudget(share=share, per_s=per_s, now=0.0)
    requests = retries = 0
    now = 0.0
    for is_request, passed_s in steps:
        now += passed_s
        if is_request:
            requests += 1
            budget.deposit()
        else:
            retries += budget.withdraw(now)
        assert retries <= budget.burst + share * requests + per_s * now + 1e-6
    assert budget.burst <= max(1.0, 3 * per_s)


def test_a_dead_provider_gets_little_more_than_its_requests() -> None:
    budget = RetryBudget(share=0.1, per_s=3.0, now=0.0)
    calls = 0
    for number in range(10_000):  # 200 a second, each of which would be tried again
        budget.deposit()
        calls += 1 + budget.withdraw(number / 200)
    assert 11_000 <= calls <= 1.15 * 10_000


def test_a_budget_fills_up_again() -> None:
    budget = RetryBudget(share=0.0, per_s=1.0, now=0.0)
    assert [budget.withdraw(0.0) for _ in range(4)] == [True, True, True, False]
    assert budget.is_low(1.0)
    assert budget.withdraw(1.0)
    assert not budget.withdraw(1.5)
    assert not budget.is_low(100.0)
    assert [budget.withdraw(100.0) for _ in range(4)] == [True, True, True, False]


def test_there_may_be_none() -> None:
    budget = RetryBudget(share=0.0, per_s=0.0, now=0.0)
    budget.deposit()
    assert not budget.withdraw(1e9)


@given(retry=st.integers(1, 20), asked=st.none() | st.floats(0, 100), draw=st.floats(0, 1))
def test_a_wait_is_jittered_and_never_shorter_than_asked(
    retry: int, asked: float | None, draw: float
) -> None:
    waited = delay_s(retry, asked, draw)
    assert (asked or 0.0) <= waited <= (asked or 0.0) + min(8.0, 0.5 * 2 ** (retry - 1))
    assert delay_s(retry, asked, 0.0) == (asked or 0.0)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "7", "retry-after-ms": "120"}, 0.12),
        ({"retry-after": format_datetime(datetime.fromtimestamp(NOW + 30, UTC), usegmt=True)}, 30),
        ({"retry-after": format_datetime(datetime.fromtimestamp(NOW - 30, UTC), usegmt=True)}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "9" * 400}, 999_999_999),
        ({"retry-after": "²"}, None),
        ({"retry-after-ms": "nan", "retry-after": "2"}, 2.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m1.5s"}, 61.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6h0m0s"}, 21_600),
        ({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "6m0s"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": ""}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "never"}, None),
    ],
)
def test_what_a_provider_asks_for(headers: dict[str, str], expected: float | None) -> None:
    found = asked_s(headers, NOW)
    assert found == (None if expected is None else pytest.approx(expected))


@given(text=st.text(max_size=60))
def test_whatever_a_provider_sends_is_read_or_left(text: str) -> None:
    for name in ("retry-after", "retry-after-ms", "x-ratelimit-reset-tokens"):
        found = asked_s({name: text, "x-ratelimit-remaining-tokens": "0"}, NOW)
        assert found is None or found >= 0
