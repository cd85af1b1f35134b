"""Anthropic's messages, whole and streamed -> OpenAI's chat completions and chunks.

Sources: Anthropic's API reference, "Create a Message" and "Streaming messages"; "Thinking",
"Citations" and "Handling stop reasons" in its documentation.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from adapters.base import MalformedAnswer, UpstreamError
from adapters.http.over_http import EventReader
from adapters.wire import loose_json
from adapters.wire.sse import NamedPayload

T = TypeVar("T")

_FINISH: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_TIERS: Mapping[str, str] = {"standard": "default"}
_RAW = frozenset({"text", "thinking", "partial_json"})
_NO_TEXT = msgspec.Raw(b'""')
_NULL = b"null"
_QUOTE = ord('"')


class _CacheCreation(msgspec.Struct):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None
    server_tool_use: dict[str, Any] | None = None
    service_tier: str | None = None

    def update(self, later: _Usage) -> None:
        """Counts are cumulative: what is told later replaces what was told before."""
        for name in self.__struct_fields__:
            if (value := getattr(later, name)) is not None:
                setattr(self, name, value)

    def shown(self) -> dict[str, Any]:
        """OpenAI's usage, whose prompt includes what was read from and written to the cache."""
        read, written = self.cache_read_input_tokens or 0, self.cache_creation_input_tokens or 0
        prompt = (self.input_tokens or 0) + read + written
        output = self.output_tokens or 0
        usage: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
        }
        if self.output_tokens_details is not None:
            thought = self.output_tokens_details.thinking_tokens or 0
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
        if self.cache_creation is not None:
            usage["cache_creation"] = {
                "ephemeral_5m_input_tokens": self.cache_creation.ephemeral_5m_input_tokens or 0,
                "ephemeral_1h_input_tokens": self.cache_creation.ephemeral_1h_input_tokens or 0,
            }
        if self.server_tool_use:
            usage["server_tool_use"] = self.server_tool_use
        return usage


class _Citation(msgspec.Struct):
    """What is cited; only what has an address has a place in OpenAI's annotations."""

    url: str | None = None
    title: str | None = None
    cited_text: str | None = None


class _Block(msgspec.Struct):
    type: str
    text: str = ""
    citations: list[_Citation] | None = None
    thinking: str = ""
    signature: str = ""
    data: str = ""
    id: str = ""
    name: str = ""
    input: Any = None


class _StopDetails(msgspec.Struct):
    explanation: str | None = None


class _Message(msgspec.Struct):
    id: str = ""
    model: str = ""
    content: list[_Block] | None = None
    stop_reason: str | None = None
    stop_details: _StopDetails | None = None
    usage: _Usage | None = None


class _Error(msgspec.Struct):
    type: str | None = None
    message: str | None = None


class _Whole(_Message):
    error: _Error | None = None


class _Delta(msgspec.Struct):
    """Text stays the JSON it came in: it goes on as it is."""

    type: str = ""
    text: msgspec.Raw = _NO_TEXT
    thinking: msgspec.Raw = _NO_TEXT
    partial_json: msgspec.Raw = _NO_TEXT
    signature: str = ""
    citation: _Citation | None = None
    stop_reason: str | None = None
    stop_details: _StopDetails | None = None


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Message | None = None
    usage: _Usage | None = None
    error: _Error | None = None


class _Typed(msgspec.Struct):
    type: str


_typed = msgspec.json.Decoder(_Typed)
_event = msgspec.json.Decoder(_Event)
_whole = msgspec.json.Decoder(_Whole)


def _read_event(payload: bytes) -> _Event:
    try:
        return _event.decode(payload)
    except (ValueError, RecursionError):
        return _convert(payload, _Event)


def _read_whole(body: bytes) -> _Whole:
    try:
        return _whole.decode(body)
    except (ValueError, RecursionError):
        return _convert(body, _Whole)


def _convert(payload: bytes, kind: type[T]) -> T:
    """What a fast parser refuses: surrogates that stand alone, or what is no answer at all."""
    try:
        value = loose_json.decode(payload)
        if isinstance(value, dict) and isinstance(delta := value.get("delta"), dict):
            for name in _RAW.intersection(delta):
                delta[name] = msgspec.Raw(loose_json.encode(delta[name]))
        return msgspec.convert(value, kind)
    except (ValueError, RecursionError):
        raise MalformedAnswer("the provider's answer is not the JSON it should be") from None


class MessagesReader(EventReader):
    """Passes on what is Anthropic's for who asked in its dialect."""

    def read_payloads(self, payloads: list[bytes]) -> Sequence[bytes]:
        """The events as they came, without those that only keep the connection alive."""
        ready: list[bytes] = []
        for payload in payloads:
            kind = payload.event if isinstance(payload, NamedPayload) else _kind(payload)
            if kind != b"ping":
                ready.append(payload)
            if kind == b"message_stop":
                self.is_done = True
                break
        return ready


def _kind(payload: bytes) -> bytes:
    """The type of an event without a name, whatever else it holds."""
    try:
        return loose_json.decode_as(_typed, payload).type.encode(errors="replace")
    except (ValueError, RecursionError):
        raise MalformedAnswer("the provider sent an event without a type") from None


