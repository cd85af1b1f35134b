"""Which scopes have a hard budget: all that a worker must know of budgets before it asks for money.

The ledger alone decides what is admitted. A worker only needs to know whether a request must have a
bounded output, and may learn that a second late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from proxy.ledger.client import LedgerClient
from proxy.ledger.errors import LedgerError
from proxy.ledger.protocol import Budgets, ListBudgets

REFRESH_S = 1.0


class HardBudgets:
    """The scopes with a hard budget, asked of the ledger every second."""

    def __init__(self, ledger: LedgerClient) -> None:
        self._ledger = ledger
        # Until the ledger has answered, every scope counts as having one.
        self._scopes: frozenset[str] | None = None

    def cover(self, scopes: Iterable[str]) -> bool:
        """Whether any of these scopes has a hard budget."""
        return self._scopes is None or not self._scopes.isdisjoint(scopes)

    async def keep_current(self) -> None:
        """Ask again and again, until cancelled. An unreachable ledger leaves what was known."""
        while True:
            try:
                answer = await self._ledger.call(ListBudgets(0))
            except LedgerError:
                pass
            else:
                assert isinstance(answer, Budgets)
                self._scopes = frozenset(b.scope for b in answer.budgets if b.mode == "hard")
            await asyncio.sleep(REFRESH_S)
