"""What passes a check, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import InvalidRequest
from proxy.swaps.checks import Answered, problem_of, verdict
from proxy.swaps.core import Check, Plan
from proxy.swaps.orders import NewCheck


@pytest.mark.parametrize(
    ("check", "answered", "problem"),
    [
        ({}, {"text": ""}, None),
        ({}, {"problem": "up/new cannot be reached"}, "up/new cannot be reached"),
        ({"contains": ("a", "b")}, {"text": "ab"}, None),
        ({"contains": ("a", "b")}, {"text": "a"}, "'b' is not in the answer 'a'"),
        ({"matches": "^[0-9]+$"}, {"text": "42"}, None),
        ({"matches": "^[0-9]+$"}, {"text": "4 2"}, "'^[0-9]+$' does not match the answer '4 2'"),
        ({"json": True}, {"text": " [1] "}, None),
        ({"json": True}, {"text": "{"}, "the answer '{' is no JSON: Input data was truncated"),
        ({"max_latency_ms": 5}, {"latency_ms": 5}, None),
        ({"max_latency_ms": 5}, {"latency_ms": 6}, "the answer took 6 ms; at most 5 ms may"),
        ({"max_cost_nanousd": 5}, {"cost_nanousd": 5}, None),
        (
            {"max_cost_nanousd": 10**6},
            {"cost_nanousd": 2 * 10**6},
            "the answer cost $0.002; at most $0.001 may",
        ),
    ],
)
def test_each_expectation(
    check: dict[str, Any], answered: dict[str, Any], problem: str | None
) -> None:
    assert problem_of(Check(prompt="x", **check), Answered(**answered)) == problem


def test_a_schema() -> None:
    pytest.importorskip("jsonschema")
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    check = Check(prompt="x", json_schema=schema)
    assert problem_of(check, Answered(text='{"a": 1}')) is None
    for text, words in (
        ('{"a": "1"}', "$.a: '1' is not of type 'integer'"),
        ("{}", "'a' is a required property"),
        ("none", "is no JSON"),
    ):
        assert words in (problem_of(check, Answered(text=text)) or "")
    away = Check(prompt="x", json_schema={"$ref": "https://example.com/schema"})
    assert "refers to what is not in it" in (problem_of(away, Answered(text="1")) or "")


def test_as_many_must_pass_as_are_asked_for() -> None:
    plan = Plan(name="auto", source="a", target="b", checks=(Check(prompt="x"),) * 3)
    assert verdict(plan, [None, None, None]) is None
    assert verdict(plan, [None, "bad", "worse"]) == (
        "1 of 3 checks passed, 3 must: check 2: bad; check 3: worse"
    )
    lenient = Plan(name="auto", source="a", target="b", checks=plan.checks, passing=1)
    assert verdict(lenient, [None, "bad", "worse"]) is None
    assert verdict(Plan(name="auto", source="a", target="b"), []) is None


def test_a_check_that_cannot_be_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="is no regular expression") as pattern:
        NewCheck(prompt="x", matches="(").check("checks[2]")
    assert pattern.value.param == "checks[2].matches"
    for unending in ("a{99999999999999}", "(" * 3000 + ")" * 3000):
        with pytest.raises(InvalidRequest, match="is no regular expression"):
            NewCheck(prompt="x", matches=unending).check("checks[0]")
    with pytest.raises(InvalidRequest, match="max_cost_usd"):
        NewCheck(prompt="x", max_cost_usd="much").check("checks[0]")
    pytest.importorskip("jsonschema")
    with pytest.raises(InvalidRequest, match="is no JSON Schema"):
        NewCheck(prompt="x", json_schema={"type": "word"}).check("checks[0]")
    deep: dict[str, Any] = {}
    for _ in range(2000):
        deep = {"not": deep}
    with pytest.raises(InvalidRequest, match="is nested too deeply"):
        NewCheck(prompt="x", json_schema=deep).check("checks[0]")
