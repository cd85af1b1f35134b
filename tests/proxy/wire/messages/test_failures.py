"""Errors as Anthropic's clients read them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters import base
from proxy import errors
from proxy.errors import ApiError
from proxy.wire.messages.failures import ANTHROPIC_FAILURES


def told(error: ApiError) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(ANTHROPIC_FAILURES.body(error, "req_1"))
    assert body["type"] == "error"
    assert body["request_id"] == "req_1"
    said: dict[str, Any] = body["error"]
    return said


@pytest.mark.parametrize(
    ("kind", "status", "type_"),
    [
        (errors.InvalidRequest, 400, "invalid_request_error"),
        (errors.WrongKey, 401, "authentication_error"),
        (errors.Forbidden, 403, "permission_error"),
        (errors.UnknownModel, 404, "not_found_error"),
        (errors.WrongMethod, 405, "invalid_request_error"),
        (errors.BodyTooLarge, 413, "request_too_large"),
        (errors.UnsupportedEncoding, 415, "invalid_request_error"),
        (errors.BudgetExhausted, 429, "rate_limit_error"),
        (errors.RateLimited, 429, "rate_limit_error"),
        (errors.UpstreamDown, 502, "api_error"),
        (errors.LedgerDown, 503, "overloaded_error"),
        (errors.UpstreamSlow, 504, "timeout_error"),
        (errors.Internal, 500, "api_error"),
    ],
)
def test_the_status_tells_the_type(kind: type[ApiError], status: int, type_: str) -> None:
    error = kind("what happened")
    assert ANTHROPIC_FAILURES.status(error) == status
    assert (told(error)["type"], told(error)["message"]) == (type_, "what happened")


def test_the_cause_is_in_the_details() -> None:
    assert told(errors.BudgetExhausted("spent"))["details"] == {"error_code": "insufficient_quota"}
    assert told(errors.InvalidRequest("bad", param="x"))["details"] == {"param": "x"}
    assert "details" not in told(errors.InvalidRequest("bad"))


def test_clients_that_shorten_a_conversation_know_when_to() -> None:
    assert told(errors.ContextTooLong("no room"))["message"] == "prompt is too long: no room"
    refused = base.ContextExceeded("prompt is too long: 9 > 8", status=400)
    assert told(errors.UpstreamRefused(refused))["message"] == "prompt is too long: 9 > 8"


def test_an_error_in_a_stream_has_its_name() -> None:
    event = ANTHROPIC_FAILURES.event(errors.UpstreamDown("no"), "req_1")
    assert event.startswith(b'event: error\ndata: {"type":"error"')
    assert event.endswith(b"}\n\n")