class ChatReader(EventReader):
    """Reads the answer to one translated call: `model` names it where the answer does not."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self._head = {"id": "", "object": "chat.completion", "created": int(time.time())}
        self._model = model
        self._usage = _Usage()
        self._blocks: dict[int, _Open] = {}
        self._calls = 0
        self._citations = 0
        self._before, self._after = self._frame()
        self._characters = 0  # of text, so far

    # --- whole ------------------------------------------------------------------------------------

    def read_body(self, body: bytes) -> bytes:
        """The chat completion that a message stands for."""
        answer = _read_whole(body)
        if answer.error is not None:
            said = answer.error.message or "the provider reported an error in its answer"
            raise UpstreamError(said, status=200, type=answer.error.type, code=answer.error.type)
        if answer.content is None:
            raise MalformedAnswer("the provider's answer has no content")
        usage = answer.usage or _Usage()
        choice = {
            "index": 0,
            "message": _message(answer),
            "logprobs": None,
            "finish_reason": _finish(answer.stop_reason),
        }
        completion = {
            **self._head,
            "id": answer.id,
            "model": answer.model or self._model,
            "choices": [choice],
            "usage": usage.shown(),
        }
        return loose_json.encode({**completion, **_tier(usage)})

    # --- stream -----------------------------------------------------------------------------------

    def read_payloads(self, payloads: list[bytes]) -> Sequence[bytes]:
        """The chunks that events stand for; many stand for none."""
        ready: list[bytes] = []
        for payload in payloads:
            event = _read_event(payload)
            if event.type == "content_block_delta":
                self._continue(event, ready)
            elif event.type == "message_stop":
                ready.append(self._last_chunk())
                self.is_done = True
                break
            else:
                self._turn(event, ready)
        return ready

    def _turn(self, event: _Event, ready: list[bytes]) -> None:
        """Everything but the pieces of a block; kinds that are not known say nothing."""
        match event.type:
            case "content_block_start":
                self._begin(event, ready)
            case "content_block_stop":
                if (block := self._blocks.pop(event.index, None)) is not None:
                    self._end(block, event.index, ready)
            case "message_start":
                self._start(event.message or _Message())
                ready.append(self._chunk({"role": "assistant", "content": ""}))
            case "message_delta":
                ready += self._finish(event)
            case "error":
                ready.append(_error(event.error or _Error()))

    def _start(self, message: _Message) -> None:
        self._head["id"] = message.id
        self._model = message.model or self._model
        self._usage.update(message.usage or _Usage())
        self._before, self._after = self._frame()

    def _frame(self) -> tuple[bytes, bytes]:
        """The bytes around the delta of every chunk."""
        head = {**self._head, "object": "chat.completion.chunk", "model": self._model}
        chunk = {**head, "choices": [{"index": 0, "delta": 0, "finish_reason": None}]}
        before, delta, after = loose_json.encode(chunk).rpartition(b'"delta":0')
        return before + delta[:-1], after

    def _continue(self, event: _Event, ready: list[bytes]) -> None:
        delta = event.delta
        if delta is None:
            return
        kind = delta.type
        if kind == "text_delta":
            if text := _said(delta.text):
                self._characters += _length(text)
                ready.append(b'%b{"content":%b}%b' % (self._before, text, self._after))
        elif kind == "thinking_delta":
            if text := _said(delta.thinking):
                ready.append(b'%b{"reasoning_content":%b}%b' % (self._before, text, self._after))
        elif block := self._blocks.get(event.index):
            if kind == "input_json_delta":
                if (text := _said(delta.partial_json)) and block.call is not None:
                    block.has_arguments = True
                    ready.append(self._arguments(block.call, text))
            elif kind == "signature_delta":
                block.signatures.append(delta.signature)
            elif kind == "citations_delta" and delta.citation is not None:
                block.citations.append(delta.citation)

    def _begin(self, event: _Event, ready: list[bytes]) -> None:
        block = event.content_block
        if block is None:
            return
        self._blocks[event.index] = opened = _Open(block, starts_at=self._characters)
        match block.type:
            case "text" if block.text:
                self._characters += len(block.text)
                ready.append(self._chunk({"content": block.text}))
            case "thinking":
                opened.signatures.append(block.signature)
                if block.thinking:
                    ready.append(self._chunk({"reasoning_content": block.thinking}))
            case "tool_use":
                opened.call = self._calls
                self._calls += 1
                head = {"index": opened.call, "id": block.id, "type": "function"}
                function = {"name": block.name, "arguments": ""}
                ready.append(self._chunk({"tool_calls": [{**head, "function": function}]}))

    def _end(self, opened: _Open, index: int, ready: list[bytes]) -> None:
        if opened.call is not None and not opened.has_arguments:
            text = loose_json.encode(_as_text(opened.block.input))
            ready.append(self._arguments(opened.call, text))
        if (detail := _detail(opened.block, index, "".join(opened.signatures))) is not None:
            # Its text went ahead, piece by piece.
            detail.pop("text", None)
            ready.append(self._chunk({"reasoning_details": [detail]}))
        citations = [*(opened.block.citations or ()), *opened.citations]
        if annotations := _annotations(citations, opened.starts_at, self._characters):
            # Numbered, as clients put lists together that come in pieces.
            numbered = [{"index": self._citations + i, **a} for i, a in enumerate(annotations)]
            self._citations += len(numbered)
            ready.append(self._chunk({"annotations": numbered}))

    def _finish(self, event: _Event) -> list[bytes]:
        self._usage.update(event.usage or _Usage())
        delta = event.delta or _Delta()
        if delta.stop_reason is None:
            return []
        refusal = _refusal(delta.stop_reason, delta.stop_details)
        said = {"refusal": refusal} if refusal else {}
        return [self._chunk(said, finish=_finish(delta.stop_reason))]

    def _arguments(self, call: int, text: bytes) -> bytes:
        entry = b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (call, text)
        return self._before + entry + self._after

    def _chunk(self, delta: dict[str, Any], *, finish: str | None = None) -> bytes:
        after = self._after
        if finish is not None:
            after = after.replace(_NULL, loose_json.encode(finish), 1)
        return self._before + loose_json.encode(delta) + after

    def _last_chunk(self) -> bytes:
        head = {**self._head, "object": "chat.completion.chunk", "model": self._model}
        usage = {"choices": [], "usage": self._usage.shown(), **_tier(self._usage)}
        return loose_json.encode({**head, **usage})


@dataclass(slots=True)
class _Open:
    """A block that has begun, behind so many characters of text; `call` numbers a tool call."""

    block: _Block
    starts_at: int
    call: int | None = None
    has_arguments: bool = False
    signatures: list[str] = field(default_factory=list)
    citations: list[_Citation] = field(default_factory=list)


def _said(text: msgspec.Raw) -> bytes | None:
    """The JSON of a text as it came; None for an empty one."""
    json = bytes(text)
    if not json or json[0] != _QUOTE:
        raise MalformedAnswer("the provider sent a text that is none")
    return json if len(json) > 2 else None


def _length(text: bytes) -> int:
    """How many characters a JSON text stands for."""
    if text.isascii() and b"\\" not in text:
        return len(text) - 2
    try:
        return len(loose_json.decode(text))
    except ValueError:
        raise MalformedAnswer("the provider sent a text that is not in UTF-8") from None


def _message(answer: _Whole) -> dict[str, Any]:
    text = ""
    thoughts: list[str] = []
    details: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, block in enumerate(answer.content or ()):
        match block.type:
            case "text":
                end = len(text) + len(block.text)
                annotations += _annotations(block.citations or (), len(text), end)
                text += block.text
            case "thinking" | "redacted_thinking":
                thoughts.append(block.thinking)
                if (detail := _detail(block, index, block.signature)) is not None:
                    details.append(detail)
            case "tool_use":
                function = {"name": block.name, "arguments": _as_text(block.input)}
                calls.append({"id": block.id, "type": "function", "function": function})
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not calls else None,
        "refusal": _refusal(answer.stop_reason, answer.stop_details),
    }
    more = {
        "reasoning_content": "".join(thoughts),
        "reasoning_details": details,
        "tool_calls": calls,
        "annotations": annotations,
    }
    return message | {name: value for name, value in more.items() if value}


def _detail(block: _Block, index: int, signature: str) -> dict[str, Any] | None:
    """What must go back unchanged, and its place among the blocks."""
    if block.type == "redacted_thinking" and block.data:
        return {"type": "reasoning.encrypted", "data": block.data, "index": index}
    if block.type == "thinking" and signature:
        text = {"text": block.thinking, "signature": signature}
        return {"type": "reasoning.text", **text, "index": index}
    return None


def _annotations(citations: Sequence[_Citation], start: int, end: int) -> list[dict[str, Any]]:
    """What the text between two characters cites, where it has an address."""
    place = {"start_index": start, "end_index": end}
    return [
        {"type": "url_citation", "url_citation": {**_cited(citation), **place}}
        for citation in citations
        if citation.url is not None
    ]


def _cited(citation: _Citation) -> dict[str, Any]:
    found = {"url": citation.url, "title": citation.title or ""}
    return found if citation.cited_text is None else {**found, "content": citation.cited_text}


def _refusal(reason: str | None, details: _StopDetails | None) -> str | None:
    return details.explanation if reason == "refusal" and details is not None else None


def _finish(reason: str | None) -> str:
    return _FINISH.get(reason or "", "stop")


def _tier(usage: _Usage) -> dict[str, str]:
    tier = usage.service_tier
    return {"service_tier": _TIERS.get(tier, tier)} if tier else {}


def _as_text(arguments: object) -> str:
    return loose_json.encode(arguments or {}).decode()


def _error(error: _Error) -> bytes:
    """OpenAI's form of an error within a stream."""
    said = error.message or "the provider reported an error in its stream"
    shape = {"message": said, "type": error.type, "param": None, "code": error.type}
    return loose_json.encode({"error": shape})
