from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.prompt_features import NAMES, SAMPLED_CHARACTERS, features, sample

anything = st.text(st.characters(exclude_categories=()), max_size=4000)


@given(anything)
def test_every_text_has_features_from_zero_to_one_and_always_the_same(text: str) -> None:
    found = features(text)
    assert len(found.shape) == len(NAMES)
    assert all(0 <= value <= 1 for value in found.shape)
    assert len(found.terms) <= 2 * (SAMPLED_CHARACTERS + 1)
    again = features(text)
    assert (again.shape, again.terms) == (found.shape, found.terms)


@given(anything, anything, st.integers(0, 10**6))
def test_only_a_sample_of_a_long_text_is_read(head: str, tail: str, padding: int) -> None:
    text = f"{head}{'x' * padding}{tail}"
    assert len(sample(text)) <= SAMPLED_CHARACTERS + 1
    assert text.startswith(sample(text)[:900])
    assert text.endswith(sample(text)[-400:])


@pytest.mark.parametrize(
    ("subject", "texts"),
    [
        (
            "proving",
            (
                "Prove that the square root of 2 is irrational.",
                "Beweise, dass die Wurzel aus 2 irrational ist.",
                "Démontre que la racine de 2 est irrationnelle.",
                "Докажи, что корень из двух иррационален.",
                "证明根号2是无理数。",
                "√2が無理数であることを証明してください。",
            ),
        ),
        (
            "programming",
            (
                "Write a Python function that merges two lists.",
                "Escribe una función en Python que una dos listas.",
                "请用Python写代码合并两个列表",
                "두 리스트를 합치는 파이썬 함수",
                "اكتب دالة تدمج قائمتين",
            ),
        ),
        (
            "rewording",
            (
                "Translate this into French: good morning",
                "Fasse diesen Text zusammen: ...",
                "Traduce esto al inglés: buenos días",
                "Переведи на английский: доброе утро",
                "把这句话翻译成英文：早上好",
                "इसका अनुवाद करो",
            ),
        ),
    ],
)
def test_a_subject_is_found_in_many_languages(subject: str, texts: tuple[str, ...]) -> None:
    for text in texts:
        assert features(text).shape[NAMES.index(subject)] > 0, text


def test_digits_count_by_their_number_alone() -> None:
    assert features("add 12 and 345").terms == features("add 98 and 765").terms
    assert "00" in features("add 12").terms


def test_a_character_without_spaces_around_it_is_longer_than_a_letter() -> None:
    length = NAMES.index("length")
    assert features("比较" * 20).shape[length] > features("ab" * 20).shape[length]
