"""A provider's own stream of response events, passed on; and its whole responses.

The response gets our id, by which it is kept and found again; all else is the provider's.

Source: OpenAI's API reference, "Streaming events" of the Responses API.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from adapters.base import AdapterError, MalformedAnswer
from proxy.errors import ApiError
from proxy.pricing import Usage
from proxy.wire import failures
from proxy.wire import usage as wire_usage
from proxy.wire.dialect import Facts, Identity
from proxy.wire.responses import usage as responses_usage
from proxy.wire.responses.response import Frame, event, failed_events, raw, response_id
from proxy.wire.surrogates import encode, without_lone

# What of a response is the client's, who may have been told to keep it elsewhere.
_OURS = ("previous_response_id", "store")
_BEGINNINGS = frozenset({"response.created", "response.in_progress", "response.queued"})
_ENDS = frozenset({"response.completed", "response.incomplete"})
# Some servers say each beginning more than once.
_MOST_BEGINNINGS = 16
_ABSENT = msgspec.Raw(b"null")


class _Event(msgspec.Struct):
    type: str
    delta: Any = None
    item: msgspec.Raw = _ABSENT
    response: msgspec.Raw = _ABSENT
    sequence_number: Any = None


class _Response(msgspec.Struct):
    status: Any = None
    usage: Any = None
    service_tier: Any = None
    error: Any = None
    output: list[msgspec.Raw] | None = None


class _Part(msgspec.Struct):
    text: str = ""
    refusal: str = ""


class _Item(msgspec.Struct):
    content: list[_Part] | None = None
    summary: list[_Part] | None = None
    arguments: str = ""
    input: str = ""


_event = msgspec.json.Decoder(_Event)
_item = msgspec.json.Decoder(_Item)
_response = msgspec.json.Decoder(_Response)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_object = msgspec.json.Decoder(dict[str, Any])


class Stream:
    """One stream: see `proxy.wire.dialect.Stream`."""

    def __init__(
        self,
        echo: Mapping[str, msgspec.Raw],
        identity: Identity,
        *,
        reads_cost: bool,
        on_end: Callable[[bytes], None],
    ) -> None:
        self._echo = echo
        self._identity = identity
        self._reads_cost = reads_cost
        self._on_end = on_end
        self._beginnings: list[bytes] = []
        self._items: list[msgspec.Raw] = []
        self._open = _ABSENT
        """The item that has begun and not ended, and what it says so far."""
        self._said: list[str] = []
        self._last = b""
        self._number = -1
        self.usage: Usage | None = None
        self.cost: wire_usage.ReportedCost | None = None
        self.service_tier: str | None = None
        self.output_bytes = 0
        self.output_events = 0
        self.has_payload = False

    @property
    def is_finished(self) -> bool:
        """The provider has sent the whole response."""
        return bool(self._last)

    def feed_all(self, payloads: Sequence[bytes]) -> tuple[bytes, AdapterError | None]:
        """What the client gets for some payloads, and the failure that cut them short, if any."""
        events: list[bytes] = []
        try:
            for payload in payloads:
                events.append(self._feed(payload))
        except AdapterError as error:
            return b"".join(events), error
        return b"".join(events), None

    def end(self) -> bytes:
        """The last event."""
        return self._last

    def cap(self, reason: dict[str, Any], usage: Usage) -> bytes:
        """The last event of a stream that a budget cut, with the items that are whole."""
        response = self._frame().response(
            "incomplete",
            output=[*self._items, *self._unfinished()],
            usage=responses_usage.shown(usage),
            incomplete_details={"reason": "max_output_tokens"},
            tollway=raw(reason),
        )
        self._on_end(response)
        members = b'{"type":"response.incomplete","sequence_number":%d,"response":%b}'
        return event(b"response.incomplete", members % (self._number + 1, response))

    def fail(self, error: ApiError) -> bytes:
        """The events that end a stream which broke."""
        return failed_events(self._frame(), error, self._number + 1, output=self._items)

    def _feed(self, payload: bytes) -> bytes:
        if not payload.isascii():
            _check_utf8(payload)
        said: _Event = _decoded(_event, payload)
        if type(said.sequence_number) is int:
            self._number = said.sequence_number
        kind = said.type
        if said.response is not _ABSENT:
            return self._feed_response(kind, payload, said.response)
        if kind == "error":
            raise failures.reported(_error(payload))
        if said.delta:
            self.output_events += 1
            self.output_bytes += _size(said.delta)
        if kind == "response.output_text.delta" and isinstance(said.delta, str):
            self._said.append(said.delta)
        elif said.item is not _ABSENT:
            self._take_item(kind, msgspec.Raw(bytes(said.item)))
        self.has_payload = True
        return self._begun() + event(encode(kind)[1:-1], _one_line(payload))

    def _take_item(self, kind: str, item: msgspec.Raw) -> None:
        self._said.clear()
        self._open = _ABSENT
        if kind == "response.output_item.done":
            self._items.append(item)
        elif kind == "response.output_item.added":
            self._open = item

    def _unfinished(self) -> list[msgspec.Raw]:
        """The message that was cut, if one was."""
        if not self._said or self._open is _ABSENT:
            return []
        part = {"type": "output_text", "text": "".join(self._said), "annotations": []}
        members = _decoded(_object, self._open)
        return [raw({**members, "status": "incomplete", "content": [part]})]

    def _begun(self) -> bytes:
        """The beginnings, which wait for something to follow them."""
        if not self._beginnings:
            return b""
        events = b"".join(self._beginnings)
        self._beginnings.clear()
        return events

    def _feed_response(self, kind: str, payload: bytes, response: msgspec.Raw) -> bytes:
        if kind == "response.failed":
            raise failures.reported(_decoded(_response, response).error)
        members = _decoded(_members, payload)
        members["response"] = msgspec.Raw(renamed(response, self._echo, self._identity))
        events = event(encode(kind)[1:-1], msgspec.json.encode(members))
        if kind in _BEGINNINGS:
            if len(self._beginnings) >= _MOST_BEGINNINGS:
                raise MalformedAnswer("the provider's stream does nothing but begin")
            self._beginnings.append(events)
            return b""
        if kind not in _ENDS:
            return events
        facts = _facts(response, reads_cost=self._reads_cost)
        self.usage, self.cost, self.service_tier = facts.usage, facts.cost, facts.service_tier
        self.has_payload = True
        self._last = events
        self._on_end(bytes(members["response"]))
        return self._begun()

    def _frame(self) -> Frame:
        identity = self._identity
        return Frame(
            id=response_id(identity.request_id),
            created=identity.created,
            model=identity.model,
            echo=self._echo,
        )


def read_whole(
    body: bytes, echo: Mapping[str, msgspec.Raw], identity: Identity, *, reads_cost: bool
) -> tuple[Facts, bytes | None]:
    """What a response says, and itself under our id; None where it is none.

    Raises `MalformedAnswer`, and `UpstreamError` for one that failed.
    """
    if not body.isascii():
        _check_utf8(body)
    said = _decoded(_response, body)
    if said.error or said.status == "failed":
        raise failures.reported(said.error)
    facts = _facts(msgspec.Raw(body), reads_cost=reads_cost)
    return facts, None if said.output is None else renamed(body, echo, identity)


def renamed(
    response: bytes | msgspec.Raw, echo: Mapping[str, msgspec.Raw], identity: Identity
) -> bytes:
    """A response under our id, with the client's own word of how it is kept."""
    members = _decoded(_members, response)
    members["id"] = raw(response_id(identity.request_id))
    for name in _OURS:
        members[name] = echo[name]
    return msgspec.json.encode(members)


