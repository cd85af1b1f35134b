"""However branches end, one at most answers, none runs on, and each is settled once."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Choice, Route
from proxy.attempts import Job
from proxy.auth import Caller
from proxy.deadlines import Due
from proxy.ensembles.asking import Respond
from proxy.ensembles.branches import Branch
from proxy.ensembles.race import Hedged, Pace, hedge, race
from proxy.errors import ApiError, BudgetExhausted, InvalidRequest, LedgerDown, UpstreamDown
from proxy.wire import chat

End = Literal["answers", "says_nothing", "fails", "refused", "ledger", "hangs"]
_ERRORS: dict[End, ApiError] = {
    "fails": UpstreamDown("out of order"),
    "refused": BudgetExhausted("no money"),
    "ledger": LedgerDown("gone"),
}


@dataclass
class World:
    """What targets do: by name, after how many turns of the loop, and in the end."""

    ends: dict[str, tuple[int, End]]
    running: Counter[str] = field(default_factory=Counter)
    settled: Counter[str] = field(default_factory=Counter)
    order: list[str] = field(default_factory=list)
    beaten: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    most_at_once: int = 0

    async def try_each(self, job: Job, route: Route, respond: Respond) -> None:
        (choice,) = route.choices
        turns, end = self.ends[choice.target]
        self.order.append(choice.target)
        self.running[choice.target] += 1
        self.most_at_once = max(self.most_at_once, self.running.total())
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
            if end == "hangs":
                await asyncio.get_running_loop().create_future()
            if end in _ERRORS:
                raise _ERRORS[end]
            assert job.claim is not None
            if end == "answers":
                await job.claim()
                self.answered.append(choice.target)
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if job.is_beaten:
                self.beaten.append(choice.target)
            raise
        finally:
            self.running[choice.target] -= 1
            self.settled[choice.target] += 1


def make_job() -> Job:
    request = chat.parse(b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}')
    return Job(
        exchange=cast(Any, None),
        caller=Caller(key_id="", name="", scopes=()),
        request=request,
        decision=cast(Any, None),
        route=Route(policy="", choices=()),
        table=cast(Any, None),
        due=Due(0.0, in_parts=False),
    )


async def _never_used(*_: object) -> None:
    raise AssertionError


def choices_of(world: World) -> list[Choice]:
    return [Choice(target=name, reason="race") for name in world.ends]


ends = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(("answers", "says_nothing", "fails", "refused", "ledger")),
    ),
    min_size=1,
    max_size=5,
).map(lambda found: {f"t{i}": end for i, end in enumerate(found)})


def check(world: World, error: ApiError | None) -> None:
    assert not +world.running, "something runs on"
    assert all(count == 1 for count in world.settled.values())
    assert set(world.settled) == set(world.order)
    assert len(world.answered) <= (error is None)


@given(ends, st.integers(1, 4), st.booleans())
def test_one_at_most_answers_and_nothing_is_left(
    found: dict[str, tuple[int, End]], places: int, staggers: bool
) -> None:
    world = World(found)
    pace = Pace(at_once=1, later=places - 1, after_s=0.0) if staggers else Pace(at_once=places)
    error: ApiError | None = None
    try:
        asyncio.run(race(make_job(), choices_of(world), pace, world.try_each, _never_used))
    except ApiError as raised:
        error = raised
    check(world, error)
    assert world.most_at_once <= places
    could = [name for name, (_, end) in found.items() if end not in _ERRORS]
    if not any(end == "ledger" for _, end in found.values()):
        assert (error is None) == bool(could)
    if error is not None:
        said = [_ERRORS[found[name][1]] for name in world.order]
        heard = [each for each in said if isinstance(each, UpstreamDown)]
        assert error in (heard or said)


@given(ends, st.booleans())
def test_a_hedge_is_one_attempt_more_at_most(
    found: dict[str, tuple[int, End]], allowed: bool
) -> None:
    world = World(found)
    seconds: list[str] = []

    def may_begin(first: Branch, second: Choice) -> bool:
        assert second.reason == "hedge"
        seconds.append(second.target)
        return allowed

    error: ApiError | None = None
    hedged = Hedged(after_s=0.0, may_begin=may_begin)
    names: Counter[str] = Counter()
    try:
        asyncio.run(hedge(make_job(), choices_of(world), hedged, world.try_each, _never_used))
    except ApiError as raised:
        error = raised
    names.update(world.order)
    assert not +world.running
    assert len(world.answered) <= (error is None)
    assert len(seconds) <= 1
    assert world.most_at_once <= (2 if allowed and seconds else 1)
    assert all(count == 1 for name, count in names.items() if name not in seconds)


def test_a_slow_target_is_asked_a_second_time_where_it_is_the_only_one() -> None:
    world = World({"only": (0, "hangs")})
    job = make_job()

    def may_begin(first: Branch, second: Choice) -> bool:
        world.ends["only"] = (0, "answers")
        return second.target == "only"

    hedged = Hedged(after_s=0.01, may_begin=may_begin)
    asyncio.run(hedge(job, choices_of(world), hedged, world.try_each, _never_used))
    assert world.order == ["only", "only"]
    assert world.beaten == ["only"]


def test_who_is_cancelled_with_its_client_is_not_beaten() -> None:
    world = World({"a": (0, "hangs"), "b": (0, "hangs")})

    async def leave() -> None:
        asked = asyncio.create_task(
            race(make_job(), choices_of(world), Pace(at_once=2), world.try_each, _never_used)
        )
        await asyncio.sleep(0)  # it begins
        await asyncio.sleep(0)  # and so do the two that it began
        assert world.running.total() == 2
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    asyncio.run(leave())
    assert not +world.running
    assert world.beaten == []


def test_a_fault_of_our_own_is_not_swallowed() -> None:
    async def broken(job: Job, route: Route, respond: Respond) -> None:
        raise ZeroDivisionError

    choices = [Choice(target=name, reason="race") for name in "ab"]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(race(make_job(), choices, Pace(at_once=2), broken, _never_used))


def test_an_error_after_the_answer_began_is_raised() -> None:
    async def late(job: Job, route: Route, respond: Respond) -> None:
        assert job.claim is not None
        await job.claim()
        raise InvalidRequest("too late")

    choices = [Choice(target=name, reason="race") for name in "ab"]
    with pytest.raises(InvalidRequest):
        asyncio.run(race(make_job(), choices, Pace(at_once=2), late, _never_used))
