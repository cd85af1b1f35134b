"""The measurements.

Everything that is compared takes turns (A B C A B C …), so that a machine which slows down or
speeds up does so for all of them; each figure is the median over the turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.dialects import PAIRS
from benchmarks.generator import Generator
from benchmarks.load import Order, Report
from benchmarks.results import Dialects, Event, Load, Memory, Start
from benchmarks.subjects import (
    ROOT,
    Subject,
    Tollway,
    create_key,
    free_port,
    serve,
    tollway,
    wait_for,
    wait_for_answer,
    write_config,
)
from benchmarks.workloads import CHUNKS, LONG_CHUNKS, Workload, all_workloads, dialect_workloads

CONNECTIONS = 32
REQUESTS_PER_S = 200
# Settlements ride the next commit or a timer of 20 ms; they belong to the requests before them.
_SETTLED_S = 0.1
_SYNCS_PER_TURN = 50
_PAGE = bytes(4096)


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much to measure."""

    turns: int
    event_turns: int
    saturated_s: float
    rate_s: float
    starts: int
    open_streams: int


FULL = Effort(turns=5, event_turns=3, saturated_s=0.8, rate_s=1.2, starts=5, open_streams=500)
QUICK = Effort(turns=1, event_turns=1, saturated_s=0.3, rate_s=0.5, starts=1, open_streams=50)


@dataclass(kw_only=True)
class Bench:
    """What every measurement needs, and what all of them leave behind."""

    generator: Generator
    effort: Effort
    folder: Path
    upstream_port: int
    progress: Callable[[str], None]
    sent: dict[str, int] = field(default_factory=dict)
    """Requests that each subject has answered, those that warmed it up included."""
    fdatasync_us: list[float] = field(default_factory=list)

    def turn(
        self,
        subject: Subject,
        model: str | Workload,
        mode: Literal["saturate", "rate"],
        *,
        seconds: float,
        warm_s: float = 0.1,
        keys: Sequence[str] = (),
        connections: int = CONNECTIONS,
    ) -> tuple[Report, Mapping[str, int]]:
        """One run of one workload; returns the CPU time by process in ns too.

        The requests are of `keys` in turn, where there are any, else of the subject's own key.
        """
        self.generator.prepare(
            _order(
                subject,
                model,
                mode,
                connections,
                seconds=seconds,
                per_s=REQUESTS_PER_S,
                warm_s=warm_s,
                keys=keys,
            )
        )
        time.sleep(_SETTLED_S)
        before = subject.cpu_ns()
        report = self.generator.run()
        time.sleep(_SETTLED_S)
        after = subject.cpu_ns()
        self.generator.close()
        answered = report.requests + report.warm_requests
        self.sent[subject.name] = self.sent.get(subject.name, 0) + answered
        return report, {role: spent - before.get(role, 0) for role, spent in after.items()}

    def sync_disk(self) -> None:
        """Time some appends to a file beside the ledgers, each made durable.

        They are as far apart as the requests are: back to back, a disk that sleeps looks faster.
        """
        path = self.folder / "synced"
        with path.open("ab", buffering=0) as file:
            for _ in range(_SYNCS_PER_TURN):
                time.sleep(1 / REQUESTS_PER_S)
                began_at = time.perf_counter()
                file.write(_PAGE)
                os.fdatasync(file.fileno())
                self.fdatasync_us.append((time.perf_counter() - began_at) * 1e6)
        path.unlink()


def workload(
    bench: Bench,
    subjects: Sequence[Subject],
    name: str,
    *,
    saturated: str,
    at_rate: str,
    too_slow: Sequence[Subject] = (),
) -> list[Load]:
    """CPU per request and latency of one workload: saturated, and at a fixed rate.

    Those who are `too_slow` for that rate are saturated alone.
    """
    effort = bench.effort
    loads: dict[tuple[str, str], Load] = {}

    def add(
        load: str, subject: Subject, model: str, mode: Literal["saturate", "rate"], seconds: float
    ) -> None:
        bench.progress(f"{name}, {load}: {subject.name}")
        found = loads.setdefault(
            (load, subject.name), Load(workload=name, load=load, subject=subject.name)
        )
        found.add(*bench.turn(subject, model, mode, seconds=seconds))

    for _ in range(effort.turns):
        bench.sync_disk()
        for subject in (*subjects, *too_slow):
            add("saturated", subject, saturated, "saturate", effort.saturated_s)
        for subject in subjects:
            add(f"{REQUESTS_PER_S}/s", subject, at_rate, "rate", effort.rate_s)
    return list(loads.values())


def events(bench: Bench, subjects: Sequence[Subject]) -> list[Event]:
    """CPU per streamed event: what 500 more of them add to a stream, divided by 500."""
    found: dict[tuple[str, str], Event] = {}
    for _ in range(bench.effort.event_turns):
        for arriving, suffix in (
            ("one by one", "-paced"),
            ("all at once", "-at-once"),
        ):
            for subject in subjects:
                bench.progress(f"events, {arriving}: {subject.name}")
                short, long = (
                    _cpu_us_per_stream(bench, subject, f"stream-{chunks}{suffix}")
                    for chunks in (CHUNKS, LONG_CHUNKS)
                )
                event = found.setdefault(
                    (arriving, subject.name), Event(arriving=arriving, subject=subject.name)
                )
                event.cpu_us.append((long - short) / (LONG_CHUNKS - CHUNKS))
    return list(found.values())


