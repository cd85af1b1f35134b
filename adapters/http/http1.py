"""A small HTTP/1.1 client for one origin, which costs next to no CPU per request.

    Http1Transport      the origin: its idle connections, the constant part of request heads
    |- _Connection      one socket: framing, one timer, back-pressure, one exchange at a time
       |- Http1Response what the caller of an exchange holds

A request on a kept-alive connection costs one write, one future, and one run of the parser (in C,
`httptools`). It creates no task, takes no lock and, in the long run, starts no timer: every
connection has one, which looks at the current deadline only when it fires. An answer that arrives
at once wakes its reader once.

The socket pushes bytes into its connection until more than 64 KiB wait there unread; then reading
pauses until they are taken.
"""

from __future__ import annotations

import asyncio
import functools
import math
import re
import ssl
from collections.abc import Coroutine, Mapping
from typing import Any, Final, cast

import httptools

from adapters.base import (
    AdapterError,
    ConnectFailed,
    ConnectionLost,
    Deadlines,
    MalformedAnswer,
    UpstreamTimeout,
)
from adapters.http import http_rules
from adapters.http.dialing import dial, reason_of
from adapters.http.http_rules import Origin

MAX_IDLE: Final = 256
IDLE_EXPIRY_S: Final = 15.0

# However long a server promises to wait, a firewall in between may forget the connection sooner.
_MAX_IDLE_EXPIRY_S: Final = 120.0
_READ_AHEAD_BYTES: Final = 64 * 1024
# Up to here one copy costs less than the second system call that it saves.
_JOINED_WRITE_BYTES: Final = 64 * 1024
# Trailers and chunk extensions reach no one, so they get no more room than a head has.
_MAX_SILENT_BYTES: Final = http_rules.MAX_HEAD_BYTES
_MAX_CACHED_HEADS: Final = 64
_KEEP_ALIVE_TIMEOUT = re.compile(r"(?:^|[,\s])timeout\s*=\s*\"?(\d{1,9})", re.IGNORECASE)


