"""The provider that everything measured talks to: answers that were made beforehand.

It runs in a process of its own and does next to nothing per request, because its share of the
machine is missing from what is measured. It prints its port and serves until it is killed; over
TLS, where its argument is a file with a key and a certificate.
"""

from __future__ import annotations

import asyncio
import gc
import re
import ssl
import sys
from collections.abc import Mapping
from typing import cast

import uvloop

from benchmarks.workloads import Answer, all_workloads, dialect_workloads, overload_workloads

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
# In the body, or in the path as Gemini has it. What is behind a colon tells targets apart.
_MODEL = re.compile(rb'"model"\s*:\s*"([^":]+)')
_MODEL_IN_PATH = re.compile(rb"POST [^ ]*/models/([^:]+):")


class Upstream(asyncio.Protocol):
    """One connection: a request at a time, as HTTP/1.1 clients send them without pipelining."""

    _transport: asyncio.Transport

    def __init__(self, answers: Mapping[bytes, Answer]) -> None:
        self._answers = answers
        self._loop = asyncio.get_running_loop()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n")
        length = _LENGTH.search(received, 0, end) if end >= 0 else None
        if end < 0 or (length and len(received) < end + 4 + int(length[1])):
            self._received = received
            return
        self._received = b""
        model = _MODEL_IN_PATH.match(received) or _MODEL.search(received, end)
        answer = self._answers.get(model[1]) if model else None
        if answer is None:
            self._transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        else:
            self._write(answer, 0)

    def _write(self, answer: Answer, index: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(answer.pieces[index])
        index += 1
        if index == len(answer.pieces):
            return
        if answer.gap_s:
            self._loop.call_later(answer.gap_s, self._write, answer, index)
        else:
            # A write in the same turn of the loop would leave in the same packet.
            self._loop.call_soon(self._write, answer, index)


async def _serve(certificate: str | None) -> None:
    workloads = {**all_workloads(), **dialect_workloads(), **overload_workloads()}
    answers = {model.encode(): workload.answer for model, workload in workloads.items()}
    loop = asyncio.get_running_loop()
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    server = await loop.create_server(
        lambda: Upstream(answers), "127.0.0.1", 0, backlog=1024, ssl=context
    )
    gc.freeze()
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1] if sys.argv[1:] else None))
