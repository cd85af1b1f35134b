"""What was measured, as it is kept: every single value, and the medians that are shown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load import Report


@dataclass(kw_only=True)
class Load:
    """One subject under one load: CPU time of every turn, latencies of all turns together."""

    workload: str
    load: str
    subject: str
    requests: int = 0
    requests_per_s: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    cpu_ms_by_process: dict[str, list[float]] = field(default_factory=dict)
    first_ms: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)

    def add(self, report: Report, spent_ns: Mapping[str, int]) -> None:
        """One more turn."""
        self.requests += report.requests
        self.requests_per_s.append(report.requests / report.elapsed_s)
        self.cpu_ms.append(sum(spent_ns.values()) / report.requests / 1e6)
        for role, spent in spent_ns.items():
            self.cpu_ms_by_process.setdefault(role, []).append(spent / report.requests / 1e6)
        self.first_ms += report.first_ms
        self.total_ms += report.total_ms
        self.late_ms += report.late_ms

    def as_json(self) -> dict[str, Any]:
        """The medians, the value of every turn, and the latencies' percentiles."""
        found = {
            "workload": self.workload,
            "load": self.load,
            "subject": self.subject,
            "requests": self.requests,
            "requests_per_s": _median(self.requests_per_s),
            "cpu_ms": _median(self.cpu_ms),
            "cpu_ms_turns": [round(value, 4) for value in self.cpu_ms],
            "cpu_ms_by_process": {
                role: _median(values) for role, values in self.cpu_ms_by_process.items()
            },
        }
        for name, values in (
            ("first_ms", self.first_ms),
            ("total_ms", self.total_ms),
            ("late_ms", self.late_ms),
        ):
            if values:
                found[name] = {
                    f"p{share}": round(percentile(values, share), 4) for share in (50, 90, 99)
                }
        return found


@dataclass(kw_only=True)
class Event:
    """CPU per streamed event of one subject, a value per turn."""

    arriving: str
    subject: str
    cpu_us: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The median and the value of every turn."""
        return {
            "arriving": self.arriving,
            "subject": self.subject,
            "cpu_us": _median(self.cpu_us),
            "cpu_us_turns": [round(value, 3) for value in self.cpu_us],
        }


@dataclass(kw_only=True)
class Local:
    """Tokens of a local model by whoever makes them, and the first ones; a value per turn."""

    model: str
    bytes: int
    bare: list[dict[str, float]] = field(default_factory=list)
    child: list[dict[str, float]] = field(default_factory=list)
    tollway: list[dict[str, float]] = field(default_factory=list)
    cold_ms: list[float] = field(default_factory=list)
    warm_ms: list[float] = field(default_factory=list)
    spilled_ms: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The medians; CPU and time are per token."""
        found: dict[str, Any] = {"model": self.model, "bytes": self.bytes}
        for name, turns in (
            ("bare", self.bare),
            ("child", self.child),
            ("tollway", self.tollway),
        ):
            found[name] = {figure: _median([turn[figure] for turn in turns]) for figure in turns[0]}
        for name, values in (
            ("cold_ms", self.cold_ms),
            ("warm_ms", self.warm_ms),
            ("spilled_ms", self.spilled_ms),
        ):
            found[name] = _median(values)
        return found


@dataclass(kw_only=True)
class Dialects:
    """CPU of what one dialect asks and another answers, a value per turn."""

    client: str
    provider: str
    json_ms: list[float] = field(default_factory=list)
    stream_ms: list[float] = field(default_factory=list)
    paced_us: list[float] = field(default_factory=list)
    at_once_us: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The medians; the last two are per event."""
        return {
            "client": self.client,
            "provider": self.provider,
            "json_ms": _median(self.json_ms),
            "stream_ms": _median(self.stream_ms),
            "paced_us": _median(self.paced_us),
            "at_once_us": _median(self.at_once_us),
        }


@dataclass(frozen=True, kw_only=True)
class Start:
    """Seconds to the first answer, and to import what serves; a value per turn."""

    configured_s: Sequence[float]
    unconfigured_s: Sequence[float]
    import_s: Sequence[float]

    def as_json(self) -> dict[str, Any]:
        """The medians."""
        return {
            "configured_s": _median(self.configured_s),
            "unconfigured_s": _median(self.unconfigured_s),
            "import_s": _median(self.import_s),
        }


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Resident KiB by process (`rss`, `pss`): idle, and with `open_streams` streams open."""

    idle_kib: Mapping[str, Mapping[str, int]]
    open_kib: Mapping[str, Mapping[str, int]]
    open_streams: int

    @property
    def kib_per_stream(self) -> float:
        """What one open stream adds to all processes together."""
        idle, open_ = (
            sum(sizes["pss"] for sizes in kib.values()) for kib in (self.idle_kib, self.open_kib)
        )
        return (open_ - idle) / self.open_streams

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "idle_kib": self.idle_kib,
            "open_kib": self.open_kib,
            "open_streams": self.open_streams,
            "kib_per_stream": round(self.kib_per_stream, 2),
        }


@dataclass(kw_only=True)
class LedgerLoad:
    """Pairs of a hold and its settlement; a value per turn."""

    load: str
    pairs_per_s: list[float] = field(default_factory=list)
    ledger_cpu_ms: list[float] = field(default_factory=list)
    client_cpu_ms: list[float] = field(default_factory=list)
    reserve_p50_ms: list[float] = field(default_factory=list)
    reserve_p99_ms: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The medians; CPU time is per pair."""
        return {
            "load": self.load,
            "pairs_per_s": _median(self.pairs_per_s),
            "ledger_cpu_ms": _median(self.ledger_cpu_ms),
            "client_cpu_ms": _median(self.client_cpu_ms),
            "reserve_p50_ms": _median(self.reserve_p50_ms),
            "reserve_p99_ms": _median(self.reserve_p99_ms),
        }


def percentile(values: Sequence[float], share: int) -> float:
    """The value below which `share` percent of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)]


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 4)
