"""Who is next: the most urgent first, and of equally urgent ones each caller in turn.

A caller that asks for more than others waits behind itself. Where the queue is full, whoever waits
least urgently, and has most in it, loses what it put there last.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Generic, Literal, TypeVar

T = TypeVar("T")

Priority = Literal["high", "normal", "low"]
RANKS: Mapping[Priority, int] = {"high": 0, "normal": 1, "low": 2}
"""The most urgent first."""


class FairQueue(Generic[T]):
    """At most `most` that wait; they must be hashable, and each be there once."""

    def __init__(self, most: int) -> None:
        self._most = most
        # By rank, callers in the order of their turns, each with what waits for it.
        self._ranks: tuple[OrderedDict[str, deque[T]], ...] = tuple(OrderedDict() for _ in RANKS)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, item: T, caller: str, priority: Priority) -> T | None:
        """Add what waits. Returns what must go for it, which may be the same; None if nothing."""
        self._ranks[RANKS[priority]].setdefault(caller, deque()).append(item)
        self._size += 1
        return self._lose() if self._size > self._most else None

    def take(self) -> T | None:
        """Remove and return what is next; None where nothing waits."""
        for callers in self._ranks:
            if callers:
                caller, waiting = callers.popitem(last=False)
                item = waiting.popleft()
                if waiting:
                    callers[caller] = waiting  # at the end of the round
                self._size -= 1
                return item
        return None

    def remove(self, item: T, caller: str, priority: Priority) -> None:
        """Take out what waits no more; what is not there stays so."""
        callers = self._ranks[RANKS[priority]]
        waiting = callers.get(caller)
        if waiting is None or item not in waiting:
            return
        waiting.remove(item)
        self._size -= 1
        if not waiting:
            del callers[caller]

    def _lose(self) -> T:
        callers = next(rank for rank in reversed(self._ranks) if rank)
        # Of callers with as many, the one that comes last in the round.
        caller = max(reversed(callers), key=lambda each: len(callers[each]))
        item = callers[caller].pop()
        if not callers[caller]:
            del callers[caller]
        self._size -= 1
        return item
