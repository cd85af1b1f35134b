"""A second attempt for requests in the slow tail: opt-in, delayed, capped, held and settled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.tollway import Tollway, events, provider, serving
from tests.e2e.upstream import Call, Line, Script, Upstream, answer_ok, chunk, completion

# Nothing but a measured p95 is shorter than this.
FOR_EVER_S = 600


async def hang(call: Call, line: Line) -> None:
    await line.until_closed()


async def fail(call: Call, line: Line) -> None:
    await line.json({"error": {"message": "out of order", "type": "server_error"}}, "500 Oops")


def first_hangs() -> Script:
    """A server of which one connection is stuck."""
    seen: list[Call] = []

    async def script(call: Call, line: Line) -> None:
        seen.append(call)
        await (hang if len(seen) == 1 else answer_ok)(call, line)

    return script


@pytest.fixture(scope="module")
def hedging(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    """One worker, so that one measures all; targets are free but for `dear`."""
    config = provider(upstream.base_url, "a", "b", "c", "slow", "spare", "dear")
    for target in config["targets"][:-1]:
        target["price"] = "free"
    hedge: dict[str, Any] = {"share": 1, "start_s": 0.2, "floor_s": 0.05}
    config["models"] = {
        "pair": {"targets": ["up/a", "up/b"], "hedge": hedge},
        "single": {"targets": ["up/c"], "hedge": hedge},
        "tail": {
            "targets": ["up/slow", "up/spare"],
            # Longer than this machine takes for an answer, busy or not.
            "hedge": {"share": 0.1, "start_s": FOR_EVER_S, "floor_s": 0.5},
        },
        "costly": {"targets": ["up/dear", "up/spare"], "hedge": hedge},
        "off": {"targets": ["up/a", "up/b"]},
    }
    config["server"]["workers"] = 1
    with serving(tmp_path_factory.mktemp("hedging"), config) as running:
        yield running


def rows_of(tollway: Tollway, reply: Any) -> list[dict[str, Any]]:
    request_id = reply.headers["x-tollway-request-id"]
    return [row for row in tollway.rows() if row["request_id"] == request_id]


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_a_request_that_is_kept_waiting_is_answered_by_the_second_attempt(
    upstream: Upstream, hedging: Tollway, streams: bool
) -> None:
    upstream.scripts["a"] = hang
    reply = hedging.chat("pair", stream=streams)
    assert reply.headers["x-tollway-model"] == "up/b"
    if streams:
        assert events(reply.text)[-1] == "[DONE]"
    beaten, _ = upstream.calls
    assert beaten.closed.wait(10), "its connection is left open"
    rows = {row["target"]: row for row in rows_of(hedging, reply)}
    assert (rows["up/a"]["outcome"], rows["up/b"]["outcome"]) == ("cancelled", "ok")
    assert rows["up/b"]["route_reason"] == "hedge"
    assert (rows["up/a"]["number"], rows["up/b"]["number"]) == (1, 2)


def test_a_request_that_is_answered_in_time_is_asked_once(
    upstream: Upstream, hedging: Tollway
) -> None:
    async def pause(call: Call, line: Line) -> None:
        """The second attempt begins while the first has sent its first token already."""
        await line.start_stream()
        await line.event(chunk({"role": "assistant", "content": "Hello"}))
        await asyncio.sleep(0.5)
        await line.event(chunk({}, "stop"))
        await line.end_stream()

    assert hedging.chat("pair").headers["x-tollway-attempts"] == "1"
    upstream.scripts["a"] = pause
    upstream.calls.clear()
    reply = hedging.chat("pair", stream=True)
    assert events(reply.text)[-1] == "[DONE]"
    assert [call.model for call in upstream.calls] == ["a"], "never after the first token"


def test_the_only_target_is_asked_again(upstream: Upstream, hedging: Tollway) -> None:
    upstream.scripts["c"] = first_hangs()
    reply = hedging.chat("single", stream=True)
    assert events(reply.text)[-1] == "[DONE]"
    outcomes = [(row["route_reason"], row["outcome"]) for row in rows_of(hedging, reply)]
    assert outcomes == [("number 1 in the configured order", "cancelled"), ("hedge", "ok")]


def test_a_target_that_fails_is_followed_by_the_next_as_ever(
    upstream: Upstream, hedging: Tollway
) -> None:
    upstream.scripts["a"] = fail
    reply = hedging.chat("pair")
    assert reply.headers["x-tollway-model"] == "up/b"
    assert [row["outcome"] for row in rows_of(hedging, reply)] == ["upstream_error", "ok"]
    upstream.scripts["b"] = fail
    assert hedging.chat("pair", stream=True).status_code == 502


def test_without_leave_there_is_one_attempt(upstream: Upstream, hedging: Tollway) -> None:
    upstream.scripts["a"] = hang
    body = {"model": "off", "messages": [{"role": "user", "content": "Hi"}]}
    with pytest.raises(httpx2.TimeoutException):
        httpx2.post(f"{hedging.url}/v1/chat/completions", json=body, timeout=1)
    assert [call.model for call in upstream.calls] == ["a"]


@pytest.mark.resilience(row="hedging")
def test_the_delay_is_the_targets_own_p95_and_the_share_is_kept(
    upstream: Upstream, hedging: Tollway
) -> None:
    for _ in range(30):
        assert hedging.chat("tail", stream=True).headers["x-tollway-model"] == "up/slow"
    upstream.scripts["slow"] = hang
    for _ in range(3):
        assert hedging.chat("tail", stream=True).headers["x-tollway-model"] == "up/spare"
    # A tenth of 33 is spent: this one waits.
    released = asyncio.Event()

    async def slow(call: Call, line: Line) -> None:
        await released.wait()
        await answer_ok(call, line)

    upstream.scripts["slow"] = slow
    upstream.calls.clear()
    replies: list[Any] = []
    asking = threading.Thread(target=lambda: replies.append(hedging.chat("tail", stream=True)))
    asking.start()
    upstream.wait_for_calls(1)
    asking.join(2)  # many times the p95 of answers on this machine
    upstream.in_loop(released.set)
    asking.join()
    assert replies[0].headers["x-tollway-model"] == "up/slow"
    rows = [row for row in hedging.rows() if row["virtual_model"] == "tail"]
    hedges = [row for row in rows if row["route_reason"] == "hedge"]
    assert len(hedges) <= 0.1 * (len(rows) - len(hedges))


@pytest.mark.resilience(row="hedging")
def test_the_money_of_second_attempts_is_a_share_of_what_was_spent(
    upstream: Upstream, hedging: Tollway
) -> None:
    """Nothing is spent at first, so that nothing may be spent twice."""

    async def slow(call: Call, line: Line) -> None:
        await asyncio.sleep(1)
        await line.json(completion(prompt=300, output=8))

    upstream.scripts["dear"] = slow
    assert hedging.chat("costly", max_tokens=8).headers["x-tollway-model"] == "up/dear"
    for _ in range(5):
        hedging.chat("costly", max_tokens=8)
        rows = [row for row in hedging.rows() if row["virtual_model"] == "costly"]
        extra = sum(row["cost_nanousd"] for row in rows if row["outcome"] == "cancelled")
        assert extra <= sum(row["cost_nanousd"] for row in rows if row["outcome"] == "ok")
    assert "hedge" in {row["route_reason"] for row in rows}


def test_what_is_asked_in_advance_says_how(hedging: Tollway) -> None:
    body = {"model": "costly", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
    strategy = hedging.post("/v1/route", body).json()["strategy"]
    assert strategy["kind"] == "hedge"
    assert strategy["share"] == 1.0
    assert strategy["worst_case_cost_usd"] > 0


@pytest.mark.parametrize("policy", ["race", "cascade", "consensus"])
def test_a_model_is_hedged_or_an_ensemble(tmp_path: Path, policy: str) -> None:
    config = provider("http://127.0.0.1:9/v1", "a")
    config["models"]["auto"] |= {"policy": policy, "hedge": {}}
    tollway = Tollway(tmp_path, config)
    checked = tollway.cli("check")
    assert checked.returncode != 0
    assert "models.auto.hedge" in checked.stderr
