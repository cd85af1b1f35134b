"""A canonical chat stream -> the events of a Messages stream.

Source: Anthropic's documentation, "Streaming messages". A block ends there before the next
begins, so of two tool calls at a time one waits for its turn.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from adapters.base import MalformedAnswer
from proxy.errors import ApiError
from proxy.pricing import Usage
from proxy.wire import usage as wire_usage
from proxy.wire.chunks import Chunk
from proxy.wire.dialect import Identity
from proxy.wire.messages import call_ids, reasoning
from proxy.wire.messages import usage as messages_usage
from proxy.wire.messages.failures import ANTHROPIC_FAILURES

STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
# What a piece of a block is called, and in which member of its delta it stands.
_DELTAS = {
    "text": b'"text_delta","text"',
    "thinking": b'"thinking_delta","thinking"',
    "tool_use": b'"input_json_delta","partial_json"',
}


def event(name: str, members: dict[str, Any]) -> bytes:
    """One event of a stream."""
    payload = _encode({"type": name, **members})
    return b"event: %b\ndata: %b\n\n" % (name.encode(), payload)


def message_id(identity: Identity) -> str:
    """What a translated answer is called."""
    return f"msg_{identity.request_id.removeprefix('req_')}"


def stopped_by(choice: dict[str, Any], stop_sequences: frozenset[str]) -> tuple[str, str | None]:
    """Anthropic's stop reason, and which sequence it was, for a choice that has finished.

    vLLM names the sequence in `stop_reason`; OpenRouter repeats what Anthropic said.
    """
    reason = choice["finish_reason"]
    if reason == "stop":
        sequence = choice.get("stop_reason")
        if isinstance(sequence, str) and sequence in stop_sequences:
            return "stop_sequence", sequence
        if choice.get("native_finish_reason") == "stop_sequence":
            return "stop_sequence", None
    return STOP_REASONS.get(reason, "end_turn"), None


@dataclass(slots=True, eq=False)
class _Block:
    """A block under way. `waiting` has its pieces that have not left, as JSON between quotes."""

    kind: str
    start: dict[str, Any]
    number: int | None = None
    """Which of the chat's tool calls it is."""
    head: bytes = b""
    """What stands before a piece, once the block has begun."""
    waiting: list[bytes] = field(default_factory=list)
    written: list[bytes] = field(default_factory=list)
    """Of a tool call: the pieces that have left."""
    size: int = 0
    """The bytes of all pieces that have left."""
    signature: str | None = None
    looked_at: int = -1
    is_whole: bool = False

    def write(self, piece: bytes) -> bytes:
        """The event for a piece."""
        if not piece:
            return b""
        self.size += len(piece)
        if self.number is not None:
            self.written.append(piece)
        return b'%b%b"}}\n\n' % (self.head, piece)

    @property
    def has_name(self) -> bool:
        return self.kind != "tool_use" or bool(self.start["name"])

    @property
    def is_sealed(self) -> bool:
        """Nothing is added to it any more."""
        return self.signature is not None or self.kind == "redacted_thinking"

    def may_end(self) -> bool:
        """Whether another block can begin: arguments have to be complete before."""
        if self.kind != "tool_use":
            return True
        if self.looked_at != len(self.written):
            self.looked_at = len(self.written)
            self.is_whole = _is_object(self.written)
        return self.is_whole


