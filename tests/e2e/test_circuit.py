"""Scripted outages: a target that fails is left alone, and used again once it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.tollway import Tollway, provider, serving
from tests.e2e.upstream import Call, Line, Script, Upstream, answer_ok, chunk
from tests.proxy.model_host.model_server import ModelServer, openai_list
from tests.waiting import until

# Longer than a slow machine takes for a few requests.
OUT_S = 8.0


class Outage:
    """What a target does: fails, or holds what it is asked until it is told how to end."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self._go_on = asyncio.Event()

    async def hold(self, call: Call, line: Line) -> None:
        self.held.set()
        await self._go_on.wait()
        await answer_ok(call, line)

    def release(self, upstream: Upstream) -> None:
        upstream.in_loop(self._go_on.set)


async def overloaded(call: Call, line: Line) -> None:
    await line.json({"error": {"message": "down"}}, "503 Service Unavailable")


async def resets(call: Call, line: Line) -> None:
    line.reset()
    raise ConnectionResetError


async def breaks_off(call: Call, line: Line) -> None:
    await line.start_stream()
    line.reset()
    raise ConnectionResetError


async def breaks_in_the_middle(call: Call, line: Line) -> None:
    await line.start_stream()
    await line.event(chunk({"role": "assistant", "content": "Hel"}))
    line.reset()
    raise ConnectionResetError


async def not_json(call: Call, line: Line) -> None:
    await line.json(b"<html>we are down</html>")


@pytest.fixture
def running(upstream: Upstream, tmp_path: Path) -> Iterator[Tollway]:
    config = provider(upstream.base_url, "m1", "m2", "m3", retries={"tries": 1})
    config["models"] |= {
        "two": {"targets": ["up/m1", "up/m2"]},
        "one": {"targets": ["up/m1"]},
        "kept": {
            "targets": ["up/m1", "up/m2", "up/m3"],
            "policy": {"name": "balanced", "sticky": True},
        },
    }
    config["circuit"] = {"out_s": OUT_S}
    config["discover"] = False
    with serving(tmp_path, config) as tollway:
        yield tollway


def _models(upstream: Upstream) -> list[str]:
    return [call.model for call in upstream.calls]


def _rejections(tollway: Tollway, model: str = "two") -> dict[str, tuple[str, str]]:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    shown = tollway.post("/v1/route", body).json()
    return {each["target"]: (each["code"], each["reason"]) for each in shown["rejections"]}


def _until_on_trial(tollway: Tollway, model: str = "two") -> None:
    until(lambda: not _rejections(tollway, model))


def _metric(tollway: Tollway, name: str) -> float:
    headers = {"authorization": f"Bearer {tollway.environ['TOLLWAY_ADMIN_TOKEN']}"}
    lines = tollway.get("/metrics", headers=headers).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


@pytest.mark.resilience(row="circuits")
@pytest.mark.parametrize(
    ("outage", "stream"),
    [
        (overloaded, False),
        (overloaded, True),
        (resets, False),
        (breaks_off, True),
        (not_json, False),
    ],
)
def test_a_target_that_fails_is_left_out_at_once_and_tried_by_one(
    upstream: Upstream, running: Tollway, outage: Script, stream: bool
) -> None:
    upstream.scripts["m1"] = outage
    for _ in range(7):
        assert running.chat("two", stream=stream).status_code == 200
    # A connection that is reset may have been an old one, and is tried once more on a fresh one.
    asked = _models(upstream)
    failed = len([row for row in running.rows(12) if row["target"] == "up/m1"])
    assert asked.count("m1") == failed
    assert asked[-2:] == ["m2"] * 2
    code, reason = _rejections(running)["up/m1"]
    assert code == "circuit"
    assert reason.startswith("left out for ")
    shown = {each["name"]: each for each in running.admin("GET", "/targets")["data"]}
    assert (shown["up/m1"]["state"], shown["up/m1"]["times_out"]) == ("out", 1)
    assert (shown["up/m2"]["state"], shown["up/m2"]["failures"]) == ("in", 0)
    assert shown["up/m2"]["attempts"] == 7
    assert _metric(running, "tollway_circuits_open") == 1
    assert _metric(running, "tollway_ejections_total") == 1

    # Its time is over: one request tries it, and while that is under way nobody else does.
    held = Outage()
    upstream.scripts["m1"] = held.hold
    _until_on_trial(running)
    upstream.calls.clear()
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(running.chat, "two", stream=stream)
        upstream.wait_for_calls(1)
        others = list(pool.map(lambda _: running.chat("two", stream=stream), range(16)))
        assert {reply.headers["x-tollway-model"] for reply in others} == {"up/m2"}
        assert _models(upstream).count("m1") == 1
        held.release(upstream)
        assert first.result().headers["x-tollway-model"] == "up/m1"

    # It answered: everybody is back.
    upstream.scripts.clear()
    assert running.chat("two", stream=stream).headers["x-tollway-model"] == "up/m1"
    assert _rejections(running) == {}
    assert _metric(running, "tollway_circuits_open") == 0
    assert "up/m1 is left out for 8 s: 5 of 5 requests failed" in running.log()


