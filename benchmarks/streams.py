"""Thousands of streams at the same time: are they whole, how late are events, what do they take?

    python -m benchmarks.streams provider            # the one that streams, in a process of its own
    python -m benchmarks.streams clients PORT N KEY  # those that read, in another

The provider numbers each stream's events and stamps them with the machine's monotonic clock, which
all processes share: their lag is what the gateway, the sockets and both ends take together.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import uvloop

from benchmarks.peer import peer
from benchmarks.results import percentile
from benchmarks.subjects import Tollway, tollway
from benchmarks.workloads import Answer, Workload

COUNTS = (2_000, 10_000)
QUICK_COUNTS = (200,)
WORKERS = 2
EVENT_EVERY_S = 2.0
HOLD_S = 20.0
QUICK_HOLD_S = 4.0
_TICK_S = 0.02
_OPENING_AT_ONCE = 100
_GIVE_UP_S = 300.0
# Beside the streams: libraries, logs, the ledger.
_OTHER_FILES = 200

_MODULE = "benchmarks.streams"
_MODEL = "stream-open"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = (
    '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",'
    '"choices":[{"index":0,"delta":%s,"finish_reason":%s}]}'
)
_USAGE = (
    '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],'
    '"usage":{"prompt_tokens":9,"completion_tokens":%d,"total_tokens":%d}}'
)


@dataclass(frozen=True, kw_only=True)
class Streams:
    """What came of so many streams."""

    count: int
    whole: int
    broken: Mapping[str, int]
    """How many ended in which other way."""
    opening_s: float
    events: int
    events_per_s: float
    lag_p50_ms: float
    lag_p99_ms: float
    lag_worst_ms: float
    kib_per_stream: float
    """Memory of all processes of the server, shared pages shared out, beyond what it has idle."""
    streams_by_worker: tuple[int, ...]
    load_average: float
    """Of the machine, before; more than its cores are then others' too."""

    def as_json(self) -> dict[str, Any]:
        """As the results keep it."""
        return asdict(self)


