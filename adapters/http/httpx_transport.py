"""The transport for what the small client leaves out: proxies, HTTP/2, certificates of one's own.

It uses httpx2's transport layer rather than its client, which would keep cookies, log URLs, and
build requests for redirects that are never followed.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import ssl
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import httpx2

from adapters.base import (
    AdapterError,
    ConnectFailed,
    ConnectionLost,
    Deadlines,
    MalformedAnswer,
    UpstreamTimeout,
)
from adapters.http import http_rules
from adapters.http.dialing import reason_of
from adapters.http.http_rules import Origin

IDLE_EXPIRY_S: Final = 15.0
# How long a connection may take to close in an orderly way before its task is cancelled.
CLOSE_TIMEOUT_S: Final = 2.0


def _errors_of_optional_packages() -> Iterator[type[Exception]]:
    # httpx2 translates these in some places only.
    for package, module, name in (
        ("h2", "h2.exceptions", "H2Error"),
        ("socksio", "socksio.exceptions", "SOCKSError"),
    ):
        if importlib.util.find_spec(package) is not None:
            yield getattr(importlib.import_module(module), name)


# Everything that httpx2 raises, and what the layers below may raise past it.
FOREIGN_ERRORS: Final[tuple[type[Exception], ...]] = (
    httpx2.HTTPError,
    httpx2.InvalidURL,
    httpx2.CookieConflict,
    httpx2.StreamError,
    ssl.SSLError,
    ConnectionError,
    *_errors_of_optional_packages(),
)
_CLOSE_ERRORS: Final[tuple[type[Exception], ...]] = (*FOREIGN_ERRORS, TimeoutError)

logger = logging.getLogger(__name__)


class HttpxTransport:
    """HTTP to one origin through httpx2; the parameters are those of `open_transport`.

    Three things it does less well than the small client, because httpx2 hides what it would take.
    It looks at the answer only once the whole request is sent. It never reports a lost connection
    as `stale`. And where a broken server sends more bytes than its answer has, they may be taken
    for the next answer on that connection.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        headers: Mapping[str, str],
        proxy: str | None,
        http2: bool,
        ca_bundle: Path | None,
    ) -> None:
        _require_extras(http2=http2, socks=proxy is not None and proxy.startswith("socks"))
        http_rules.header_lines(headers, http_rules.TRANSPORT_HEADERS)
        self._origin = origin
        self._constant_headers = {
            "host": origin.host_header,
            "accept-encoding": "identity",
            **headers,
        }
        self._reserved = http_rules.TRANSPORT_HEADERS | {name.lower() for name in headers}
        self._url = f"{origin.scheme}://{origin.address}"
        self._http = httpx2.AsyncHTTPTransport(
            verify=_tls_context(ca_bundle, is_used=origin.scheme == "https"),
            trust_env=False,
            http2=http2,
            proxy=None if proxy is None else _checked_proxy(proxy, ca_bundle),
            limits=httpx2.Limits(
                max_connections=None,
                max_keepalive_connections=None,
                keepalive_expiry=IDLE_EXPIRY_S,
            ),
        )
        self._under_way = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def post(
        self,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        deadlines: Deadlines,
        *,
        fresh: bool = False,
    ) -> HttpxResponse:
        """See `Transport.post`."""
        return await self._exchange("POST", path, headers, body, deadlines)

    async def get(
        self, path: str, headers: Mapping[str, str], deadlines: Deadlines
    ) -> HttpxResponse:
        """See `Transport.get`."""
        return await self._exchange("GET", path, headers, None, deadlines)

    async def aclose(self) -> None:
        """See `Transport.aclose`; idle connections wait for the last answer under way."""
        self._closed = True
        if self._closing:
            await asyncio.wait(self._closing)
        if not self._under_way:
            await self._http.aclose()

    async def _exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        deadlines: Deadlines,
    ) -> HttpxResponse:
        opened = _OpenedSockets()
        # Shared with httpx2 until the answer is read: the limit of a read changes with the phase.
        limits_s = {
            "connect": deadlines.connect_s,
            "pool": None,
            "write": deadlines.first_byte_s,
            "read": deadlines.first_byte_s,
        }
        extensions = {"timeout": limits_s, "trace": opened.note}
        request = self._request(method, path, headers, body, extensions)
        self._under_way += 1
        try:
            response = await self._send(request, deadlines)
        except BaseException:
            self._later(self._abandon(opened))
            raise
        limits_s["read"] = deadlines.idle_s
        pieces = response.aiter_raw()
        try:
            return HttpxResponse(self, response, pieces, self._origin.address)
        except BaseException:
            self.finish(response, pieces, None)
            raise

    def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        extensions: Mapping[str, Any],
    ) -> httpx2.Request:
        http_rules.header_lines(headers, self._reserved)
        fields = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in {**self._constant_headers, **headers}.items()
        ]
        url = self._url + self._origin.target(path)
        try:
            return httpx2.Request(
                method, url, headers=fields, content=body, extensions=dict(extensions)
            )
        except httpx2.InvalidURL as error:
            raise ValueError(f"the path {path[:100]!r} cannot be used: {error}") from error

    async def _send(self, request: httpx2.Request, deadlines: Deadlines) -> httpx2.Response:
        address = self._origin.address
        # httpx2 limits each read on its own, so a head that trickles in would never be late.
        total_s = deadlines.connect_s + deadlines.first_byte_s
        try:
            async with asyncio.timeout(total_s):
                return await self._http.handle_async_request(request)
        except FOREIGN_ERRORS as error:
            raise translated(error, address, is_in_body=False) from error
        except TimeoutError:
            message = f"{address} did not begin to answer within {total_s:g} s"
            raise UpstreamTimeout(message, phase="first_byte") from None

    def finish(
        self,
        response: httpx2.Response,
        pieces: AsyncGenerator[bytes, None],
        reading: asyncio.Task[bytes] | None,
    ) -> None:
        """Close an answer without waiting for it."""
        self._later(self._finish(response, pieces, reading))

    async def _finish(
        self,
        response: httpx2.Response,
        pieces: AsyncGenerator[bytes, None],
        reading: asyncio.Task[bytes] | None,
    ) -> None:
        if reading is not None:
            reading.cancel()
            await asyncio.wait({reading})
        await pieces.aclose()
        await response.aclose()

    async def _abandon(self, opened: _OpenedSockets) -> None:
        for sock in opened.unshared:
            await sock.aclose()

    def _later(self, closing: Coroutine[Any, Any, None]) -> None:
        # A task, because httpx2 closes nothing without waiting.
        task = asyncio.get_running_loop().create_task(self._close(closing))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, closing: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await closing
        except _CLOSE_ERRORS:
            # The exchange is over; a connection that will not close is not its fault.
            logger.debug("closing a connection to %s failed", self._origin.address, exc_info=True)
        finally:
            self._under_way -= 1
        if self._closed and not self._under_way:
            await self._http.aclose()


