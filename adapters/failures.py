"""What a provider says went wrong, read as far as it can be, and which of our errors that is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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

# What clients act on; nothing else of an error's headers leaves the adapter.
_ERROR_HEADERS = ("retry-after", "x-should-retry", "x-ratelimit-", "anthropic-ratelimit-")
_LONGEST_MESSAGE = 2000

# What servers call the same thing in their error messages.
_CONTEXT = re.compile(
    r"context[ _](length|window|size)|maximum number of tokens|too many tokens"
    r"|prompt is too long|reduce the length",
    re.IGNORECASE,
)
_CONTENT = re.compile(r"content[ _](filter|policy|management)|moderation|flagged", re.IGNORECASE)
_MODEL = re.compile(r"model|deployment", re.IGNORECASE)
_LIMIT_CODES = ("rate_limit_exceeded", "insufficient_quota")


class Said(msgspec.Struct):
    """An error body, read as far as it can be."""

    message: str = ""
    type: str | None = None
    code: str | None = None
    param: str | None = None


def read_error(body: bytes) -> Said:
    """`{"error": {...}}` and the shapes that are sent in its place; nothing of an HTML page."""
    try:
        value: Any = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return Said()
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return Said()
    error = value.get("error") or value
    if not isinstance(error, dict):
        return Said(message=text_of(error) or "")
    return Said(
        message=text_of(error.get("message") or error.get("detail")) or "",
        type=text_of(error.get("type")),
        code=text_of(error.get("code")),
        param=text_of(error.get("param")),
    )


def text_of(value: object) -> str | None:
    """A member of an error body as text of bounded length."""
    if value is None:
        return None
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text[:_LONGEST_MESSAGE]


def upstream_error(
    kind: type[UpstreamError], status: int, said: Said, headers: Mapping[str, str]
) -> UpstreamError:
    """The error of a family, with what may leave the adapter of what the provider said."""
    message = said.message or f"the provider answered with HTTP status {status}"
    if kind is UpstreamAuth:
        message = "the provider refused the credentials that are configured for it"
    return kind(
        message,
        status=status,
        type=said.type,
        code=said.code,
        param=said.param,
        headers={n: value for n, value in headers.items() if n.startswith(_ERROR_HEADERS)},
    )


def error_family(status: int, message: str, code: str | None) -> type[UpstreamError]:
    """Which of our errors an HTTP status and the words of an OpenAI-like error stand for."""
    if status in (402, 429) or code in _LIMIT_CODES:
        return RateLimited
    if status in (408, 498) or status >= 500:
        return Overloaded
    if status in (400, 413, 422) and (
        code == "context_length_exceeded" or _CONTEXT.search(message)
    ):
        return ContextExceeded
    if status in (400, 403, 422) and _CONTENT.search(f"{code} {message}"):
        return ContentRefused
    if code == "model_not_found" or (status == 404 and _MODEL.search(message)):
        return ModelNotFound
    if status in (401, 403):
        return UpstreamAuth
    return UpstreamError if status in (404, 405) else BadRequest
