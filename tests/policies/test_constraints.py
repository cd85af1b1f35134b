"""Hard constraints: what no route breaks, however many are said at once."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import registry
from policies.base import Candidate, Capability, Question
from policies.constraints import (
    OF_DATA,
    Constraints,
    ResourceLimits,
    barred,
    constrained,
    eligible,
    is_named,
    matches,
    preferred_first,
)

CAPABILITIES: tuple[Capability, ...] = ("chat", "tools", "vision")
NAMES = ("a/m", "a/n", "b/m", "b/n", "c/m")

candidates = st.lists(
    st.builds(
        Candidate,
        name=st.sampled_from(NAMES),
        capabilities=st.frozensets(st.sampled_from(CAPABILITIES)).map(lambda c: c | {"chat"}),
        context_length=st.none() | st.integers(100, 5000),
        input_nanousd=st.none() | st.integers(0, 10**11),
        output_nanousd=st.none() | st.integers(0, 10**11),
        region=st.sampled_from((None, "eu", "us")),
        zero_retention=st.booleans(),
        memory_mb=st.none() | st.integers(0, 9000),
        gpu_memory_mb=st.none() | st.integers(0, 9000),
        left_memory_mb=st.none() | st.integers(0, 9000),
        left_gpu_memory_mb=st.none() | st.integers(0, 9000),
        latency_ms=st.none() | st.floats(1, 9000),
        reliability=st.none() | st.floats(0, 1),
        backend=st.sampled_from(("a", "b", "llama_cpp")),
        in_flight=st.integers(0, 9),
    ),
    max_size=5,
    unique_by=lambda candidate: candidate.name,
)
questions = st.builds(
    Question,
    needs=st.frozensets(st.sampled_from(CAPABILITIES)),
    input_tokens=st.integers(0, 6000),
    output_tokens=st.none() | st.integers(1, 6000),
    budget_left=st.none() | st.floats(0, 1),
    conversation=st.none() | st.integers(0, 2**64 - 1),
    turn=st.integers(0, 10**6),
)
constraints = st.builds(
    Constraints,
    max_latency_ms=st.none() | st.floats(1, 9000),
    max_cost_per_request=st.none() | st.floats(0, 1),
    max_input_price=st.none() | st.floats(0, 100),
    max_output_price=st.none() | st.floats(0, 100),
    min_reliability=st.none() | st.floats(0, 1),
    preferred_backend=st.sampled_from((None, "a", "llama_cpp")),
    required_capabilities=st.frozensets(st.sampled_from(CAPABILITIES)),
    models=st.none() | st.frozensets(st.sampled_from(("a", "a/m", "b/*", "n"))),
    excluded_models=st.frozensets(st.sampled_from(("c", "b/m", "*/n"))),
    regions=st.none() | st.frozensets(st.sampled_from(("eu", "us"))),
    zero_retention=st.booleans(),
    resource_limits=st.builds(
        ResourceLimits,
        **dict.fromkeys(ResourceLimits.__struct_fields__, st.none() | st.integers(1, 9000)),
    ),
)


@given(
    questions,
    candidates,
    st.lists(constraints, max_size=3),
    st.sampled_from(registry.names()),
)
def test_no_route_ever_breaks_a_constraint(
    question: Question, found: list[Candidate], limits: list[Constraints], policy: str
) -> None:
    accepted, rejections = eligible(question, found, real_targets=True, constraints=limits)
    assert {c.name for c in accepted} | {r.target for r in rejections} == {c.name for c in found}
    if not accepted:
        return
    choices = registry.make(policy).decide(question, accepted)
    choices = preferred_first(choices, accepted, limits)
    assert sorted(c.target for c in choices) == sorted(c.name for c in accepted)
    by_name = {candidate.name: candidate for candidate in found}
    for choice in choices:
        candidate = by_name[choice.target]
        cost = candidate.cost_nanousd(question)
        for each in limits:
            assert each.max_latency_ms is None or (candidate.latency_ms or 0) <= each.max_latency_ms
            if each.max_cost_per_request is not None:
                assert cost is not None and cost <= each.max_cost_per_request * 1e9
            if each.max_input_price is not None:
                assert candidate.input_nanousd is not None
                assert candidate.input_nanousd <= each.max_input_price * 1e9
            least = each.min_reliability or 0
            assert candidate.reliability is None or candidate.reliability >= least
            assert each.required_capabilities <= candidate.capabilities
            assert each.regions is None or candidate.region in each.regions
            assert candidate.zero_retention or not each.zero_retention
            assert not is_named(candidate.name, each.excluded_models)
            assert each.models is None or is_named(candidate.name, each.models)
            if each.max_output_price is not None:
                assert candidate.output_nanousd is not None
                assert candidate.output_nanousd <= each.max_output_price * 1e9
            room = each.resource_limits
            assert (candidate.memory_mb or 0) <= (room.memory_mb or 10**9)
            assert (candidate.gpu_memory_mb or 0) <= (room.gpu_memory_mb or 10**9)
            for left, least in (
                (candidate.left_memory_mb, room.free_memory_mb),
                (candidate.left_gpu_memory_mb, room.free_gpu_memory_mb),
            ):
                assert left is None or left >= (least or 0)
        assert question.needs <= candidate.capabilities
        needed = question.input_tokens + (question.output_tokens or 0)
        # But for the longest of those of which none seems long enough.
        is_last = len(accepted) == 1 or candidate.context_length is None
        assert is_last or needed <= (candidate.context_length or 0)


@given(questions, candidates, st.lists(constraints, max_size=2), constraints)
def test_one_more_constraint_never_adds_a_candidate(
    question: Question, found: list[Candidate], limits: list[Constraints], more: Constraints
) -> None:
    before, _ = eligible(question, found, real_targets=True, constraints=limits)
    after, _ = eligible(question, found, real_targets=True, constraints=[*limits, more])
    assert set(after) <= set(before)


def test_what_runs_on_a_preferred_backend_comes_first_and_the_rest_stays() -> None:
    found = [
        Candidate(
            name=name, capabilities=frozenset({"chat"}), context_length=None,
            input_nanousd=1, output_nanousd=1, backend=backend,
        )
        for name, backend in (("a/x", "a"), ("local/y", "llama_cpp"), ("b/z", "b"))
    ]  # fmt: skip
    question = Question(needs=frozenset({"chat"}), input_tokens=10)
    choices = registry.make("ordered").decide(question, found)
    liked = preferred_first(choices, found, [Constraints(preferred_backend="llama_cpp")])
    assert [choice.target for choice in liked] == ["local/y", "a/x", "b/z"]
    nobody = preferred_first(choices, found, [Constraints(preferred_backend="mlx")])
    assert nobody == choices


@pytest.mark.parametrize(
    ("limits", "changes", "code", "reason"),
    [
        ({"max_latency_ms": 100}, {"latency_ms": 101}, "latency", "101 ms"),
        ({"max_cost_per_request": 0.001}, {"input_nanousd": 10**11}, "cost", "over $0.001"),
        ({"max_cost_per_request": 1}, {"input_nanousd": None}, "cost", "no price is known"),
        ({"max_output_price": 1}, {"output_nanousd": 2 * 10**9}, "price", "$2"),
        ({"min_reliability": 0.99}, {"reliability": 0.9}, "reliability", "0.9"),
        ({"required_capabilities": frozenset({"vision"})}, {}, "capability", "vision"),
        ({"excluded_models": frozenset({"p"})}, {}, "excluded", "excluded"),
        ({"models": frozenset({"q/*"})}, {}, "excluded", "none of those"),
        ({"regions": frozenset({"eu"})}, {"region": "us"}, "region", "us"),
        ({"regions": frozenset({"eu"})}, {}, "region", "not known"),
        ({"zero_retention": True}, {}, "retention", "keep nothing"),
        ({"resource_limits": ResourceLimits(memory_mb=10)}, {"memory_mb": 11}, "memory", "11 MB"),
        (
            {"resource_limits": ResourceLimits(gpu_memory_mb=10)},
            {"gpu_memory_mb": 11},
            "memory",
            "11 MB of GPU",
        ),
        (
            {"resource_limits": ResourceLimits(free_memory_mb=10)},
            {"left_memory_mb": 9},
            "memory",
            "leave 9 MB",
        ),
        (
            {"resource_limits": ResourceLimits(free_gpu_memory_mb=10)},
            {"left_gpu_memory_mb": 9},
            "memory",
            "leave 9 MB of GPU",
        ),
    ],
)
def test_reasons(
    limits: dict[str, object], changes: dict[str, object], code: str, reason: str
) -> None:
    values: dict[str, object] = {
        "name": "p/m",
        "capabilities": frozenset({"chat"}),
        "context_length": None,
        "input_nanousd": 1,
        "output_nanousd": 1,
        **changes,
    }
    candidate = Candidate(**values)  # type: ignore[arg-type]
    question = Question(needs=frozenset({"chat"}), input_tokens=100)
    said = [Constraints(**limits)]  # type: ignore[arg-type]
    accepted, (rejection,) = eligible(question, [candidate], real_targets=True, constraints=said)
    assert (accepted, rejection.code) == ((), code)
    assert reason in rejection.reason


@given(name=st.text("ab/", max_size=6), pattern=st.text("ab/*", max_size=6))
def test_a_star_stands_for_anything(name: str, pattern: str) -> None:
    assert matches(name, pattern) == fnmatchcase(name, pattern)


def test_all_but_a_star_stands_for_itself() -> None:
    """Also what costs a compiler of patterns seconds: callers bring names of their own."""
    assert matches("up/m[1]", "up/m[1]*")
    assert not matches("up/m1", "up/m[1]")
    assert not matches("up/m1", "up/m?")
    assert not matches("up/m", "[[" * 100_000)


@given(questions, candidates.filter(bool), constraints)
def test_who_may_not_see_a_request_may_not_answer_it(
    question: Question, found: list[Candidate], limits: Constraints
) -> None:
    accepted, _ = constrained(question, found, [limits])
    for candidate in found:
        rejection = barred(question, candidate, [limits])
        assert rejection is None or (candidate not in accepted and rejection.code in OF_DATA)
        is_elsewhere = limits.regions is not None and candidate.region not in limits.regions
        assert rejection is not None or not is_elsewhere
        assert rejection is not None or candidate.zero_retention or not limits.zero_retention
