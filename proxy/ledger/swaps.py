"""The swaps there are: what operators ask for, what their time and their attempts make of them.

The rules are those of `proxy.swaps.core`; here is what is written down, counted and told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from proxy.ledger.faults import Fault
from proxy.ledger.notices import Notices
from proxy.ledger.protocol import (
    ConversationsBegan,
    MoveSwap,
    OpenSwap,
    Settlement,
    SwapChanged,
)
from proxy.ledger.store import EndedRow, Store, SwapRow, to_json
from proxy.swaps import core
from proxy.swaps.core import NotNow, Plan, Swap, Watch

_DAY_S = 86_400
_LONGEST_PLAN = 2 << 20
_SCOPE = "swap:"
# What a caller asked for and no target would have answered.
_CALLERS_FAULTS = frozenset({400, 409, 413, 415, 422, 451})


class SwapBook:
    """Every swap that is open or in force. Raises `Fault`, and `sqlite3.Error` as `Book` does."""

    def __init__(self, store: Store, notices: Notices) -> None:
        self._store = store
        self._notices = notices
        found = map(swap_of, store.read_swaps(core.OPEN, core.IN_FORCE))
        self.swaps = {swap.swap_id: core.without_checks(swap) for swap in found}
        self.began: dict[int, OrderedDict[int, None]] = {}
        """The conversations that began at the new target, of open swaps that keep them."""
        self.watches: dict[int, Watch] = {}
        self.attempts: dict[int, int] = {}
        """Open attempts that a watched swap brought to its new target, and the swap of each."""
        self._changed: dict[int, Swap] = {}
        self._began_news: list[ConversationsBegan] = []

    def take_news(self) -> list[SwapChanged | ConversationsBegan]:
        """What workers must be told."""
        if not self._changed and not self._began_news:
            return []
        news: list[SwapChanged | ConversationsBegan] = [
            *map(SwapChanged, self._changed.values()),
            *self._began_news,
        ]
        self._changed.clear()
        self._began_news.clear()
        return news

    def conversations(self) -> tuple[ConversationsBegan, ...]:
        """Those that a worker must know which has just come."""
        return tuple(ConversationsBegan(swap, tuple(known)) for swap, known in self.began.items())

    # --- what operators and workers say ---------------------------------------------------------

    def open(self, op: OpenSwap, now: int) -> Swap:
        """Begin a swap; a `conflict` where one is under way for the name."""
        plan = op.plan
        problem = core.problem(plan)
        if problem is not None:
            raise Fault("invalid", problem)
        for swap in self.swaps.values():
            if swap.plan.name == plan.name and swap.is_open:
                raise Fault(
                    "conflict",
                    f"swap {swap.swap_id} of {plan.name!r} is under way ({swap.state}); "
                    "wait for it, or cancel it",
                )
        text = to_json(plan)
        if len(text) > _LONGEST_PLAN:
            raise Fault("invalid", f"a swap with its checks has at most {_LONGEST_PLAN} bytes")
        self._store.begin()
        swap_id = self._store.add_swap(plan.name, text, now)
        return self._put(core.opened(swap_id, plan, now))

    def move(self, op: MoveSwap, now: int) -> Swap:
        """Carry out what an operator, or the worker that prepares a swap, says of it."""
        swap = self.swaps.get(op.swap_id)
        if swap is None:
            row = self._store.read_swap(op.swap_id)
            if row is None:
                raise Fault("not_found", f"no swap {op.swap_id}")
            swap = swap_of(row)
        try:
            match op.to:
                case "prepared":
                    return self._advanced(self._put(core.prepared(swap, now)), now)
                case "failed":
                    return self._put(core.failed(swap, op.reason, now))
                case "cancelled":
                    return self._put(core.cancelled(swap, op.reason, now))
                case "rolled_back":
                    self._check_newest(swap)
                    return self._put(core.rolled_back(swap, op.reason, now))
        except NotNow as problem:
            raise Fault("conflict", str(problem)) from None

    def begin_conversations(self, swap_id: int, conversations: Iterable[int]) -> None:
        """Remember that these began at the new target of a swap, and tell everybody."""
        swap = self.swaps.get(swap_id)
        if swap is None or not swap.is_open or not swap.plan.keeps_conversations:
            return
        known = self.began.setdefault(swap_id, OrderedDict())
        new = tuple(number for number in conversations if number not in known)
        known.update(dict.fromkeys(new))
        while len(known) > core.MOST_CONVERSATIONS:
            known.popitem(last=False)
        if new:
            self._began_news.append(ConversationsBegan(swap_id, new))

    # --- time -----------------------------------------------------------------------------------

    def is_due(self, now: float) -> bool:
        """Whether `advance` has something to do."""
        moment = int(now)
        return any(core.ticked(swap, moment) is not swap for swap in self.swaps.values()) or any(
            not core.is_watched(self.swaps[swap_id], moment) for swap_id in self.watches
        )

    def advance(self, now: int) -> None:
        """Take every swap as far as its time has come."""
        for swap in list(self.swaps.values()):
            self._advanced(swap, now)
        for swap_id in list(self.watches):
            self._watch(self.swaps[swap_id], now)

    def _advanced(self, swap: Swap, now: int) -> Swap:
        while (later := core.ticked(swap, now)) is not swap:
            swap = self._put(later)
        return swap

    # --- attempts -------------------------------------------------------------------------------

    def recall(self, now: float) -> None:
        """Watch again what was watched before, with what its attempts came to lately."""
        for swap in self.swaps.values():
            self._watch(swap, int(now))
            watch, rules = self.watches.get(swap.swap_id), swap.plan.rollback
            if watch is None or rules is None:
                continue
            since = now - rules.window_s
            for row in self._store.read_ended(swap.scope, since, began_since=since - _DAY_S):
                if is_counted(row):
                    watch.count(row.settled_at, latency_ms(row))
            for attempt in self._store.read_open(swap.scope):
                self.attempts[attempt] = swap.swap_id

    def admitted(self, attempt: int, scopes: Iterable[str]) -> None:
        """An attempt begins."""
        for scope in scopes:
            if scope.startswith(_SCOPE) and (swap := int(scope[len(_SCOPE) :])) in self.watches:
                self.attempts[attempt] = swap

    def settled(self, settlement: Settlement, now: float) -> None:
        """An attempt has ended: it may have been one too many."""
        swap_id = self.attempts.pop(settlement.attempt, None)
        watch = None if swap_id is None else self.watches.get(swap_id)
        if watch is None or swap_id is None or not is_counted(settlement):
            return
        watch.count(now, latency_ms(settlement))
        reason = watch.verdict(now)
        if reason is not None:
            self._take_back(self.swaps[swap_id], reason, int(now))

    def _take_back(self, swap: Swap, reason: str, now: int) -> None:
        """Roll a swap back unless another has moved its name since; what is only prepared fails."""
        later = [self.swaps[other] for other in self._of_name(swap) if other > swap.swap_id]
        if any(other.is_in_force for other in later):
            return
        for other in later:
            why = f"swap {swap.swap_id}, which is before it, was rolled back"
            self._put(core.failed(other, why, now))
        self._put(core.rolled_back(swap, reason, now))

    # --- the file -------------------------------------------------------------------------------

    def _put(self, swap: Swap) -> Swap:
        self._store.begin()
        self._store.add_swap_event(swap.swap_id, swap.since, swap.state, swap.percent, swap.reason)
        swap = self._changed[swap.swap_id] = core.without_checks(swap)
        if swap.is_open or swap.is_in_force:
            self.swaps[swap.swap_id] = swap
        else:
            self.swaps.pop(swap.swap_id, None)
        if not swap.is_open:
            self.began.pop(swap.swap_id, None)
        self._watch(swap, swap.since)
        if swap.state in ("failed", "rolled_back"):
            self._notices.swap(swap)
        return swap

    def _watch(self, swap: Swap, now: int) -> None:
        """Begin or end to look at the attempts of a swap."""
        rules = swap.plan.rollback
        if rules is None or not core.is_watched(swap, now):
            self.watches.pop(swap.swap_id, None)
        elif swap.swap_id not in self.watches:
            self.watches[swap.swap_id] = Watch(rules)

    def _check_newest(self, swap: Swap) -> None:
        later = max(self._of_name(swap), default=0)
        if not swap.is_in_force or later <= swap.swap_id:
            return
        if self.swaps[later].is_in_force:
            problem = (
                f"moved {swap.plan.name!r} after swap {swap.swap_id}; roll that one back first"
            )
        else:
            problem = f"of {swap.plan.name!r} is being prepared; cancel that one first"
        raise Fault("conflict", f"swap {later} {problem}")

    def _of_name(self, swap: Swap) -> list[int]:
        """The swaps of its name that are open or in force."""
        return [one.swap_id for one in self.swaps.values() if one.plan.name == swap.plan.name]


def is_counted(ended: Settlement | EndedRow) -> bool:
    """Whether the end of an attempt says anything of its target.

    It does not where the client left, another attempt was faster, a budget had no more, or the
    request was at fault.
    """
    match ended.outcome:
        case "client_gone" | "cancelled" | "capped" | "orphan":
            return False
        case "not_dispatched":
            return bool(ended.error)  # without a reason: nobody tried
        case _:
            return ended.status not in _CALLERS_FAULTS


def latency_ms(ended: Settlement | EndedRow) -> int | None:
    """How long the client waited for something to read; None where the attempt failed."""
    if ended.outcome != "ok":
        return None
    waited_us = ended.total_us if ended.first_token_us is None else ended.first_token_us
    return waited_us // 1000


def swap_of(row: SwapRow) -> Swap:
    """A swap as the file has it."""
    return msgspec.convert(
        {**row._asdict(), "plan": msgspec.json.decode(row.plan, type=Plan)}, Swap
    )
