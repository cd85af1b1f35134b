"""What is made of several attempts of one request that failed."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.auth import Caller
from proxy.errors import (
    ApiError,
    BudgetBusy,
    BudgetExhausted,
    Forbidden,
    LedgerDown,
    RateLimited,
    UpstreamRefused,
    WrongKey,
)

# Nothing was dispatched: there was no money, or no leave.
_REFUSALS = (BudgetBusy, BudgetExhausted, Forbidden, LedgerDown, RateLimited, WrongKey)
# A request that is itself at fault is refused by the next provider too; but for these reasons.
_OF_ONE_PROVIDER = ("context_length_exceeded", "content_filter")


def last_word(failures: Sequence[ApiError]) -> ApiError:
    """What the client is told: what a provider said last, else the first refusal of money."""
    heard = [failure for failure in failures if not isinstance(failure, _REFUSALS)]
    return heard[-1] if heard else failures[0]


def ends_all(failure: ApiError | None, caller: Caller) -> bool:
    """Whether no other target can help, or the caller wants none."""
    if isinstance(failure, UpstreamRefused):
        return failure.code not in _OF_ONE_PROVIDER
    if isinstance(failure, BudgetExhausted | BudgetBusy):
        return caller.at_cap == "stop"
    return isinstance(failure, LedgerDown | WrongKey)
