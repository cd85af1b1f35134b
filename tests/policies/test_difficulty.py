from __future__ import annotations

import hashlib
import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.calibration import Calibration
from policies.difficulty import WEIGHTS, Difficulty, Weights, shipped
from policies.prompt_features import features

DOCS = Path(__file__).parents[2] / "docs" / "routing.md"
anything = st.text(st.characters(exclude_categories=()), max_size=3000)


def _difficulty(**changes: object) -> Difficulty:
    values: dict[str, object] = {
        "shape": {"proving": 1.0},
        "term_unit": 0.5,
        "terms": {"cats": 2, "two cats": -6},
        "calibration": Calibration(scores=(1.0, 0.0)),
        **changes,
    }
    return Difficulty(Weights(**values))  # type: ignore[arg-type]


def test_the_weights_are_small_and_those_of_the_docs() -> None:
    written = WEIGHTS.read_bytes()
    assert len(written) < 300_000
    assert hashlib.sha256(written).hexdigest() in DOCS.read_text()


def test_by_hand() -> None:
    # Of few terms the sum is divided as if there were 40; here two words, and each after another.
    assert _difficulty().score("two cats") == pytest.approx(0.5 * (2 - 6) / math.sqrt(40))
    many = " ".join(f"a{'b' * number}" for number in range(48))
    assert _difficulty().score(f"two cats {many}") == pytest.approx(0.5 * (2 - 6) / math.sqrt(100))
    assert _difficulty().score("dogs") == 0
    assert _difficulty().score("prove") == pytest.approx(1 / 1.5)
    assert _difficulty().score("") == 0


def test_reasons_name_what_moves_the_score_most_and_no_word_of_the_text() -> None:
    assert _difficulty().reasons(features("two cats, two cats")) == ("-words",)
    assert _difficulty().reasons(features("prove it for cats")) == ("+proving", "+words")
    assert _difficulty().reasons(features("dogs")) == ()


def test_refuses_weights_for_other_features() -> None:
    with pytest.raises(msgspec.ValidationError, match="shoe_size"):
        msgspec.json.decode(
            b'{"shape":{"shoe_size":1},"term_unit":1,"terms":{},"calibration":{"scores":[1,0]}}',
            type=Weights,
        )


@given(anything)
def test_every_text_has_a_finite_score_and_always_the_same(text: str) -> None:
    score = shipped().score(text)
    assert math.isfinite(score)
    assert score == shipped().score(text)
    assert 0 <= shipped().calibration.percentile(score) <= 1
    assert len(shipped().reasons(features(text))) <= 3


@given(st.sampled_from(["prove", "python", "def", "theorem", "$", "{"]), st.integers(60, 5000))
def test_repetition_does_not_run_the_score_up(word: str, times: int) -> None:
    few, many = (shipped().score(" ".join([word] * number)) for number in (50, times))
    assert many - few < 1.0  # what length alone may add, for there is nothing else to add


@pytest.mark.parametrize(
    ("easy", "hard"),
    [
        (
            "Hi, how are you?",
            "Prove that every finite integral domain is a field, then say where the proof fails "
            "for infinite ones.",
        ),
        (
            "What is the capital of Portugal?",
            "Implement a lock-free queue in Rust, and explain why its memory ordering is correct.",
        ),
        (
            "Translate into German: see you tomorrow",
            "Ein Zug fährt um 8:15 Uhr mit 90 km/h, ein zweiter um 8:40 Uhr mit 120 km/h. "
            "Berechne, wann der zweite den ersten einholt, und begründe jeden Schritt.",
        ),
        ("Danke!", "Beweise, dass es unendlich viele Primzahlen der Form 4k+3 gibt."),
        (
            "¿Quién escribió Don Quijote?",
            "Calcula la probabilidad de que dos de 30 personas cumplan años el mismo día, y "
            "demuestra la fórmula.",
        ),
        (
            "Кто написал «Войну и мир»?",
            "Напиши программу, которая решает судоку, и оцени сложность.",
        ),
        ("你好", "证明素数有无穷多个，并用Python写一个函数计算前100个素数。"),
        (
            "こんにちは",
            "フィボナッチ数列をO(log n)で計算する関数を書いて、正しいことを証明してください。",
        ),
    ],
)
def test_what_everybody_would_call_harder_scores_more(easy: str, hard: str) -> None:
    assert shipped().score(easy) < shipped().score(hard)
