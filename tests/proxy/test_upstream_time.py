"""The time of several attempts is that in which any of them ran, however they overlap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream_time import UpstreamTime

moments = st.integers(0, 60)
attempts = st.lists(st.tuples(moments, moments).map(sorted), max_size=6)


@given(spans=attempts, until=moments)
def test_any_second_in_which_a_provider_is_at_work_counts_once(
    spans: list[list[int]], until: int
) -> None:
    upstream = UpstreamTime()
    # At the same moment one begins before another ends.
    steps = [(begin, 0, number) for number, (begin, _) in enumerate(spans)]
    steps += [(end, 1, number) for number, (_, end) in enumerate(spans)]
    for at, is_end, number in sorted(steps):
        if at <= until:
            (upstream.end if is_end else upstream.begin)(number, float(at))
    busy = {at for begin, end in spans for at in range(begin, min(end, until))}
    assert upstream.until(float(until)) == len(busy)


def test_an_end_counts_once_and_a_pause_for_a_provider_is_its_own() -> None:
    upstream = UpstreamTime()
    upstream.begin(1, 10.0)
    upstream.end(1, 12.0)
    upstream.end(1, 19.0)
    upstream.end(2, 19.0)
    upstream.add(0.5)
    assert upstream.until(20.0) == pytest.approx(2.5)
