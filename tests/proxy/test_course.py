"""What is tried after what: by route, cause, keys and retry budget, and never without end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import base
from adapters.base import Adapter, AdapterError
from policies.base import Choice
from proxy.accounts import Account
from proxy.causes import CAUSES, Cause
from proxy.config import Retries
from proxy.course import Conditions, Course, Step
from proxy.provider_keys import ProviderKeys
from proxy.retries import RetryBudget
from proxy.targets import Target
from tests.proxy.test_costs import _target
from tests.proxy.test_figures import Hands

BUSY = base.Overloaded("busy", status=503)
LIMITED = base.RateLimited("slow down", status=429, headers={"retry-after": "60"})
BRIEFLY = base.RateLimited("slow down", status=429, headers={"retry-after": "2"})
TOO_LONG = base.ContextExceeded("too long", status=400)
BAD = base.BadRequest("bad", status=400)
REFUSED = base.UpstreamAuth("no", status=401)
STALE = base.ConnectionLost("closed", stale=True)
LATE = base.UpstreamTimeout("late", phase="request")
SILENT = base.UpstreamTimeout("silent", phase="first_byte")
RETRIES = Retries()
ERRORS = (BUSY, LIMITED, BRIEFLY, TOO_LONG, BAD, REFUSED, STALE, LATE, SILENT)


class Scene:
    """Accounts `a`, `b` and `c`, with so many keys each, and courses over their targets."""

    def __init__(self, *, keys: int = 1, retries: Retries = RETRIES) -> None:
        self.hands = Hands()
        self.accounts = {
            name: Account(
                ProviderKeys(name, [cast(Adapter, object())] * keys, self.hands),
                retries,
                RetryBudget(
                    share=retries.budget_percent / 100,
                    per_s=retries.budget_per_s,
                    now=self.hands.now,
                ),
            )
            for name in "abc"
        }

    def course(
        self,
        *names: str,
        left_s: float = 1e9,
        client_retries: bool = False,
        failing: str = "",
        out: tuple[int, ...] = (),
        **fallbacks: Sequence[str],
    ) -> Course:
        chains = cast(
            Mapping[Cause, Sequence[Choice]],
            {cause: [Choice(target=n, reason=cause) for n in c] for cause, c in fallbacks.items()},
        )
        return Course(
            [Choice(target=name, reason="listed") for name in names],
            chains,
            Conditions(
                accounts=self.accounts,
                clock=self.hands,
                draw=lambda: 0.5,
                is_failing=lambda target: target.name in failing.split(),
                is_out=lambda target, key: key in out,
            ),
            target_of=_named,
            time_left_s=lambda: left_s,
            client_retries=client_retries,
        )


def _named(name: str) -> Target:
    return replace(_target(None), name=name, provider=name.partition("/")[0])


def _walk(course: Course, errors: Mapping[str, AdapterError | list[AdapterError]]) -> list[Step]:
    """All steps, where each target fails as it is told, in the end always in the same way."""
    steps: list[Step] = []
    scripts = {n: list(e) if isinstance(e, list) else [e] for n, e in errors.items()}
    while (step := course.next_step()) is not None:
        steps.append(step)
        script = scripts[step.target.name]
        course.failed(step, script.pop(0) if len(script) > 1 else script[0])
        assert len(steps) < 100
    return steps


def _names(steps: list[Step]) -> list[str]:
    return [step.target.name for step in steps]


def test_the_route_is_followed_and_a_fault_of_the_request_ends_it() -> None:
    course = Scene().course("a/1", "b/1", "c/1")
    assert _names(_walk(course, {"a/1": BUSY, "b/1": BAD, "c/1": BUSY})) == ["a/1", "b/1"]


def test_a_cause_has_its_own_way() -> None:
    course = Scene().course("a/1", "b/1", context_exceeded=["b/long", "c/long"], overloaded=["c/1"])
    errors: dict[str, Any] = {"a/1": TOO_LONG, "b/long": BUSY, "c/1": BUSY, "c/long": BAD}
    steps = _walk(course, errors)
    # What is at fault itself does not go back to the route it came from.
    assert _names(steps) == ["a/1", "b/long", "c/1", "c/long"]
    assert [step.reason for step in steps[1:3]] == ["context_exceeded", "overloaded"]


def test_limits_of_our_own_have_the_chain_of_those_of_providers() -> None:
    course = Scene().course("a/1", "b/1", rate_limited=["c/1"])
    first = course.next_step()
    assert first is not None and first.target.name == "a/1"
    course.was_limited()
    assert _names(_walk(course, {"c/1": BUSY, "b/1": BUSY})) == ["c/1", "b/1"]


def test_a_chain_comes_before_the_rest_of_the_route() -> None:
    course = Scene().course("a/1", "b/1", "c/1", rate_limited=["c/1", "a/1"])
    assert _names(_walk(course, {"a/1": LIMITED, "b/1": BAD, "c/1": BUSY})) == ["a/1", "c/1", "b/1"]


def test_one_target_is_tried_twice_after_a_wait() -> None:
    steps = _walk(Scene().course("a/1"), {"a/1": BUSY})
    assert [(s.target.name, s.is_retry, s.delay_s) for s in steps] == [
        ("a/1", False, 0.0),
        ("a/1", True, 0.25),
    ]
    (_, again) = _walk(Scene().course("a/1"), {"a/1": BRIEFLY})
    assert again.delay_s == 2.25


@pytest.mark.parametrize("error", [BAD, TOO_LONG, REFUSED, SILENT, LIMITED, LATE])
def test_what_will_not_work_in_a_moment_is_not_tried_again(error: AdapterError) -> None:
    assert len(_walk(Scene().course("a/1"), {"a/1": error})) == 1


def test_no_retry_that_would_come_too_late() -> None:
    assert len(_walk(Scene().course("a/1", left_s=0.2), {"a/1": BUSY})) == 1
    assert len(_walk(Scene().course("a/1", left_s=0.3), {"a/1": BUSY})) == 2


def test_no_retry_where_other_targets_were_tried() -> None:
    assert _names(_walk(Scene().course("a/1", "b/1"), {"a/1": BUSY, "b/1": BUSY})) == ["a/1", "b/1"]


def test_a_failing_provider_is_asked_within_its_budget_and_others_freely() -> None:
    scene = Scene(retries=Retries(budget_percent=0, budget_per_s=0))
    errors: dict[str, Any] = {"a/1": BUSY, "a/2": BUSY, "a/3": BUSY, "b/1": TOO_LONG}
    course = scene.course("a/1", "a/2", "a/3", "b/1", failing="a/1 a/2")
    # a/3 has answered last time: what fails is not all of the provider.
    assert _names(_walk(course, errors)) == ["a/1", "a/3", "b/1"]
    # What fails for the request's sake is no burden.
    course = scene.course("a/1", "a/2", context_exceeded=["a/2"], failing="a/1 a/2")
    assert _names(_walk(course, {"a/1": TOO_LONG, "a/2": BUSY})) == ["a/1", "a/2"]


def test_a_client_that_retries_leaves_the_last_half_of_a_budget() -> None:
    scene = Scene(retries=Retries(budget_percent=0, budget_per_s=3))
    mine = [len(_walk(scene.course("a/1", client_retries=True), {"a/1": BUSY})) for _ in range(9)]
    assert mine == [2, 2, 2, 2, 2, 1, 1, 1, 1]
    others = [len(_walk(scene.course("a/1"), {"a/1": BUSY})) for _ in range(6)]
    assert others == [2, 2, 2, 2, 1, 1]


def test_a_stale_connection_is_no_failure() -> None:
    steps = _walk(Scene().course("a/1", "b/1"), {"a/1": [STALE, BUSY], "b/1": STALE})
    assert [(s.target.name, s.fresh, s.is_retry) for s in steps] == [
        ("a/1", False, False),
        ("a/1", True, False),
        ("b/1", False, False),
        ("b/1", True, False),
    ]


def test_the_next_key_comes_before_the_next_target() -> None:
    scene = Scene(keys=3)
    steps = _walk(scene.course("a/1", "b/1"), {"a/1": [LIMITED, REFUSED, LIMITED], "b/1": BUSY})
    assert [(s.target.name, s.key.number) for s in steps] == [
        ("a/1", 1),
        ("a/1", 2),
        ("a/1", 3),
        ("b/1", 1),
    ]
    # All of them rest, so the other target is first until one is of use again.
    assert scene.course("a/1", "b/1").next_step().target.name == "b/1"  # type: ignore[union-attr]
    scene.hands.now += 61
    keys = [scene.course("a/1", "b/1").next_step().key.number for _ in range(4)]  # type: ignore[union-attr]
    assert set(keys) == {1, 3}


def test_a_key_that_is_out_comes_last() -> None:
    course = Scene(keys=3).course("a/1", out=(1,))
    steps = _walk(course, {"a/1": [LIMITED, LIMITED, BUSY]})
    assert [step.key.number for step in steps] == [2, 3, 1]
    scene = Scene(keys=3)
    numbers = [
        [step.key.number for step in _walk(scene.course("a/1", out=(2, 3)), {"a/1": BUSY})]
        for _ in range(3)
    ]
    assert numbers == [[1, 1]] * 3


@given(data=st.data())
def test_every_course_ends_and_tries_no_target_without_end(data: st.DataObject) -> None:
    names = [f"{provider}/{n}" for provider in "abc" for n in (1, 2)]
    keys = data.draw(st.integers(1, 3))
    tries = data.draw(st.integers(1, 4))
    scene = Scene(keys=keys, retries=Retries(tries=tries))
    route = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    chains = data.draw(
        st.dictionaries(st.sampled_from(CAUSES), st.lists(st.sampled_from(names), unique=True))
    )
    course = scene.course(*route, **chains)  # type: ignore[arg-type]
    counts: dict[str, int] = {}
    retries = 0
    while (step := course.next_step()) is not None:
        counts[step.target.name] = counts.get(step.target.name, 0) + 1
        retries += step.is_retry
        assert 0 <= step.delay_s <= 5
        error = data.draw(st.sampled_from(ERRORS))
        course.failed(step, error)
        if error is LATE:
            assert course.next_step() is None
            break
    assert retries <= max(0, tries - 1)
    assert set(counts) <= {*route, *(name for chain in chains.values() for name in chain)}
    # Each time once more over a fresh connection, once for each further key, and the retries.
    assert max(counts.values()) <= 2 * (keys + retries)
