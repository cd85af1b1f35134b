"""Opening a TCP connection to a host that may have several addresses.

The event loops' own `create_connection` does not do it: uvloop's tries one address after the
other, so that where IPv6 packets vanish silently it never comes to the IPv4 address.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

# Family and socket address, as `getaddrinfo` gives them.
Address = tuple[int, tuple[Any, ...]]

# RFC 8305, section 5: the recommended "connection attempt delay".
STAGGER_S: Final = 0.25


async def dial(host: str, port: int) -> socket.socket:
    """A connected, non-blocking TCP socket to `host`.

    Raises `OSError`. It has no deadline of its own; when cancelled it leaves no socket open.
    """
    return await first_connected(await resolve(host, port), STAGGER_S)


async def resolve(host: str, port: int) -> list[Address]:
    """The addresses of `host` in the order to try them: families take turns (RFC 8305, 4).

    Raises `OSError` where it has none.
    """
    loop = asyncio.get_running_loop()
    by_family: dict[int, list[Address]] = {}
    for family, _, _, _, sockaddr in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        by_family.setdefault(family, []).append((family, sockaddr))
    turns = itertools.zip_longest(*by_family.values())
    return [address for turn in turns for address in turn if address is not None]


async def first_connected(addresses: Sequence[Address], stagger_s: float) -> socket.socket:
    """The first socket to connect, of attempts that start `stagger_s` seconds apart.

    A failed attempt starts the next one at once. Raises the first attempt's `OSError` when all
    have failed. The other sockets are closed, also after cancellation.
    """
    waiting = deque(addresses)
    attempts: list[asyncio.Task[socket.socket]] = []
    winner = None
    try:
        while winner is None:
            if waiting:
                attempts.append(asyncio.create_task(_connected(waiting.popleft())))
            running = [attempt for attempt in attempts if not attempt.done()]
            if not running:
                return attempts[0].result()
            await asyncio.wait(
                running,
                timeout=stagger_s if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            winner = next((a for a in attempts if a.done() and a.exception() is None), None)
        return winner.result()
    finally:
        for attempt in attempts:
            if attempt is not winner:
                attempt.add_done_callback(_discard)
                attempt.cancel()


def reason_of(error: OSError) -> str:
    """Why a connection failed or broke, in the words of the operating system or of OpenSSL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        # Only OpenSSL's own errors have a reason, not those that event loops raise.
        return f"TLS failed: {getattr(error, 'reason', None) or error}"
    if isinstance(error, socket.gaierror):
        return f"name not resolved: {error.strerror}"
    if error.errno is not None:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


async def _connected(address: Address) -> socket.socket:
    family, sockaddr = address
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connection, sockaddr)
    except BaseException:
        connection.close()
        raise
    return connection


def _discard(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
