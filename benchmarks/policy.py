"""What a decision costs: microseconds of CPU from a parsed request to its route, by policy."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.results import percentile
from proxy import config_file, serve
from proxy.auth import ANONYMOUS
from proxy.circuits import Circuits
from proxy.clock import SystemClock
from proxy.figures import Figures
from proxy.price_book import PriceBook
from proxy.pricing import Usage
from proxy.routing import Router
from proxy.wire import chat
from proxy.wishes import NO_WISHES

_TARGETS = 6
_POLICIES: dict[str, Any] = {
    "ordered": "ordered",
    "cheapest": "cheapest",
    "balanced": {"name": "balanced", "sticky": True},
    "weighted": "weighted",
}
_TEXT = "Refactor the parser so that every error names its line; then explain the trade-offs. "
_BYTES = (100, 2_000, 100_000)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The cost of decisions by one policy on prompts of one size."""

    policy: str
    prompt_bytes: int
    p50_us: float
    p99_us: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def policy(folder: Path, *, decisions: int) -> list[Row]:
    """Measure each policy on each size, in this process; a decision's id is part of it."""
    router = _router(folder)
    return [_measured(router, name, size, decisions) for name in _POLICIES for size in _BYTES]


def _measured(router: Router, name: str, size: int, decisions: int) -> Row:
    content = (_TEXT * (size // len(_TEXT) + 1))[:size]
    body = {"model": name, "messages": [{"role": "user", "content": content}]}
    request = chat.parse(json.dumps(body).encode())
    took = []
    for _ in range(decisions):
        began = time.thread_time_ns()
        decision = router.decide(router.find(ANONYMOUS, name), request, NO_WISHES, budget_left=0.8)
        assert decision.id
        took.append((time.thread_time_ns() - began) / 1e3)
        router.take_turn()
    return Row(
        policy=name,
        prompt_bytes=size,
        p50_us=round(percentile(took, 50), 1),
        p99_us=round(percentile(took, 99), 1),
    )


def _router(folder: Path) -> Router:
    """Six targets with figures that were measured."""
    names = [f"up/m{i}" for i in range(_TARGETS)]
    price = {"input": 1, "output": 2}
    config = {
        "providers": {"up": {"base_url": "http://127.0.0.1:9/v1"}},
        "targets": [
            {"target": name, "price": price, "quality": {"general": 0.5, "coding": 0.6}}
            for name in names
        ],
        "models": {
            name: {"targets": names, "policy": settings} for name, settings in _POLICIES.items()
        },
    }
    file = folder / "policy.yaml"
    file.write_text(yaml.safe_dump(config))
    loaded = config_file.load(file, {})
    table = serve.resolve(loaded, {}, PriceBook.load(), looks=False).tables
    figures = Figures(SystemClock())
    for target in table().targets.values():
        figures.began(target)
        figures.ended(
            target,
            outcome="ok",
            status=200,
            usage=Usage(input_tokens=10, output_tokens=50),
            first_token_s=0.3,
            total_s=1.0,
        )
    clock = SystemClock()
    return Router(
        table=table,
        figures=figures,
        circuits=Circuits(loaded.circuit, clock),
        secret=b"benchmark",
        clock=clock,
    )
