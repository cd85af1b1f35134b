"""Who is let in: never more than may be, in their order, and everybody is answered once."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ApiError, Overloaded
from proxy.guard.admission import LONGEST_REST_S, MOST_REFUSALS_PER_S, Admission

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


@given(gaps_s=st.lists(st.floats(0, 0.01), min_size=1, max_size=100))
def test_those_turned_away_are_heard_again_one_after_the_other(gaps_s: list[float]) -> None:
    admission = Admission(most=1, queue=0, queue_s=2.0)
    now, heard_at = 1e6, 0.0
    for gap_s in gaps_s:
        now += gap_s
        before, heard_at = heard_at, now + admission.rest_s(now)
        assert heard_at - max(now, before) == pytest.approx(1 / MOST_REFUSALS_PER_S, abs=1e-6)


def test_nobody_who_is_turned_away_rests_for_long() -> None:
    admission = Admission(most=1, queue=0, queue_s=2.0)
    rests_s = [admission.rest_s(7.0) for _ in range(10 * MOST_REFUSALS_PER_S)]
    assert max(rests_s) == pytest.approx(LONGEST_REST_S)
    assert admission.rest_s(9.0) == pytest.approx(1 / MOST_REFUSALS_PER_S)
