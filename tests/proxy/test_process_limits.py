from __future__ import annotations

import platform
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


LARGE_BLOCKS = """
from pathlib import Path
from proxy import process_limits

def resident_kib():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])

process_limits.prepare()
bytearray(6 << 20)  # the first to be freed is what glibc goes by
before = resident_kib()
large, small = [], []
for _ in range(8):  # what stays is between what goes
    large.append(b"x" * (5 << 20))
    small.append(b"y" * (64 << 10))
held = resident_kib()
large.clear()
print(held - before, resident_kib() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries know no mallopt")
def test_the_memory_of_large_bodies_is_given_back() -> None:
    code = [sys.executable, "-c", LARGE_BLOCKS]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    held_kib, kept_kib = map(int, done.stdout.split())
    assert held_kib > 8 * 5 << 10
    assert kept_kib < 5 << 10
