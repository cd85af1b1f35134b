"""One tree of errors, one table to HTTP, bodies in OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from adapters import base
from proxy import errors
from proxy.errors import HTTP, ApiError, from_upstream


def _tree(kind: type[Any]) -> Iterator[type[Any]]:
    for inner in kind.__subclasses__():
        yield inner
        yield from _tree(inner)


EVERY = [kind for kind in _tree(ApiError) if kind.__module__ == errors.__name__]


def test_every_error_has_its_row() -> None:
    assert set(HTTP) == set(EVERY)


def test_every_error_is_drawn_in_the_tree() -> None:
    for kind in EVERY:
        assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind is not errors.UpstreamRefused])
def test_bodies_have_openais_four_keys(kind: type[ApiError]) -> None:
    error = kind("no", param="p")
    body = json.loads(error.body())
    status, type_, code = HTTP[kind]
    assert body == {"error": {"message": "no", "type": type_, "param": "p", "code": code}}
    assert error.status == status
    assert 400 <= status < 600
    assert json.loads(kind("no").body())["error"]["param"] is None


# The exception that OpenAI's SDKs raise for a status, by which callers tell errors apart.
@pytest.mark.parametrize(
    ("kind", "status", "type_", "code"),
    [
        (errors.MissingKey, 401, "invalid_request_error", None),
        (errors.WrongKey, 401, "invalid_request_error", "invalid_api_key"),
        (errors.InvalidRequest, 400, "invalid_request_error", None),
        (errors.UnknownModel, 404, "invalid_request_error", "model_not_found"),
        (errors.ContextTooLong, 400, "invalid_request_error", "context_length_exceeded"),
        (errors.BodyTooLarge, 413, "invalid_request_error", "request_too_large"),
        (errors.NotFound, 404, "invalid_request_error", "not_found"),
        (errors.WrongMethod, 405, "invalid_request_error", "method_not_allowed"),
        (errors.BudgetExhausted, 429, "insufficient_quota", "insufficient_quota"),
        (errors.BudgetBusy, 429, "rate_limit_exceeded", "rate_limit_exceeded"),
    ],
)
def test_openais_cases_have_openais_answers(
    kind: type[ApiError], status: int, type_: str, code: str | None
) -> None:
    error = kind("no")
    assert (error.status, error.kind, error.code) == (status, type_, code)


def upstream(kind: type[base.UpstreamError] = base.UpstreamError, **fields: Any) -> ApiError:
    return from_upstream(kind("no", **{"status": 400, **fields}))


@pytest.mark.parametrize(
    ("failure", "kind", "status"),
    [
        (base.ConnectFailed("no"), errors.UpstreamDown, 502),
        (base.ConnectionLost("no"), errors.UpstreamDown, 502),
        (base.MalformedAnswer("no"), errors.UpstreamDown, 502),
        (base.UpstreamTimeout("no", phase="idle"), errors.UpstreamSlow, 504),
        (base.UpstreamTimeout("no", phase="connect"), errors.UpstreamSlow, 504),
        (base.UpstreamAuth("no", status=401), errors.UpstreamDown, 502),
        (base.UpstreamAuth("no", status=403), errors.UpstreamDown, 502),
        (base.Overloaded("no", status=529), errors.UpstreamDown, 502),
        (base.UpstreamError("no", status=200), errors.UpstreamDown, 502),
        (base.RateLimited("no", status=429), errors.UpstreamLimited, 429),
        (base.RateLimited("no", status=402), errors.UpstreamLimited, 429),
        (base.ModelNotFound("no", status=404), errors.UnknownModel, 404),
        (base.BadRequest("no", status=400), errors.UpstreamRefused, 400),
        (base.BadRequest("no", status=409), errors.UpstreamRefused, 409),
        (base.BadRequest("no", status=422), errors.UpstreamRefused, 422),
        (base.ContextExceeded("no", status=400), errors.UpstreamRefused, 400),
        # What would mean something else here: our key, our proxy, no error at all.
        (base.BadRequest("no", status=407), errors.UpstreamRefused, 502),
        (base.ContentRefused("no", status=403), errors.UpstreamRefused, 502),
        (base.BadRequest("no", status=304), errors.UpstreamRefused, 502),
    ],
)
def test_failures_upstream_have_their_answers(
    failure: base.AdapterError, kind: type[ApiError], status: int
) -> None:
    answer = from_upstream(failure, "up/m1")
    assert (type(answer), answer.status) == (kind, status)
    # A provider's words are passed on; of a connection only its target is named.
    said = isinstance(failure, base.UpstreamError)
    assert answer.message == "no" if said else answer.message.startswith("up/m1 ")
    assert json.loads(answer.body())["error"].keys() == {"message", "type", "param", "code"}


def test_every_failure_upstream_has_an_answer() -> None:
    for kind in _tree(base.AdapterError):
        if issubclass(kind, base.UpstreamError):
            answer = from_upstream(kind("no", status=500))
        elif kind is base.UpstreamTimeout:
            answer = from_upstream(kind("no", phase="first_byte"))
        elif kind is base.Unsupported:
            answer = from_upstream(kind("no", param="n"))
        else:
            answer = from_upstream(kind("no"))
        assert answer.status not in (401, 403)


def test_what_a_target_has_no_parameter_for_is_named_with_it() -> None:
    answer = from_upstream(base.Unsupported("it has no 'n'", param="n"), "up/m1")
    assert (answer.status, answer.param) == (400, "n")
    assert answer.message.startswith("up/m1: it has no 'n'")
    assert "x-tollway-drop-params" in answer.message


def test_what_cannot_be_had_now_says_why_and_when() -> None:
    answer = from_upstream(base.Unavailable("no room", retry_s=1.2), "local/m1")
    assert (type(answer), answer.status, answer.message) == (errors.NoTarget, 503, "no room")
    assert answer.headers == {"retry-after": "2"}
    assert from_upstream(base.Unavailable("no room")).headers == {}


def test_a_refusal_keeps_the_providers_words() -> None:
    refused = upstream(base.BadRequest, type="t", code="c", param="p")
    assert (refused.kind, refused.code, refused.param) == ("t", "c", "p")
    plain = upstream(base.BadRequest)
    assert (plain.kind, plain.code, plain.param) == ("invalid_request_error", None, None)
    assert upstream(base.ContextExceeded).code == "context_length_exceeded"
    assert upstream(base.ContentRefused).code == "content_filter"


BOTH = {"retry-after": "7", "retry-after-ms": "6500"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, {}),
        ({"retry-after": "7"}, {"retry-after": "7", "retry-after-ms": "7000"}),
        (BOTH, BOTH),
        ({"retry-after": "60"}, {"retry-after": "60", "retry-after-ms": "60000"}),
        ({"retry-after": "61"}, {"retry-after": "61", "x-should-retry": "false"}),
        ({"retry-after": "9" * 9999}, {"retry-after": "9" * 9999, "x-should-retry": "false"}),
        ({"retry-after": "0"}, {"retry-after": "0"}),
        ({"retry-after": "soon"}, {"retry-after": "soon"}),
        ({"retry-after": "\u00b2"}, {"retry-after": "\u00b2"}),
        ({"x-should-retry": "true"}, {"x-should-retry": "true"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [base.RateLimited, base.Overloaded])
def test_clients_are_told_when_to_retry(
    kind: type[base.UpstreamError], headers: dict[str, str], expected: dict[str, str]
) -> None:
    assert upstream(kind, status=429, headers=headers).headers == expected


def test_a_spent_account_is_not_retried() -> None:
    spent = ({"status": 402}, {"status": 429, "code": "insufficient_quota"})
    for fields in spent:
        headers = upstream(base.RateLimited, headers={"x-should-retry": "true"}, **fields).headers
        assert headers["x-should-retry"] == "false"


def test_the_sdk_retries_what_we_expect() -> None:
    """`_should_retry` is the SDK's own rule, headers first."""
    with openai.OpenAI(api_key="x", base_url="http://127.0.0.1:1/v1") as client:
        for failure, retries in (
            (upstream(base.RateLimited, status=429, headers={"retry-after": "7"}), True),
            (upstream(base.RateLimited, status=429, headers={"retry-after": "600"}), False),
            (upstream(base.RateLimited, status=402), False),
            (upstream(base.ModelNotFound, status=404), False),
            (from_upstream(base.ConnectionLost("no")), True),
        ):
            response = _response(failure)
            assert client._should_retry(response) is retries


def _response(failure: ApiError) -> Any:
    return httpx2.Response(failure.status, headers=dict(failure.headers))
