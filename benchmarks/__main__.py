"""`python -m benchmarks`: measure, show tables, and keep the results as JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import machine, measure, proc, profile, report
from benchmarks.features import features
from benchmarks.fleet.day import fleet
from benchmarks.fleet.histories import histories
from benchmarks.generator import generator
from benchmarks.large import large
from benchmarks.ledger import ledger
from benchmarks.local import is_possible, local
from benchmarks.measure import Bench
from benchmarks.overload import overload
from benchmarks.policy import policy
from benchmarks.results import percentile
from benchmarks.scaling import QUICK_ROWS, ROWS, directions, scaling
from benchmarks.streams import streams
from benchmarks.subjects import ROOT, Direct, bare_relay, litellm, nginx, tollway, upstream
from benchmarks.tls import is_possible as has_tls
from benchmarks.tls import tls
from benchmarks.workloads import dialect_workloads

# name: (workload when saturated, workload at a fixed rate)
_WORKLOADS = {
    "json": ("json", "json"),
    "stream": ("stream-20", "stream-20-paced"),
    "embeddings": ("embeddings", "embeddings"),
}
_NAMES = (
    *_WORKLOADS,
    "events",
    "dialects",
    "scaling",
    "large",
    "tls",
    "start",
    "memory",
    "ledger",
    "local",
    "policy",
    "fleet",
    "features",
    "profile",
)
# Measured if they are asked for: they take minutes, and the first of them files that many machines
# do not allow.
_LARGE = ("streams", "overload")
_DECISIONS = 20_000
_FEW_DECISIONS = 500
# A day of the fleet, at its rate.
_REQUESTS = 43_200
_FEW_REQUESTS = 500
_CONVERSATIONS = 100
_FEW_CONVERSATIONS = 3


def _main() -> int:
    options = _options()
    console = Console(highlight=False)
    if sys.platform != "linux":
        console.print("The benchmark reads /proc, so it runs on Linux only.")
        return 2
    began_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tollway-bench-", dir=options.folder) as folder:
        try:
            results = _measure(Path(folder), options, console)
        except RuntimeError as error:
            console.print(f"The benchmark failed: {error}", style="red", markup=False)
            return 1
    results["took_s"] = round(time.monotonic() - began_at)
    report.show(results, console)
    for file, text in _to_keep(results, options):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        console.print(f"\n{file}")
    return 0


def _to_keep(results: dict[str, Any], options: argparse.Namespace) -> Iterator[tuple[Path, str]]:
    """The files to write: the results, unless they are a part, and the profile beside them."""
    if options.quick and options.output is None:
        return
    name = f"{results['date'][:10]}-{machine.slug(results['machine'])}.json"
    output = options.output or ROOT / "benchmarks" / "results" / name
    if options.output is not None or not options.only:
        yield output, json.dumps(results, indent=1) + "\n"
    if "profile" in results:
        yield output.with_suffix(profile.SUFFIX), profile.as_text(results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few short runs, to see it works")
    parser.add_argument(
        "--only",
        action="append",
        choices=(*_NAMES, *_LARGE),
        metavar="NAME",
        help=", ".join((*_NAMES, *_LARGE)),
    )
    parser.add_argument("--model", type=Path, help="a GGUF file for 'local', instead of a tiny one")
    installed = shutil.which("litellm")
    parser.add_argument(
        "--litellm",
        type=Path,
        metavar="PROGRAM",
        default=Path(installed) if installed else None,
        help="`bin/litellm` of a venv that has `litellm[proxy]`, to measure it too",
    )
    parser.add_argument("--folder", type=Path, help="where the ledgers are written meanwhile")
    parser.add_argument("--output", type=Path, help="the JSON file to write")
    return parser.parse_args()


def _measure(folder: Path, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    names = set(options.only or _NAMES)
    results: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": machine.revision(),
        "machine": machine.describe(folder),
        "versions": machine.versions(options.litellm),
        "quick": options.quick,
    }
    others = proc.Others()
    with upstream() as direct, generator() as load, console.status("") as status:
        bench = Bench(
            generator=load,
            effort=measure.QUICK if options.quick else measure.FULL,
            folder=folder,
            upstream_port=direct.port,
            progress=lambda doing: status.update(f"{doing} …"),
        )
        bench.sync_disk()
        # Before the servers below run: they would share, and so hide, a part of its memory.
        if "memory" in names:
            results["memory"] = measure.memory(bench).as_json()
        if "start" in names:
            results["start"] = measure.start(bench).as_json()
        if "ledger" in names:
            results["ledger"] = [load.as_json() for load in ledger(bench)]
        if "scaling" in names:
            rows = QUICK_ROWS if options.quick else ROWS
            results["scaling"] = scaling(bench, directions(rows))
        if "large" in names:
            results["large"] = large(bench)
        if "tls" in names:
            if has_tls():
                results["tls"] = tls(bench)
            else:
                console.print("openssl is not installed here: upstreams over TLS are left out")
        if "dialects" in names:
            results["dialects"] = _dialects(bench)
        if "local" in names:
            if is_possible():
                results["local"] = local(bench, options.model).as_json()
            else:
                console.print("llama-cpp-python is not installed here: local models are left out")
        if "policy" in names:
            decisions = _FEW_DECISIONS if options.quick else _DECISIONS
            results["policy"] = [row.as_json() for row in policy(folder, decisions=decisions)]
        if "fleet" in names:
            requests = _FEW_REQUESTS if options.quick else _REQUESTS
            conversations = _FEW_CONVERSATIONS if options.quick else _CONVERSATIONS
            results["fleet"] = [row.as_json() for row in fleet(folder, requests=requests)]
            results["histories"] = [row.as_json() for row in histories(conversations=conversations)]
        if "streams" in names:
            results["streams"] = [row.as_json() for row in streams(folder, quick=options.quick)]
        if "overload" in names:
            results["overload"] = [o.as_json() for o in overload(bench, quick=options.quick)]
        if "features" in names:
            results["features"] = [c.as_json() for c in features(bench, quick=options.quick)]
        if "profile" in names:
            results |= _profile(bench, options.quick, console)
        if names & {*_WORKLOADS, "events"}:
            results |= _compare(bench, direct, names, options.litellm, console)
        results["others_cpu_share"] = round(others.share(), 3)
    results["disk"] = {
        f"fdatasync_p{share}_us": round(percentile(bench.fdatasync_us, share), 1)
        for share in (50, 99)
    }
    return results


def _profile(bench: Bench, quick: bool, console: Console) -> dict[str, Any]:
    """Where the time goes; nothing where that cannot be looked at."""
    py_spy = profile.program()
    if py_spy is None:
        console.print("py-spy is not installed here: no profile")
        return {}
    try:
        return {"profile": [row.as_json() for row in profile.profile(bench, py_spy, quick=quick)]}
    except profile.CannotLook as error:
        console.print(f"py-spy cannot look at processes here: {error}", markup=False)
        return {}


def _dialects(bench: Bench) -> list[dict[str, Any]]:
    """Measure what translating costs, by a server that has all its providers."""
    folder, workloads = bench.folder / "dialects", dialect_workloads()
    with tollway(folder, bench.upstream_port, access_log=False, workloads=workloads) as subject:
        found = [row.as_json() for row in measure.dialects(bench, subject)]
        measure.check_records(bench, subject)
    del bench.sent[subject.name]
    return found


def _compare(
    bench: Bench, direct: Direct, names: set[str], program: Path | None, console: Console
) -> dict[str, Any]:
    """Measure Tollway and what it is compared with, in turns."""
    results: dict[str, Any] = {}
    port = direct.port
    with contextlib.ExitStack() as running:
        plain = running.enter_context(tollway(bench.folder / "plain", port, access_log=False))
        logging = running.enter_context(tollway(bench.folder / "logging", port, access_log=True))
        relays = [running.enter_context(bare_relay(port))]
        proxy = running.enter_context(nginx(bench.folder, port))
        if proxy is None:
            console.print("nginx is not installed here: left out")
        else:
            relays.append(proxy)
        slow = running.enter_context(litellm(bench.folder, port, program))
        if slow is None:
            console.print("LiteLLM is not installed here (--litellm names it): left out")
        loads = [
            load
            for name, (saturated, at_rate) in _WORKLOADS.items()
            if name in names
            for load in measure.workload(
                bench,
                [plain, logging, *relays, direct],
                name,
                saturated=saturated,
                at_rate=at_rate,
                too_slow=[] if slow is None else [slow],
            )
        ]
        if loads:
            results["loads"] = [load.as_json() for load in loads]
        if "events" in names:
            results["events"] = [e.as_json() for e in measure.events(bench, [plain, *relays])]
        for subject in (plain, logging):
            measure.check_records(bench, subject)
    return results


if __name__ == "__main__":
    sys.exit(_main())
