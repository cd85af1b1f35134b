"""One request and its reply on a connection: what is written, and how it ends.

uvicorn's cycle, but that HTTP/1.0 gets no chunks, that the protocol decides how a connection is
closed, and that what becomes wrong while a body arrives is told to who reads it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from proxy.arrival import Arrival
from proxy.errors import ApiError


class Cycle(RequestResponseCycle):
    """One request and its reply."""

    refusal: ApiError | None = None
    """Why the rest of the body will not be read, if so; `receive` hands it on."""
    arrival: Arrival
    on_last: Callable[[], None]
    """Called when the last reply of the connection is written."""
    _left: int | None = None
    """How many bytes of the body are still to be written, where that is known."""

    async def receive(self) -> Any:
        """The next message, as ASGI has it; with `refusal` beside a disconnect of our own."""
        if self.more_body and (self.flow.read_paused or self.waiting_for_100_continue):
            self.arrival.wait(time.perf_counter())  # until here the client was held up
        message = await super().receive()
        if self.refusal is not None:
            return {"type": "http.disconnect", "refusal": self.refusal}
        return message

    async def send(self, message: Any) -> None:
        """Write a part of the reply; waits while the client reads too slowly."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started:
            self.transport.write(self._head(message["status"], message.get("headers", ())))
        elif self.response_complete:
            raise RuntimeError("the response is complete already")
        else:
            self._write(message.get("body", b""), more=message.get("more_body", False))

    def _head(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        self.response_started = True
        self.waiting_for_100_continue = False
        lines = [STATUS_LINE[status]]
        for name, value in (*self.default_headers, *headers):
            if name == b"connection":
                self.keep_alive = self.keep_alive and value.lower() != b"close"
                continue
            if name == b"content-length":
                self._left = int(value)
            lines.append(b"%b: %b\r\n" % (name, value))
        if self.scope["method"] == "HEAD" or status in (204, 304):
            self._left = 0
        elif self._left is None and self.scope["http_version"] == "1.0":
            self.keep_alive = False  # the end of the connection is the end of the body
        elif self._left is None:
            self.chunked_encoding = True
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
        if self.scope["method"] == "HEAD":
            body = b""
        if self.chunked_encoding:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body = chunk if more else chunk + b"0\r\n\r\n"
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the response is not as long as its Content-Length")
        if body:
            self.transport.write(body)
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.on_last()
            self.on_response()
