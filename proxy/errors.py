"""What we answer when we do not answer: one tree, and one table to HTTP.

    ApiError
    |- InvalidRequest         the body, a header or a parameter is wrong
    |  |- UnsupportedEncoding a Content-Encoding we do not read
    |  |- BodyTooLarge
    |  |- BodyTooSlow
    |  |- HeadTooLarge        the request's headers are more or larger than the server reads
    |  |- UnknownPrevious     the response or item that it builds on is not kept here
    |  |- ContextTooLong      no target's context holds the request
    |- MissingKey, WrongKey   who asks is unknown
    |- KeyExpired             the key was right, until its time was over
    |- KeyBlocked             the key, its team or its organisation is blocked
    |- NetworkRefused         the key may not be used from this address
    |- Forbidden              who asks may not
    |  |- EndpointForbidden   this key may not use this endpoint
    |- UnknownModel           no such model, or none that this key may name
    |- NotFound, WrongMethod  no such URL; no such method there
    |- Conflict               the resource is managed elsewhere
    |- BudgetExhausted        the money is spent
    |- BudgetBusy             the money is held by requests in flight
    |- RateLimited            too many requests or tokens a minute, or requests at a time
    |- LedgerDown             money cannot be counted, so none is spent
    |- HostDown               the process that holds local models cannot be reached
    |- Overloaded             as many requests as there may be are answered, and wait
    |- Stopping               the server stops, and this took longer than it waits
    |- NoTarget               no configured target can take the request
    |- UpstreamRefused        the provider says the request is at fault (its own status and words)
    |- UpstreamLimited        every target asked us to slow down
    |- UpstreamDown           every target failed
    |- UpstreamSlow           a target did not answer in time
    |- Internal               our own fault

Bodies have OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, all four always.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from adapters import base as upstream


class ApiError(Exception):
    """Ends a request with an error body. `headers` go out with it."""

    def __init__(
        self, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers: Mapping[str, str] = headers or {}

    @property
    def status(self) -> int:
        """The HTTP status."""
        return HTTP[type(self)][0]

    @property
    def kind(self) -> str:
        """OpenAI's `type`."""
        return HTTP[type(self)][1]

    @property
    def code(self) -> str | None:
        """OpenAI's `code`."""
        return HTTP[type(self)][2]

    def body(self) -> bytes:
        """The error object, as JSON."""
        said = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return msgspec.json.encode({"error": said})


class InvalidRequest(ApiError):
    """The body, a header or a parameter is wrong."""


class UnsupportedEncoding(InvalidRequest):
    """A `Content-Encoding` we do not read."""


class BodyTooLarge(InvalidRequest):
    """The body is larger than the server accepts."""


class BodyTooSlow(InvalidRequest):
    """The body stopped arriving."""


class HeadTooLarge(InvalidRequest):
    """The request's headers are more, or larger, than the server reads."""


class UnknownPrevious(InvalidRequest):
    """The response or item that a request builds on is not kept here, or another key's."""


class ContextTooLong(InvalidRequest):
    """No target's context holds the request."""


class MissingKey(ApiError):
    """No key was sent where one is needed."""


class WrongKey(ApiError):
    """The key is unknown, revoked, or contradicts another in the same request."""


class KeyExpired(ApiError):
    """The key was right, until its time was over."""


class KeyBlocked(ApiError):
    """The key, its team or its organisation is blocked, until the operator takes that back."""


class NetworkRefused(ApiError):
    """The key may not be used from the address it was sent from."""


class Forbidden(ApiError):
    """Who asks is known, and may not."""


class EndpointForbidden(Forbidden):
    """This key may not use this endpoint."""


class UnknownModel(ApiError):
    """No such model, or none that this key may name: the two are not told apart."""


class NotFound(ApiError):
    """No such URL or resource."""


class WrongMethod(ApiError):
    """The URL exists, the method there does not."""


class Conflict(ApiError):
    """The resource is managed elsewhere, or exists already."""


class BudgetExhausted(ApiError):
    """The money of a budget is spent until its window ends."""


class BudgetBusy(ApiError):
    """What is left of a budget is held by requests in flight."""


class RateLimited(ApiError):
    """A limit on requests or tokens a minute, or on requests at a time, is reached."""


class LedgerDown(ApiError):
    """Money cannot be counted right now, so nothing is dispatched."""


class HostDown(ApiError):
    """The process that holds the local models cannot be reached."""


class Overloaded(ApiError):
    """As many requests as there may be are being answered, and as many as may wait for them."""


class Stopping(ApiError):
    """The server stops, and the request took longer than it waits for."""


class NoTarget(ApiError):
    """No configured target can take the request; the message lists why, target by target."""


class UpstreamRefused(ApiError):
    """The provider says the request is at fault: its status and its words."""

    def __init__(self, error: upstream.UpstreamError) -> None:
        super().__init__(error.message, param=error.param, headers=error.headers)
        self._error = error

    @property
    def status(self) -> int:
        """The provider's status, where it is a client error that means the same here."""
        status = self._error.status
        return status if 400 <= status < 500 and status not in (401, 403, 407) else 502

    @property
    def kind(self) -> str:
        """The provider's `type`."""
        return self._error.type or "invalid_request_error"

    @property
    def code(self) -> str | None:
        """The provider's `code`, or the one its error family has at OpenAI."""
        if isinstance(self._error, upstream.ContextExceeded):
            return "context_length_exceeded"  # many servers repeat the status as the code
        if self._error.code:
            return self._error.code
        return "content_filter" if isinstance(self._error, upstream.ContentRefused) else None


