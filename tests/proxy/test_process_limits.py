from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from proxy import process_limits

CODE = (
    "import resource; from proxy import process_limits;"
    "resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
    "process_limits.prepare();"
    "print(*resource.getrlimit(resource.RLIMIT_NOFILE));"
    "print(process_limits.shortage({streams}))"
)


def told(soft: int, hard: int, streams: int) -> list[str]:
    """In a process of its own: a hard limit that was lowered stays so."""
    code = CODE.format(soft=soft, hard=hard, streams=streams)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_as_many_files_may_be_open_as_are_allowed() -> None:
    assert told(64, 500, streams=250) == ["500 500", "None"]


def test_too_few_files_are_told_with_the_remedy() -> None:
    limits, line = told(64, 500, streams=10_000)
    assert limits == "500 500"
    assert "enough for 250 of the 10000 streams of server.max_concurrent" in line
    assert "LimitNOFILE=" in line


def test_a_system_that_names_no_limit_but_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS: the hard limit is infinite, and more than 10,240 at a time are refused."""
    chosen: list[tuple[int, int]] = []

    def setrlimit(kind: int, limits: tuple[int, int]) -> None:
        if kind == resource.RLIMIT_NOFILE:
            if limits[0] == resource.RLIM_INFINITY or limits[0] > 10_240:
                raise ValueError("current limit exceeds maximum limit")
            chosen.append(limits)

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    process_limits.prepare()
    assert chosen == [(10_240, resource.RLIM_INFINITY)]
