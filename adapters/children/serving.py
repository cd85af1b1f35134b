"""The HTTP server of a child: a few endpoints of OpenAI's on loopback, for one parent.

It says `ready PORT {...}` on its standard output when it serves, and ends when its standard input
does (its parent is gone), or at SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn, TextIO

import msgspec
import uvicorn

from adapters.base import BadRequest, ModelNotFound, UpstreamError
from adapters.leases import KEY_VARIABLE
from adapters.wire import loose_json

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON = b"application/json"
EVENTS = b"text/event-stream"

_LARGEST_BODY = 64 << 20
# How long answers may still take at the end.
_GRACE_S = 1
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer that comes in pieces: the one of a JSON text, or the events of a stream."""

    pieces: AsyncIterator[bytes]
    content_type: bytes = JSON


Endpoint = Callable[[bytes], AbstractAsyncContextManager[Reply]]
"""Opens the reply to a body; leaving the reply ends all work at it.

What it raises, and what the first piece raises, is answered with the error's status.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What one process serves: a model under its name, and what can be asked of it.

    `endpoints` has, by its path, each that this model has; `about` is told when it is ready, and
    `memory`, where the runtime knows of bytes that the system does not count, by `GET /health`.
    """

    name: str
    endpoints: Mapping[str, Endpoint]
    about: Mapping[str, Any]
    memory: Callable[[], Mapping[str, int]] | None = None


class Child:
    """The ASGI application."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._created = int(time.time())
        key = os.environ.get(KEY_VARIABLE)
        self._authorization = f"Bearer {key}".encode() if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        exchange = _Exchange(receive, send)
        try:
            self._check_caller(scope)
            await self._answer(scope["method"], scope["path"], exchange)
        except UpstreamError as error:
            await exchange.fail(error)

    def _check_caller(self, scope: Scope) -> None:
        """Only its parent's other processes ask a child, by the key that the parent gave it."""
        _refuse_web_pages(scope)
        if self._authorization is None or scope["path"] == "/health":
            return
        sent = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(sent, self._authorization):
            raise BadRequest("this model answers Tollway alone", status=401, code="invalid_api_key")

    async def _answer(self, method: str, path: str, exchange: _Exchange) -> None:
        if path in self._model.endpoints:
            _allow(method, "POST")
            body = await exchange.read()
            self._check_name(body)
            await exchange.answer(self._model.endpoints[path](body))
        elif path == "/health":
            _allow(method, "GET")
            await exchange.send_json(self._health())
        elif path == "/v1/models":
            _allow(method, "GET")
            await exchange.send_json({"object": "list", "data": [self._entry()]})
        else:
            raise BadRequest(f"this model has no {path!r}", status=404, code="unknown_url")

    def _health(self) -> Mapping[str, Any]:
        memory = self._model.memory
        return {"status": "ok"} if memory is None else {"status": "ok", "memory": memory()}

    def _entry(self) -> Mapping[str, Any]:
        entry = {"id": self._model.name, "object": "model", "created": self._created}
        return {**entry, "owned_by": "local", **self._model.about}

    def _check_name(self, body: bytes) -> None:
        """A port may have been another child's a moment ago: better no answer than a wrong one."""
        try:
            named = _named.decode(body).model
        except msgspec.DecodeError:
            return  # whoever reads the whole of it says what is wrong
        if named is not None and named != self._model.name:
            raise ModelNotFound(
                f"this is {self._model.name!r}, not {named!r}",
                status=404,
                type="invalid_request_error",
                param="model",
                code="model_not_found",
            )


class _Named(msgspec.Struct):
    model: str | None = None


_named = msgspec.json.Decoder(_Named)


