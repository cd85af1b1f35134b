"""Which scopes have a hard budget: all that a worker must know of budgets before it asks for money.

The ledger alone decides what is admitted. A worker only needs to know whether a request must have
a bounded output.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from proxy import budgets
from proxy.ledger.protocol import HardScope


class HardScopes:
    """The scopes with a hard budget, as the ledger says. Until it has, every scope counts."""

    def __init__(self) -> None:
        self._is_known = False
        self._single: set[str] = set()
        # Scopes of several parts, and those with `*`.
        self._others: set[str] = set()

    def replace(self, scopes: Iterable[str]) -> None:
        """Take over what the ledger says on a new connection."""
        self._is_known = True
        self._single.clear()
        self._others.clear()
        for scope in scopes:
            self.change(HardScope(scope, True))

    def change(self, change: HardScope) -> None:
        """Take over one change."""
        scope = change.scope
        is_single = budgets.AND not in scope and not scope.endswith(f":{budgets.EACH}")
        known = self._single if is_single else self._others
        if change.is_hard:
            known.add(scope)
        else:
            known.discard(scope)

    def cover(self, scopes: Collection[str]) -> bool:
        """Whether an attempt with these scopes meets any hard budget."""
        if not self._is_known or not self._single.isdisjoint(scopes):
            return True
        return any(_meets(scope, scopes) for scope in self._others)


def _meets(scope: str, scopes: Collection[str]) -> bool:
    return all(
        any(has.startswith(part[:-1]) for has in scopes)
        if part.endswith(f":{budgets.EACH}")
        else part in scopes
        for part in budgets.scope_parts(scope)
    )
