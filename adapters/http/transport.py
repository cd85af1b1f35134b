"""How adapters reach a provider over HTTP: the interface, and who serves which origin."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from adapters.base import Deadlines
from adapters.http.http1 import Http1Transport
from adapters.http.http_rules import Origin


class Response(Protocol):
    """An answer whose head has arrived. Whoever got it must `close` it."""

    @property
    def status(self) -> int:
        """The HTTP status: 200 or above, and never a redirect."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The answer's headers, names in lower case; repeated ones are joined by commas."""

    @property
    def is_whole(self) -> bool:
        """True where all of it is known to have arrived, read or not."""

    async def read(self) -> bytes:
        """The next bytes of the body, as many as have arrived; empty at its end, and only there.

        Chunked framing and gzip or deflate are already undone. Raises `ConnectionLost` where the
        body was cut, `UpstreamTimeout` where nothing came for `idle_s`, and `MalformedAnswer`.
        Bytes that arrived before a failure are returned before it is raised. A body that has
        neither a length nor chunks ends with the connection, so a cut there cannot be noticed
        unless the connection was reset.

        After cancellation no bytes are lost: it may be called again, or the response closed.
        """

    async def read_all(self, limit: int) -> bytes:
        """The rest of the body. Raises `MalformedAnswer` beyond `limit` bytes, and as `read`."""

    def close(self) -> None:
        """Be done with the answer. Never waits, so a cancelled task's `finally` may call it.

        A connection whose answer has arrived whole is kept for the next request where the server
        allows it; any other is aborted at once. Closing twice does nothing.
        """


class Transport(Protocol):
    """HTTP to one origin. It opens no socket before the first request.

    `path` continues the base URL's path, starts with a slash and may hold a query. `headers` are
    sent in addition to the constant ones. Both requests raise `ValueError` for a path or header
    that HTTP cannot carry and for headers that are the transport's own (`Host`, framing), before
    anything is sent; `ConnectFailed`, `ConnectionLost`, `UpstreamTimeout` and `MalformedAnswer`
    afterwards. Redirects are errors, cookies are ignored. After cancellation the connection is
    closed and the transport can be used as before.
    """

    async def post(
        self,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        deadlines: Deadlines,
        *,
        fresh: bool = False,
    ) -> Response:
        """Send a POST request and return when the head of its answer has arrived.

        A `fresh` one goes over a new connection, where connections are the transport's own.
        """

    async def get(self, path: str, headers: Mapping[str, str], deadlines: Deadlines) -> Response:
        """Send a GET request and return when the head of its answer has arrived."""

    async def aclose(self) -> None:
        """Close idle connections. Answers under way are not touched; theirs close behind them."""


def open_transport(
    base_url: str,
    *,
    headers: Mapping[str, str],
    proxy: str | None = None,
    http2: bool = False,
    ca_bundle: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Transport:
    """The transport for `base_url`, whose `headers` go out with every request.

    The small HTTP/1.1 client serves it, unless the origin needs a proxy (`http://`, `https://`
    or `socks5://`; `environ` is asked where `proxy` is None), HTTP/2, or certificates of its own
    (`ca_bundle`, a PEM file which replaces the system's). Then `httpx2` does.

    Raises `ValueError` for a base URL, proxy URL or header that cannot work, `OSError` for a
    `ca_bundle` that cannot be read, and `ImportError` where an optional package is missing.
    """
    origin = Origin.parse(base_url)
    proxy = proxy or environment_proxy(origin, environ)
    if proxy is None and not http2 and ca_bundle is None:
        return Http1Transport(origin, headers=headers)
    # Imported here because httpx2 takes a good part of the start-up time and most installations
    # never need it.
    from adapters.http.httpx_transport import HttpxTransport

    return HttpxTransport(origin, headers=headers, proxy=proxy, http2=http2, ca_bundle=ca_bundle)


def environment_proxy(origin: Origin, environ: Mapping[str, str]) -> str | None:
    """The proxy that the environment names for `origin`; None for a direct connection.

    `HTTP_PROXY` or `HTTPS_PROXY` by the origin's scheme, else `ALL_PROXY`, less what `NO_PROXY`
    lists; lower-case names win. Loopback origins are always reached directly: a proxy could only
    find itself there.
    """
    if origin.is_loopback or _is_exempt(origin, _lookup(environ, "no_proxy")):
        return None
    proxy = _lookup(environ, f"{origin.scheme}_proxy") or _lookup(environ, "all_proxy")
    if not proxy:
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _lookup(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name, environ.get(name.upper(), "")).strip()


def _is_exempt(origin: Origin, no_proxy: str) -> bool:
    # The list has no standard; this takes what curl and Go take: `*`, a domain with or without a
    # leading dot (both cover its subdomains), an address, a network, each with or without a port.
    entries = [entry.strip().lower() for entry in no_proxy.split(",")]
    return any(entry and _covers(entry, origin) for entry in entries)


def _covers(entry: str, origin: Origin) -> bool:
    if entry == "*":
        return True
    if _covers_host(entry.strip("[]"), origin.host):
        return True
    host, colon, port = entry.rpartition(":")
    return bool(colon) and port == str(origin.port) and _covers_host(host.strip("[]"), origin.host)


def _covers_host(entry: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        domain = entry.removeprefix("*").removeprefix(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))
