from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.budgets import LIFETIME, fits, span_at, time_zone
from proxy.ledger.protocol import Window

CALENDAR: tuple[Window, ...] = ("day", "week", "month")
# Zones whose clocks change at midnight, over midnight, by half an hour, or that lost a whole day.
ODD_ZONES = (
    "America/Havana",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Africa/Cairo",
    "Asia/Beirut",
    "Atlantic/Azores",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kwajalein",
)


def at(text: str, zone: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


def changes(zone: ZoneInfo, first: int, last: int) -> list[int]:
    """The instants in [first, last) at which the zone's offset changes."""

    def offset(instant: int) -> timedelta | None:
        return datetime.fromtimestamp(instant, zone).utcoffset()

    found = []
    step = 20 * 86_400
    for begin in range(first, last, step):
        low, high = begin, begin + step
        if offset(low) == offset(high):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
        found.append(high)
    return found


def check_around(window: Window, zone: ZoneInfo, now: int) -> None:
    """Windows contain their instants, and follow each other without gap or overlap."""
    span = span_at(window, zone, now)
    assert span.ends_at is not None
    assert span.starts_at <= now < span.ends_at
    assert span_at(window, zone, span.starts_at) == span
    assert span_at(window, zone, span.ends_at - 1) == span
    assert span_at(window, zone, span.ends_at).starts_at == span.ends_at
    assert span_at(window, zone, span.starts_at - 1).ends_at == span.starts_at


@given(
    window=st.sampled_from(CALENDAR),
    zone=st.sampled_from(sorted(available_timezones())),
    now=st.integers(-(2**31), 2**32),
)
def test_windows_of_any_zone_follow_each_other(window: Window, zone: str, now: int) -> None:
    check_around(window, time_zone(zone), now)


@pytest.mark.parametrize("zone", ODD_ZONES)
def test_windows_follow_each_other_around_every_change_of_clocks(zone: str) -> None:
    around = (-86_400, -3_601, -61, -1, 0, 59, 1_800, 3_599, 3_600, 86_399)
    for change in changes(ZoneInfo(zone), -500_000_000, 2_000_000_000):
        for window in CALENDAR:
            for offset in around:
                check_around(window, ZoneInfo(zone), change + offset)


@pytest.mark.parametrize(
    ("window", "zone", "now", "starts", "ends"),
    [
        ("day", "UTC", "2026-03-10T12:00", "2026-03-10", "2026-03-11"),
        ("day", "UTC", "2026-03-10T00:00", "2026-03-10", "2026-03-11"),
        ("day", "Europe/Berlin", "2026-03-29T12:00", "2026-03-29", "2026-03-30"),
        ("week", "UTC", "2026-03-08T23:59:59", "2026-03-02", "2026-03-09"),
        ("week", "UTC", "2026-03-09T00:00", "2026-03-09", "2026-03-16"),
        ("month", "America/New_York", "2024-02-29T23:00", "2024-02-01", "2024-03-01"),
        ("month", "UTC", "2026-12-31T23:59:59", "2026-12-01", "2027-01-01"),
    ],
)
def test_a_window_starts_at_local_midnight(
    window: Window, zone: str, now: str, starts: str, ends: str
) -> None:
    span = span_at(window, ZoneInfo(zone), at(now, zone))
    assert (span.starts_at, span.ends_at) == (at(starts, zone), at(ends, zone))


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25)])
def test_days_on_which_clocks_change_are_shorter_or_longer(day: str, hours: int) -> None:
    span = span_at("day", ZoneInfo("Europe/Berlin"), at(f"{day}T12:00", "Europe/Berlin"))
    assert span.ends_at is not None
    assert span.ends_at - span.starts_at == hours * 3_600


def test_an_hour_that_clocks_repeat_over_midnight_does_not_open_the_old_day_again() -> None:
    zone = ZoneInfo("America/St_Johns")  # 2010-11-07 00:01 was followed by 2010-11-06 23:01
    before = int(datetime(2010, 11, 7, 2, 30, 30, tzinfo=UTC).timestamp())
    again = before + 60
    assert datetime.fromtimestamp(before, zone).day == 7
    assert datetime.fromtimestamp(again, zone).day == 6
    assert span_at("day", zone, again) == span_at("day", zone, before)


def test_a_lifetime_never_ends_whatever_the_clock_says() -> None:
    for now in (-(10**9), 0, 4 * 10**9):
        assert span_at("lifetime", ZoneInfo("UTC"), now) == LIFETIME


@pytest.mark.parametrize(
    "name", ["", "Mars/Olympus", "America", "../etc/passwd", "/etc/passwd", "a\0b"]
)
def test_an_unknown_zone_is_a_value_error_that_quotes_it(name: str) -> None:
    with pytest.raises(ValueError, match="unknown time zone") as error:
        time_zone(name)
    assert repr(name) in str(error.value)


def test_a_hold_fits_up_to_the_last_nano_dollar() -> None:
    assert fits(100, 40, 35, 25)
    assert not fits(100, 40, 35, 26)
    assert fits(0, 0, 0, 0)
    assert not fits(100, 101, 0, 0)
