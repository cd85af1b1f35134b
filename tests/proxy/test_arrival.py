"""What of a request's time is its client's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.arrival import Arrival

PARTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8)


@given(parts=PARTS)
def test_the_client_has_the_time_between_its_parts(parts: list[tuple[int, int]]) -> None:
    """Each part is `(how long it took to come, how long we took to read it)`."""
    at = 100.0
    arrival = Arrival(at)
    for waited, read in parts:
        arrival.wait(at)
        arrival.go_on(at + waited)
        at += waited + read
    assert (arrival.at, arrival.client_s) == (100, sum(waited for waited, _ in parts))


def test_where_nothing_was_to_come_nothing_is_the_clients() -> None:
    arrival = Arrival(1.0)
    arrival.go_on(5.0)  # its connection has something else
    assert arrival.client_s == 0


def test_one_that_waits_for_its_turn_begins_with_it() -> None:
    arrival = Arrival(1.0)
    arrival.wait(2.0)
    arrival.go_on(4.0)
    arrival.wait(5.0)
    arrival.has_turn(7.0)
    arrival.go_on(10.0)
    assert (arrival.at, arrival.client_s) == (7, 3)
