"""What models answered, prompt by prompt: the public outcomes that train and test a router.

A folder has one Parquet file a set: a row is a prompt, with `prompt`, `group` (its subject or
task), and a column `s:MODEL` for each model with what its answer was worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from benchmarks.routing.metrics import Array

# A family is what must be left out together to learn how the weights do on prompts of a kind that
# they have not seen.
_SUBJECTS = {
    **dict.fromkeys(("math", "physics", "engineering"), "exams: numbers"),
    **dict.fromkeys(("chemistry", "biology", "health", "computer science"), "exams: nature"),
    **dict.fromkeys(
        ("business", "economics", "psychology", "law", "history", "philosophy", "other"),
        "exams: society",
    ),
}
_PUZZLES = {
    "algorithmic": "puzzles: algorithms",
    **dict.fromkeys(("arithmetic", "algebra", "geometry"), "puzzles: arithmetic"),
    **dict.fromkeys(("games", "cognition"), "puzzles: games"),
    **dict.fromkeys(("logic", "graphs", "arc", "code", "induction"), "puzzles: logic"),
}
_TASKS = {
    **dict.fromkeys(("arc_challenge", "openbook_qa", "commonsense_qa"), "common sense"),
    **dict.fromkeys(("trivia_qa", "natural_qa"), "trivia"),
    **dict.fromkeys(("mbpp", "human_eval"), "code"),
    "math": "competitions",
    "commongen": "sentences",
    "agentverse-logicgrid": "logic grids",
}
FAMILIES: Mapping[str, Mapping[str, str]] = {
    "mmlu_pro": _SUBJECTS,
    "reasoning_gym_easy": _PUZZLES,
    "reasoning_gym_hard": _PUZZLES,
    "llmrouter_pool": _TASKS,
    "zeroeval_math_l5": {"math-l5": "competitions"},
    "zeroeval_crux": {"crux": "code"},
}
"""The training sets, and the family of each group in them; groups without one are not used.

Those are the ones whose prompts are from the same collections as the tests': LLMRouter's `gsm8k`,
`agentverse-mgsm` (translations of GSM8K) and `mmlu`. So are MMLU-Pro's rows from MMLU, see `read`.
"""
TESTS = ("routellm_mtbench", "routellm_mmlu", "routellm_gsm8k")
TEST_PAIR = ("mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")

# They fail most prompts by the format of their answers, which says nothing of the prompts.
_UNUSABLE = ("llama3-chatqa-1.5-8b", "llama3-chatqa-1.5-70b", "codegemma-7b")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcomes:
    """Of one set: lists of the same length, and by model what its answers were worth (or nan)."""

    name: str
    prompts: list[str]
    groups: list[str]
    worth: dict[str, Array]

    def where(self, kept: NDArray[np.bool_]) -> Outcomes:
        """Those prompts alone."""
        places = np.flatnonzero(kept)
        return Outcomes(
            name=self.name,
            prompts=[self.prompts[place] for place in places],
            groups=[self.groups[place] for place in places],
            worth={model: worth[places] for model, worth in self.worth.items()},
        )

    def thirds(self) -> tuple[Array, Array]:
        """What the worst third of the models and the best third do with each prompt, on average."""
        ranked = sorted(self.worth, key=lambda model: float(np.nanmean(self.worth[model])))
        size = max(2, len(ranked) // 3)
        worst = np.nanmean([self.worth[model] for model in ranked[:size]], axis=0)
        best = np.nanmean([self.worth[model] for model in ranked[-size:]], axis=0)
        return worst, best


def read(folder: Path, name: str) -> Outcomes:
    """One set; raises FileNotFoundError, which names the file.

    Left out are rows of unused groups, those that RouteLLM itself left out of its tests, those of
    MMLU-Pro that are MMLU's, and those that hardly any model has answered.
    """
    with (folder / f"{name}.parquet").open("rb") as file:
        table = parquet.read_table(file).to_pydict()
    worth = {
        column[2:]: np.array([np.nan if v is None else v for v in values], float)
        for column, values in table.items()
        if column.startswith("s:") and column[2:] not in _UNUSABLE
    }
    answered = sum(~np.isnan(values) for values in worth.values())
    kept = answered >= len(worth) - 2
    if name in FAMILIES:
        kept &= np.array([group in FAMILIES[name] for group in table["group"]])
    if "contaminated" in table:
        kept &= ~np.array(table["contaminated"], bool)
    if "src" in table:
        kept &= np.array([not source.startswith("ori_mmlu") for source in table["src"]])
    whole = Outcomes(name=name, prompts=table["prompt"], groups=table["group"], worth=worth)
    return whole.where(kept)
