"""Checks in a process of their own: fast, bounded, and begun anew where one was killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import psutil
import pytest

from proxy.ensembles.checking import Checking
from proxy.swaps.core import Check


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_one_process_answers_one_check_after_another() -> None:
    async def ask() -> None:
        checking = Checking()
        before = _children()
        numbers = Check(prompt="x", matches="^[0-9]+$")
        assert await checking.problem(numbers, "42") is None
        (child,) = _children() - before
        assert "does not match" in str(await checking.problem(numbers, "four"))
        together = await asyncio.gather(*(checking.problem(numbers, str(i)) for i in range(20)))
        assert together == [None] * 20
        assert _children() - before == {child}
        psutil.Process(child).kill()
        psutil.wait_procs([psutil.Process(child)] if psutil.pid_exists(child) else [], timeout=10)
        assert "ended" in str(await checking.problem(numbers, "42"))
        assert await checking.problem(numbers, "42") is None
        await checking.aclose()

    asyncio.run(ask())


def test_what_never_ends_is_killed_and_the_next_check_works() -> None:
    async def ask() -> None:
        checking = Checking(limit_s=0.5)
        for_ever = Check(prompt="x", matches="^(a+)+$")
        assert "could not be told within 0.5 s" in str(
            await checking.problem(for_ever, "a" * 40 + "!")
        )
        await checking.aclose()
        checking = Checking(limit_s=20)
        assert await checking.problem(for_ever, "aaa") is None
        await checking.aclose()

    asyncio.run(ask())


def test_who_stops_waiting_gets_nobody_elses_answer() -> None:
    async def ask() -> None:
        checking = Checking(limit_s=20)
        for_ever = asyncio.create_task(
            checking.problem(Check(prompt="x", matches="^(a+)+$"), "a" * 40 + "!")
        )
        assert await asyncio.wait([for_ever], timeout=0.5) == (set(), {for_ever})
        for_ever.cancel()
        with pytest.raises(asyncio.CancelledError):
            await for_ever
        assert await checking.problem(Check(prompt="x", matches="b"), "b") is None
        await checking.aclose()

    asyncio.run(ask())


def test_what_schemas_need_is_there_before_the_time_of_a_check_begins() -> None:
    pytest.importorskip("jsonschema")
    script = (
        "import io, sys\n"
        "from proxy.ensembles.checking import _check_all\n"
        "class Told(io.BytesIO):\n"
        "    def write(self, data): print('jsonschema' in sys.modules)\n"
        "_check_all(io.BytesIO(), Told())\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout.split() == ["True"], found.stderr
