"""A request is as urgent as it says, and never more than its caller may be."""

from __future__ import annotations

import pytest

from proxy.auth import Caller
from proxy.errors import InvalidRequest
from proxy.fair_queue import Priority
from proxy.http import Exchange
from proxy.priorities import Priorities

CALLER = Caller(key_id="k", name="k", scopes=("global", "organisation:o", "team:t", "key:k"))


def _of(by_scope: dict[str, Priority], header: bytes | None = None) -> Priority:
    headers = [] if header is None else [(b"x-tollway-priority", header)]
    scope = {"type": "http", "headers": headers, "method": "POST", "path": "/"}

    async def never(*_: object) -> None:
        raise AssertionError

    exchange = Exchange(scope, never, never)  # type: ignore[arg-type] # nothing is read or sent
    return Priorities(by_scope).of(CALLER, exchange)


def test_what_is_nearest_to_the_request_counts() -> None:
    assert _of({}) == "normal"
    assert _of({"team:other": "high"}) == "normal"
    assert _of({"organisation:o": "low", "team:t": "high"}) == "high"
    assert _of({"key:k": "low", "team:t": "high"}) == "low"


def test_a_request_can_ask_for_less_alone() -> None:
    assert _of({}, b"low") == "low"
    assert _of({}, b" High ") == "normal"
    assert _of({"key:k": "high"}, b"high") == "high"
    assert _of({"key:k": "high"}, b"normal") == "normal"
    with pytest.raises(InvalidRequest, match="must be one of high, normal, low"):
        _of({}, b"urgent")
