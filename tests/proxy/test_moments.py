from __future__ import annotations

import time

import pytest

from proxy.moments import parse_later, parse_length_s, parse_moment


def test_dates_times_and_spans() -> None:
    assert parse_moment(None) is None
    assert parse_moment("2026-11-20") == 1795132800
    assert parse_moment("2026-11-20T08:00:00Z") == 1795132800 + 8 * 3600
    assert parse_moment("2026-11-20T08:00:00+01:00") == 1795132800 + 7 * 3600
    assert abs((parse_moment("7d") or 0) - (time.time() - 7 * 86_400)) < 5
    assert abs((parse_moment("12h") or 0) - (time.time() - 12 * 3600)) < 5


def test_later_is_a_date_or_from_now_on() -> None:
    assert parse_later("2026-11-20", 5) == 1795132800
    assert parse_later("30d", 5) == 5 + 30 * 86_400
    assert parse_later("90m", 5) == 5 + 90 * 60


def test_lengths() -> None:
    assert [parse_length_s(text) for text in ("1d", "2h", "90m", "0d")] == [86_400, 7_200, 5_400, 0]


@pytest.mark.parametrize("text", ["soon", "7", "7w", "2026-13-01", "999999d", "٣d"])
def test_nonsense_says_what_could_be_written(text: str) -> None:
    with pytest.raises(ValueError, match="2026-11-20"):
        parse_moment(text)
    with pytest.raises(ValueError, match="2026-11-20"):
        parse_later(text, 5)
    with pytest.raises(ValueError, match="write 30d, 12h or 90m"):
        parse_length_s(text)
