"""The life of a swap: a state machine without clock or I/O, and what attempts make of it.

    preparing -> shifting -> draining -> completed -> rolled_back
       |            |            |
       |            +------------+-> rolled_back | cancelled
       +-> failed | cancelled

The new target is loaded and checked while a swap is `preparing`; `shifting` moves a growing share
of the requests to it; while it is `draining` all of them are moved, and the old target finishes
what it has. A swap that `completed` stays in force until it is rolled back.

Times are Unix seconds. Every change returns another `Swap`; what the state does not allow raises
`NotNow`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

State = Literal[
    "preparing", "shifting", "draining", "completed", "rolled_back", "failed", "cancelled"
]

OPEN: Sequence[State] = ("preparing", "shifting", "draining")
"""One of these at a time is allowed for a name."""
IN_FORCE: Sequence[State] = ("shifting", "draining", "completed")
"""In these a swap changes where requests go."""
PARTS = 10_000
"""Shares of requests are drawn in so many parts."""

MOST_CONVERSATIONS = 50_000
"""That began at the new target of one swap; the oldest are forgotten first, and stay at the old."""

MOST_CHECKS = 50
_MOST_SAMPLES = 10_000

Seconds = Annotated[int, msgspec.Meta(ge=0, le=604_800)]
Percent = Annotated[int, msgspec.Meta(ge=1, le=100)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
Text = Annotated[str, msgspec.Meta(max_length=20_000)]


class NotNow(Exception):
    """The state of the swap does not allow it; the message says which it is."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt for the new target, and all that its answer must keep to."""

    prompt: Annotated[str, msgspec.Meta(min_length=1, max_length=20_000)]
    system: Text = ""
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 256
    contains: tuple[Text, ...] = ()
    matches: Text = ""
    """A regular expression that is found in the answer."""
    json: bool = False
    json_schema: dict[str, Any] | None = None
    max_latency_ms: Annotated[int, msgspec.Meta(ge=1, le=3_600_000)] | None = None
    max_cost_nanousd: Annotated[int, msgspec.Meta(ge=0, le=10**16)] | None = None


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """From when on attempts at the new target take a swap back by themselves.

    Shares and latencies are those of the last `window_s`, once there were `min_requests` in it.
    """

    error_rate: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    """The largest share that may fail."""
    p95_latency_ms: Annotated[int, msgspec.Meta(ge=1, le=3_600_000)] | None = None
    """The longest that 95 of 100 may take: to the first token of a stream, or to a whole answer."""
    min_requests: Annotated[int, msgspec.Meta(ge=1, le=_MOST_SAMPLES)] = 20
    window_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 60
    watch_s: Seconds = 300
    """For how long after all requests were moved."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator wants."""

    name: Name
    """The virtual model or the alias."""
    source: Name
    target: Name
    steps: Annotated[tuple[Percent, ...], msgspec.Meta(min_length=1, max_length=100)] = (100,)
    """Shares of the requests that are moved, ascending to 100."""
    step_s: Seconds = 60
    """How long each of them lasts, but the last."""
    grace_s: Seconds = 30
    """How long the old target stays behind the new one when all requests are moved."""
    keeps_conversations: bool = False
    """Whether conversations that began at the old target stay there until the grace is over."""
    prepare_s: Seconds = 600
    """How long loading and checks may take."""
    checks: Annotated[tuple[Check, ...], msgspec.Meta(max_length=MOST_CHECKS)] = ()
    passing: Annotated[int, msgspec.Meta(ge=1, le=MOST_CHECKS)] | None = None
    """How many of the checks must pass; None is all."""
    rollback: Rollback | None = None


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """A swap as it stands."""

    swap_id: int
    plan: Plan
    state: State
    percent: int
    """Of the requests, moved now."""
    since: int
    """When the state or the step began."""
    created_at: int
    reason: str = ""
    """Why it is in this state, where that was not foreseen."""
    full_at: int | None = None
    """When all requests were moved."""

    @property
    def scope(self) -> str:
        """The scope of attempts that it brought to the new target."""
        return f"swap:{self.swap_id}"

    @property
    def is_open(self) -> bool:
        """Whether it is under way."""
        return self.state in OPEN

    @property
    def is_in_force(self) -> bool:
        """Whether it changes where requests go."""
        return self.state in IN_FORCE


def problem(plan: Plan) -> str | None:
    """What is wrong with a plan, as far as its types leave it open; None where there is nothing."""
    if list(plan.steps) != sorted(set(plan.steps)) or plan.steps[-1] != 100:
        return "steps: must ascend, and end with 100"
    if plan.source == plan.target:
        return f"from and to are both {plan.target[:100]!r}"
    if plan.passing is not None and plan.passing > len(plan.checks):
        return f"passing: {plan.passing} checks must pass, of {len(plan.checks)}"
    return None


def opened(swap_id: int, plan: Plan, now: int) -> Swap:
    """A swap that begins."""
    return Swap(swap_id=swap_id, plan=plan, state="preparing", percent=0, since=now, created_at=now)


def prepared(swap: Swap, now: int) -> Swap:
    """The new target is loaded and has passed its checks: the first share moves."""
    _require(swap, ("preparing",), "is prepared no more")
    return _moved(swap, swap.plan.steps[0], now)