def streams(folder: Path, *, quick: bool) -> list[Streams]:
    """Measure each number of streams with a server of its own. Raises `RuntimeError`."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    counts = QUICK_COUNTS if quick else COUNTS
    # The server's workers have two files for each stream, and one of them may have most of it.
    needed = 2 * max(counts) + _OTHER_FILES
    if most != resource.RLIM_INFINITY and most < max(counts) + _OTHER_FILES:
        raise RuntimeError(
            f"{max(counts):,} streams need {needed:,} open files, and {most:,} are allowed; raise "
            "the hard limit ('ulimit -Hn', as root, or LimitNOFILE= of a systemd unit)"
        )
    return [_measure(folder / f"streams-{count}", count, quick=quick) for count in counts]


def _measure(folder: Path, count: int, *, quick: bool) -> Streams:
    load_average = os.getloadavg()[0]
    with peer(_MODULE, "provider") as provider:
        port = int(provider.heard())
        workloads = {_MODEL: _workload()}
        with (
            tollway(
                folder, port, access_log=False, workloads=workloads, workers=WORKERS
            ) as subject,
            peer(
                "benchmarks.streams", "clients", str(subject.port), str(count), subject.key
            ) as clients,
        ):
            provider.say(b"begin")  # the one that asked whether all is ready has its answer
            idle_kib = _pss_kib(subject)
            clients.say(b"begin")
            opened = msgspec.json.decode(clients.heard())
            by_worker = tuple(sorted(_sockets(subject)))
            time.sleep(QUICK_HOLD_S if quick else HOLD_S)
            held_kib = _pss_kib(subject)
            provider.say(b"end")
            report = msgspec.json.decode(clients.heard())
    lags_ms = report["lags_ms"]
    return Streams(
        count=count,
        whole=report["whole"],
        broken=report["broken"],
        opening_s=opened["opening_s"],
        events=len(lags_ms),
        events_per_s=len(lags_ms) / (QUICK_HOLD_S if quick else HOLD_S),
        lag_p50_ms=percentile(lags_ms, 50),
        lag_p99_ms=percentile(lags_ms, 99),
        lag_worst_ms=max(lags_ms),
        kib_per_stream=(held_kib - idle_kib) / count,
        streams_by_worker=by_worker,
        load_average=load_average,
    )


def _workload() -> Workload:
    body = {"model": _MODEL, "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    return Workload(
        model=_MODEL,
        path="/v1/chat/completions",
        body=msgspec.json.encode(body),
        answer=Answer(pieces=()),
    )


def _pss_kib(subject: Tollway) -> int:
    return sum(sizes["pss"] for sizes in subject.memory_kib().values())


def _sockets(subject: Tollway) -> Iterator[int]:
    """About how many streams each worker has: two sockets are one."""
    for pid, role in subject.roles().items():
        if role == "worker":
            links = Path(f"/proc/{pid}/fd").iterdir()
            yield sum(link.readlink().name.startswith("socket:") for link in links) // 2


# --- the provider --------------------------------------------------------------------------


class _Provider:
    """Gives every stream an event in turn, until it is told to end them all."""

    def __init__(self) -> None:
        self._begun = False
        self._ends = False
        self._streams: list[_Stream] = []
        self._next = 0

    def take(self, stream: _Stream) -> None:
        """A request is there."""
        stream.begin()
        if self._begun:
            self._streams.append(stream)
        else:
            stream.end()

    def hear(self) -> None:
        """What the one that measures says."""
        word = sys.stdin.readline().strip()
        self._begun = self._begun or word == "begin"
        self._ends = word == "end"

    async def run(self) -> None:
        """As many events as the time that has passed is worth."""
        last = time.monotonic()
        owed = 0.0
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            owed += (now - last) / EVENT_EVERY_S * len(self._streams)
            last = now
            # Late by more than a round, nobody is owed two.
            for _ in range(min(int(owed), len(self._streams))):
                owed -= 1
                self._give()

    def _give(self) -> None:
        if self._ends:
            self._streams.pop().end()
            return
        self._next = (self._next + 1) % len(self._streams)
        self._streams[self._next].event()


class _Stream(asyncio.Protocol):
    """One connection of the gateway, with one request at a time on it."""

    _transport: asyncio.Transport

    def __init__(self, provider: _Provider) -> None:
        self._provider = provider
        self._received = b""
        self._events = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.rstrip().endswith(b"}"):
            self._received = b""
            self._provider.take(self)

    def begin(self) -> None:
        self._events = 0
        first = _EVENT % ('{"role":"assistant","content":""}', "null")
        self._transport.write(_HEAD + _chunk(first))
        self.event()

    def event(self) -> None:
        self._events += 1
        said = f'{{"content":"{self._events}:{time.monotonic_ns()}"}}'
        self._transport.write(_chunk(_EVENT % (said, "null")))

    def end(self) -> None:
        last = _chunk(_EVENT % ("{}", '"stop"')) + _chunk(_USAGE % (self._events, self._events + 9))
        self._transport.write(last + _chunk("[DONE]") + b"0\r\n\r\n")


def _chunk(payload: str) -> bytes:
    data = f"data: {payload}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _provide() -> None:
    loop = asyncio.get_running_loop()
    provider = _Provider()
    loop.add_reader(sys.stdin, provider.hear)
    server = await loop.create_server(lambda: _Stream(provider), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await provider.run()


# --- the clients ---------------------------------------------------------------------------


class _Readers:
    """All clients, and what they have seen."""

    def __init__(self, port: int, count: int, key: str) -> None:
        self._port = port
        self._count = count
        self._request = _workload().request(f"127.0.0.1:{port}", key)
        self._may_open = asyncio.Semaphore(_OPENING_AT_ONCE)
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ends: Counter[str] = Counter()
        self.lags_ms: list[float] = []
        self.is_measuring = False

    async def run(self) -> None:
        began_at = time.monotonic()
        await asyncio.gather(*(self._open() for _ in range(self._count)))
        self.is_measuring = True
        _tell({"opening_s": time.monotonic() - began_at})
        async with asyncio.timeout(_GIVE_UP_S):
            await self._ended
        whole = self.ends.pop("whole", 0)
        _tell({"whole": whole, "broken": self.ends, "lags_ms": self.lags_ms})

    def end(self, how: str) -> None:
        """A stream is over."""
        self.ends[how] += 1
        if self.ends.total() == self._count and not self._ended.done():
            self._ended.set_result(None)

    async def _open(self) -> None:
        async with self._may_open:
            _, reader = await asyncio.get_running_loop().create_connection(
                lambda: _Reader(self), "127.0.0.1", self._port
            )
            reader.send(self._request)
            await reader.begun


class _Reader(asyncio.Protocol):
    """One client with one stream."""

    _transport: asyncio.Transport

    def __init__(self, readers: _Readers) -> None:
        self._readers = readers
        self._rest = b""
        self._has_status = False
        self._events = 0
        self._is_over = False
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes) -> None:
        self._transport.write(request)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"connection closed: {exc or 'cleanly'}")

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        if not self._has_status and not data.startswith(b"HTTP/1.1 200 "):
            self._end(_told(data))
        self._has_status = True
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        for block in blocks:
            self._take(block, now_ns)
        if self._events and not self.begun.done():
            self.begun.set_result(None)

    def _take(self, block: bytes, now_ns: int) -> None:
        _, _, said = block.partition(b'"content":"')
        number, _, stamp = said.partition(b'"')[0].partition(b":")
        if stamp:
            self._events += 1
            if int(number) != self._events:
                self._end("an event is missing or there twice")
            elif self._readers.is_measuring:
                self._readers.lags_ms.append((now_ns - int(stamp)) / 1e6)
        elif b"data: [DONE]" in block:
            self._end("whole")
        elif b'"error"' in block:
            self._end(_told(block))

    def _end(self, how: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._readers.end(how)
        if not self.begun.done():
            self.begun.set_result(None)


def _told(data: bytes) -> str:
    """What an error says, without the number of its request."""
    found = re.search(rb'"message":"((?:[^"\\\\]|\\\\.)*)"', data)
    said = found[1] if found else data[:80].split(b"\r\n")[0]
    return re.sub(r"\d+", "N", said.decode("latin-1"))


def _tell(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


async def _read(port: int, count: int, key: str) -> None:
    readers = _Readers(port, count, key)
    await asyncio.to_thread(sys.stdin.readline)
    await readers.run()


def _main() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()
    role, *arguments = sys.argv[1:]
    if role == "provider":
        uvloop.run(_provide())
    else:
        port, count, key = arguments
        uvloop.run(_read(int(port), int(count), key))


if __name__ == "__main__":
    _main()
