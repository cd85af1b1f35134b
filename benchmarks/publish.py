"""Puts the figures of a results file into docs/performance.md, between its two marks.

Run as `python -m benchmarks.publish benchmarks/results/FILE.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.profile import SUFFIX
from benchmarks.subjects import ROOT
from benchmarks.tls import OVER_TLS, PLAIN, side_by_side
from benchmarks.verdicts import verdicts

_PAGE = ROOT / "docs" / "performance.md"
_BEGIN, _END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"
_SERVERS = ("Tollway", "Tollway+log", "bare relay", "nginx")
_SATURATED_ONLY = ("LiteLLM",)
_WORKLOADS = {
    "json": "JSON chat answer, 1 KB",
    "stream": "20-chunk stream",
    "embeddings": "embeddings, 16 of 1536 floats",
}


def figures(results: dict[str, Any], source: str) -> str:
    """The tables, as Markdown."""
    return "\n\n".join(
        (
            _origin(results, source),
            _promises(results),
            *_cpu(results["loads"]),
            _split(results["loads"]),
            _latency(results["loads"]),
            _rest(results),
            *_features(results.get("features", ())),
            *_dialects(results.get("dialects", ())),
            *_ledger(results),
            *_scaling(results.get("scaling", ())),
            *_large(results.get("large", ())),
            *_tls(results.get("tls")),
        )
    )


def _origin(results: dict[str, Any], source: str) -> str:
    machine, versions = results["machine"], results["versions"]
    return (
        f"Measured on {results['date'][:10]} at revision `{results['revision']}`: "
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, {machine['filesystem']}; Python {versions['python']}, "
        f"uvicorn {versions['uvicorn']}, uvloop {versions['uvloop']}, SQLite {versions['sqlite']}, "
        f"nginx {versions.get('nginx', 'none')}, LiteLLM {versions.get('litellm', 'none')}. "
        f"Other programs took {results['others_cpu_share']:.0%} of the machine meanwhile. "
        f"Every value: [`{source}`](../{source}){_profile(source)}."
    )


def _profile(source: str) -> str:
    """Where the time went, if that was looked at."""
    path = Path(source).with_suffix(SUFFIX).as_posix()
    return f", and where the time went: [`{path}`](../{path})" if (ROOT / path).exists() else ""


def _promises(results: dict[str, Any]) -> str:
    rows = [
        [verdict.name, verdict.target, verdict.measured, verdict.word, verdict.beside]
        for verdict in verdicts(results)
    ]
    header = ["", "target", "measured", "verdict", "beside"]
    return "What was promised, saturated unless it says otherwise:\n\n" + _table(header, rows)


def _cpu(loads: Sequence[dict[str, Any]]) -> Iterator[str]:
    titles = {"saturated": "32 connections, always busy"}
    for name in dict.fromkeys(load["load"] for load in loads):
        found = _by_workload(loads, name)
        servers = (*_SERVERS, *(_SATURATED_ONLY if name == "saturated" else ()))
        rows = [
            [title, *(_number(found[key].get(server), "cpu_ms", 2) for server in servers)]
            for key, title in _WORKLOADS.items()
        ]
        title = titles.get(name, f"{name.removesuffix('/s')} requests a second")
        yield f"CPU milliseconds per request, {title}:\n\n" + _table(["", *servers], rows)


def _split(loads: Sequence[dict[str, Any]]) -> str:
    rows = []
    for load in loads:
        if load["subject"] == "Tollway":
            by_process = load["cpu_ms_by_process"]
            shares = (f"{by_process[role]:.3f}" for role in ("worker", "ledger", "supervisor"))
            rows.append([_WORKLOADS[load["workload"]], load["load"], *shares])
    header = ["", "load", "worker", "ledger", "supervisor"]
    return "The same for Tollway's processes:\n\n" + _table(header, rows)


def _latency(loads: Sequence[dict[str, Any]]) -> str:
    rated = next(load["load"] for load in loads if "first_ms" in load)
    rows = []
    for key, servers in _by_workload(loads, rated).items():
        direct = servers["direct"]["first_ms"]
        row = [_WORKLOADS[key], f"{direct['p50']:.2f} / {direct['p99']:.2f}"]
        for server in _SERVERS:
            first = servers[server]["first_ms"] if server in servers else None
            row.append(
                f"{first['p50'] - direct['p50']:+.2f} / {first['p99'] - direct['p99']:+.2f}"
                if first
                else ""
            )
        rows.append(row)
    return (
        f"Milliseconds to the first byte of the body at {rated}, p50 / p99: straight from the "
        "upstream, and what each server adds:\n\n" + _table(["", "direct", *_SERVERS], rows)
    )


def _rest(results: dict[str, Any]) -> str:
    start, memory, disk = results["start"], results["memory"], results["disk"]
    rows = []
    for event in results["events"]:
        if event["subject"] in ("Tollway", "bare relay"):
            what = f"CPU per streamed event that arrives {event['arriving']}, {event['subject']}"
            rows.append([what, f"{event['cpu_us']:.1f} µs"])
    rows += [
        ["start to the first chat answer, configured", f"{start['configured_s']:.2f} s"],
        ["start to the first answer, nothing configured", f"{start['unconfigured_s']:.2f} s"],
        ["importing, as a part of that", f"{start['import_s']:.2f} s"],
    ]
    for role, kib in memory["idle_kib"].items():
        sizes = f"{kib['rss'] / 1024:.0f} / {kib['pss'] / 1024:.0f} MiB"
        rows.append([f"{role}, idle: RSS / PSS", sizes])
    rows += [
        [f"an open stream, of {memory['open_streams']}", f"{memory['kib_per_stream']:.0f} KiB"],
        ["`fdatasync` on this disk, p50", f"{disk['fdatasync_p50_us']:.0f} µs"],
    ]
    return _table(["", "measured"], rows)


def _dialects(dialects: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not dialects:
        return
    rows = [
        [
            f"{row['client']}, answered by {row['provider']}",
            f"{row['json_ms']:.2f} ms",
            f"{row['stream_ms']:.2f} ms",
            f"{row['paced_us']:.1f} µs",
            f"{row['at_once_us']:.1f} µs",
        ]
        for row in dialects
    ]
    header = ["", "JSON answer", "20-chunk stream", "an event alone", "an event among others"]
    title = "CPU where the client's dialect and the provider's differ, and where they do not:"
    yield f"{title}\n\n{_table(header, rows)}"


def _scaling(scaled: Sequence[dict[str, Any]]) -> Iterator[str]:
    """One line for each size of a server."""
    if not scaled:
        return
    rows = [
        [
            row["direction"],
            row["size"],
            f"{row['cpu_ms']:.2f}",
            f"{row['times']:.2f}",
            *(f"{row['cpu_ms_by_process'][role]:.3f}" for role in ("worker", "ledger")),
            f"{row['start_s']:.2f}",
        ]
        for row in scaled
    ]
    header = ["what grows", "size", "CPU ms", "times the smallest", "worker", "ledger", "start s"]
    title = "CPU milliseconds per JSON chat request by the size of the server, saturated:"
    yield f"{title}\n\n{_table(header, rows)}"


def _large(large: Sequence[dict[str, Any]]) -> Iterator[str]:
    """One line for each kind of body and each number of them at once."""
    if not large:
        return
    rows = [
        [
            f"{row['text']}, {row['at_once']} at once",
            f"{row['peak_bodies']:.1f}",
            f"{row['turn_cpu_ms']:.1f}",
            f"{row['turn_ms']:.1f}",
        ]
        for row in large
    ]
    header = ["", "peak memory, in bodies", "longest turn, CPU ms", "longest turn, ms"]
    title = f"A chat of {large[0]['body_bytes'] / 1e6:.0f} MB, images in base64:"
    yield f"{title}\n\n{_table(header, rows)}"


def _tls(tls: dict[str, Any] | None) -> Iterator[str]:
    """One line for each load."""
    if tls is None:
        return
    rows = [
        [what, f"{plain:.2f} {unit}", f"{secured:.2f} {unit}"]
        for what, unit, plain, secured in side_by_side(tls)
    ]
    title = "CPU by how the upstream speaks:"
    yield f"{title}\n\n{_table(['', PLAIN, OVER_TLS], rows)}"


def _ledger(results: dict[str, Any]) -> tuple[str, str]:
    """The ledger by itself; its answers are compared with the disk's."""
    fdatasync_ms = results["disk"]["fdatasync_p50_us"] / 1_000
    rows = [
        [
            load["load"],
            f"{load['pairs_per_s']:,.0f}",
            f"{load['ledger_cpu_ms']:.3f}",
            f"{load['client_cpu_ms']:.3f}",
            f"{load['reserve_p50_ms']:.2f}",
            f"{load['reserve_p50_ms'] / fdatasync_ms:.1f}",
        ]
        for load in results["ledger"]
    ]
    header = ["load", "pairs a second", "ledger", "client", "hold p50 ms", "in fdatasyncs"]
    title = "The ledger by itself, hold and settlement over five scopes, CPU milliseconds per pair:"
    return title, _table(header, rows)