class Http1Transport:
    """HTTP/1.1 to one origin, over connections that are kept and used again.

    `headers` go out with every request: credentials, for instance. They are checked here, so that
    a key with a line break in it is a `ValueError` at start-up. At most `max_idle` connections
    are kept, each for `idle_expiry_s` seconds unless the server names another time.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        headers: Mapping[str, str],
        ssl_context: ssl.SSLContext | None = None,
        max_idle: int = MAX_IDLE,
        idle_expiry_s: float = IDLE_EXPIRY_S,
    ) -> None:
        self._origin = origin
        self._own_ssl_context = ssl_context
        self._max_idle = max_idle
        self._idle_expiry_s = min(idle_expiry_s, _MAX_IDLE_EXPIRY_S)
        self._constant_lines = (
            f"host: {origin.host_header}\r\naccept-encoding: identity\r\n"
            + http_rules.header_lines(headers, http_rules.TRANSPORT_HEADERS)
        )
        self._reserved = http_rules.TRANSPORT_HEADERS | {name.lower() for name in headers}
        self._heads: dict[tuple[object, ...], bytes] = {}
        # The connection used last is used next, so that the ones too many expire.
        self._idle: list[_Connection] = []
        self._connections: set[_Connection] = set()

    # Not coroutines themselves: each one around another is run again at every wake-up.

    def post(
        self,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        deadlines: Deadlines,
        *,
        fresh: bool = False,
    ) -> Coroutine[Any, Any, Http1Response]:
        """See `Transport.post`."""
        head = self._head("POST", path, headers)
        return self._exchange(
            b"%bcontent-length: %d\r\n\r\n" % (head, len(body)), body, deadlines, fresh=fresh
        )

    def get(
        self, path: str, headers: Mapping[str, str], deadlines: Deadlines
    ) -> Coroutine[Any, Any, Http1Response]:
        """See `Transport.get`."""
        return self._exchange(self._head("GET", path, headers) + b"\r\n", b"", deadlines)

    async def aclose(self) -> None:
        """See `Transport.aclose`."""
        self._max_idle = 0  # for answers under way, whose connections come back
        self.drop_idle()
        for closed in [c.watch_close() for c in self._connections if c.is_closing]:
            await closed.wait()

    async def _exchange(
        self, head: bytes, body: bytes, deadlines: Deadlines, *, fresh: bool = False
    ) -> Http1Response:
        connection = None if fresh else self._take_idle()
        if connection is None:
            connection = await self._connect(deadlines.connect_s)
        try:
            connection.send(head, body)
            while not connection.status:
                await connection.news(deadlines.first_byte_s)
            decoder = http_rules.decoder_for(connection.headers, connection.address)
            if decoder is not None:
                return _CodedResponse(connection, deadlines.idle_s, decoder)
            return Http1Response(connection, deadlines.idle_s)
        except BaseException:
            connection.abort()
            raise

    def _head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        """The lines of a request head but those that depend on its body."""
        # Few differ: adapters use a handful of paths, and hardly any headers.
        key = (method, path, *headers.items())
        head = self._heads.get(key)
        if head is None:
            lines = http_rules.header_lines(headers, self._reserved)
            start = f"{method} {self._origin.target(path)} HTTP/1.1\r\n{self._constant_lines}"
            head = f"{start}{lines}".encode("latin-1")
            # Some do: a path with a model's name, which a client may invent; a signature.
            if len(self._heads) >= _MAX_CACHED_HEADS:
                self._heads.clear()
            self._heads[key] = head
        return head

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh:
                return connection
            connection.abort()
        return None

    async def _connect(self, connect_s: float) -> _Connection:
        address = self._origin.address
        deadline = asyncio.timeout(connect_s)
        try:
            async with deadline:
                connection = await self._open_connection()
        except TimeoutError as error:
            # The operating system's own "timed out" is of the same class.
            if deadline.expired():
                message = f"{address} accepted no connection within {connect_s:g} s"
                raise UpstreamTimeout(message, phase="connect") from None
            raise ConnectFailed(f"cannot connect to {address}: {reason_of(error)}") from error
        except OSError as error:
            raise ConnectFailed(f"cannot connect to {address}: {reason_of(error)}") from error
        if connection.is_closing:
            raise ConnectFailed(f"{address} closed the connection before a request was sent")
        return connection

    async def _open_connection(self) -> _Connection:
        sock = await dial(self._origin.host, self._origin.port)
        is_tls = self._origin.scheme == "https"
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                functools.partial(_Connection, self, self._origin.address),
                sock=sock,
                ssl=self._ssl_context if is_tls else None,
                server_hostname=self._origin.host if is_tls else None,
            )
        except BaseException:
            sock.close()
            raise
        return connection

    @functools.cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        # Made at the first connection: loading the trusted certificates takes tens of
        # milliseconds, and most configured providers are not the first to be asked.
        context = self._own_ssl_context or ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context

    # What connections tell their transport.

    def opened(self, connection: _Connection) -> None:
        """The connection is made."""
        self._connections.add(connection)

    def lost(self, connection: _Connection) -> None:
        """The connection is gone, in use or idle."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def drop_idle(self) -> None:
        """Close what is idle, since it is not wanted or not to be trusted any more."""
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    def give_back(self, connection: _Connection, headers: Mapping[str, str]) -> None:
        """The connection can take another request, as far as the last answer's headers tell."""
        expiry_s = self._idle_expiry_s
        if "keep-alive" in headers:
            expiry_s = _promised_s(headers["keep-alive"], expiry_s)
        if expiry_s > 0 and len(self._idle) < self._max_idle:
            connection.rest(expiry_s)
            self._idle.append(connection)
        else:
            connection.abort()


