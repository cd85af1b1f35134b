"""The first two promises under load: no budget is exceeded, no attempt goes unrecorded."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import httpx2
import pytest

from proxy.ledger.audit import audit
from tests.e2e.tollway import Tollway, provider, serving
from tests.e2e.upstream import Call, Line, Upstream, answer_ok, chunk, completion, usage_chunk
from tests.waiting import until

COST = 11 * 1_000 + 7 * 2_000  # nano-USD of one answer of our upstream


def test_a_cap_holds_with_four_workers_and_two_hundred_at_once(
    upstream: Upstream, tmp_path: Path
) -> None:
    config = provider(upstream.base_url, "m1")
    config["models"]["auto"]["policy"] = "cheapest"
    with serving(tmp_path, config, "--workers", "4") as tollway:
        limit = 40 * COST
        key = tollway.admin("POST", "/keys", {"name": "capped"})
        tollway.admin(
            "POST",
            "/budgets",
            {"scope": f"key:{key['id']}", "window": "lifetime", "limit_usd": limit / 1e9},
        )
        codes = asyncio.run(_ask_at_once(tollway, key["key"], 200))
        assert set(codes) == {200, 429}
        rows = tollway.rows()
        spent = sum(row["cost_nanousd"] for row in rows)
        biggest_hold = max(row["hold_nanousd"] for row in rows)
        assert codes[200] == len(rows) == len(upstream.calls)
        assert spent == codes[200] * COST
        assert limit - biggest_hold < spent <= limit
        (budget,) = [b for b in tollway.admin("GET", "/budgets")["data"] if "key:" in b["scope"]]
        assert (budget["held_usd"], budget["overrun_usd"]) == (0.0, 0.0)
        assert audit(tollway.data / "ledger.db") == []


async def _ask_at_once(tollway: Tollway, key: str, count: int) -> Counter[int]:
    limits = httpx2.Limits(max_connections=count)
    async with httpx2.AsyncClient(limits=limits, timeout=60) as client:

        async def ask(n: int) -> int:
            # Refused for what others hold, a client tries again; refused for good, it does not.
            for _ in range(20):
                body = {
                    "model": "auto",
                    "messages": [{"role": "user", "content": "Hello"}],
                    "max_tokens": 7,
                    "stream": n % 2 == 0,
                }
                reply = await client.post(
                    f"{tollway.url}/v1/chat/completions",
                    json=body,
                    headers={"authorization": f"Bearer {key}"},
                )
                if reply.status_code != 429 or reply.headers.get("x-should-retry") == "false":
                    break
            return reply.status_code

        return Counter(await asyncio.gather(*(ask(n) for n in range(count))))


@pytest.mark.parametrize("victim", ["worker", "ledger"])
def test_nothing_is_lost_when_a_process_is_killed_under_load(
    upstream: Upstream, tmp_path: Path, victim: str
) -> None:
    async def slowly(call: Call, line: Line) -> None:
        await asyncio.sleep(random.random() * 0.03)
        if not call.body.get("stream"):
            await line.json(completion())
            return
        await line.start_stream()
        for word in ("a", "b", "c"):
            await line.event(chunk({"content": word}))
            await asyncio.sleep(random.random() * 0.01)
        await line.event(chunk({}, "stop"))
        await line.event(usage_chunk())
        await line.end_stream()

    upstream.scripts["m1"] = slowly
    with serving(tmp_path, provider(upstream.base_url, "m1", "m2"), "--workers", "2") as tollway:
        answered = asyncio.run(_load_while_killing(tollway, victim, kills=6))
        rows = tollway.rows()
        # Every request that reached the provider has its row: in number, since bodies are alike.
        assert len(rows) >= len(upstream.calls) >= answered
        outcomes = Counter(row["outcome"] for row in rows)
        # A worker that dies takes along what it had answered but not yet settled.
        assert outcomes["ok"] + outcomes["orphan"] >= answered
        assert victim == "worker" or outcomes["ok"] >= answered
        assert {row["cost_nanousd"] for row in rows if row["outcome"] == "ok"} == {COST}
        assert audit(tollway.data / "ledger.db") == []
        until(lambda: tollway.chat().status_code == 200)  # both workers have found the new ledger


async def _load_while_killing(tollway: Tollway, victim: str, kills: int) -> int:
    answered = 0
    stop = asyncio.Event()
    async with httpx2.AsyncClient(timeout=20) as client:

        async def ask(n: int) -> None:
            nonlocal answered
            while not stop.is_set():
                body = {
                    "model": "up/m1",
                    "messages": [{"role": "user", "content": "Hello"}],
                    "stream": n % 2 == 0,
                }
                try:
                    reply = await client.post(f"{tollway.url}/v1/chat/completions", json=body)
                except httpx2.TransportError:
                    continue
                if reply.status_code == 200 and (n % 2 or "[DONE]" in reply.text):
                    answered += 1
                elif reply.status_code == 503:
                    await asyncio.sleep(0.05)

        async def kill() -> None:
            for _ in range(kills):
                await asyncio.sleep(0.4)
                is_ledger = victim == "ledger"
                target = tollway.ledger() if is_ledger else random.choice(tollway.workers())
                target.kill()
                await _until_whole(tollway, 3)
            await asyncio.sleep(0.5)
            stop.set()

        async with asyncio.TaskGroup() as group:
            for n in range(12):
                group.create_task(ask(n))
            group.create_task(kill())
    return answered


async def _until_whole(tollway: Tollway, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(tollway.children()) < count:
        assert time.monotonic() < deadline, tollway.log()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("meterable", "is_heard_out"), [(True, True), (False, True), (None, False)]
)
def test_a_json_answer_that_nobody_waits_for_is_heard_out_where_it_is_billed(
    upstream: Upstream, tmp_path: Path, meterable: bool | None, is_heard_out: bool
) -> None:
    # Providers that stop a stream with its connection say nothing of answers in one piece.
    release = asyncio.Event()

    async def answer_late(call: Call, line: Line) -> None:
        released = asyncio.create_task(release.wait())
        left = asyncio.create_task(line.until_closed())
        await asyncio.wait([released, left], timeout=10, return_when=asyncio.FIRST_COMPLETED)
        if not left.cancel():
            await left
        await answer_ok(call, line)

    upstream.scripts["m1"] = answer_late
    config = provider(upstream.base_url, "m1", meterable=meterable)
    with serving(tmp_path, config) as tollway:
        with httpx2.Client() as client, pytest.raises(httpx2.ReadTimeout):
            client.post(
                f"{tollway.url}/v1/chat/completions",
                json={"model": "auto", "messages": [{"role": "user", "content": "Hello"}]},
                timeout=httpx2.Timeout(5, read=0.3),
            )
        (call,) = upstream.calls
        # An answer that is not heard out is closed at once, so half a second is plenty.
        assert call.closed.wait(0.5) is not is_heard_out
        upstream.in_loop(release.set)
        (row,) = tollway.rows(1)
        assert row["outcome"] == "client_gone"
        assert row["estimated"] == (not is_heard_out)
        assert not is_heard_out or row["cost_nanousd"] == COST
        assert audit(tollway.data / "ledger.db") == []


def test_balances_survive_a_restart(upstream: Upstream, tmp_path: Path) -> None:
    config = provider(upstream.base_url, "m1")
    for expected in (1, 2):
        with serving(tmp_path, config) as tollway:
            assert tollway.chat().status_code == 200
            assert len(tollway.rows(expected)) == expected
            (budget,) = tollway.admin("GET", "/budgets")["data"]
            assert budget["spent_usd"] == expected * COST / 1e9


def test_requests_in_flight_are_finished_on_sigterm(upstream: Upstream, tmp_path: Path) -> None:
    release = asyncio.Event()

    async def wait(call: Call, line: Line) -> None:
        await asyncio.wait_for(release.wait(), 10)
        await answer_ok(call, line)

    upstream.scripts["m1"] = wait

    async def ask(tollway: Tollway) -> int:
        async with httpx2.AsyncClient(timeout=20) as client:
            body = {"model": "auto", "messages": [{"role": "user", "content": "x"}]}
            url = f"{tollway.url}/v1/chat/completions"
            asking = asyncio.create_task(client.post(url, json=body))
            await asyncio.to_thread(upstream.wait_for_calls, 1)
            os.kill(tollway.pid, signal.SIGTERM)
            await asyncio.sleep(0.2)
            upstream.in_loop(release.set)
            return (await asking).status_code

    with serving(tmp_path, provider(upstream.base_url, "m1")) as tollway:
        assert asyncio.run(ask(tollway)) == 200
        assert tollway.stop() == 0
        assert [row["outcome"] for row in tollway.rows()] == ["ok"]


def test_children_do_not_outlive_a_killed_supervisor(upstream: Upstream, tmp_path: Path) -> None:
    tollway = Tollway(tmp_path, provider(upstream.base_url, "m1")).start()
    children = tollway.children()
    os.kill(tollway.pid, signal.SIGKILL)
    tollway.stop()
    for child in children:
        child.wait(20)
    assert audit(tollway.data / "ledger.db") == []


@pytest.mark.negative(number=38)
def test_an_unpriced_target_is_refused_under_a_hard_budget(
    upstream: Upstream, tmp_path: Path
) -> None:
    config = provider(upstream.base_url, "m1")
    config["targets"].append({"target": "up/mystery"})
    with serving(tmp_path, config) as tollway:
        reply = tollway.chat("up/mystery")
        assert reply.status_code == 403
        assert "price" in reply.json()["error"]["message"]
        reply = tollway.chat("up/m1", web_search_options={})
        assert (reply.status_code, reply.json()["error"]["param"]) == (403, "web_search_options")
        assert not upstream.calls


def test_nothing_is_dispatched_while_the_ledger_is_away(upstream: Upstream, tmp_path: Path) -> None:
    with serving(tmp_path, provider(upstream.base_url, "m1")) as tollway:
        ledger = tollway.ledger()
        os.kill(ledger.pid, signal.SIGSTOP)
        try:
            reply = tollway.chat()
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "ledger_unavailable")
            assert not upstream.calls
        finally:
            os.kill(ledger.pid, signal.SIGCONT)
        deadline = time.monotonic() + 10
        while tollway.chat().status_code != 200:
            assert time.monotonic() < deadline
        held = sum(row["held_nanousd"] for row in tollway.rows())
        assert held == 0
