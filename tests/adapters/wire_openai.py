"""OpenAI's wire, with DeepSeek's `reasoning_content`, as their documentation shows it.

Sources: OpenAI's API reference, "Chat completions", "Streaming" and "Error codes"; DeepSeek's
"Thinking mode".
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from adapters import base
from tests.adapters.wire import Called, Counts, Failing, Json, Said, frame, framed, read

__all__ = [
    "content_type",
    "error_event",
    "failing",
    "frame",
    "optional",
    "read",
    "stream",
    "tells",
    "whole",
]

content_type = "text/event-stream"
tells = frozenset({"cached", "reasoned"})
optional = 0
MODEL = "model-x"
DONE = b"data: [DONE]\n\n"


def whole(said: Said) -> Json:
    message: Json = {"role": "assistant", "content": said.text or None, "refusal": None}
    if said.thought:
        message["reasoning_content"] = said.thought
    if said.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": _function(call)} for call in said.calls
        ]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": said.finish}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": MODEL,
        "choices": [choice],
        "usage": usage(said.counts),
        "service_tier": "default",
    }


def _function(call: Called) -> Json:
    return {"name": call.name, "arguments": json.dumps(call.arguments)}


def usage(counts: Counts) -> Json:
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.output,
        "total_tokens": counts.prompt + counts.output,
        "prompt_tokens_details": {"cached_tokens": counts.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": counts.reasoned, "audio_tokens": 0},
    }


def chunk(delta: Json, finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return framed(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1_790_000_000,
            "model": MODEL,
            "choices": [choice],
            "usage": None,
            **more,
        }
    )


def stream(said: Said) -> list[bytes]:
    events = [chunk({"role": "assistant", "content": "", "refusal": None})]
    events += (chunk({"reasoning_content": text}) for text in said.thoughts)
    events += (chunk({"content": text}) for text in said.texts)
    for index, call in enumerate(said.calls):
        function: Json = {"name": call.name, "arguments": ""}
        entry = {"index": index, "id": call.id, "type": "function", "function": function}
        events.append(chunk({"tool_calls": [entry]}))
        for text in call.pieces:
            piece = {"index": index, "function": {"arguments": text}}
            events.append(chunk({"tool_calls": [piece]}))
    events.append(chunk({}, said.finish))
    events.append(chunk({}, choices=[], usage=usage(said.counts)))
    return [*events, DONE]


def error_event(message: str, code: str) -> bytes:
    return framed({"error": {"message": message, "type": "server_error", "code": code}})


def error(message: str, kind: str, code: str | None = None, param: str | None = None) -> Json:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


_INVALID = "invalid_request_error"
failing: Mapping[str, Failing] = {
    "bad request": Failing(
        status=400,
        body=error("Unrecognized request argument: foo", _INVALID, "unknown_parameter", "foo"),
        family=base.BadRequest,
    ),
    "context exceeded": Failing(
        status=400,
        body=error(
            "This model's maximum context length is 128000 tokens. However, your messages resulted "
            "in 200003 tokens.",
            _INVALID,
            "context_length_exceeded",
            "messages",
        ),
        family=base.ContextExceeded,
    ),
    "content policy": Failing(
        status=400,
        body=error("Your request was flagged by our usage policy.", _INVALID, "content_filter"),
        family=base.ContentRefused,
    ),
    "wrong key": Failing(
        status=401,
        body=error("Incorrect API key provided: sk-x.", _INVALID, "invalid_api_key"),
        family=base.UpstreamAuth,
    ),
    "not in this region": Failing(
        status=403,
        body=error(
            "Country, region, or territory not supported",
            "request_forbidden",
            "unsupported_country_region_territory",
        ),
        family=base.UpstreamAuth,
    ),
    "no such model": Failing(
        status=404,
        body=error("The model `x` does not exist", _INVALID, "model_not_found"),
        family=base.ModelNotFound,
    ),
    "rate limit": Failing(
        status=429,
        body=error("Rate limit reached", "requests", "rate_limit_exceeded"),
        family=base.RateLimited,
        headers={"retry_after": "7", "x_ratelimit_remaining_requests": "0"},
        retry_after="7",
    ),
    "quota": Failing(
        status=429,
        body=error("You exceeded your current quota", "insufficient_quota", "insufficient_quota"),
        family=base.RateLimited,
    ),
    "server error": Failing(
        status=500,
        body=error("The server had an error", "server_error"),
        family=base.Overloaded,
    ),
    "overloaded": Failing(
        status=503,
        body=error("The engine is currently overloaded", "server_error"),
        family=base.Overloaded,
    ),
    "slow down": Failing(
        status=503,
        body=error("Slow down", "server_error", "slow_down"),
        family=base.Overloaded,
        headers={"retry_after": "3"},
        retry_after="3",
    ),
    "a page of a proxy": Failing(
        status=502, body=b"<html>502 Bad Gateway</html>", family=base.Overloaded
    ),
}