def test_a_trial_that_fails_puts_it_out_for_longer(upstream: Upstream, running: Tollway) -> None:
    upstream.scripts["m1"] = overloaded
    for _ in range(6):
        running.chat("two")
    _until_on_trial(running)
    upstream.calls.clear()
    for _ in range(3):
        assert running.chat("two").headers["x-tollway-model"] == "up/m2"
    assert _models(upstream) == ["m1", "m2", "m2", "m2"]
    assert "up/m1 is left out for 16 s" in running.log()


def test_streams_that_break_in_the_middle_count(upstream: Upstream, running: Tollway) -> None:
    upstream.scripts["m1"] = breaks_in_the_middle
    for _ in range(6):
        running.chat("two", stream=True)
    assert _models(upstream) == ["m1"] * 5 + ["m2"]


@pytest.mark.resilience(row="circuits")
def test_the_last_one_is_never_left_out(upstream: Upstream, running: Tollway) -> None:
    upstream.scripts["m1"] = upstream.scripts["m2"] = overloaded
    for model in ("one", "up/m1"):
        for _ in range(8):
            assert running.chat(model).status_code == 502
    assert len(upstream.calls) == 16
    for _ in range(8):
        running.chat("two")
    upstream.calls.clear()
    # Both are out: one of them is tried all the same, and that it answers brings it back.
    assert running.chat("two").status_code == 502
    assert len(upstream.calls) == 1
    upstream.scripts.clear()
    assert running.chat("one").status_code == 200
    assert running.chat("two").headers["x-tollway-model"] == "up/m1"


@pytest.mark.resilience(row="circuits")
def test_what_is_not_its_fault_does_not_count(upstream: Upstream, running: Tollway) -> None:
    async def refuses(call: Call, line: Line) -> None:
        await line.json({"error": {"message": "no"}}, "404 Not Found")

    async def never(call: Call, line: Line) -> None:
        await line.until_closed()

    upstream.scripts["m1"] = refuses
    for _ in range(10):
        running.chat("two")
    assert _models(upstream).count("m1") == 10
    upstream.scripts["m1"] = never
    upstream.calls.clear()
    for number in range(10):
        with pytest.raises(Exception, match="timed out"):
            _left(running, 0.2)
        assert upstream.wait_for_calls(number + 1)[number].closed.wait(10)
    running.rows(20)
    assert _models(upstream) == ["m1"] * 10
    assert _rejections(running) == {}


def _left(tollway: Tollway, after_s: float) -> None:
    body: dict[str, Any] = {"model": "two", "messages": [{"role": "user", "content": "Hello"}]}
    httpx2.post(f"{tollway.url}/v1/chat/completions", json=body, timeout=after_s)


def test_a_provider_that_asks_for_rest_gets_it(upstream: Upstream, running: Tollway) -> None:
    async def limits(call: Call, line: Line) -> None:
        error = {"error": {"message": "slow down"}}
        await line.json(error, "429 Too Many Requests", "retry-after: 2\r\n")

    upstream.scripts["m1"] = limits
    for _ in range(4):
        assert running.chat("two").status_code == 200
    assert _models(upstream) == ["m1", "m2", "m2", "m2", "m2"]
    code, reason = _rejections(running)["up/m1"]
    assert code == "resting"
    assert reason.startswith("left alone for ")
    assert reason.endswith("slow down")
    upstream.scripts.clear()
    _until_on_trial(running)
    assert running.chat("two").headers["x-tollway-model"] == "up/m1"
    assert _metric(running, "tollway_ejections_total") == 0


def test_a_conversation_moves_only_while_its_target_is_out(
    upstream: Upstream, running: Tollway
) -> None:
    home = running.chat("kept").headers["x-tollway-model"]
    model = home.removeprefix("up/")
    upstream.scripts[model] = overloaded
    upstream.calls.clear()
    for _ in range(8):
        assert running.chat("kept").status_code == 200
    asked = _models(upstream)
    assert asked.count(model) == 5
    assert len({each for each in asked if each != model}) == 1
    upstream.scripts.clear()
    _until_on_trial(running, "kept")
    assert running.chat("kept").headers["x-tollway-model"] == home
    assert running.chat("kept").headers["x-tollway-model"] == home


