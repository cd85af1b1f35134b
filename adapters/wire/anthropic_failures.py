"""Which of our errors an error of Anthropic's API is.

Source: Anthropic's API reference, "Errors".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from adapters.base import (
    BadRequest,
    ContentRefused,
    ContextExceeded,
    ModelNotFound,
    Overloaded,
    RateLimited,
    UpstreamAuth,
    UpstreamError,
)
from adapters.wire.failures import error_family, read_error, upstream_error

FAMILIES: Mapping[str, type[UpstreamError]] = {
    "invalid_request_error": BadRequest,
    "request_too_large": BadRequest,
    "authentication_error": UpstreamAuth,
    "permission_error": UpstreamAuth,
    "billing_error": RateLimited,
    "rate_limit_error": RateLimited,
    "not_found_error": UpstreamError,
    "conflict_error": UpstreamError,
    "timeout_error": Overloaded,
    "api_error": Overloaded,
    "overloaded_error": Overloaded,
}
"""By the type in the error's body; for any other the HTTP status tells."""

# What types alone do not tell, by the words of the message.
_REFINED: Mapping[type[UpstreamError], tuple[tuple[re.Pattern[str], type[UpstreamError]], ...]] = {
    BadRequest: (
        (re.compile(r"prompt is too long|exceed context limit", re.IGNORECASE), ContextExceeded),
        # The operator's account is spent, which is no fault of the request.
        (re.compile(r"credit balance|usage limits|spend limit", re.IGNORECASE), RateLimited),
        (re.compile(r"content filtering policy", re.IGNORECASE), ContentRefused),
    ),
    UpstreamError: ((re.compile(r"\bmodel\b", re.IGNORECASE), ModelNotFound),),
}


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """The error that an answer with an error status stands for."""
    said = read_error(body)
    family = FAMILIES.get(said.type or "")
    if family is None:
        family = error_family(status, said.message, said.code)
    for words, refined in _REFINED.get(family, ()):
        if words.search(said.message):
            family = refined
            break
    return upstream_error(family, status, said, headers)
