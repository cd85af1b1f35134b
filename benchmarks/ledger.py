"""The ledger by itself: reserve + settle over five scopes, each with a budget, and a rate limit.

One worker's client talks to a ledger process that syncs every commit. CPU time is that of both.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import uvloop

from benchmarks import proc
from benchmarks.measure import REQUESTS_PER_S, Bench
from benchmarks.results import LedgerLoad, percentile
from benchmarks.subjects import ROOT
from proxy.ledger.client import LedgerClient
from proxy.ledger.protocol import (
    Attempt,
    BudgetSettings,
    CreateBudget,
    CreateKey,
    KeyChanged,
    KeySettings,
    Limits,
    Settlement,
    Usage,
)

IN_FLIGHT = 64
_SERVE = (
    "import sys; from pathlib import Path; from proxy.ledger.daemon import run_ledger; "
    "run_ledger(Path(sys.argv[1]), ready=lambda: print('ready', flush=True))"
)
_WINDOWS = ("day", "month", "30d", "5h", "lifetime")
_SETTLED_S = 0.1
_HOUR_S = 3_600

Pair = Callable[[], Awaitable[float]]
"""Makes a hold and settles it; returns how long the hold took, in seconds."""


def ledger(bench: Bench) -> list[LedgerLoad]:
    """Pairs a second and CPU per pair when saturated, and at a fixed rate."""
    saturated = LedgerLoad(load="saturated")
    rated = LedgerLoad(load=f"{REQUESTS_PER_S} per s")
    effort = bench.effort
    with _process(bench.folder / "ledger") as (data_dir, pid):
        scopes = uvloop.run(_set_up(data_dir))
        for _ in range(effort.turns):
            for load, per_s, seconds in (
                (saturated, None, effort.saturated_s),
                (rated, REQUESTS_PER_S, effort.rate_s),
            ):
                bench.progress(f"ledger, {load.load}")
                uvloop.run(_turn(data_dir, pid, scopes, load, per_s, seconds))
            bench.sync_disk()
    return [saturated, rated]


@contextlib.contextmanager
def _process(data_dir: Path) -> Iterator[tuple[Path, int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(data_dir)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the ledger did not start")
        yield data_dir, process.pid
    finally:
        process.terminate()
        process.wait()


async def _turn(
    data_dir: Path,
    pid: int,
    scopes: tuple[str, ...],
    load: LedgerLoad,
    per_s: int | None,
    seconds: float,
) -> None:
    client = LedgerClient(data_dir, name="benchmark")
    await client.connect()
    try:
        pair = _pairs(client, scopes)
        await _saturate(pair, seconds=0.1)
        await client.drained()
        await asyncio.sleep(_SETTLED_S)
        spent_ns, began_at = _cpu_ns(pid), time.perf_counter()
        if per_s is None:
            waits = await _saturate(pair, seconds=seconds)
        else:
            waits = await _at_rate(pair, per_s=per_s, seconds=seconds)
        took_s = time.perf_counter() - began_at
        await client.drained()
        await asyncio.sleep(_SETTLED_S)
        ledger_ns, client_ns = (
            after - before for after, before in zip(_cpu_ns(pid), spent_ns, strict=True)
        )
    finally:
        await client.aclose()
    load.pairs_per_s.append(len(waits) / took_s)
    load.ledger_cpu_ms.append(ledger_ns / 1e6 / len(waits))
    load.client_cpu_ms.append(client_ns / 1e6 / len(waits))
    load.reserve_p50_ms.append(statistics.median(waits) * 1e3)
    load.reserve_p99_ms.append(percentile(sorted(waits), 99) * 1e3)


def _cpu_ns(pid: int) -> tuple[int, int]:
    return proc.cpu_ns(pid), time.process_time_ns()


async def _set_up(data_dir: Path) -> tuple[str, ...]:
    """A key with a rate limit, and a budget for each of five scopes, none of them ever full."""
    limits = Limits(requests_per_minute=10**9)
    client = LedgerClient(data_dir, name="benchmark")
    await client.connect()
    try:
        settings = KeySettings(name="benchmark", limits=limits)
        made = await client.call(CreateKey(0, b"benchmark", "…", settings))
        assert isinstance(made, KeyChanged)
        scopes = (f"key:{made.key.key_id}", "team:t_1", "user:ada", "tag:nightly", "global")
        for scope, window in zip(scopes, _WINDOWS, strict=True):
            await client.call(CreateBudget(0, scope, BudgetSettings(10**15, window)))
    finally:
        await client.aclose()
    return scopes


def _pairs(client: LedgerClient, scopes: tuple[str, ...]) -> Pair:
    key_id = scopes[0].partition(":")[2]
    usage = Usage(input=1_000, output=200)

    async def pair() -> float:
        number = client.new_attempt_id()
        began_at = time.perf_counter()
        await client.reserve(
            Attempt(
                attempt=number,
                request_id=f"req_{number:x}",
                number=1,
                endpoint="chat",
                key_id=key_id,
                virtual_model="auto",
                target="openai/gpt-4o",
                provider="openai",
                policy="cheapest",
                route_reason="cheapest of 3",
                scopes=scopes,
                hold_nanousd=10_000_000,
                floor_nanousd=2_500_000,
                deadline=int(time.time()) + _HOUR_S,
                tokens=2_000,
            )
        )
        took_s = time.perf_counter() - began_at
        client.settle(
            Settlement(
                attempt=number,
                outcome="ok",
                cost_nanousd=4_500_000,
                usage=usage,
                estimated=False,
                status=200,
                first_token_us=250_000,
                total_us=900_000,
            )
        )
        return took_s

    return pair


async def _saturate(pair: Pair, *, seconds: float) -> list[float]:
    until = time.perf_counter() + seconds
    waits: list[float] = []

    async def keep_asking() -> None:
        while time.perf_counter() < until:
            waits.append(await pair())

    async with asyncio.TaskGroup() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.create_task(keep_asking())
    return waits


async def _at_rate(pair: Pair, *, per_s: int, seconds: float) -> list[float]:
    began_at = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        asked = []
        for number in range(int(per_s * seconds)):
            await asyncio.sleep(max(0.0, began_at + number / per_s - time.perf_counter()))
            asked.append(tasks.create_task(_one(pair)))
    return [task.result() for task in asked]


async def _one(pair: Pair) -> float:
    return await pair()
