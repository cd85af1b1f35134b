"""A provider that fails at every byte of its answer, in every way and framing HTTP/1.1 has.

The third promise: whatever goes wrong, no client takes a part for a whole answer, none is left
hanging, and every attempt has one row. A bit that flips inside a text cannot be noticed by anybody;
what is promised then is an answer in one piece or an error, and one row.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy.ledger.audit import audit
from tests.e2e.tollway import Tollway, events, provider, serving
from tests.e2e.upstream import Call, Line, Script, Upstream, chunk, completion, usage_chunk

STRIDE = int(os.environ.get("TOLLWAY_WALL_STRIDE", "11"))
"""Every so many bytes; `make wall`: 1."""
AT_ONCE = 32
STALL_S = 0.3

EVENTS = [
    *(b"data: " + json.dumps(c).encode() + b"\n\n" for c in (
        chunk({"role": "assistant", "content": "é"}),
        chunk({"content": " two"}),
        chunk({}, "stop"),
        usage_chunk(),
    )),
    b"data: [DONE]\n\n",
]  # fmt: skip
WHOLE = json.dumps(completion()).encode()
FRAMINGS = ("chunked", "length", "close")


def framed(kind: str, pieces: list[bytes], framing: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n".encode()
    body = b"".join(pieces)
    match framing:
        case "chunked":
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
            return head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        case "length":
            return head + b"content-length: %d\r\n\r\n" % len(body) + body
        case _:
            return head + b"connection: close\r\n\r\n" + body


STREAMS = {framing: framed("text/event-stream", EVENTS, framing) for framing in FRAMINGS}
HALVES = [WHOLE[:200], WHOLE[200:]]
ANSWERS = {framing: framed("application/json", HALVES, framing) for framing in FRAMINGS}

PAGE = b"<!doctype html><html><body><h1>Bad gateway</h1></body></html>"
ERROR = b'{"error":{"message":"slow down","type":"x","param":null,"code":null}}'


def response(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


Fault = Callable[[Line, bytes, int], Awaitable[None]]


async def end(line: Line, answer: bytes, at: int) -> None:
    await line.send(answer[:at])


async def reset(line: Line, answer: bytes, at: int) -> None:
    await line.send(answer[:at])
    line.reset()


async def stall(line: Line, answer: bytes, at: int) -> None:
    await line.send(answer[:at])
    await line.until_closed()


async def flip(line: Line, answer: bytes, at: int) -> None:
    flipped = bytearray(answer)
    if at < len(answer):
        flipped[at] ^= 1 << at % 8
    await line.send(bytes(flipped))


def turns_into(other: bytes) -> Fault:
    """As where a proxy before the provider has its own say in the middle of an answer."""

    async def fault(line: Line, answer: bytes, at: int) -> None:
        await line.send(answer[:at] + other)

    return fault


FAULTS: dict[str, Fault] = {
    "end": end,
    "reset": reset,
    "stall": stall,
    "flip": flip,
    "429": turns_into(response("429 Too Many Requests", "application/json", ERROR)),
    "500": turns_into(response("500 Internal Server Error", "application/json", ERROR)),
    "html": turns_into(response("200 OK", "text/html", PAGE)),
    "page": turns_into(PAGE),
}


def failing(answer: bytes, fault: str) -> Script:
    """Fails at the byte that the request names."""

    async def script(call: Call, line: Line) -> None:
        await FAULTS[fault](line, answer, round(call.body["temperature"] * 1e6))
        raise ConnectionResetError

    return script


DIALECTS: dict[str, tuple[dict[str, Any], bytes]] = {
    "chat/completions": ({"messages": [{"role": "user", "content": "x"}]}, b"[DONE]"),
    "messages": (
        {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5},
        b"event: message_stop",
    ),
    "responses": ({"input": "x", "max_output_tokens": 16}, b"event: response.completed"),
}


@dataclass(frozen=True)
class Reply:
    at: int
    status: int
    body: bytes


def positions(answer: bytes, mark: int) -> list[int]:
    """A sample, always with both sides of where the head and the answer end."""
    edges = (answer.index(b"\r\n\r\n") + 4, mark, len(answer))
    near = {edge + d for edge in edges for d in (-1, 0, 1)}
    return sorted(at for at in {*range(0, len(answer), STRIDE), *near} if at <= len(answer))


@pytest.mark.resilience(row="breaks")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("framing", FRAMINGS)
def test_no_part_of_a_stream_looks_like_a_whole_one(
    upstream: Upstream, wall: Wall, framing: str, fault: str
) -> None:
    answer = STREAMS[framing]
    # Only when the end mark has come is the answer whole.
    mark = answer.index(b"data: [DONE]") + len(b"data: [DONE]")
    replies = wall.ask(upstream, answer, mark, fault, "chat/completions", stream=True)
    for reply in replies:
        if reply.status != 200:
            assert is_error(reply.body), reply
            continue
        *said, rest = reply.body.split(b"\n\n")
        assert rest == b"", reply
        has_error = b'{"error":' in said[-1]
        assert (said[-1] == b"data: [DONE]") != has_error, reply
        assert reply.body.count(b"[DONE]") == (not has_error), reply
        if fault != "flip":
            assert has_error or reply.at >= mark, reply
            assert has_error or b" two" in reply.body, reply
    if fault == "end":
        assert b"[DONE]" in replies[-1].body


@pytest.mark.resilience(row="breaks")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("framing", FRAMINGS)
def test_no_part_of_a_whole_answer_is_passed_on(
    upstream: Upstream, wall: Wall, framing: str, fault: str
) -> None:
    answer = ANSWERS[framing]
    mark = answer.rindex(b"}") + 1
    replies = wall.ask(upstream, answer, mark, fault, "chat/completions", stream=False)
    for reply in replies:
        if reply.status != 200:
            assert is_error(reply.body), reply
        elif fault == "flip":
            assert json.loads(reply.body)["choices"][0]["message"]["role"] == "assistant", reply
        else:
            assert reply.body == WHOLE, reply
            assert reply.at >= mark, reply
    if fault == "end":
        assert replies[-1].status == 200


@pytest.mark.resilience(row="breaks")
@pytest.mark.parametrize("fault", ["end", "stall", "page"])
@pytest.mark.parametrize("dialect", ["messages", "responses"])
def test_other_dialects_keep_the_promise_too(
    upstream: Upstream, wall: Wall, dialect: str, fault: str
) -> None:
    answer = STREAMS["chunked"]
    mark = answer.index(b"data: [DONE]") + len(b"data: [DONE]")
    _, end_mark = DIALECTS[dialect]
    replies = wall.ask(upstream, answer, mark, fault, dialect, stream=True)
    for reply in replies:
        if reply.status != 200:
            assert b'"error"' in reply.body, reply
            continue
        is_whole = end_mark in reply.body
        assert is_whole != (b"event: error" in reply.body), reply
        assert reply.at >= mark or not is_whole, reply
    if fault == "end":
        assert end_mark in replies[-1].body


NOVEL = "It was the best of times,\n\nit was the “worst” of times, it was the age"
WORDS = NOVEL.split(" ")
TOLD = [
    *(b"data: " + json.dumps(chunk({"content": word if i == 0 else f" {word}"})).encode() + b"\n\n"
      for i, word in enumerate(WORDS)),
    b"data: " + json.dumps(chunk({}, "stop")).encode() + b"\n\n",
    b"data: [DONE]\n\n",
]  # fmt: skip


@pytest.mark.resilience(row="continuation")
@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("fault", ["end", "reset"])
def test_wherever_it_breaks_another_goes_on_without_a_gap(
    upstream: Upstream, wall: Wall, fault: str, repeats: bool
) -> None:
    answer = framed("text/event-stream", TOLD, "chunked")
    # From the finish reason on there is nothing to go on with, and half of an end is none.
    finish = answer.index(b'"stop"')
    mark = answer.index(b"data: [DONE]") + len(b"data: [DONE]")

    async def go_on(call: Call, line: Line) -> None:
        last = call.body["messages"][-1]
        begun = last["content"] if last["role"] == "assistant" else ""
        assert NOVEL.startswith(begun)
        await line.start_stream()
        rest = NOVEL if repeats else NOVEL[len(begun) :]
        for at in range(0, len(rest), 7):
            await line.event(chunk({"content": rest[at : at + 7]}))
        await line.event(chunk({}, "stop"))
        await line.end_stream()

    upstream.scripts["m2"] = go_on
    cases = positions(answer, mark)
    for reply in wall.ask_model("novel", upstream, answer, cases, fault):
        *said, last = events(reply.body.decode())
        text = "".join(c["choices"][0]["delta"].get("content") or "" for c in said)
        assert text == NOVEL, reply
        assert (last == "[DONE]") != ("error" in last), reply
        if reply.at < finish:
            assert last == "[DONE]", reply


def is_error(body: bytes) -> bool:
    error = json.loads(body)["error"]
    return set(error) == {"message", "type", "param", "code"} and bool(error["message"])


class Wall:
    """One server for all of it, and what it was asked."""

    def __init__(self, tollway: Tollway) -> None:
        self._tollway = tollway
        self.asked: Counter[str] = Counter()

    def ask_model(
        self, model: str, upstream: Upstream, answer: bytes, cases: list[int], fault: str
    ) -> list[Reply]:
        """What becomes of a model's stream, whose first target fails; checks rows and balances."""
        upstream.scripts["m1"] = failing(answer, fault)
        rows = len(self._tollway.rows())
        body, _ = DIALECTS["chat/completions"]
        asked = [(at, {**body, "model": model, "stream": True}) for at in cases]
        replies = asyncio.run(self._ask_all(asked, "chat/completions"))
        attempts = self._tollway.rows(rows + len(cases))[rows:]
        billed = [row for row in attempts if row["outcome"] != "not_dispatched"]
        # One that met a kept connection which closed at once may have been read all the same.
        assert len(billed) <= len(upstream.calls) <= len(attempts)
        assert audit(self._tollway.data / "ledger.db") == []
        self.asked[f"{fault}, going on"] += len(cases)
        return replies

    def ask(
        self,
        upstream: Upstream,
        answer: bytes,
        mark: int,
        fault: str,
        dialect: str,
        *,
        stream: bool,
    ) -> list[Reply]:
        """What becomes of the answer with a fault at each position; checks rows and balances."""
        upstream.scripts["m1"] = failing(answer, fault)
        rows = len(self._tollway.rows())
        model = "hasty/m1" if fault == "stall" else "up/m1"
        body, _ = DIALECTS[dialect]
        cases = positions(answer, mark)
        asked = [(at, {**body, "model": model, "stream": stream}) for at in cases]
        replies = asyncio.run(self._ask_all(asked, dialect))
        # One attempt each, but for those that met a connection which was about to be closed.
        attempts = self._tollway.rows(rows + len(cases))[rows:]
        billed = [row for row in attempts if row["outcome"] != "not_dispatched"]
        assert len(billed) == len(cases)
        assert all(row["cost_nanousd"] for row in billed if row["outcome"] != "upstream_error")
        # What is in a hurry may be gone before the provider has read it.
        assert len(upstream.calls) == len(cases) or fault == "stall"
        assert audit(self._tollway.data / "ledger.db") == []
        self.asked[fault] += len(cases)
        return replies

    async def _ask_all(self, cases: list[tuple[int, dict[str, Any]]], dialect: str) -> list[Reply]:
        limit = asyncio.Semaphore(AT_ONCE)
        host, _, port = self._tollway.url.removeprefix("http://").partition(":")

        async def ask(at: int, body: dict[str, Any]) -> Reply:
            raw = json.dumps({**body, "temperature": at / 1e6}).encode()
            async with limit, asyncio.timeout(60):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(
                    b"POST /v1/%b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
                    b"content-length: %d\r\n\r\n%b" % (dialect.encode(), len(raw), raw)
                )
                head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
                writer.close()
            status = int(head.split(b" ", 2)[1])
            is_chunked = b"transfer-encoding: chunked" in head.lower()
            return Reply(at, status, unchunked(rest) if is_chunked else rest)

        return await asyncio.gather(*(ask(at, body) for at, body in cases))


def unchunked(body: bytes) -> bytes:
    """The body; fails where its last chunk is missing."""
    found = []
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        assert body[length : length + 2] == b"\r\n"
        if not length:
            assert body == b"\r\n"
            return b"".join(found)
        found.append(body[:length])
        body = body[length + 2 :]


@pytest.fixture(scope="module")
def wall(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = provider(upstream.base_url, "m1", "m2", retries={"tries": 1})
    config["targets"][1]["prefill"] = "plain"
    config["models"]["novel"] = {"targets": ["up/m1", "up/m2"], "continuation": True}
    config["server"]["access_log"] = False
    hasty = {"first_byte_s": STALL_S, "idle_s": STALL_S}
    config["providers"]["hasty"] = {**config["providers"]["up"], "deadlines": hasty}
    config["targets"].append({**config["targets"][0], "target": "hasty/m1"})
    folder: Path = tmp_path_factory.mktemp("wall")
    with serving(folder, config) as tollway:
        made = Wall(tollway)
        yield made
    print(f"\nfaults at {made.asked.total()} bytes: {dict(made.asked)}")
