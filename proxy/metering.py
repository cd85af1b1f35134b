"""How a stream's hold follows what has flowed: a slice ahead, extended before it is used up.

What has flowed is counted by `wire.usage.counted`. The hold stays ahead of it by what a provider
may have generated and we have not seen.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Protocol

from proxy.ledger.errors import BudgetRefused, LedgerError
from proxy.ledger.protocol import BudgetState, Reserved
from proxy.wire.usage import counted

SLICE_TOKENS = 40
"""The least that a stream holds ahead of what was counted."""

LOW_TOKENS = 28
"""With less than this ahead, more is asked for."""

UNSEEN_TOKENS = 10
"""What may be on its way from the provider: with no more than this ahead, it has to stop."""


class Capped(Exception):
    """The stream must end here: `budget` has no more for it; None where the ledger is silent."""

    def __init__(self, budget: BudgetState | None) -> None:
        super().__init__("no more can be held for this stream")
        self.budget = budget


class Extend(Protocol):
    """Raises a hold, as `LedgerClient.extend` does."""

    def __call__(self, hold_nanousd: int, most_nanousd: int) -> Awaitable[Reserved]:
        """Ask for at least `hold_nanousd` in all, and up to `most_nanousd`."""


class Meter:
    """The hold of one stream. `base` is what its input costs at most, `token` one of output.

    Amounts are nano-USD; `most` is what the whole answer can cost, `token` above 0.
    """

    def __init__(self, *, base: int, token: int, held: int, most: int, extend: Extend) -> None:
        self._base = base
        self._token = token
        self._held = held
        self._most = most
        self._extend = extend
        self._asking: asyncio.Task[None] | None = None
        self._refused: BudgetRefused | None = None

    @property
    def held_nanousd(self) -> int:
        """What is held now."""
        return self._held

    async def follow(self, events: int, output_bytes: int) -> None:
        """See to it that what comes next is held as well. Raises `Capped` where it cannot be.

        Returns at once while there is enough; asks for more beside the stream while there is some,
        again and again, as what others hold may come free; and stops reading for the answer where
        there is none.
        """
        if self._held >= self._most:
            return
        used = counted(events, output_bytes)
        ahead = (self._held - self._base) // self._token - used
        if ahead > LOW_TOKENS:
            return
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(used))
        if ahead <= UNSEEN_TOKENS:
            await self._wait(used)

    async def cover(self, cost_nanousd: int) -> None:
        """Hold what the whole answer cost, where it came faster than the hold could follow."""
        if cost_nanousd <= self._held:
            return
        self.close()
        with contextlib.suppress(LedgerError):  # then it is an overrun, and is told as one
            await self._extend(cost_nanousd, cost_nanousd)

    def most_of(self, events: int, output_bytes: int) -> int:
        """What a stream that is cut after so much can have cost in all, as far as it is held."""
        used = counted(events, output_bytes) + UNSEEN_TOKENS
        return min(self._held, self._base + used * self._token)

    def unseen(self, cost_nanousd: int) -> int:
        """What may have been on its way beyond so much, as far as it is held."""
        return max(0, min(self._held - cost_nanousd, UNSEEN_TOKENS * self._token))

    def close(self) -> None:
        """Ask for nothing any more."""
        if self._asking is not None:
            self._asking.cancel()

    async def _wait(self, used: int) -> None:
        """Wait for the answer; the one under way may have been asked for too little."""
        for _ in range(2):
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask(used))
            await self._asking
            if self._is_ahead(used):
                return
        raise Capped(self._refused.refused.budget if self._refused is not None else None)

    def _is_ahead(self, used: int) -> bool:
        """Whether enough is held; all that it can cost is, however much was counted."""
        ahead = (self._held - self._base) // self._token - used
        return self._held >= self._most or ahead > UNSEEN_TOKENS

    async def _ask(self, used: int) -> None:
        wanted = min(self._most, self._base + (used + SLICE_TOKENS) * self._token)
        try:
            answer = await self._extend(wanted, self._most)
        except BudgetRefused as refused:
            self._refused = refused
        except LedgerError:
            self._refused = None
        else:
            self._refused = None
            self._held = self._most if answer.hold_nanousd is None else answer.hold_nanousd
        finally:
            self._asking = None
