"""`/admin/v1/swaps`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from proxy.admin.books import Books
from proxy.admin.operations import Operation, operation
from proxy.admin.shapes import Body, Shown, iso
from proxy.errors import InvalidRequest, NotFound
from proxy.ledger import reports
from proxy.ledger.protocol import MoveSwap, OpenSwap, SwapChanged
from proxy.ledger.reports import SwapHistory
from proxy.swaps.core import State
from proxy.swaps.moves import Moves
from proxy.swaps.orders import NewSwap


class SwapsQuery(Body, frozen=True, kw_only=True):
    """How many swaps."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 100


class ShownRollback(Shown, frozen=True, kw_only=True):
    """When a swap is rolled back by itself."""

    error_rate: float | None
    p95_latency_ms: int | None
    min_requests: int
    window_s: int
    watch_s: int


class ShownEvent(Shown, frozen=True, kw_only=True):
    """What became of a swap, and when."""

    at: str | None
    state: State
    percent: int
    reason: str


class ShownSwap(Shown, frozen=True, kw_only=True):
    """A swap and its history."""

    id: int
    name: str
    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    state: State
    percent: int
    """Of the requests, moved now."""
    reason: str
    created_at: str | None
    since: str | None
    """When the state or the step began."""
    steps: tuple[int, ...]
    step_s: int
    grace_s: int
    prepare_s: int
    keep_conversations: bool
    checks: int
    passing: int
    rollback: ShownRollback | None
    events: list[ShownEvent]


class SwapList(Shown, frozen=True, kw_only=True):
    """Swaps."""

    data: list[ShownSwap]


class SwapsApi:
    """The operations on swaps."""

    def __init__(self, books: Books, moves: Moves) -> None:
        self._books = books
        self._moves = moves

    def operations(self) -> list[Operation]:
        """All of them."""
        swaps = "/admin/v1/swaps"
        swap = f"{swaps}/{{swap_id}}"
        return [
            operation("GET", swaps, self.list_swaps, tag="swaps"),
            operation("POST", swaps, self.create_swap, tag="swaps", status=202),
            operation("GET", swap, self.get_swap, tag="swaps"),
            operation("POST", f"{swap}/rollback", self.roll_back_swap, tag="swaps"),
            operation("POST", f"{swap}/cancel", self.cancel_swap, tag="swaps"),
        ]

    async def list_swaps(self, query: SwapsQuery) -> SwapList:
        """The swaps that were begun last."""
        found = await self._books.report(reports.last_swaps, self._books.database, query.limit)
        return SwapList(data=[shown_swap(swap) for swap in found])

    async def create_swap(self, body: NewSwap) -> ShownSwap:
        """Move a virtual model or an alias to another target; it is prepared first."""
        plan = body.plan()
        problem = self._moves.problem(plan, self._books.table())
        if problem is not None:
            raise InvalidRequest(problem)
        opened = await self._books.call(OpenSwap(0, plan), SwapChanged)
        return await self.get_swap(opened.swap.swap_id)

    async def get_swap(self, swap_id: int) -> ShownSwap:
        """One swap."""
        found = await self._books.report(reports.one_swap, self._books.database, swap_id)
        if found is None:
            raise NotFound(f"no swap {swap_id}")
        return shown_swap(found)

    async def roll_back_swap(self, swap_id: int) -> ShownSwap:
        """Send all requests to the old target again, also long after; 409 if that cannot be."""
        return await self._move(MoveSwap(0, swap_id, "rolled_back", "by the operator"))

    async def cancel_swap(self, swap_id: int) -> ShownSwap:
        """Take back a swap that is under way; 409 where it has ended."""
        return await self._move(MoveSwap(0, swap_id, "cancelled", "by the operator"))

    async def _move(self, op: MoveSwap) -> ShownSwap:
        await self._books.call(op, SwapChanged)
        return await self.get_swap(op.swap_id)


def shown_swap(history: SwapHistory) -> ShownSwap:
    """A swap as the API shows it."""
    swap = history.swap
    plan = swap.plan
    rules = plan.rollback
    return ShownSwap(
        id=swap.swap_id,
        name=plan.name,
        source=plan.source,
        target=plan.target,
        state=swap.state,
        percent=swap.percent,
        reason=swap.reason,
        created_at=iso(swap.created_at),
        since=iso(swap.since),
        steps=plan.steps,
        step_s=plan.step_s,
        grace_s=plan.grace_s,
        prepare_s=plan.prepare_s,
        keep_conversations=plan.keeps_conversations,
        checks=len(plan.checks),
        passing=len(plan.checks) if plan.passing is None else plan.passing,
        rollback=None if rules is None else ShownRollback(**msgspec.structs.asdict(rules)),
        events=[
            ShownEvent(at=iso(at), state=state, percent=percent, reason=reason)
            for at, state, percent, reason in history.events
        ],
    )
