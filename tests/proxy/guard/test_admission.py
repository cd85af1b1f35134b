"""Who is let in: never more than may be, in their order, and everybody is answered once."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ApiError, Overloaded
from proxy.guard.admission import (
    LONGEST_REST_S,
    MOST_REFUSALS_PER_S,
    TOGETHER_S,
    UNTROUBLED_S,
    Admission,
)

_steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["enter", "leave"]), st.just(0)),
        st.tuples(st.just("wait"), st.floats(0.1, 3)),
        st.tuples(st.just("most"), st.integers(1, 3)),
    ),
    max_size=60,
)


@given(most=st.integers(1, 3), queue=st.integers(0, 3), steps=_steps)
def test_every_request_is_answered_once_and_in_order(
    most: int, queue: int, steps: list[tuple[str, Any]]
) -> None:
    admission = Admission(most=most, queue=queue, queue_s=2.0)
    now, entered, running = [0.0], 0, 0
    let_in: list[int] = []
    turned_away: list[int] = []
    waiting_since: dict[int, float] = {}

    def start(number: int, refusal: ApiError | None) -> None:
        nonlocal running
        waiting_since.pop(number, None)
        if refusal is None:
            running += 1
            let_in.append(number)
        else:
            assert isinstance(refusal, Overloaded)
            turned_away.append(number)

    for step, amount in steps:
        could = max(running, most)
        if step == "enter":
            number, entered = entered, entered + 1
            waiting_since[number] = now[0]
            admission.enter(partial(start, number), lambda: now[0])
        elif step == "leave":
            if running:
                running -= 1
                admission.leave()
        elif step == "wait":
            now[0] += amount
            admission.expire(now[0])
        else:
            most = amount
            admission.resize(most=most, queue=queue, queue_s=2.0)
            could = max(running, most)
        assert running <= could
        assert len(waiting_since) <= queue
        assert not waiting_since or running >= most
        assert all(now[0] - since < 2.0 for since in waiting_since.values())
    assert let_in == sorted(let_in)
    assert sorted([*let_in, *turned_away, *waiting_since]) == list(range(entered))


@given(crowds=st.lists(st.tuples(st.floats(0, 0.3), st.integers(50, 200)), min_size=1, max_size=5))
def test_no_more_are_heard_than_may_be_turned_away_again(crowds: list[tuple[float, int]]) -> None:
    admission = Admission(most=1, queue=0, queue_s=2.0)
    now = 1e6
    heard_at: list[float] = []
    for gap_s, count in crowds:
        now += gap_s
        heard_at += [admission.heard_at(now) for _ in range(count)]
        assert now <= heard_at[-1] <= now + LONGEST_REST_S + TOGETHER_S
    # Between any two moments so many are heard, and those besides that may be at once.
    at_once = UNTROUBLED_S + TOGETHER_S + 1e-6
    ahead_s = [n / MOST_REFUSALS_PER_S - at for n, at in enumerate(sorted(heard_at))]
    behind_s = list(itertools.accumulate(ahead_s, min))
    assert all(ahead <= behind + at_once for ahead, behind in zip(ahead_s, behind_s, strict=True))


def test_few_who_are_turned_away_are_heard_at_once_and_nobody_rests_for_long() -> None:
    admission = Admission(most=1, queue=0, queue_s=2.0)
    heard_at = [admission.heard_at(7.0) for _ in range(10 * MOST_REFUSALS_PER_S)]
    assert heard_at[0] == 7.0
    assert max(heard_at) <= 7.0 + LONGEST_REST_S + TOGETHER_S
    assert admission.heard_at(9.0) == 9.0
