"""Gemini's wire, as its documentation shows it.

Sources: the Gemini API reference, "Generating content" and "Error codes"; "Thinking", "Thought
signatures" and "Troubleshooting" in its documentation; Google's AIP-193 for errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adapters import base
from tests.adapters.wire import Counts, Failing, Json, Said, frame, framed, read

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
FINISH_REASONS = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
}


def _parts(said: Said) -> Iterator[list[Json]]:
    """The parts of each event."""
    for text in said.thoughts:
        yield [{"text": text, "thought": True}]
    for text in said.texts:
        yield [{"text": text}]
    for call in said.calls:
        called = {"name": call.name, "args": dict(call.arguments)}
        part: Json = {"functionCall": {**called, **({"id": call.id} if call.id else {})}}
        yield [part | ({"thoughtSignature": call.signature} if call.signature else {})]


def _response(parts: list[Json], finish: str | None, counts: Counts) -> Json:
    candidate: Json = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        "usageMetadata": usage(counts),
        "modelVersion": MODEL,
        "responseId": "r1",
    }


def usage(counts: Counts) -> Json:
    found = {
        "promptTokenCount": counts.prompt,
        "cachedContentTokenCount": counts.cached,
        "candidatesTokenCount": counts.output - counts.reasoned,
        "thoughtsTokenCount": counts.reasoned,
        "totalTokenCount": counts.prompt + counts.output,
    }
    return {name: count for name, count in found.items() if count}


def whole(said: Said) -> Json:
    parts = [part for parts in _parts(said) for part in parts]
    return _response(parts, FINISH_REASONS[said.finish], said.counts)


def stream(said: Said) -> list[bytes]:
    early = Counts(prompt=said.counts.prompt, output=1)
    events = [framed(_response(parts, None, early)) for parts in _parts(said)]
    last = _response([{"text": ""}], FINISH_REASONS[said.finish], said.counts)
    return [*events, framed(last)]


def error(status: int, name: str, message: str, *details: Json) -> Json:
    said = {"code": status, "message": message, "status": name}
    return {"error": {**said, "details": list(details)} if details else said}


def error_event(message: str, code: str) -> bytes:
    return framed(error(503, code, message))


failing: Mapping[str, Failing] = {
    "bad request": Failing(
        status=400,
        body=error(400, "INVALID_ARGUMENT", 'Invalid JSON payload received. Unknown name "foo"'),
        family=base.BadRequest,
    ),
    "context exceeded": Failing(
        status=400,
        body=error(
            400,
            "INVALID_ARGUMENT",
            "The input token count (1200000) exceeds the maximum number of tokens allowed "
            "(1048576).",
        ),
        family=base.ContextExceeded,
    ),
    "wrong key": Failing(
        status=400,
        body=error(
            400,
            "INVALID_ARGUMENT",
            "API key not valid. Please pass a valid API key.",
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
            },
        ),
        family=base.UpstreamAuth,
    ),
    "no billing": Failing(
        status=400,
        body=error(400, "FAILED_PRECONDITION", "Please enable billing on your project."),
        family=base.UpstreamError,
    ),
    "no permission": Failing(
        status=403,
        body=error(403, "PERMISSION_DENIED", "Your API key doesn't have permission."),
        family=base.UpstreamAuth,
    ),
    "no such model": Failing(
        status=404,
        body=error(404, "NOT_FOUND", "models/model-x is not found for API version v1beta"),
        family=base.ModelNotFound,
    ),
    "rate limit": Failing(
        status=429,
        body=error(
            429,
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota.",
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "6.5s"},
        ),
        family=base.RateLimited,
        retry_after="7",
    ),
    "server error": Failing(
        status=500, body=error(500, "INTERNAL", "An internal error"), family=base.Overloaded
    ),
    "overloaded": Failing(
        status=503,
        body=error(503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
        family=base.Overloaded,
    ),
    "timeout": Failing(
        status=504, body=error(504, "DEADLINE_EXCEEDED", "Deadline expired"), family=base.Overloaded
    ),
    "in a list": Failing(
        status=500, body=[error(500, "INTERNAL", "An internal error")], family=base.Overloaded
    ),
    "a page of a proxy": Failing(
        status=502, body=b"<html>502 Bad Gateway</html>", family=base.Overloaded
    ),
}


def gemini(*parts: Json, finish: str | None = None) -> Json:
    """A `GenerateContentResponse` of one candidate."""
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 5, "totalTokenCount": 8}
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": MODEL,
        "responseId": "r1",
    }
