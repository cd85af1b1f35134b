from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import registry
from policies.base import Candidate, Capability, Policy, Question
from policies.constraints import Screen, eligible

CAPABILITIES: tuple[Capability, ...] = ("chat", "tools", "vision", "embeddings", "n")


def _candidate(name: str, **changes: object) -> Candidate:
    values: dict[str, object] = {
        "name": name,
        "capabilities": frozenset({"chat"}),
        "context_length": 1000,
        "input_nanousd": 1,
        "output_nanousd": 1,
        **changes,
    }
    return Candidate(**values)  # type: ignore[arg-type]


def _question(**changes: object) -> Question:
    values: dict[str, object] = {"needs": frozenset({"chat"}), "input_tokens": 100, **changes}
    return Question(**values)  # type: ignore[arg-type]


candidates = st.lists(
    st.builds(
        Candidate,
        name=st.text("abcdef", min_size=1, max_size=4),
        capabilities=st.frozensets(st.sampled_from(CAPABILITIES)),
        context_length=st.none() | st.integers(1, 5000),
        input_nanousd=st.none() | st.integers(0, 10**10),
        output_nanousd=st.none() | st.integers(0, 10**10),
        vector_space=st.sampled_from((None, "s", "t")),
        demonstration=st.booleans(),
    ),
    max_size=6,
    unique_by=lambda candidate: candidate.name,
)
questions = st.builds(
    Question,
    needs=st.frozensets(st.sampled_from(CAPABILITIES)),
    input_tokens=st.integers(0, 6000),
    output_tokens=st.none() | st.integers(1, 6000),
)


@pytest.mark.parametrize("policy", [*map(registry.make, registry.names())], ids=registry.names())
@given(question=questions, found=candidates.filter(bool))
def test_every_policy_orders_all_candidates_once_and_repeatably(
    policy: Policy, question: Question, found: list[Candidate]
) -> None:
    choices = policy.decide(question, found)
    assert sorted(c.target for c in choices) == sorted(c.name for c in found)
    assert choices == policy.decide(question, found)
    assert all(choice.reason for choice in choices)


@given(questions, candidates, st.booleans(), st.sampled_from((None, "s")))
def test_nobody_passes_a_constraint_it_breaks(
    question: Question, found: list[Candidate], real: bool, space: str | None
) -> None:
    accepted, rejected = eligible(question, found, real_targets=real, vector_space=space)
    assert {c.name for c in accepted} | {r.target for r in rejected} == {c.name for c in found}
    assert len(accepted) + len(rejected) == len(found)
    needed = question.input_tokens + (question.output_tokens or 0)
    for candidate in accepted:
        assert question.needs <= candidate.capabilities
        assert space is None or candidate.vector_space == space
        assert not (candidate.demonstration and real)
        fits = candidate.context_length is None or needed <= candidate.context_length
        assert fits or len(accepted) == 1


@given(
    st.lists(questions, min_size=1, max_size=6),
    candidates,
    st.booleans(),
    st.sampled_from((None, "s")),
)
def test_a_screen_says_of_each_question_what_a_look_at_all_would(
    asked: list[Question], found: list[Candidate], is_real: bool, space: str | None
) -> None:
    screen = Screen(tuple(found))
    for question in (*asked, *asked):
        screened = screen.eligible(question, real_targets=is_real, vector_space=space)
        assert screened == eligible(question, found, real_targets=is_real, vector_space=space)


@given(questions, candidates, st.sampled_from(CAPABILITIES))
def test_a_further_need_never_adds_a_candidate(
    question: Question, found: list[Candidate], need: Capability
) -> None:
    stricter = Question(
        needs=question.needs | {need},
        input_tokens=question.input_tokens,
        output_tokens=question.output_tokens,
    )
    # Where nothing fits by the estimate one may be kept for the benefit of the doubt; a need that
    # excludes the longest context can pass that doubt on to the next one.
    roomy = [candidate for candidate in found if candidate.context_length is None]
    before, _ = eligible(question, roomy, real_targets=False)
    after, _ = eligible(stricter, roomy, real_targets=False)
    assert set(after) <= set(before)


def test_cheapest_counts_input_and_expected_output() -> None:
    reader = _candidate("reader", input_nanousd=1_000, output_nanousd=90_000)
    writer = _candidate("writer", input_nanousd=9_000, output_nanousd=10_000)
    unknown = _candidate("unknown", input_nanousd=None)
    policy = registry.make("cheapest")
    long_prompt = policy.decide(_question(input_tokens=9_000), [unknown, writer, reader])
    assert [choice.target for choice in long_prompt] == ["reader", "writer", "unknown"]
    long_answer = policy.decide(_question(output_tokens=4_000), [unknown, reader, writer])
    assert [choice.target for choice in long_answer] == ["writer", "reader", "unknown"]


def test_cheapest_counts_what_a_request_costs_besides_tokens() -> None:
    free = {"input_nanousd": 0, "output_nanousd": 0}
    found = [_candidate(name, **free, fee_nanousd=fee) for name, fee in (("a", 9), ("b", 4))]
    choices = registry.make("cheapest").decide(_question(), found)
    assert [choice.target for choice in choices] == ["b", "a"]


