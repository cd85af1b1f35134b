"""Deadlines, retries, fallbacks by cause and keys, as clients and providers see them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from proxy.ledger.audit import audit
from tests.e2e.raw import connect, post
from tests.e2e.tollway import ADMIN_TOKEN, Tollway, events, provider, serving
from tests.e2e.upstream import Call, Line, Script, Upstream, answer_ok, chunk, usage_chunk
from tests.waiting import PATIENCE_S, until

CLOSED_S = 0.25
"""How long after a deadline a provider may still be asked for its answer."""


@pytest.fixture(scope="module")
def other() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


def configured(upstream: Upstream, other: Upstream | None = None) -> dict[str, Any]:
    config = provider(upstream.base_url, "m1", "m2", "long")
    if other is not None:
        config["providers"]["spare"] = {"base_url": other.base_url, "api_key": "sk-spare"}
        config["targets"].append({"target": "spare/m9", "price": "free"})
    return config


@pytest.fixture(scope="module")
def scene(
    upstream: Upstream, other: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tollway]:
    config = configured(upstream, other)
    config["providers"]["up"]["api_keys"] = ["sk-one", "sk-two", "sk-three"]
    del config["providers"]["up"]["api_key"]
    chain = ["up/long"]
    config["models"] |= {
        "caused": {
            "targets": ["up/m1", "up/m2"],
            "fallbacks": {
                "context_exceeded": chain,
                "content_policy": ["spare/m9"],
                "overloaded": ["spare/m9"],
                "malformed": chain,
            },
        },
        "plain": {"targets": ["up/m1", "up/m2"]},
    }
    with serving(tmp_path_factory.mktemp("attempts"), config) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh_other(other: Upstream) -> None:
    other.calls.clear()
    other.scripts.clear()


# --- scripts -------------------------------------------------------------------------------


def says(status: str, message: str = "no", code: str | None = None, headers: str = "") -> Script:
    """Always the same error."""

    async def script(call: Call, line: Line) -> None:
        error = {"error": {"message": message, "type": "x", "code": code}}
        await line.json(error, status, headers)

    return script


async def silent(call: Call, line: Line) -> None:
    """Reads the request, and never answers."""
    await line.until_closed()


async def says_a_role(call: Call, line: Line) -> None:
    """A stream that begins, and never has a token."""
    await line.start_stream()
    await line.event(chunk({"role": "assistant", "content": ""}))
    await line.until_closed()


async def goes_on(call: Call, line: Line) -> None:
    """A stream without end."""
    await line.start_stream()
    while True:
        await line.event(chunk({"content": "word "}))
        await asyncio.sleep(0.01)


async def trickles(call: Call, line: Line) -> None:
    """A whole answer that never becomes whole, though something always comes."""
    await line.send(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999\r\n\r\n{"
    )
    while True:
        await line.send(b" ")
        await asyncio.sleep(0.01)


# --- deadlines -----------------------------------------------------------------------------


@pytest.mark.parametrize("script", [silent, trickles], ids=["silent", "trickles"])
def test_an_expired_deadline_is_a_504_and_nothing_goes_on(
    tollway: Tollway, upstream: Upstream, script: Script
) -> None:
    upstream.scripts |= {"m1": script, "m2": script}
    reply = tollway.chat("auto", headers={"x-tollway-deadline-ms": "400"})
    assert reply.status_code == 504, reply.text
    error = reply.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "upstream_timeout")
    assert "0.4 s (x-tollway-deadline-ms)" in error["message"]
    (call,) = upstream.calls  # no other target is asked when no time is left
    assert call.closed.wait(PATIENCE_S)
    (row,) = tollway.rows()[-1:]
    assert (row["target"], row["outcome"]) == ("up/m1", "timeout")


@pytest.mark.resilience(row="deadlines")
def test_upstreams_see_the_end_of_a_request_soon_after_its_deadline(
    tollway: Tollway, upstream: Upstream
) -> None:
    closed_after: list[float] = []

    async def script(call: Call, line: Line) -> None:
        asked_at = time.monotonic()
        try:
            await line.until_closed()
        finally:
            closed_after.append(time.monotonic() - asked_at)

    upstream.scripts["m1"] = script
    # The quickest of many: what others run on this machine is not what is measured.
    for _ in range(20):
        assert tollway.chat("up/m1", headers={"x-tollway-deadline-ms": "300"}).status_code == 504
        assert upstream.calls[-1].closed.wait(PATIENCE_S)
        if closed_after[-1] - 0.3 <= CLOSED_S:
            return
    raise AssertionError(closed_after)


def test_a_stream_that_has_begun_ends_with_an_error_event(
    tollway: Tollway, upstream: Upstream
) -> None:
    upstream.scripts["m1"] = goes_on
    reply = tollway.chat("up/m1", stream=True, headers={"x-tollway-deadline-ms": "500"})
    assert reply.status_code == 200
    *chunks, last = events(reply.text)
    assert chunks and "error" in last and "[DONE]" not in reply.text
    assert "x-tollway-deadline-ms" in last["error"]["message"]
    assert upstream.calls[0].closed.wait(PATIENCE_S)
    (row,) = tollway.rows()[-1:]
    assert row["outcome"] == "broken" and row["cost_nanousd"] > 0


def test_a_target_is_not_to_blame_for_a_deadline_that_comes_after_its_usage(
    tollway: Tollway, upstream: Upstream
) -> None:
    async def never_done(call: Call, line: Line) -> None:
        await line.start_stream()
        await line.event(chunk({"content": "Hello"}))
        await line.event(chunk({}, "stop"))
        await line.event(usage_chunk())
        await line.until_closed()

    def failures() -> int:
        shown = {each["name"]: each for each in tollway.admin("GET", "/targets")["data"]}
        return int(shown["up/m1"]["failures"])

    before = failures()
    upstream.scripts["m1"] = never_done
    reply = tollway.chat("up/m1", stream=True, headers={"x-tollway-deadline-ms": "400"})
    assert "upstream_timeout" in reply.text
    (row,) = tollway.rows()[-1:]
    assert (row["outcome"], row["estimated"]) == ("broken", 0)
    assert failures() == before


@pytest.mark.resilience(row="deadlines")
def test_a_reader_that_stalls_does_not_keep_the_upstream(
    tollway: Tollway, upstream: Upstream
) -> None:
    async def floods(call: Call, line: Line) -> None:
        await line.start_stream()
        while True:
            await line.event(chunk({"content": "word " * 2000}))

    upstream.scripts["m1"] = floods
    body = {"model": "up/m1", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    headers = {"x-tollway-deadline-ms": "700"}
    with httpx2.stream(
        "POST", f"{tollway.url}/v1/chat/completions", json=body, headers=headers, timeout=30
    ) as reply:
        assert reply.status_code == 200  # and then nothing is read
        assert upstream.calls[0].closed.wait(PATIENCE_S)


def test_time_in_our_own_queue_is_spent(upstream: Upstream, tmp_path: Path) -> None:
    goes_on = asyncio.Event()

    async def held(call: Call, line: Line) -> None:
        await goes_on.wait()
        await answer_ok(call, line)

    upstream.scripts["m1"] = held
    config = configured(upstream)
    config["server"] |= {"max_concurrent": 1, "queue": 1, "queue_s": 600}
    body = b'{"model": "up/m1", "messages": [{"role": "user", "content": "Hello"}]}'
    with (
        serving(tmp_path, config) as tollway,
        connect(tollway) as first,
        connect(tollway) as waiting,
    ):
        first.send(post(body))
        upstream.wait_for_calls(1)
        sent_at = time.monotonic()
        waiting.send(post(body, b"x-tollway-deadline-ms: 500"))
        assert tollway.get("/healthz").status_code == 200  # what was sent before it is read
        while time.monotonic() < sent_at + 1.0:
            assert tollway.get("/healthz").status_code == 200
        upstream.in_loop(goes_on.set)
        assert first.reply().status == 200
        late = waiting.reply()
        assert (late.status, late.error["code"]) == (504, "upstream_timeout")
        assert len(upstream.calls) == len(tollway.rows(1)) == 1


@pytest.mark.resilience(row="deadlines")
def test_money_that_others_hold_is_not_waited_for_beyond_the_deadline(
    upstream: Upstream, tmp_path: Path
) -> None:
    goes_on = asyncio.Event()

    async def held(call: Call, line: Line) -> None:
        await goes_on.wait()
        await answer_ok(call, line)

    upstream.scripts["m1"] = held
    config = configured(upstream)
    config["budgets"] = [{"scope": "global", "limit_usd": 0.003, "window": "lifetime"}]
    with serving(tmp_path, config) as tollway, ThreadPoolExecutor(1) as pool:
        holding = pool.submit(tollway.chat, "up/m1", max_tokens=1000)
        upstream.wait_for_calls(1)
        headers = {"x-tollway-deadline-ms": "500"}
        late = tollway.chat("up/m1", max_tokens=1000, headers=headers)
        upstream.in_loop(goes_on.set)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "upstream_timeout")
        assert "0.5 s (x-tollway-deadline-ms)" in late.json()["error"]["message"]
        assert holding.result().status_code == 200
        assert tollway.chat("up/m1", max_tokens=1000).status_code == 200
        assert len(upstream.calls) == 2
        rows = tollway.rows()
        assert sum(row["cost_nanousd"] > 0 for row in rows) == 2
        assert not any(row["held_nanousd"] for row in rows)


@pytest.mark.parametrize("text", ["0", "soon", "1.5", "-1"])
def test_a_malformed_deadline_is_refused(tollway: Tollway, upstream: Upstream, text: str) -> None:
    reply = tollway.chat("up/m1", headers={"x-tollway-deadline-ms": text})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "x-tollway-deadline-ms"
    assert not upstream.calls


@pytest.mark.parametrize("stream", [False, True])
def test_an_sdk_is_not_waited_for_longer_than_it_waits(
    tollway: Tollway, upstream: Upstream, stream: bool
) -> None:
    upstream.scripts["m1"] = says_a_role if stream else silent
    with openai.OpenAI(
        base_url=f"{tollway.url}/v1", api_key="any", max_retries=0, timeout=0.5
    ) as client:
        with pytest.raises((openai.APITimeoutError, openai.InternalServerError)):
            client.chat.completions.create(
                model="up/m1", stream=stream, messages=[{"role": "user", "content": "Hello"}]
            )
        (call,) = upstream.calls
        assert call.closed.wait(PATIENCE_S)


def test_the_hint_of_an_sdk_is_for_the_first_token_of_a_stream(
    tollway: Tollway, upstream: Upstream
) -> None:
    async def slow(call: Call, line: Line) -> None:
        await line.start_stream()
        await line.event(chunk({"role": "assistant", "content": "Hello"}))
        await asyncio.sleep(1.2)
        await line.event(chunk({}, "stop"))
        await line.end_stream()

    upstream.scripts["m1"] = slow
    headers = {"x-stainless-timeout": "1"}
    assert "[DONE]" in tollway.chat("up/m1", stream=True, headers=headers).text
    upstream.scripts["m1"] = says_a_role
    reply = tollway.chat("up/m1", stream=True, headers=headers)
    assert reply.status_code == 504
    assert "1 s (x-stainless-timeout) passed before an answer began" in reply.text


def test_deadlines_of_targets_lead_to_the_next_and_those_of_models_do_not(
    upstream: Upstream, tmp_path: Path
) -> None:
    config = configured(upstream)
    config["targets"][0]["deadlines"] = {"first_token_s": 0.3, "whole_s": 0.4}
    config["models"]["hasty"] = {"targets": ["up/m2"], "deadlines": {"whole_s": 0.3}}
    upstream.scripts |= {"m1": says_a_role}
    with serving(tmp_path, config) as tollway:
        reply = tollway.chat("auto", stream=True)
        assert "[DONE]" in reply.text
        assert reply.headers["x-tollway-attempts"] == "2"
        upstream.scripts["m1"] = trickles
        assert tollway.chat("auto").headers["x-tollway-model"] == "up/m2"
        upstream.scripts["m2"] = silent
        reply = tollway.chat("hasty")
        assert reply.status_code == 504
        assert "models.hasty.deadlines" in reply.text
        outcomes = [(row["target"], row["outcome"]) for row in tollway.rows(5)]
    assert outcomes == [
        ("up/m1", "timeout"),
        ("up/m2", "ok"),
        ("up/m1", "timeout"),
        ("up/m2", "ok"),
        ("up/m2", "timeout"),
    ]


def test_what_is_cut_off_and_billed_all_the_same_stays_held(
    upstream: Upstream, tmp_path: Path
) -> None:
    """A client must not spend a hard budget over and over by deadlines that are too short."""
    config = configured(upstream)
    config["providers"]["up"]["meterable"] = False
    config["budgets"] = [{"limit_usd": 1, "scope": "global"}]
    upstream.scripts["m1"] = silent
    with serving(tmp_path, config) as tollway:
        headers = {"x-tollway-deadline-ms": "300"}
        reply = tollway.chat("up/m1", max_tokens=1000, headers=headers)
        assert reply.status_code == 504
        (row,) = tollway.rows(1)
        assert row["outcome"] == "timeout"
        held = row["cost_nanousd"] + row["held_nanousd"]
        assert held >= 1000 * 2_000, row
        assert audit(tollway.data / "ledger.db") == []


# --- retries -------------------------------------------------------------------------------


def test_one_target_is_asked_again_after_a_moment(tollway: Tollway, upstream: Upstream) -> None:
    async def fails_once(call: Call, line: Line) -> None:
        first = len(upstream.calls) == 1
        await (says("503 Busy") if first else answer_ok)(call, line)

    upstream.scripts["m1"] = fails_once
    reply = tollway.chat("up/m1")
    assert reply.status_code == 200
    assert reply.headers["x-tollway-attempts"] == "2"
    rows = tollway.rows()[-2:]
    assert [row["outcome"] for row in rows] == ["upstream_error", "ok"]
    assert 'tollway_retries_total{provider="up"} ' in _metrics(tollway)


@pytest.mark.parametrize(
    ("headers", "calls"),
    [
        ("retry-after-ms: 20\r\n", 2),
        ("retry-after: 1\r\n", 2),
        ("retry-after: 60\r\n", 1),
        ("x-should-retry: false\r\n", 1),
    ],
)
def test_a_provider_is_asked_again_when_it_says(
    tollway: Tollway, upstream: Upstream, headers: str, calls: int
) -> None:
    upstream.scripts["m1"] = says("429 Slow", headers=headers)
    reply = tollway.chat("up/m1")
    assert reply.status_code == 429
    assert len(upstream.calls) == calls


def test_no_retry_begins_that_the_deadline_would_end(tollway: Tollway, upstream: Upstream) -> None:
    upstream.scripts["m1"] = says("429 Slow", headers="retry-after: 3\r\n")
    reply = tollway.chat("up/m1", headers={"x-tollway-deadline-ms": "2500"})
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "3")
    assert len(upstream.calls) == 1


@pytest.mark.resilience(row="retries")
@pytest.mark.parametrize("model", ["up/m1", "auto"])
def test_a_dead_upstream_gets_little_more_than_the_requests(
    upstream: Upstream, tmp_path: Path, model: str
) -> None:
    requests, at_once = 700, 16
    upstream.scripts |= dict.fromkeys(("m1", "m2", "long"), says("503 Dead"))
    config = configured(upstream)
    config["server"]["access_log"] = False
    with serving(tmp_path, config) as tollway:
        began = time.monotonic()
        with httpx2.Client(timeout=60) as client, ThreadPoolExecutor(at_once) as pool:
            body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
            url = f"{tollway.url}/v1/chat/completions"
            statuses = set(
                pool.map(lambda _: client.post(url, json=body).status_code, range(requests))
            )
        took_s = time.monotonic() - began
        rows = tollway.rows(requests)
    assert statuses == {502}
    assert len(rows) == len(upstream.calls)
    # 1.15 of them, unless this machine is so slow that three a second are more than that; and the
    # first ones cannot know that the other targets are down, too.
    most = max(1.15 * requests, 1.1 * requests + 3 * took_s + 9)
    most += 2 * at_once if model == "auto" else 0
    assert requests < len(upstream.calls) <= most


def test_a_retry_is_not_waited_for_by_nobody(upstream: Upstream, tmp_path: Path) -> None:
    upstream.scripts["m1"] = says("429 Slow", headers="retry-after: 60\r\n")
    config = configured(upstream)
    config["providers"]["up"]["retries"] = {"wait_s": 600}
    body = b'{"model": "up/m1", "messages": [{"role": "user", "content": "Hello"}]}'
    with serving(tmp_path, config) as tollway:
        with connect(tollway) as client:
            client.send(post(body))
            tollway.rows(1)  # what it was told is settled, however long it waits
            assert _open_requests(tollway) == 1
        until(lambda: not _open_requests(tollway))
        assert len(upstream.calls) == 1


def _open_requests(tollway: Tollway) -> int:
    """How many requests are being answered, but for the one that asks."""
    found = re.search(r"^tollway_open_requests(?:\{.*\})? (\S+)$", _metrics(tollway), re.M)
    assert found
    return int(float(found[1])) - 1


def _metrics(tollway: Tollway) -> str:
    return tollway.get("/metrics", headers={"authorization": f"Bearer {ADMIN_TOKEN}"}).text


# --- fallbacks by cause --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "message", "code", "expected"),
    [
        ("400 Bad", "maximum context length is 8 tokens", "context_length_exceeded", "up/long"),
        ("400 Bad", "flagged by moderation", "content_filter", "spare/m9"),
        ("503 Busy", "busy", None, "spare/m9"),
        ("404 Gone", "no such model", "model_not_found", "up/m2"),
    ],
)
def test_a_cause_has_its_chain(
    scene: Tollway, upstream: Upstream, status: str, message: str, code: str, expected: str
) -> None:
    upstream.scripts["m1"] = says(status, message, code)
    reply = scene.chat("caused")
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-tollway-model"] == expected
    assert reply.headers["x-tollway-attempts"] == "2"
    reply = scene.chat("caused", stream=True)
    assert reply.headers["x-tollway-model"] == expected
    assert "[DONE]" in reply.text


def test_a_malformed_answer_has_its_chain(scene: Tollway, upstream: Upstream) -> None:
    async def page(call: Call, line: Line) -> None:
        await line.json(b"<html>")

    upstream.scripts["m1"] = page
    assert scene.chat("caused").headers["x-tollway-model"] == "up/long"


def test_without_a_chain_the_requests_own_fault_ends_it(scene: Tollway, upstream: Upstream) -> None:
    upstream.scripts["m1"] = says("400 Bad", "temperature is too high")
    assert scene.chat("caused").status_code == 400
    assert len(upstream.calls) == 1
    upstream.scripts["m1"] = says("400 Bad", "prompt is too long", "context_length_exceeded")
    assert scene.chat("plain").status_code == 400
    assert len(upstream.calls) == 2


def test_what_is_too_long_for_the_route_begins_with_the_chain(
    upstream: Upstream, tmp_path: Path
) -> None:
    config = configured(upstream)
    config["targets"][0]["context_length"] = 500
    config["models"]["short"] = {
        "targets": ["up/m1"],
        "fallbacks": {"context_exceeded": ["up/long"]},
    }
    with serving(tmp_path, config) as tollway:
        messages = [{"role": "user", "content": "word " * 4000}]
        reply = tollway.chat("short", messages=messages)
        assert reply.headers["x-tollway-model"] == "up/long", reply.text
        assert reply.headers["x-tollway-attempts"] == "1"
        body = {"model": "short", "messages": messages}
        shown = tollway.post("/v1/route", body).json()
        assert [choice["target"] for choice in shown["choices"]] == ["up/long"]
        assert [rejection["target"] for rejection in shown["rejections"]] == ["up/m1"]


def test_the_route_shows_its_chains(scene: Tollway) -> None:
    body = {"model": "caused", "messages": [{"role": "user", "content": "Hello"}]}
    shown = scene.post("/v1/route", body).json()
    assert shown["fallbacks"]["context_exceeded"] == ["up/long"]
    assert [choice["target"] for choice in shown["choices"]] == ["up/m1", "up/m2"]
    text = scene.cli("route", "Hello", "--model", "caused")
    assert "context_exceeded: then up/long" in text.stdout


# --- keys ----------------------------------------------------------------------------------


def _sent_key(call: Call) -> str:
    return call.headers["authorization"].removeprefix("Bearer ")


def test_keys_take_turns_and_the_log_has_their_number_alone(
    scene: Tollway, upstream: Upstream
) -> None:
    for _ in range(6):
        assert scene.chat("up/m2").status_code == 200
    sent = [_sent_key(call) for call in upstream.calls]
    assert sorted(sent[:3]) == ["sk-one", "sk-three", "sk-two"]
    assert sent[:3] == sent[3:]
    until(lambda: "(key 3)" in scene.log(), told=scene.log)
    assert "sk-" not in scene.log()


def test_a_limited_key_rests_and_a_refused_one_is_out(
    upstream: Upstream, other: Upstream, tmp_path: Path
) -> None:
    config = configured(upstream, other)
    del config["providers"]["up"]["api_key"]
    config["providers"]["up"]["api_keys"] = ["${KEY_1}", "${KEY_2}", "${KEY_3}"]
    config["models"]["both"] = {"targets": ["up/m1", "spare/m9"]}

    async def by_key(call: Call, line: Line) -> None:
        answers = {
            "sk-1": says("429 Slow", headers="retry-after: 900\r\n"),
            "sk-2": says("401 Who", "Incorrect API key provided: sk-2"),
        }
        await answers.get(_sent_key(call), answer_ok)(call, line)

    upstream.scripts["m1"] = by_key
    keys = {f"KEY_{n}": f"sk-{n}" for n in (1, 2, 3)}
    with serving(tmp_path, config, **keys) as tollway:
        reply = tollway.chat("both")
        assert reply.headers["x-tollway-model"] == "up/m1"
        assert reply.headers["x-tollway-attempts"] == "3"
        for _ in range(4):
            assert tollway.chat("both").headers["x-tollway-attempts"] == "1"
        assert [_sent_key(call) for call in upstream.calls] == [
            "sk-1", "sk-2", "sk-3", *["sk-3"] * 4,
        ]  # fmt: skip
        outcomes = [(row["outcome"], row["cost_nanousd"]) for row in tollway.rows(7)[:2]]
        assert outcomes == [("upstream_error", 0)] * 2
        # Now none is left: the other provider is asked first.
        upstream.scripts["m1"] = says("429 Slow", headers="retry-after: 900\r\n")
        assert tollway.chat("both").headers["x-tollway-attempts"] == "2"
        count = len(upstream.calls)
        assert tollway.chat("both").headers["x-tollway-attempts"] == "1"
        assert len(upstream.calls) == count
        assert tollway.log().count("refuses this key") == 1
        assert "sk-" not in tollway.log()
    assert audit(tollway.data / "ledger.db") == []
