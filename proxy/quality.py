"""What a target's answers are worth, by what callers said of them. Pure arithmetic.

What is declared counts as some answers that were judged before any caller's, so that one bad word
moves little and hundreds decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PRIOR_ANSWERS = 20
"""What is declared counts as so many judged answers."""

NEUTRAL = 0.5
"""Where nothing is declared: neither praise nor blame, as policies have it too."""

GENERAL = "general"


@dataclass(frozen=True, slots=True)
class Judged:
    """Answers that callers judged, and the sum of what they were worth, each from 0 to 1."""

    answers: int
    worth: float

    def estimate(self, prior: float) -> float:
        """The mean worth of an answer, from 0 to 1."""
        return (PRIOR_ANSWERS * prior + self.worth) / (PRIOR_ANSWERS + self.answers)


def estimated(declared: Mapping[str, float], judged: Mapping[str, Judged]) -> Mapping[str, float]:
    """The quality by task, and `general`, of what is declared and what was judged by task.

    A task that nobody judged keeps what is declared for it. Answers at any task tell of `general`,
    which stands for tasks of which nothing is known.
    """
    answers = sum(each.answers for each in judged.values())
    if not answers:
        return declared
    prior = declared.get(GENERAL)
    if prior is None:
        prior = sum(declared.values()) / len(declared) if declared else NEUTRAL
    by_task = {
        task: each.estimate(declared.get(task, prior))
        for task, each in judged.items()
        if task and each.answers
    }
    everything = Judged(answers, sum(each.worth for each in judged.values()))
    return {**declared, **by_task, GENERAL: everything.estimate(prior)}
