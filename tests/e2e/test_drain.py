"""A server that is told to stop: who asks hears of it first, and what is in flight may end."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from proxy.ledger.audit import audit
from tests.e2e.tollway import Tollway, events, provider, serving
from tests.e2e.upstream import Call, Line, Upstream, answer_ok, chunk, usage_chunk

WITHIN_S = 60.0
BODY = {"model": "m1", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}


def streamed(tollway: Tollway) -> str:
    return tollway.post("/v1/chat/completions", BODY).text


def is_refused(tollway: Tollway) -> bool:
    """Whether nobody listens any more."""
    try:
        tollway.get("/healthz")
    except httpx2.TransportError:
        return True
    return False


@pytest.mark.resilience(row="drain")
def test_probes_hear_of_it_before_callers_do(upstream: Upstream, tmp_path: Path) -> None:
    ended = threading.Event()

    async def goes_on(call: Call, line: Line) -> None:
        await line.start_stream()
        await line.event(chunk({"content": "word "}))
        await asyncio.to_thread(ended.wait, WITHIN_S)
        await line.event(chunk({}, "stop"))
        await line.event(usage_chunk())
        await line.end_stream()

    upstream.scripts["m1"] = goes_on
    upstream.scripts["m2"] = answer_ok
    config = provider(upstream.base_url, "m1", "m2")
    config["server"]["unready_s"] = 10
    with serving(tmp_path, config, "--workers", "2") as tollway, ThreadPoolExecutor(1) as pool:
        stream = pool.submit(streamed, tollway)
        upstream.wait_for_calls(1, WITHIN_S)
        with httpx2.Client(base_url=tollway.url, timeout=WITHIN_S) as kept:
            assert kept.get("/readyz").status_code == 200
            assert kept.get("/readyz").headers.get("connection") is None
            os.kill(tollway.pid, signal.SIGTERM)
            deadline = time.monotonic() + WITHIN_S
            while (ready := kept.get("/readyz")).status_code == 200:
                assert time.monotonic() < deadline
            assert (ready.status_code, ready.json()) == (503, {"status": "the server stops"})
            assert ready.headers["connection"] == "close"
            assert kept.get("/healthz").status_code == 200  # it lives all the same
        late = tollway.chat("m2")  # by whom the news has not reached
        assert (late.status_code, late.headers["connection"]) == (200, "close")
        while not is_refused(tollway):
            assert time.monotonic() < deadline
        ended.set()
        assert events(stream.result(WITHIN_S))[-1] == "[DONE]"
    assert {row["outcome"] for row in tollway.rows(2)} == {"ok"}


@pytest.mark.resilience(row="drain")
def test_a_stream_that_lasts_longer_ends_with_an_error(upstream: Upstream, tmp_path: Path) -> None:
    async def endless(call: Call, line: Line) -> None:
        await line.start_stream()
        while True:
            await line.event(chunk({"content": "word "}))
            await asyncio.sleep(0.05)

    upstream.scripts["m1"] = endless
    config = provider(upstream.base_url, "m1")
    config["server"]["drain_s"] = 1
    with serving(tmp_path, config) as tollway, ThreadPoolExecutor(1) as pool:
        stream = pool.submit(streamed, tollway)
        upstream.wait_for_calls(1, WITHIN_S)
        assert tollway.stop() == 0
        received = events(stream.result(WITHIN_S))
        assert received[0]["choices"][0]["delta"]["content"] == "word "
        assert received[-1]["error"]["code"] == "server_stopping"
        assert audit(tollway.data / "ledger.db") == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_who_sleeps_before_a_retry_is_told_and_leaves_nothing_held(
    upstream: Upstream, tmp_path: Path, stream: bool
) -> None:
    async def limited(call: Call, line: Line) -> None:
        refusal = {"error": {"message": "slow down"}}
        await line.json(refusal, "429 Slow", headers="retry-after: 300\r\n")

    upstream.scripts["m1"] = limited
    config = provider(upstream.base_url, "m1", retries={"wait_s": 600})
    config["server"] |= {"drain_s": 1, "first_payload_s": 0.2}
    with serving(tmp_path, config) as tollway, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(tollway.chat, "m1", stream=stream)
        [row] = tollway.rows(1)  # settled before it sleeps
        assert row["outcome"] == "upstream_error"
        assert tollway.stop() == 0
        reply = asked.result(WITHIN_S)
        if reply.status_code == 200:  # of a stream a comment has left already
            told = events(reply.text)[-1]
        else:
            assert reply.status_code == 503
            told = reply.json()
        assert told["error"]["code"] == "server_stopping"
        assert len(upstream.calls) == 1
        assert len(tollway.rows()) == 1
        assert audit(tollway.data / "ledger.db") == []


def test_a_drain_limit_that_was_reloaded_counts(upstream: Upstream, tmp_path: Path) -> None:
    async def silent(call: Call, line: Line) -> None:
        await line.until_closed()

    upstream.scripts["m1"] = silent
    config = provider(upstream.base_url, "m1")
    config["server"]["drain_s"] = 3_600
    with serving(tmp_path, config) as tollway, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(tollway.chat, "m1")
        upstream.wait_for_calls(1, WITHIN_S)
        config["server"]["drain_s"] = 1
        tollway.reload(config)
        assert tollway.stop() == 0
        assert asked.result(WITHIN_S).status_code == 503


def test_a_server_without_its_ledger_is_alive_and_not_ready(
    upstream: Upstream, tmp_path: Path
) -> None:
    with serving(tmp_path, provider(upstream.base_url, "m1")) as tollway:
        ledger = tollway.ledger()
        os.kill(tollway.pid, signal.SIGSTOP)  # nobody starts another one
        try:
            ledger.kill()
            deadline = time.monotonic() + WITHIN_S
            while tollway.get("/readyz").status_code == 200:
                assert time.monotonic() < deadline
            assert tollway.get("/healthz").status_code == 200
        finally:
            os.kill(tollway.pid, signal.SIGCONT)
        while tollway.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
