"""Amazon Bedrock's `Converse` and `ConverseStream` -> OpenAI's chat completions and chunks.

Source: Amazon Bedrock's API reference, "Converse", "ConverseStream" and "TokenUsage".
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import msgspec

from adapters.base import MalformedAnswer, UpstreamError
from adapters.http.over_http import Decoder, EventReader
from adapters.wire import aws_failures, loose_json
from adapters.wire.aws_event_stream import CONTENT_TYPE, EventStreamDecoder, FailedPayload
from adapters.wire.sse import NamedPayload

Json = dict[str, Any]

FINISH_REASONS: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
BROKEN = frozenset({"malformed_model_output", "malformed_tool_use"})
"""Why an answer stopped that is of no use."""


class _Members(msgspec.Struct, rename="camel"):
    """Members in the case of Amazon's JSON; unknown ones are skipped."""


class _Thought(_Members):
    """A block has `reasoning_text`, a piece of one what is in it."""

    reasoning_text: _Thought | None = None
    text: str | None = None
    signature: str | None = None
    redacted_content: str | None = None


class _Use(_Members):
    tool_use_id: str = ""
    name: str = ""
    input: Any = None


class _Block(_Members):
    """A block, its start, or a piece of it."""

    text: str | None = None
    tool_use: _Use | None = None
    reasoning_content: _Thought | None = None


class _Message(_Members):
    content: list[_Block]


class _Output(_Members):
    message: _Message | None = None


class _Cached(_Members):
    ttl: str = ""
    input_tokens: int = 0


class _Usage(_Members):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    cache_details: list[_Cached] | None = None

    def shown(self) -> Json:
        """OpenAI's usage, whose prompt includes what was read from and written to the cache."""
        read, written = self.cache_read_input_tokens or 0, self.cache_write_input_tokens or 0
        prompt = self.input_tokens + read + written
        usage: Json = {
            "prompt_tokens": prompt,
            "completion_tokens": self.output_tokens,
            "total_tokens": prompt + self.output_tokens,
            "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
        }
        for cached in self.cache_details or ():
            if cached.ttl == "1h" and cached.input_tokens:
                usage["cache_creation"] = {"ephemeral_1h_input_tokens": cached.input_tokens}
        return usage


class _Tier(_Members):
    type: str = ""


class _Whole(_Members):
    output: _Output | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None
    service_tier: _Tier | None = None


class _Event(_Members):
    """What any event of a stream has."""

    content_block_index: int = 0
    start: _Block | None = None
    delta: _Block | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


_event = msgspec.json.Decoder(_Event)
_whole = msgspec.json.Decoder(_Whole)


