"""What can go wrong with the ledger.

LedgerError
|- LedgerUnavailable    nobody answered, or the disk failed: nothing may be dispatched
|- LedgerRefusal        an operator's op was refused: not found, conflict, invalid
|- BudgetRefused        a hold was refused
|- LedgerStartError     the file cannot be served (also a `StartError`: one line for the user)
   |- LedgerLocked      another process owns it
   |- LedgerTooNew      a newer version wrote it
   |- LedgerUnwritable  the folder or a file in it cannot be written
   |- LedgerCorrupt     it is not a ledger, or it is damaged
"""

from __future__ import annotations

from typing import Literal

from proxy.errors import StartError
from proxy.ledger.protocol import Refused


class LedgerError(Exception):
    """Something about the ledger; `str()` is one line for people."""


class LedgerUnavailable(LedgerError):
    """The ledger did not answer in time, or could not write. It recovers by itself."""


class LedgerRefusal(LedgerError):
    """An op was refused; `code` says why in one stable word."""

    def __init__(self, code: Literal["not_found", "conflict", "invalid"], message: str) -> None:
        super().__init__(message)
        self.code = code


class BudgetRefused(LedgerError):
    """No hold was made; `refused` says by which budget, in what state it was, and why."""

    def __init__(self, refused: Refused) -> None:
        budget = refused.budget
        of = f" by budget {budget.budget_id} on {budget.scope!r}" if budget is not None else ""
        super().__init__(f"refused{of}: {refused.reason}")
        self.refused = refused


class LedgerStartError(LedgerError, StartError):
    """The ledger in a data folder cannot be served."""


class LedgerLocked(LedgerStartError):
    """Another process owns the ledger."""


class LedgerTooNew(LedgerStartError):
    """A newer version of the product wrote the ledger."""


class LedgerUnwritable(LedgerStartError):
    """The data folder, or a file in it, cannot be written."""


class LedgerCorrupt(LedgerStartError):
    """The file is not a ledger, or it is damaged."""
