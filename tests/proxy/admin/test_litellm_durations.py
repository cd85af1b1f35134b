from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin.litellm.durations import duration_of, expiry, overlap_s, window_of
from proxy.budgets import rolling_s
from proxy.errors import InvalidRequest


@pytest.mark.parametrize(
    ("duration", "window"),
    [
        (None, "lifetime"),
        ("1d", "day"),
        ("24h", "day"),
        ("daily", "day"),
        ("7d", "week"),
        ("1w", "week"),
        ("30d", "month"),
        ("1mo", "month"),
        ("monthly", "month"),
        ("1h", "1h"),
        ("90m", "90m"),
        ("120s", "2m"),
        ("14d", "14d"),
        ("2w", "14d"),
    ],
)
def test_durations_are_windows(duration: str | None, window: str) -> None:
    assert window_of(duration) == window


@pytest.mark.parametrize(
    "duration", ["", "0d", "1.5h", "-1d", "d", "1y", "90s", "2mo", "9" * 9 + "d"]
)
def test_what_is_no_window_is_refused_by_name(duration: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        window_of(duration)
    assert refused.value.param == "budget_duration"


@given(st.integers(1, 300), st.sampled_from("mhdw"))
def test_a_window_is_as_long_as_its_duration_and_shown_as_one_of_that_length(
    count: int, unit: str
) -> None:
    duration = f"{count}{unit}"
    try:
        window = window_of(duration)
    except InvalidRequest:
        return  # longer, or shorter, than any rolling window
    length = rolling_s(window) or {"day": 1, "week": 7, "month": 30}[window] * 86_400
    assert length == count * {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}[unit]
    shown = duration_of(window)
    assert shown is not None
    assert window_of(shown) == window


@pytest.mark.parametrize(
    ("began", "duration", "ended"),
    [
        ("2026-01-31T10:00:00", "1mo", "2026-02-28T10:00:00"),
        ("2027-12-31T10:00:00", "2mo", "2028-02-29T10:00:00"),
        ("2026-11-20T10:00:00", "12mo", "2027-11-20T10:00:00"),
        ("2026-11-20T10:00:00", "30s", "2026-11-20T10:00:30"),
        ("2026-11-20T10:00:00", "1w", "2026-11-27T10:00:00"),
    ],
)
def test_expiry(began: str, duration: str, ended: str) -> None:
    assert expiry(duration, _utc(began)) == _utc(ended)


@pytest.mark.parametrize("duration", ["999999999mo", "999999999w", "96000mo"])
def test_no_key_lives_beyond_the_year_9999(duration: str) -> None:
    with pytest.raises(InvalidRequest):
        expiry(duration, _utc("2026-11-20T10:00:00"))


def test_an_overlap_is_at_most_a_year() -> None:
    assert overlap_s("366d", "grace_period") == 366 * 86_400
    for longer in ("367d", "1mo"):
        with pytest.raises(InvalidRequest):
            overlap_s(longer, "grace_period")


def _utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
