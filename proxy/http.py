"""The little HTTP that the inference endpoints need, straight on ASGI."""

from __future__ import annotations

import asyncio
import os
import time
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from proxy.arrival import ARRIVAL, Arrival
from proxy.errors import (
    ApiError,
    BodyTooLarge,
    InvalidRequest,
    UnsupportedEncoding,
)
from proxy.turns import LARGE_BYTES, Turns
from proxy.wire.dialect import OPENAI_FAILURES, Failures

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
HeaderList = list[tuple[bytes, bytes]]

# So much of a compressed body is looked at in one step: at most four megabytes come out of it.
_INFLATED_AT_ONCE_BYTES = 4 << 10
# Of what is larger only the size is found out first, so that a bomb is never in memory.
_KEPT_BYTES = 4 << 20
# zlib finds out by itself whether it is gzip or zlib.
_WBITS = 32 + zlib.MAX_WBITS

REFUSAL = "tollway.refusal"
"""Where a scope has the `ApiError` with which the server wants a request answered, or None."""
CONNECTED = "tollway.connected"
"""Where a scope has the `Connected`; without one the client does not leave."""


class Connected(Protocol):
    """A client that may leave."""

    def watch(self, on_gone: Callable[[], object] | None) -> None:
        """Have this called, in place of any other, when the client leaves."""


def new_request_id() -> str:
    """A request's name in headers, logs and the ledger.

    It begins with the time, in milliseconds, so that the ledger's index of names grows at its end.
    """
    return f"req_{time.time_ns() // 1_000_000:012x}{os.urandom(6).hex()}"


class ClientGone(Exception):
    """The client closed its connection; nobody is left to answer."""


class Exchange:
    """One request and its reply: headers in, body in, status and body out."""

    started = False
    ended = False
    is_gone = False
    """The client left before the reply had ended, as far as that was noticed."""
    status = 0
    is_large = False
    """Whether what is done with its body is done a step at a time: see `turn`."""
    turns: Turns | None = None
    """Which the steps of large bodies take; None: they need not."""
    failures: Failures = OPENAI_FAILURES
    """How the client is told of what goes wrong: in its own dialect."""
    on_end: Callable[[], None] | None = None
    """Called when the exchange is over, whatever became of it."""
    before_end: Callable[[], Awaitable[None]] | None = None
    """Awaited before the last bytes of the reply leave."""
    _on_gone: Callable[[], object] | None = None

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        # A repeated header keeps its last value; none of those we read is there twice.
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.arrival: Arrival = scope.get(ARRIVAL) or Arrival(time.perf_counter())
        self.request_id = new_request_id()
        self.reply_headers: HeaderList = [(b"x-request-id", self.request_id.encode())]

    def header(self, name: bytes) -> str | None:
        """A request header by its lower-case name."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def read_body(self, limit: int) -> bytes:
        """The whole request body, at most `limit` bytes as sent and as decoded."""
        declared = self.headers.get(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        body, more = _part(await self._receive())
        if more:
            body = await self._read_rest(body, limit)
        if len(body) > limit:
            raise _too_large(limit)
        encoding = self.headers.get(b"content-encoding")
        if encoding is None or encoding.strip().lower() in (b"", b"identity"):
            return body
        encoding = encoding.strip().lower()
        if len(body) <= _INFLATED_AT_ONCE_BYTES:
            body = _decompress(body, encoding, limit)
        else:
            body = await asyncio.to_thread(_decompress, body, encoding, limit)
        if len(body) >= LARGE_BYTES:
            self.is_large = True
            await self.turn()
        return body

    async def _read_rest(self, first: bytes, limit: int) -> bytes:
        parts, size, more = [first], len(first), True
        while more:
            if size > limit:
                raise _too_large(limit)
            part, more = _part(await self._receive())
            parts.append(part)
            size += len(part)
        if size < LARGE_BYTES:
            return b"".join(parts)
        self.is_large = True
        await self.turn()
        body = b"".join(parts)
        del parts, first
        await self.turn()
        return body

    async def turn(self) -> None:
        """Let others go first: what comes next takes long, because the body `is_large`."""
        if self.turns is not None:
            await self.turns.next()

    def watch(self, on_gone: Callable[[], object]) -> None:
        """Call `on_gone` if the client leaves before the reply has ended, until `unwatch`."""
        connected: Connected | None = self.scope.get(CONNECTED)
        if connected is not None:
            self._on_gone = on_gone
            connected.watch(self._gone)

    def unwatch(self) -> None:
        """Nobody needs to know any more."""
        connected: Connected | None = self.scope.get(CONNECTED)
        if connected is not None:
            self._on_gone = None
            connected.watch(None)

    def _gone(self) -> None:
        if self._on_gone is not None and not self.ended:
            self.is_gone = True
            self._on_gone()

    async def start(self, status: int, content_type: bytes, headers: HeaderList) -> None:
        """Send the status line and the headers."""
        self.started = True
        self.status = status
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", content_type), *headers, *self.reply_headers],
            }
        )

    def write(self, body: bytes) -> Awaitable[None]:
        """Send a part of the body; waits while the client reads too slowly."""
        return self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes) -> None:
        """Send the last part of the body."""
        if self.before_end is not None:
            await self.before_end()
        self.ended = True
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error, unless something has left already."""
        if self.started:
            return  # too late for a status; a stream has said what it had to say
        headers = [
            (name.encode(), value.encode("latin-1", "replace"))
            for name, value in error.headers.items()
        ]
        body = self.failures.body(error, self.request_id)
        await self.reply(self.failures.status(error), body, headers)

    async def reply(
        self,
        status: int,
        body: bytes,
        headers: HeaderList | None = None,
        content_type: bytes = b"application/json",
    ) -> None:
        """Send a whole answer."""
        length = (b"content-length", b"%d" % len(body))
        await self.start(status, content_type, [length, *(headers or ())])
        await self.end(b"" if self.scope["method"] == "HEAD" else body)


def _part(message: Message) -> tuple[bytes, bool]:
    """A part of the body, and whether there is more of it. Raises what became of the rest."""
    if message["type"] == "http.disconnect":
        raise message.get("refusal") or ClientGone
    return message.get("body", b""), message.get("more_body", False)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the request body is larger than {limit} bytes (server.max_body_mb)")


def _decompress(body: bytes, encoding: bytes, limit: int) -> bytes:
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        raise UnsupportedEncoding(
            f"Content-Encoding {encoding.decode('latin-1')!r} is not read here; "
            "send gzip, deflate or no encoding"
        )
    inflater = zlib.decompressobj(_WBITS)
    parts: list[bytes] = []
    size = 0
    try:
        for begin in range(0, len(body), _INFLATED_AT_ONCE_BYTES):
            parts.append(inflater.decompress(body[begin : begin + _INFLATED_AT_ONCE_BYTES]))
            size += len(parts[-1])
            if size > limit:
                raise BodyTooLarge(f"the decoded request body is larger than {limit} bytes")
            if size > _KEPT_BYTES:
                parts.clear()
            if inflater.eof:
                break
    except zlib.error as error:
        raise InvalidRequest(f"the body is not valid {encoding.decode()}: {error}") from None
    if not inflater.eof:
        raise InvalidRequest(f"the {encoding.decode()} body is cut short")
    return b"".join(parts) if size <= _KEPT_BYTES else zlib.decompressobj(_WBITS).decompress(body)
