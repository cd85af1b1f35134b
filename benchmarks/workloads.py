"""The requests that are sent and the answers to them: the same bytes for everything measured.

The model of a request names its workload, so the upstream knows its answer from the body alone.
"""

from __future__ import annotations

import base64
import json
import random
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CHUNKS = 20
LONG_CHUNKS = 520
# Between two events of a paced stream: each arrives alone, as a model's tokens do.
PACE_S = 0.003
# Events that arrive together where nothing paces them, as they do when everybody is busy.
JOINED = 5
# Nobody waits this long: the stream stays open until its client goes.
HELD_OPEN_S = 3600.0

# As long as providers' keys are: it is looked for in answers, and short ones are found slowly.
PROVIDER_KEY = "sk-upstream-0A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8S9t"

_INPUTS = 16
_DIMENSIONS = 1536
_INPUT_TOKENS, _OUTPUT_TOKENS = 96, 160

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
    """One kind of request with its answer."""

    model: str
    path: str
    body: bytes
    answer: Answer

    def request(self, host: str, key: str) -> bytes:
        """The request as it goes over the wire."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\n"
            f"content-type: application/json\r\nuser-agent: OpenAI/Python 2.0.0\r\n"
            f"authorization: Bearer {key}\r\ncontent-length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


def all_workloads() -> Mapping[str, Workload]:
    """Every workload by its model."""
    workloads = (
        _chat("json", answer=_whole(_completion())),
        _embeddings("embeddings"),
        _stream("stream-20", CHUNKS, events_per_write=JOINED),
        _stream("stream-20-paced", CHUNKS, gap_s=PACE_S),
        _stream("stream-520-paced", LONG_CHUNKS, gap_s=PACE_S),
        _stream("stream-20-at-once", CHUNKS, events_per_write=CHUNKS),
        _stream("stream-520-at-once", LONG_CHUNKS, events_per_write=LONG_CHUNKS),
        _stream("stream-open", CHUNKS, gap_s=HELD_OPEN_S),
    )
    return {workload.model: workload for workload in workloads}


def _chat(model: str, *, answer: Answer, stream: bool = False) -> Workload:
    messages = [
        {"role": "system", "content": "You answer briefly, in plain words, and name your sources."},
        {"role": "user", "content": _words(60, seed=1)},
    ]
    body: dict[str, Any] = {"model": model, "messages": messages, "temperature": 0.2}
    if stream:
        body["stream"] = True
    return Workload(
        model=model, path="/v1/chat/completions", body=json.dumps(body).encode(), answer=answer
    )


def _completion() -> bytes:
    return _json(
        {
            "id": "chatcmpl-C8x2mTq1yLw0bq9Zk3",
            "object": "chat.completion",
            "created": 1763640000,
            "model": "json",
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": _words(110, seed=2),
                        "refusal": None,
                    },
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": _usage(),
            "system_fingerprint": "fp_44709d6fcb",
        }
    )


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
    usage = {"prompt_tokens": _INPUT_TOKENS, "total_tokens": _INPUT_TOKENS}
    answer = {"object": "list", "data": data, "model": model, "usage": usage}
    return Workload(
        model=model,
        path="/v1/embeddings",
        body=json.dumps(body).encode(),
        answer=_whole(_json(answer)),
    )


def _stream(model: str, chunks: int, *, gap_s: float = 0.0, events_per_write: int = 1) -> Workload:
    first, *rest = (_event({"content": f" word{i % 10}"}) for i in range(chunks))
    head = _HEAD + (
        b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    # The role goes out with the first word, and the end in one: so do the providers.
    opening = head + _event({"role": "assistant", "content": "", "refusal": None}) + first
    ending = (
        _event({}, finish_reason="stop")
        + _usage_event()
        + _frame(b"data: [DONE]\n\n")
        + _frame(b"")
    )
    events = (opening, *rest, ending)
    pieces = tuple(
        b"".join(events[i : i + events_per_write]) for i in range(0, len(events), events_per_write)
    )
    return _chat(model, answer=Answer(pieces=pieces, gap_s=gap_s), stream=True)


def _event(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _chunk([choice])


def _usage_event() -> bytes:
    return _chunk([], usage=_usage())


def _chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
    chunk = {
        "id": "chatcmpl-C8x2mTq1yLw0bq9Zk3",
        "object": "chat.completion.chunk",
        "created": 1763640000,
        "model": "stream",
        "service_tier": "default",
        "system_fingerprint": "fp_44709d6fcb",
        "choices": choices,
        **more,
    }
    return _frame(b"data: " + _json(chunk) + b"\n\n")


def _frame(data: bytes) -> bytes:
    """One chunk of HTTP/1.1's chunked coding; empty, it is the end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _whole(body: bytes) -> Answer:
    head = _HEAD + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return Answer(pieces=(head + body,))


def _usage() -> dict[str, Any]:
    return {
        "prompt_tokens": _INPUT_TOKENS,
        "completion_tokens": _OUTPUT_TOKENS,
        "total_tokens": _INPUT_TOKENS + _OUTPUT_TOKENS,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _words(count: int, *, seed: int) -> str:
    chance = random.Random(seed)
    letters = "etaoinshrdlu"
    return " ".join("".join(chance.choices(letters, k=chance.randint(2, 8))) for _ in range(count))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