def dialects(bench: Bench, subject: Subject) -> list[Dialects]:
    """CPU per request and per streamed event, for each pair of a client and a provider."""
    found = {pair: Dialects(client=pair.client, provider=pair.provider) for pair in PAIRS}
    seconds = bench.effort.saturated_s / 2
    for _ in range(bench.effort.event_turns):
        for pair, row in found.items():
            bench.progress(f"dialects: {pair.client} answered by {pair.provider}")
            for kind, costs in (("json", row.json_ms), ("stream-20", row.stream_ms)):
                model = f"{pair.name}-{kind}"
                report, spent = bench.turn(subject, model, "saturate", seconds=seconds)
                costs.append(sum(spent.values()) / report.requests / 1e6)
            for suffix, costs in (("paced", row.paced_us), ("at-once", row.at_once_us)):
                short, long = (
                    _cpu_us_per_stream(bench, subject, f"{pair.name}-stream-{chunks}-{suffix}")
                    for chunks in (CHUNKS, LONG_CHUNKS)
                )
                costs.append((long - short) / (LONG_CHUNKS - CHUNKS))
    return list(found.values())


def _cpu_us_per_stream(bench: Bench, subject: Subject, model: str) -> float:
    # Without warming up: a paced stream takes as long as its events do.
    report, spent = bench.turn(
        subject, model, "saturate", seconds=bench.effort.saturated_s / 2, warm_s=0
    )
    return sum(spent.values()) / report.requests / 1e3


def start(bench: Bench) -> Start:
    """From executing `tollway serve` to the first answer, and what importing takes of it."""
    configured, unconfigured, imports = [], [], []
    folder = bench.folder / "start"
    config = write_config(folder, bench.upstream_port, access_log=False)
    data = folder / "data"
    key = create_key(config, data)
    empty = folder / "empty"
    empty.mkdir()
    path = {"PATH": os.environ.get("PATH", "")}
    for turn in range(bench.effort.starts):
        bench.progress("start time")
        port = free_port()
        began_at = time.monotonic()
        with serve(data, port, folder / "output", config=config) as process:
            configured.append(wait_for_answer(process, port, key) - began_at)
        port = free_port()
        began_at = time.monotonic()
        fresh = folder / f"fresh-{turn}"
        with serve(fresh, port, folder / "output", folder=empty, environ=path) as process:
            unconfigured.append(wait_for(process, port, "GET", "/v1/models") - began_at)
        imports.append(_python_s("import proxy.cli.serving, proxy.supervisor") - _python_s("pass"))
    return Start(configured_s=configured, unconfigured_s=unconfigured, import_s=imports)


def _python_s(program: str) -> float:
    began_at = time.monotonic()
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    return time.monotonic() - began_at


def memory(bench: Bench) -> Memory:
    """Resident memory of a fresh server, idle and with many streams open."""
    with tollway(bench.folder / "memory", bench.upstream_port, access_log=False) as subject:
        bench.progress("memory: idle")
        # Some traffic first, so that what is made once is there.
        bench.turn(subject, "stream-20", "saturate", seconds=bench.effort.saturated_s)
        idle = subject.memory_kib()
        count = bench.effort.open_streams
        bench.progress(f"memory: {count} open streams")
        bench.generator.prepare(_order(subject, "stream-open", "hold", count, warm_s=0))
        bench.generator.run()
        open_ = subject.memory_kib()
        bench.generator.close()
    del bench.sent[subject.name]
    return Memory(idle_kib=idle, open_kib=open_, open_streams=count)


def check_records(bench: Bench, subject: Tollway) -> None:
    """Raise `RuntimeError` unless the ledger has every request that was answered, once."""
    answered = bench.sent.get(subject.name, 0) + 1  # and the one that found it ready
    recorded = subject.recorded()
    if recorded["attempts"] != answered or recorded["cost_usd"] <= 0:
        raise RuntimeError(
            f"{subject.name} answered {answered} requests, but its ledger has {recorded}: "
            "what was measured is not the whole work"
        )


def _order(
    subject: Subject,
    model: str | Workload,
    mode: Literal["saturate", "rate", "hold"],
    connections: int,
    *,
    seconds: float = 0.0,
    per_s: float = 0.0,
    warm_s: float,
    keys: Sequence[str] = (),
) -> Order:
    workload = model if isinstance(model, Workload) else _workload(model)
    request, *others = (
        workload.request(f"127.0.0.1:{subject.port}", key) for key in keys or [subject.key]
    )
    return Order(
        port=subject.port,
        request=request,
        others=others,
        end=workload.end,
        mode=mode,
        connections=connections,
        seconds=seconds,
        per_s=per_s,
        warm_s=warm_s,
    )


def _workload(model: str) -> Workload:
    return all_workloads().get(model) or dialect_workloads()[model]
