"""Bodies of every kind, on real sockets: never a 500, and the books balance afterwards.

`TOLLWAY_BODIES` says how many; `make fuzz` sends a million.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from proxy.ledger.audit import audit
from tests.e2e.tollway import Tollway, serving
from tests.fuzz.bodies import bodies

NUMBER = int(os.environ.get("TOLLWAY_BODIES", "1500"))
SEED = int(os.environ.get("TOLLWAY_SEED", "1"))
CONNECTIONS = 8
SCRIPT = "models: [m1, embed]\nreplies: [{text: Two words.}]\n"


@pytest.fixture
def tollway(tmp_path: Path) -> Iterator[Tollway]:
    script = tmp_path / "script.yaml"
    script.write_text(SCRIPT)
    kinds = ["chat", "tools", "vision", "json_schema", "n"]
    target = {"price": {"input": 1, "output": 2, "per_request": 0.001}, "context_length": 9_000}
    config = {
        "server": {"access_log": False, "workers": 2},
        "providers": {"up": {"adapter": "scripted", "script": str(script)}},
        "targets": [
            {"target": "up/m1", "max_output_tokens": 100, "capabilities": kinds, **target},
            {"target": "up/embed", "capabilities": ["embeddings"], **target},
        ],
        "models": {"auto": {"targets": ["up/m1"]}, "vectors": {"targets": ["up/embed"]}},
        "budgets": [
            {"scope": "global", "window": "lifetime", "limit_usd": 1_000_000},
            {"scope": "user:*", "window": "day", "limit_usd": 1_000},
        ],
    }
    with serving(tmp_path, config) as running:
        yield running


def test_no_body_is_a_500_or_moves_the_books(tollway: Tollway) -> None:
    statuses = asyncio.run(send_all(tollway.url, bodies(SEED)))
    print(f"{NUMBER} bodies: {dict(sorted(statuses.items()))}")  # shown by `pytest -rP`
    assert sum(statuses.values()) == NUMBER
    assert not {status for status in statuses if status >= 500 and status not in (502, 503)}
    assert statuses[200] > NUMBER // 50
    assert "Traceback" not in tollway.log()
    assert tollway.rows(1)
    assert audit(tollway.data / "ledger.db") == []
    assert {budget["held_usd"] for budget in tollway.admin("GET", "/budgets")["data"]} == {0}


async def send_all(url: str, made: Iterator[tuple[str, bytes]]) -> Counter[int]:
    """Send so many over a few connections; how often each status came back."""
    parts = urlsplit(url)
    left = islice(made, NUMBER)
    statuses: Counter[int] = Counter()

    async def go_on() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
        for path, body in left:
            head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer[9:12])
            if status == 500:
                print(f"500 of {path}: {body!r}")
            statuses[status] += 1
            await read_body(reader, answer.lower())
        writer.close()

    await asyncio.gather(*(go_on() for _ in range(CONNECTIONS)))
    return statuses


async def read_body(reader: asyncio.StreamReader, head: bytes) -> None:
    _, _, length = head.partition(b"content-length: ")
    if length:
        await reader.readexactly(int(length.partition(b"\r\n")[0]))
        return
    while size := int(await reader.readline(), 16):
        await reader.readexactly(size + 2)
    await reader.readline()
