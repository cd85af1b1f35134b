"""The requests that are sent and the answers to them: the same bytes for everything measured.

The model of a request names its workload, so the upstream knows its answer from the body alone.
"""

from __future__ import annotations

import base64
import functools
import json
import random
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.dialects import ENDS, INPUT_TOKENS, PAIRS, Pair, Provider, answer, events, question

CHUNKS = 20
LONG_CHUNKS = 520
# Between two events of a paced stream: each arrives alone, as a model's tokens do.
PACE_S = 0.003
# Events that arrive together where nothing paces them, as they do when everybody is busy.
JOINED = 5
# What a provider takes that has much to say.
SLOW_S = 0.05
# Nobody waits this long: the stream stays open until its client goes.
HELD_OPEN_S = 3600.0

# As long as providers' keys are: it is looked for in answers, and short ones are found slowly.
PROVIDER_KEY = "sk-upstream-0A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8S9t"

_WORDS_OF_100_KB = 17_000
_INPUTS = 16
_DIMENSIONS = 1536

# What providers send along, so that everything measured parses heads of a usual size.
_HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"server: upstream\r\n"
    b"x-request-id: req_011CQ2n7d6f4kKqk1nZ9yUeH\r\n"
    b"openai-processing-ms: 412\r\n"
    b"openai-version: 2020-10-01\r\n"
    b"x-ratelimit-limit-requests: 10000\r\n"
    b"x-ratelimit-remaining-requests: 9999\r\n"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A whole answer as the pieces it is written in.

    Pieces with no gap between them still leave in writes of their own, as fast as they can.
    """

    pieces: tuple[bytes, ...]
    gap_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """One kind of request with its answer.

    `end` is among the last bytes of a stream that is whole; `provider` whose dialect answers.
    """

    model: str
    path: str
    body: bytes
    answer: Answer
    end: bytes = ENDS["chat"]
    provider: Provider = "openai"

    def request(self, host: str, key: str) -> bytes:
        """The request as it goes over the wire."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\n"
            f"content-type: application/json\r\nuser-agent: OpenAI/Python 2.0.0\r\n"
            f"authorization: Bearer {key}\r\ncontent-length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


@functools.cache
def all_workloads() -> Mapping[str, Workload]:
    """What is asked in OpenAI's dialect and answered in it, by the model."""
    workloads = (
        _chat("json", answer=_answered("openai")),
        _embeddings("embeddings"),
        _stream("stream-20", CHUNKS, events_per_write=JOINED),
        _stream("stream-20-paced", CHUNKS, gap_s=PACE_S),
        _stream("stream-520-paced", LONG_CHUNKS, gap_s=PACE_S),
        _stream("stream-20-at-once", CHUNKS, events_per_write=CHUNKS),
        _stream("stream-520-at-once", LONG_CHUNKS, events_per_write=LONG_CHUNKS),
        _stream("stream-open", CHUNKS, gap_s=HELD_OPEN_S),
    )
    return {workload.model: workload for workload in workloads}


@functools.cache
def dialect_workloads() -> Mapping[str, Workload]:
    """What is asked in one dialect and answered in another, by the pair and the kind of answer."""
    workloads = [
        workload
        for pair in PAIRS
        for workload in (
            _asking(pair, f"{pair.name}-json"),
            _asking(pair, f"{pair.name}-stream-20", chunks=CHUNKS, events_per_write=JOINED),
            *(
                _asking(pair, f"{pair.name}-stream-{chunks}-{suffix}", chunks=chunks, **how)
                for chunks in (CHUNKS, LONG_CHUNKS)
                for suffix, how in (
                    ("paced", {"gap_s": PACE_S}),
                    ("at-once", {"events_per_write": chunks}),
                )
            ),
        )
    ]
    return {workload.model: workload for workload in workloads}


@functools.cache
def overload_workloads() -> Mapping[str, Workload]:
    """What is asked of a server that has too much to do, by the model."""
    instant = _answered("openai")
    # Of nothing that is written there is nothing to see but the time until the rest.
    slow = Answer(pieces=(b"", *instant.pieces), gap_s=SLOW_S)
    workloads = (
        _chat("instant", answer=instant),
        _chat("slow", answer=slow),
        _chat("slow-100k", answer=slow, words=_WORDS_OF_100_KB),
    )
    return {workload.model: workload for workload in workloads}


def _chat(model: str, *, answer: Answer, stream: bool = False, words: int = 60) -> Workload:
    path, body = question("chat", model, _words(words, seed=1), stream=stream)
    return Workload(model=model, path=path, body=json.dumps(body).encode(), answer=answer)


def _asking(pair: Pair, model: str, *, chunks: int = 0, **how: Any) -> Workload:
    path, body = question(pair.client, model, _words(60, seed=1), stream=chunks > 0)
    return Workload(
        model=model,
        path=path,
        body=json.dumps(body).encode(),
        answer=_streamed(pair.provider, chunks, **how) if chunks else _answered(pair.provider),
        end=ENDS[pair.client],
        provider=pair.provider,
    )


def _answered(provider: Provider) -> Answer:
    return _whole(_json(answer(provider, _words(110, seed=2))))


def _embeddings(model: str) -> Workload:
    inputs = [_words(8, seed=i) for i in range(_INPUTS)]
    body = {"model": model, "input": inputs, "encoding_format": "base64"}
    chance = random.Random(3)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(
                struct.pack(
                    f"<{_DIMENSIONS}f", *(chance.gauss(0, 0.03) for _ in range(_DIMENSIONS))
                )
            ).decode(),
        }
        for index in range(_INPUTS)
    ]
    usage = {"prompt_tokens": INPUT_TOKENS, "total_tokens": INPUT_TOKENS}
    answer = {"object": "list", "data": data, "model": model, "usage": usage}
    return Workload(
        model=model,
        path="/v1/embeddings",
        body=json.dumps(body).encode(),
        answer=_whole(_json(answer)),
    )


def _stream(model: str, chunks: int, **how: Any) -> Workload:
    return _chat(model, answer=_streamed("openai", chunks, **how), stream=True)


def _streamed(
    provider: Provider, chunks: int, *, gap_s: float = 0.0, events_per_write: int = 1
) -> Answer:
    found = events(provider, [f" word{i % 10}" for i in range(chunks)])
    first, *rest = map(_frame, found.words)
    head = _HEAD + (
        b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    # The role goes out with the first word, and the end in one: so do the providers.
    opening = head + (_frame(found.opening) if found.opening else b"") + first
    ending = b"".join(map(_frame, found.ending)) + _frame(b"")
    pieces = (opening, *rest, ending)
    joined = tuple(
        b"".join(pieces[i : i + events_per_write]) for i in range(0, len(pieces), events_per_write)
    )
    return Answer(pieces=joined, gap_s=gap_s)


def _frame(data: bytes) -> bytes:
    """One chunk of HTTP/1.1's chunked coding; empty, it is the end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _whole(body: bytes) -> Answer:
    head = _HEAD + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return Answer(pieces=(head + body,))


def _words(count: int, *, seed: int) -> str:
    chance = random.Random(seed)
    letters = "etaoinshrdlu"
    return " ".join("".join(chance.choices(letters, k=chance.randint(2, 8))) for _ in range(count))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
