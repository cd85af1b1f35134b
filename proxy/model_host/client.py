"""A worker's line to the model host, and a command's look at it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NoReturn, TypeVar, cast

import msgspec

from adapters.base import NotLoaded, Unavailable
from adapters.leases import Served
from proxy.errors import StartError
from proxy.inventory import Inventory
from proxy.ledger.folder import socket_path
from proxy.ledger.frames import MalformedFrame, frames
from proxy.model_host.protocol import (
    SOCKET,
    Ask,
    Done,
    Found,
    Granted,
    Look,
    Op,
    Pull,
    Pulled,
    Refused,
    Reply,
    Retire,
    Shown,
    Watch,
    reply_reader,
)

T = TypeVar("T")

_LOOK_S = 5.0
# Between two attempts to reach a host that is being started anew.
_RETRY_S = 0.05

_encode = msgspec.msgpack.Encoder().encode


class HostClient:
    """Leases of local models. It connects when the first is asked for, and again when need be."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._seq = 0
        self._spoken: dict[str, tuple[int, float]] = {}
        """The tokens and seconds of answers that the host is still to be told of."""

    @contextlib.asynccontextmanager
    async def lease(self, model: str, *, waits: bool = True) -> AsyncIterator[Served]:
        """Where a model is served, for the length of the block.

        Waits while it loads, or others use it. Raises `Unavailable`; `NotLoaded` where it is not to
        wait for a load, which begins all the same. Whoever is cancelled waits
        no more, and a load that only they waited for is given up.
        """
        link, seq, answer = await self._granted(model, waits)
        try:
            yield Served(answer.url, answer.key, answer.backend)
        finally:
            tokens, seconds = self._spoken.pop(model, (0, 0.0))
            link.send(Done(seq, tokens, seconds))

    def spoke(self, model: str, tokens: int, seconds: float) -> None:
        """See `adapters.leases.Lessor`; told with the next lease that ends."""
        before = self._spoken.get(model, (0, 0.0))
        self._spoken[model] = (before[0] + tokens, before[1] + seconds)

    async def look(self) -> Shown:
        """How the models stand; raises `OSError` where the host cannot be reached in time."""
        return await self._asked(Look(self._next_seq()), Shown)

    async def retire(self, model: str) -> None:
        """Have a model unloaded as soon as nobody uses it; raises `OSError` where no host is."""
        async with asyncio.timeout(_LOOK_S):
            link = await self._connected()
        link.send(Retire(model))

    async def watch(self, on_found: Callable[[Inventory], None]) -> NoReturn:
        """Hear of what is found on this machine, from whichever host there is; until cancelled."""
        while True:
            try:
                link = await self._connected()
            except OSError:
                await asyncio.sleep(_RETRY_S)
                continue
            link.on_found = on_found
            link.send(Watch(self._next_seq()))
            await link.ended.wait()
            await asyncio.sleep(_RETRY_S)

    async def pull(self, provider: str, model: str) -> Pulled:
        """Have a server fetch a model; raises `OSError` where the host cannot be reached in time.

        Asked again while it does, how far it is.
        """
        return await self._asked(Pull(self._next_seq(), provider, model), Pulled)

    async def aclose(self) -> None:
        """Close the connection: whatever was leased over it is free."""
        if self._link is not None:
            self._link.close()

    async def _asked(self, op: Look | Pull, kind: type[T]) -> T:
        async with asyncio.timeout(_LOOK_S):
            link = await self._connected()
            reply = await link.asked(op)
        if not isinstance(reply, kind):
            raise ConnectionError("the model host went away")
        return reply

    async def _granted(self, model: str, waits: bool) -> tuple[_Link, int, Granted]:
        while True:
            try:
                link = await self._connected()
            except OSError:
                await asyncio.sleep(_RETRY_S)
                continue
            seq = self._next_seq()
            try:
                reply = await link.asked(Ask(seq, model, waits))
            except BaseException:
                link.send(Done(seq))
                raise
            match reply:
                case Granted():
                    return link, seq, reply
                case Refused(reason="not_loaded", message=message, retry_s=retry_s):
                    raise NotLoaded(message, retry_s=retry_s)
                case Refused(message=message, retry_s=retry_s):
                    raise Unavailable(message, retry_s=retry_s)
            # The host went away, and a new one knows nothing of us: ask again.
            await asyncio.sleep(_RETRY_S)

    async def _connected(self) -> _Link:
        async with self._connecting:
            if self._link is None or self._link.is_closed:
                loop = asyncio.get_running_loop()
                path = socket_path(self._data_dir, SOCKET)
                _, self._link = await loop.create_unix_connection(lambda: _Link(loop), path)
            return self._link

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq


class _Link(asyncio.Protocol):
    """One connection to the host."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._reader = reply_reader()
        self._transport: asyncio.WriteTransport | None = None
        self._asked: dict[int, asyncio.Future[Reply | None]] = {}
        self.is_closed = False
        self.ended = asyncio.Event()
        """Set once nothing will come over it any more."""
        self.on_found: Callable[[Inventory], None] = lambda inventory: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the way out."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand each answer to whoever waits for it."""
        try:
            arrived = self._reader.feed(data)
        except MalformedFrame:
            self.close()
            return
        for replies in arrived:
            for reply in replies:
                if isinstance(reply, Found):
                    self.on_found(reply.inventory)
                else:
                    self._answer(reply.seq, reply)

    def connection_lost(self, error: Exception | None) -> None:
        """Nobody will answer any more."""
        self.is_closed = True
        self.ended.set()
        self._transport = None
        for seq in list(self._asked):
            self._answer(seq, None)

    async def asked(self, op: Ask | Look | Pull) -> Reply | None:
        """The answer to an op; None where the connection ended before it."""
        if self.is_closed:
            return None
        answer: asyncio.Future[Reply | None] = self._loop.create_future()
        self._asked[op.seq] = answer
        self.send(op)
        try:
            return await answer
        finally:
            self._asked.pop(op.seq, None)

    def send(self, op: Op) -> None:
        """Write an op, if anybody reads it."""
        if self._transport is not None:
            self._transport.write(frames([_encode(op)]))

    def close(self) -> None:
        """Close once everything written has left."""
        self.is_closed = True
        if self._transport is not None:
            self._transport.close()

    def _answer(self, seq: int, reply: Reply | None) -> None:
        answer = self._asked.get(seq)
        if answer is not None and not answer.done():
            answer.set_result(reply)


class Viewer:
    """A command's line to the model host of a running server, closed with the block."""

    def __init__(self, data_dir: Path) -> None:
        """Raises `StartError` where no server runs."""
        self._data_dir = data_dir
        self._reader = reply_reader()
        self._link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._link.settimeout(_LOOK_S)
            self._link.connect(socket_path(data_dir, SOCKET))
        except OSError:
            self._link.close()
            raise self._nobody() from None

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *error: object) -> None:
        self._link.close()

    def look(self) -> Shown:
        """How the models stand; raises `StartError`. Blocks for seconds at most."""
        return self._asked(Look(1), Shown)

    def pull(self, provider: str, model: str) -> Pulled:
        """Have a server fetch a model, or see how far it is; raises `StartError`."""
        return self._asked(Pull(1, provider, model), Pulled)

    def _asked(self, op: Look | Pull, kind: type[T]) -> T:
        with contextlib.suppress(OSError, MalformedFrame):
            self._link.sendall(frames([_encode(op)]))
            while data := self._link.recv(65_536):
                for replies in self._reader.feed(data):
                    for reply in replies:
                        if isinstance(reply, kind):
                            return reply
        raise self._nobody()

    def _nobody(self) -> StartError:
        return StartError(
            f"{self._data_dir}: no server with local models runs there; start one with "
            "'tollway serve', or name its data folder with --data"
        )


def look(data_dir: Path) -> Shown:
    """How the models of a running server stand; raises `StartError`. Blocks for seconds at most."""
    with Viewer(data_dir) as viewer:
        return viewer.look()
