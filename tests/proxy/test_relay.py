"""What counts as silence in a stream that brings events: of each kind of stream its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from adapters.base import UpstreamTimeout
from proxy.errors import ApiError
from proxy.relay import relay
from proxy.wire import chunks
from proxy.wire.completions import TextStream
from proxy.wire.dialect import Identity, Stream
from proxy.wire.events import Events

IDENTITY = Identity(request_id="req_0123456789abcdef", model="m", created=1)


class Provider:
    """An answer of one payload to the batch."""

    headers: Mapping[str, str] = {}
    dropped: Sequence[str] = ()

    def __init__(self, payloads: list[Any]) -> None:
        self._payloads = [json.dumps(payload).encode() for payload in payloads]

    async def body(self) -> bytes:
        raise AssertionError

    async def pieces(self) -> bytes:
        raise AssertionError

    async def payloads(self) -> Sequence[bytes]:
        return [self._payloads.pop(0)] if self._payloads else ()


class Client:
    """Reads all that is sent."""

    has_payload = False

    async def send(self, events: bytes) -> None:
        self.has_payload = True

    async def finish(self, events: bytes) -> None:
        raise AssertionError

    async def fail(self, error: ApiError, stream: Stream | None = None) -> None:
        raise AssertionError


def chat() -> Stream:
    return chunks.Stream(wants_usage=False, identity=IDENTITY)


def text() -> Stream:
    return TextStream(wants_usage=False, identity=IDENTITY, reads_cost=False)


def images() -> Stream:
    return Events(last="done", read=lambda payload: None, reads_cost=False)


def delta(content: str, finish: str | None = None) -> Any:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}


def piece(said: str, finish: str | None = None) -> Any:
    return {"choices": [{"index": 0, "text": said, "finish_reason": finish}]}


def run(stream: Stream, payloads: list[Any]) -> None:
    """Relay with no patience: the second event in a row that says nothing is one too many."""
    nothing = {"on_first": lambda came_at: None, "on_progress": lambda: None}
    reply: Any = Client()
    asyncio.run(relay(Provider(payloads), stream, reply, silent_s=0, **nothing))


def test_what_says_something_each_time_is_never_silent() -> None:
    run(chat(), [delta("a"), delta("b"), delta(""), delta("c"), delta("", "stop")])
    run(text(), [piece("a"), piece("b"), piece(""), piece("c", "stop")])
    run(images(), [{"type": "partial"}] * 4 + [{"type": "done"}])


@pytest.mark.parametrize(
    ("stream", "payloads"),
    [
        (chat, [delta("a"), delta(""), delta("")]),
        (chat, [delta("a"), {"choices": []}, {"choices": []}]),
        (text, [piece("a"), piece(""), piece("")]),
    ],
)
def test_events_that_say_nothing_are_silence(stream: Any, payloads: list[Any]) -> None:
    with pytest.raises(UpstreamTimeout):
        run(stream(), payloads)