class _Exchange:
    """One request and its response."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._content_type: bytes | None = None  # once the head is sent

    async def read(self) -> bytes:
        """The whole body."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise BadRequest("the client left in the middle of its request", status=400)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > _LARGEST_BODY:
                raise BadRequest(f"a request has at most {_LARGEST_BODY} bytes", status=413)
            if not message.get("more_body", False):
                return b"".join(parts)

    async def answer(self, opening: AbstractAsyncContextManager[Reply]) -> None:
        """Send a reply piece by piece; all ends when the client hangs up."""
        sending = asyncio.ensure_future(self._send_reply(opening))
        leaving = asyncio.ensure_future(self._wait_left())
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            sending.cancel()
            await asyncio.wait({sending, leaving})
        if not sending.cancelled() and (error := sending.exception()):
            raise error

    async def _wait_left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _send_reply(self, opening: AbstractAsyncContextManager[Reply]) -> None:
        try:
            async with opening as reply:
                # The head waits for the first piece: until then an error has a status.
                async for piece in reply.pieces:
                    if self._content_type is None:
                        await self._start(200, reply.content_type)
                    await self._send_body(piece, more=True)
            await self._send_body(b"", more=False)
        except UpstreamError:
            raise
        except Exception as error:
            traceback.print_exc()
            raise UpstreamError(f"the model failed: {error}", status=500) from error

    async def fail(self, error: UpstreamError) -> None:
        """An error as the response; as the last event, where a stream has begun."""
        said = loose_json.encode({"error": _body_of(error)})
        if self._content_type == EVENTS:
            await self._send_body(b"data: %b\n\n" % said, more=False)
        elif self._content_type is None:
            await self._start(error.status, JSON)
            await self._send_body(said, more=False)

    async def send_json(self, value: Mapping[str, Any]) -> None:
        await self._start(200, JSON)
        await self._send_body(loose_json.encode(value), more=False)

    async def _start(self, status: int, content_type: bytes) -> None:
        self._content_type = content_type
        headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


def _refuse_web_pages(scope: Scope) -> None:
    """Nothing a browser sends is for us: it would be some page's trick to use the model."""
    headers = dict(scope["headers"])
    host = headers.get(b"host", b"").decode("latin-1").rsplit(":", 1)[0]
    if b"origin" in headers or host not in _LOOPBACK:
        raise BadRequest("only processes of this machine are answered", status=403)


def _allow(method: str, allowed: str) -> None:
    if method != allowed:
        raise BadRequest(f"only {allowed} is possible here", status=405)


def _body_of(error: UpstreamError) -> Mapping[str, Any]:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "message": error.message,
        "type": error.type or kind,
        "param": error.param,
        "code": error.code,
    }


def arguments(description: str) -> argparse.ArgumentParser:
    """The command line that every child takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True, help="its file or directory")
    parser.add_argument("--name", required=True, help="what requests call it")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument(
        "--context", type=int, help="tokens of context (default: the model's, within reason)"
    )
    parser.add_argument("--threads", type=int, help="threads for one computation")
    parser.add_argument("--embeddings", action="store_true", help="vectors, not answers")
    return parser


def main(load: Callable[[Sequence[str]], tuple[Model, int]]) -> NoReturn:
    """Load a model and serve it on the port asked for, until the parent has enough of it."""
    told = _take_standard_output()
    parent = _Parent()
    try:
        model, port = load(sys.argv[1:])
        listener = socket.create_server(("127.0.0.1", port), backlog=128)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        sys.exit(" ".join(f"cannot serve: {error}".split()))
    _serve(model, listener, told, parent)
    told.flush()
    sys.stderr.flush()
    # A native model may still be at work in its thread, and must not be torn down under it.
    os._exit(0)


def _take_standard_output() -> TextIO:
    """The parent's end, for us alone: what native libraries print goes to standard error."""
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return told


class _Parent:
    """Whoever holds our standard input open; once that is over, `on_gone` is called."""

    def __init__(self) -> None:
        # While a model loads there is nothing that could be ended in good order.
        self.on_gone: Callable[[], object] = lambda: os._exit(0)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        with suppress(OSError):
            while os.read(0, 1 << 16):
                pass
        self.on_gone()


def _serve(model: Model, listener: socket.socket, told: TextIO, parent: _Parent) -> None:
    server = _Server(
        uvicorn.Config(
            Child(model),
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=3600,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )
    parent.on_gone = server.leave
    about = msgspec.json.encode(model.about).decode()
    told.write(f"ready {listener.getsockname()[1]} {about}\n")
    server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Control-C in a terminal reaches the parent too, which says when all is over."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig != signal.SIGINT:
            super().handle_exit(sig, frame)

    def leave(self) -> None:
        """End, once what is being answered is, or a while has passed."""
        self.should_exit = True