def _features(costs: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not costs:
        return
    rows = [
        [
            cost["name"],
            f"{cost['more_us']:+.0f} µs",
            f"{min(cost['more_us_turns']):+.0f} to {max(cost['more_us_turns']):+.0f}",
            f"{cost['more_steps']:+,}",
        ]
        for cost in costs
    ]
    without = {cost["workload"]: f"{cost['off_steps']:,}" for cost in costs}
    title = (
        "What turning a feature on adds to a request, saturated, and in steps of the interpreter "
        f"(a JSON answer has {without['json']}, in worker and ledger together):"
    )
    yield f"{title}\n\n{_table(['', 'CPU', 'turns', 'steps'], rows)}"


def _by_workload(
    loads: Sequence[dict[str, Any]], name: str
) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for load in loads:
        if load["load"] == name:
            found.setdefault(load["workload"], {})[load["subject"]] = load
    return found


def _number(load: dict[str, Any] | None, name: str, digits: int) -> str:
    return "" if load is None else f"{load[name]:.{digits}f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def _main(path: Path) -> None:
    results = json.loads(path.read_text())
    source = path.resolve().relative_to(ROOT).as_posix()
    before, _, rest = _PAGE.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    tables = figures(results, source)
    _PAGE.write_text(f"{before}{_BEGIN}\n{tables}\n\n{_END}{after}")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
