from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.auth import Auth
from proxy.clock import SystemClock
from proxy.errors import WrongKey
from proxy.http import Exchange, Message
from proxy.own_key import OwnKey
from tests.proxy.admin.desk import SECRET, Desk


def _state(desk: Desk, key: str | None) -> Any:
    ledger = desk.ledger
    auth = Auth(
        secret=SECRET,
        keys=lambda: ledger.keys,
        groups=lambda: ledger.groups,
        allow_anonymous=True,
        clock=SystemClock(),
    )
    sent: list[bytes] = []

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> Message:
        raise AssertionError("there is no body to read")

    headers = [(b"host", b"localhost")]
    if key is not None:
        headers.append((b"authorization", f"Bearer {key}".encode()))
    scope = {"type": "http", "method": "GET", "path": "/api/v1/key", "headers": headers}
    desk.run(OwnKey(auth=auth, books=desk.books).show(Exchange(scope, receive, send)))
    return json.loads(b"".join(sent))["data"]


def test_a_key_sees_its_own_state_as_openrouter_shows_it(desk: Desk) -> None:
    made = desk.post(
        "/admin/v1/keys",
        {
            "name": "alice",
            "requests_per_minute": 60,
            "expires_at": "2100-01-01T00:00:00+00:00",
            "budgets": [
                {"limit_usd": 10, "window": "lifetime"},
                {"limit_usd": 2, "window": "day"},
                {"limit_usd": "0.1", "window": "day", "mode": "soft"},
            ],
        },
    )
    other = desk.post("/admin/v1/keys", {"name": "bob"})
    desk.spend(made["id"], 500_000_000)
    desk.spend(other["id"], 10**9)
    assert _state(desk, made["key"]) == {
        "label": made["hint"],
        "limit": 2.0,
        "limit_remaining": 1.5,
        "limit_reset": "daily",
        "usage": 0.5,
        "usage_daily": 0.5,
        "usage_weekly": 0.5,
        "usage_monthly": 0.5,
        "byok_usage": 0.0,
        "byok_usage_daily": 0.0,
        "byok_usage_weekly": 0.0,
        "byok_usage_monthly": 0.0,
        "include_byok_in_limit": False,
        "is_free_tier": False,
        "is_provisioning_key": False,
        "is_management_key": False,
        "creator_user_id": None,
        "expires_at": "2100-01-01T00:00:00+00:00",
        "rate_limit": {"requests": 60, "interval": "1m", "note": "-1 is no limit"},
    }
    unlimited = _state(desk, other["key"])
    assert (unlimited["limit"], unlimited["limit_remaining"], unlimited["usage"]) == (None, None, 1)


def test_without_keys_it_is_the_anonymous_callers_state(desk: Desk) -> None:
    desk.post("/admin/v1/budgets", {"scope": "anonymous", "limit_usd": 3, "window": "month"})
    state = _state(desk, None)
    assert (state["label"], state["limit"], state["limit_reset"]) == ("anonymous", 3.0, "monthly")


def test_a_wrong_key_sees_nothing(desk: Desk) -> None:
    desk.post("/admin/v1/keys", {"name": "alice"})
    with pytest.raises(WrongKey):
        _state(desk, "sk-tw-guessed")
