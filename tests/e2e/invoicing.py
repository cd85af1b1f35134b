"""A provider in a process of its own, on real sockets, that keeps an exact invoice.

It answers JSON and streams word by word, so that it can be left in the middle, and bills each
request by its own arithmetic for what it had generated when it noticed that nobody listens any
more: the models `meter` and `flaky` stop there, `whole` generates and bills to the end whatever
happens. `flaky` answers every other request with an error, which is free.

    python -m tests.e2e.invoicing     # prints its port, serves until its standard input ends

`GET /invoice` is the list of its `Bill`s as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2
import msgspec

from tests.e2e.upstream import Line, chunk, completion

PRICE = {"input": 0.15, "cached_input": 0.0375, "output": 0.6}
"""USD per million tokens, as router.yaml says it. A cached token costs a fraction of a nano-USD."""

_NANOUSD = {name: Fraction(str(usd)) * 1_000 for name, usd in PRICE.items()}
WORDS = ("so", " this", " is", " what", " a", " model", " says", ",", " word", " by", " word", ".")
_WORD_S = 0.002


class Bill(msgspec.Struct):
    """One request that arrived, and what it is billed."""

    user: str
    """The request's own `user`, by which it is found in the ledger."""
    model: str
    stream: bool
    status: int = 0
    prompt: int = 0
    cached: int = 0
    output: int = 0
    nanousd: int = 0
    was_left: bool = False
    is_final: bool = False

    def charge(self) -> None:
        exact = (
            (self.prompt - self.cached) * _NANOUSD["input"]
            + self.cached * _NANOUSD["cached_input"]
            + self.output * _NANOUSD["output"]
        )
        self.nanousd = math.ceil(exact)

    def usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.output,
            "total_tokens": self.prompt + self.output,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


class Provider:
    """The process, as a test has it."""

    def __enter__(self) -> Provider:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.invoicing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate(timeout=20)
        assert self._process.returncode == 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def invoice(self) -> list[Bill]:
        """Every request that arrived so far."""
        reply = httpx2.get(f"http://127.0.0.1:{self.port}/invoice", timeout=30)
        return msgspec.json.decode(reply.content, type=list[Bill])


# --- the process -------------------------------------------------------------------------------


class _Left(Exception):
    """Nobody listens any more."""


class _Server:
    def __init__(self) -> None:
        self._bills: list[Bill] = []
        self._chance = random.Random(1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = head.decode("latin-1").lower().split("\r\n")
                sizes = [int(f[15:]) for f in fields if f.startswith("content-length:")]
                body = await reader.readexactly(sum(sizes))
                line = Line(reader, writer)
                if head.startswith(b"GET /invoice"):
                    await line.json(msgspec.json.encode(self._bills))
                elif not await self._chat(msgspec.json.decode(body), reader, line):
                    break
        writer.close()

    async def _chat(self, body: dict[str, Any], reader: asyncio.StreamReader, line: Line) -> bool:
        """Answer; False where the connection is of no use any more."""
        bill = Bill(body["user"], body["model"], bool(body.get("stream")))
        self._bills.append(bill)
        try:
            await self._answer(bill, body, reader, line)
        except (_Left, ConnectionError):
            bill.was_left = True
            if bill.model == "whole":
                bill.output = self._length(body)
        finally:
            if bill.status == 200:
                bill.charge()
            bill.is_final = True
        return not bill.was_left

    async def _answer(
        self, bill: Bill, body: dict[str, Any], reader: asyncio.StreamReader, line: Line
    ) -> None:
        if bill.model == "flaky" and self._chance.random() < 0.5:
            bill.status = 500
            await line.json({"error": {"message": "not today"}}, "500 Internal Server Error")
            return
        text = "".join(message["content"] for message in body["messages"])
        bill.status = 200
        bill.prompt = 4 + len(text) // 4
        bill.cached = self._chance.randrange(bill.prompt)
        if bill.stream:
            await line.start_stream()
        words = []
        for n in range(self._length(body)):
            await asyncio.sleep(_WORD_S)
            if reader.at_eof() or reader.exception() is not None:
                raise _Left
            bill.output += 1
            words.append(WORDS[n % len(WORDS)])
            if bill.stream:
                await line.event(chunk({"content": words[-1]}))
        if bill.stream:
            await line.event(chunk({}, "stop"))
            await line.event(chunk(choices=[], usage=bill.usage()))
            await line.end_stream()
        else:
            await line.json(completion("".join(words), usage=bill.usage()))

    def _length(self, body: dict[str, Any]) -> int:
        """How many tokens the answer to this request has: the same whenever it is asked."""
        return random.Random(body["user"]).randint(1, body["max_tokens"])


async def _main() -> None:
    server = await asyncio.start_server(_Server().serve, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(_main())
