"""Metrics and the request log.

Every process counts into memory-mapped files below one folder (prometheus-client's multiprocess
mode), so that any worker can show the sum of all, dead ones included. prometheus-client chooses
that mode when it is first imported: set `PROMETHEUS_MULTIPROC_DIR` before importing this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from proxy.errors import StartError
from proxy.pricing import Usage, format_usd

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
# What the files of a process begin with, for what is counted once, and for each target: far more
# than either takes. prometheus-client names them so.
_FILES = ("counter", "gauge_livesum", "gauge_livemin", "histogram")
_FILE_BYTES = 64 << 10
_TARGET_BYTES = 12 << 10
_OVERHEAD = (0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 2.5, 5)


def reserve_space(targets: int) -> None:
    """Take the disk space for what this process will count, before there are `Metrics`.

    The files are written through memory. On a disk that is full by then, a page without a place
    of its own on it would end the process (SIGBUS) in the middle of its requests. Raises
    `StartError`.
    """
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    try:
        for kind in _FILES:
            with (folder / f"{kind}_{os.getpid()}.db").open("ab") as file:
                if file.tell() == 0:  # a process that had this number before may have counted
                    file.write(bytes(_FILE_BYTES + targets * _TARGET_BYTES))
    except OSError as error:
        raise StartError(
            f"{folder}: cannot be written ({error.strerror}); make room, or choose another folder"
        ) from None


class Metrics:
    """Every metric of the product. Labels hold configured names only: their number is bounded.

    Beyond `most_targets` what is new is counted with its provider's others, as `provider/*`.
    """

    def __init__(self, *, most_targets: int = 10_000) -> None:
        # A registry of its own: the default one would also count the interpreter's own garbage.
        own = CollectorRegistry()
        self.requests = Counter(
            "tollway_requests_total",
            "Requests answered, by endpoint and HTTP status.",
            ("endpoint", "status"),
            registry=own,
        )
        self.open_requests = Gauge(
            "tollway_open_requests",
            "Requests being answered now.",
            registry=own,
            multiprocess_mode="livesum",
        )
        self.revision = Gauge(
            "tollway_config_revision",
            "Revision of the configuration that every worker serves by, or a newer one.",
            registry=own,
            multiprocess_mode="livemin",
        )
        self.attempts = Counter(
            "tollway_attempts_total",
            "Dispatches to targets, by outcome.",
            ("target", "outcome"),
            registry=own,
        )
        self.tokens = Counter(
            "tollway_tokens_total",
            "Tokens taken, by kind (input, cached, output, reasoning).",
            ("target", "kind"),
            registry=own,
        )
        self.cost = Counter(
            "tollway_cost_usd_total", "Cost of settled attempts in USD.", ("target",), registry=own
        )
        self.refusals = Counter(
            "tollway_refusals_total",
            "Holds that the ledger refused, by reason.",
            ("reason",),
            registry=own,
        )
        self.unpriced = Counter(
            "tollway_unpriced_attempts_total",
            "Dispatches whose cost is not known, by target.",
            ("target",),
            registry=own,
        )
        self.retries = Counter(
            "tollway_retries_total",
            "Attempts at a target that had just failed, by provider.",
            ("provider",),
            registry=own,
        )
        self.ejections = Counter(
            "tollway_ejections_total",
            "Times that a target was left out for its failures.",
            ("target",),
            registry=own,
        )
        self.circuits_open = Gauge(
            "tollway_circuits_open",
            "Circuits that are open: a target, one of its keys, in one worker.",
            ("target",),
            registry=own,
            multiprocess_mode="livesum",
        )
        self.concurrency_limit = Gauge(
            "tollway_concurrency_limit",
            "Requests that a target may have at the same time, as its workers have learned it.",
            ("target",),
            registry=own,
            multiprocess_mode="livesum",
        )
        self.queued = Gauge(
            "tollway_queued_requests",
            "Requests that wait for a place at a target now.",
            ("target",),
            registry=own,
            multiprocess_mode="livesum",
        )
        self.queue_seconds = Histogram(
            "tollway_queue_seconds",
            "Waits for a place at a target, of requests that had to wait.",
            ("target",),
            registry=own,
            buckets=_SECONDS,
        )
        self.alerts = Counter(
            "tollway_alerts_total", "Alerts raised, by kind.", ("kind",), registry=own
        )
        self.alert_deliveries = Counter(
            "tollway_alert_deliveries_total",
            "Tries to deliver an alert to a webhook, by outcome.",
            ("outcome",),
            registry=own,
        )
        self.first_token = Histogram(
            "tollway_first_token_seconds",
            "Dispatch to first payload.",
            ("target",),
            registry=own,
            buckets=_SECONDS,
        )
        self.duration = Histogram(
            "tollway_attempt_seconds",
            "Dispatch to the end of the answer.",
            ("target",),
            registry=own,
            buckets=_SECONDS,
        )
        self.overhead = Histogram(
            "tollway_overhead_seconds",
            "Time to the reply's first byte, less that of the provider and of the client.",
            registry=own,
            buckets=_OVERHEAD,
        )
        self._most_targets = most_targets
        self._targets: dict[str, TargetMetrics] = {}

    def target(self, name: str) -> TargetMetrics:
        """The metrics of one target, their labels bound once."""
        bound = self._targets.get(name)
        if bound is None and len(self._targets) >= self._most_targets:
            name = f"{name.partition('/')[0]}/*"
            bound = self._targets.get(name)
        if bound is None:
            bound = self._targets[name] = TargetMetrics(self, name)
        return bound


class TargetMetrics:
    """The metrics of one target."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._metrics = metrics
        self._name = name
        self._outcomes: dict[str, Counter] = {}
        self._input = metrics.tokens.labels(name, "input")
        self._cached = metrics.tokens.labels(name, "cached")
        self._output = metrics.tokens.labels(name, "output")
        self._reasoning = metrics.tokens.labels(name, "reasoning")
        self._cost = metrics.cost.labels(name)
        self._first_token = metrics.first_token.labels(name)
        self._duration = metrics.duration.labels(name)

    def settled(
        self,
        outcome: str,
        usage: Usage,
        cost_nanousd: int,
        first_token_s: float | None,
        total_s: float,
    ) -> None:
        """Count one attempt that is over."""
        counter = self._outcomes.get(outcome)
        if counter is None:
            counter = self._outcomes[outcome] = self._metrics.attempts.labels(self._name, outcome)
        counter.inc()
        self._input.inc(usage.input_tokens)
        self._output.inc(usage.output_tokens)
        if usage.cached_tokens:
            self._cached.inc(usage.cached_tokens)
        if usage.reasoning_tokens:
            self._reasoning.inc(usage.reasoning_tokens)
        self._cost.inc(cost_nanousd / 1e9)
        self._duration.observe(total_s)
        if first_token_s is not None:
            self._first_token.observe(first_token_s)


