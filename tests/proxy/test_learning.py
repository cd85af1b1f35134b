"""The learned router learns what is there to be learned, and takes nothing for it that is not."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import NO_PROMPT, Candidate, Prompt, Question, Reading
from policies.difficulty import Difficulty, OwnWeights, own, shipped
from policies.learned import Learned, LearnedOptions
from policies.prompt_features import NAMES
from proxy.learning import LEAST_LABELS, LEAST_REQUESTS, Example, auc, learn, score

PLACE = NAMES.index("law")


def _example(lots: random.Random, number: int, *, matters: bool, is_judged: bool = True) -> Example:
    """A request whose answer is bad where it is about law, or by chance."""
    shape = tuple(lots.random() if name in ("law", "length") else 0.0 for name in NAMES)
    bad = shape[PLACE] + lots.gauss(0, 0.1) > 0.5 if matters else lots.random() < 0.5
    reading = Reading(shape, lots.gauss(0, 0.1))
    return Example(
        request_id=f"req_{lots.random()}_{number}",
        readings=(reading,),
        worth=float(not bad) if is_judged else None,
    )


def _examples(seed: int, count: int, *, matters: bool = True, judged: int = 10**9) -> list[Example]:
    lots = random.Random(seed)
    return [_example(lots, n, matters=matters, is_judged=n < judged) for n in range(count)]


def test_what_makes_answers_bad_is_found_and_is_of_use_on_answers_not_seen() -> None:
    found = learn(_examples(1, 600), shipped())
    refit = found.refit
    assert refit is not None
    assert refit.is_kept
    assert refit.auc_before < 0.7
    assert refit.auc_after > 0.9
    assert found.own.shape["law"] > found.own.shape["length"]
    unseen = _examples(2, 300)
    after = _difficulty(found.own)
    is_bad = [each.worth == 0 for each in unseen]
    assert auc([score(after, each) for each in unseen], is_bad) > 0.9


def test_of_mere_chance_hardly_anything_is_taken() -> None:
    kept = 0
    for seed in range(20):
        found = learn(_examples(seed, 200, matters=False), shipped())
        assert found.refit is not None
        if found.refit.is_kept:
            kept += 1
        else:
            assert tuple(found.own.shape.values()) == shipped().shape
            assert found.own.words == 1.0
    assert kept <= 4  # better than what is in use by luck alone, in a tenth of the cases or so


def test_with_few_labels_or_one_kind_of_them_only_the_dial_is_set() -> None:
    few = _examples(3, 300, judged=LEAST_LABELS - 1)
    alike = [_judged(each, 1.0) for each in _examples(4, 300)]
    for examples in (few, alike):
        found = learn(examples, shipped())
        assert found.refit is None
        assert tuple(found.own.shape.values()) == shipped().shape


def test_of_a_handful_of_requests_nothing_is_made() -> None:
    with pytest.raises(ValueError, match="99 requests are too few"):
        learn(_examples(5, LEAST_REQUESTS - 1), shipped())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.1, 0.3, 0.5, 0.8]))
def test_the_dial_sends_the_share_of_the_own_traffic_that_it_says(seed: int, share: float) -> None:
    examples = _examples(seed, 400, matters=False, judged=0)
    found = learn(examples, shipped())
    limit = found.own.calibration.threshold(share)
    difficulty = _difficulty(found.own)
    part = sum(score(difficulty, each) >= limit for each in examples) / len(examples)
    assert part == pytest.approx(share, abs=0.06)


def test_the_same_log_gives_the_same_weights() -> None:
    first, second = (learn(_examples(6, 300), shipped()) for _ in range(2))
    assert first == second


scores = st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=60)


@given(scores)
def test_auc_is_what_counting_pairs_gives(drawn: list[tuple[int, bool]]) -> None:
    good = [value for value, bad in drawn if not bad]
    bad = [value for value, is_bad in drawn if is_bad]
    pairs = [1.0 if b > g else 0.5 if b == g else 0.0 for b in bad for g in good]
    expected = sum(pairs) / len(pairs) if pairs else 0.5
    found = auc([float(value) for value, _ in drawn], [is_bad for _, is_bad in drawn])
    assert found == pytest.approx(expected)


def test_a_policy_goes_by_the_weights_that_its_options_name(tmp_path: Path) -> None:
    found = learn(_examples(7, 600), shipped())
    file = tmp_path / "mine.json"
    file.write_bytes(msgspec.json.encode(found.own))
    policy = Learned(LearnedOptions(share=0.5, weights=str(file)))
    candidates = [_candidate("cheap", 1), _candidate("dear", 9)]

    def goes_to(law: float) -> str:
        shape = tuple(law if name == "law" else 0.5 * (name == "length") for name in NAMES)
        prompt = Prompt(text="", readings=(Reading(shape, 0.0),))
        question = Question(needs=frozenset({"chat"}), input_tokens=100, prompt=prompt)
        return policy.decide(question, candidates)[0].target

    assert (goes_to(0.1), goes_to(0.9)) == ("cheap", "dear")
    (choice, _) = policy.decide(
        Question(needs=frozenset({"chat"}), input_tokens=1, prompt=NO_PROMPT), candidates
    )
    assert choice.target == "cheap"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory; 'tollway learn' makes such a file"),
        (b"{}", "missing required field `shape`"),
        (b'{"shape": {"luck": 1}, "calibration": {"scores": [1, 0]}}', "no features: luck"),
        (b'{"shape": {}, "words": 1, "calibration": {"scores": [0]}}', "scores must be two"),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_name(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    file = tmp_path / "mine.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.json: ") as caught:
        LearnedOptions(weights=str(file))
    assert problem in str(caught.value)


def test_a_table_without_outcomes_serves_no_quality(tmp_path: Path) -> None:
    found = learn(_examples(8, 200), shipped())
    file = tmp_path / "mine.json"
    file.write_bytes(msgspec.json.encode(found.own))
    with pytest.raises(ValueError, match="'quality' needs a calibration"):
        LearnedOptions(weights=str(file), quality=0.9)
    assert own(str(file)).calibration == found.own.calibration


def _difficulty(found: OwnWeights) -> Difficulty:
    return shipped().with_weights(tuple(found.shape.values()), found.words)


def _judged(example: Example, worth: float) -> Example:
    return Example(request_id=example.request_id, readings=example.readings, worth=worth)


def _candidate(name: str, price: int) -> Candidate:
    return Candidate(
        name=name,
        capabilities=frozenset({"chat"}),
        context_length=None,
        input_nanousd=price,
        output_nanousd=price,
    )
