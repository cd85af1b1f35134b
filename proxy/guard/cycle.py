"""One request and its reply on a connection: what is written, and how it ends.

An ASGI server's side of it. The protocol decides how a connection is closed; what becomes wrong
while a body arrives is told to who reads it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from proxy.arrival import Arrival
from proxy.errors import ApiError

_log = logging.getLogger("tollway")

# Each piece takes fifty bytes besides its own: so many of a body are kept apart.
_MOST_PIECES = 1_000
# Called by `map`: a turn of a loop for each header costs more than the header.
_line = b"%b: %b\r\n".__mod__


class Connection(Protocol):
    """What a cycle knows of the connection it is on."""

    transport: asyncio.Transport
    flow: FlowControl
    server_state: ServerState

    def on_response_complete(self) -> None:
        """A reply is written."""

    def on_last_response(self) -> None:
        """Just before that: it is the last one of the connection."""


class Cycle:
    """One request and its reply."""

    disconnected = False
    response_complete = False
    more_body = True
    refusal: ApiError | None = None
    """Why the rest of the body will not be read, if so; `receive` hands it on."""
    _on_gone: Callable[[], object] | None = None
    _has_news = False
    """Whether something has happened since `receive` returned."""
    _news: asyncio.Event | None = None
    """The same for who waits, once somebody had to."""
    _unread_bytes = 0
    _is_started = False
    _head = b""
    """Until the first bytes of the body leave with it."""
    _left: int | None = None
    """How many bytes of the body are still to be written, where that is known."""
    _is_chunked = False

    def __init__(
        self,
        connection: Connection,
        arrival: Arrival,
        *,
        method: str,
        version: str,
        keep_alive: bool,
        waits_to_go_on: bool,
    ) -> None:
        self._connection = connection
        self._transport, self._flow = connection.transport, connection.flow
        self.arrival = arrival
        self._is_head = method == "HEAD"
        self._version = version
        self.keep_alive = keep_alive
        self._waits_to_go_on = waits_to_go_on
        self._unread: list[bytes] = []

    async def run(self, app: Callable[..., Awaitable[None]], scope: Any) -> None:
        """Have the application answer; never raises."""
        try:
            await app(scope, self.receive, self.send)
            if not (self.response_complete or self.disconnected):
                raise RuntimeError("the application left its reply open")
        except BaseException:
            _log.exception("a request failed")
            await self._give_up()

    async def _give_up(self) -> None:
        """What the application leaves open is not the client's to wait for."""
        if self._is_started:
            self._transport.write(self._head)
            self._transport.close()
        else:
            await self.send({"status": 500, "headers": _FAILED_HEADERS})
            await self.send({"body": _FAILED})

    # --- the client's side -----------------------------------------------------------------

    def add(self, body: bytes) -> int:
        """A part of the body has come; how many bytes of it nobody has read yet."""
        self._unread.append(body)
        if len(self._unread) > _MOST_PIECES:
            self._unread = [b"".join(self._unread)]
        self._unread_bytes += len(body)
        self.tell()
        return self._unread_bytes

    def tell(self) -> None:
        """Something has happened that who waits in `receive` is to hear of."""
        self._has_news = True
        if self._news is not None:
            self._news.set()

    def leave(self) -> None:
        """The client is gone."""
        self.disconnected = True
        self.tell()
        on_gone, self._on_gone = self._on_gone, None
        if on_gone is not None:
            on_gone()

    # --- the application's side ------------------------------------------------------------

    def watch(self, on_gone: Callable[[], object] | None) -> None:
        """Have this called, in place of any other, when the client leaves."""
        self._on_gone = on_gone
        if on_gone is None:
            return
        self._flow.resume_reading()  # else nobody would notice
        if self.disconnected:
            self.leave()

    async def receive(self) -> Any:
        """The next message, as ASGI has it; with `refusal` beside a disconnect of our own."""
        flow = self._flow
        if self.more_body and (flow.read_paused or self._waits_to_go_on):
            self.arrival.wait(time.perf_counter())  # until here the client was held up
        if self._waits_to_go_on and not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._waits_to_go_on = False
        if not (self.disconnected or self.response_complete):
            flow.resume_reading()
            if not self._has_news:
                await self._wait()
            self._has_news = False
        if self.refusal is not None:
            return {"type": "http.disconnect", "refusal": self.refusal}
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body = b"".join(self._unread)
        self._unread.clear()
        self._unread_bytes = 0
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def _wait(self) -> None:
        if self._news is None:
            self._news = asyncio.Event()
        self._news.clear()
        await self._news.wait()

    async def send(self, message: Any) -> None:
        """Write a part of the reply; waits while the client reads too slowly."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        if not self._is_started:
            self._is_started = True
            self._waits_to_go_on = False
            self._head = self._make_head(message["status"], message.get("headers", ()))
        elif self.response_complete:
            raise RuntimeError("the response is complete already")
        else:
            self._write(message.get("body", b""), more=message.get("more_body", False))

    def _make_head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        fields = dict(headers)
        if b"connection" in fields:
            self.keep_alive = self.keep_alive and fields[b"connection"].lower() != b"close"
            headers = [field for field in headers if field[0] != b"connection"]
        lines = [
            STATUS_LINE[status],
            *map(_line, self._connection.server_state.default_headers),
            *map(_line, headers),
        ]
        length = fields.get(b"content-length")
        if self._is_head or status in (204, 304):
            self._left = 0
        elif length is not None:
            self._left = int(length)
        elif self._version == "1.0":
            self.keep_alive = False  # the end of the connection is the end of the body
        else:
            self._is_chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        head = b"".join(lines)
        breaks = len(lines)
        # What a header's value has of these would be a header, or a reply, of its own.
        if (head.count(b"\r"), head.count(b"\n"), head.count(b"\0")) != (breaks, breaks, 0):
            raise RuntimeError("a header of the reply has a line break in it")
        return head + b"\r\n"

    def _write(self, body: bytes, *, more: bool) -> None:
        if self._is_chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body = chunk if more else chunk + b"0\r\n\r\n"
        elif self._is_head:
            body = b""
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the response is not as long as its Content-Length")
        if self._head:
            self._transport.writelines((self._head, body) if body else (self._head,))
            self._head = b""
        elif body:
            self._transport.write(body)
        if not more:
            self.response_complete = True
            self.tell()
            if not self.keep_alive:
                self._connection.on_last_response()
            self._connection.on_response_complete()


_FAILED = b"Internal Server Error"
_FAILED_HEADERS = (
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", b"%d" % len(_FAILED)),
    (b"connection", b"close"),
)
