"""An upstream that breaks off at every byte of its answer, in every framing HTTP/1.1 has.

The third promise: whatever is cut, no client takes the rest for a whole answer, none is left
hanging, and every attempt has its row.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from proxy.ledger.audit import audit
from tests.e2e.tollway import Tollway, provider, serving
from tests.e2e.upstream import Call, Line, Upstream, chunk, usage_chunk

EVENTS = [
    *(b"data: " + json.dumps(c).encode() + b"\n\n" for c in (
        chunk({"role": "assistant", "content": "é"}),
        chunk({"content": " two"}),
        chunk({}, "stop"),
        usage_chunk(),
    )),
    b"data: [DONE]\n\n",
]  # fmt: skip
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
ANSWERS = {
    "chunked": HEAD
    + b"transfer-encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%b\r\n" % (len(e), e) for e in EVENTS)
    + b"0\r\n\r\n",
    "length": HEAD + b"content-length: %d\r\n\r\n" % len(b"".join(EVENTS)) + b"".join(EVENTS),
    "close": HEAD + b"connection: close\r\n\r\n" + b"".join(EVENTS),
}


@pytest.mark.parametrize("framing", ANSWERS)
def test_no_cut_looks_like_an_end(upstream: Upstream, tmp_path: Path, framing: str) -> None:
    answer = ANSWERS[framing]

    async def break_off(call: Call, line: Line) -> None:
        await line.send(answer[: call.body["seed"]])
        raise ConnectionResetError

    upstream.scripts["m1"] = break_off
    config = provider(upstream.base_url, "m1", retries={"tries": 1})  # each cut is seen once
    with serving(tmp_path, config) as tollway:
        replies = asyncio.run(_ask_all(tollway, len(answer)))
        # Only when the end mark has come is the answer whole.
        whole = answer.index(b"data: [DONE]") + len(b"data: [DONE]")
        for cut, reply in enumerate(replies):
            assert (b"[DONE]" in reply) == (b'"error":' not in reply), (cut, reply)
            assert b"[DONE]" not in reply or cut >= whole, (cut, reply)
            assert reply.endswith((b"\n\n\r\n0\r\n\r\n", b"}}")), (cut, reply)
        assert len(tollway.rows(len(answer))) == len(upstream.calls) == len(answer)
        assert audit(tollway.data / "ledger.db") == []


async def _ask_all(tollway: Tollway, count: int) -> list[bytes]:
    limit = asyncio.Semaphore(16)
    host, _, port = tollway.url.removeprefix("http://").partition(":")

    async def ask(cut: int) -> bytes:
        body = {"model": "up/m1", "stream": True, "seed": cut, "max_tokens": 5}
        raw = json.dumps({**body, "messages": [{"role": "user", "content": "x"}]}).encode()
        async with limit, asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(raw), raw)
            )
            reply = await reader.read()
            writer.close()
            return reply

    return await asyncio.gather(*(ask(cut) for cut in range(count)))
