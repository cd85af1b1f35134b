"""What each feature of `router.yaml` costs a request: a server without it and one with, in turns.

CPU time is all processes', and as quiet as the machine is: the first row, whose second server has
nothing that the first has not, says how far to trust the others. Steps of Python's interpreter, of
worker and ledger, hardly vary; what is written in C counts in them as the call of it alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks import measure
from benchmarks.measure import Bench
from benchmarks.steps import steps_of
from benchmarks.subjects import (
    Tollway,
    create_key,
    free_port,
    serve,
    wait_for_answer,
    write_config,
)
from benchmarks.workloads import PROVIDER_KEY, Workload, all_workloads, dialect_workloads

Json = dict[str, Any]

_RESPONSES = "responses-openai-json"
_COUNTED = ("worker", "ledger")
_FEW = 4
_EVERY = "*"
# More than any of the turns needs, so that nothing is refused.
_MANY = 1_000_000_000
_WEBHOOK = {"url": "http://127.0.0.1:9/", "secret": PROVIDER_KEY}


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """What turns a feature on.

    `config` is laid over `router.yaml`: mappings are merged, of which `"*"` stands for every entry
    that is there, and lists are appended. `asks` are fields of the request, `key` options of
    `tollway keys create`.
    """

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    workload: str = "json"
    asks: Mapping[str, Any] = field(default_factory=dict)
    key: Sequence[str] = ()


def _models(**settings: Any) -> Json:
    return {"models": {_EVERY: settings}}


def _providers(**settings: Any) -> Json:
    return {"providers": {_EVERY: settings}}


def _budgets(*scopes: Any) -> Json:
    return {"budgets": [{"scope": scope, "limit_usd": 1_000_000} for scope in scopes]}


FEATURES = (
    Feature(name="nothing: the same once more"),
    Feature(name="`access_log`", config={"server": {"access_log": True}}),
    Feature(name="`logging.requests`", config={"logging": {"requests": True}}),
    Feature(
        name="`logging.requests` with `prompts`",
        config={"logging": {"requests": True, "prompts": True}},
    ),
    Feature(name="policy `ordered` for `cheapest`", config=_models(policy="ordered")),
    Feature(name="policy `balanced` for `cheapest`", config=_models(policy="balanced")),
    Feature(name="policy `weighted` for `cheapest`", config=_models(policy="weighted")),
    Feature(name="policy `learned` for `cheapest`", config=_models(policy="learned")),
    Feature(
        name="`rules`, three, of which one holds",
        config={
            "rules": [
                {
                    "name": "nightly",
                    "when": {"scopes": ["tag:nightly"]},
                    "targets": ["far-openai/json"],
                },
                {
                    "name": "poems",
                    "when": {"tasks": ["creative"]},
                    "constraints": {"min_reliability": 0.5},
                },
                {
                    "name": "all",
                    "when": {"models": ["json"]},
                    "constraints": {"max_latency_ms": 9e6},
                },
            ]
        },
    ),
    Feature(
        name="`constraints`",
        config=_models(constraints={"max_cost_per_request": 1, "min_reliability": 0.01}),
    ),
    Feature(name="`history`", config=_models(history={"max_tokens": 8_000})),
    Feature(
        name="`downgrade`",
        config=_models(downgrade=[{"at_percent": 90, "targets": ["near-openai/json"]}]),
    ),
    Feature(name="`hedge`", config=_models(hedge={})),
    Feature(name="`deadlines`", config=_models(deadlines={"whole_s": 600, "first_token_s": 300})),
    Feature(name="`adaptive` room", config=_providers(adaptive={"first": 1_000})),
    Feature(
        name="`api_keys`, two",
        config=_providers(api_key=None, api_keys=[PROVIDER_KEY, f"{PROVIDER_KEY}2"]),
    ),
    Feature(
        name="`limits` of targets and providers",
        config={
            "targets": {_EVERY: {"limits": {"requests_per_minute": _MANY}}},
            **_providers(limits={"tokens_per_minute": _MANY}),
        },
    ),
    Feature(
        name="rates of the key: requests, tokens, concurrent",
        key=("--rpm", str(_MANY), "--tpm", str(_MANY), "--concurrent", "1000"),
    ),
    Feature(
        name="budgets: five scopes for two",
        config=_budgets("model:*", "target:*", "provider:*"),
    ),
    Feature(
        name="budgets by end user and tag",
        config=_budgets("user:*", "tag:*"),
        asks={"user": "u_42", "metadata": {"tags": "nightly"}},
    ),
    Feature(name="`alerts` to a webhook", config={"alerts": {"webhooks": [_WEBHOOK]}}),
    Feature(name="`synchronous: NORMAL`", config={"server": {"synchronous": "NORMAL"}}),
    Feature(
        name="a stream with `continuation`",
        config=_models(continuation=True),
        workload="stream-20",
    ),
    Feature(
        name="a stream that is metered (`meterable`), held in slices",
        config=_providers(meterable=True),
        workload="stream-20",
    ),
    Feature(
        name="a response that is kept (`store`), for one that is not",
        workload=_RESPONSES,
        asks={"store": True},
    ),
)


@dataclass(kw_only=True)
class Cost:
    """A request with the feature and one without, a value per turn; steps are of the quietest."""

    name: str
    workload: str
    off_steps: int
    on_steps: int
    off_us: list[float] = field(default_factory=list)
    on_us: list[float] = field(default_factory=list)

    def as_json(self) -> Json:
        """The medians; the difference is that of the two servers within each turn."""
        more = [on - off for off, on in zip(self.off_us, self.on_us, strict=True)]
        return {
            "name": self.name,
            "workload": self.workload,
            "off_us": round(statistics.median(self.off_us), 1),
            "on_us": round(statistics.median(self.on_us), 1),
            "more_us": round(statistics.median(more), 1),
            "more_us_turns": [round(value, 1) for value in more],
            "off_steps": self.off_steps,
            "more_steps": self.on_steps - self.off_steps,
        }


def features(bench: Bench, *, quick: bool, chosen: Sequence[Feature] = FEATURES) -> list[Cost]:
    """Measure each by itself, saturated; a few of them where it has to be quick."""
    chosen = chosen[:_FEW] if quick else chosen
    workloads = _workloads()
    plain = Feature(name="without")
    found = []
    with _serving(bench, "without", plain) as without:
        steps = {name: _steps(bench, plain, name) for name in {each.workload for each in chosen}}
        for number, feature in enumerate(chosen):
            bench.progress(f"features: {feature.name}")
            off, on = workloads[feature.workload], _asked(workloads[feature.workload], feature)
            cost = Cost(
                name=feature.name,
                workload=feature.workload,
                off_steps=steps[feature.workload],
                on_steps=_steps(bench, feature, feature.workload),
            )
            with _serving(bench, f"feature-{number}", feature) as subject:
                for _ in range(bench.effort.turns):
                    cost.off_us.append(_cpu_us(bench, without, off))
                    cost.on_us.append(_cpu_us(bench, subject, on))
                _check(bench, subject)
            found.append(cost)
        _check(bench, without)
    return found


def configured(file: Path, feature: Feature) -> None:
    """Lay what turns the feature on over the `router.yaml` in `file`."""
    config = _laid_over(yaml.safe_load(file.read_text()), feature.config)
    file.write_text(yaml.safe_dump(config, sort_keys=False))


def _laid_over(below: Any, above: Any) -> Any:
    if isinstance(below, list) and isinstance(above, Mapping):
        return [_laid_over(each, above[_EVERY]) for each in below]
    if isinstance(below, list) and isinstance(above, list):
        return below + above
    if not isinstance(below, dict) or not isinstance(above, Mapping):
        return above
    laid = dict(below)
    for key, value in above.items():
        for name in below if key == _EVERY else (key,):
            laid[name] = _laid_over(below.get(name), value)
    return {key: value for key, value in laid.items() if value is not None}


def _workloads() -> Mapping[str, Workload]:
    every = {**all_workloads(), **dialect_workloads()}
    return {name: every[name] for name in ("json", "stream-20", _RESPONSES)}


def _asked(workload: Workload, feature: Feature) -> Workload:
    body = json.dumps(json.loads(workload.body) | feature.asks).encode()
    return dataclasses.replace(workload, body=body)


def _set_up(bench: Bench, name: str, feature: Feature) -> tuple[Path, Path, str]:
    """The configuration, the data folder and the key of a server that has the feature."""
    folder = bench.folder / name
    config = write_config(folder, bench.upstream_port, access_log=False, workloads=_workloads())
    configured(config, feature)
    data = folder / "data"
    return config, data, create_key(config, data, *feature.key)


@contextlib.contextmanager
def _serving(bench: Bench, name: str, feature: Feature) -> Iterator[Tollway]:
    config, data, key = _set_up(bench, name, feature)
    port = free_port()
    with serve(data, port, config.parent / "output", config=config) as process:
        wait_for_answer(process, port, key)
        yield Tollway(name=name, port=port, pid=process.pid, key=key, data=data)


def _cpu_us(bench: Bench, subject: Tollway, workload: Workload) -> float:
    seconds = bench.effort.saturated_s / 2
    report, spent = bench.turn(subject, workload, "saturate", seconds=seconds)
    return sum(spent.values()) / report.requests / 1e3


def _check(bench: Bench, subject: Tollway) -> None:
    measure.check_records(bench, subject)
    del bench.sent[subject.name]


def _steps(bench: Bench, feature: Feature, name: str) -> int:
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        config, data, key = _set_up(bench, folder, feature)
        workload = _asked(_workloads()[name], feature)
        return steps_of(config, data, key, [workload], roles=_COUNTED)[name]
