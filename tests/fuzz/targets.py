"""The parsers of what strangers send: each takes any bytes, and raises if it breaks its word."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from uvicorn import Config
from uvicorn.server import ServerState

from adapters.base import AdapterError, Deadlines, MalformedAnswer
from adapters.http.http1 import Http1Transport
from adapters.http.http_rules import Origin
from adapters.wire.sse import EventDecoder
from proxy.errors import ApiError
from proxy.guard.admission import Admission
from proxy.guard.protocol import GuardedProtocol, Patience
from proxy.http import REFUSAL
from proxy.wire import (
    chat,
    completions,
    embeddings,
    images,
    moderations,
    rerank,
    speech,
    transcriptions,
)
from proxy.wire.body import Body
from proxy.wire.messages import request as messages
from proxy.wire.responses import request as responses

Target = Callable[[bytes], None]

_PARSERS = (
    *(chat.parse, completions.parse, embeddings.parse, images.parse, moderations.parse),
    *(rerank.parse, speech.parse, messages.parse, messages.parse_prompt, responses.parse),
)
_PATIENCE = Patience(head_s=60, body_s=60, reader_s=60, keep_alive_s=60)
_DEADLINES = Deadlines(connect_s=60, first_byte_s=60, idle_s=60)
_STATUSES = frozenset({200, 400, 431})
_MOST_BYTES = 1 << 16


def bodies(data: bytes) -> None:
    """Each endpoint reads a body or refuses it; what is read is what goes upstream."""
    for parse in _PARSERS:
        with _refused():
            parse(data, {})
    with _refused():
        transcriptions.parse(data, {b"content-type": b"multipart/form-data; boundary=b"})
    with _refused():
        body = Body.parse(data)
        assert Body.parse(body.join({})).members == body.members


@contextlib.contextmanager
def _refused() -> Any:
    try:
        yield
    except ApiError as error:
        assert 400 <= error.status < 500, error


def events(data: bytes) -> None:
    """A stream has the same events however it is cut, if any."""
    whole = _events([data])
    for size in (1, 7):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert _events(pieces) == whole


def _events(pieces: list[bytes]) -> list[bytes | None] | None:
    decoder = EventDecoder(limit=100)
    try:
        found: list[bytes | None] = [each for piece in pieces for each in decoder.feed(piece)]
        return [*found, decoder.finish()]
    except MalformedAnswer:
        return None


class _Wire(asyncio.Transport):
    """A connection that keeps what is written to it."""

    def __init__(self, on_write: Callable[[], None] = lambda: None) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = bytearray()
        self._on_write = on_write
        self._is_closing = False

    def write(self, data: Any) -> None:
        self.written += data
        self._on_write()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


def requests(data: bytes) -> None:
    """A client may send anything: each reply is whole, and none of them is our fault."""
    with asyncio.Runner() as runner:
        wire = runner.run(_requests(data))
    written = bytes(wire.written)
    while written:
        head, _, written = written.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 "), head
        assert int(head[9:12]) in _STATUSES, head
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        written = written[int(length) :]


async def _requests(data: bytes) -> _Wire:
    state = ServerState()
    admission = Admission(most=9, queue=9, queue_s=60)
    config = Config(_echo, log_config=None, access_log=False, lifespan="off")
    config.load()
    protocol = GuardedProtocol(_PATIENCE, admission, config, state, {})
    wire = _Wire()
    protocol.connection_made(wire)
    middle = len(data) // 2
    for piece in (data[:middle], data[middle:]):
        if piece and not wire.is_closing():
            protocol.data_received(piece)
        await asyncio.sleep(0)
    for _ in range(40):
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    while state.tasks:
        await asyncio.wait(set(state.tasks))
    return wire


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    refusal = scope[REFUSAL]
    more = refusal is None
    while more:
        message = await receive()
        refusal = message.get("refusal")
        more = message.get("more_body", False)
    status = 200 if refusal is None else refusal.status
    body = b"" if scope["method"] == "HEAD" else json.dumps(scope["path"]).encode()
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


def answers(data: bytes) -> None:
    """A provider may answer anything: it is read, or one of our errors says what is wrong."""
    with asyncio.Runner() as runner:
        runner.run(_answers(data))


async def _answers(data: bytes) -> None:
    loop = asyncio.get_running_loop()

    async def create_connection(factory: Any, *_: Any, **__: Any) -> Any:
        protocol = factory()

        def answer() -> None:
            middle = len(data) // 2
            for piece in (data[:middle], data[middle:]):
                loop.call_soon(protocol.data_received, piece)
            loop.call_soon(protocol.eof_received)
            loop.call_soon(protocol.connection_lost, None)

        wire = _Wire(on_write=answer)
        protocol.connection_made(wire)
        return wire, protocol

    loop.create_connection = create_connection  # type: ignore[method-assign]
    faults: list[Any] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))
    transport = Http1Transport(Origin.parse("http://127.0.0.1:1"), headers={})
    with contextlib.suppress(AdapterError):
        response = await transport.post("/", {}, b"{}", _DEADLINES)
        with contextlib.closing(response):
            await response.read_all(_MOST_BYTES)
    assert not faults, faults


TARGETS: dict[str, Target] = {
    "bodies": bodies,
    "events": events,
    "requests": requests,
    "answers": answers,
}
SEEDS: dict[str, list[bytes]] = {
    "bodies": [
        b'{"model":"auto","messages":[{"role":"user","content":"Hello"}],"max_tokens":9}',
        b'{"model":"m","input":[{"type":"message","role":"user","content":"a"}],"n":1}',
        b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n',
    ],
    "events": [
        b'data: {"a": 1}\n\ndata: [DONE]\n\n',
        b"\xef\xbb\xbfevent: a\r\ndata: b\rdata\n\n: c\n",
    ],
    "requests": [
        b"POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\naGET / HTTP/1.0\r\n\r\n",
    ],
    "answers": [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na",
        b"HTTP/1.0 200 OK\r\ncontent-encoding: gzip\r\n\r\n\x1f\x8b\x08\0",
    ],
}
