"""The weighted policy: the worked example, and what holds whatever is asked."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import registry
from policies.analysis import analyse
from policies.base import Analysis, Candidate, Complexity, Policy, Prompt, Question, Task
from policies.constraints import eligible
from policies.weights import CRITERIA, Weights, parse

# Profiles: USD per 1,000 input tokens, ms, context, quality for reasoning and coding.
PROFILES = {
    "gpt-4": (0.03, 2000, 128_000, 0.95, 0.92),
    "gpt-3.5": (0.0005, 800, 16_000, 0.75, 0.80),
    "claude-3-opus": (0.015, 1500, 200_000, 0.92, 0.88),
    "claude-3-sonnet": (0.003, 1000, 200_000, 0.85, 0.82),
    "llama-2-70b": (0.0008, 1200, 4096, 0.70, 0.75),
    "mixtral-8x7b": (0.0005, 800, 32_000, 0.72, 0.78),
}
CANDIDATES = [
    Candidate(
        name=f"x/{name}",
        capabilities=frozenset({"chat"}),
        context_length=context,
        input_nanousd=round(usd * 1e12),
        output_nanousd=round(usd * 1e12),
        latency_ms=latency_ms,
        quality={"reasoning": reasoning, "coding": coding},
    )
    for name, (usd, latency_ms, context, reasoning, coding) in PROFILES.items()
]
SCALES = {"cost_per_1k_input_usd": 0.1, "latency_ms": 5000}
HARD = (
    "Design a distributed key-value store with Raft consensus, prove that the log matching "
    "invariant holds, discuss the trade-offs, and justify each of them."
)


def _asked(
    text: str, tokens: int, *, weights: str | None = None, left: float | None = None
) -> Question:
    return Question(
        needs=frozenset({"chat"}),
        input_tokens=tokens,
        fewest_tokens=tokens,
        analysis=analyse(Prompt(text=text), input_tokens=tokens),
        weights=None if weights is None else parse(weights),
        budget_left=left,
    )


def _route(question: Question, policy: Policy) -> list[str]:
    accepted, _ = eligible(question, CANDIDATES, real_targets=True)
    return [c.target.removeprefix("x/") for c in policy.decide(question, accepted)]


@pytest.mark.parametrize(
    ("text", "tokens", "weights", "chosen"),
    [
        ("What is 2+2?", 100, (0.7, 0.2, 0.1), "gpt-3.5"),
        (
            "Explain quantum entanglement and its implications for cryptography",
            5000,
            (0.1, 0.2, 0.7),
            "claude-3-opus",
        ),
        ("Explain quantum computing", 1000, (0.3, 0.3, 0.4), "claude-3-sonnet"),
        ("Write a Python function for binary search", 100, (0.3, 0.3, 0.4), "gpt-3.5"),
    ],
)
@pytest.mark.parametrize("left", [None, 0.99])
def test_worked_example(
    text: str, tokens: int, weights: tuple[float, ...], chosen: str, left: float | None
) -> None:
    """As configured, and as one request's header says; with a full budget or without any."""
    cost, latency, quality = weights
    amounts = {"cost": cost, "latency": latency, "quality": quality}
    configured = registry.make("weighted", {"weights": amounts, "scales": SCALES})
    assert _route(_asked(text, tokens, left=left), configured)[0] == chosen
    asked = _asked(
        text, tokens, weights=",".join(f"{k}={v}" for k, v in amounts.items()), left=left
    )
    assert _route(asked, registry.make("weighted", {"scales": SCALES}))[0] == chosen


def test_worked_example_of_long_contexts() -> None:
    policy = registry.make("weighted", {"scales": SCALES})
    assert set(_route(_asked("anything", 128_001), policy)) == {
        "claude-3-opus",
        "claude-3-sonnet",
    }
    accepted, rejections = eligible(_asked("anything", 200_001), CANDIDATES, real_targets=True)
    assert accepted == ()
    assert {rejection.code for rejection in rejections} == {"context_length"}


def test_worked_example_of_a_spent_budget() -> None:
    policy = registry.make("weighted", {"weights": {"quality": 1}, "scales": SCALES})
    hard = _asked(HARD, 100, left=0.3)
    assert hard.analysis is not None
    assert hard.analysis.complexity in ("complex", "very_complex")
    hard = _leveled(hard, "complex", 0.3)
    assert _route(hard, policy)[0] == "gpt-3.5"  # one of the two cheapest, and listed first
    assert _route(_leveled(hard, "complex", 0.3001), policy)[0] == "gpt-4"


