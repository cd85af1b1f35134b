"""The life of a swap in every order of events, and what takes it back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.swaps import core
from proxy.swaps.core import Plan, Rollback, Swap, Watch

NOW = 1_000_000

steps = st.lists(st.integers(1, 99), unique=True, max_size=4).map(lambda s: (*sorted(s), 100))
plans = st.builds(
    Plan,
    name=st.just("auto"),
    source=st.just("up/old"),
    target=st.just("up/new"),
    steps=steps,
    step_s=st.integers(0, 20),
    grace_s=st.integers(0, 20),
    prepare_s=st.integers(0, 20),
    keeps_conversations=st.booleans(),
    rollback=st.none() | st.builds(Rollback, watch_s=st.integers(0, 20)),
)
FOLLOWS = {
    "preparing": {"shifting", "failed", "cancelled"},
    "shifting": {"shifting", "draining", "rolled_back", "cancelled"},
    "draining": {"completed", "rolled_back", "cancelled"},
    "completed": {"rolled_back"},
    "rolled_back": set(),
    "failed": set(),
    "cancelled": set(),
}


class LifeOfASwap(RuleBasedStateMachine):
    """Whatever comes when: only the moves of the drawing, no share that shrinks, no way back."""

    @initialize(plan=plans)
    def begin(self, plan: Plan) -> None:
        self.now = NOW
        self.swap = core.opened(1, plan, NOW)
        self.ended_s = 0

    def put(self, swap: Swap) -> None:
        before, self.swap = self.swap, swap
        if swap is before:
            return
        assert swap.state in FOLLOWS[before.state], (before.state, swap.state)
        assert swap.since == self.now
        if swap.is_in_force:
            assert swap.percent >= before.percent
            assert swap.percent in swap.plan.steps
        else:
            assert swap.percent == 0
        if (swap.state, before.state) == ("shifting", "shifting"):
            place = swap.plan.steps.index(before.percent)
            assert swap.percent == swap.plan.steps[place + 1]

    @rule(seconds=st.integers(0, 30))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        before = self.swap
        self.put(core.ticked(before, self.now))
        waited = self.now - before.since
        if before.state == "preparing" and waited >= before.plan.prepare_s:
            assert self.swap.state == "failed"
        if before.state == "draining" and waited >= before.plan.grace_s:
            assert self.swap.state == "completed"

    @rule()
    def clock_goes_back(self) -> None:
        assert core.ticked(self.swap, self.swap.since - 5).state in (self.swap.state, "draining")

    @rule(move=st.sampled_from(["prepared", "failed", "cancelled", "rolled_back"]))
    def somebody_acts(self, move: str) -> None:
        allowed = {
            "prepared": ("preparing",),
            "failed": ("preparing",),
            "cancelled": core.OPEN,
            "rolled_back": core.IN_FORCE,
        }[move]
        acts = {
            "prepared": lambda swap: core.prepared(swap, self.now),
            "failed": lambda swap: core.failed(swap, "why", self.now),
            "cancelled": lambda swap: core.cancelled(swap, "why", self.now),
            "rolled_back": lambda swap: core.rolled_back(swap, "why", self.now),
        }
        if self.swap.state in allowed:
            self.put(acts[move](self.swap))
        else:
            with pytest.raises(core.NotNow, match=self.swap.state):
                acts[move](self.swap)

    @invariant()
    def nothing_moves_unless_in_force(self) -> None:
        if not hasattr(self, "swap"):
            return
        swap = self.swap
        for draw in (0, core.PARTS - 1):
            moved = core.is_moved(swap, draw)
            if not swap.is_in_force:
                assert not moved
            if swap.state in ("draining", "completed"):
                assert moved
        assert (swap.full_at is not None) >= (swap.state in ("draining", "completed"))
        if not swap.is_in_force:
            assert not core.is_watched(swap, self.now)


TestLifeOfASwap = LifeOfASwap.TestCase


def a_swap(**changes: object) -> Swap:
    fields = {"name": "auto", "source": "up/old", "target": "up/new", **changes}
    return core.opened(1, Plan(**fields), NOW)  # type: ignore[arg-type]


def test_all_at_once() -> None:
    swap = core.prepared(a_swap(grace_s=30), NOW)
    assert (swap.state, swap.percent) == ("shifting", 100)
    swap = core.ticked(swap, NOW)
    assert (swap.state, swap.full_at) == ("draining", NOW)
    assert core.ticked(swap, NOW + 29) is swap
    assert core.ticked(swap, NOW + 30).state == "completed"


def test_a_server_that_was_down_for_long_skips_no_step() -> None:
    swap = core.prepared(a_swap(steps=(10, 50, 100), step_s=60), NOW)
    swap = core.ticked(swap, NOW + 100_000)
    assert (swap.percent, swap.since) == (50, NOW + 100_000)
    assert core.ticked(swap, NOW + 100_059) is swap


@given(st.integers(0, core.PARTS - 1), st.integers(1, 100), st.integers(1, 100))
def test_what_one_step_has_moved_the_next_one_moves_too(draw: int, one: int, other: int) -> None:
    less, more = sorted((one, other))
    steps = tuple(sorted({less, more, 100}))
    first = core.prepared(a_swap(steps=(less, 100)), NOW)
    later = core.prepared(a_swap(steps=tuple(p for p in steps if p >= more)), NOW)
    assert core.is_moved(first, draw) <= core.is_moved(later, draw)


@given(st.integers(1, 100))
def test_a_share_is_what_it_says(percent: int) -> None:
    steps = (percent,) if percent == 100 else (percent, 100)
    swap = core.prepared(a_swap(steps=steps), NOW)
    moved = sum(core.is_moved(swap, draw) for draw in range(0, core.PARTS, 10))
    assert moved == percent * core.PARTS // 1000


def test_conversations_stay_where_they_began_until_the_grace_is_over() -> None:
    swap = core.ticked(core.prepared(a_swap(keeps_conversations=True), NOW), NOW)
    assert core.is_moved(swap, 0)
    assert not core.is_moved(swap, 0, continues=True)
    assert core.is_moved(swap, 0, continues=True, began_moved=True)
    assert core.is_moved(core.ticked(swap, NOW + 30), 0, continues=True)


def test_one_that_began_at_the_new_target_stays_there_whatever_is_drawn() -> None:
    swap = core.prepared(a_swap(keeps_conversations=True, steps=(1, 100)), NOW)
    assert core.is_moved(swap, core.PARTS - 1, continues=True, began_moved=True)


def test_a_swap_is_watched_beyond_its_completion() -> None:
    swap = core.prepared(a_swap(grace_s=0, rollback=Rollback(watch_s=100)), NOW)
    swap = core.ticked(core.ticked(swap, NOW), NOW)
    assert swap.state == "completed"
    assert core.is_watched(swap, NOW + 99)
    assert not core.is_watched(swap, NOW + 100)


def test_too_many_failures() -> None:
    watch = Watch(Rollback(error_rate=0.05, min_requests=20, window_s=60))
    for at in range(19):
        watch.count(at, None)
    assert watch.verdict(19) is None  # too few to judge by
    watch.count(19, 10)
    assert watch.verdict(19) == "19 of 20 attempts failed; at most 5.0% may fail"
    assert watch.verdict(200) is None  # that was long ago


def test_exactly_what_may_fail_is_not_too_much() -> None:
    watch = Watch(Rollback(error_rate=0.05, min_requests=20))
    for at in range(20):
        watch.count(at, 10 if at else None)
    assert watch.verdict(20) is None


def test_too_slow() -> None:
    watch = Watch(Rollback(p95_latency_ms=100, min_requests=20))
    for at in range(20):
        watch.count(at, 101 if at == 0 else 100)
    assert watch.verdict(20) is None
    watch.count(20, 101)
    assert watch.verdict(20) == "p95 latency is 101 ms; the limit is 100 ms"


@given(
    st.lists(st.tuples(st.integers(0, 200), st.none() | st.integers(0, 1000)), max_size=60),
    st.floats(0, 0.99),
    st.integers(1, 30),
)
def test_only_what_is_in_the_window_counts(
    ended: list[tuple[int, int | None]], error_rate: float, least: int
) -> None:
    watch = Watch(Rollback(error_rate=error_rate, min_requests=least, window_s=60))
    ended.sort(key=lambda sample: sample[0])
    for at, latency_ms in ended:
        watch.count(at, latency_ms)
    recent = [ms for at, ms in ended if at > 200 - 60]
    failures = sum(ms is None for ms in recent)
    expected = len(recent) >= least and failures > error_rate * len(recent)
    assert (watch.verdict(200) is not None) == expected


@given(
    st.lists(st.tuples(st.integers(0, 200), st.none() | st.integers(0, 1000)), max_size=60),
    st.integers(1, 1000),
    st.integers(1, 30),
)
def test_the_95th_percentile_is_that_of_a_sorted_list(
    ended: list[tuple[int, int | None]], limit_ms: int, least: int
) -> None:
    watch = Watch(Rollback(p95_latency_ms=limit_ms, min_requests=least, window_s=60))
    ended.sort(key=lambda sample: sample[0])
    for at, latency_ms in ended:
        watch.count(at, latency_ms)
        watch.verdict(at)  # forgets what is too old, and nothing else
    recent = [ms for at, ms in ended if at > 200 - 60]
    answered = sorted(ms for ms in recent if ms is not None)
    p95 = answered[math.ceil(0.95 * len(answered)) - 1] if answered else 0
    verdict = watch.verdict(200)
    if len(recent) >= least and p95 > limit_ms:
        assert verdict == f"p95 latency is {p95} ms; the limit is {limit_ms} ms"
    else:
        assert verdict is None
