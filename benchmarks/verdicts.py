"""The table of promises: each figure with its target, what was measured, and whether that is met.

It is made of the results as they are kept, so that any file of them has its table. What a run did
not measure is said to be so, and never counts as met.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.verdict import Verdict, at_most

_SATURATED, _RATED = "saturated", "200/s"
_OURS, _DIRECT, _OVER_TLS = "Tollway", "direct", "TLS"
_OTHERS = ("bare relay", "nginx", "LiteLLM")

_CPU_MS = {
    "json": ("CPU of a JSON chat request", 0.35),
    "stream": ("CPU of a 20-chunk stream", 0.50),
    "embeddings": ("CPU of embeddings, 16 inputs", 0.40),
}
_RELAYED_US, _TRANSLATED_US = 6.0, 15.0
_DELAY_MS, _DELAY_SYNCS, _DELAY_SPREAD = 0.5, 4, 5
_START_S, _IMPORT_S = 1.0, 0.4
_WORKER_MB, _STREAM_KB = 60, 45
_KIB = 1024
_BODIES, _BLOCKED_MS = 3, 8.0
# More than this is no noise. What grows, by its name in the results; its largest size there.
_FLAT = 1.1
_DIRECTIONS = {
    "workers, 32 connections in all": ("1 to 4 workers, 32 connections in all", "4"),
    "workers, 32 connections each": ("1 to 4 workers, 32 connections each", "4"),
    "keys": ("10 to 10,000 keys", "10,000"),
    "targets": ("3 to 500 targets", "500"),
    "targets of one route, cheapest": ("3 to 500 targets of one route, cheapest", "500"),
    "targets of one route, weighted": ("3 to 500 targets of one route, weighted", "500"),
    "attempts on record": ("an empty ledger to 10 million rows", "10,000,000"),
}
# How events arrive, and what that is called where dialects are measured.
_ARRIVING = {"all at once": "at_once_us", "one by one": "paced_us"}
# A dialect by its endpoint, and the provider that speaks it: events between them are relayed.
_OWN_PROVIDER = {"chat": "openai", "messages": "anthropic"}


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """All promises, in the order in which they were made."""
    return [
        *_cpu(results),
        *_events(results),
        *_large(results),
        *_delay(results),
        *_start(results),
        *_memory(results),
        *_scaling(results),
    ]


def _cpu(results: Mapping[str, Any]) -> Iterator[Verdict]:
    for workload, (name, limit) in _CPU_MS.items():
        saturated = _loads(results, workload, _SATURATED)
        ours = saturated.get(_OURS)
        beside = [
            f"{other} {saturated[other]['cpu_ms']:.2f}" for other in _OTHERS if other in saturated
        ]
        if rated := _loads(results, workload, _RATED).get(_OURS):
            beside.append(f"{rated['cpu_ms']:.2f} at {_RATED}")
        if secured := _loads(results.get("tls", {}), workload, _SATURATED).get(_OVER_TLS):
            beside.append(f"{secured['cpu_ms']:.2f} over TLS")
        yield at_most(
            name,
            limit,
            "ms",
            {"": ours["cpu_ms"]} if ours else {},
            digits=3,
            beside=", ".join(beside),
        )


def _events(results: Mapping[str, Any]) -> Iterator[Verdict]:
    """By how they arrive: one by one, each wakes a process, and that has a price of its own."""
    costs = {
        (event["arriving"], event["subject"]): event["cpu_us"]
        for event in (*results.get("events", ()), *results.get("tls", {}).get("events", ()))
    }
    translated = [
        row
        for row in results.get("dialects", ())
        if _OWN_PROVIDER.get(row["client"]) != row["provider"]
    ]
    others = {
        arriving: ", ".join(
            f"{other} {costs[arriving, other]:.1f}"
            for other in (*_OTHERS, _OVER_TLS)
            if (arriving, other) in costs
        )
        for arriving in _ARRIVING
    }
    for arriving in _ARRIVING:
        ours = costs.get((arriving, _OURS))
        yield at_most(
            f"CPU of an event, relayed, {arriving}",
            _RELAYED_US,
            "µs",
            {} if ours is None else {"": ours},
            digits=1,
            beside=others[arriving],
        )
    for arriving, key in _ARRIVING.items():
        dearest = max(translated, key=lambda row: float(row[key]), default=None)
        yield at_most(
            f"CPU of an event, translated, {arriving}",
            _TRANSLATED_US,
            "µs",
            {f"{dearest['client']} by {dearest['provider']}": dearest[key]} if dearest else {},
            digits=1,
            beside=others[arriving],
        )


def _delay(results: Mapping[str, Any]) -> Iterator[Verdict]:
    added: dict[str, tuple[float, float]] = {}
    for workload in _CPU_MS:
        rated = _loads(results, workload, _RATED)
        if _OURS in rated and _DIRECT in rated:
            ours, direct = (rated[subject]["first_ms"] for subject in (_OURS, _DIRECT))
            added[workload] = (ours["p50"] - direct["p50"], ours["p99"] - direct["p99"])
    sync_ms = results["disk"]["fdatasync_p50_us"] / 1e3
    limit_ms = _DELAY_MS + _DELAY_SYNCS * sync_ms
    yield Verdict(
        name=f"added delay at {_RATED}, p50",
        target=(
            f"at most {_DELAY_MS} ms + {_DELAY_SYNCS} x {sync_ms:.2f} ms (fdatasync) "
            f"= {limit_ms:.2f} ms"
        ),
        measured=", ".join(f"{workload} {p50:.2f} ms" for workload, (p50, _) in added.items()),
        is_met=all(p50 <= limit_ms for p50, _ in added.values()) if added else None,
    )
    yield Verdict(
        name=f"added delay at {_RATED}, p99",
        target=f"at most {_DELAY_SPREAD} x p50",
        measured=", ".join(
            f"{workload} {p99:.2f} ms ({_times(p99, p50)})"
            for workload, (p50, p99) in added.items()
        ),
        is_met=(all(p99 <= _DELAY_SPREAD * p50 for p50, p99 in added.values()) if added else None),
    )


def _large(results: Mapping[str, Any]) -> Iterator[Verdict]:
    """By the median of each turn's longest wait; the CPU time of it tells a busy machine."""
    rows = {f"{row['at_once']} x {row['text']}:": row for row in results.get("large", ())}
    bodies = {name: row["peak_bodies"] for name, row in rows.items()}
    yield Verdict(
        name="memory of a 5 MB body",
        target=f"under {_BODIES} x the body",
        measured=", ".join(f"{name} {times:.1f} x" for name, times in bodies.items()),
        is_met=all(times < _BODIES for times in bodies.values()) if bodies else None,
    )
    yield at_most(
        "event loop blocked by a 5 MB body",
        _BLOCKED_MS,
        "ms",
        {name: row["turn_ms"] for name, row in rows.items()},
        digits=1,
        beside=", ".join(f"{row['turn_cpu_ms']:.1f}" for row in rows.values()) + " of it CPU",
    )


