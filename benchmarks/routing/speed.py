"""What a score and a decision cost, in microseconds of CPU."""

from __future__ import annotations

import time
from collections.abc import Callable

from policies.base import Candidate, Prompt, Question
from policies.difficulty import shipped
from policies.learned import Learned

_ROUNDS = 1000
_ORDER = "Compare three ways to index a table of events by time, with their costs in memory. "
TEXTS = {
    "32 characters": "What is the capital of Portugal?",
    "300 characters": (_ORDER * 4)[:300],
    "2,000 characters": (_ORDER * 30)[:2000],
    "200,000 characters": _ORDER * 2400,
    "2,000 characters of CJK": "请比较三种按时间索引事件表的方法。" * 125,
}


def table() -> str:
    """In Markdown: median and 99th percentile."""
    difficulty = shipped()
    policy = Learned()
    lines = [
        "| text | score, median | p99 | decision, median | p99 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, text in TEXTS.items():
        question = Question(
            needs=frozenset({"chat"}), input_tokens=len(text) // 4, prompt=Prompt(text=text)
        )
        cells = [
            *_microseconds(lambda text=text: difficulty.score(text)),  # type: ignore[misc]
            *_microseconds(lambda question=question: policy.decide(question, _TIERS)),  # type: ignore[misc]
        ]
        lines.append(f"| {name} | {' | '.join(f'{cell:.0f}' for cell in cells)} |")
    return "\n".join(lines)


_TIERS = tuple(
    Candidate(
        name=name,
        capabilities=frozenset({"chat"}),
        context_length=None,
        input_nanousd=price,
        output_nanousd=price,
    )
    for name, price in (("small", 100), ("middle", 1000), ("large", 10000))
)


def _microseconds(act: Callable[[], object]) -> tuple[float, float]:
    took: list[int] = []
    for _ in range(_ROUNDS):
        began = time.thread_time_ns()
        act()
        took.append(time.thread_time_ns() - began)
    took.sort()
    return took[_ROUNDS // 2] / 1000, took[_ROUNDS * 99 // 100] / 1000
