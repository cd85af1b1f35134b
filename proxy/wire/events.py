"""Streams of typed events that go on as they came: of images, transcriptions, speech.

Source: OpenAI's API reference, "Image generation streaming events" and "Transcription streaming
events". The last event has a type of its own and the usage; what ends before it is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from adapters.base import AdapterError, MalformedAnswer
from adapters.wire.sse import NamedPayload
from proxy.errors import ApiError
from proxy.pricing import Usage
from proxy.wire import failures
from proxy.wire import usage as wire_usage
from proxy.wire.surrogates import without_lone


class _Event(msgspec.Struct):
    type: str = ""
    delta: msgspec.Raw = msgspec.Raw(b"")
    error: Any = None


_event = msgspec.json.Decoder(_Event)


class Events:
    """One stream. `last` is the type of its last event, which `read` reads the usage from.

    `output_bytes` stands for what is generated besides text; whether the deltas are text tells
    `counts_deltas`.
    """

    def __init__(
        self,
        *,
        last: str,
        read: Callable[[bytes], Usage | None],
        reads_cost: bool,
        output_bytes: int = 0,
        counts_deltas: bool = True,
    ) -> None:
        self._last = last
        self._read = read
        self._reads_cost = reads_cost
        self._counts_deltas = counts_deltas
        self.usage: Usage | None = None
        self.cost: wire_usage.ReportedCost | None = None
        self.service_tier: str | None = None
        self.output_bytes = output_bytes
        self.output_events = 0
        self.has_payload = False
        self.is_finished = False

    def feed_all(self, payloads: Sequence[bytes]) -> tuple[bytes, AdapterError | None]:
        """See `proxy.wire.dialect.Stream`."""
        written: list[bytes] = []
        for payload in payloads:
            if self.is_finished:
                break
            try:
                self._look_at(payload)
            except AdapterError as error:
                return b"".join(written), error
            written.append(_framed(payload))
        return b"".join(written), None

    def end(self) -> bytes:
        """Nothing: the last event is the end."""
        return b""

    def cap(self, reason: dict[str, Any], usage: Usage) -> bytes:
        """Nothing of this is metered."""
        raise AssertionError("only text is metered")

    def fail(self, error: ApiError) -> bytes:
        """See `proxy.wire.dialect.Stream`."""
        return b"data: %b\n\n" % error.body()

    def _look_at(self, payload: bytes) -> None:
        event = _decode(payload)
        if event.error:
            raise failures.reported(event.error)
        if not event.type:
            raise MalformedAnswer("the provider's stream has an event without a type")
        self.has_payload = True
        if self._counts_deltas:
            self.output_bytes += len(memoryview(event.delta))
        if event.type == self._last:
            self.is_finished = True
            self.usage = self._read(payload)
            if self._reads_cost:
                self.cost = wire_usage.reported_cost(payload)


def _decode(payload: bytes) -> _Event:
    try:
        if not payload.isascii():
            payload.decode()  # what is skipped over is not checked by the decoder
        try:
            return _event.decode(payload)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return _event.decode(without_lone(payload))
    except (ValueError, RecursionError):
        raise MalformedAnswer("the provider's stream has an event that is no JSON object") from None


def _framed(payload: bytes) -> bytes:
    """The event as it came: in one line, and under its name if it had one."""
    text = payload.replace(b"\n", b" ").replace(b"\r", b" ")
    if isinstance(payload, NamedPayload):
        return b"event: %b\ndata: %b\n\n" % (payload.event, text)
    return b"data: %b\n\n" % text
