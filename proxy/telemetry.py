"""What is counted, and the request log."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from proxy.pricing import Usage, format_usd
from proxy.tallies import Tallies

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
# What the files of a process begin with, for what is counted once, and for each target: more than
# either takes, where names are not longer than usual.
_FILE_BYTES = 64 << 10
_TARGET_BYTES = 12 << 10
_OVERHEAD = (0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 2.5, 5)


class Metrics:
    """Every metric of the product. Labels hold configured names only: their number is bounded.

    Beyond `most_targets` what is new is counted with its provider's others, as `provider/*`.
    """

    def __init__(self, folder: Path | None = None, *, most_targets: int = 10_000) -> None:
        """Count into a folder where all workers do; raises `StartError` where there is no room."""
        own = Tallies(folder, reserve_bytes=_FILE_BYTES + most_targets * _TARGET_BYTES)
        self.names = own.names
        self.requests = own.counter(
            "tollway_requests_total",
            "Requests answered, by endpoint and HTTP status.",
            "endpoint",
            "status",
        )
        self.open_requests = own.gauge(
            "tollway_open_requests", "Requests being answered now.", merged="sum"
        ).labels()
        self.revision = own.gauge(
            "tollway_config_revision",
            "Revision of the configuration that every worker serves by, or a newer one.",
            merged="min",
        ).labels()
        self.attempts = own.counter(
            "tollway_attempts_total", "Dispatches to targets, by outcome.", "target", "outcome"
        )
        self.tokens = own.counter(
            "tollway_tokens_total",
            "Tokens taken, by kind (input, cached, output, reasoning).",
            "target",
            "kind",
        )
        self.cost = own.counter(
            "tollway_cost_usd_total", "Cost of settled attempts in USD.", "target"
        )
        self.refusals = own.counter(
            "tollway_refusals_total", "Holds that the ledger refused, by reason.", "reason"
        )
        self.unpriced = own.counter(
            "tollway_unpriced_attempts_total",
            "Dispatches whose cost is not known, by target.",
            "target",
        )
        self.retries = own.counter(
            "tollway_retries_total",
            "Attempts at a target that had just failed, by provider.",
            "provider",
        )
        self.ejections = own.counter(
            "tollway_ejections_total",
            "Times that a target was left out for its failures.",
            "target",
        )
        self.circuits_open = own.gauge(
            "tollway_circuits_open",
            "Circuits that are open: a target, one of its keys, in one worker.",
            "target",
            merged="sum",
        )
        self.concurrency_limit = own.gauge(
            "tollway_concurrency_limit",
            "Requests that a target may have at the same time, as its workers have learned it.",
            "target",
            merged="sum",
        )
        self.queued = own.gauge(
            "tollway_queued_requests",
            "Requests that wait for a place at a target now.",
            "target",
            merged="sum",
        )
        self.queue_seconds = own.histogram(
            "tollway_queue_seconds",
            "Waits for a place at a target, of requests that had to wait.",
            "target",
            bounds=_SECONDS,
        )
        self.alerts = own.counter("tollway_alerts_total", "Alerts raised, by kind.", "kind")
        self.alert_deliveries = own.counter(
            "tollway_alert_deliveries_total",
            "Tries to deliver an alert to a webhook, by outcome.",
            "outcome",
        )
        self.first_token = own.histogram(
            "tollway_first_token_seconds", "Dispatch to first payload.", "target", bounds=_SECONDS
        )
        self.duration = own.histogram(
            "tollway_attempt_seconds",
            "Dispatch to the end of the answer.",
            "target",
            bounds=_SECONDS,
        )
        self.overhead = own.histogram(
            "tollway_overhead_seconds",
            "Time to the reply's first byte, less that of the provider and of the client.",
            bounds=_OVERHEAD,
        ).labels()
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
    """The metrics of one target: for what every request counts, the very numbers."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._metrics = metrics
        self._name = name
        self._outcomes: dict[str, memoryview[float]] = {}
        self._input = metrics.tokens.labels(name, "input").cell
        self._cached = metrics.tokens.labels(name, "cached").cell
        self._output = metrics.tokens.labels(name, "output").cell
        self._reasoning = metrics.tokens.labels(name, "reasoning").cell
        self._cost = metrics.cost.labels(name).cell
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
        attempts = self._outcomes.get(outcome)
        if attempts is None:
            attempts = self._metrics.attempts.labels(self._name, outcome).cell
            self._outcomes[outcome] = attempts
        attempts[0] += 1.0
        self._input[0] += usage.input_tokens
        self._output[0] += usage.output_tokens
        if usage.cached_tokens:
            self._cached[0] += usage.cached_tokens
        if usage.reasoning_tokens:
            self._reasoning[0] += usage.reasoning_tokens
        self._cost[0] += cost_nanousd / 1e9
        self._duration.observe(total_s)
        if first_token_s is not None:
            self._first_token.observe(first_token_s)


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
