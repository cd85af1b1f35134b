"""The response object: what was asked, repeated, and what came of it.

Source: OpenAI's API reference, "The response object".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from proxy.errors import ApiError
from proxy.wire.surrogates import encode

Members = Mapping[str, msgspec.Raw]

# What a response repeats of its request, and what it says where that says nothing.
_DEFAULTS: Mapping[str, msgspec.Raw] = {
    name: msgspec.Raw(text)
    for name, text in {
        "background": b"false",
        "instructions": b"null",
        "max_output_tokens": b"null",
        "max_tool_calls": b"null",
        "metadata": b"{}",
        "parallel_tool_calls": b"true",
        "previous_response_id": b"null",
        "prompt_cache_key": b"null",
        "reasoning": b'{"effort":null,"summary":null}',
        "safety_identifier": b"null",
        "service_tier": b'"auto"',
        "store": b"true",
        "temperature": b"1.0",
        "text": b'{"format":{"type":"text"}}',
        "tool_choice": b'"auto"',
        "tools": b"[]",
        "top_logprobs": b"0",
        "top_p": b"1.0",
        "truncation": b'"disabled"',
        "user": b"null",
    }.items()
}
# What may be null in a request and has a value in every response.
_NEVER_NULL = frozenset(
    {"metadata", "parallel_tool_calls", "store", "text", "tool_choice", "tools", "truncation"}
)
_LONGEST_MESSAGE = 2000


def echo(members: Members) -> dict[str, msgspec.Raw]:
    """What a response repeats of the members of its request."""
    said = dict(_DEFAULTS)
    for name in _DEFAULTS:
        value = members.get(name)
        if value is not None and not (name in _NEVER_NULL and bytes(value) == b"null"):
            said[name] = value
    return said


def raw(value: object) -> msgspec.Raw:
    """A value as JSON that can stand in another, whatever surrogates it has."""
    return msgspec.Raw(encode(value))


def event(kind: bytes, payload: bytes) -> bytes:
    """One server-sent event. Clients read its kind from either place."""
    return b"event: %b\ndata: %b\n\n" % (kind, payload)


def response_id(request_id: str) -> str:
    """The id of the response to a request."""
    return f"resp_{request_id.removeprefix('req_')}"


@dataclass(kw_only=True, slots=True)
class Frame:
    """A response but for what comes of it."""

    id: str
    created: int
    model: str
    echo: Mapping[str, msgspec.Raw]

    def response(
        self,
        status: str,
        *,
        output: list[msgspec.Raw] | None = None,
        usage: dict[str, Any] | None = None,
        **said: Any,
    ) -> bytes:
        """The response as JSON; `said` are members beyond those that every one has."""
        return msgspec.json.encode(
            {
                "id": self.id,
                "object": "response",
                "created_at": self.created,
                "status": status,
                "error": None,
                "incomplete_details": None,
                "model": raw(self.model),
                **self.echo,
                "output": output or [],
                "usage": usage,
                **said,
            }
        )


def failed_events(frame: Frame, error: ApiError, number: int, **said: Any) -> bytes:
    """The events that end a response which failed; `number` is that of the first.

    Some clients know `response.failed` alone. The SDKs raise for whatever has an `error` member,
    which is why the other has the same thing twice.
    """
    message = error.message[:_LONGEST_MESSAGE]
    code = error.code or error.kind
    response = frame.response("failed", error=raw({"code": code, "message": message}), **said)
    failed = b'{"type":"response.failed","sequence_number":%d,"response":%b}' % (number, response)
    told = {"message": message, "type": error.kind, "param": error.param, "code": error.code}
    last = {
        "type": "error",
        "sequence_number": number + 1,
        "code": code,
        "message": message,
        "param": error.param,
        "error": told,
    }
    return event(b"response.failed", failed) + event(b"error", encode(last))


class Failures:
    """How somebody who speaks Responses is told that something went wrong."""

    keepalive = b": keepalive\n\n"

    def status(self, error: ApiError) -> int:
        """See `proxy.wire.dialect.Failures`."""
        return error.status

    def body(self, error: ApiError, request_id: str) -> bytes:
        """See `proxy.wire.dialect.Failures`."""
        return error.body()

    def event(self, error: ApiError, request_id: str) -> bytes:
        """See `proxy.wire.dialect.Failures`."""
        frame = Frame(id=response_id(request_id), created=0, model="", echo=_DEFAULTS)
        return failed_events(frame, error, 0)


FAILURES = Failures()