@pytest.mark.parametrize(
    ("complexity", "edge"),
    [("simple", 1.0), ("medium", 0.5), ("complex", 0.3), ("very_complex", 0.1)],
)
def test_a_dear_target_is_earned_while_more_than_a_share_of_the_budget_is_left(
    complexity: Complexity, edge: float
) -> None:
    policy = registry.make("weighted", {"weights": {"quality": 1}})
    question = _asked("Hello", 100)
    assert _route(_leveled(question, complexity, edge), policy)[0] == "gpt-3.5"
    if edge < 1:
        assert _route(_leveled(question, complexity, edge + 0.001), policy)[0] == "gpt-4"
    assert _route(_leveled(question, complexity, None), policy)[0] == "gpt-4"


def test_the_reserve_is_configurable() -> None:
    options = {"weights": {"quality": 1}, "reserve": {"complex": 0.6}}
    question = _leveled(_asked("Hello", 100), "complex", 0.6)
    assert _route(question, registry.make("weighted", options))[0] == "gpt-3.5"


def _leveled(question: Question, complexity: Complexity, left: float | None) -> Question:
    analysis = Analysis(
        task="chat",
        complexity=complexity,
        domain="general",
        language="en",
        modality="text",
        output_tokens=100,
        latency_sensitivity="normal",
    )
    return Question(
        needs=question.needs,
        input_tokens=question.input_tokens,
        analysis=analysis,
        budget_left=left,
    )


def test_weights_of_a_task_go_before_the_others() -> None:
    options = {"weights": {"cost": 1}, "task_weights": {"coding": {"quality": 1}}}
    policy = registry.make("weighted", options)
    assert _route(_asked("Write a Python function that sorts", 100), policy)[0] == "gpt-4"
    assert _route(_asked("Hello there", 100), policy)[0] == "gpt-3.5"
    # And the caller's own before both.
    asked = _asked("Write a Python function that sorts", 100, weights="cost=1")
    assert _route(asked, policy)[0] == "gpt-3.5"


@pytest.mark.parametrize(
    ("text", "options", "chosen"),
    [
        # Of itself: of code quality counts, of a chat the wait.
        ("Write a Python function that sorts", {}, "claude-3-sonnet"),
        ("Hello there", {}, "gpt-3.5"),
        # One's own weights are for all tasks, one's own for a task for that alone.
        ("Write a Python function that sorts", {"weights": {"cost": 1}}, "gpt-3.5"),
        ("Write a Python function that sorts", {"task_weights": {}}, "gpt-3.5"),
        ("Hello there", {"task_weights": {"chat": {"quality": 1}}}, "gpt-4"),
    ],
)
def test_tasks_have_weights_of_their_own(
    text: str, options: dict[str, object], chosen: str
) -> None:
    assert _route(_asked(text, 100), registry.make("weighted", options))[0] == chosen


def test_performance_is_latency_and_quality_in_equal_parts() -> None:
    assert Weights(performance=1).shares == Weights(latency=0.5, quality=0.5).shares
    shares = dict(Weights(performance=0.4, cost=0.3).shares)
    assert shares == pytest.approx(dict(Weights(latency=2, quality=2, cost=3).shares))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "NAME=NUMBER"),
        ("cost", "NAME=NUMBER"),
        ("price=1", "NAME=NUMBER"),
        ("cost=", "no number"),
        ("cost=1;latency=2", "no number"),
        ("cost=-1", "cost"),
        ("cost=nan", "cost"),
        ("cost=inf", "cost"),
        ("cost=1e300", "cost"),
        ("cost=0", "above 0"),
        ("cost=1,cost=2", "twice"),
    ],
)
def test_weights_that_mean_nothing_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(text)


amounts = st.dictionaries(
    st.sampled_from((*CRITERIA, "performance")), st.floats(0.001, 1000), min_size=1
)


@given(amounts, st.floats(0.01, 900))
def test_only_the_ratios_of_weights_count(amounts: dict[str, float], factor: float) -> None:
    one = dict(Weights(**amounts).shares)
    other = dict(Weights(**{name: amount * factor for name, amount in amounts.items()}).shares)
    assert math.isclose(sum(one.values()), 1)
    assert one.keys() == other.keys()
    assert all(math.isclose(one[name], other[name], rel_tol=1e-9) for name in one)


