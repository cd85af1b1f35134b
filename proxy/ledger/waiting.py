"""Reserves that wait for money which is only held, first come first served per budget. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from proxy.ledger.protocol import Reserve

C = TypeVar("C")


@dataclass(kw_only=True, slots=True, eq=False)
class Waiting(Generic[C]):
    """A reserve of `client` that waits for `budget_id` to have room."""

    client: C
    reserve: Reserve
    budget_id: int
    needed_nanousd: int
    """What it was refused for: with less room it is not worth another try."""
    is_over: bool = False
    """Its time is up: the next answer is the last."""


class WaitingRoom(Generic[C]):
    """Who waits for which budget."""

    def __init__(self) -> None:
        self._queues: dict[int, list[Waiting[C]]] = {}

    @property
    def is_used(self) -> bool:
        """Whether anybody waits."""
        return bool(self._queues)

    def add(self, waiting: Waiting[C]) -> None:
        """Wait behind whoever waits for the same budget already."""
        self._queues.setdefault(waiting.budget_id, []).append(waiting)

    def remove(self, waiting: Waiting[C]) -> bool:
        """Stop waiting; False where it was not in the room."""
        queue = self._queues.get(waiting.budget_id, [])
        if waiting not in queue:
            return False
        queue.remove(waiting)
        self._drop_empty()
        return True

    def leave(self, client: C) -> None:
        """Take out all that one client waits for."""
        self._take(lambda waiting: waiting.client is client)

    def empty(self) -> list[Waiting[C]]:
        """Take out everybody."""
        return self._take(lambda waiting: True)

    def admit(self, left_nanousd: Callable[[int], int | None]) -> list[Waiting[C]]:
        """Take out who has room now, in order, counting each against what its budget has left.

        A large hold does not keep smaller ones behind it waiting. None means that there is no
        limit any more.
        """
        left = {budget_id: left_nanousd(budget_id) for budget_id in self._queues}

        def has_room(waiting: Waiting[C]) -> bool:
            room = left[waiting.budget_id]
            if room is None:
                return True
            needed = waiting.needed_nanousd
            if needed > room:
                return False
            left[waiting.budget_id] = room - needed
            return True

        return self._take(has_room)

    def _take(self, is_wanted: Callable[[Waiting[C]], bool]) -> list[Waiting[C]]:
        taken: list[Waiting[C]] = []
        for budget_id, queue in self._queues.items():
            staying: list[Waiting[C]] = []
            for waiting in queue:
                (taken if is_wanted(waiting) else staying).append(waiting)
            self._queues[budget_id] = staying
        self._drop_empty()
        return taken

    def _drop_empty(self) -> None:
        self._queues = {budget_id: queue for budget_id, queue in self._queues.items() if queue}
