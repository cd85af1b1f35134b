"""`/admin/v1/targets`: how targets do, as the worker that answers has seen it."""

from __future__ import annotations

from collections.abc import Callable

from proxy.admin.operations import Operation, operation
from proxy.admin.shapes import Shown, iso
from proxy.circuits import Circuits, State
from proxy.figures import Figures
from proxy.gates import Gates
from proxy.targets import Target, TargetTable


class TargetShown(Shown, frozen=True, kw_only=True):
    """One target. Times to the first token; null is not known."""

    name: str
    state: State
    """`in`, `out`, on `trial`, `resting` because it asked for that, or `silent`."""
    back_in_s: float
    """When it is tried again; 0 where it is, or where that is not known."""
    times_out: int
    """How often in a row it was put out."""
    problem: str
    in_flight: int
    limit: int | None
    """How many there may be, as was learned; null where nobody learns it."""
    attempts: int
    """Of the last five minutes, as `failures`."""
    failures: int
    error_rate: float
    p50_ms: float | None
    p95_ms: float | None
    usual_p50_ms: float | None
    """Before that; older answers count less."""
    usual_p95_ms: float | None
    answered_at: str | None
    failed_at: str | None


class TargetsShown(Shown, frozen=True, kw_only=True):
    """All targets of one worker."""

    worker: int
    """Its number, from 0: each has figures and circuits of its own."""
    data: list[TargetShown]


class TargetsApi:
    """What can be asked about targets."""

    def __init__(
        self,
        *,
        table: Callable[[], TargetTable],
        figures: Figures,
        circuits: Circuits,
        gates: Gates,
        worker: int,
    ) -> None:
        self._table = table
        self._figures = figures
        self._circuits = circuits
        self._gates = gates
        self._worker = worker

    def operations(self) -> list[Operation]:
        """Everything that can be asked for."""
        return [operation("GET", "/admin/v1/targets", self.list_targets, tag="targets")]

    async def list_targets(self) -> TargetsShown:
        """Targets: circuits, latest attempts, what is usual."""
        table = self._table()
        asked = filter(None, map(table.target, self._figures.measured_targets()))
        targets = {target.name: target for target in (*table.targets.values(), *asked)}
        return TargetsShown(worker=self._worker, data=[*map(self._shown, targets.values())])

    def _shown(self, target: Target) -> TargetShown:
        standing = self._circuits.best_standing(target.name)
        recent, measured = self._figures.recent(target.name), self._figures.of(target)
        return TargetShown(
            name=target.name,
            state=standing.state,
            back_in_s=round(standing.back_in_s, 3),
            times_out=standing.times,
            problem=standing.problem,
            in_flight=self._figures.candidate(target).in_flight,
            limit=self._gates.limit_of(target),
            attempts=recent.attempts,
            failures=recent.failures,
            error_rate=round(recent.error_rate, 4),
            p50_ms=_rounded(recent.p50_ms),
            p95_ms=_rounded(recent.p95_ms),
            usual_p50_ms=_rounded(recent.usual_p50_ms),
            usual_p95_ms=_rounded(recent.usual_p95_ms),
            answered_at=iso(measured.answered_at),
            failed_at=iso(measured.failed_at),
        )


def _rounded(time_ms: float | None) -> float | None:
    return None if time_ms is None else round(time_ms, 1)
