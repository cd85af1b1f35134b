"""Three providers of which each fails one time in twenty: the fleet's claim, by real processes."""

from __future__ import annotations

import random
from pathlib import Path

import httpx2
import pytest

from tests.e2e.tollway import provider, serving
from tests.e2e.upstream import Call, Line, Upstream, answer_ok

REQUESTS = 300
AVAILABILITY = 0.95


@pytest.mark.parametrize("policy", ["ordered", "balanced", "weighted"])
def test_requests_are_answered_though_each_provider_fails(
    upstream: Upstream, tmp_path: Path, policy: str
) -> None:
    lot = random.Random(policy)

    async def sometimes(call: Call, line: Line) -> None:
        if lot.random() < AVAILABILITY:
            await answer_ok(call, line)
        elif lot.random() < 0.5:
            await line.json({"error": {"message": "overloaded"}}, "503 Service Unavailable")
        else:
            line.reset()

    config = provider(upstream.base_url)
    names = ("one", "two", "three")
    config["providers"] = dict.fromkeys(names, config["providers"]["up"])
    price = {"input": 1, "output": 2}
    config["targets"] = [{"target": f"{name}/m-{name}", "price": price} for name in names]
    config["models"] = {"auto": {"targets": [f"{name}/*" for name in names], "policy": policy}}
    upstream.scripts = {f"m-{name}": sometimes for name in names}
    with serving(tmp_path, config) as tollway, httpx2.Client(timeout=30) as client:
        body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}
        answered = 0
        for _ in range(REQUESTS):
            reply = client.post(f"{tollway.url}/v1/chat/completions", json=body)
            assert reply.status_code in (200, 502, 503), reply.text
            answered += reply.status_code == 200
        rows = tollway.rows(minimum=REQUESTS)
    # All three fail at once one time in 8,000.
    assert answered >= REQUESTS - 1
    assert len({row["request_id"] for row in rows}) == REQUESTS
    failed = [row for row in rows if row["outcome"] != "ok"]
    assert len(rows) - len(failed) == answered
    assert failed
    cost = 11 * 1_000 + 7 * 2_000
    assert {row["cost_nanousd"] for row in rows if row["outcome"] == "ok"} == {cost}
    assert {row["cost_nanousd"] for row in failed if row["status"] == 503} == {0}
