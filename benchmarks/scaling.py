"""Does a request cost the same whatever the size of the server? In one direction after the other.

Every server is measured in turn with the smallest, the same one for all directions, and each
spreads its requests over all of its keys, which have a hard budget each.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import filled
from benchmarks.measure import CONNECTIONS, Bench
from benchmarks.numbered import write_numbered
from benchmarks.subjects import Tollway, free_port, serve, wait_for_answer

ROWS = 10_000_000
QUICK_ROWS = 100_000
_MODEL = "json"
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a server is. `targets` are in the route of each request, `others` beside it."""

    workers: int = 1
    keys: int = 10
    targets: int = 3
    others: int = 0
    rows: int = 0
    policy: str = "cheapest"
    connections: int = CONNECTIONS
    """That always have a request under way, by all clients together."""


Directions = Mapping[str, Mapping[str, Size]]
"""What grows, and the servers it is measured with: by what they are called, the smallest first."""

SMALLEST = Size()


def directions(rows: int) -> Directions:
    """Everything that is promised to cost no more where there is more of it."""
    weighted = replace(SMALLEST, policy="weighted")
    return {
        f"workers, {CONNECTIONS} connections in all": {
            "1": SMALLEST,
            "2": Size(workers=2),
            "4": Size(workers=4),
        },
        f"workers, {CONNECTIONS} connections each": {
            "1": SMALLEST,
            "2": Size(workers=2, connections=2 * CONNECTIONS),
            "4": Size(workers=4, connections=4 * CONNECTIONS),
        },
        "keys": {"10": SMALLEST, "1,000": Size(keys=1_000), "10,000": Size(keys=10_000)},
        "targets": {"3": SMALLEST, "50": Size(others=47), "500": Size(others=497)},
        "targets of one route, cheapest": {
            "3": SMALLEST,
            "50": Size(targets=50),
            "500": Size(targets=500),
        },
        "targets of one route, weighted": {
            "3": weighted,
            "50": replace(weighted, targets=50),
            "500": replace(weighted, targets=500),
        },
        "attempts on record": {"0": SMALLEST, f"{rows:,}": Size(rows=rows)},
    }


@dataclass(kw_only=True)
class Scaled:
    """A server of one size: CPU time of every turn, in all and by process."""

    start_s: float
    """From executing `tollway serve` to the first answer."""
    cpu_ms: list[float] = field(default_factory=list)
    cpu_ms_by_process: dict[str, list[float]] = field(default_factory=dict)

    def as_json(self, smallest: Scaled) -> dict[str, Any]:
        """The medians, and how many times those of the smallest server they are."""
        median = statistics.median(self.cpu_ms)
        return {
            "start_s": round(self.start_s, 2),
            "cpu_ms": round(median, 4),
            "cpu_ms_turns": [round(value, 4) for value in self.cpu_ms],
            "cpu_ms_by_process": {
                role: round(statistics.median(values), 4)
                for role, values in self.cpu_ms_by_process.items()
            },
            "times": round(median / statistics.median(smallest.cpu_ms), 2),
        }


@dataclass(frozen=True, kw_only=True)
class _Server:
    """A running server of one size."""

    subject: Tollway
    keys: Sequence[str]
    began_at: float
    """Unix seconds: nothing that was asked here is older."""
    start_s: float


def scaling(bench: Bench, wanted: Directions) -> list[dict[str, Any]]:
    """CPU per JSON chat request, saturated, by servers of all sizes in turn.

    Raises `RuntimeError` where the disk has no room for the rows, or one is missing afterwards.
    """
    _check_room(bench.folder, sum(size.rows for size in _all(wanted)))
    with contextlib.ExitStack() as running:
        servers: dict[Size, _Server] = {}
        for size in _all(wanted):
            bench.progress(f"scaling: making {size}")
            folder = bench.folder / f"scaling-{len(servers)}"
            servers[size] = running.enter_context(_server(bench, folder, size))
        found = {size: Scaled(start_s=server.start_s) for size, server in servers.items()}
        for _ in range(bench.effort.turns):
            for size, server in servers.items():
                bench.progress(f"scaling: {size}")
                _take_turn(bench, size, server, found[size])
        for server in servers.values():
            _check_records(bench, server)
    rows = []
    for direction, sizes in wanted.items():
        smallest = found[next(iter(sizes.values()))]
        for name, size in sizes.items():
            rows.append({"direction": direction, "size": name, **found[size].as_json(smallest)})
    return rows


def _all(wanted: Directions) -> Collection[Size]:
    """Each size once, in their order."""
    return dict.fromkeys(size for sizes in wanted.values() for size in sizes.values())


def _take_turn(bench: Bench, size: Size, server: _Server, scaled: Scaled) -> None:
    report, spent_ns = bench.turn(
        server.subject,
        _MODEL,
        "saturate",
        seconds=bench.effort.saturated_s,
        keys=server.keys,
        connections=size.connections,
    )
    scaled.cpu_ms.append(sum(spent_ns.values()) / report.requests / 1e6)
    for role, spent in spent_ns.items():
        scaled.cpu_ms_by_process.setdefault(role, []).append(spent / report.requests / 1e6)


def _check_room(folder: Path, rows: int) -> None:
    needed, free = rows * filled.BYTES_PER_ROW, shutil.disk_usage(folder).free
    if free < needed:
        raise RuntimeError(
            f"{rows:,} attempts need {needed / _GIB:.1f} GiB on the disk of {folder}, and "
            f"{free / _GIB:.1f} are free; choose another with --folder"
        )


def _check_records(bench: Bench, server: _Server) -> None:
    """Raise `RuntimeError` unless the ledger has every request that was answered, once."""
    answered = bench.sent.pop(server.subject.name) + 1  # and the one that found it ready
    recorded = filled.count_since(server.subject.data, server.began_at)
    if recorded != answered:
        raise RuntimeError(
            f"{server.subject.name} answered {answered} requests, but its ledger has {recorded} "
            "of them: what was measured is not the whole work"
        )


@contextlib.contextmanager
def _server(bench: Bench, folder: Path, size: Size) -> Iterator[_Server]:
    data = folder / "data"
    folder.mkdir(parents=True)
    keys = filled.fill(data, keys=size.keys, rows=size.rows)
    config = folder / "router.yaml"
    write_numbered(
        config,
        bench.upstream_port,
        model=_MODEL,
        routed=size.targets,
        others=size.others,
        policy=size.policy,
    )
    port, began_at, clock = free_port(), time.time(), time.monotonic()
    with serve(data, port, folder / "output", config=config, workers=size.workers) as process:
        start_s = wait_for_answer(process, port, keys[0]) - clock
        subject = Tollway(name=str(size), port=port, pid=process.pid, key=keys[0], data=data)
        yield _Server(subject=subject, keys=keys, began_at=began_at, start_s=start_s)