def exposition() -> tuple[bytes, str]:
    """All processes' metrics merged, and the content type of that text. Reads files: may block."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call] # prometheus-client is partly typed
    return generate_latest(registry), CONTENT_TYPE_LATEST


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One finished request, as the log shows it."""

    request_id: str
    caller: str
    asked: str
    target: str
    status: int
    usage: Usage | None
    cost_nanousd: int
    estimated: bool
    remaining_nanousd: int | None
    total_s: float
    outcome: str
    key: int = 0
    """Of the provider's several keys, from 1 on; 0 where there is one."""


class RequestLog:
    """Writes a line per request, a few times a second and not while a request waits."""

    def __init__(self, write: Callable[[str], object] = sys.stdout.write, *, on: bool) -> None:
        self._write = write
        self.is_on = on
        self._lines: list[LogLine] = []

    def add(self, line: LogLine) -> None:
        """Queue a line."""
        if not self.is_on:
            return
        if not self._lines:
            asyncio.get_running_loop().call_later(0.1, self.flush)
        self._lines.append(line)

    def flush(self) -> None:
        """Write what is queued."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        stamp = time.strftime("%H:%M:%S")
        with contextlib.suppress(OSError):  # a reader that is gone must not stop the service
            self._write("".join(f"{stamp} {_format(line)}\n" for line in lines))
            sys.stdout.flush()


def _format(line: LogLine) -> str:
    route = f"{line.asked} → {line.target}" if line.target != line.asked else line.asked
    parts = [f"{line.status}", f"{route} (key {line.key})" if line.key else route]
    if line.usage is not None:
        about = "≈" if line.estimated else ""
        parts.append(f"{about}{line.usage.input_tokens}+{line.usage.output_tokens} tokens")
        parts.append(f"{about}{format_usd(line.cost_nanousd)}")
    if line.remaining_nanousd is not None:
        parts.append(f"{format_usd(line.remaining_nanousd)} left")
    parts.append(f"{line.total_s:.2f} s")
    if line.outcome != "ok":
        parts.append(line.outcome)
    parts += [line.caller, line.request_id]
    return "  ".join(parts)
