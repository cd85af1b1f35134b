"""What an attempt failed of, as `fallbacks` in `router.yaml` name it."""

from __future__ import annotations

from typing import Literal, get_args

from adapters.base import (
    AdapterError,
    BadRequest,
    ConnectFailed,
    ConnectionLost,
    ContentRefused,
    ContextExceeded,
    MalformedAnswer,
    ModelNotFound,
    NotLoaded,
    Overloaded,
    RateLimited,
    Unavailable,
    UpstreamAuth,
    UpstreamTimeout,
)

Cause = Literal[
    "context_exceeded",
    "content_policy",
    "bad_request",
    "model_not_found",
    "auth",
    "rate_limited",
    "overloaded",
    "timeout",
    "unreachable",
    "malformed",
]

CAUSES: tuple[Cause, ...] = get_args(Cause)

# The first that an error is an instance of counts.
_CAUSES: tuple[tuple[type[AdapterError], Cause], ...] = (
    (ContextExceeded, "context_exceeded"),
    (ContentRefused, "content_policy"),
    (BadRequest, "bad_request"),
    (ModelNotFound, "model_not_found"),
    (UpstreamAuth, "auth"),
    (RateLimited, "rate_limited"),
    (Overloaded, "overloaded"),
    (UpstreamTimeout, "timeout"),
    (ConnectFailed, "unreachable"),
    (ConnectionLost, "unreachable"),
    (Unavailable, "unreachable"),
    (MalformedAnswer, "malformed"),
)
# A provider's quota is not there again in a moment.
_QUOTA_SPENT = "insufficient_quota"


def cause_of(error: AdapterError) -> Cause | None:
    """The cause of a failure; None for what no chain is for.

    That is the deadline of the request, a parameter that one target lacks, and a model that is
    being loaded, for which there is `cold_start`.
    """
    if isinstance(error, NotLoaded) or (
        isinstance(error, UpstreamTimeout) and error.phase == "request"
    ):
        return None
    return next((cause for kind, cause in _CAUSES if isinstance(error, kind)), None)


def is_stale(error: AdapterError) -> bool:
    """Whether a kept-alive connection was closed before the request was read, most likely."""
    return isinstance(error, ConnectionLost) and error.stale


def burdens(error: AdapterError) -> bool:
    """Whether more of the same would make things worse for the provider of what failed."""
    return cause_of(error) in ("overloaded", "timeout", "unreachable")


def is_transient(error: AdapterError) -> bool:
    """Whether the same target may answer in a moment, and asking it again costs little.

    A provider that was silent until a deadline may be at work on the request: it is not asked
    again, unless the deadline was for the connection.
    """
    if isinstance(error, UpstreamTimeout):
        return error.phase == "connect"
    if isinstance(error, RateLimited) and (error.status == 402 or error.code == _QUOTA_SPENT):
        return False
    if isinstance(error, RateLimited | Overloaded):
        said = error.headers.get("x-should-retry")
        return error.status != 501 and said != "false"
    return isinstance(error, ConnectFailed | ConnectionLost)
