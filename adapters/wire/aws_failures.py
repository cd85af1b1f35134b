"""Which of our errors an error of Amazon Bedrock is.

Sources: Amazon Bedrock's API reference, "InvokeModel", "InvokeModelWithResponseStream",
"ConverseStream" and "Common Error Types"; "Troubleshooting Amazon Bedrock API Error Codes".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

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
from adapters.wire.aws_event_stream import FailedPayload
from adapters.wire.failures import Said, error_family, read_error, upstream_error

FAMILIES: Mapping[str, tuple[type[UpstreamError], int]] = {
    "AccessDeniedException": (UpstreamAuth, 403),
    "ConflictException": (UpstreamError, 400),
    "ExpiredTokenException": (UpstreamAuth, 403),
    "IncompleteSignature": (UpstreamAuth, 403),
    "IncompleteSignatureException": (UpstreamAuth, 403),
    "InternalFailure": (Overloaded, 500),
    "InternalServerException": (Overloaded, 500),
    "InvalidSignatureException": (UpstreamAuth, 403),
    "MissingAuthenticationTokenException": (UpstreamAuth, 403),
    "ModelErrorException": (Overloaded, 424),
    "ModelNotReadyException": (Overloaded, 429),
    "ModelStreamErrorException": (Overloaded, 424),
    "ModelTimeoutException": (Overloaded, 408),
    "NotAuthorized": (UpstreamAuth, 401),
    "OptInRequired": (UpstreamAuth, 403),
    "RequestExpired": (UpstreamAuth, 400),
    "ResourceNotFoundException": (ModelNotFound, 404),
    "ServiceQuotaExceededException": (RateLimited, 400),
    "ServiceUnavailableException": (Overloaded, 503),
    "ThrottlingException": (RateLimited, 429),
    "UnrecognizedClientException": (UpstreamAuth, 403),
    "ValidationException": (BadRequest, 400),
}
"""By name, with the status that it has where a stream that began with 200 brings it."""

# What a `ValidationException` does not tell, by the words of the message.
_REFINED: tuple[tuple[re.Pattern[str], type[UpstreamError]], ...] = (
    (
        re.compile(
            r"input is too long|prompt is too long|exceed context limit|too many input tokens"
            r"|context (length|window)|maximum number of (input )?tokens",
            re.IGNORECASE,
        ),
        ContextExceeded,
    ),
    (re.compile(r"model identifier is invalid|on-demand throughput", re.IGNORECASE), ModelNotFound),
    (re.compile(r"operation not allowed", re.IGNORECASE), UpstreamAuth),
    (re.compile(r"content filter", re.IGNORECASE), ContentRefused),
)


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """The error that an answer with an error status stands for."""
    name = re.split("[:#]", headers.get("x-amzn-errortype", ""))[0]
    return _error(name, status, read_error(body), headers)


def error_in(failed: FailedPayload) -> UpstreamError:
    """The error that ends a stream; its name begins with a small letter there."""
    given = failed.event.decode(errors="replace")
    proper = given[:1].upper() + given[1:]
    name = proper if proper in FAMILIES else given
    return _error(name, FAMILIES.get(name, (Overloaded, 500))[1], read_error(failed), {})


def _error(name: str, status: int, said: Said, headers: Mapping[str, str]) -> UpstreamError:
    known, _ = FAMILIES.get(name, (None, 0))
    family = known or error_family(status, said.message, None)
    if family is BadRequest:
        refined = (kind for words, kind in _REFINED if words.search(said.message))
        family = next(refined, BadRequest)
    said = msgspec.structs.replace(said, type=name or None, code=name or None)
    return upstream_error(family, status, said, headers)
