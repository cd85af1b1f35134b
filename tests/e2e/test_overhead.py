"""Our own part of a reply's time: what the header and the metric say is what the clock says.

The bounds hold on a machine of any speed: they compare times of the same request.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.raw import Connection, chat, connect, post
from tests.e2e.tollway import Tollway, provider, serving
from tests.e2e.upstream import Call, Line, Script, Upstream, answer_ok
from tests.waiting import until

MODELS = ("m1", "m2", "embed")
WORKS_S = 0.3
# Our clock and the test's are one; their hundredths of a millisecond are rounded.
ROUNDED_S = 0.001
MESSAGES = [{"role": "user", "content": "Hello"}]
CHAT: dict[str, Any] = {"model": "up/m1", "messages": MESSAGES}
MESSAGE = CHAT | {"max_tokens": 9}
RESPONSE = {"model": "up/m1", "input": "Hello"}
EMBEDDING = {"model": "up/embed", "input": "Hello"}

REQUESTS = {
    "chat": ("/v1/chat/completions", CHAT),
    "chat stream": ("/v1/chat/completions", CHAT | {"stream": True}),
    "messages": ("/v1/messages", MESSAGE),
    "messages stream": ("/v1/messages", MESSAGE | {"stream": True}),
    "responses": ("/v1/responses", RESPONSE),
    "responses stream": ("/v1/responses", RESPONSE | {"stream": True}),
    "embeddings": ("/v1/embeddings", EMBEDDING),
}


@pytest.fixture(scope="module")
def measured(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    config = provider(upstream.base_url, *MODELS)
    config["models"] = {
        "race": {"targets": ["up/m1", "up/m2"], "policy": "race"},
        "fallback": {"targets": ["up/m2", "up/m1"]},
    }
    with serving(tmp_path_factory.mktemp("measured"), config) as running:
        yield running


class Worked:
    """A provider that takes its time, and when it did."""

    def __init__(self, answer: Script) -> None:
        self._answer = answer
        self.began_at = 0.0
        self.took_s = 0.0

    async def __call__(self, call: Call, line: Line) -> None:
        self.began_at = time.perf_counter()
        await asyncio.sleep(WORKS_S)
        self.took_s = time.perf_counter() - self.began_at
        await self._answer(call, line)


async def fail(call: Call, line: Line) -> None:
    await line.json({"error": {"message": "out of order"}}, "503 No")


def overhead_s(headers: Any) -> float:
    return float(headers["x-tollway-overhead-ms"]) / 1e3


def took_s(tollway: Tollway, path: str, body: Any) -> tuple[float, float]:
    """What a request took in all, and what of it is said to be ours."""
    began_at = time.perf_counter()
    reply = tollway.post(path, body)
    whole_s = time.perf_counter() - began_at
    assert reply.status_code == 200, reply.text
    return whole_s, overhead_s(reply.headers)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_providers_time_is_not_ours(upstream: Upstream, measured: Tollway, name: str) -> None:
    worked = upstream.scripts["m1"] = upstream.scripts["embed"] = Worked(answer_ok)
    whole_s, ours_s = took_s(measured, *REQUESTS[name])
    assert 0 < ours_s <= whole_s - worked.took_s + ROUNDED_S


def test_nor_is_that_of_two(upstream: Upstream, measured: Tollway) -> None:
    """One after the other; at the same time it counts once, so that there is time left for us."""
    failed = upstream.scripts["m2"] = Worked(fail)
    worked = upstream.scripts["m1"] = Worked(answer_ok)
    path = "/v1/chat/completions"
    whole_s, ours_s = took_s(measured, path, CHAT | {"model": "fallback"})
    assert 0 < ours_s <= whole_s - failed.took_s - worked.took_s + ROUNDED_S
    whole_s, ours_s = took_s(measured, path, CHAT | {"model": "race"})
    assert 0 < ours_s <= whole_s - worked.took_s + ROUNDED_S


def test_a_reply_that_begins_before_its_answer_leaves_out_the_provider(
    upstream: Upstream, tmp_path: Path
) -> None:
    """Comments keep the client waiting: its headers are there while the provider is at work."""
    let_go = asyncio.Event()

    async def held(call: Call, line: Line) -> None:
        began_at.append(time.perf_counter())
        await let_go.wait()
        await answer_ok(call, line)

    began_at: list[float] = []
    upstream.scripts["m1"] = held
    config = provider(upstream.base_url, "m1")
    config["server"] |= {"first_payload_s": WORKS_S}
    with serving(tmp_path, config) as tollway, connect(tollway) as client:
        sent_at = time.perf_counter()
        client.send(post(chat(stream=True)))
        headers = head_of(client)
        upstream.in_loop(let_go.set)
        client.read_until(b"[DONE]")
    assert 0 < overhead_s(headers) <= began_at[0] - sent_at + ROUNDED_S


@pytest.mark.parametrize("at", ["head", "body"])
def test_a_clients_pause_is_not_ours(upstream: Upstream, measured: Tollway, at: str) -> None:
    request = post(chat())
    cut = 20 if at == "head" else request.index(b"\r\n\r\n") + 10
    with connect(measured) as client:
        began_at = time.perf_counter()
        client.send(request[:cut])
        _until_read(measured, client)
        paused_at = time.perf_counter()
        time.sleep(WORKS_S)
        paused_s = time.perf_counter() - paused_at
        client.send(request[cut:])
        headers = head_of(client)
        whole_s = time.perf_counter() - began_at
    assert 0 < overhead_s(headers) <= whole_s - paused_s + ROUNDED_S


def test_the_wait_for_room_is_ours_and_the_metric_says_it_too(
    upstream: Upstream, tmp_path: Path
) -> None:
    let_go = asyncio.Event()

    async def held(call: Call, line: Line) -> None:
        await let_go.wait()
        await answer_ok(call, line)

    upstream.scripts["m1"] = held
    config = provider(upstream.base_url, "m1")
    config["server"] |= {"max_concurrent": 1, "queue": 1, "queue_s": 600, "open_metrics": True}
    with serving(tmp_path, config) as tollway, connect(tollway) as one, connect(tollway) as other:
        one.send(post(chat()))
        upstream.wait_for_calls(1)
        other.send(post(chat(stream=True)))
        _until_read(tollway, other)
        waits_since = time.perf_counter()
        time.sleep(WORKS_S)
        waited_s = time.perf_counter() - waits_since
        upstream.in_loop(let_go.set)
        own_s = [overhead_s(head_of(client)) for client in (one, other)]
        metrics = tollway.get("/metrics").text
    assert own_s[1] >= waited_s
    found = re.search(r"^tollway_overhead_seconds_sum (\S+)$", metrics, re.MULTILINE)
    assert found
    assert float(found[1]) == pytest.approx(sum(own_s), abs=2 * ROUNDED_S)
    assert "tollway_overhead_seconds_count 2.0" in metrics


def head_of(client: Connection) -> dict[str, str]:
    """The headers of the next reply, whose body is still to be read."""
    lines = client.read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")[1:-2]
    return {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}


def _until_read(tollway: Tollway, client: Connection) -> None:
    """Wait until the server has read what a client has sent."""
    (worker,) = tollway.workers()
    own = client.sock.getsockname()

    def has_it() -> bool:
        accepted = any(tuple(each.raddr) == own for each in worker.net_connections())
        return accepted and tollway.get("/healthz").status_code == 200

    until(has_it)
