"""What follows when a target is put out, or comes back: it is said and counted, and mended.

A local model whose circuit opens is unloaded once its last user is done, and so started anew by
the next request for it: a process that answers its health checks may all the same answer nothing
else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol

from proxy.circuits import Change
from proxy.targets import TargetTable
from proxy.telemetry import Metrics

_log = logging.getLogger("tollway")


class Retiring(Protocol):
    """Whoever can end a local model's process."""

    async def retire(self, model: str) -> None:
        """As soon as nobody uses it; raises `OSError` where nobody can."""


class Ejections:
    """Hears of every change of a worker's circuits. Call it, in the event loop."""

    def __init__(
        self, *, table: Callable[[], TargetTable], metrics: Metrics, models: Retiring
    ) -> None:
        self._table = table
        self._metrics = metrics
        self._models = models
        self._out: dict[tuple[str, int], str] = {}
        self._restarts: set[asyncio.Task[None]] = set()

    def __call__(self, change: Change) -> None:
        """Take note of one. Never waits."""
        circuit = change.target, change.key
        target = self._table().target(change.target)
        if not change.is_out:
            counted_as = self._out.pop(circuit, None)
            if counted_as is not None:
                self._metrics.circuits_open.labels(counted_as).dec()
                if target is not None:  # it may be gone
                    _log.warning("%s is tried again like any other", _named(change))
            return
        others = f"{change.target.partition('/')[0]}/*"
        metric_name = others if target is None else target.metric_name
        self._metrics.ejections.labels(metric_name).inc()
        if circuit not in self._out:
            self._out[circuit] = metric_name
            self._metrics.circuits_open.labels(metric_name).inc()
        standing = change.standing
        _log.warning(
            "%s is left out for %.0f s: %s", _named(change), standing.back_in_s, standing.problem
        )
        if target is not None and target.is_hosted:
            restart = asyncio.get_running_loop().create_task(self._restart(target.name))
            self._restarts.add(restart)
            restart.add_done_callback(self._restarts.discard)

    async def _restart(self, model: str) -> None:
        with contextlib.suppress(OSError):  # the host itself is started anew, and its models too
            await self._models.retire(model)


def _named(change: Change) -> str:
    return f"{change.target} (key {change.key})" if change.key else change.target
