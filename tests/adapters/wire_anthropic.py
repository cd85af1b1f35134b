"""Anthropic's wire, as its documentation shows it.

Sources: Anthropic's API reference, "Create a Message", "Streaming messages" and "Errors"; "Prompt
caching" and "Thinking" in its documentation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from adapters import base
from tests.adapters.wire import Counts, Failing, Json, Said, frame, framed, piece, read

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

content_type = "text/event-stream; charset=utf-8"
tells = frozenset({"cached", "written", "written_1h"})
optional = 0
MODEL = "model-x"
STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


def whole(said: Said) -> Json:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [block for block, _ in _blocks(said)],
        "stop_reason": STOP_REASONS[said.finish],
        "stop_sequence": None,
        "usage": usage(said.counts),
    }


def usage(counts: Counts) -> Json:
    return {
        "input_tokens": counts.prompt - counts.cached - counts.written,
        "cache_read_input_tokens": counts.cached,
        "cache_creation_input_tokens": counts.written,
        "cache_creation": {
            "ephemeral_5m_input_tokens": counts.written - counts.written_1h,
            "ephemeral_1h_input_tokens": counts.written_1h,
        },
        "output_tokens": counts.output,
        "service_tier": "standard",
    }


def _blocks(said: Said) -> Iterator[tuple[Json, list[Json]]]:
    """Each block, and the deltas it is streamed in."""
    if said.thought or said.signature:
        yield (
            {"type": "thinking", "thinking": said.thought, "signature": said.signature},
            [
                *({"type": "thinking_delta", "thinking": text} for text in said.thoughts),
                {"type": "signature_delta", "signature": said.signature},
            ],
        )
    if said.redacted:
        yield {"type": "redacted_thinking", "data": said.redacted}, []
    if said.texts:
        yield (
            {"type": "text", "text": said.text},
            [{"type": "text_delta", "text": text} for text in said.texts],
        )
    for call in said.calls:
        yield (
            {"type": "tool_use", "id": call.id, "name": call.name, "input": dict(call.arguments)},
            [{"type": "input_json_delta", "partial_json": text} for text in ("", *call.pieces)],
        )


_EMPTY: Mapping[str, Json] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
    "redacted_thinking": {},
}


def event(value: Json) -> bytes:
    return framed(value, value["type"])


def stream(said: Said) -> list[bytes]:
    message = whole(said)
    start = {**message, "content": [], "stop_reason": None}
    start["usage"] = {**message["usage"], "output_tokens": 1}
    events: list[Json] = [{"type": "message_start", "message": start}]
    for index, (block, deltas) in enumerate(_blocks(said)):
        empty = {**block, **_EMPTY[block["type"]]}
        events.append({"type": "content_block_start", "index": index, "content_block": empty})
        if index == 0:
            events.append({"type": "ping"})
        events += ({"type": "content_block_delta", "index": index, "delta": d} for d in deltas)
        events.append({"type": "content_block_stop", "index": index})
    stop = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    total = {"output_tokens": said.counts.output}
    events.append({"type": "message_delta", "delta": stop, "usage": total})
    return [event(value) for value in (*events, {"type": "message_stop"})]


def error(kind: str, message: str = "no") -> Json:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def error_event(message: str, code: str) -> bytes:
    return event(error(code, message))


failing: Mapping[str, Failing] = {
    "bad request": Failing(
        status=400,
        body=error("invalid_request_error", "foo: Extra inputs are not permitted"),
        family=base.BadRequest,
    ),
    "context exceeded": Failing(
        status=400,
        body=error("invalid_request_error", "prompt is too long: 200251 tokens > 200000 maximum"),
        family=base.ContextExceeded,
    ),
    "content policy": Failing(
        status=400,
        body=error("invalid_request_error", "Output blocked by content filtering policy"),
        family=base.ContentRefused,
    ),
    "no credit": Failing(
        status=400,
        body=error(
            "invalid_request_error", "Your credit balance is too low to access the Anthropic API."
        ),
        family=base.RateLimited,
    ),
    "wrong key": Failing(
        status=401,
        body=error("authentication_error", "invalid x-api-key"),
        family=base.UpstreamAuth,
    ),
    "billing": Failing(
        status=402, body=error("billing_error", "Payment required"), family=base.RateLimited
    ),
    "no permission": Failing(
        status=403,
        body=error("permission_error", "Your API key does not have permission"),
        family=base.UpstreamAuth,
    ),
    "no such model": Failing(
        status=404, body=error("not_found_error", "model: model-x"), family=base.ModelNotFound
    ),
    "too large": Failing(
        status=413,
        body=error("request_too_large", "Request exceeds the maximum size"),
        family=base.BadRequest,
    ),
    "rate limit": Failing(
        status=429,
        body=error("rate_limit_error", "This request would exceed your rate limit"),
        family=base.RateLimited,
        headers={"retry_after": "7", "anthropic_ratelimit_requests_remaining": "0"},
        retry_after="7",
    ),
    "server error": Failing(
        status=500, body=error("api_error", "Internal server error"), family=base.Overloaded
    ),
    "timeout": Failing(
        status=504, body=error("timeout_error", "Request timed out"), family=base.Overloaded
    ),
    "overloaded": Failing(
        status=529, body=error("overloaded_error", "Overloaded"), family=base.Overloaded
    ),
    "a page of a proxy": Failing(
        status=502, body=b"<html>502 Bad Gateway</html>", family=base.Overloaded
    ),
}


def anthropic_event(value: Json) -> bytes:
    """An event of Anthropic's, which have names, in a piece of its own."""
    return piece(b"event: %b\ndata: %b\n\n" % (value["type"].encode(), json.dumps(value).encode()))


def anthropic_message(*content: Json, stop: str = "end_turn") -> Json:
    """A whole message."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": list(content),
        "stop_reason": stop,
        "usage": {"input_tokens": 3, "output_tokens": 5},
    }


def anthropic_events(message: Json) -> list[Json]:
    """The events of a message that is streamed, its texts in pieces."""
    start = {**message, "content": [], "stop_reason": None}
    events: list[Json] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for index, block in enumerate(message["content"]):
        deltas: list[Json] = []
        if block["type"] == "text":
            said = block["text"]
            deltas = [
                {"type": "text_delta", "text": said[at : at + 5]} for at in range(0, len(said), 5)
            ]
            block = {**block, "text": ""}
        elif block["type"] == "tool_use":
            said = json.dumps(block["input"])
            deltas = [{"type": "input_json_delta", "partial_json": text} for text in ("", said)]
            block = {**block, "input": {}}
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += ({"type": "content_block_delta", "index": index, "delta": d} for d in deltas)
        events.append({"type": "content_block_stop", "index": index})
    stop = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    usage = {"output_tokens": message["usage"]["output_tokens"]}
    return [
        *events,
        {"type": "message_delta", "delta": stop, "usage": usage},
        {"type": "message_stop"},
    ]