def _start(results: Mapping[str, Any]) -> Iterator[Verdict]:
    start = results.get("start")
    yield at_most(
        "start to the first answer",
        _START_S,
        "s",
        {name: start[f"{name}_s"] for name in ("configured", "unconfigured")} if start else {},
        digits=2,
    )
    yield at_most(
        "import of all that serves",
        _IMPORT_S,
        "s",
        {"": start["import_s"]} if start else {},
        digits=2,
    )


def _memory(results: Mapping[str, Any]) -> Iterator[Verdict]:
    memory = results.get("memory")
    yield at_most(
        "resident memory of an idle worker",
        _WORKER_MB,
        "MB",
        {"": memory["idle_kib"]["worker"]["rss"] * _KIB / 1e6} if memory else {},
        digits=1,
    )
    yield at_most(
        "memory of an open stream",
        _STREAM_KB,
        "KB",
        {"": memory["kib_per_stream"] * _KIB / 1e3} if memory else {},
        digits=1,
        beside=f"{memory['open_streams']} at the same time" if memory else "",
    )


def _scaling(results: Mapping[str, Any]) -> Iterator[Verdict]:
    """Flat is what no size exceeds; without the largest size that was promised it is not known."""
    rows = results.get("scaling", ())
    for direction, (name, largest) in _DIRECTIONS.items():
        sizes = {row["size"]: row["times"] for row in rows if row["direction"] == direction}
        yield Verdict(
            name=f"CPU from {name}",
            target=f"flat: at most {_FLAT} x",
            measured=", ".join(f"{size}: {times:.2f} x" for size, times in sizes.items()),
            is_met=all(times <= _FLAT for times in sizes.values()) if largest in sizes else None,
        )


def _loads(results: Mapping[str, Any], workload: str, load: str) -> dict[str, Mapping[str, Any]]:
    """What was measured of one workload under one load, by the server."""
    return {
        found["subject"]: found
        for found in results.get("loads", ())
        if (found["workload"], found["load"]) == (workload, load)
    }


def _times(value: float, of: float) -> str:
    return f"{value / of:.1f} x" if of > 0 else "of none"
