from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger.protocol import Rate
from proxy.rate_headers import duration, rate_headers

_DURATION = re.compile(r"(?:(\d+)m(?!s))?(?:(\d+(?:\.\d{1,3})?)s|(\d+)ms)")


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0s"),
        (1, "1ms"),
        (999, "999ms"),
        (1_000, "1s"),
        (1_500, "1.5s"),
        (10_000, "10s"),
        (59_999, "59.999s"),
        (60_000, "1m0s"),
        (60_100, "1m0.1s"),
        (600_000, "10m0s"),
    ],
)
def test_a_span_is_written_as_openai_does(milliseconds: int, text: str) -> None:
    assert duration(milliseconds) == text


@given(milliseconds=st.integers(0, 10**8))
def test_a_span_loses_nothing(milliseconds: int) -> None:
    found = _DURATION.fullmatch(duration(milliseconds))
    assert found is not None
    minutes, seconds, rest = (float(part or 0) for part in found.groups())
    assert round(minutes * 60_000 + seconds * 1_000 + rest) == milliseconds


def test_only_the_limits_that_there_are_have_headers() -> None:
    assert rate_headers(None, None) == []
    tokens = [
        (b"x-ratelimit-limit-tokens", b"100"),
        (b"x-ratelimit-remaining-tokens", b"0"),
        (b"x-ratelimit-reset-tokens", b"250ms"),
    ]
    assert rate_headers(None, Rate(100, 0, 250)) == tokens
    names = [name for name, _ in rate_headers(Rate(3, 2, 1_000), Rate(100, 0, 250))]
    assert len(set(names)) == 6
    assert all(name.endswith(b"-requests") for name in names[:3])
