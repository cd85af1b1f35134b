"""The limit finds what a target can take, and follows it when that changes."""

from __future__ import annotations

import heapq
import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.concurrency import Gradient
from proxy.fair_queue import FairQueue


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


class Line(Shop):
    """The same server, before which so many clients wait in line, each with one request.

    Nobody gives up: of more clients than these, who waits for two seconds is turned away.
    """

    def __init__(self, gradient: Gradient, *, capacity: int, clients: int) -> None:
        super().__init__(gradient, capacity=capacity, base_s=0.03)
        self._line = deque([0.0] * clients)
        """When they came."""

    def run(self, seconds: float) -> list[float]:
        """How long they waited for their turn."""
        until, waited = self.now + seconds, []
        while self.now < until:
            while self._line and len(self._open) < self.gradient.limit:
                waited.append(self.now - self._line.popleft())
                load = max(1.0, (len(self._open) + 1) / self.capacity)
                first_s = self.base_s * load * self._random.uniform(0.8, 1.2)
                heapq.heappush(self._open, (self.now + first_s, first_s))
            self.now, first_s = heapq.heappop(self._open)
            self._line.append(self.now)  # and is there again
            in_flight = len(self._open) + 1
            self.gradient.ended(first_s, overloaded=False, in_flight=in_flight, now=self.now)
        return waited


@pytest.mark.resilience(row="room")
@pytest.mark.parametrize("slower", [2, 5, 10])
@pytest.mark.parametrize("clients", [10, 30])
def test_hardly_anybody_waits_for_two_seconds_when_a_target_slows_down(
    clients: int, slower: int
) -> None:
    shop = Line(Gradient(least=1, most=1000, first=10), capacity=32, clients=clients)
    shop.run(20)
    shop.base_s *= slower
    waited = sorted(shop.run(60))
    assert waited[len(waited) * 99 // 100] < 2.0
    shop.base_s /= slower
    shop.run(20)
    waited = sorted(shop.run(20))
    assert waited[len(waited) * 99 // 100] < 0.2


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


class Crowd:
    """More requests than a server can answer, which wait in turn for two seconds at most.

    A server with more requests than its capacity answers each of them later, and as many in all.
    """

    QUEUE_S = 2.0
    PATIENT_S = 3.0
    """What is answered later than this nobody reads any more."""

    def __init__(self, gradient: Gradient | None, *, capacity: int, per_s: float) -> None:
        self.gradient = gradient
        self.capacity = capacity
        self.per_s = per_s
        self.base_s = 0.2
        self.waits: list[float] = []
        self.answered = 0
        self._queue: FairQueue[tuple[float, int]] = FairQueue(1000)
        self._work: list[list[float]] = []
        """Of each request at the server: when it came, when it began there, what is left to do."""
        self._random = random.Random(7)
        self._now = 0.0
        self._number = 0

    def run(self, seconds: float, step_s: float = 0.02) -> None:
        until = self._now + seconds
        while self._now < until:
            self._now += step_s
            for _ in range(int(self.per_s * step_s + self._random.random())):
                self._number += 1
                caller = self._random.choice("aaaaaaabc")
                self._queue.put((self._now, self._number), caller, "normal")
            self._let_in()
            self._serve(step_s)

    def _let_in(self) -> None:
        while self.gradient is None or len(self._work) < self.gradient.limit:
            came = self._queue.take()
            if came is None:
                return
            wait_s = self._now - came[0]
            if wait_s <= self.QUEUE_S:
                self.waits.append(wait_s)
                self._work.append([came[0], self._now, self.base_s])

    def _serve(self, step_s: float) -> None:
        share = min(1.0, self.capacity / max(1, len(self._work)))
        for each in self._work:
            each[2] -= step_s * share
        done = [each for each in self._work if each[2] <= 0]
        for came_at, began_at, _ in done:
            self.answered += self._now - came_at <= self.PATIENT_S
            if self.gradient is not None:
                self.gradient.ended(
                    self._now - began_at,
                    overloaded=False,
                    in_flight=len(self._work),
                    now=self._now,
                )
        self._work = [each for each in self._work if each[2] > 0]


@pytest.mark.resilience(row="room")
def test_five_times_too_much_is_answered_as_well_as_can_be() -> None:
    """And of a server that slows down to an eighth the same, and nobody waits for two seconds."""
    peak_per_s = 32 / 0.2
    crowd = Crowd(Gradient(least=1, most=1000, first=10), capacity=32, per_s=5 * peak_per_s)
    crowd.run(30)
    crowd.answered = 0
    crowd.run(30)
    assert crowd.answered >= 0.9 * 30 * peak_per_s
    crowd.capacity = 4
    crowd.run(30)
    crowd.answered, crowd.waits = 0, []
    crowd.run(30)
    assert crowd.answered >= 0.9 * 30 * peak_per_s / 8
    assert sorted(crowd.waits)[len(crowd.waits) * 99 // 100] <= 2.0
    # Without a limit next to nobody gets an answer while it is wanted.
    crowd = Crowd(None, capacity=32, per_s=5 * peak_per_s)
    crowd.run(10)
    crowd.answered = 0
    crowd.run(10)
    assert crowd.answered < 0.1 * 10 * peak_per_s
