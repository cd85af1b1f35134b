from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Candidate, Prompt, Question
from policies.calibration import Calibration
from policies.difficulty import Difficulty, Weights
from policies.learned import Learned, LearnedOptions

EASY, HARD = "hello", "prove"
# "prove" scores 2/3, "hello" 0: half of the prompts are to the right of 0.5.
DIFFICULTY = Difficulty(
    Weights(
        shape={"proving": 1.0},
        term_unit=1.0,
        terms={},
        calibration=Calibration(scores=(1.0, 0.5, 0.0), quality=(0.5, 0.9, 1.0)),
    )
)


def _candidate(name: str, price: int | None) -> Candidate:
    return Candidate(
        name=name,
        capabilities=frozenset({"chat"}),
        context_length=None,
        input_nanousd=price and price * 1_000_000,
        output_nanousd=price and price * 1_000_000,
    )


CANDIDATES = [
    _candidate("middle", 200),
    _candidate("unknown", None),
    _candidate("large", 900),
    _candidate("small", 10),
]


def _order(text: str, opening: str = "", **options: object) -> list[str]:
    policy = Learned(LearnedOptions(**{"share": 0.5, **options}), DIFFICULTY)  # type: ignore[arg-type]
    question = Question(
        needs=frozenset({"chat"}), input_tokens=100, prompt=Prompt(text=text, opening=opening)
    )
    return [choice.target for choice in policy.decide(question, CANDIDATES)]


def test_the_dearest_for_hard_prompts_and_the_cheapest_for_the_others() -> None:
    assert _order(HARD) == ["large", "middle", "small", "unknown"]
    assert _order(EASY) == ["small", "middle", "large", "unknown"]


def test_a_conversation_is_as_hard_as_its_first_message() -> None:
    assert _order("go on", opening=HARD)[0] == "large"
    assert _order(HARD, opening="hello")[0] == "large"
    assert _order("go on", opening="hello")[0] == "small"


def test_named_tiers_are_tried_in_their_order() -> None:
    tiers = {"weak": ["unknown", "small"], "strong": ["middle", "gone"]}
    assert _order(EASY, **tiers) == ["unknown", "small", "middle", "large"]
    assert _order(HARD, **tiers) == ["middle", "unknown", "small", "large"]
    assert _order(HARD, strong=["unknown"]) == ["unknown", "large", "middle", "small"]
    assert _order(EASY, weak=["large"]) == ["large", "middle", "unknown", "small"]


@pytest.mark.parametrize(("share", "first"), [(0, "small"), (1, "large")])
def test_the_ends_of_the_dial(share: float, first: str) -> None:
    assert _order(EASY, share=share)[0] == first
    assert _order(HARD, share=share)[0] == first


@pytest.mark.parametrize(
    ("quality", "share"), [(0.5, 0), (0.7, 0.25), (0.9, 0.5), (0.95, 0.75), (1, 1)]
)
def test_a_quality_is_a_share_by_the_calibration(quality: float, share: float) -> None:
    policy = Learned(LearnedOptions(quality=quality), DIFFICULTY)
    assert policy.share == pytest.approx(share)


def test_an_own_calibration_goes_before_the_one_of_the_weights() -> None:
    own = Calibration(scores=(0.9, 0.8, 0.7))
    assert _order(HARD, calibration=own)[0] == "small"


def test_the_reason_says_how_hard_it_is_and_why() -> None:
    question = Question(needs=frozenset(), input_tokens=1, prompt=Prompt(text=HARD))
    choices = Learned(LearnedOptions(share=0.5), DIFFICULTY).decide(question, CANDIDATES)
    assert choices[0].reason == ("harder than 67 % of prompts (+proving): the strong tier")
    assert {choice.reason for choice in choices[1:]} == {"a fallback"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.3, "quality": 0.9}, "same dial"),
        ({"weak": ["a"], "strong": ["b", "a"]}, "'a' is in 'weak' and in 'strong'"),
        ({"quality": 0.9, "calibration": {"scores": [1, 0]}}, "quality of answers"),
        ({"calibration": {"scores": [0, 1]}}, "fall"),
        ({"share": 1.5}, "<= 1"),
        ({"dial": 1}, "dial"),
    ],
)
def test_refuses_options_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(options, LearnedOptions)


@given(
    prices=st.lists(st.none() | st.integers(0, 10**6), min_size=1, max_size=6),
    text=st.text(max_size=200),
    share=st.floats(0, 1),
)
def test_every_candidate_once_and_a_larger_share_never_cheaper(
    prices: list[int | None], text: str, share: float
) -> None:
    candidates = [_candidate(str(place), price) for place, price in enumerate(prices)]
    question = Question(needs=frozenset(), input_tokens=1000, prompt=Prompt(text=text))

    def cost(dial: float) -> int | None:
        choices = Learned(LearnedOptions(share=dial)).decide(question, candidates)
        assert sorted(choice.target for choice in choices) == sorted(c.name for c in candidates)
        return prices[int(choices[0].target)]

    less, more = cost(share / 2), cost(share)
    if any(price is not None for price in prices):
        assert less is not None
        assert more is not None
        assert less <= more
    else:
        assert less is None
        assert more is None