def _read(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return loose_json.decode_as(decoder, body)
    except (ValueError, RecursionError):
        raise MalformedAnswer("the provider's answer is not the JSON it should be") from None


class ConverseReader(EventReader):
    """Reads the answer to one translated call for `model`."""

    stream_types = frozenset({CONTENT_TYPE})

    def __init__(self, model: str) -> None:
        super().__init__()
        self._head: Json = {
            "id": f"chatcmpl-{uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._calls: dict[int, _Call] = {}
        self._signatures: dict[int, str] = {}
        self._has_said = self._is_finished = False
        self._usage: _Usage | None = None

    @property
    def is_whole(self) -> bool:
        """The usage comes behind the reason to stop, but the answer is whole without it."""
        return self._is_finished

    def decoder(self) -> Decoder:
        """See `Reader`."""
        return EventStreamDecoder()

    # --- whole ------------------------------------------------------------------------------------

    def read_body(self, body: bytes) -> bytes:
        """Raises `MalformedAnswer` and `UpstreamError`."""
        said: _Whole = _read(_whole, body)
        if said.output is None or said.output.message is None:
            raise MalformedAnswer("the provider's answer has no message")
        message = _message(said.output.message.content)
        finish = _finish(said.stop_reason, has_calls="tool_calls" in message)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        answer: Json = {**self._head, "object": "chat.completion", "choices": [choice]}
        if said.usage is not None:
            answer["usage"] = said.usage.shown()
        if said.service_tier is not None and said.service_tier.type:
            answer["service_tier"] = said.service_tier.type
        return loose_json.encode(answer)

    # --- stream -----------------------------------------------------------------------------------

    def read_payloads(self, payloads: list[bytes]) -> Sequence[bytes]:
        """Raises an error that comes before everything else; a later one is a payload."""
        ready: list[bytes] = []
        for payload in payloads:
            try:
                self._take(payload, ready)
            except UpstreamError as error:
                if not (self._has_said or ready):
                    raise
                said = {"message": error.message, "type": error.type, "code": error.code}
                ready.append(loose_json.encode({"error": {**said, "param": None}}))
                break
        self._has_said = self._has_said or bool(ready)
        return ready

    def _take(self, payload: bytes, ready: list[bytes]) -> None:
        if isinstance(payload, FailedPayload):
            raise aws_failures.error_in(payload)
        event: _Event = _read(_event, payload)
        match payload.event if isinstance(payload, NamedPayload) else b"":
            case b"messageStart":
                ready.append(self._chunk({"role": "assistant", "content": ""}))
            case b"contentBlockStart" if event.start is not None and event.start.tool_use:
                ready.append(self._begin_call(event.content_block_index, event.start.tool_use))
            case b"contentBlockDelta" if event.delta is not None:
                if delta := self._delta(event.content_block_index, event.delta):
                    ready.append(self._chunk(delta))
            case b"contentBlockStop":
                if delta := self._end(event.content_block_index):
                    ready.append(self._chunk(delta))
            case b"messageStop":
                finish = _finish(event.stop_reason, has_calls=bool(self._calls))
                self._is_finished = True
                ready.append(self._chunk({}, finish=finish))
            case b"metadata":
                self._usage = event.usage
        if self._is_finished and self._usage is not None:
            usage = {"choices": [], "usage": self._usage.shown()}
            ready.append(loose_json.encode({**self._head, **usage}))
            self.is_done = True

    def _begin_call(self, block: int, use: _Use) -> bytes:
        call = self._calls[block] = _Call(len(self._calls))
        head = {"index": call.index, "id": use.tool_use_id, "type": "function"}
        function = {"name": use.name, "arguments": ""}
        return self._chunk({"tool_calls": [{**head, "function": function}]})

    def _delta(self, block: int, piece: _Block) -> Json:
        if piece.text:
            return {"content": piece.text}
        if piece.tool_use is not None:
            call = self._calls.get(block)
            if call is None or not isinstance(piece.tool_use.input, str):
                raise MalformedAnswer("the provider sent a piece of no tool call")
            if not piece.tool_use.input:
                return {}
            call.has_arguments = True
            return call.delta(piece.tool_use.input)
        if (thought := piece.reasoning_content) is not None:
            if thought.signature:
                self._signatures[block] = self._signatures.get(block, "") + thought.signature
            if thought.redacted_content:
                return {"reasoning_details": [_encrypted(thought.redacted_content, block)]}
            return {"reasoning_content": thought.text} if thought.text else {}
        return {}

    def _end(self, block: int) -> Json:
        if (call := self._calls.get(block)) is not None and not call.has_arguments:
            return call.delta("{}")
        if signature := self._signatures.pop(block, ""):
            return {"reasoning_details": [_signed(signature, block)]}
        return {}

    def _chunk(self, delta: Json, *, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return loose_json.encode({**self._head, "choices": [choice]})


class _Call:
    """A tool call under way."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.has_arguments = False

    def delta(self, arguments: str) -> Json:
        return {"tool_calls": [{"index": self.index, "function": {"arguments": arguments}}]}


def _message(blocks: Sequence[_Block]) -> Json:
    text, thoughts = "", ""
    details: list[Json] = []
    calls: list[Json] = []
    for index, block in enumerate(blocks):
        if block.text is not None:
            text += block.text
        elif (use := block.tool_use) is not None:
            arguments = loose_json.encode({} if use.input is None else use.input).decode()
            function = {"name": use.name, "arguments": arguments}
            calls.append({"id": use.tool_use_id, "type": "function", "function": function})
        elif (thought := block.reasoning_content) is not None:
            if thought.redacted_content:
                details.append(_encrypted(thought.redacted_content, index))
            elif (said := thought.reasoning_text) is not None:
                thoughts += said.text or ""
                if said.signature:
                    details.append({**_signed(said.signature, index), "text": said.text or ""})
    message: Json = {"role": "assistant", "content": text if text or not calls else None}
    more = {"reasoning_content": thoughts, "reasoning_details": details, "tool_calls": calls}
    return {**message, "refusal": None, **{name: value for name, value in more.items() if value}}


def _encrypted(data: str, index: int) -> Json:
    return {"type": "reasoning.encrypted", "data": data, "index": index}


def _signed(signature: str, index: int) -> Json:
    return {"type": "reasoning.text", "signature": signature, "index": index}


def _finish(reason: str | None, *, has_calls: bool) -> str:
    if reason in BROKEN:
        said = f"the model broke its answer off with {reason}"
        raise UpstreamError(said, status=200, type="upstream_error", code=reason)
    finish = FINISH_REASONS.get(reason or "", "stop")
    return "tool_calls" if has_calls and finish == "stop" else finish
