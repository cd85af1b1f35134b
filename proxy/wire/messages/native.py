"""Anthropic's own answers on their way to an Anthropic client: relayed, read and checked.

Source: Anthropic's documentation, "Streaming messages". Other servers speak the dialect less well;
what the official SDKs trip over is repaired, what no client could put together is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from adapters.base import AdapterError, MalformedAnswer
from proxy.errors import ApiError
from proxy.pricing import Usage
from proxy.wire import failures
from proxy.wire import usage as wire_usage
from proxy.wire.dialect import Facts, Identity
from proxy.wire.messages import usage as messages_usage
from proxy.wire.messages.failures import ANTHROPIC_FAILURES
from proxy.wire.messages.writer import MESSAGE_STOP, ending, event, message_id
from proxy.wire.surrogates import without_lone


class _Answer(msgspec.Struct):
    content: list[dict[str, msgspec.Raw]] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


class _Delta(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str
    index: int | None = None
    delta: _Delta | None = None
    content_block: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


_answer = msgspec.json.Decoder(_Answer)
_event = msgspec.json.Decoder(_Event)

_DELTA = "content_block_delta"
# The beginning of every delta, as Anthropic and most who imitate it write it.
_DELTA_LINE = b"event: content_block_delta\ndata: "


def read(body: bytes, *, reads_cost: bool) -> Facts:
    """What a whole answer says of itself. Raises `MalformedAnswer`, or the error that it is."""
    try:
        if not body.isascii():
            body.decode()
        answer = _decode(body, _answer)
    except (ValueError, RecursionError):
        raise MalformedAnswer("the provider's answer is not the JSON it should be") from None
    if answer.error:
        raise failures.reported(answer.error)
    if answer.content is None or answer.usage is None:
        raise MalformedAnswer("the provider's answer is no message")
    return Facts(
        usage=messages_usage.reported(answer.usage),
        output_bytes=sum(
            len(memoryview(raw)) for block in answer.content for raw in block.values()
        ),
        service_tier=wire_usage.service_tier(None, answer.usage),
        cost=wire_usage.reported_cost(body) if reads_cost else None,
    )


class MessageStream:
    """One stream: its events go on as they are, each under its name; see `dialect.Stream`."""

    def __init__(self, identity: Identity, *, reads_cost: bool = False) -> None:
        self._identity = identity
        self._reads_cost = reads_cost
        self._has_begun = False
        self._open: int | None = None
        """The block that has begun and not ended."""
        self._next = 0
        self._counts: dict[str, Any] = {}
        self.cost: wire_usage.ReportedCost | None = None
        self.service_tier: str | None = None
        self.output_bytes = 0
        self.output_events = 0
        self.has_payload = False
        self.is_finished = False

    @property
    def usage(self) -> Usage | None:
        """The counts so far: later ones stand in place of earlier ones."""
        return messages_usage.reported(self._counts) if self._counts else None

    def feed_all(self, payloads: Sequence[bytes]) -> tuple[bytes, AdapterError | None]:
        """See `Stream`."""
        events: list[bytes] = []
        try:
            for payload in payloads:
                events.append(self._feed(payload))
        except AdapterError as error:
            return b"".join(events), error
        return b"".join(events), None

    def end(self) -> bytes:
        """The last event."""
        return MESSAGE_STOP

    def cap(self, reason: dict[str, Any], usage: Usage) -> bytes:
        """See `Stream`."""
        events = b""
        if self._open is not None:
            events = event("content_block_stop", {"index": self._open})
        return events + ending("max_tokens", None, usage, reason)

    def fail(self, error: ApiError) -> bytes:
        """See `Stream`."""
        return ANTHROPIC_FAILURES.event(error, self._identity.request_id)

    def _feed(self, payload: bytes) -> bytes:
        try:
            if not payload.isascii():
                payload.decode()
            said = _decode(payload, _event)
        except (ValueError, RecursionError):
            raise MalformedAnswer("the provider sent an event that is none") from None
        if said.type == _DELTA:
            self._count_delta(said)
            return b"%b%b\n\n" % (_DELTA_LINE, _in_one_line(payload))
        return self._feed_other(payload, said)

    def _count_delta(self, said: _Event) -> None:
        if said.index is None or said.index != self._open:
            raise MalformedAnswer("the provider sent a piece of a block that has not begun")
        delta = said.delta
        if delta is None:
            raise MalformedAnswer("the provider sent a piece without a delta")
        text = delta.text or delta.thinking or delta.partial_json
        if text:
            self.has_payload = True
            self.output_events += 1
            self.output_bytes += len(text) if text.isascii() else len(text.encode())

    def _feed_other(self, payload: bytes, said: _Event) -> bytes:
        match said.type:
            case "message_start":
                return self._begin(payload, said)
            case "content_block_start":
                self._start_block(said)
            case "content_block_stop":
                if said.index is None or said.index != self._open:
                    raise MalformedAnswer("the provider ended a block that has not begun")
                self._open = None
            case "message_delta":
                return self._finish(payload, said)
            case "error":
                raise failures.reported(said.error)
            case "message_stop" | "ping":
                return b""
            case _ if not said.type.replace("_", "").replace(".", "").isalnum():
                raise MalformedAnswer("the provider sent an event whose name is none")
        self._check_begun()
        return _named(said.type, payload)

    def _begin(self, payload: bytes, said: _Event) -> bytes:
        """The first event; what is missing of a message is filled in."""
        if self._has_begun or said.message is None:
            raise MalformedAnswer("the provider sent what is no beginning of a message")
        self._has_begun = True
        message = said.message
        counts = message.get("usage")
        if isinstance(counts, dict):
            self._take_counts(counts, payload)
        is_whole = message.get("content") == [] and type(_output(counts)) is int
        if is_whole and type(message.get("id")) is str:
            return _named(said.type, payload)
        found = counts if isinstance(counts, dict) else {}
        usage = {"input_tokens": 0, "output_tokens": 0, **_known(found)}
        head = {
            "id": message_id(self._identity),
            "type": "message",
            "role": "assistant",
            "model": self._identity.model,
        }
        end = {"stop_reason": None, "stop_sequence": None}
        filled = {**head, **end, **_known(message), "content": [], "usage": usage}
        return event(said.type, {"message": filled})

    def _start_block(self, said: _Event) -> None:
        if said.index != self._next or self._open is not None or said.content_block is None:
            raise MalformedAnswer("the provider began a block out of turn")
        self._open = said.index
        self._next += 1
        if said.content_block.get("type") not in ("text", "thinking"):
            self.has_payload = True
            self.output_events += 1
            self.output_bytes += len(msgspec.json.encode(said.content_block))

    def _finish(self, payload: bytes, said: _Event) -> bytes:
        self._check_begun()
        if said.usage is not None:
            self._take_counts(said.usage, payload)
        if said.delta is not None and said.delta.stop_reason:
            self.is_finished = self.has_payload = True
        if type(_output(said.usage)) is int and said.delta is not None:
            return _named(said.type, payload)
        # The official SDKs read both members without a look whether they are there.
        delta = {"stop_reason": said.delta.stop_reason if said.delta else None}
        count = _output(self._counts)
        usage = {**_known(said.usage or {}), "output_tokens": count if count is not None else 0}
        return event(said.type, {"delta": {**delta, "stop_sequence": None}, "usage": usage})

    def _check_begun(self) -> None:
        if not self._has_begun:
            raise MalformedAnswer("the provider's stream does not begin with a message")

    def _take_counts(self, counts: dict[str, Any], payload: bytes) -> None:
        self._counts.update(_known(counts))
        self.service_tier = wire_usage.service_tier(None, counts) or self.service_tier
        if self._reads_cost:
            self.cost = wire_usage.reported_cost(payload) or self.cost


def _output(counts: object) -> object:
    return counts.get("output_tokens") if isinstance(counts, dict) else None


def _known(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _named(name: str, payload: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _in_one_line(payload))


def _in_one_line(payload: bytes) -> bytes:
    """The JSON without line ends, which can only stand between its members."""
    if b"\n" in payload or b"\r" in payload:
        return payload.replace(b"\r", b" ").replace(b"\n", b" ")
    return payload


def _decode(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return decoder.decode(without_lone(body))
