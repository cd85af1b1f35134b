"""Where figures come from: the machine, the versions, the revision."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import proc
from benchmarks.subjects import ROOT, nginx_program

_PACKAGES = ("uvicorn", "uvloop", "httptools", "msgspec", "starlette", "prometheus-client")


def describe(folder: Path) -> dict[str, Any]:
    """The machine that measures; `folder` is where the ledgers are written."""
    cpu = proc.first_line_value(Path("/proc/cpuinfo").read_text().splitlines(), "model name")
    memory = proc.first_line_value(Path("/proc/meminfo").read_text().splitlines(), "MemTotal")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory.split()[0]) / 2**20),
        "kernel": platform.release().partition("-")[0],
        "architecture": platform.machine(),
        "filesystem": proc.filesystem_of(folder),
    }


def versions(litellm: Path | None) -> dict[str, str]:
    """What takes part; `litellm` is the program, if there is one."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    found |= {name: metadata.version(name) for name in _PACKAGES}
    program = nginx_program()
    if program is not None:
        said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False)
        found["nginx"] = said.stderr.strip().rpartition("/")[2]
    if litellm is not None and (python := litellm.with_name("python")).exists():
        ask = "from importlib import metadata; print(metadata.version('litellm'))"
        said = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
        found["litellm"] = said.stdout.strip()
    return found


def revision() -> str:
    """The commit that was measured, with a `+` where files differ from it."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    return f"{commit}{'+' if _git('status', '--porcelain') else ''}" if commit else "unknown"


def slug(machine: dict[str, Any]) -> str:
    """The machine's name in file names."""
    name = re.sub(r"\(r\)|\(tm\)|processor|cpu.*", "", machine["cpu"], flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", f"{name} {machine['cores']} cores".lower()).strip("-")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""
