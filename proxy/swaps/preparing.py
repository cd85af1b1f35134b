"""What one worker does for every swap: it prepares it, and unloads what it has left behind.

The truth is the ledger's. A worker that takes the place of one that died is told of the swaps that
are still to be prepared, and begins anew; the ledger gives them up when their time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Literal, Protocol

from adapters.base import Unavailable
from adapters.leases import Lessor
from proxy.clock import Clock
from proxy.ledger.errors import LedgerRefusal, LedgerUnavailable
from proxy.ledger.protocol import MoveSwap
from proxy.model_host.protocol import Shown
from proxy.swaps import checks, core
from proxy.swaps.checks import Answered
from proxy.swaps.core import Check, Swap
from proxy.swaps.judging import judged
from proxy.swaps.moves import Moves
from proxy.targets import Target, TargetTable

_RETRY_S = 0.2
# How often, and for how long, a model is looked at that is to be unloaded.
_LOOK_AGAIN_S = 1.0
_UNLOAD_WITHIN_S = 600.0
_LONGEST_REASON = 5_000

_log = logging.getLogger("tollway")

Ask = Callable[[Swap, Check, Target], Awaitable[Answered]]
"""What a target answers to a check."""


class Ledger(Protocol):
    """Whoever has the swaps."""

    def watch_swaps(self, on_swap: Callable[[Swap], None]) -> None:
        """Tell of each there is, and of every change."""

    async def call(self, op: MoveSwap) -> object:
        """Carry out an op; raises `LedgerRefusal` or `LedgerUnavailable`."""


class Models(Lessor, Protocol):
    """Whoever has the local models."""

    async def look(self) -> Shown:
        """How they stand; raises `OSError`."""

    async def retire(self, model: str) -> None:
        """Unload one as soon as nobody uses it; raises `OSError`."""


class Preparations:
    """Looks after the swaps of a server, from `start` to `aclose`."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        moves: Moves,
        table: Callable[[], TargetTable],
        models: Models,
        clock: Clock,
        ask: Ask,
    ) -> None:
        self._ledger = ledger
        self._moves = moves
        self._table = table
        self._models = models
        self._clock = clock
        self._ask = ask
        self._preparing: dict[int, asyncio.Task[None]] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin with the swaps that there are."""
        self._ledger.watch_swaps(self._changed)

    async def aclose(self) -> None:
        """Leave what is not done to the next worker."""
        tasks = [*self._preparing.values(), *self._retiring]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _changed(self, swap: Swap) -> None:
        number, plan = swap.swap_id, swap.plan
        task = self._preparing.get(number)
        if swap.state == "preparing":
            if task is None:
                task = self._preparing[number] = asyncio.create_task(self._prepare(swap))
                task.add_done_callback(lambda _: self._preparing.pop(number))
            return
        if task is not None:
            task.cancel()
        if swap.state == "completed":
            # As long as it may be taken back, nobody should have to wait for the old one then.
            self._retire(plan.source, core.watched_until(swap) - self._clock.time())
        elif not swap.is_in_force:
            self._retire(plan.target)

    # --- preparing ------------------------------------------------------------------------------

    async def _prepare(self, swap: Swap) -> None:
        async with AsyncExitStack() as held:
            try:
                problem = await self._problem(swap, held)
            except Exception:
                _log.exception("swap %d could not be prepared", swap.swap_id)
                problem = "something went wrong here; the log says what"
            await self._tell(swap, "prepared" if problem is None else "failed", problem or "")

    async def _problem(self, swap: Swap, held: AsyncExitStack) -> str | None:
        """Why a swap cannot be; else the new target is loaded, fit, and `held`."""
        table = self._table()
        problem = self._moves.problem(swap.plan, table)
        if problem is not None:
            return problem
        target = table.target(swap.plan.target)
        assert target is not None
        if target.is_hosted and (problem := await self._load(target)) is not None:
            return problem
        answers = [await self._ask(swap, check, target) for check in swap.plan.checks]
        problems = [
            await judged(check, answered)
            for check, answered in zip(swap.plan.checks, answers, strict=True)
        ]
        problem = checks.verdict(swap.plan, problems)
        if problem is None and target.is_hosted:
            # Not throughout the checks, which take leases of their own.
            problem = await self._hold(target, held)
        return problem

    async def _load(self, target: Target) -> str | None:
        """Load a local model, if there could be room for it."""
        try:
            shown = await self._models.look()
        except OSError:
            return "the model host cannot be reached"
        model = next((model for model in shown.models if model.name == target.name), None)
        if model is not None and model.bytes > shown.memory_bytes:
            return (
                f"{target.name!r} needs {_mb(model.bytes)} MB, and local models have "
                f"{_mb(shown.memory_bytes)} MB together"
            )
        async with AsyncExitStack() as loaded:
            return await self._hold(target, loaded)

    async def _hold(self, target: Target, held: AsyncExitStack) -> str | None:
        """Keep a local model loaded as long as `held` is open; or say why it is not."""
        try:
            await held.enter_async_context(self._models.lease(target.name, waits=True))
        except Unavailable as error:
            return error.message
        return None

    async def _tell(self, swap: Swap, to: Literal["prepared", "failed"], reason: str) -> None:
        """Tell the ledger, until it has it on the disk."""
        # In a provider's own words there may be what is no Unicode.
        told = reason[:_LONGEST_REASON].encode("utf-8", "backslashreplace").decode()
        op = MoveSwap(0, swap.swap_id, to, told)
        while True:
            try:
                await self._ledger.call(op)
            except LedgerUnavailable:
                await asyncio.sleep(_RETRY_S)
            except LedgerRefusal:
                return  # it has ended meanwhile
            else:
                return

    # --- what is left behind --------------------------------------------------------------------

    def _retire(self, name: str, after_s: float = 0.0) -> None:
        """Unload a local model that no virtual model and no alias leads to any more."""
        table = self._table()
        target = table.target(name)
        if target is None or not target.is_hosted or self._moves.uses(name, table):
            return
        task = asyncio.create_task(self._unload(name, after_s))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _unload(self, name: str, after_s: float) -> None:
        """Retire a model once it is idle: earlier it would be loaded again for those who wait.

        Where callers name it themselves and it never is, it stays, as any other model does.
        """
        await asyncio.sleep(after_s)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_UNLOAD_WITHIN_S):
                while not await self._is_idle(name):  # noqa: ASYNC110 # another process's doing
                    await asyncio.sleep(_LOOK_AGAIN_S)
                if not self._moves.uses(name, self._table()):
                    await self._models.retire(name)

    async def _is_idle(self, name: str) -> bool:
        shown = await self._models.look()
        return not any(m.users or m.waiting for m in shown.models if m.name == name)


def _mb(size: int) -> str:
    return str(-(-size // 2**20))