class Http1Response:
    """An answer whose head has arrived; see `Response`."""

    __slots__ = ("_address", "_connection", "_idle_s", "headers", "status")

    def __init__(self, connection: _Connection, idle_s: float) -> None:
        self.status = connection.status
        self.headers = connection.headers
        self._address = connection.address
        self._connection: _Connection | None = connection
        self._idle_s = idle_s

    @property
    def is_whole(self) -> bool:
        """See `Response.is_whole`."""
        return self._connection is not None and self._connection.is_complete

    async def read(self) -> bytes:
        """See `Response.read`."""
        # Asked for again after each wait: it may have been closed meanwhile.
        while (connection := self._connection) is not None:
            if connection.pieces:
                return connection.take()
            if connection.is_complete:
                return b""
            await connection.news(self._idle_s)
        raise ConnectionLost(f"the answer of {self._address} was closed by its reader")

    async def read_all(self, limit: int) -> bytes:
        """See `Response.read_all`."""
        connection = self._connection
        if connection is None or not connection.is_complete:
            return await http_rules.read_bounded(self.read, limit, self._address)
        body = connection.take()
        if len(body) > limit:
            raise http_rules.answer_too_large(limit, self._address)
        return body

    def close(self) -> None:
        """See `Response.close`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()


class _CodedResponse(Http1Response):
    """An answer with a content coding, which is undone."""

    __slots__ = ("_decoder",)

    def __init__(
        self, connection: _Connection, idle_s: float, decoder: http_rules.ContentDecoder
    ) -> None:
        super().__init__(connection, idle_s)
        self._decoder = decoder

    async def read(self) -> bytes:
        while not (piece := self._decoder.pull()):
            coded = await super().read()
            if not coded:
                self._decoder.finish()
                return b""
            self._decoder.push(coded)
        return piece

    async def read_all(self, limit: int) -> bytes:
        return await http_rules.read_bounded(self.read, limit, self._address)


class _Connection(asyncio.Protocol):
    """One socket, with at most one exchange on it.

    An exchange is busy from its request to `release`. The parser's callbacks fill in what has
    arrived; the one task that waits for `news` sleeps on `_waiter`. Once `_error` is set the
    exchange is over: what arrived before can still be read, then the error is raised.
    """

    __slots__ = (
        "_closed",
        "_deadline",
        "_error",
        "_fields",
        "_head_room",
        "_is_busy",
        "_is_paused",
        "_is_reused",
        "_keep_alive",
        "_limit_s",
        "_loop",
        "_parser",
        "_pool",
        "_silent",
        "_taken",
        "_timer",
        "_timer_at",
        "_transport",
        "_unread",
        "_until_eof",
        "_waiter",
        "address",
        "headers",
        "is_complete",
        "on_body",
        "pieces",
        "status",
    )

    _transport: asyncio.Transport

    def __init__(self, pool: Http1Transport, address: str) -> None:
        self.address = address
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._is_reused = False
        self._closed: asyncio.Event | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = self._limit_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._error: AdapterError | None = None
        # Of the head that came last.
        self._fields: list[tuple[bytes, bytes]] = []
        self.headers: Mapping[str, str] = {}
        self._keep_alive = False
        self._until_eof = False
        # Of the body: what nobody has taken yet. A parser's callback that is in C, because a body
        # may come in very small pieces.
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append
        self._is_paused = False
        self._forget_exchange()
        self._parser = httptools.HttpResponseParser(self)

    def _forget_exchange(self) -> None:
        self._is_busy = False
        self.status = 0  # until the final head is complete
        self.is_complete = False
        self._head_room = http_rules.MAX_HEAD_BYTES
        self.pieces.clear()
        self._taken = self._unread = self._silent = 0

    # What the transport and the response ask for.

    @property
    def is_closing(self) -> bool:
        """True once nothing can be sent any more."""
        return self._transport.is_closing()

    @property
    def is_fresh(self) -> bool:
        """True while an idle connection can take a request."""
        return self._loop.time() < self._deadline and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes) -> None:
        """Begin an exchange: send its request."""
        self._is_busy = True
        if len(body) <= _JOINED_WRITE_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def news(self, limit_s: float) -> asyncio.Future[None]:
        """To wait for: the head, some more of the body or its end, or that the exchange failed.

        Raises why it failed: `ConnectionLost`, `MalformedAnswer` or `UpstreamTimeout`, the latter
        where none of it came within `limit_s` seconds. Whoever is cancelled may ask again.
        """
        if self._error is not None:
            raise self._error
        self._limit_wait(limit_s)
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def take(self) -> bytes:
        """All of the body that has arrived and was not taken yet."""
        arrived = b"".join(self.pieces)
        self.pieces.clear()
        self._taken += len(arrived)
        self._unread = 0
        if self._is_paused:
            self._is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
        return arrived

    def release(self) -> None:
        """End the exchange: keep the connection where it can be used again, else abort it."""
        if (
            self.is_complete
            and self._keep_alive
            and not self._is_paused
            and not self._transport.is_closing()
            # An answer may overtake its request (413): the rest would go before the next one.
            and not self._transport.get_write_buffer_size()
        ):
            self._forget_exchange()
            self._pool.give_back(self, self.headers)
            return
        # In place of one that was raised: it holds who heard it, and they hold this, a cycle.
        self._error = None
        self._fail(ConnectionLost(f"the answer of {self.address} was closed by its reader"))
        self.abort()

    def rest(self, expiry_s: float) -> None:
        """Be idle, and close after `expiry_s` seconds."""
        self._is_reused = True
        self._limit_wait(expiry_s)

    def abort(self) -> None:
        """Close the socket at once; what was not sent yet is dropped."""
        self._transport.abort()

    def watch_close(self) -> asyncio.Event:
        """Set once the socket is closed; to be asked for before it is."""
        if self._closed is None:
            self._closed = asyncio.Event()
        return self._closed

    # Waiting.

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, error: AdapterError) -> None:
        if self._error is None:
            self._error = error
        self._wake()

    def _limit_wait(self, limit_s: float) -> None:
        # Deadlines mostly move away, so the timer is not moved with them: it looks again when it
        # fires. Only a deadline that is due sooner needs a new one.
        self._limit_s = limit_s
        deadline = self._deadline = self._loop.time() + limit_s
        if deadline < self._timer_at:
            self._start_timer(deadline)

    def _start_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        if self._loop.time() < self._deadline:
            self._start_timer(self._deadline)
        elif not self._is_busy:
            self.abort()
        elif self._waiter is not None and not self._waiter.done():
            self._fail(self._timeout())
            self.abort()

    def _received(self) -> int:
        return self._taken + sum(map(len, self.pieces))

    def _timeout(self) -> UpstreamTimeout:
        if self.status:
            return UpstreamTimeout(
                f"{self.address} sent nothing for {self._limit_s:g} s in the middle of its answer "
                f"({self._received()} bytes in)",
                phase="idle",
            )
        return UpstreamTimeout(
            f"{self.address} did not begin to answer within {self._limit_s:g} s",
            phase="first_byte",
        )

    # Callbacks of the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, because uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._pool.opened(self)

    def data_received(self, data: bytes) -> None:
        if not self._is_busy or self.is_complete:
            # Bytes that no request asked for: whatever they are, no answer may follow them.
            self._keep_alive = False
            self.abort()
            return
        try:
            if self.status:
                self._feed_body(data)
            else:
                self._feed_head(data)
        except httptools.HttpParserError as error:
            self._stop_parsing(error)
        except AdapterError as error:
            self._fail(error)
            self.abort()
        if self._waiter is not None and (self.pieces or self.is_complete):
            self._wake()

    def eof_received(self) -> None:
        # Over TLS, uvloop calls this only for a proper end ("close notify"), so that there a cut
        # is noticed even in a body without a frame (RFC 9112, section 9.8).
        # Without a status that is still known of the answer before, which had no body (204).
        if self.status and self._until_eof:
            self.is_complete = True
            self._wake()
        elif self._is_busy and not self.is_complete:
            self._fail(self._cut(None))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._closed is not None:
            self._closed.set()
        self._pool.lost(self)
        if self._is_busy and not self.is_complete:
            self._fail(self._cut(exc))

    def _cut(self, exc: Exception | None) -> ConnectionLost:
        how = f"{self.address} closed the connection"
        if isinstance(exc, OSError):
            how = f"the connection to {self.address} broke ({reason_of(exc)})"
        if self.status:
            return ConnectionLost(
                f"{how} before its answer was complete ({self._received()} bytes in)"
            )
        stale = self._is_reused and self._head_room == http_rules.MAX_HEAD_BYTES
        if (
            stale
        ):  # what closed this one will have closed its fellows: other calls need not meet them
            self._pool.drop_idle()
        return ConnectionLost(f"{how} before it answered", stale=stale)

    # Parsing.

    def _feed_head(self, data: bytes) -> None:
        room = self._head_room
        self._head_room = room - len(data)
        if len(data) <= room:
            self._parser.feed_data(data)
            return
        # The parser has no bound of its own, and collects a header until it is whole.
        self._parser.feed_data(data[:room])
        if not self.status:
            raise http_rules.head_too_large(self.address)
        self._feed_body(data[room:])

    def _feed_body(self, data: bytes) -> None:
        before = len(self.pieces)
        self._parser.feed_data(data)
        if len(self.pieces) == before:
            self._silent += len(data)
            if self._silent > _MAX_SILENT_BYTES and not self.is_complete:
                raise MalformedAnswer(
                    f"{self.address} sent {self._silent} bytes of framing without content"
                )
            return
        self._silent = 0
        self._unread += len(data)
        if self._unread > _READ_AHEAD_BYTES and not self.is_complete and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def _stop_parsing(self, error: httptools.HttpParserError) -> None:
        self._keep_alive = False
        if self.is_complete:
            return  # bytes behind the answer spoil the connection, not the answer
        refusal = error.__context__
        if not isinstance(refusal, AdapterError):
            refusal = MalformedAnswer(f"{self.address} did not answer in valid HTTP/1.1: {error}")
        self._fail(refusal)
        self.abort()

    def on_message_begin(self) -> None:
        """The parser found the start of an answer."""
        if self.is_complete:
            raise MalformedAnswer(f"{self.address} sent an answer that no request asked for")
        self._fields.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser found a header, or a trailer; trailers are never looked at."""
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """The parser found the end of a head: an interim one (1xx) or the answer's."""
        status = self._parser.get_status_code()
        if status < 200 and status != 101:
            return
        headers = http_rules.accepted_headers(status, self._fields, self.address)
        if "transfer-encoding" in headers:
            coding = headers["transfer-encoding"]
            if coding.lower() != "chunked":
                raise MalformedAnswer(f"{self.address} answered in the transfer coding {coding!r}")
            self._until_eof = False
        else:
            self._until_eof = "content-length" not in headers
        self._keep_alive = self._parser.should_keep_alive()
        self.headers = headers
        self.status = status
        self._wake()

    def on_message_complete(self) -> None:
        """The parser found the end of an answer; nothing follows an interim one's head."""
        if self.status:
            self.is_complete = True


def _promised_s(keep_alive: str, otherwise_s: float) -> float:
    """How long the server says it keeps an idle connection, less a second for the way there."""
    found = _KEEP_ALIVE_TIMEOUT.search(keep_alive)
    return min(int(found[1]) - 1.0, _MAX_IDLE_EXPIRY_S) if found else otherwise_s
