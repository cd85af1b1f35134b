"""The results as tables on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.tls import OVER_TLS, PLAIN, side_by_side
from benchmarks.verdict import Verdict
from benchmarks.verdicts import verdicts

_BASELINE = "direct"
# Shares of the machine, from 0 to 1, that other programs may take before figures are doubtful.
_BUSY = 0.1
# Of a profile, on the screen; its file has more.
_FUNCTIONS = 5


def show(results: dict[str, Any], console: Console) -> None:
    """Print what there is of the results, and first what it comes to."""
    found = verdicts(results)
    if any(verdict.is_met is not None for verdict in found):
        _show_verdicts(found, console)
        if results["others_cpu_share"] > _BUSY:
            console.print(
                "(The machine is busy with other things: its times are not to be relied on)"
            )
    if loads := results.get("loads"):
        _show_cpu(loads, console)
        _show_latency(loads, console)
    if events := results.get("events"):
        _show_events(events, console)
    if dialects := results.get("dialects"):
        _show_dialects(dialects, console)
    if scaled := results.get("scaling"):
        _show_scaling(scaled, console)
    if large := results.get("large"):
        _show_large(large, console)
    if tls := results.get("tls"):
        _show_tls(tls, console)
    if local := results.get("local"):
        _show_local(local, console)
    if policies := results.get("policy"):
        _show_policies(policies, console)
    if fleet := results.get("fleet"):
        _show_fleet(fleet, console)
        _show_histories(results["histories"], console)
    if costs := results.get("features"):
        _show_features(costs, console)
    if profiles := results.get("profile"):
        _show_profiles(profiles, console)
    if start := results.get("start"):
        _show_start(start, console)
    if memory := results.get("memory"):
        _show_memory(memory, console)
    if rows := results.get("streams"):
        _show_streams(rows, console)
    if cases := results.get("overload"):
        _show_overload(cases, console)
    disk = results["disk"]
    if ledger := results.get("ledger"):
        _show_ledger(ledger, disk["fdatasync_p50_us"], console)
    console.print(
        f"\nfdatasync of 4 KiB on the ledgers' disk ({results['machine']['filesystem']}): "
        f"p50 {disk['fdatasync_p50_us']:.0f} µs, p99 {disk['fdatasync_p99_us']:.0f} µs"
    )
    console.print(f"Other programs took {results['others_cpu_share']:.0%} of the machine meanwhile")


def _show_verdicts(found: Sequence[Verdict], console: Console) -> None:
    table = _table("What was promised", "what", "target", "measured", "", "beside")
    for verdict in found:
        table.add_row(verdict.name, verdict.target, verdict.measured, verdict.word, verdict.beside)
    console.print(table)


def _show_policies(policies: Sequence[dict[str, Any]], console: Console) -> None:
    table = _table("Microseconds per decision, six targets", "policy", "prompt", "p50", "p99")
    for row in policies:
        table.add_row(
            row["policy"],
            f"{row['prompt_bytes']:,} bytes",
            f"{row['p50_us']:.1f}",
            f"{row['p99_us']:.1f}",
        )
    console.print(table)


def _show_fleet(rows: Sequence[dict[str, Any]], console: Console) -> None:
    table = _table(
        f"A simulated day, {rows[0]['requests']:,} requests; saved: of what the first row takes",
        *("virtual model", "answered", "attempts", "strong", "USD per 1,000", "saved"),
        *("first token ms", "p95", "saved", "whole ms", "saved", "worth"),
    )
    for row in rows:
        table.add_row(
            row["model"],
            f"{row['answered']:.3%}",
            f"{row['attempts']:.3f}",
            f"{row['strong']:.0%}",
            f"{row['cost_usd_per_1000']:.2f}",
            f"{row['cost_saved']:.0%}",
            f"{row['first_token_ms']:.0f}",
            f"{row['first_token_p95_ms']:.0f}",
            f"{row['first_token_saved']:.0%}",
            f"{row['whole_ms']:.0f}",
            f"{row['whole_saved']:.0%}",
            f"{row['worth']:.3f}",
        )
    console.print(table)


def _show_histories(rows: Sequence[dict[str, Any]], console: Console) -> None:
    table = _table(
        "Trimmed histories: of the input is saved",
        *("conversations", "limit", "requests", "tokens each", "cut", "tokens"),
        *("cost", "cost with a cache"),
    )
    for row in rows:
        table.add_row(
            row["conversations"],
            f"{row['max_tokens']:,}",
            f"{row['requests']:,}",
            f"{row['tokens_per_request']:,}",
            f"{row['cut']:.0%}",
            f"{row['tokens']:.0%}",
            f"{row['cost']:.0%}",
            f"{row['cached_cost']:.0%}",
        )
    console.print(table)


def _show_cpu(loads: Sequence[dict[str, Any]], console: Console) -> None:
    table = _table(
        "CPU ms per request (direct: the upstream's own)",
        *("workload", "load", "server"),
        *("CPU", "worker", "ledger", "supervisor", "per s"),
    )
    for load in loads:
        by_process = load["cpu_ms_by_process"]
        table.add_row(
            load["workload"],
            load["load"],
            load["subject"],
            f"{load['cpu_ms']:.3f}",
            *(_ms(by_process.get(role)) for role in ("worker", "ledger", "supervisor")),
            f"{load['requests_per_s']:,.0f}",
        )
    console.print(table)


def _show_latency(loads: Sequence[dict[str, Any]], console: Console) -> None:
    rated = [load for load in loads if "first_ms" in load]
    direct = {load["workload"]: load["first_ms"] for load in rated if load["subject"] == _BASELINE}
    table = _table(
        f"First byte of body in ms, at {rated[0]['load']}",
        *("workload", "server", "p50", "p99", "added p50", "added p99"),
    )
    for load in rated:
        first = load["first_ms"]
        added = (
            f"{first[share] - direct[load['workload']][share]:+.2f}" for share in ("p50", "p99")
        )
        table.add_row(
            load["workload"],
            load["subject"],
            f"{first['p50']:.2f}",
            f"{first['p99']:.2f}",
            *(("", "") if load["subject"] == _BASELINE else added),
        )
    console.print(table)
    late_ms = max(load["late_ms"]["p99"] for load in rated)
    console.print(f"(99 of 100 requests were sent within {late_ms:.2f} ms of their time)")


def _show_events(events: Sequence[dict[str, Any]], console: Console) -> None:
    table = _table("CPU µs per streamed event", "arriving", "server", "CPU")
    for event in events:
        table.add_row(event["arriving"], event["subject"], f"{event['cpu_us']:.1f}")
    console.print(table)


def _show_dialects(dialects: Sequence[dict[str, Any]], console: Console) -> None:
    table = _table(
        "Dialects: CPU per request and per streamed event",
        *("client", "provider", "JSON ms", "stream ms", "event µs", "at once µs"),
    )
    for row in dialects:
        costs = (f"{row[name]:.3f}" for name in ("json_ms", "stream_ms"))
        events = (f"{row[name]:.1f}" for name in ("paced_us", "at_once_us"))
        table.add_row(row["client"], row["provider"], *costs, *events)
    console.print(table)


def _show_scaling(rows: Sequence[dict[str, Any]], console: Console) -> None:
    table = _table(
        "Scaling: CPU ms per JSON chat request, saturated",
        *("what", "size", "CPU", "times", "worker", "ledger", "first answer s"),
    )
    for row in rows:
        by_process = (row["cpu_ms_by_process"].get(role) for role in ("worker", "ledger"))
        table.add_row(
            row["direction"],
            row["size"],
            f"{row['cpu_ms']:.3f}",
            f"{row['times']:.2f}",
            *map(_ms, by_process),
            f"{row['start_s']:.2f}",
        )
    console.print(table)


def _show_large(rows: Sequence[dict[str, Any]], console: Console) -> None:
    table = _table(
        f"A chat of {rows[0]['body_bytes'] / 1e6:.1f} MB",
        *("what", "at once", "peak memory, bodies", "longest turn, CPU ms", "ms"),
    )
    for row in rows:
        figures = (row[name] for name in ("peak_bodies", "turn_cpu_ms", "turn_ms"))
        table.add_row(row["text"], str(row["at_once"]), *(f"{figure:.1f}" for figure in figures))
    console.print(table)


def _show_tls(tls: dict[str, Any], console: Console) -> None:
    table = _table("CPU by how the upstream speaks", "what", "unit", PLAIN, OVER_TLS, "more")
    for what, unit, plain, secured in side_by_side(tls):
        table.add_row(what, unit, f"{plain:.3f}", f"{secured:.3f}", f"{secured - plain:+.3f}")
    console.print(table)


def _show_local(local: dict[str, Any], console: Console) -> None:
    table = _table(
        f"A token of {local['model']} ({local['bytes'] / 2**20:.1f} MiB), µs",
        *("by", "CPU", "time", "CPU, more than bare"),
    )
    bare = local["bare"]
    for name in ("bare", "child", "tollway"):
        each = local[name]
        more = f"{each['cpu_us'] / bare['cpu_us'] - 1:+.0%}"
        table.add_row(name, f"{each['cpu_us']:.1f}", f"{each['wall_us']:.1f}", more)
    console.print(table)
    first = (f"{name} {local[f'{name}_ms']:.0f} ms" for name in ("cold", "warm", "spilled"))
    console.print(f"first token: {', '.join(first)}")


def _show_features(costs: Sequence[dict[str, Any]], console: Console) -> None:
    table = _table(
        "Features: what each adds to a request, saturated",
        *("what", "workload", "without µs", "CPU µs", "turns", "without steps", "steps"),
    )
    for cost in costs:
        table.add_row(
            cost["name"],
            cost["workload"],
            f"{cost['off_us']:.0f}",
            f"{cost['more_us']:+.0f}",
            f"{min(cost['more_us_turns']):+.0f} to {max(cost['more_us_turns']):+.0f}",
            f"{cost['off_steps']:,}",
            f"{cost['more_steps']:+,}",
        )
    console.print(table)


def _show_profiles(profiles: Sequence[dict[str, Any]], console: Console) -> None:
    table = _table("Where the time goes: shares of samples", "workload", "process", "what", "own")
    for row in profiles:
        for function, share in islice(row["own"].items(), _FUNCTIONS):
            table.add_row(row["workload"], row["process"], function, f"{share:.1%}")
    console.print(table)


def _show_start(start: dict[str, Any], console: Console) -> None:
    table = _table("Start", "what", "s")
    table.add_row("configured: to the first chat answer", f"{start['configured_s']:.2f}")
    table.add_row(
        "no configuration, no data: to the first answer", f"{start['unconfigured_s']:.2f}"
    )
    table.add_row("of that, importing", f"{start['import_s']:.2f}")
    console.print(table)


def _show_memory(memory: dict[str, Any], console: Console) -> None:
    count = memory["open_streams"]
    table = _table(
        "Memory in MiB", "process", "idle RSS", "idle PSS", f"RSS, {count} streams", "PSS"
    )
    for role, idle in memory["idle_kib"].items():
        open_ = memory["open_kib"][role]
        sizes = (idle["rss"], idle["pss"], open_["rss"], open_["pss"])
        table.add_row(role, *(f"{size / 1024:.1f}" for size in sizes))
    console.print(table)
    console.print(f"an open stream: {memory['kib_per_stream']:.1f} KiB")


def _show_streams(rows: Sequence[dict[str, Any]], console: Console) -> None:
    table = _table(
        "Streams held at the same time",
        *("streams", "whole", "opened in s", "events/s", "lag p50 ms", "p99 ms", "worst ms"),
        *("KiB each", "by worker", "load before"),
    )
    for row in rows:
        table.add_row(
            f"{row['count']:,}",
            f"{row['whole']:,}",
            f"{row['opening_s']:.1f}",
            f"{row['events_per_s']:,.0f}",
            *(f"{row[f'lag_{name}_ms']:.0f}" for name in ("p50", "p99", "worst")),
            f"{row['kib_per_stream']:.0f}",
            " ".join(f"{number:,}" for number in row["streams_by_worker"]),
            f"{row['load_average']:.1f}",
        )
        for how, number in row["broken"].items():
            console.print(f"{number:,} of {row['count']:,}: {how}", markup=False)
    console.print(table)


def _show_overload(cases: Sequence[dict[str, Any]], console: Console) -> None:
    table = _table(
        "Five times as many requests as can be answered; goodput: of what is answered at the peak",
        *("provider", "callers", "connections", "peak per s", "answered", "refused", "goodput"),
        *("answer ms p50", "p99", "refusal ms p50", "p99", "CPU ms", "CPU µs"),
    )
    for row in cases:
        comes_back = row["comes_back"]
        table.add_row(
            row["model"],
            f"come back {comes_back}" if comes_back else "arrive",
            "kept" if row["keeps_connections"] else "new",
            *(f"{row[f'{name}_per_s']:,.0f}" for name in ("peak", "answered", "refused")),
            f"{row['goodput']:.0%}",
            *(_ms_of(row[name], share) for name, share in _SHARES),
            f"{row['answer_cpu_ms']:.2f}",
            f"{row['refusal_cpu_us']:.0f}",
        )
        for what, number in row["others"].items():
            console.print(f"{number:,} of {row['model']}: {what}", markup=False)
    console.print(table)


_SHARES = tuple((name, share) for name in ("answered_ms", "refused_ms") for share in ("p50", "p99"))


def _ms_of(percentiles: dict[str, float], share: str) -> str:
    return f"{percentiles[share]:.1f}" if percentiles else ""


def _show_ledger(loads: Sequence[dict[str, Any]], sync_p50_us: float, console: Console) -> None:
    table = _table(
        "Ledger: hold + settlement over five scopes, CPU ms per pair",
        *("load", "per s", "CPU", "ledger", "client", "hold p50 ms", "p99 ms", "p50 / fdatasync"),
    )
    for load in loads:
        ledger_ms, client_ms = load["ledger_cpu_ms"], load["client_cpu_ms"]
        table.add_row(
            load["load"],
            f"{load['pairs_per_s']:,.0f}",
            *(f"{ms:.3f}" for ms in (ledger_ms + client_ms, ledger_ms, client_ms)),
            *(f"{load[f'reserve_p{share}_ms']:.2f}" for share in (50, 99)),
            f"{load['reserve_p50_ms'] * 1e3 / sync_p50_us:.1f} x",
        )
    console.print(table)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _table(title: str, *columns: str) -> Table:
    """A table whose first columns, those of names, are the left-aligned ones."""
    table = Table(title=f"\n{title}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        is_name = column in (
            "client",
            "provider",
            "callers",
            "connections",
            "workload",
            "load",
            "server",
            "arriving",
            "what",
            "process",
            "target",
            "measured",
            "",
            "beside",
        )
        table.add_column(column, justify="left" if is_name else "right", overflow="fold")
    return table
