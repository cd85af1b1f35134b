"""What callers say of answers, and what is made of that: little of one word, all of many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Candidate
from proxy.ledger.protocol import Quality
from proxy.quality import NEUTRAL, PRIOR_ANSWERS, Judged, estimated
from tests.proxy.test_figures import _attempt, _made

TASKS = ("chat", "coding", "reasoning")
shares = st.floats(0, 1)
declarations = st.dictionaries(st.sampled_from([*TASKS, "general"]), shares)
worths = st.lists(shares, max_size=50)
judged = worths.map(lambda said: Judged(len(said), sum(said)))
opinions = st.dictionaries(
    st.sampled_from([*TASKS, ""]), worths.map(lambda w: Judged(len(w), sum(w)))
)


def test_one_bad_word_moves_little_and_hundreds_decide() -> None:
    declared = {"general": 0.9}
    assert estimated(declared, {"chat": Judged(1, 0.0)})["chat"] == pytest.approx(
        0.9 * PRIOR_ANSWERS / (PRIOR_ANSWERS + 1)
    )
    assert estimated(declared, {"chat": Judged(1000, 0.0)})["chat"] < 0.02


@given(declarations, opinions)
def test_an_estimate_is_between_what_is_declared_and_what_was_said(
    declared: dict[str, float], judged: dict[str, Judged]
) -> None:
    found = estimated(declared, judged)
    if not any(each.answers for each in judged.values()):
        assert found == declared
        return
    general = declared.get("general")
    if general is None:
        general = sum(declared.values()) / len(declared) if declared else NEUTRAL
    for task, each in judged.items():
        if task and each.answers:
            prior, mean = declared.get(task, general), each.worth / each.answers
            assert min(prior, mean) - 1e-9 <= found[task] <= max(prior, mean) + 1e-9
    for task in declared.keys() - judged.keys() - {"general"}:
        assert found[task] == declared[task]  # nobody said anything of that
    assert all(0 <= value <= 1 for value in found.values())


@given(shares, worths, shares)
def test_a_better_word_never_makes_it_worse(prior: float, said: list[float], more: float) -> None:
    def after(word: float) -> float:
        return Judged(len(said) + 1, sum(said) + word).estimate(prior)

    assert after(more) <= after(1.0) + 1e-12
    assert after(0.0) <= after(more) + 1e-12


@given(shares, shares, st.integers(1, 10**6))
def test_with_more_answers_it_comes_closer_to_what_they_were_worth(
    prior: float, mean: float, answers: int
) -> None:
    few, many = Judged(answers, mean * answers), Judged(2 * answers, mean * 2 * answers)
    assert abs(many.estimate(prior) - mean) <= abs(few.estimate(prior) - mean) + 1e-9


def test_candidates_show_what_callers_say_beside_what_was_measured() -> None:
    figures, hands, target = _made(quality={"coding": 0.8})
    assert figures.candidate(target) is target.candidate
    figures.judge(Quality(target.name, "coding", 20, 0))
    assert figures.candidate(target).quality_of("coding") == pytest.approx(0.4)
    assert figures.candidate(target) is figures.candidate(target)  # made once
    _attempt(figures, target, first_s=0.25)
    shown = figures.candidate(target)
    assert shown.quality_of("coding") == pytest.approx(0.4)
    assert shown.latency_ms == pytest.approx(250)
    hands.now += 86_400  # unlike what is measured, it does not fade
    assert figures.candidate(target).quality_of("coding") == pytest.approx(0.4)
    figures.judge(Quality(target.name, "coding", 20, 20_000_000))
    assert figures.candidate(target).quality_of("coding") == pytest.approx(0.9)


def test_a_target_that_is_configured_anew_keeps_what_callers_say() -> None:
    figures, _, target = _made()
    figures.judge(Quality(target.name, "", 80, 80_000_000))
    first: Candidate = figures.candidate(target)
    assert first.quality_of("chat") == pytest.approx(0.9)
    _, _, changed = _made(quality={"general": 1.0})
    assert figures.candidate(changed).quality_of("chat") == pytest.approx(1.0)


def test_figures_of_others_are_untouched() -> None:
    figures, _, target = _made()
    figures.judge(Quality("somebody/else", "chat", 5, 0))
    assert figures.candidate(target) is target.candidate
