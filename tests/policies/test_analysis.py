"""What requests are taken to be, on prompts written for it, and on anything at all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.analysis import analyse
from policies.base import Capability, Complexity, Domain, Modality, Prompt, Task
from tests.policies.labelled_prompts import HELD_OUT, TASKS, by_task, labelled

LEVELS: tuple[Complexity, ...] = get_args(Complexity)


def _confusion(pairs: list[tuple[str, str]]) -> str:
    """A line for each task: what its prompts were taken for."""
    counts = Counter(pairs)
    lines = [
        f"{wanted:>14}: "
        + ", ".join(f"{t} {n}" for (w, t), n in sorted(counts.items()) if w == wanted)
        for wanted in sorted({wanted for wanted, _ in pairs})
    ]
    return "\n".join(lines)


def _share(pairs: list[tuple[str, str]]) -> float:
    return sum(wanted == told for wanted, told in pairs) / len(pairs)


def test_labelled_prompts_are_told_apart_in_a_dozen_languages() -> None:
    found = [(row, analyse(Prompt(text=row[3]))) for row in labelled()]
    tasks = [(row[0], told.task) for row, told in found]
    assert _share(tasks) >= 0.97, _confusion(tasks)
    languages = [(row[2], told.language) for row, told in found]
    assert _share(languages) >= 0.9, _confusion(languages)
    complexities = [(row[1], told.complexity) for row, told in found]
    assert _share(complexities) >= 0.8, _confusion(complexities)
    # Where a level is missed, by one.
    assert all(abs(LEVELS.index(w) - LEVELS.index(t)) <= 1 for w, t in complexities)  # type: ignore[arg-type]


def test_prompts_that_do_not_name_their_task() -> None:
    tasks = [(task, analyse(Prompt(text=text)).task) for task, text in by_task(TASKS)]
    assert _share(tasks) >= 0.95, _confusion(tasks)


def test_prompts_that_the_tables_were_not_made_for() -> None:
    tasks = [(task, analyse(Prompt(text=text)).task) for task, text in by_task(HELD_OUT)]
    assert _share(tasks) >= 0.75, _confusion(tasks)


def test_every_process_tells_the_same() -> None:
    """Whatever the seed of its hashes is: a decision asked in advance is that of any worker."""
    code = (
        "from policies.analysis import analyse; from policies.base import Prompt\n"
        "from tests.policies.labelled_prompts import labelled\n"
        "print([analyse(Prompt(text=row[3])) for row in labelled()])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(told) == 1


@pytest.mark.parametrize(
    ("needs", "task", "modality"),
    [
        ({"embeddings"}, "embedding", "text"),
        ({"chat", "vision"}, "vision", "image"),
        ({"chat", "audio"}, "speech", "audio"),
        ({"transcriptions"}, "speech", "audio"),
        ({"chat", "files"}, "summarisation", "file"),
    ],
)
def test_what_is_sent_besides_text_counts_first(
    needs: set[Capability], task: Task, modality: Modality
) -> None:
    told = analyse(Prompt(text="Summarise this"), needs=frozenset(needs))
    assert (told.task, told.modality) == (task, modality)


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("Is Paris in France? Answer yes or no.", 1, 10),
        ("Write a story of 800 words about a fox.", 1000, 1300),
        ("Explain relativity in 3 sentences.", 50, 100),
        ("Translate to French: " + "The dog sleeps. " * 100, 350, 450),
        ("What is 2+2?", 1, 300),
    ],
)
def test_expected_output_goes_by_what_is_asked_for(text: str, least: int, most: int) -> None:
    assert least <= analyse(Prompt(text=text)).output_tokens <= most


def test_a_maximum_bounds_what_is_expected() -> None:
    prompt = Prompt(text="Write an essay of 5000 words")
    assert analyse(prompt, output_tokens=40).output_tokens == 40


def test_whoever_watches_a_short_answer_come_is_in_a_hurry() -> None:
    assert analyse(Prompt(text="Hello!"), stream=True).latency_sensitivity == "high"
    assert analyse(Prompt(text="Quick: what is DNS?")).latency_sensitivity == "high"
    long = analyse(Prompt(text="Summarise the book"), input_tokens=60_000)
    assert long.latency_sensitivity == "low"


def test_more_to_do_is_never_simpler() -> None:
    order = "Refactor the parser"
    more = f"{order}.\n- keep the API\n- add property tests\n- justify each trade-off\n- prove it"
    assert LEVELS.index(analyse(Prompt(text=more)).complexity) > LEVELS.index(
        analyse(Prompt(text=order)).complexity
    )


@given(
    text=st.text(max_size=200),
    needs=st.frozensets(st.sampled_from(get_args(Capability))),
    input_tokens=st.integers(0, 10**7),
    maximum=st.none() | st.integers(1, 10**6),
    stream=st.booleans(),
)
def test_anything_at_all_is_told_something_and_the_same_again(
    text: str, needs: frozenset[Capability], input_tokens: int, maximum: int | None, stream: bool
) -> None:
    prompt = Prompt(text=text)
    told = [
        analyse(
            prompt, needs=needs, input_tokens=input_tokens, output_tokens=maximum, stream=stream
        )
        for _ in range(2)
    ]
    assert told[0] == told[1]
    assert told[0].task in get_args(Task)
    assert told[0].complexity in LEVELS
    assert told[0].domain in get_args(Domain)
    assert 0 <= told[0].output_tokens <= (100_000 if maximum is None else maximum)


@given(piece=st.text(min_size=1, max_size=20), other=st.text(min_size=1, max_size=20))
def test_of_a_long_text_only_the_ends_are_looked_at(piece: str, other: str) -> None:
    """So that no text, however it is made, takes longer than a short one."""
    texts = (f"{'x ' * 400}{(each * 3000)[:3000]}{' y' * 400}" for each in (piece, other))
    first, second = (analyse(Prompt(text=text)) for text in texts)
    assert first == second


def test_what_is_no_count_is_not_counted() -> None:
    """Its last five digits are none: they would be an answer of no words."""
    told = analyse(Prompt(text="Write an essay of 100000 words about the sea"))
    assert told.output_tokens > 100
