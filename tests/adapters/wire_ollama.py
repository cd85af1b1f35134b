"""Ollama's wire, as its documentation shows it.

Sources: Ollama's "API" (docs/api.md), "Errors" (docs/api/errors.mdx) and `api/types.go`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from adapters import base
from tests.adapters import wire
from tests.adapters.servers import Peer, Request
from tests.adapters.wire import Called, Failing, Json, Said

content_type = "application/x-ndjson"
tells = frozenset[str]()
optional = 0
MODEL = "model-x"


def _line(message: Json, **more: object) -> Json:
    said = {"role": "assistant", "content": "", **message}
    head = {"model": MODEL, "created_at": "2026-11-21T10:00:00.000000Z", "message": said}
    return {**head, "done": False, **more}


def _call(index: int, call: Called) -> Json:
    function = {"index": index, "name": call.name, "arguments": dict(call.arguments)}
    return {**({"id": call.id} if call.id else {}), "function": function}


def _done(said: Said) -> Json:
    return {
        "done": True,
        "done_reason": "length" if said.finish == "length" else "stop",
        "total_duration": 4883583458,
        "load_duration": 1334875,
        "prompt_eval_count": said.counts.prompt,
        "prompt_eval_duration": 342546000,
        "eval_count": said.counts.output,
        "eval_duration": 4535599000,
    }


def whole(said: Said) -> Json:
    message: Json = {"content": said.text}
    if said.thought:
        message["thinking"] = said.thought
    if said.calls:
        message["tool_calls"] = [_call(index, call) for index, call in enumerate(said.calls)]
    return _line(message, **_done(said))


def stream(said: Said) -> list[bytes]:
    lines = [_line({"thinking": text}) for text in said.thoughts]
    lines += (_line({"content": text}) for text in said.texts)
    lines += (_line({"tool_calls": [_call(index, call)]}) for index, call in enumerate(said.calls))
    return [json.dumps(line).encode() + b"\n" for line in (*lines, _line({}, **_done(said)))]


def frame(payload: bytes) -> bytes:
    return payload + b"\n"


def error_event(message: str, code: str) -> bytes:
    return json.dumps({"error": message}).encode() + b"\n"


failing: Mapping[str, Failing] = {
    "bad request": Failing(
        status=400,
        body={"error": '"model-x" does not support tools'},
        family=base.BadRequest,
    ),
    "context exceeded": Failing(
        status=400,
        body={"error": "input length exceeds maximum context length"},
        family=base.ContextExceeded,
    ),
    "wrong key": Failing(status=401, body={"error": "unauthorized"}, family=base.UpstreamAuth),
    "no such model": Failing(
        status=404,
        body={"error": 'model "model-x" not found, try pulling it first'},
        family=base.ModelNotFound,
    ),
    "rate limit": Failing(
        status=429,
        body={"error": "too many requests"},
        headers={"retry_after": "7"},
        retry_after="7",
        family=base.RateLimited,
    ),
    "server error": Failing(
        status=500, body={"error": "model runner has stopped"}, family=base.Overloaded
    ),
    "a remote model": Failing(
        status=502, body={"error": "upstream unreachable"}, family=base.Overloaded
    ),
    "queue full": Failing(
        status=503,
        body={"error": "server busy, please try again.  maximum pending requests exceeded"},
        family=base.Overloaded,
    ),
}


def read(peer: Peer) -> Request:
    """The request that follows the questions on its side: nothing is loaded, nothing known."""
    while True:
        request = peer.read_request()
        if "/api/ps" not in request.line and "/api/show" not in request.line:
            return request
        peer.send(wire.whole({"models": []}))


LINES = wire.stream_head(content_type)


def line(message: object, **more: object) -> bytes:
    """A line of an answer of `/api/chat`, in a piece of its own."""
    said = {"model": MODEL, "message": message, "done": False, **more}
    return wire.piece(json.dumps(said).encode() + b"\n")
