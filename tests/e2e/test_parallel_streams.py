"""Many streams on one budget: all of it is used, none of it twice, nobody is refused too early."""

from __future__ import annotations

import asyncio
import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from proxy.ledger.audit import audit
from tests.e2e.tollway import provider, serving
from tests.e2e.upstream import Call, Line, Upstream, chunk, usage_chunk

# `make chaos` sets it: the same with five hundred streams.
STREAMS = int(os.environ.get("TOLLWAY_PARALLEL_STREAMS", "120"))
MEAN_TOKENS = 200
PAUSE_S = 0.04
INPUT, OUTPUT = 10, 2_000  # nano-USD a token
MEAN_COST = 11 * INPUT + MEAN_TOKENS * OUTPUT
LIMIT = 4 * STREAMS * MEAN_COST


@dataclass
class Provider:
    """Generates at a steady pace until it is left, and bills what it generated."""

    random: random.Random = field(default_factory=lambda: random.Random(7))
    invoice: int = 0

    async def answer(self, call: Call, line: Line) -> None:
        await line.start_stream()
        self.invoice += 11 * INPUT
        tokens = self.random.randint(MEAN_TOKENS // 2, MEAN_TOKENS * 3 // 2)
        event = json.dumps(chunk({"content": "word "})).encode()
        for _ in range(tokens):
            self.invoice += OUTPUT
            await line.event(event)
            await asyncio.sleep(PAUSE_S)
        await line.event(chunk({}, "stop"))
        await line.event(usage_chunk(11, tokens))
        await line.end_stream()


async def ask(url: str, key: str) -> str:
    """One stream over a socket of its own: how it ended."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    body = json.dumps(
        {"model": "m1", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    )
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\nconnection: close\r\n"
        f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    writer.write((head + body).encode())
    answer = await reader.read(-1)
    writer.close()
    if answer.startswith(b"HTTP/1.1 429"):
        return "refused"
    assert answer.startswith(b"HTTP/1.1 200"), answer[:500]
    assert b"data: [DONE]" in answer
    return "capped" if b'"tollway"' in answer else "whole"


def test_parallel_streams_use_the_whole_budget_and_no_more(
    upstream: Upstream, tmp_path: Path
) -> None:
    served = Provider()
    upstream.scripts["m1"] = served.answer
    config = provider(upstream.base_url, "m1", meterable=True)
    config["targets"][0] |= {
        "price": {"input": INPUT / 1_000, "output": OUTPUT / 1_000},
        "max_output_tokens": 64_000,
    }
    used_at: list[int] = []

    async def keep_asking(url: str, key: str) -> None:
        while not used_at:
            ended = await ask(url, key)
            if ended != "whole":
                used_at.append(served.invoice)

    async def everybody(url: str, key: str) -> None:
        await asyncio.gather(*(keep_asking(url, key) for _ in range(STREAMS)))

    with serving(tmp_path, config, "--workers", "4") as tollway:
        made = tollway.admin("POST", "/keys", {"name": "all"})
        scope = f"key:{made['id']}"
        tollway.admin(
            "POST", "/budgets", {"scope": scope, "window": "lifetime", "limit_usd": LIMIT / 1e9}
        )
        asyncio.run(everybody(tollway.url, made["key"]))
        rows = tollway.rows()
        (budget,) = [b for b in tollway.admin("GET", "/budgets")["data"] if b["scope"] == scope]
        print(  # shown by `pytest -rP`
            f"{STREAMS} streams, limit {LIMIT:,}: {used_at[0] / LIMIT:.1%} used at the first "
            f"refusal, {served.invoice / LIMIT:.1%} billed in the end, {len(rows)} rows"
        )
        assert used_at[0] >= 0.95 * LIMIT
        assert served.invoice <= LIMIT
        assert budget["overrun_usd"] == 0
        # What streams that were cut may have had on their way; it is released later.
        held = sum(row["held_nanousd"] for row in rows)
        assert round(budget["held_usd"] * 1e9) == held
        assert not [r for r in rows if r["held_nanousd"] and r["outcome"] != "capped"]
        assert not [row for row in rows if row["overrun_nanousd"]]
        whole = [row for row in rows if not row["estimated"]]
        assert sum(row["cost_nanousd"] for row in whole) <= served.invoice
        assert audit(tollway.data / "ledger.db") == []