def test_a_provider_that_is_asked_is_left_out_before_a_request_has_to_find_out(
    upstream: Upstream, tmp_path: Path
) -> None:
    with ModelServer({"/v1/models": openai_list("m1")}) as sick:
        config = provider(upstream.base_url, "m1")
        config["providers"]["sick"] = {
            "base_url": f"{sick.url}/v1",
            "api_key": "sk-sick",
            "health": {"every_s": 1, "misses": 1},
        }
        config["targets"].append({"target": "sick/m1", "price": "free"})
        config["models"]["two"] = {"targets": ["sick/m1", "up/m1"]}
        with serving(tmp_path, config) as tollway:
            assert _rejections(tollway) == {}
            sick.stop()
            until(lambda: _rejections(tollway).get("sick/m1", ("", ""))[0] == "silent")
            reply = tollway.chat("two")
            assert reply.headers["x-tollway-model"] == "up/m1"
            assert reply.headers["x-tollway-attempts"] == "1"
            sick.start()
            until(lambda: _rejections(tollway) == {})


def test_a_key_that_fails_is_left_out_and_its_target_is_not(
    upstream: Upstream, tmp_path: Path
) -> None:
    async def by_key(call: Call, line: Line) -> None:
        fails = call.headers["authorization"] == "Bearer sk-sick"
        await (overloaded if fails else answer_ok)(call, line)

    upstream.scripts["m1"] = by_key
    config = provider(upstream.base_url, "m1", "m2")
    settings = config["providers"]["up"]
    del settings["api_key"]
    settings["api_keys"] = ["sk-sick", "sk-well"]
    config["circuit"] = {"out_s": OUT_S}
    config["models"]["two"] = {"targets": ["up/m1", "up/m2"]}
    with serving(tmp_path, config) as tollway:
        for _ in range(10):
            assert tollway.chat("two").status_code == 200
        assert _metric(tollway, "tollway_circuits_open") == 1
        assert "up/m1 (key 1) is left out" in tollway.log()
        assert _rejections(tollway) == {}
        upstream.calls.clear()
        for _ in range(6):
            reply = tollway.chat("two")
            assert reply.headers["x-tollway-model"] == "up/m1"
            assert reply.headers["x-tollway-attempts"] == "1"
        assert {call.headers["authorization"] for call in upstream.calls} == {"Bearer sk-well"}


def test_a_reload_leaves_out_what_is_out_unless_it_is_another_now(
    upstream: Upstream, tmp_path: Path
) -> None:
    with ModelServer({"/v1/models": openai_list("m1")}) as sick:
        config = provider(upstream.base_url, "m1", retries={"tries": 1})
        config["providers"]["silent"] = {
            "base_url": f"{sick.url}/v1",
            "api_key": "sk-sick",
            "health": {"every_s": 1, "misses": 2},
        }
        config["providers"]["wrong"] = {"base_url": "http://127.0.0.1:9/v1", "api_key": "sk-no"}
        for name in ("silent/m1", "wrong/m1"):
            config["targets"].append({"target": name, "price": "free"})
        config["models"]["three"] = {"targets": ["wrong/m1", "silent/m1", "up/m1"]}
        config["circuit"] = {"failures": 2, "out_s": 600, "longest_s": 600}
        config["discover"] = False
        sick.stop()
        with serving(tmp_path, config) as tollway:

            def standing() -> dict[str, str]:
                return {name: code for name, (code, _) in _rejections(tollway, "three").items()}

            out = {"wrong/m1": "circuit", "silent/m1": "silent"}
            until(lambda: "silent/m1" in standing())
            tollway.chat("wrong/m1")
            tollway.chat("wrong/m1")
            assert standing() == out
            assert _metric(tollway, "tollway_circuits_open") == 1
            for number in range(5):
                config["alerts"] = {"percents": [50 + number]}
                tollway.reload(config)
                assert standing() == out
            config["providers"]["wrong"]["base_url"] = upstream.base_url
            tollway.reload(config)
            assert standing() == {"silent/m1": "silent"}
            assert tollway.chat("three").headers["x-tollway-model"] == "wrong/m1"
            assert _metric(tollway, "tollway_circuits_open") == 0

            upstream.scripts["m1"] = overloaded
            tollway.chat("wrong/m1")
            tollway.chat("wrong/m1")
            assert _metric(tollway, "tollway_circuits_open") == 1
            del config["providers"]["wrong"], config["targets"][-1]
            config["models"]["three"] = {"targets": ["silent/m1", "up/m1"]}
            tollway.reload(config)
            assert _metric(tollway, "tollway_circuits_open") == 0
            assert "wrong/m1 is tried again" not in tollway.log().rpartition("left out for")[2]
