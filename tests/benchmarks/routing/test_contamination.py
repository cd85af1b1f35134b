from __future__ import annotations

from benchmarks.routing.contamination import RUN_WORDS, overlapping

LONG = " ".join(f"word{number}" for number in range(40))


def test_a_prompt_is_the_same_in_other_dress() -> None:
    assert overlapping(["what is 2 + 2", "What is 3+3?"], ["What is 2+2?"]) == [True, False]


def test_a_shared_run_of_words_is_a_copy() -> None:
    words = LONG.split()
    enough, too_few = words[5 : 5 + RUN_WORDS], words[5 : 4 + RUN_WORDS]
    training = [f"Before, {' '.join(run)}; after." for run in (enough, too_few)]
    assert overlapping(training, [LONG]) == [True, False]


def test_odd_text_is_compared_too() -> None:
    assert overlapping(["\ud800", "", "你好"], ["你好"]) == [False, False, True]
