"""An upstream of our own on a real socket, whose every answer is scripted byte by byte.

It runs an event loop in a thread of the test process, and writes down what it was sent and when
its connections were closed, so that a test can compare its own invoice with the ledger.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Call:
    """One request that the upstream received."""

    path: str
    headers: dict[str, str]
    raw: bytes
    closed: threading.Event = field(default_factory=threading.Event)
    """Set when the connection was closed, by whomever, before the answer was complete."""

    @property
    def body(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.raw)
        return value

    @property
    def model(self) -> str:
        """The model that is asked for, in JSON or in a form."""
        if not self.headers["content-type"].startswith("multipart/form-data"):
            return str(self.body["model"])
        found = re.search(rb'name="model"\r\n\r\n(.*?)\r\n', self.raw)
        assert found, self.raw
        return found[1].decode()


class Line:
    """The connection as a script sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def json(self, value: object, status: str = "200 OK", headers: str = "") -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}"
        await self.send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    async def start_stream(self, headers: str = "") -> None:
        await self.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n" + headers.encode() + b"\r\n"
        )

    async def event(self, value: object) -> None:
        payload = value if isinstance(value, bytes) else json.dumps(value).encode()
        await self.chunk(b"data: " + payload + b"\n\n")

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        await self.chunk(b"data: [DONE]\n\n")
        await self.send(b"0\r\n\r\n")

    async def until_closed(self) -> None:
        while await self._reader.read(1024):
            pass
        raise ConnectionResetError

    def reset(self) -> None:
        sock: socket.socket = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Script = Callable[[Call, Line], Awaitable[None]]


class Upstream:
    """The server. `scripts` maps a model name to what happens when it is asked for."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.scripts: dict[str, Script] = {}
        self._arrived = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connections: set[asyncio.Task[None]] = set()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 26))
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def close(self) -> None:
        async def shut() -> None:
            self._server.close()
            for task in list(self._connections):
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

        self._run(shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wait_for_calls(self, count: int, timeout_s: float = 10) -> list[Call]:
        with self._arrived:
            arrived = self._arrived.wait_for(lambda: len(self.calls) >= count, timeout_s)
        assert arrived, f"{len(self.calls)} of {count} calls arrived"
        return self.calls[:count]

    def connections(self) -> set[int]:
        """Those that are open now."""
        return {id(task) for task in tuple(self._connections)}

    def in_loop(self, call: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(call)

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        call: Call | None = None
        try:
            while True:
                call = await self._read(reader)
                if call is None:
                    break
                with self._arrived:
                    self.calls.append(call)
                    self._arrived.notify_all()
                await self.scripts.get(call.model, answer_ok)(call, Line(reader, writer))
                call = None
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            if call is not None:
                call.closed.set()
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Call | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        return Call(path=first.split(" ")[1], headers=headers, raw=raw)


def completion(
    text: str = "Hello there", *, prompt: int = 11, output: int = 7, **changes: Any
) -> dict[str, Any]:
    return {
        "id": "chatcmpl-up",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "up-model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
        },
        **changes,
    }


def chunk(
    delta: dict[str, Any] | None = None, finish: str | None = None, **changes: Any
) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}]
    return {
        "id": "chatcmpl-up",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "up-model",
        "choices": choices,
        **changes,
    }


def usage_chunk(prompt: int = 11, output: int = 7) -> dict[str, Any]:
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }
    return chunk(choices=[], usage=usage)


async def answer_ok(call: Call, line: Line) -> None:
    """What a well-behaved provider does."""
    body = call.body
    if call.path.endswith("/embeddings"):
        await line.json(embeddings(body))
        return
    if not body.get("stream"):
        await line.json(completion())
        return
    await line.start_stream()
    await line.event(chunk({"role": "assistant", "content": ""}))
    for word in ("Hello", " there", ", friend"):
        await line.event(chunk({"content": word}))
    await line.event(chunk({}, "stop"))
    if (body.get("stream_options") or {}).get("include_usage"):
        await line.event(usage_chunk())
    await line.end_stream()


def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """Floats, whatever was asked for, as many servers answer."""
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = [
        {"object": "embedding", "index": i, "embedding": [1.0, 2.0, float(i)]}
        for i in range(len(inputs))
    ]
    usage = {"prompt_tokens": 5 * len(inputs), "total_tokens": 5 * len(inputs)}
    return {"object": "list", "data": data, "model": "up-embed", "usage": usage}
