"""Upstream streams as providers send them, and what a client reads of our canonical ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from adapters.base import AdapterError
from proxy.wire import chunks
from proxy.wire.dialect import Identity

Chunk = dict[str, Any]

HEAD: Chunk = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1700000000,
    "model": "gpt-x",
}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def encode(value: object) -> bytes:
    """JSON as most providers write it: compact, text as it is."""
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def chunk(delta: object, finish: object = None, index: int = 0, **fields: Any) -> Chunk:
    """A chunk with one choice."""
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {**HEAD, "choices": [choice], **fields}


def say(text: str, **fields: Any) -> Chunk:
    """A piece of content."""
    return chunk({"content": text}, **fields)


def call(*entries: object, finish: object = None) -> Chunk:
    """Entries of `delta.tool_calls`."""
    return chunk({"tool_calls": list(entries)}, finish)


def entry(
    index: object = None,
    id: object = None,
    name: object = None,
    arguments: object = None,
    **fields: Any,
) -> Chunk:
    """One entry of `delta.tool_calls`, without what is None."""
    function = {"name": name, "arguments": arguments}
    function = {key: value for key, value in function.items() if value is not None}
    head = {"index": index, "id": id, **fields}
    head = {key: value for key, value in head.items() if value is not None}
    return {**head, "function": function} if function else head


ROLE = chunk({"role": "assistant", "content": ""})
STOP = chunk({}, "stop")
USAGE_CHUNK = {**HEAD, "choices": [], "usage": USAGE}


def stream(
    *, wants_usage: bool = False, learns: bool = True, reads_cost: bool = False
) -> chunks.Stream:
    """A stream that has seen nothing yet."""
    return chunks.Stream(
        wants_usage=wants_usage,
        identity=Identity(
            request_id="req_0123456789abcdef", model="fallback-model", created=1234567890
        ),
        learns=learns,
        reads_cost=reads_cost,
    )


def relayed(upstream: Iterable[object], *, wants_usage: bool = False, learns: bool = True) -> bytes:
    """What a client gets for a whole upstream stream, which must be one."""
    relay = stream(wants_usage=wants_usage, learns=learns)
    payloads = [item if isinstance(item, bytes) else encode(item) for item in upstream]
    events, failure = relay.feed_all(payloads)
    if failure is not None:
        raise failure
    assert relay.is_finished
    return events + relay.end()


def decoded(events: bytes) -> list[Chunk]:
    """The chunks of a canonical stream, whose form is checked byte by byte."""
    *written, done, nothing = events.split(b"\n\n")
    assert (done, nothing) == (b"data: [DONE]", b"")
    found = []
    for event in written:
        assert event.startswith(b"data: {")
        assert b"\n" not in event and b"\r" not in event
        event.decode()
        found.append(json.loads(event[6:], parse_constant=lambda name: 1 / 0))
    return found


def client_of(upstream: Iterable[object], **how: bool) -> list[Chunk]:
    """The chunks a client reads."""
    return decoded(relayed(upstream, **how))


def failing(upstream: Sequence[object]) -> tuple[bytes, AdapterError]:
    """What a client gets before a stream fails, and the failure."""
    relay = stream()
    payloads = [item if isinstance(item, bytes) else encode(item) for item in upstream]
    events, failure = relay.feed_all(payloads)
    assert failure is not None
    return events, failure


def text_of(read: Sequence[Chunk], field: str = "content", index: int = 0) -> str:
    """The text of one choice, put together as every client does."""
    return "".join(
        choice["delta"].get(field) or ""
        for each in read
        for choice in each["choices"]
        if choice["index"] == index
    )


def finishes(read: Sequence[Chunk]) -> dict[int, list[str]]:
    """The finish reasons by choice."""
    found: dict[int, list[str]] = {}
    for each in read:
        for choice in each["choices"]:
            if choice["finish_reason"] is not None:
                found.setdefault(choice["index"], []).append(choice["finish_reason"])
    return found


def calls_of(read: Sequence[Chunk], index: int = 0) -> list[dict[str, Any]]:
    """The tool calls of one choice, put together as strictly as the official SDKs do.

    The first entry of a call has everything, the later ones only what is added to it.
    """
    calls: list[dict[str, Any]] = []
    for each in read:
        for choice in each["choices"]:
            if choice["index"] != index:
                continue
            for piece in choice["delta"].get("tool_calls", ()):
                _add(calls, piece)
    return calls


def _add(calls: list[dict[str, Any]], piece: dict[str, Any]) -> None:
    number = piece["index"]
    assert number <= len(calls), "a gap in the numbers"
    kind = next(key for key in chunks.CALL_KINDS if key in piece)
    text = chunks.CALL_KINDS[kind]
    if number == len(calls):
        assert piece["id"] and piece["type"] == kind
        assert isinstance(piece[kind][text], str)
        calls.append({"id": piece["id"], "kind": kind, "name": piece[kind]["name"], text: ""})
    else:
        assert not {"id", "type"} & piece.keys()
        if not calls[number]["name"]:
            calls[number]["name"] = piece[kind].get("name", "")
        else:
            assert "name" not in piece[kind]
    calls[number][text] += piece[kind][text]