def failed(swap: Swap, reason: str, now: int) -> Swap:
    """The new target is not there, or failed its checks: nothing has moved."""
    _require(swap, ("preparing",), "cannot fail")
    return _into(swap, "failed", now, reason)


def cancelled(swap: Swap, reason: str, now: int) -> Swap:
    """The operator takes back a swap that is under way."""
    _require(swap, OPEN, "cannot be cancelled")
    return _into(swap, "cancelled", now, reason)


def rolled_back(swap: Swap, reason: str, now: int) -> Swap:
    """All requests go to the old target again."""
    remedy = "; cancel it" if swap.state == "preparing" else ""
    _require(swap, IN_FORCE, "cannot be rolled back", remedy)
    return _into(swap, "rolled_back", now, reason)


def ticked(swap: Swap, now: int) -> Swap:
    """The swap one state or step further, where its time has come; else the same object.

    A state lasts from when it was entered, so that a server that was down for long goes on with
    the next step, and skips none.
    """
    plan, waited_s = swap.plan, now - swap.since
    match swap.state:
        case "preparing" if waited_s >= plan.prepare_s:
            return failed(swap, f"it was not prepared within {plan.prepare_s} s", now)
        case "shifting" if swap.percent == 100:
            return msgspec.structs.replace(_into(swap, "draining", now), full_at=now)
        case "shifting" if waited_s >= plan.step_s:
            return _moved(swap, min(p for p in plan.steps if p > swap.percent), now)
        case "draining" if waited_s >= plan.grace_s:
            return _into(swap, "completed", now)
        case _:
            return swap


def without_checks(swap: Swap) -> Swap:
    """A swap as it is kept in mind once its checks are made, which may be long."""
    if swap.state == "preparing":
        return swap
    plan = msgspec.structs.replace(swap.plan, checks=(), passing=None)
    return msgspec.structs.replace(swap, plan=plan)


def is_watched(swap: Swap, now: int) -> bool:
    """Whether attempts at the new target may still take the swap back."""
    rollback = swap.plan.rollback
    if rollback is None or not swap.is_in_force:
        return False
    return (
        swap.state != "completed" or swap.full_at is None or now < swap.full_at + rollback.watch_s
    )


def is_moved(swap: Swap, draw: int, *, continues: bool = False, began_moved: bool = False) -> bool:
    """Whether a request goes to the new target.

    `draw` is from 0 to below `PARTS`, the same for the same request or conversation, so that what
    one step has moved the next one moves too. `continues` says that the request goes on with a
    conversation, `began_moved` that this one began at the new target.
    """
    if not swap.is_in_force:
        return False
    if swap.state == "completed":
        return True
    if swap.plan.keeps_conversations and continues:
        return began_moved
    return draw * 100 < swap.percent * PARTS


def _moved(swap: Swap, percent: int, now: int) -> Swap:
    return msgspec.structs.replace(_into(swap, "shifting", now), percent=percent)


def _into(swap: Swap, state: State, now: int, reason: str = "") -> Swap:
    percent = swap.percent if state in IN_FORCE else 0
    return msgspec.structs.replace(swap, state=state, percent=percent, since=now, reason=reason)


def _require(swap: Swap, states: Sequence[State], problem: str, remedy: str = "") -> None:
    if swap.state not in states:
        raise NotNow(f"swap {swap.swap_id} {problem}: it is {swap.state}{remedy}")


class Watch:
    """What attempts at a new target came to lately. Each is counted in constant time."""

    def __init__(self, rules: Rollback) -> None:
        self._rules = rules
        # When each ended, and its latency in ms; None where it failed.
        self._ended: deque[tuple[float, int | None]] = deque()
        self._failed = 0
        self._slow = 0

    def count(self, at: float, latency_ms: int | None) -> None:
        """An attempt ended: with a latency, or without one because it failed."""
        self._ended.append((at, latency_ms))
        self._add(latency_ms, 1)
        if len(self._ended) > _MOST_SAMPLES:
            self._forget_oldest()

    def verdict(self, now: float) -> str | None:
        """Why the swap is to be rolled back; None where it is not."""
        rules = self._rules
        while self._ended and self._ended[0][0] <= now - rules.window_s:
            self._forget_oldest()
        total = len(self._ended)
        if total < rules.min_requests:
            return None
        if rules.error_rate is not None and self._failed > rules.error_rate * total:
            return (
                f"{self._failed} of {total} attempts failed; "
                f"at most {rules.error_rate:.1%} may fail"
            )
        answered = total - self._failed
        if rules.p95_latency_ms is not None and self._slow > answered - _nearest_rank(answered):
            latencies = sorted(ms for _, ms in self._ended if ms is not None)
            p95_ms = latencies[_nearest_rank(answered) - 1]
            return f"p95 latency is {p95_ms} ms; the limit is {rules.p95_latency_ms} ms"
        return None

    def _forget_oldest(self) -> None:
        _, latency_ms = self._ended.popleft()
        self._add(latency_ms, -1)

    def _add(self, latency_ms: int | None, times: int) -> None:
        if latency_ms is None:
            self._failed += times
        elif self._rules.p95_latency_ms is not None and latency_ms > self._rules.p95_latency_ms:
            self._slow += times


def _nearest_rank(count: int) -> int:
    """Which of so many ascending numbers is the 95th percentile, counted from 1."""
    return -(-95 * count // 100)
