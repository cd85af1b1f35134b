"""uvicorn's HTTP protocol, with bounds on what a client may send, and on how slowly.

Time is looked at once in a while for all connections together (`watch`), so that a request sets no
timer of its own. A client that is too slow:

- before its request's head has come: the connection is closed;
- with the body: whoever reads that gets a `BodyTooSlow`;
- with reading the reply, of which no more than the transport's and the kernel's buffers wait: the
  connection is aborted, and the request ends as if the client had left.
"""

from __future__ import annotations

import asyncio
import math
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import httptools
from uvicorn import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from proxy.arrival import ARRIVAL, Arrival
from proxy.errors import ApiError, BodyTooSlow, InvalidRequest
from proxy.guard import heads
from proxy.guard.admission import Admission
from proxy.guard.cycle import Cycle
from proxy.http import CONNECTED, REFUSAL, Scope

# Requests that may wait on a connection for the ones before them.
MOST_PIPELINED = 16
# Bytes that frame the chunks of a body: so many, and so many for each byte of the body itself.
MOST_FRAMING_BYTES = 64 << 10
FRAMING_PER_BYTE = 8
SLOWEST_BODY_BYTES_PER_S = 1024
# How long what a client goes on sending, when it has been answered, is read and thrown away.
LINGER_S = 5.0
# The most that event loops read at once.
_LARGEST_READ_BYTES = 256 << 10

_ASGI = {"version": "3.0", "spec_version": "2.3"}


@dataclass(kw_only=True, slots=True)
class Patience:
    """How long a client may take; one for all connections, which follow its changes."""

    head_s: float
    """From the first byte of a request to the end of its head."""
    body_s: float
    """Between two parts of a body, and for the average of its rate."""
    reader_s: float
    """Without reading any of a reply that waits to be read."""
    keep_alive_s: float
    """Between two requests."""

    def follow(self, other: Patience) -> None:
        """Be as long as another."""
        self.head_s, self.body_s = other.head_s, other.body_s
        self.reader_s, self.keep_alive_s = other.reader_s, other.keep_alive_s