def _facts(response: msgspec.Raw, *, reads_cost: bool) -> Facts:
    said = _decoded(_response, response)
    return Facts(
        usage=responses_usage.reported(said.usage),
        output_bytes=sum(map(_said_in, said.output or ())),
        service_tier=wire_usage.service_tier(said.service_tier, said.usage),
        cost=wire_usage.reported_cost(bytes(response)) if reads_cost else None,
    )


def _said_in(item: msgspec.Raw) -> int:
    """Bytes of what an item says; all of it where it is of a kind that we do not know."""
    try:
        said = _item.decode(item)
    except (ValueError, RecursionError):
        return len(memoryview(item))
    parts = (*(said.content or ()), *(said.summary or ()))
    texts = [part.text + part.refusal for part in parts]
    return sum(len(text.encode()) for text in (*texts, said.arguments, said.input))


def _error(payload: bytes) -> object:
    """What an event of type `error` says: at its top, or in a member of that name."""
    said = _decoded(_object, payload)
    return said.get("error") or said


def _size(delta: object) -> int:
    if isinstance(delta, str):
        return len(delta) if delta.isascii() else len(delta.encode("utf-8", "replace"))
    return len(encode(delta))


def _check_utf8(payload: bytes) -> None:
    """What is skipped over is not checked by the decoder."""
    try:
        payload.decode()
    except UnicodeDecodeError:
        raise MalformedAnswer("the provider's answer is not UTF-8") from None


def _one_line(payload: bytes) -> bytes:
    """The payload of an event that may have come in several lines."""
    if b"\n" not in payload and b"\r" not in payload:
        return payload
    return encode(_decoded(_object, payload))


def _decoded(decoder: msgspec.json.Decoder[Any], text: bytes | msgspec.Raw) -> Any:
    try:
        try:
            return decoder.decode(text)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return decoder.decode(without_lone(bytes(text)))
    except (ValueError, RecursionError):
        raise MalformedAnswer("the provider sent an event that is not what it should be") from None
