"""Answers that are judged in a process of their own."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import Any

import pytest

from proxy.swaps.checks import Answered
from proxy.swaps.core import Check
from proxy.swaps.judging import LIMIT_S, judged

SCHEMA = {"type": "object", "required": ["sure"]}


def judge(text: str, *, limit_s: float = 6 * LIMIT_S, **check: Any) -> str | None:
    answered = Answered(text=text)
    return asyncio.run(judged(Check(prompt="?", **check), answered, limit_s=limit_s))


def test_an_expression_is_looked_for() -> None:
    assert judge("all is wéll", matches="w.ll$") is None
    assert judge("all is well", matches="^ill") == "'^ill' does not match the answer 'all is well'"


@pytest.mark.skipif(find_spec("jsonschema") is None, reason="jsonschema is not installed")
def test_a_schema_is_kept_to() -> None:
    assert judge('{"sure": 1}', json_schema=SCHEMA) is None
    assert "'sure' is a required property" in str(judge("{}", json_schema=SCHEMA))


def test_an_expression_that_never_ends_holds_nobody_up() -> None:
    async def both() -> tuple[str | None, int]:
        check, turns = Check(prompt="?", matches="^(a+)+$"), 0
        asked = asyncio.create_task(judged(check, Answered(text="a" * 60 + "!"), limit_s=2.0))
        while not asked.done():
            await asyncio.sleep(0.05)
            turns += 1
        return asked.result(), turns

    problem, turns = asyncio.run(both())
    assert problem == "whether the answer fits could not be told within 2 s"
    assert turns > 1
