"""What local models take, and what would be left: the model host's figures, as policies see them.

Each worker asks its host every few seconds. Until it has heard, and while there is no host, what is
declared counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from policies.base import Candidate
from proxy.model_host.protocol import ModelState, Shown


@dataclass(frozen=True, kw_only=True, slots=True)
class _Room:
    """Of one model, in MB: what it takes, and what is left once it is loaded."""

    memory_mb: int | None
    gpu_memory_mb: int | None
    left_memory_mb: int
    left_gpu_memory_mb: int


class LocalRoom:
    """The rooms of all local models. One per worker."""

    def __init__(self) -> None:
        self._rooms: dict[str, _Room] = {}
        self._shown: dict[str, tuple[Candidate, Candidate]] = {}

    def see(self, shown: Shown | None) -> None:
        """Take over how things stand; None: nobody knows any more."""
        self._shown.clear()
        self._rooms = {}
        if shown is not None:
            self._rooms = {model.name: _room(model, shown) for model in shown.models}

    def candidate(self, declared: Candidate) -> Candidate:
        """The candidate with what is measured of its memory: the same until there is news."""
        room = self._rooms.get(declared.name)
        if room is None:
            return declared
        known = self._shown.get(declared.name)
        if known is not None and known[0] is declared:
            return known[1]
        seen = replace(
            declared,
            memory_mb=declared.memory_mb if room.memory_mb is None else room.memory_mb,
            gpu_memory_mb=room.gpu_memory_mb,
            left_memory_mb=room.left_memory_mb,
            left_gpu_memory_mb=room.left_gpu_memory_mb,
        )
        self._shown[declared.name] = declared, seen
        return seen

    async def watch(self, look: Callable[[], Awaitable[Shown]], every_s: float) -> NoReturn:
        """Go on asking; until cancelled."""
        while True:
            try:
                self.see(await look())
            except OSError:
                self.see(None)
            await asyncio.sleep(every_s)


def _room(model: ModelState, shown: Shown) -> _Room:
    # What is loaded is among what is taken already.
    more, more_gpu = (0, 0) if model.is_there else (model.bytes, model.gpu_bytes)
    return _Room(
        memory_mb=_mb(model.bytes) or None,
        gpu_memory_mb=_mb(model.gpu_bytes),
        left_memory_mb=_left(shown.memory_bytes - shown.taken_bytes - more),
        left_gpu_memory_mb=_left(shown.gpu_memory_bytes - shown.taken_gpu_bytes - more_gpu),
    )


def _mb(size: int) -> int:
    """Rounded up: a model never takes less than it is said to."""
    return -(-size // (1 << 20))


def _left(size: int) -> int:
    return max(0, size >> 20)