class _Closable(Protocol):
    async def aclose(self) -> None: ...


class _OpenedSockets:
    """The sockets that were opened for one request, as httpx2's "trace" extension tells.

    httpx2 loses sight of a socket when a request is cancelled during the TLS handshake, or when a
    SOCKS proxy refuses: it would stay open until the other side closes it.
    """

    def __init__(self) -> None:
        self.unshared: list[_Closable] = []

    async def note(self, event: str, info: Mapping[str, Any]) -> None:
        """The callback for the extension."""
        if event.endswith("connect_tcp.complete"):
            self.unshared.append(info["return_value"])
        elif event.startswith("http2."):
            # From here on the connection may carry other requests too.
            self.unshared.clear()


class HttpxResponse:
    """An answer whose head has arrived; see `Response`."""

    def __init__(
        self,
        transport: HttpxTransport,
        response: httpx2.Response,
        pieces: AsyncGenerator[bytes, None],
        address: str,
    ) -> None:
        fields = response.headers.raw
        if sum(len(name) + len(value) for name, value in fields) > http_rules.MAX_HEAD_BYTES:
            raise http_rules.head_too_large(address)
        self.status = response.status_code
        self.headers: Mapping[str, str] = http_rules.accepted_headers(self.status, fields, address)
        self._address = address
        self._decoder = http_rules.decoder_for(self.headers, address)
        self._transport = transport
        self._response = response
        self._pieces = pieces
        self._reading: asyncio.Task[bytes] | None = None
        self._error: AdapterError | None = None
        self._is_closed = False

    @property
    def is_whole(self) -> bool:
        """See `Response.is_whole`; httpx2 does not tell."""
        return False

    async def read(self) -> bytes:
        """See `Response.read`."""
        if self._error is not None:
            raise self._error
        # A task, because cancelling httpx2 in the middle of a read would end the answer.
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read())
        await asyncio.wait({self._reading})
        reading, self._reading = self._reading, None
        if reading.cancelled():
            raise self._closed_by_reader()
        try:
            return reading.result()
        except AdapterError as error:
            self._error = error
            raise

    async def read_all(self, limit: int) -> bytes:
        """See `Response.read_all`."""
        return await http_rules.read_bounded(self.read, limit, self._address)

    def close(self) -> None:
        """See `Response.close`."""
        if not self._is_closed:
            self._is_closed = True
            self._error = self._closed_by_reader()
            self._transport.finish(self._response, self._pieces, self._reading)

    def _closed_by_reader(self) -> ConnectionLost:
        return ConnectionLost(f"the answer of {self._address} was closed by its reader")

    async def _read(self) -> bytes:
        decoder = self._decoder
        if decoder is None:
            return await self._next_piece()
        while not (piece := decoder.pull()):
            coded = await self._next_piece()
            if not coded:
                decoder.finish()
                return b""
            decoder.push(coded)
        return piece

    async def _next_piece(self) -> bytes:
        try:
            # HTTP/2 has empty frames, which must not look like the end.
            while not (piece := await anext(self._pieces)):
                pass
        except StopAsyncIteration:
            return b""
        except FOREIGN_ERRORS as error:
            raise translated(error, self._address, is_in_body=True) from error
        return piece


