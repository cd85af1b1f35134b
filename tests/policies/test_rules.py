"""The operator's rules: when they hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Analysis
from policies.rules import Circumstances, When

ANALYSIS = Analysis(
    task="coding", complexity="complex", domain="software", language="de", modality="text",
    output_tokens=100, latency_sensitivity="normal",
)  # fmt: skip
# A Friday.
NOW = Circumstances(
    scopes=("global", "key:k_1", "tag:nightly"),
    input_tokens=500,
    analysis=ANALYSIS,
    budget_left=0.4,
    at=datetime(2026, 11, 20, 23, 30, tzinfo=UTC).timestamp(),
)


def _when(**said: Any) -> When:
    return msgspec.convert(said, When)


@pytest.mark.parametrize(
    ("said", "holds"),
    [
        ({}, True),
        ({"scopes": ["key:k_1"]}, True),
        ({"scopes": ["key:k_2", "tag:night*"]}, True),
        ({"scopes": ["team:*"]}, False),
        ({"tasks": ["coding", "chat"]}, True),
        ({"tasks": ["chat"]}, False),
        ({"complexities": ["complex"], "languages": ["de"], "domains": ["software"]}, True),
        ({"complexities": ["complex"], "languages": ["en"]}, False),
        ({"min_input_tokens": 500, "max_input_tokens": 500}, True),
        ({"min_input_tokens": 501}, False),
        ({"max_input_tokens": 499}, False),
        ({"hours": "23:30-23:31"}, True),
        ({"hours": "23:00-23:30"}, False),
        ({"hours": "22:00-06:00"}, True),
        ({"hours": "06:00-22:00"}, False),
        ({"hours": "08:00-09:00", "timezone": "Asia/Tokyo"}, True),
        ({"days": ["fri"]}, True),
        ({"days": ["sat"]}, False),
        ({"days": ["sat"], "timezone": "Asia/Tokyo"}, True),
        ({"budget_left": 0.4}, True),
        ({"budget_left": 0.39}, False),
    ],
)
def test_what_holds(said: dict[str, Any], holds: bool) -> None:
    assert _when(**said).holds(NOW) is holds


def test_nothing_is_below_a_share_of_a_budget_that_is_not_there() -> None:
    assert not _when(budget_left=1).holds(replace(NOW, budget_left=None))


def test_what_was_not_read_is_nothing_that_a_rule_can_hold_by() -> None:
    unread = replace(NOW, analysis=None)
    assert _when(scopes=["key:k_1"]).holds(unread)
    assert not _when(tasks=["coding"]).holds(unread)


def test_a_rule_reads_only_what_it_looks_at() -> None:
    assert _when(scopes=["key:k_1"], hours="10:00-11:00").reads == frozenset()
    assert _when(languages=["de"]).reads == {"prompt"}
    assert _when(budget_left=0.1, tasks=["chat"]).reads == {"prompt", "budget"}


@pytest.mark.parametrize("hours", ["24:00-01:00", "9:00-10:00", "10:00", "10:00-11:60", "x"])
def test_hours_that_are_none_are_refused(hours: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        _when(hours=hours)


def test_a_range_that_holds_nothing_is_refused() -> None:
    assert _when(min_input_tokens=5, max_input_tokens=5).holds(replace(NOW, input_tokens=5))
    with pytest.raises(msgspec.ValidationError, match="below"):
        _when(min_input_tokens=5, max_input_tokens=4)


times = st.times().map(lambda time: time.strftime("%H:%M"))


@given(times, times, st.integers(0, 2 * 86_400))
def test_an_interval_and_its_opposite_share_the_day(begin: str, end: str, seconds: int) -> None:
    now = replace(NOW, at=NOW.at + seconds)
    if begin != end:
        there = _when(hours=f"{begin}-{end}").holds(now)
        assert there is not _when(hours=f"{end}-{begin}").holds(now)
