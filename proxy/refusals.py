"""What a caller is told when a request is not dispatched: no route, no money, no bound."""

from __future__ import annotations

import time
from typing import Any

from policies.base import Denial
from proxy.clock import Clock
from proxy.costs import OUTPUT
from proxy.errors import (
    LONGEST_RETRY_S,
    ApiError,
    BudgetBusy,
    BudgetExhausted,
    ContextTooLong,
    Forbidden,
    InvalidRequest,
    LedgerDown,
    NoTarget,
    RateLimited,
    WrongKey,
)
from proxy.ledger.errors import LedgerUnavailable
from proxy.ledger.protocol import BudgetState, RateRefusal, Refused
from proxy.pricing import format_usd
from proxy.targets import Target

# Why a target was left out that no later try changes.
_FOR_GOOD = frozenset({
    "capability", "demonstration", "cost", "price", "excluded", "region", "retention", "memory",
})  # fmt: skip


def denied(model: str, denial: Denial) -> ApiError:
    """The answer where no target passed the hard constraints; it lists why, target by target."""
    reasons = "; ".join(f"{r.target}: {r.reason}" for r in denial.rejections)
    if not denial.rejections:
        return NoTarget(f"the model {model!r} has no target: nothing that it names is configured")
    codes = {rejection.code for rejection in denial.rejections}
    if "context_length" in codes:
        return ContextTooLong(
            f"no target of {model!r} has a context that long ({reasons})", param="messages"
        )
    if codes <= _FOR_GOOD:
        return InvalidRequest(f"no target of {model!r} can do this ({reasons})", param="model")
    return NoTarget(f"no target of {model!r} can take this request ({reasons})")


def refused_money(
    refused: Refused, target: Target, *, unbounded: str | None, clock: Clock
) -> ApiError:
    """The answer where the ledger made no hold.

    `unbounded` names the parameter, if any, whose cost could not be held.
    """
    if refused.reason == "key_revoked":
        return WrongKey("the API key is unknown or revoked")
    if refused.rate is not None:
        return _too_fast(refused.rate)
    if refused.reason == "unpriced":
        return _unpriced(target, unbounded)
    budget = refused.budget
    assert budget is not None
    needed = format_usd(refused.needed_nanousd)
    if refused.held:
        return BudgetBusy(
            f"requests in flight hold what is left of {_describe(budget)}; "
            f"this one needs up to {needed}: try again shortly",
            headers={"retry-after": "1", "retry-after-ms": "1000"},
        )
    headers = {"x-should-retry": "false"}
    opens = ""
    if refused.needed_nanousd > budget.settings.limit_nanousd:
        opens = ", which is more than all of it"
    if budget.opens_at is not None:
        headers["retry-after"] = str(max(1, budget.opens_at - int(clock.time())))
        opens = f"; it opens again at {_utc(budget.opens_at)}"
    return BudgetExhausted(
        f"{_describe(budget)} cannot pay for this request: "
        f"spent {format_usd(budget.spent_nanousd)}, held {format_usd(budget.held_nanousd)}, "
        f"needed up to {needed}{opens}",
        headers=headers,
    )


def _unpriced(target: Target, unbounded: str | None) -> ApiError:
    if target.price is not None and unbounded == OUTPUT:
        return Forbidden(
            f"the cost of an answer of {target.name!r} has no upper bound, so it is not used under "
            "a hard budget; set 'max_output_tokens' for it in router.yaml",
            param="model",
        )
    if target.price is not None and unbounded:
        return Forbidden(
            f"the cost of {unbounded!r} has no upper bound, "
            "so no request with it is sent under a hard budget",
            param=unbounded,
        )
    return Forbidden(
        f"no price is known for {target.name!r}, so it is not used under a hard budget; "
        "set 'price' (or 'price: free') for it in router.yaml",
        param="model",
    )


def ledger_down(error: LedgerUnavailable) -> LedgerDown:
    """The answer where money cannot be counted."""
    return LedgerDown(
        f"the ledger cannot be reached, so nothing is dispatched ({error}); try again",
        headers={"retry-after": "1"},
    )


def cap_reason(budget: BudgetState) -> dict[str, Any]:
    """Why a stream was cut: the `tollway` object of its last chunk."""
    return {
        "reason": "budget_exhausted",
        "scope": budget.scope,
        "window": budget.settings.window,
        "limit": format_usd(budget.settings.limit_nanousd),
        "opens_at": None if budget.opens_at is None else _utc(budget.opens_at),
        "message": f"{_describe(budget)} has no more for this answer",
    }


def _too_fast(rate: RateRefusal) -> ApiError:
    what = {
        "requests": f"{rate.limit} requests a minute",
        "tokens": f"{rate.limit} tokens a minute",
        "concurrent": f"{rate.limit} requests at a time",
    }[rate.kind]
    if not rate.retry_ms:
        return RateLimited(
            f"the request alone is larger than the limit of {rate.scope!r}, {what}",
            headers={"x-should-retry": "false"},
        )
    seconds = -(-rate.retry_ms // 1_000)
    # SDKs back off by themselves, for seconds, where they are told to wait longer. The rest of a
    # wait, a tenth of a second at most, they are told when they come back.
    return RateLimited(
        f"{rate.scope!r} has reached its limit of {what}; try again in {seconds} s",
        headers={
            "retry-after": str(seconds),
            "retry-after-ms": str(min(rate.retry_ms, LONGEST_RETRY_S * 1_000)),
        },
    )


def _describe(budget: BudgetState) -> str:
    limit = format_usd(budget.settings.limit_nanousd)
    return f"the budget of {budget.scope!r} ({limit} {_per(budget.settings.window)})"


def _per(window: str) -> str:
    if window == "lifetime":
        return "in all"
    return f"in {window}" if window[0].isdigit() else f"a {window}"


def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