class MessageWriter:
    """Writes one stream. `input_tokens` stands in until the provider tells what it counted."""

    def __init__(
        self, identity: Identity, input_tokens: int, stop_sequences: frozenset[str]
    ) -> None:
        self._identity = identity
        self._estimate = Usage(input_tokens=max(1, input_tokens), output_tokens=0)
        self._stop_sequences = stop_sequences
        self._has_begun = False
        self._blocks: list[_Block] = []
        """The one that has begun, and those that wait for it to end."""
        self._latest: _Block | None = None
        """The one that the last piece belongs to."""
        self._calls: dict[int, _Block] = {}
        """Those of tool calls."""
        self._ended: set[int | None] = set()
        self._index = 0
        self._output_bytes = 0
        self._stop: tuple[str, str | None] = ("end_turn", None)
        self._reason: object = None

    def write(self, chunk: Chunk) -> bytes:
        """The events for a chunk."""
        events = [] if self._has_begun else [self._begin(chunk)]
        self._latest = None
        for choice in chunk["choices"]:
            if choice["index"] == 0:
                self._take(choice["delta"])
                if choice["finish_reason"]:
                    self._stop = stopped_by(choice, self._stop_sequences)
        events += self._advance(is_last=False)
        self._reason = chunk.get("tollway")
        return b"".join(events)

    def steady(self, chunk: Chunk) -> Callable[[bytes], bytes] | None:
        """What writes the further pieces of the block that this chunk continued."""
        block = self._latest
        if self._blocks != [block] or block is None or not block.head:
            return None
        return block.write

    def end(self, usage: Usage | None) -> bytes:
        """The end of the last block, why the answer ends, and what it took."""
        events = self._advance(is_last=True)
        if usage is None:
            usage = wire_usage.estimated(self._estimate.input_tokens, self._output_bytes)
        return b"".join(events) + ending(*self._stop, usage, self._reason)

    def fail(self, error: ApiError) -> bytes:
        """See `Writer`."""
        return ANTHROPIC_FAILURES.event(error, self._identity.request_id)

    def _begin(self, chunk: Chunk) -> bytes:
        self._has_begun = True
        message = {
            "id": message_id(self._identity),
            "type": "message",
            "role": "assistant",
            "model": chunk["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": messages_usage.shown(self._estimate),
        }
        return event("message_start", {"message": message})

    # --- what a delta says ---------------------------------------------------------------------

    def _take(self, delta: Chunk) -> None:
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            self._add("thinking", words(thought))
        if details := delta.get("reasoning_details"):
            self._take_details(details, has_text=bool(thought))
        for name in ("content", "refusal"):
            if delta.get(name):
                self._add("text", words(delta[name]))
        for entry in delta.get("tool_calls") or ():
            self._take_call(entry)

    def _take_details(self, details: object, *, has_text: bool) -> None:
        """A signature ends what was thought; its text has come before, but for some servers."""
        for _, block in reasoning.blocks(details):
            if block["type"] == "redacted_thinking":
                self._blocks.append(_Block(kind="redacted_thinking", start=block))
                continue
            last = self._blocks[-1] if self._blocks else None
            is_open = last is not None and last.kind == "thinking" and not last.is_sealed
            if block["thinking"] and not has_text and not is_open:
                self._add("thinking", block["thinking"])
                is_open = True
            if block["signature"]:
                if not is_open:
                    self._open("thinking")
                self._blocks[-1].signature = block["signature"]
                self._latest = None

    def _add(self, kind: str, text: str) -> None:
        if not text:
            return
        last = self._blocks[-1] if self._blocks else None
        if last is None or last.kind != kind or last.is_sealed:
            last = self._open(kind)
        last.waiting.append(_quoted(text))
        self._latest = last

    def _open(self, kind: str) -> _Block:
        start: dict[str, Any] = {"type": kind, kind: ""}
        if kind == "thinking":
            start["signature"] = ""
        block = _Block(kind=kind, start=start)
        self._blocks.append(block)
        return block

    def _take_call(self, entry: Chunk) -> None:
        number = entry["index"]
        function = entry.get("function") or entry.get("custom") or {}
        arguments = words(function.get("arguments") or function.get("input") or "")
        block = self._calls.get(number)
        if number in self._ended:
            if arguments.strip():
                raise MalformedAnswer("the provider went back to a tool call that was complete")
            return
        if block is None:
            start: dict[str, Any] = {
                "type": "tool_use",
                "id": call_ids.with_signature(entry),
                "name": function.get("name") or "",
                "input": {},
            }
            block = self._calls[number] = _Block(kind="tool_use", start=start, number=number)
            self._blocks.append(block)
        elif function.get("name"):
            block.start["name"] = function["name"]
        if arguments:
            block.waiting.append(_quoted(arguments))
            self._latest = block

    # --- what leaves ---------------------------------------------------------------------------

    def _advance(self, *, is_last: bool) -> list[bytes]:
        """Write what can be written: the first block, and the next ones once it may end."""
        events: list[bytes] = []
        while self._blocks:
            block = self._blocks[0]
            if not block.head:
                if not (block.has_name or is_last):
                    break
                events.append(self._start(block))
            events += self._pieces(block)
            has_ended = is_last or block.kind == "redacted_thinking"
            if not has_ended and not (len(self._blocks) > 1 and block.may_end()):
                break
            if block.kind == "thinking" and block.signature is None:
                events.append(self._signature(reasoning.UNSIGNED))
            events.append(event("content_block_stop", {"index": self._index}))
            self._index += 1
            self._output_bytes += block.size
            self._ended.add(block.number)
            del self._blocks[0]
        return events

    def _start(self, block: _Block) -> bytes:
        block.head = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":%b:"' % (self._index, _DELTAS.get(block.kind, b""))
        )
        return event("content_block_start", {"index": self._index, "content_block": block.start})

    def _pieces(self, block: _Block) -> list[bytes]:
        events = []
        if block.waiting:
            text = b"".join(block.waiting)
            block.waiting.clear()
            events.append(block.write(text))
        if block.signature:
            events.append(self._signature(block.signature))
            block.signature = ""
        return events

    def _signature(self, signature: str) -> bytes:
        delta = {"type": "signature_delta", "signature": signature}
        return event("content_block_delta", {"index": self._index, "delta": delta})


def ending(
    stop_reason: str, stop_sequence: str | None, usage: Usage, reason: object = None
) -> bytes:
    """The last two events; `reason` is why we cut the stream, if we did."""
    delta = {"stop_reason": stop_reason, "stop_sequence": stop_sequence}
    members: dict[str, Any] = {"delta": delta, "usage": messages_usage.cumulative(usage)}
    if reason is not None:
        members["tollway"] = reason
    return event("message_delta", members) + MESSAGE_STOP


def words(said: object) -> str:
    """A text, or the text of the parts that some servers send in its place."""
    if isinstance(said, str):
        return said
    if isinstance(said, list):
        texts = (part.get("text") for part in said if isinstance(part, dict))
        return "".join(text for text in texts if isinstance(text, str))
    raise MalformedAnswer("the provider sent words that are no text")


def _is_object(pieces: list[bytes]) -> bool:
    """Whether pieces of JSON, as they stand between two quotes, are a whole object."""
    if not pieces or not pieces[-1].endswith(b"}"):
        return False
    try:
        json.loads(json.loads(b'"%b"' % b"".join(pieces)))
    except (ValueError, RecursionError):
        return False
    return True


def _quoted(text: str) -> bytes:
    """A text as it stands between two quotes."""
    return _encode(text)[1:-1]


def _encode(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # a surrogate that stands alone
        return json.dumps(value, separators=(",", ":")).encode()