def test_cheapest_keeps_the_configured_order_of_equals() -> None:
    found = [_candidate(name) for name in "bac"]
    choices = registry.make("cheapest").decide(_question(), found)
    assert [choice.target for choice in choices] == ["b", "a", "c"]


def test_a_prompt_that_only_seems_too_long_goes_to_the_longest_context() -> None:
    found = [_candidate("short", context_length=900), _candidate("long", context_length=1000)]
    accepted, rejected = eligible(_question(input_tokens=1500), found, real_targets=True)
    assert [candidate.name for candidate in accepted] == ["long"]
    assert [(r.target, r.code) for r in rejected] == [("short", "context_length")]
    accepted, rejected = eligible(_question(input_tokens=9000), found, real_targets=True)
    assert (accepted, len(rejected)) == ((), 2)


def test_an_unknown_policy_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        registry.make("nobody")


@given(questions, candidates, st.sampled_from(("s", "t")))
def test_embeddings_never_leave_their_vector_space(
    question: Question, found: list[Candidate], space: str
) -> None:
    """Not even for the benefit of the doubt that a prompt which seems too long is given."""
    accepted, rejected = eligible(question, found, real_targets=False, vector_space=space)
    assert {candidate.vector_space for candidate in accepted} <= {space}
    codes = {rejection.target: rejection.code for rejection in rejected}
    for candidate in found:
        if question.needs <= candidate.capabilities and candidate.vector_space != space:
            assert codes[candidate.name] == "vector_space"


@given(questions, candidates)
def test_a_doubt_is_given_only_where_nothing_surely_fits(
    question: Question, found: list[Candidate]
) -> None:
    accepted, rejected = eligible(question, found, real_targets=False)
    needed = question.input_tokens + (question.output_tokens or 0)
    doubted = [c for c in accepted if c.context_length is not None and c.context_length < needed]
    if not doubted:
        return
    assert accepted == (doubted[0],)
    too_short = {r.target for r in rejected if r.code == "context_length"}
    lengths = [c.context_length or 0 for c in found if c.name in too_short]
    assert (doubted[0].context_length or 0) >= max(lengths, default=0)
    # The output that was asked for is known exactly; no doubt helps where it alone is too long.
    assert (question.output_tokens or 0) <= (doubted[0].context_length or 0)


@given(questions, candidates, st.booleans())
def test_who_is_left_out_and_who_stays_is_told_in_the_configured_order(
    question: Question, found: list[Candidate], real: bool
) -> None:
    accepted, rejected = eligible(question, found, real_targets=real)
    order = [candidate.name for candidate in found]
    for names in ([c.name for c in accepted], [r.target for r in rejected]):
        assert names == sorted(names, key=order.index)
    assert all(rejection.reason for rejection in rejected)


@pytest.mark.parametrize(
    ("changes", "asked", "code", "reason"),
    [
        ({}, {"needs": {"chat", "vision", "n"}}, "capability", "n, vision"),
        ({"demonstration": True}, {}, "demonstration", "real target"),
        ({"context_length": 99}, {}, "context_length", "100 tokens do not fit into 99"),
        ({"context_length": 149}, {"output_tokens": 50}, "context_length", "150"),
        ({"vector_space": "other"}, {}, "vector_space", "'other'"),
        ({"vector_space": None}, {}, "vector_space", "None"),
    ],
)  # fmt: skip
def test_reasons(
    changes: dict[str, object], asked: dict[str, object], code: str, reason: str
) -> None:
    space = "s" if code == "vector_space" else None
    question = _question(**{k: frozenset(v) if k == "needs" else v for k, v in asked.items()})
    found = [_candidate("fits", vector_space=space, capabilities=frozenset(CAPABILITIES))]
    found.append(_candidate("x", **changes))
    _, (rejection,) = eligible(question, found, real_targets=True, vector_space=space)
    assert (rejection.target, rejection.code) == ("x", code)
    assert reason in rejection.reason


def test_a_demonstration_answers_where_there_is_nothing_else() -> None:
    found = [_candidate("demo", demonstration=True)]
    assert eligible(_question(), found, real_targets=False)[0] == tuple(found)


def test_ordered_keeps_the_configured_order() -> None:
    found = [_candidate(name, input_nanousd=cost) for name, cost in (("b", 9), ("a", 1))]
    choices = registry.make("ordered").decide(_question(), found)
    assert [choice.target for choice in choices] == ["b", "a"]


@given(st.integers(0, 10**9), st.none() | st.integers(0, 10**7), st.integers(0, 10**12))
def test_an_expected_cost_is_rounded_up(input_tokens: int, output: int | None, price: int) -> None:
    question = _question(input_tokens=input_tokens, output_tokens=output)
    cost = _candidate("x", input_nanousd=price, output_nanousd=price).cost_nanousd(question)
    exact = price * (input_tokens + (256 if output is None else output))
    assert cost is not None
    assert 0 <= cost * 1_000_000 - exact < 1_000_000