class GuardedProtocol(HttpToolsProtocol):
    """One client's connection."""

    # uvicorn's own cycles are not used.
    cycle: Cycle | None  # type: ignore[assignment]
    pipeline: deque[tuple[Cycle, Scope]]  # type: ignore[assignment]

    def __init__(
        self,
        patience: Patience,
        admission: Admission,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._patience = patience
        self._admission = admission
        self._deadline = math.inf
        """When a connection is closed on which nothing is being answered."""
        self._is_deaf = False
        """Whatever else comes is thrown away."""
        self._is_leaving = False
        """The last reply is written."""
        self._reads_head = False
        self._reads_body = False
        self._arrival: Arrival | None = None
        """Of the request that is being read."""
        self._received_at = 0.0
        self._is_turned_away = False
        """The last request was."""
        self._answered: Cycle | None = None
        """The one that was started last; others may wait behind it."""
        self.url = b""
        self.headers = []
        # Of the data that is parsed now, and of all since a head began.
        self._size = self._arrived_bytes = 0
        # Of the body that is arriving.
        self._body_bytes = self._framing_bytes = 0
        # At the last looks at it, for its progress.
        self._seen_bytes, self._seen_at = 0, 0.0
        self._window_bytes, self._window_at = 0, 0.0
        self._unsent_bytes, self._unsent_at = -1, 0.0

    # --- what arrives ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """A client is there; its first request is awaited."""
        super().connection_made(transport)
        self._deadline = self.loop.time() + self._patience.head_s

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: tell whoever answers it."""
        self.connections.discard(self)
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        self.parser = None  # type: ignore[assignment] # it refers to this
        for cycle in (self.cycle, self._answered):
            if cycle is not None:
                cycle.leave()

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        self._received_at = time.perf_counter()
        if self._arrival is not None:
            self._arrival.go_on(self._received_at)
        while data and not self._is_deaf:
            data = self._parse(data)
        if self._arrival is not None:
            self._arrival.wait(time.perf_counter())

    def _parse(self, data: bytes) -> bytes:
        """Parse data; what it returns is to be parsed next."""
        self._size = len(data)
        self._arrived_bytes += self._size
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._without_upgrade() + data[upgrade.args[0] :]
        except httptools.HttpParserCallbackError:
            raise  # a fault of ours
        except httptools.HttpParserError as error:
            self._refuse(InvalidRequest(f"the request is not valid HTTP/1.1: {error}"))
        if self._reads_head:
            if self._arrived_bytes > heads.MOST_HEAD_BYTES + _LARGEST_READ_BYTES:
                self._refuse(heads.head_too_large())
        elif self._reads_body:
            self._framing_bytes += self._size
            if self._framing_bytes > MOST_FRAMING_BYTES + FRAMING_PER_BYTE * self._body_bytes:
                self._refuse(InvalidRequest("the chunks of the body are framed by too much"))
        return b""

    def _without_upgrade(self) -> bytes:
        """The head that has been parsed, as if it asked for no other protocol.

        The parser leaves alone what follows such a head. Servers that do not know the protocol, as
        Java's clients try `h2c`, are to read it as the request that it is.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        if method == b"CONNECT":
            self._refuse(InvalidRequest("CONNECT is not answered here"))
        lines = [b"%b: %b\r\n" % field for field in self.headers if field[0] not in _OF_AN_UPGRADE]
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines))

    # --- what the parser finds -------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self.url = b""
        self.headers = []
        self._reads_head = True
        self._arrival = Arrival(self._received_at)
        self._arrived_bytes = self._size
        deadline = self.loop.time() + self._patience.head_s
        if deadline < self._deadline:
            self._deadline = deadline

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer: those are nothing to us, and must not pass for headers."""
        if self._reads_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is there: refuse the request, start it, or have it wait for those before it."""
        if self._is_deaf or self.parser.should_upgrade():
            return
        self._reads_head = False
        previous = self.cycle
        if previous is not None and len(self.pipeline) == MOST_PIPELINED:
            self._is_deaf = True
            previous.keep_alive = False  # it has come whole, and its reply is the last one
            return
        self._reads_body = True
        self._deadline = math.inf
        self._body_bytes = self._seen_bytes = self._window_bytes = 0
        self._framing_bytes = -self._size
        self._seen_at = self._window_at = self.loop.time()
        fields = dict(self.headers)
        version = self.parser.get_http_version()
        refusal = heads.fault(version, self.url, self.headers, fields)
        if refusal is None and self._arrived_bytes > heads.MOST_HEAD_BYTES:
            refusal = heads.too_large(self.url, self.headers)
        if refusal is not None:
            self._is_deaf = True
        waits_to_go_on = (
            b"expect" in fields
            and fields[b"expect"].lower() == b"100-continue"
            and version == "1.1"
        )
        cycle, scope = self._new_cycle(version, refusal, waits_to_go_on=waits_to_go_on)
        if previous is None or previous.response_complete:
            self._start(cycle, scope)
            return
        # Reading goes on: else a client that leaves would not be noticed.
        self.pipeline.appendleft((cycle, scope))

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        cycle = self.cycle
        self._body_bytes += len(body)
        self._framing_bytes -= len(body)
        if self._is_deaf or cycle is None or cycle.response_complete:
            return
        if cycle.add(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._arrival = None
        cycle = self.cycle
        if self._is_deaf or not self._reads_body or cycle is None:
            return
        self._reads_body = False
        if cycle.response_complete:
            self._deadline = self.loop.time() + self._patience.keep_alive_s
            if self._is_turned_away:
                self._rest()
            return
        cycle.more_body = False
        cycle.tell()

    # --- requests and their replies --------------------------------------------------------

    def _new_cycle(
        self, version: str, refusal: ApiError | None, *, waits_to_go_on: bool = False
    ) -> tuple[Cycle, Scope]:
        raw_path, _, query = self.url.partition(b"?")
        path = raw_path.decode("latin-1")
        method = self.parser.get_method().decode("ascii")
        arrival = self._arrival or Arrival(self._received_at)
        self.cycle = cycle = Cycle(
            self,
            arrival,
            method=method,
            version=version,
            keep_alive=version == "1.1"
            and refusal is None
            and not self._admission.is_leaving
            and self.parser.should_keep_alive(),
            waits_to_go_on=waits_to_go_on,
        )
        return cycle, {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": method,
            "root_path": "",
            "path": urllib.parse.unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
            ARRIVAL: arrival,
            REFUSAL: refusal,
            CONNECTED: cycle,
        }

    def _start(self, cycle: Cycle, scope: Scope) -> None:
        self._answered = cycle
        self._is_turned_away = False
        if scope["method"] != "POST" or not scope["path"].startswith("/v1/") or scope[REFUSAL]:
            self._run(cycle, scope, self.tasks.discard)
        elif self._admission.has_let_in():
            self._run(cycle, scope, self._leave)
        else:
            self._admission.enter(partial(self._answer, cycle, scope), self.loop.time)

    def _answer(self, cycle: Cycle, scope: Scope, refusal: ApiError | None) -> None:
        if refusal is None:
            self._run(cycle, scope, self._leave)
            return
        self._is_turned_away = True
        scope[REFUSAL] = refusal
        self._run(cycle, scope, self.tasks.discard)

    def _rest(self) -> None:
        """Read nothing for a moment, where many are turned away."""
        now = self.loop.time()
        heard_at = self._admission.heard_at(now)
        if heard_at > now:
            self.flow.pause_reading()
            self.loop.call_at(heard_at, self._read_on)

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _run(
        self, cycle: Cycle, scope: Scope, on_done: Callable[[asyncio.Task[None]], None]
    ) -> None:
        task = self.loop.create_task(cycle.run(self.app, scope))
        self.tasks.add(task)
        task.add_done_callback(on_done)

    def _leave(self, task: asyncio.Task[None]) -> None:
        """A request that was let in is done."""
        self.tasks.discard(task)
        self._admission.leave()

    def on_response_complete(self) -> None:
        """A reply is written: go on with the next request."""
        self.server_state.total_requests += 1
        if self._is_leaving or self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, scope = self.pipeline.pop()
            cycle.arrival.has_turn(time.perf_counter())
            self._start(cycle, scope)
        elif not self._reads_head:
            wait_s = LINGER_S if self._reads_body else self._patience.keep_alive_s
            self._deadline = self.loop.time() + wait_s
            if self._is_turned_away and not self._reads_body:
                self._rest()

    def _refuse(self, error: ApiError) -> None:
        """Read no further: from here on it is unclear what a request is.

        Where one is being answered, that is the last reply; where one is being read, its reader is
        told; else the error is a reply of its own.
        """
        self._is_deaf = True
        self._reads_head = False
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            if self._reads_body:  # of a request that has its reply
                self.transport.close()
                return
            self._run(*self._new_cycle("1.1", error), self.tasks.discard)
        else:
            self._interrupt(cycle, error)

    def _interrupt(self, cycle: Cycle, error: ApiError) -> None:
        cycle.keep_alive = False
        if cycle.more_body:
            cycle.refusal = error
            cycle.tell()

    def on_last_response(self) -> None:
        """Close the connection, a little later where the client may still be sending.

        To close on what is not yet read resets the connection, and the reply may be lost.
        """
        self._is_leaving = True
        if (self._is_deaf or self._reads_body) and self.transport.can_write_eof():
            self._is_deaf = True
            self.transport.write_eof()
            self.flow.resume_reading()
            self._deadline = self.loop.time() + LINGER_S
        else:
            self.transport.close()

    # --- time ------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client reads more slowly than it is written to."""
        self._unsent_bytes = -1
        super().pause_writing()

    def check(self, now: float) -> None:
        """Give the client up if it is too slow."""
        if self.flow.write_paused or self.transport.is_closing():
            self._check_unsent(now)
        elif self.cycle is None or self.cycle.response_complete:
            if now >= self._deadline:
                self.transport.close()
        elif self._reads_body and not self._is_deaf:
            self._check_body(self.cycle, now)

    def _check_unsent(self, now: float) -> None:
        unsent_bytes = self.transport.get_write_buffer_size()
        if unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self._unsent_at = unsent_bytes, now
        elif now - self._unsent_at >= self._patience.reader_s:
            self.transport.abort()

    def _check_body(self, cycle: Cycle, now: float) -> None:
        wait_s = self._patience.body_s
        if self.flow.read_paused:  # it is we who do not read
            self._window_bytes, self._window_at = self._body_bytes, now
        if self._body_bytes != self._seen_bytes or self.flow.read_paused:
            self._seen_bytes, self._seen_at = self._body_bytes, now
        is_slow = now - self._seen_at >= wait_s
        if now - self._window_at >= wait_s:
            least_bytes = SLOWEST_BODY_BYTES_PER_S * wait_s
            is_slow = is_slow or self._body_bytes - self._window_bytes < least_bytes
            self._window_bytes, self._window_at = self._body_bytes, now
        if is_slow:
            self._is_deaf = True
            self._interrupt(
                cycle, BodyTooSlow(f"the request body stopped arriving for {wait_s:g} s")
            )


_OF_AN_UPGRADE = frozenset({b"upgrade", b"http2-settings"})


async def watch(connections: Collection[Any], admission: Admission, patience: Patience) -> None:
    """Look at all connections again and again, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        times_s = (patience.head_s, patience.body_s, patience.reader_s, admission.queue_s)
        await asyncio.sleep(min(1.0, min(times_s) / 4))
        now = loop.time()
        admission.expire(now)
        for connection in tuple(connections):
            connection.check(now)
