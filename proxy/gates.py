"""Before a target: requests go on while it has room, and wait their turn for a moment otherwise.

Nothing is held for a request that waits. One that has waited too long, or whose place in the queue
is another's by right, goes on to its next target, and is refused where there is none.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

from proxy.clock import Clock
from proxy.concurrency import Gradient
from proxy.config import Adaptive
from proxy.errors import Overloaded
from proxy.fair_queue import FairQueue, Priority
from proxy.targets import Target
from proxy.telemetry import Metrics


class Crowded(Exception):
    """A target has no room, and none in time; `answer` is for a client without another target."""

    def __init__(self, target: str) -> None:
        self.answer = Overloaded(
            f"{target!r} has as many requests as it takes; try again", headers={"retry-after": "1"}
        )
        super().__init__(self.answer.message)


class Place:
    """A request's place at a target, until it leaves."""

    __slots__ = ("_gate",)

    def __init__(self, gate: _Gate) -> None:
        self._gate: _Gate | None = gate

    def leave(self, first_token_s: float | None = None, *, overloaded: bool = False) -> None:
        """Make room, once however often it is said; and say how long its answer took to begin."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.leave(first_token_s, overloaded=overloaded)


class Gates:
    """Those of all targets whose providers have one. One per worker."""

    def __init__(self, settings: Mapping[str, Adaptive], metrics: Metrics, clock: Clock) -> None:
        """`settings` are by provider."""
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._gates: dict[str, _Gate] = {}

    def follow(self, settings: Mapping[str, Adaptive]) -> None:
        """Go by other settings: where they changed, what was learned is forgotten.

        Whoever is at a gate that is gone stays there until it leaves.
        """
        before, self._settings = self._settings, settings
        for name in list(self._gates):
            provider = name.partition("/")[0]
            if settings.get(provider) != before.get(provider):
                self._gates.pop(name).close()

    def limit_of(self, target: Target) -> int | None:
        """How many requests it may have now; None where there is no limit, or none was learned."""
        gate = self._gates.get(target.metric_name)
        return None if gate is None else gate.limit

    @property
    def are_there(self) -> bool:
        """Whether any target has one."""
        return bool(self._settings)

    async def enter(
        self, target: Target, caller: str, priority: Priority, left_s: float = math.inf
    ) -> Place | None:
        """A place at the target, as soon as there is one; None where none is needed.

        Waits for `left_s` at most. Raises `Crowded`. Whoever is cancelled has none, and waits for
        none.
        """
        settings = self._settings.get(target.provider)
        if settings is None:
            return None
        # Whatever clients ask for behind `provider/*` has one gate.
        gate = self._gates.get(target.metric_name)
        if gate is None:
            gate = _Gate(target.metric_name, settings, self._metrics, self._clock)
            self._gates[target.metric_name] = gate
        await gate.enter(caller, priority, left_s)
        return Place(gate)


class _Gate:
    """One target's."""

    def __init__(self, name: str, settings: Adaptive, metrics: Metrics, clock: Clock) -> None:
        self._name = name
        self._queue_s = settings.queue_s
        self._clock = clock
        self._gradient = Gradient(
            least=settings.least, most=settings.most, first=min(settings.first, settings.most)
        )
        self._in_flight = 0
        self._queue: FairQueue[asyncio.Future[bool]] = FairQueue(settings.queue)
        self._queued = metrics.queued.labels(name)
        self._waits = metrics.queue_seconds.labels(name)
        self._is_closed = False
        self._shown_limit = metrics.concurrency_limit.labels(name)
        self._shown_limit.set(self.limit)

    @property
    def limit(self) -> int:
        """How many requests the target may have."""
        return self._gradient.limit

    async def enter(self, caller: str, priority: Priority, left_s: float) -> None:
        """Return with a place; raises `Crowded`."""
        if self._in_flight < self.limit and not self._queue:
            self._in_flight += 1
            return
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        loser = self._queue.put(turn, caller, priority)
        if loser is not None and not loser.done():
            loser.set_result(False)
        self._queued.inc()
        began_at = self._clock.monotonic()
        try:
            await asyncio.wait([turn], timeout=min(self._queue_s, left_s))
        except asyncio.CancelledError:
            if turn.done() and turn.result():
                self._go()
            raise
        finally:
            self._queue.remove(turn, caller, priority)
            self._queued.dec()
        self._waits.observe(self._clock.monotonic() - began_at)
        if not turn.done() or not turn.result():
            raise Crowded(self._name)

    def leave(self, first_token_s: float | None, *, overloaded: bool) -> None:
        """One is done."""
        before = self.limit
        self._gradient.ended(
            first_token_s,
            overloaded=overloaded,
            in_flight=self._in_flight,
            now=self._clock.monotonic(),
        )
        if self.limit != before and not self._is_closed:
            self._shown_limit.set(self.limit)
        self._go()

    def close(self) -> None:
        """Nobody comes any more; those who are here go on as they would have."""
        self._is_closed = True
        self._shown_limit.set(0)

    def _go(self) -> None:
        """A place is free: those whose turn it is have it, and as many more as there are."""
        self._in_flight -= 1
        while self._in_flight < self.limit and self._queue:
            turn = self._queue.take()
            if turn is not None and not turn.done():
                self._in_flight += 1
                turn.set_result(True)
