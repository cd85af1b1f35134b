"""`GET /api/v1/key`: what a caller's own key may still spend, as OpenRouter answers it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from proxy.admin.books import Books
from proxy.admin.shapes import iso, usd, usd_or_none
from proxy.auth import Auth
from proxy.http import Exchange
from proxy.ledger import reports
from proxy.ledger.protocol import BudgetState, KeyRecord, KeySettings

# OpenRouter's words. Other windows are named as they are: its clients accept unknown words.
_RESETS = {"day": "daily", "week": "weekly", "month": "monthly", "lifetime": None}


class OwnKey:
    """Answers whoever has a key, about that key."""

    def __init__(self, *, auth: Auth, books: Books) -> None:
        self._auth = auth
        self._books = books

    async def show(self, exchange: Exchange) -> None:
        """The state of the key that the request is made with."""
        data = await self._state(self._auth.record(exchange))
        headers = [(b"cache-control", b"no-store")]
        await exchange.reply(200, msgspec.json.encode({"data": data}), headers)

    async def _state(self, record: KeyRecord | None) -> dict[str, Any]:
        label, key_id, scope = "anonymous", "", "anonymous"
        settings = KeySettings(name="")
        if record is not None:
            label, key_id, scope = record.hint, record.key_id, f"key:{record.key_id}"
            settings = record.settings
        budgets = [b for b in await self._books.budgets(scope) if b.settings.mode == "hard"]
        tightest = min(budgets, key=lambda budget: budget.left_nanousd, default=None)
        spent = await self._books.report(reports.spent_by_day, self._books.database, key_id)
        per_minute = settings.limits.requests_per_minute
        return {
            "label": label,
            **_limit(tightest),
            **_usage(spent, datetime.fromtimestamp(self._books.clock.time(), UTC)),
            "include_byok_in_limit": False,
            "is_free_tier": False,
            "is_provisioning_key": False,
            "is_management_key": False,
            "creator_user_id": None,
            "expires_at": iso(settings.expires_at),
            "rate_limit": {
                "requests": -1 if per_minute is None else per_minute,
                "interval": "1m",
                "note": "-1 is no limit",
            },
        }


def _limit(budget: BudgetState | None) -> dict[str, Any]:
    """The hard budget of the key with the least left."""
    if budget is None:
        return {"limit": None, "limit_remaining": None, "limit_reset": None}
    window = budget.settings.window
    return {
        "limit": usd(budget.settings.limit_nanousd),
        "limit_remaining": usd_or_none(max(budget.left_nanousd, 0)),
        "limit_reset": _RESETS.get(window, window),
    }


def _usage(spent: dict[str, int], now: datetime) -> dict[str, Any]:
    """Sums from what was spent on each day (UTC): in all, today, since Monday, this month."""
    today = now.date()
    begins = {
        "usage": "",
        "usage_daily": today.isoformat(),
        "usage_weekly": (today - timedelta(days=today.weekday())).isoformat(),
        "usage_monthly": today.replace(day=1).isoformat(),
    }
    sums = {
        name: usd(sum(cost for day, cost in spent.items() if day >= begin))
        for name, begin in begins.items()
    }
    return sums | {f"byok_{name}": usd(0) for name in begins}
