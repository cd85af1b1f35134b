"""What is published of results: who was there has a column, what was measured a table."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import publish
from benchmarks.subjects import ROOT

_KEPT = ROOT / "benchmarks" / "results" / "2026-11-21-amd-epyc-2-cores.json"


@pytest.fixture
def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_KEPT.read_text())
    return found


def _table(text: str, title: str) -> list[list[str]]:
    """The cells of the table that a title has."""
    lines = text[text.index(title) :].split("\n\n")[1].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_litellm_has_a_column_where_it_was_measured(results: dict[str, Any]) -> None:
    results["versions"]["litellm"] = "1.2.3"
    results["loads"].append(
        {"workload": "json", "load": "saturated", "subject": "LiteLLM", "cpu_ms": 24.6}
    )
    text = publish.figures(results, "benchmarks/results/x.json")
    assert "LiteLLM 1.2.3" in text
    saturated = _table(text, "CPU milliseconds per request, 32 connections")
    assert (saturated[0][-1], saturated[2][-1], saturated[3][-1]) == ("LiteLLM", "24.60", "")
    assert "LiteLLM" not in _table(text, "CPU milliseconds per request, 200")[0]
    assert "LiteLLM 24.60" in text[: text.index("CPU milliseconds")]


def test_features_have_a_line_each(results: dict[str, Any]) -> None:
    assert "turning a feature on" not in publish.figures(results, "x.json")
    results["features"] = [
        {
            "name": name,
            "workload": "json",
            "off_us": 230.0,
            "on_us": 242.0,
            "more_us": more,
            "more_us_turns": [more - 2, more, more + 3],
            "off_steps": 16_900,
            "more_steps": steps,
        }
        for name, more, steps in (("nothing", -0.2, -3), ("`hedge`", 12.4, 2_500))
    ]
    text = publish.figures(results, "x.json")
    assert "a JSON answer has 16,900" in text
    assert _table(text, "What turning a feature on")[2:] == [
        ["nothing", "-0 µs", "-2 to +3", "-3"],
        ["`hedge`", "+12 µs", "+10 to +15", "+2,500"],
    ]
