"""The limit finds what a target can take, and follows it when that changes."""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.concurrency import Gradient


class Shop:
    """A server that begins an answer at once while it has fewer than `capacity`, else later.

    More is always asked for than there may be.
    """

    def __init__(self, gradient: Gradient, *, capacity: int, base_s: float = 0.1) -> None:
        self.gradient = gradient
        self.capacity = capacity
        self.base_s = base_s
        self.now = 0.0
        self._random = random.Random(5)
        self._open: list[tuple[float, float]] = []

    def run(self, seconds: float) -> list[float]:
        """The times that answers took to begin."""
        until, taken = self.now + seconds, []
        while self.now < until:
            while len(self._open) < self.gradient.limit:
                load = max(1.0, (len(self._open) + 1) / self.capacity)
                first_s = self.base_s * load * self._random.uniform(0.8, 1.2)
                heapq.heappush(self._open, (self.now + first_s, first_s))
            self.now, first_s = heapq.heappop(self._open)
            in_flight = len(self._open) + 1
            self.gradient.ended(first_s, overloaded=False, in_flight=in_flight, now=self.now)
            taken.append(first_s)
        return taken


@pytest.mark.parametrize("capacity", [4, 16, 64])
def test_it_finds_what_a_target_can_take(capacity: int) -> None:
    gradient = Gradient(least=1, most=1000, first=2)
    shop = Shop(gradient, capacity=capacity)
    shop.run(30)
    assert capacity / 2 <= gradient.limit <= 6 * capacity
    taken = shop.run(30)
    assert sorted(taken)[len(taken) * 95 // 100] < 1.0


def test_it_gives_way_when_a_target_slows_down_and_comes_back() -> None:
    gradient = Gradient(least=1, most=1000, first=20)
    shop = Shop(gradient, capacity=64)
    shop.run(20)
    before = gradient.limit
    shop.capacity = 8
    shop.run(10)
    assert gradient.limit < before / 2
    shop.capacity = 64
    shop.run(30)
    assert gradient.limit >= 64 / 2


def test_one_that_is_slow_by_itself_gets_its_requests_back() -> None:
    gradient = Gradient(least=1, most=100, first=20)
    shop = Shop(gradient, capacity=1_000_000)
    shop.run(20)
    assert gradient.limit == 100
    shop.base_s = 1.0
    shop.run(20)
    assert gradient.limit < 50
    shop.run(60)
    assert gradient.limit == 100
    # Less so, and it takes longer to be sure.
    shop.base_s = 1.3
    shop.run(200)
    assert gradient.limit < 50
    shop.run(3_600)
    assert gradient.limit == 100


def test_overload_lowers_it_and_room_that_is_not_used_does_not_raise_it() -> None:
    gradient = Gradient(least=2, most=100, first=50)
    for second in range(5):
        gradient.ended(0.1, overloaded=False, in_flight=3, now=second * 2.0)
    assert gradient.limit == 50
    for second in range(5, 60):
        gradient.ended(None, overloaded=True, in_flight=50, now=second * 2.0)
    assert gradient.limit == 2


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(0, 1e6)),
            st.booleans(),
            st.integers(0, 1000),
            st.floats(0, 10),
        )
    ),
    st.integers(1, 10),
    st.integers(10, 100),
)
def test_it_stays_within_its_bounds(
    ends: list[tuple[float | None, bool, int, float]], least: int, most: int
) -> None:
    gradient, now = Gradient(least=least, most=most, first=5), 0.0
    for first_s, overloaded, in_flight, pause_s in ends:
        now += pause_s
        gradient.ended(first_s, overloaded=overloaded, in_flight=in_flight, now=now)
        assert least <= gradient.limit <= most