class UpstreamLimited(ApiError):
    """Every target asked us to slow down."""


class UpstreamDown(ApiError):
    """Every target failed."""


class UpstreamSlow(ApiError):
    """A target did not answer in time."""


class Internal(ApiError):
    """Our own fault; the log has the reason under the request id."""


# error -> status, OpenAI's type, OpenAI's code. Codes as OpenAI documents them.
HTTP: Mapping[type[ApiError], tuple[int, str, str | None]] = {
    InvalidRequest: (400, "invalid_request_error", None),
    UnsupportedEncoding: (415, "invalid_request_error", "unsupported_encoding"),
    BodyTooLarge: (413, "invalid_request_error", "request_too_large"),
    BodyTooSlow: (408, "invalid_request_error", "request_timeout"),
    HeadTooLarge: (431, "invalid_request_error", "request_header_fields_too_large"),
    UnknownPrevious: (400, "invalid_request_error", "previous_response_not_found"),
    ContextTooLong: (400, "invalid_request_error", "context_length_exceeded"),
    MissingKey: (401, "invalid_request_error", None),
    WrongKey: (401, "invalid_request_error", "invalid_api_key"),
    KeyExpired: (401, "invalid_request_error", "expired_api_key"),
    KeyBlocked: (401, "invalid_request_error", "blocked_api_key"),
    NetworkRefused: (401, "invalid_request_error", "ip_not_authorized"),
    Forbidden: (403, "invalid_request_error", "forbidden"),
    EndpointForbidden: (403, "invalid_request_error", "missing_scope"),
    UnknownModel: (404, "invalid_request_error", "model_not_found"),
    NotFound: (404, "invalid_request_error", "not_found"),
    WrongMethod: (405, "invalid_request_error", "method_not_allowed"),
    Conflict: (409, "invalid_request_error", "conflict"),
    BudgetExhausted: (429, "insufficient_quota", "insufficient_quota"),
    BudgetBusy: (429, "rate_limit_exceeded", "rate_limit_exceeded"),
    RateLimited: (429, "rate_limit_exceeded", "rate_limit_exceeded"),
    LedgerDown: (503, "server_error", "ledger_unavailable"),
    HostDown: (503, "server_error", "model_host_unavailable"),
    Overloaded: (503, "server_error", "overloaded"),
    Stopping: (503, "server_error", "server_stopping"),
    NoTarget: (503, "server_error", "no_target"),
    UpstreamRefused: (400, "invalid_request_error", None),
    UpstreamLimited: (429, "rate_limit_exceeded", "rate_limit_exceeded"),
    UpstreamDown: (502, "server_error", "upstream_error"),
    UpstreamSlow: (504, "server_error", "upstream_timeout"),
    Internal: (500, "server_error", "internal_error"),
}


# The official SDKs wait as long as they are told up to this; beyond it one gives up, the other
# falls back to retrying every few seconds.
LONGEST_RETRY_S = 60


def from_upstream(error: upstream.AdapterError, source: str = "the provider") -> ApiError:
    """The answer for an attempt that failed and has no further target to fall back to.

    A provider's own words are passed on. What befell the connection is said of `source`, the
    target's name: addresses of the operator's network are for the row and the log.
    """
    match error:
        case upstream.Unsupported():
            return InvalidRequest(
                f"{source}: {error.message}; leave it out, or send 'x-tollway-drop-params: true'",
                param=error.param,
            )
        case upstream.Unavailable(retry_s=delay_s):
            delay = {"retry-after": str(math.ceil(delay_s))} if delay_s else {}
            return NoTarget(error.message, headers=delay)
        case upstream.BadRequest():
            return UpstreamRefused(error)
        case upstream.ModelNotFound():
            return UnknownModel(error.message, param="model")
        case upstream.RateLimited():
            return UpstreamLimited(error.message, headers=_retry_headers(error))
        case upstream.UpstreamTimeout(phase="request"):
            return UpstreamSlow(error.message)
        case upstream.UpstreamTimeout():
            return UpstreamSlow(f"{source} did not answer in time")
        case upstream.UpstreamError():
            return UpstreamDown(error.message, headers=_retry_headers(error))
        case upstream.ConnectFailed():
            return UpstreamDown(f"{source} cannot be reached")
        case upstream.ConnectionLost():
            return UpstreamDown(f"{source} broke its answer off")
        case _:
            return UpstreamDown(f"{source} sent what is no answer")


def stopping() -> Stopping:
    """The answer where a request takes longer than a server that stops waits for it."""
    return Stopping("the server stops before this is answered; try again")


def _retry_headers(error: upstream.UpstreamError) -> Mapping[str, str]:
    """The provider's headers, with the delay as both SDKs read it, or the advice not to retry."""
    delay = error.headers.get("retry-after", "")
    # A number longer than this one is no delay that anybody waits for.
    delay_s = int(delay[:9]) if delay.isdecimal() else 0
    if delay_s > LONGEST_RETRY_S or error.status == 402 or error.code == "insufficient_quota":
        return {**error.headers, "x-should-retry": "false"}
    if not delay_s:
        return error.headers
    return {"retry-after-ms": str(delay_s * 1000), **error.headers}


class StartError(Exception):
    """Why the product cannot start or carry out a command: one line, with what, where, remedy."""