def translated(error: Exception, address: str, *, is_in_body: bool) -> AdapterError:
    """The error of our tree for one of `FOREIGN_ERRORS`, by what it says about billing.

    What was raised before the request could leave becomes `ConnectFailed` or a connect timeout.
    """
    reason = _root_reason(error)
    match error:
        case httpx2.ConnectTimeout() | httpx2.PoolTimeout():
            return UpstreamTimeout(f"{address} accepted no connection in time", phase="connect")
        case httpx2.TimeoutException() if is_in_body:
            message = f"{address} sent nothing for too long in the middle of its answer"
            return UpstreamTimeout(message, phase="idle")
        case httpx2.TimeoutException():
            message = f"{address} did not begin to answer in time"
            return UpstreamTimeout(message, phase="first_byte")
        case httpx2.ProxyError():
            return ConnectFailed(f"the proxy refused to connect to {address}: {reason}")
        case httpx2.ConnectError() | httpx2.UnsupportedProtocol() | httpx2.InvalidURL():
            return ConnectFailed(f"cannot connect to {address}: {reason}")
        case httpx2.RemoteProtocolError() if not _is_cut(error):
            return MalformedAnswer(f"{address} did not answer in valid HTTP: {reason}")
        case httpx2.DecodingError() | httpx2.TooManyRedirects() | httpx2.HTTPStatusError():
            return MalformedAnswer(f"{address} answered in a way nobody can use: {reason}")
        case _:
            where = "before its answer was complete" if is_in_body else "before it answered"
            return ConnectionLost(f"the connection to {address} broke {where}: {reason}")


def _is_cut(error: httpx2.RemoteProtocolError) -> bool:
    # httpx2 has one class for broken framing and for an answer that stops short. Only the texts
    # tell them apart: h11's ("peer closed connection…"), httpcore2's ("Server disconnected…"),
    # and the names of h2's events.
    signs = ("closed connection", "disconnected", "StreamReset", "ConnectionTerminated")
    return any(sign in str(error) for sign in signs)


def _root_reason(error: BaseException) -> str:
    """What the operating system or OpenSSL said; httpx2 often has "all attempts failed" only."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        if isinstance(cause, OSError) and cause.errno is not None:
            return reason_of(cause)
        # The pool clears causes on the way, but not contexts.
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _tls_context(ca_bundle: Path | None, *, is_used: bool) -> ssl.SSLContext:
    if is_used or ca_bundle is not None:
        return ssl.create_default_context(cafile=ca_bundle)
    # httpx2 wants one for http:// too. This trusts nobody, and does not load all certificates.
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _checked_proxy(url: str, ca_bundle: Path | None) -> httpx2.Proxy:
    try:
        urlsplit(url).port  # noqa: B018 - httpx2 takes any number; this raises beyond 65535
        is_secure = url.startswith("https://")
        context = _tls_context(ca_bundle, is_used=True) if is_secure else None
        return httpx2.Proxy(url, ssl_context=context)
    except (httpx2.InvalidURL, ValueError):
        # Not quoted: proxy URLs hold passwords.
        raise ValueError(
            "a proxy must be an http://, https://, socks5:// or socks5h:// URL"
        ) from None


def _require_extras(*, http2: bool, socks: bool) -> None:
    for is_asked, package, extra, feature in (
        (http2, "h2", "http2", "HTTP/2 to providers"),
        (socks, "socksio", "socks", "a SOCKS proxy"),
    ):
        if is_asked and importlib.util.find_spec(package) is None:
            raise ImportError(
                f"{feature} needs the package {package!r}: pip install 'httpx2[{extra}]'"
            )
