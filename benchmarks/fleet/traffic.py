"""Requests of a made-up day: real prompts, of lengths that scatter as those of chats do."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from proxy.wire import chat
from proxy.wire.chat import ChatRequest
from tests.policies.labelled_prompts import labelled

_REQUESTS = Path(__file__).parents[1] / "routing" / "requests.tsv"
_LEVELS = {"simple": 0, "medium": 1, "complex": 2, "very_complex": 3}
# The medians of how long answers are, by how hard the request is, and the sigmas of the logarithms.
_ANSWER_TOKENS = (80, 250, 600, 1100)
_ANSWER_SCATTER = 0.6
_CONTEXT_TOKENS = 400
_CONTEXT_SCATTER = 1.2
_MOST_TOKENS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request, when it comes, and what nobody knows then: how hard it is, and its answer."""

    at_s: float
    request: ChatRequest
    level: int
    input_tokens: int
    output_tokens: int


def prompts() -> list[tuple[int, str]]:
    """Each prompt with how hard it is, 0 to 3.

    Half of them `learned` was trained with; by the other half the tables of the analysis were made.
    """
    lines = _REQUESTS.read_text().splitlines()
    trained = [(int(level), text) for level, _, text in (line.partition("\t") for line in lines)]
    told = [(_LEVELS[complexity], text) for _, complexity, _, text in labelled()]
    return [*trained, *told]


def traffic(count: int, *, per_second: float, seed: int) -> Iterator[Asked]:
    """So many requests, all alike for the same seed; each streams, as somebody waits for it."""
    lot = random.Random(seed)  # the same each time
    known = prompts()
    parsed = {text: _parsed(text) for _, text in known}
    at_s = 0.0
    for _ in range(count):
        at_s += lot.expovariate(per_second)
        level, text = lot.choice(known)
        context = _scattered(lot, _CONTEXT_TOKENS, _CONTEXT_SCATTER)
        request = parsed[text]
        yield Asked(
            at_s=at_s,
            request=msgspec.structs.replace(request, text_bytes=request.text_bytes + 4 * context),
            level=level,
            input_tokens=request.input_tokens + context,
            output_tokens=_scattered(lot, _ANSWER_TOKENS[level], _ANSWER_SCATTER),
        )


def _parsed(text: str) -> ChatRequest:
    body = {"model": "any", "messages": [{"role": "user", "content": text}], "stream": True}
    return chat.parse(json.dumps(body).encode())


def _scattered(lot: random.Random, median: float, sigma: float) -> int:
    return min(_MOST_TOKENS, max(1, round(lot.lognormvariate(math.log(median), sigma))))
