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
    r"context[ _](length|window|size|the overflows)|maximum number of tokens|too many tokens"
    r"|maximum prompt length|prompt is too long|reduce the length|max_new_tokens. must be <=",
    re.IGNORECASE,
)
# What llama.cpp's server refuses a request for, as if it had failed.
_LLAMA_REFUSAL = re.compile(
    r"(?P<long>input \(\d+ tokens\) is (too large|larger))|(image|audio) input is not supported"
)
_CONTENT = re.compile(
    r"content[ _](filter|policy|management)|moderation|flagged|usage guidelines", re.IGNORECASE
)
_MODEL = re.compile(r"model|deployment", re.IGNORECASE)
# "Invalid model: x", "Model x is not supported. Supported models are ..." with status 400.
_NO_MODEL = re.compile(
    r"invalid model\b|(the )?model \S+ (is not supported|does not exist|not found)", re.IGNORECASE
)
_KEY = re.compile(r"(incorrect|invalid) api key|api key not valid", re.IGNORECASE)
_CREDITS = re.compile(r"\bcredits?\b|spending limit|insufficient balance", re.IGNORECASE)
_LIMIT_CODES = ("rate_limit_exceeded", "insufficient_quota")
# Groq's, for what its model wrote and it could not read: another one may do better.
_MODEL_FAILED = ("tool_use_failed", "json_validate_failed")


Family = type[UpstreamError]


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
        return Said(message=text_of(error) or "", code=text_of(value.get("code")))  # xAI
    message = error.get("message") or error.get("detail")
    if isinstance(message, dict):
        message = message.get("detail") or message  # Mistral
    if isinstance(error.get("metadata"), dict):
        message = _relayed(error["metadata"]) or message
    if isinstance(message, list):
        return _refused_fields(message, error)
    return Said(
        message=text_of(message) or "",
        type=text_of(error.get("type")),
        code=text_of(error.get("code")),
        param=text_of(error.get("param")),
    )


def _relayed(metadata: dict[str, Any]) -> str | None:
    """What the provider behind OpenRouter said, with its name."""
    raw = metadata.get("raw")
    if not isinstance(raw, str):
        return None
    name = text_of(metadata.get("provider_name"))
    return f"{name or 'the provider'}: {read_error(raw.encode(errors='replace')).message or raw}"


def _refused_fields(details: list[Any], error: dict[str, Any]) -> Said:
    """The list of a validator (pydantic's): the words and the parameter of each entry."""
    found = [
        (_path(detail.get("loc")), text_of(detail.get("msg")))
        for detail in details
        if isinstance(detail, dict)
    ]
    words = "; ".join(f"{path}: {said}" if path else said for path, said in found if said)
    return Said(
        message=text_of(words or details) or "",
        type=text_of(error.get("type")),
        code=text_of(error.get("code")),
        param=next((path for path, _ in found if path), None),
    )


def _path(location: object) -> str:
    steps = [str(step) for step in location] if isinstance(location, list) else []
    return ".".join(steps[1:] if steps[:1] == ["body"] else steps)


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
        status=400 if status >= 500 and issubclass(kind, BadRequest) else status,
        type=said.type,
        code=said.code,
        param=said.param,
        headers={n: value for n, value in headers.items() if n.startswith(_ERROR_HEADERS)},
    )


def error_family(status: int, message: str, code: str | None, type: str | None = None) -> Family:
    """Which of our errors an HTTP status and the words of an OpenAI-like error stand for."""
    if status in (402, 429) or code in _LIMIT_CODES:
        return RateLimited
    if status == 500 and (refused := _LLAMA_REFUSAL.match(message)):
        return ContextExceeded if refused["long"] else BadRequest
    if status in (408, 498) or status >= 500:
        return Overloaded
    if code in _MODEL_FAILED:
        return UpstreamError
    if status in (400, 413, 422) and (
        code == "context_length_exceeded" or _CONTEXT.search(message)
    ):
        return ContextExceeded
    if status in (400, 403, 422) and _CONTENT.search(f"{code} {message}"):
        return ContentRefused
    if code == "model_not_found" or (status == 404 and _MODEL.search(message)):
        return ModelNotFound
    if status == 400 and (type == "invalid_model" or _NO_MODEL.match(message)):
        return ModelNotFound
    if status == 403 and _CREDITS.search(message):
        return RateLimited
    if status in (401, 403) or (status == 400 and _KEY.search(message)):
        return UpstreamAuth
    return UpstreamError if status in (404, 405) else BadRequest
