"""The local models as metrics, read from the model host when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxy.model_host.protocol import ModelState, Shown

_OF_MODELS: tuple[tuple[str, str, Callable[[ModelState], float]], ...] = (
    ("loaded", "Whether a local model is loaded.", lambda m: m.state == "loaded"),
    ("bytes", "Memory that a local model takes.", lambda m: m.bytes if m.is_there else 0),
    ("gpu_bytes", "GPU memory that it takes.", lambda m: m.gpu_bytes if m.is_there else 0),
    ("users", "Requests that it answers now.", lambda m: m.users),
    ("waiting", "Requests that wait for it.", lambda m: m.waiting),
    ("tokens_per_second", "Output tokens of its latest answers.", lambda m: m.tokens_per_s),
)


def exposition(shown: Shown) -> bytes:
    """In Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Reading(shown))
    return generate_latest(registry)


class _Reading:
    def __init__(self, shown: Shown) -> None:
        self._shown = shown

    def collect(self) -> Iterator[Metric]:
        return families(self._shown)


def families(shown: Shown) -> Iterator[Metric]:
    """Every metric of local models."""
    for name, meaning, value in _OF_MODELS:
        gauge = GaugeMetricFamily(f"tollway_local_{name}", meaning, labels=("target",))
        for model in shown.models:
            gauge.add_metric((model.name,), float(value(model)))
        yield gauge
    loads = CounterMetricFamily(
        "tollway_local_loads", "Loads since the model host began.", labels=("target",)
    )
    for model in shown.models:
        loads.add_metric((model.name,), model.loads)
    yield loads
    budget = GaugeMetricFamily(
        "tollway_local_budget_bytes", "Memory that local models may take.", labels=("memory",)
    )
    budget.add_metric(("main",), shown.memory_bytes)
    budget.add_metric(("gpu",), shown.gpu_memory_bytes)
    yield budget