figures = st.lists(
    st.builds(
        Candidate,
        name=st.text("abcdef", min_size=1, max_size=4),
        capabilities=st.frozensets(st.sampled_from(("chat", "tools", "vision"))),
        context_length=st.none(),
        input_nanousd=st.integers(0, 10**12),
        output_nanousd=st.integers(0, 10**12),
        latency_ms=st.floats(1, 10_000),
        reliability=st.floats(0, 1),
        quality=st.fixed_dictionaries({"general": st.floats(0, 1)}),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda candidate: candidate.name,
)
plain = Question(needs=frozenset(), input_tokens=1000)


@given(figures, st.sampled_from(("cost", "latency", "quality", "reliability")))
def test_all_weight_on_one_criterion_picks_its_best(found: list[Candidate], only: str) -> None:
    policy = registry.make("weighted", {"weights": {only: 1}})
    chosen = policy.decide(plain, found)[0].target
    best = {
        "cost": lambda c: c.cost_nanousd(plain),
        "latency": lambda c: c.latency_ms,
        "quality": lambda c: -c.quality["general"],
        "reliability": lambda c: -c.reliability,
    }[only]
    by_name = {candidate.name: candidate for candidate in found}
    # Up to what a share of the largest can tell apart.
    largest = max(abs(best(candidate)) for candidate in found)
    assert best(by_name[chosen]) <= min(map(best, found)) + 1e-9 * largest


@given(figures, amounts)
def test_the_route_is_in_the_order_of_its_scores(
    found: list[Candidate], amounts: dict[str, float]
) -> None:
    choices = registry.make("weighted", {"weights": amounts}).decide(plain, found)
    scores = [choice.score for choice in choices]
    assert all(score is not None and 0 <= score <= 1 + 1e-9 for score in scores)
    assert scores == sorted(scores, key=lambda score: -(score or 0))
    for choice in choices:
        assert all(0 <= part <= 1 for part in (choice.scores or {}).values())


@given(figures, st.sampled_from(("reasoning", "coding", "chat")))
def test_better_in_every_way_comes_first(found: list[Candidate], task: Task) -> None:
    best = Candidate(
        name="best",
        capabilities=frozenset({"chat", "tools", "vision"}),
        context_length=None,
        input_nanousd=0,
        output_nanousd=0,
        latency_ms=0.5,
        reliability=1.0,
        quality={"general": 1.0},
        specialisations=frozenset({task}),
    )
    policy = registry.make("weighted")
    choices = policy.decide(plain, [*found, best])
    top = max(choice.score or 0 for choice in choices)
    assert {c.target: c.score for c in choices}["best"] == pytest.approx(top)


def test_an_answer_that_comes_whole_is_waited_for_to_its_end() -> None:
    first, quick = (
        Candidate(
            name=name, capabilities=frozenset(), context_length=None, input_nanousd=1,
            output_nanousd=1, latency_ms=latency_ms, tokens_per_second=speed,
        )
        for name, latency_ms, speed in (("first", 100.0, 10.0), ("quick", 900.0, 200.0))
    )  # fmt: skip
    policy = registry.make("weighted", {"weights": {"latency": 1}})
    whole = Question(needs=frozenset(), input_tokens=10, output_tokens=500)
    assert policy.decide(whole, [first, quick])[0].target == "quick"
    assert (
        policy.decide(msgspec.structs.replace(whole, stream=True), [first, quick])[0].target
        == "first"
    )
    # Where one's speed is not known, none counts.
    unknown = replace(quick, tokens_per_second=None)
    assert policy.decide(whole, [first, unknown])[0].target == "first"


def test_unknown_figures_are_neither_praise_nor_blame() -> None:
    unknown = Candidate(
        name="u", capabilities=frozenset(), context_length=None, input_nanousd=None,
        output_nanousd=None,
    )  # fmt: skip
    policy = registry.make("weighted", {"weights": {"quality": 1, "latency": 1, "reliability": 1}})
    (choice,) = policy.decide(plain, [unknown])
    assert choice.scores == {"latency": 0.5, "quality": 0.5, "reliability": 0.95}
