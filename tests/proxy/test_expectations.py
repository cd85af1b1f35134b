"""Rules in `router.yaml`, and what `tollway check` says of what is expected of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy import config_file, serve
from proxy.clock import SystemClock
from proxy.errors import StartError
from proxy.expectations import unmet
from proxy.price_book import PriceBook

CONFIG: dict[str, Any] = {
    "providers": {"up": {"base_url": "http://127.0.0.1:9/v1"}},
    "targets": [
        {
            "target": f"up/{name}",
            "price": {"input": usd, "output": usd},
            "context_length": 1000,
            "quality": {"general": quality},
            "region": region,
        }
        for name, usd, quality, region in (
            ("strong", 10, 0.9, "us"), ("fair", 2, 0.7, "eu"), ("weak", 1, 0.5, "us"),
        )
    ],
    "models": {
        "auto": {
            "targets": ["up/strong", "up/weak"],
            "policy": {"name": "weighted", "weights": {"quality": 1}},
        },
        "listed": {"targets": ["up/strong", "up/fair", "up/weak"]},
    },
    "rules": [
        {"name": "nights", "when": {"hours": "22:00-06:00"}, "constraints": {"max_input_price": 5}},
        {"name": "batches", "when": {"scopes": ["tag:batch"]}, "weights": {"cost": 1}},
        {
            "name": "europeans",
            "when": {"scopes": ["team:eu"], "models": ["auto"]},
            "targets": ["up/fair"],
            "constraints": {"regions": ["eu"]},
        },
        {"name": "poems", "when": {"tasks": ["creative"]}, "weights": {"cost": 1}},
        {"name": "poor", "when": {"budget_left": 0.1}, "constraints": {"max_input_price": 1}},
    ],
}  # fmt: skip
NOON, NIGHT = "2026-11-20T12:00:00Z", "2026-11-20T23:00:00Z"
MET: list[dict[str, Any]] = [
    {"ask": "Hello", "at": NOON, "target": "up/strong", "rules": []},
    {"ask": "Hello", "at": NIGHT, "target": "up/weak", "rules": ["nights"]},
    {"ask": "Hello", "at": NOON, "scopes": ["tag:batch"], "target": "up/weak"},
    {"ask": "Write a poem about snow", "at": NOON, "target": "*/weak", "rules": ["poems"]},
    {"ask": "Hello", "at": NOON, "scopes": ["team:eu"], "target": "up/fair"},
    {"ask": "Hello", "at": NIGHT, "scopes": ["team:eu"], "rules": ["nights", "europeans"]},
    {"ask": "Hello", "at": NOON, "budget_left": 0.1, "target": "up/weak"},
    {"ask": "Hello", "at": NOON, "budget_left": 0.2, "model": "listed", "target": "up/strong"},
    # A policy that takes no weights is not told any, and the limits hold for it all the same.
    {"ask": "Hello", "at": NOON, "model": "listed", "scopes": ["tag:batch"], "target": "up/strong"},
    {"ask": "Hello", "at": NIGHT, "model": "listed", "target": "up/fair"},
    {"ask": "Hello", "at": NOON, "input_tokens": 2000, "refused": True},
]


def _file(folder: Path, **changes: Any) -> Path:
    file = folder / "router.yaml"
    file.write_text(yaml.safe_dump({**CONFIG, **changes}))
    return file


def _unmet(folder: Path, expected: list[dict[str, Any]]) -> list[str]:
    loaded = config_file.load(_file(folder, expect=expected), {})
    table = serve.resolve(loaded, {}, PriceBook.load(), looks=False).tables
    return unmet(loaded.expect, table, SystemClock())


def test_rules_decide_as_expected(tmp_path: Path) -> None:
    assert _unmet(tmp_path, MET) == []


def test_what_is_not_as_expected_is_told(tmp_path: Path) -> None:
    wrong = [
        {"ask": "Hello", "at": NOON, "target": "up/weak"},
        {"ask": "Hello", "at": NIGHT, "rules": ["poems"]},
        {"ask": "Hello", "at": NOON, "refused": True},
        {"ask": "Hello", "at": NOON, "input_tokens": 2000, "target": "up/weak"},
        {"ask": "Hello", "model": "nobody", "target": "up/weak"},
        MET[0],
    ]
    first, second, third, fourth, fifth = _unmet(tmp_path, wrong)
    assert first.startswith("expect[0]: 'Hello' goes to up/strong (score")
    assert second == "expect[1]: 'Hello' has the rules nights, not poems"
    assert "is not refused but goes to up/strong" in third
    assert "is refused: up/strong: about 2000 tokens" in fourth
    assert "is refused: the model 'nobody'" in fifth


@pytest.mark.parametrize(
    ("rule", "place", "problem"),
    [
        ({}, "rules[0]", "does nothing"),
        ({"targets": []}, "rules[0].targets", "is empty"),
        ({"targets": ["up/none"]}, "rules[0].targets[0]", "no target 'up/none'"),
        ({"targets": ["up/weak"], "when": {"models": ["x"]}}, "rules[0].when.models", "no model"),
        ({"targets": ["up/weak"], "when": {"scopes": ["teem:x"]}}, "rules[0].when.scopes", "teem"),
        ({"targets": ["up/weak"], "when": {"timezone": "x"}}, "rules[0].when.timezone", "x"),
        ({"targets": ["up/weak"], "when": {"hour": "x"}}, "rules[0].when.hour", "no setting"),
        (
            {"weights": {"cost": 1}, "when": {"models": ["listed"]}},
            "rules[0].weights",
            "policy takes weights",
        ),
    ],
)
def test_rules_that_mean_nothing_are_refused(
    tmp_path: Path, rule: dict[str, Any], place: str, problem: str
) -> None:
    with pytest.raises(StartError) as error:
        config_file.load(_file(tmp_path, rules=[{"name": "r", **rule}]), {})
    assert f" {place}: " in str(error.value)
    assert problem in str(error.value)


def test_a_mistake_in_a_policy_is_told_before_its_rules_are_looked_at(tmp_path: Path) -> None:
    models = {"auto": {"targets": ["up/weak"], "policy": {"name": "weighted", "weight": 1}}}
    with pytest.raises(StartError, match=r" models\.auto\.policy\.weight: is no setting"):
        config_file.load(_file(tmp_path, models=models), {})


@pytest.mark.parametrize(
    ("expected", "place"),
    [
        ({}, "expect[0]"),
        ({"rules": ["none"]}, "expect[0].rules[0]"),
        ({"target": "x", "refused": True}, "expect[0].refused"),
        ({"target": "x", "at": "noon"}, "expect[0].at"),
    ],
)
def test_expectations_that_mean_nothing_are_refused(
    tmp_path: Path, expected: dict[str, Any], place: str
) -> None:
    with pytest.raises(StartError) as error:
        config_file.load(_file(tmp_path, expect=[{"ask": "Hello", **expected}]), {})
    assert f" {place}: " in str(error.value)


@pytest.mark.parametrize(("target", "status"), [("up/strong", 0), ("up/weak", 2)])
def test_check_asks_them(tmp_path: Path, target: str, status: int) -> None:
    file = _file(tmp_path, expect=[{"ask": "Hello", "at": NOON, "target": target}])
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "check", str(file)],
        capture_output=True, text=True, check=False, timeout=120,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert ("expect: 1 of 1 are not met" in done.stderr) is bool(status)
