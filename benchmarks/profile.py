"""Where the time goes: the functions of a worker and of the ledger while they are saturated.

py-spy looks at the running processes from outside, so the product is as it always is but for the
moments in which it is stopped to be looked at. What is written in C counts for the Python function
that called it: the loop's own work, sockets and timers, for `Runner.run`. What waits counts not.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.measure import Bench
from benchmarks.subjects import Tollway, tollway

SUFFIX = ".profile.txt"
WORKLOADS = {
    "json": "json",
    "stream": "stream-20",
    "embeddings": "embeddings",
    "events, one by one": "stream-520-paced",
}

_PROCESSES = ("worker", "ledger")
_SAMPLES_PER_S = 200
_SECONDS, _FEW_SECONDS = 5, 1
# py-spy reads the process' memory before it begins: the load lasts as much longer.
_ATTACHING_S = 2.0
_PATIENCE_S = 60.0
_SHOWN = 20
# What is around it is the way from the command line to it.
_LOOP = "Runner.run (asyncio/runners.py:"
# A pool's thread that waits for work: py-spy does not see that it sleeps.
_WAITING = "_worker (concurrent/futures/thread.py:"


class CannotLook(Exception):
    """The system does not let py-spy look at processes, with what it said."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One process under one load: shares of its samples by function, from 0 to 1.

    `own` is what runs in the function itself, `total` in what it calls too.
    """

    workload: str
    process: str
    samples: int
    own: Mapping[str, float]
    total: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def program() -> Path | None:
    """py-spy: beside this Python, or on the PATH."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    return Path(found) if found else None


def profile(bench: Bench, py_spy: Path, *, quick: bool) -> list[Profile]:
    """Profile a server of its own under each workload. Raises `CannotLook`."""
    seconds = _FEW_SECONDS if quick else _SECONDS
    found = []
    with tollway(bench.folder / "profile", bench.upstream_port, access_log=False) as subject:
        for name, model in WORKLOADS.items():
            bench.progress(f"profile: {name}")
            with _looking(bench.folder, py_spy, subject, seconds) as stacks:
                bench.turn(subject, model, "saturate", seconds=seconds + _ATTACHING_S)
            found += [folded(name, process, file.read_text()) for process, file in stacks.items()]
        measure.check_records(bench, subject)
    del bench.sent[subject.name]
    return found


def folded(workload: str, process: str, stacks: str) -> Profile:
    """A profile of py-spy's raw output: a stack a line, outermost first, and its samples."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    samples = 0
    for line in stacks.splitlines():
        stack, _, number = line.rpartition(" ")
        functions = _within_loop(stack.split(";"))
        if functions[-1].startswith(_WAITING):
            continue
        samples += int(number)
        own[functions[-1]] += int(number)
        # A function that calls itself is in a stack once.
        for function in set(functions):
            total[function] += int(number)
    return Profile(
        workload=workload,
        process=process,
        samples=samples,
        own=_shares(own, samples),
        total=_shares(total, samples),
    )


def _within_loop(functions: Sequence[str]) -> Sequence[str]:
    """What the event loop called, and it; the whole stack where there is none."""
    for index, function in enumerate(functions):
        if function.startswith(_LOOP):
            return functions[index:]
    return functions


def as_text(results: Mapping[str, Any]) -> str:
    """All profiles of the results as text, to be kept beside them."""
    lines = [
        f"Profile of {results['date'][:10]} at revision {results['revision']}: "
        f"shares of the samples that py-spy took of a process while it was saturated."
    ]
    for row in results["profile"]:
        lines += ["", f"{row['workload']}, {row['process']}: {row['samples']:,} samples"]
        for kind in ("own", "total"):
            lines += ["", f"  {kind} time"]
            lines += [f"  {share:6.1%}  {function}" for function, share in row[kind].items()]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def _looking(
    folder: Path, py_spy: Path, subject: Tollway, seconds: int
) -> Iterator[Mapping[str, Path]]:
    """py-spy looks while the context lasts; afterwards its stacks are in files by the process."""
    stacks = {name: folder / f"{name}.stacks" for name in _PROCESSES}
    running = [
        subprocess.Popen(
            _command(py_spy, pid, seconds, stacks[role]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for pid, role in subject.roles().items()
        if role in stacks
    ]
    try:
        yield stacks
        for process in running:
            _, said = process.communicate(timeout=_PATIENCE_S)
            if process.returncode:
                raise CannotLook(said.strip() or f"exit code {process.returncode}")
    finally:
        for process in running:
            process.kill()
            process.communicate()


def _command(py_spy: Path, pid: int, seconds: int, output: Path) -> Sequence[str]:
    return [
        *(str(py_spy), "record", "--pid", str(pid), "--function", "--format", "raw"),
        *("--rate", str(_SAMPLES_PER_S), "--duration", str(seconds), "--output", str(output)),
    ]


def _shares(counts: Counter[str], samples: int) -> Mapping[str, float]:
    return {name: round(n / samples, 4) for name, n in counts.most_common(_SHOWN)}
