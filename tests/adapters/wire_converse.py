"""The wire of Amazon Bedrock's Converse, as its documentation shows it, and Amazon's errors.

Sources: Amazon Bedrock's API reference, "Converse", "ConverseStream" and "TokenUsage"; its errors
are those of "InvokeModel" too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adapters import base
from tests.adapters import clouds
from tests.adapters.wire import Called, Counts, Failing, Json, Said, read, stream_head

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

content_type = "application/vnd.amazon.eventstream"
tells = frozenset({"cached", "written", "written_1h"})
FRAMES = stream_head(content_type)
optional = 1  # the metadata: an answer is whole without its usage

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "content_filtered",
}


def whole(said: Said) -> Json:
    message = {"role": "assistant", "content": [block for block, _, _ in _blocks(said)]}
    return {
        "output": {"message": message},
        "stopReason": _STOP_REASONS[said.finish],
        "usage": usage(said.counts),
        "metrics": {"latencyMs": 412},
    }


def usage(counts: Counts) -> Json:
    return {
        "inputTokens": counts.prompt - counts.cached - counts.written,
        "outputTokens": counts.output,
        "totalTokens": counts.prompt + counts.output,
        "cacheReadInputTokens": counts.cached,
        "cacheWriteInputTokens": counts.written,
        "cacheDetails": [
            {"ttl": "5m", "inputTokens": counts.written - counts.written_1h},
            {"ttl": "1h", "inputTokens": counts.written_1h},
        ],
    }


def _blocks(said: Said) -> Iterator[tuple[Json, Json | None, list[Json]]]:
    """Each block whole; how it starts, where it says so; and its pieces."""
    if said.thought or said.signature:
        text = {"text": said.thought, "signature": said.signature}
        pieces: list[Json] = [{"text": thought} for thought in said.thoughts]
        pieces.append({"signature": said.signature})
        yield (
            {"reasoningContent": {"reasoningText": text}},
            None,
            [{"reasoningContent": piece} for piece in pieces],
        )
    if said.redacted:
        block = {"reasoningContent": {"redactedContent": said.redacted}}
        yield block, None, [block]
    if said.texts:
        yield {"text": said.text}, None, [{"text": text} for text in said.texts]
    for call in said.calls:
        yield _tool(call), _tool_start(call), [{"toolUse": {"input": p}} for p in call.pieces]


def _tool(call: Called) -> Json:
    return {"toolUse": {"toolUseId": call.id, "name": call.name, "input": dict(call.arguments)}}


def _tool_start(call: Called) -> Json:
    return {"toolUse": {"toolUseId": call.id, "name": call.name}}


def stream(said: Said) -> list[bytes]:
    events = [clouds.event("messageStart", {"role": "assistant", "p": "abc"})]
    for index, (_, start, pieces) in enumerate(_blocks(said)):
        place = {"contentBlockIndex": index}
        if start is not None:
            events.append(clouds.event("contentBlockStart", {**place, "start": start}))
        events += (
            clouds.event("contentBlockDelta", {**place, "delta": piece, "p": "abcd"})
            for piece in pieces
        )
        events.append(clouds.event("contentBlockStop", place))
    events.append(clouds.event("messageStop", {"stopReason": _STOP_REASONS[said.finish]}))
    told = {"usage": usage(said.counts), "metrics": {"latencyMs": 412}}
    return [*events, clouds.event("metadata", told)]


def frame(payload: bytes) -> bytes:
    headers = clouds.header(":event-type", "contentBlockDelta")
    return clouds.message(headers + clouds.header(":message-type", "event"), payload)


def error_event(message: str, code: str) -> bytes:
    return clouds.exception(code, message)


def _failing(
    status: int,
    name: str,
    family: type[base.UpstreamError],
    message: str,
    retry_after: str | None = None,
) -> Failing:
    headers = {"x_amzn_ErrorType": f"{name}:http://internal.amazon.com/coral/"}
    if retry_after:
        headers["retry_after"] = retry_after
    return Failing(
        status=status,
        body={"message": message},
        family=family,
        headers=headers,
        retry_after=retry_after,
    )


failing: Mapping[str, Failing] = {
    "bad request": _failing(
        400, "ValidationException", base.BadRequest, "extraneous key [foo] is not permitted"
    ),
    "context exceeded": _failing(
        400,
        "ValidationException",
        base.ContextExceeded,
        "Input is too long for requested model.",
    ),
    "no such model": _failing(
        400, "ValidationException", base.ModelNotFound, "The provided model identifier is invalid."
    ),
    "access denied": _failing(
        403,
        "AccessDeniedException",
        base.UpstreamAuth,
        "You don't have access to the model with the specified model ID.",
    ),
    "wrong signature": _failing(
        403,
        "InvalidSignatureException",
        base.UpstreamAuth,
        "The request signature we calculated does not match the signature you provided.",
    ),
    "not found": _failing(
        404, "ResourceNotFoundException", base.ModelNotFound, "Could not resolve the model"
    ),
    "timeout": _failing(
        408, "ModelTimeoutException", base.Overloaded, "Model has timed out in processing"
    ),
    "model error": _failing(
        424, "ModelErrorException", base.Overloaded, "The model returned an error"
    ),
    "rate limit": _failing(
        429, "ThrottlingException", base.RateLimited, "Too many requests, please wait", "7"
    ),
    "not ready": _failing(
        429, "ModelNotReadyException", base.Overloaded, "Model is not ready for inference"
    ),
    "quota": _failing(
        400, "ServiceQuotaExceededException", base.RateLimited, "Your quota is exceeded"
    ),
    "server error": _failing(500, "InternalServerException", base.Overloaded, "Try again"),
    "unavailable": _failing(
        503, "ServiceUnavailableException", base.Overloaded, "Bedrock is unable to process"
    ),
}
