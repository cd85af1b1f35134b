"""Bytes from an upstream answer to the client.

Status 200 waits for the first payload (or `first_payload_s`, then keep-alive comments take its
place). Until a payload has left, a failure is the caller's to handle, by another target or by an
error status; from then on it is one error event, and no `[DONE]`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from adapters.base import Answer, ConnectionLost, MalformedAnswer
from adapters.silence import silent
from proxy.errors import ApiError
from proxy.http import Exchange, HeaderList
from proxy.metering import Meter
from proxy.wire.continuing import Transcript
from proxy.wire.dialect import Stream

EVENT_STREAM = b"text/event-stream; charset=utf-8"
# What may come before the first content: a role, a provider's preamble.
_MOST_WAITING_BYTES = 256 << 10
# Batches between two reports of how far a stream has come.
_PROGRESS_EVERY = 32


class Headers(Protocol):
    """Makes the reply's headers when they are about to leave."""

    def __call__(self, has_payload: bool) -> HeaderList:
        """The headers; without a payload another target may yet answer."""


class Reply(Protocol):
    """What a stream is relayed to."""

    @property
    def has_payload(self) -> bool:
        """True once a payload has left: the point of no return for fallbacks."""

    def send(self, events: bytes) -> Awaitable[None]:
        """Send events."""

    async def finish(self, events: bytes) -> None:
        """Send the last events and end the body at once."""

    async def fail(self, error: ApiError, stream: Stream | None = None) -> None:
        """End a reply that has begun with one error event."""


class StreamReply:
    """The client's side of a stream: the late 200, keep-alive comments, the in-band error."""

    def __init__(self, exchange: Exchange, headers: Headers, *, first_payload_s: float) -> None:
        self._exchange = exchange
        self._headers = headers
        self._interval_s = first_payload_s
        self._loop = asyncio.get_running_loop()
        self._last_write = self._loop.time()
        self._timer = self._loop.call_later(first_payload_s, self._tick)
        self._keepalive: asyncio.Task[None] | None = None
        self.has_payload = False
        """True once a payload has left: the point of no return for fallbacks."""
        self.transcript: Transcript | None = None
        """What has left, where another target may go on with it."""

    def send(self, events: bytes) -> Awaitable[None]:
        """Send events; the first ones send status 200 before them."""
        self._last_write = self._loop.time()
        self.has_payload = True
        if self.transcript is not None:
            self.transcript.add(events)
        # No coroutine of its own: it would be one more for each event.
        return self._exchange.write(events) if self._exchange.started else self._begin(events)

    async def _begin(self, events: bytes) -> None:
        await self._exchange.start(200, EVENT_STREAM, self._headers(self.has_payload))
        await self._exchange.write(events)

    def resume(self) -> None:
        """Another target goes on: of what it says nothing has left yet."""
        self.has_payload = False

    async def finish(self, events: bytes) -> None:
        """Send the last events and end the body at once."""
        self._timer.cancel()
        if not self._exchange.started:
            await self._exchange.start(200, EVENT_STREAM, self._headers(self.has_payload))
        await self._exchange.end(events)

    async def fail(self, error: ApiError, stream: Stream | None = None) -> None:
        """End a reply that has begun with one error event, in the words of its stream if any."""
        exchange = self._exchange
        await self.finish(
            exchange.failures.event(error, exchange.request_id)
            if stream is None
            else stream.fail(error)
        )

    def close(self) -> None:
        """Stop the keep-alive comments."""
        self._timer.cancel()
        if self._keepalive is not None:
            self._keepalive.cancel()

    def _tick(self) -> None:
        """Send a comment where nothing was sent for an interval."""
        idle_s = self._loop.time() - self._last_write
        if idle_s >= self._interval_s and (self._keepalive is None or self._keepalive.done()):
            self._keepalive = self._loop.create_task(self._comment())
            idle_s = 0.0
        self._timer = self._loop.call_later(self._interval_s - idle_s, self._tick)

    async def _comment(self) -> None:
        keepalive = self._exchange.failures.keepalive
        if self._exchange.started:
            await self._exchange.write(keepalive)
        else:
            await self._begin(keepalive)


class ClaimingReply:
    """The reply to which several streams run: it belongs to the one whose first payload is first.

    That is told by `claim`, which returns for that one alone.
    """

    def __init__(self, reply: Reply, claim: Callable[[], Awaitable[None]]) -> None:
        self._reply = reply
        self._claim = claim
        self.has_payload = False

    async def send(self, events: bytes) -> None:
        """See `Reply`; waits for good where another stream has the reply."""
        await self._own()
        await self._reply.send(events)

    async def finish(self, events: bytes) -> None:
        """See `Reply`, and `send`."""
        await self._own()
        await self._reply.finish(events)

    async def fail(self, error: ApiError, stream: Stream | None = None) -> None:
        """See `Reply`; what has no reply says nothing."""
        if self.has_payload:
            await self._reply.fail(error, stream)

    async def _own(self) -> None:
        if not self.has_payload:
            await self._claim()
            self.has_payload = True


async def relay(
    answer: Answer,
    stream: Stream,
    reply: Reply,
    *,
    on_first: Callable[[float], None],
    on_progress: Callable[[], None],
    meter: Meter | None = None,
    silent_s: float,
    opening: bytes = b"",
) -> None:
    """Relay a stream up to its last event, which the caller sends when the attempt is settled.

    `on_first` is called when the first payload is about to leave, with the `time.perf_counter` at
    which it had come, `on_progress` now and then.
    Events that say nothing may come for `silent_s`. `opening` leaves before the first payload.
    Raises `AdapterError`s, and `Capped` by the `meter`; returns only after a whole stream.
    """
    waiting = opening
    batches = 0
    said = 0
    silent_since: float | None = None
    came_at = 0.0
    while payloads := await answer.payloads():
        if not reply.has_payload:
            came_at = time.perf_counter()
        events, failure = stream.feed_all(payloads)
        if stream.has_payload:
            if not reply.has_payload:
                on_first(came_at)
                events = waiting + events
            if events:
                await reply.send(events)
        else:
            waiting += events
            if len(waiting) > _MOST_WAITING_BYTES:
                raise MalformedAnswer("the provider's stream has no content after 256 KiB")
        if failure is not None:
            raise failure
        # Of images and sound no events are counted: there, whatever leaves says something.
        if stream.output_events > said or (events and not said):
            said, silent_since = stream.output_events, None
        else:
            silent_since = silent(silent_since, silent_s)
        if meter is not None and not stream.is_finished:
            await meter.follow(stream.output_events, stream.output_bytes)
        batches += 1
        if batches % _PROGRESS_EVERY == 0:
            on_progress()
    if not stream.has_payload:
        raise MalformedAnswer("the provider's stream ended without any content")
    if not stream.is_finished:
        raise ConnectionLost("the provider's stream ended without a finish reason")
