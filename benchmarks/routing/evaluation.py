"""The tables of docs/routing.md: how far routers get on prompts that they were not made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.routing.metrics import NAMES, Array, figures, interval
from benchmarks.routing.outcomes import FAMILIES, TEST_PAIR, Outcomes
from benchmarks.routing.training import Prompts
from policies.difficulty import Difficulty

# Mixtral's price for GPT-4's, by RouteLLM's reckoning: 0.24 and 24.7 US$ for a million tokens.
PRICE_RATIO = 0.01
RESAMPLES = 1000

# What RouteLLM reports (arXiv 2406.18665, tables 1 to 3): CPT(50), CPT(80), APGR.
PUBLISHED: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    "routellm_mtbench": {
        "RouteLLM, arena votes: matrix factorisation": (25.3, 74.3, 0.580),
        "RouteLLM, arena votes: best of four (similarity)": (37.9, 59.0, 0.610),
        "RouteLLM, with GPT-4's judgements: best of four (matrix)": (13.4, 31.3, 0.802),
    },
    "routellm_mmlu": {
        "RouteLLM, arena votes: best of four (matrix)": (45.0, 76.9, 0.524),
        "RouteLLM, with MMLU's validation set: best of four (similarity)": (35.4, 71.6, 0.603),
    },
    "routellm_gsm8k": {
        "RouteLLM, arena votes: best of four (matrix, similarity)": (53.6, 85.2, 0.475),
        "RouteLLM, with GPT-4's judgements: best of four (causal LLM)": (33.6, 63.3, 0.622),
    },
}

# Set, weak model, strong model: tested by weights that were trained without the prompt's family.
UNSEEN_PAIRS = (
    ("llmrouter_pool", "mistral-7b-instruct-v0.3", "llama-3.1-nemotron-51b-instruct"),
    ("llmrouter_pool", "gemma-2-9b-it", "llama-3.1-nemotron-51b-instruct"),
    ("mmlu_pro", "Meta-Llama-3_1-8B-Instruct", "gemini-1.5-pro-002"),
    ("reasoning_gym_easy", "meta-llama_llama-4-scout", "deepseek_deepseek-r1"),
    ("reasoning_gym_hard", "meta-llama_llama-4-scout", "deepseek_deepseek-r1"),
    ("zeroeval_math_l5", "gpt-4o-mini-2024-07-18", "o1-mini-2024-09-12"),
    ("zeroeval_crux", "gpt-4o-mini-2024-07-18", "o1-mini-2024-09-12"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """Routers between two models on one set of prompts."""

    title: str
    scores: Mapping[str, Array]
    weak: Array
    strong: Array
    published: Mapping[str, tuple[float, float, float]]


def held_out(
    tests: Sequence[Outcomes], by_hand: Difficulty, learned: Difficulty
) -> Iterator[Contest]:
    """RouteLLM's own tests, between its own two models."""
    for test in tests:
        weak, strong = (test.worth[model] for model in TEST_PAIR)
        yield Contest(
            title=f"{test.name}, {len(weak):,} prompts: {' and '.join(TEST_PAIR)}",
            scores=_routers(
                lengths=np.array([len(prompt) for prompt in test.prompts], float),
                by_hand=np.array([by_hand.score(prompt) for prompt in test.prompts]),
                learned=np.array([learned.score(prompt) for prompt in test.prompts]),
                gain=strong - weak,
            ),
            weak=weak,
            strong=strong,
            published=PUBLISHED[test.name],
        )


def unseen_kinds(
    training: Sequence[Outcomes], rows: Prompts, by_hand: Difficulty, unseen: Array
) -> Iterator[Contest]:
    """The training sets, each prompt scored by weights that never saw its family.

    `training` is what the first `rows` and their `unseen` scores are of, in that order.
    """
    starts = np.cumsum([0, *(len(outcomes.prompts) for outcomes in training)])
    for name, weak_model, strong_model in UNSEEN_PAIRS:
        place = list(FAMILIES).index(name)
        outcomes = training[place]
        weak, strong = outcomes.worth[weak_model], outcomes.worth[strong_model]
        known = ~np.isnan(weak) & ~np.isnan(strong)
        mine = slice(starts[place], starts[place + 1])
        yield Contest(
            title=f"{name}, {known.sum():,} prompts: {weak_model} and {strong_model}",
            scores=_routers(
                lengths=np.array([len(prompt) for prompt in outcomes.prompts], float)[known],
                by_hand=np.array([by_hand.of(found) for found in rows.found[mine]])[known],
                learned=unseen[mine][known],
                gain=(strong - weak)[known],
            ),
            weak=weak[known],
            strong=strong[known],
            published={},
        )


def table(contest: Contest, resamples: int = RESAMPLES) -> str:
    """In Markdown: a router a line, what it was measured with and 95 % of resamples in brackets."""
    lines = [
        "| router | APGR | CPT(50) | CPT(80) | calls at 95 % | cost at 95 % | AUC |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, score in contest.scores.items():
        found = figures(score, contest.weak, contest.strong, price_ratio=PRICE_RATIO)
        within = interval(
            score, contest.weak, contest.strong, price_ratio=PRICE_RATIO, resamples=resamples
        )
        cells = [
            _cell(getattr(found, figure), within[figure], 3 if figure in ("apgr", "auc") else 1)
            for figure in NAMES
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name, (cpt50, cpt80, apgr) in contest.published.items():
        lines.append(f"| {name} | {apgr:.3f} | {cpt50} | {cpt80} | | | |")
    return "\n".join(lines)


def summary(contests: Sequence[Contest], resamples: int = RESAMPLES) -> str:
    """In Markdown: a contest a line, a router a column, APGR in the cells."""
    routers = list(contests[0].scores)
    lines = [f"| test | {' | '.join(routers)} |", f"| --- |{' --- |' * len(routers)}"]
    for contest in contests:
        cells: list[str] = []
        for router in routers:
            outcome = (contest.scores[router], contest.weak, contest.strong)
            found = figures(*outcome).apgr
            cells.append(_cell(found, interval(*outcome, resamples=resamples)["apgr"], 3))
        lines.append(f"| {contest.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _routers(*, lengths: Array, by_hand: Array, learned: Array, gain: Array) -> dict[str, Array]:
    return {
        "random": np.zeros(len(gain)),
        "length of the prompt": lengths,
        "Tollway, by hand alone": by_hand,
        "Tollway": learned,
        "oracle": gain,
    }


def _cell(value: float, within: tuple[float, float], digits: int) -> str:
    low, high = within
    if high - low < 10**-digits / 2:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"
