"""What trimmed histories save: conversations that grow, sent whole and sent with a limit.

The cut is the real one. What a provider has cached of a prompt is taken to be what it has in common
with the request before, from 1,024 tokens on.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from proxy import pricing
from proxy.config import History
from proxy.pricing import Price, Usage
from proxy.trimming import trimmed
from proxy.wire import chat

LIMITS = (4_000, 8_000, 16_000)
_SEED = 20261121
_LEAST_CACHED = 1_024
_SCATTER = 0.8
# USD per million tokens: 2 of input, 0.2 where it is cached; answers cost the same either way.
_PRICE = Price(input=2_000_000_000, cached_input=200_000_000, output=0, source="benchmark")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """Conversations of a kind: medians in tokens, and how many requests they are on average."""

    name: str
    requests: int
    asked: int
    answered: int
    is_agent: bool = False
    """Whether it is asked once, and calls tools from then on."""


_KINDS = (
    _Kind(name="chats", requests=4, asked=40, answered=300),
    _Kind(name="long chats", requests=25, asked=60, answered=400),
    _Kind(name="agents", requests=40, asked=80, answered=600, is_agent=True),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """What a limit saves of the input of a kind of conversations."""

    conversations: str
    max_tokens: int
    requests: int
    tokens_per_request: int
    """Without a limit."""
    cut: float
    """The share of the requests that lose anything."""
    tokens: float
    """As the next, the share that is saved."""
    cost: float
    """Where nothing is cached."""
    cached_cost: float
    """Where the provider caches; below zero where trimming makes it dearer."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def histories(*, conversations: int) -> list[Saved]:
    """Measure each limit on so many conversations of each kind, the same for all limits."""
    return [_saved(kind, limit, conversations) for kind in _KINDS for limit in LIMITS]


@dataclass(slots=True)
class _Sum:
    tokens: int = 0
    cost: int = 0
    cached_cost: int = 0

    def add(self, sent: Sequence[int], before: Sequence[int], tokens: Mapping[int, int]) -> None:
        """Count a request: the places of the messages it has, and those of the one before."""
        whole = sum(tokens[place] for place in sent)
        same = 0
        for place, other in zip(sent, before, strict=False):
            if place != other:
                break
            same += tokens[place]
        cached = same if same >= _LEAST_CACHED else 0
        usage = Usage(input_tokens=whole, output_tokens=0)
        self.tokens += whole
        self.cost += pricing.cost_nanousd(_PRICE, usage)
        usage = Usage(input_tokens=whole, output_tokens=0, cached_tokens=cached)
        self.cached_cost += pricing.cost_nanousd(_PRICE, usage)


def _saved(kind: _Kind, limit: int, conversations: int) -> Saved:
    lot = random.Random(f"{_SEED} {kind.name}")
    plain, short = _Sum(), _Sum()
    requests = cut = 0
    for _ in range(conversations):
        messages = list(_conversation(kind, lot))
        tokens = {place: len(text) // 4 for place, text in enumerate(messages)}
        before: list[int] = []
        before_short: list[int] = []
        for end in range(2, len(messages) + 1, 2):
            everything = list(range(end))
            sent = _sent(messages[:end], limit)
            plain.add(everything, before, tokens)
            short.add(sent, before_short, tokens)
            before, before_short = everything, sent
            requests += 1
            cut += len(sent) < end
    return Saved(
        conversations=kind.name,
        max_tokens=limit,
        requests=requests,
        tokens_per_request=plain.tokens // requests,
        cut=cut / requests,
        tokens=1 - short.tokens / plain.tokens,
        cost=1 - short.cost / plain.cost,
        cached_cost=1 - short.cached_cost / plain.cached_cost,
    )


def _conversation(kind: _Kind, lot: random.Random) -> Iterator[bytes]:
    """Its messages, as JSON: instructions and a question, then by turns an answer and a question.

    Of an agent a call and its result take their place. Each is told by its number.
    """
    yield _message(lot, 200, role="system")
    yield _message(lot, kind.asked, role="user")
    # Geometric: few are long, and those make most of the requests.
    for number in range(min(300, math.ceil(lot.expovariate(1 / kind.requests)))):
        if kind.is_agent:
            function = {"name": "run", "arguments": "x" * 4 * kind.asked}
            calls = [{"id": f"c{number}", "type": "function", "function": function}]
            yield msgspec.json.encode({"role": "assistant", "tool_calls": calls})
            yield _message(lot, kind.answered, role="tool", tool_call_id=f"c{number}")
        else:
            yield _message(lot, kind.answered, role="assistant")
            yield _message(lot, kind.asked, role="user")


def _message(lot: random.Random, tokens: int, **members: str) -> bytes:
    length = max(1, round(lot.lognormvariate(math.log(tokens), _SCATTER)))
    mark = f"{lot.getrandbits(64):016x} "  # no two are alike
    return msgspec.json.encode({**members, "content": mark + "tok " * length})


def _sent(messages: Sequence[bytes], limit: int) -> list[int]:
    """The places of the messages that are sent."""
    body = b'{"model":"any","messages":[%b]}' % b",".join(messages)
    request, dropped = trimmed(chat.parse(body), History(max_tokens=limit))
    if not dropped:
        return list(range(len(messages)))
    assert isinstance(request, chat.ChatRequest)
    places = {text: place for place, text in enumerate(messages)}
    kept = json.loads(bytes(request.body.members["messages"]))
    return [places[msgspec.json.encode(message)] for message in kept]
