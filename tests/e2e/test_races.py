"""Several attempts of one request at the same time: each held, settled, shown; losers cancelled."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from proxy.ledger.audit import audit
from tests.e2e.tollway import Tollway, events, provider, serving
from tests.e2e.upstream import Call, Line, Script, Upstream, answer_ok, chunk, completion

MODELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def racing(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    """A server with races over three models of one upstream."""
    config = provider(upstream.base_url, *MODELS)
    targets = [f"up/{model}" for model in MODELS]
    config["models"] = {
        "pair": {"targets": targets, "policy": "race"},
        "all": {"targets": targets, "policy": {"name": "race", "targets": 3}},
        "one": {"targets": ["up/a"], "policy": "race"},
        "staggered": {"targets": targets, "policy": {"name": "race", "stagger_s": 1}},
        "patient": {"targets": targets, "policy": {"name": "race", "stagger_s": 600}},
    }
    with serving(tmp_path_factory.mktemp("races"), config) as running:
        yield running


async def hang(call: Call, line: Line) -> None:
    """Say nothing until the connection is closed."""
    await line.until_closed()


async def hang_in_stream(call: Call, line: Line) -> None:
    """Begin a stream, without a payload, and say no more."""
    await line.start_stream()
    await line.event(chunk({"role": "assistant", "content": ""}))
    await line.until_closed()


async def break_off(call: Call, line: Line) -> None:
    """Reset the connection after the first payload."""
    await line.start_stream()
    await line.event(chunk({"role": "assistant", "content": "Hel"}))
    line.reset()


async def fail(call: Call, line: Line) -> None:
    await line.json({"error": {"message": "out of order", "type": "server_error"}}, "500 Oops")


def once(asked: threading.Event, then: Script) -> Script:
    """Do it when that has come about."""

    async def script(call: Call, line: Line) -> None:
        await asyncio.to_thread(asked.wait, 20)
        await then(call, line)

    return script


def by_target(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["target"]: row for row in rows}


def rows_of(tollway: Tollway, request_id: str, count: int) -> list[dict[str, Any]]:
    rows = [row for row in tollway.rows() if row["request_id"] == request_id]
    assert len(rows) == count, rows
    return rows


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_the_first_answer_wins_and_the_loser_is_cancelled_and_settled(
    upstream: Upstream, racing: Tollway, streams: bool
) -> None:
    upstream.scripts["a"] = hang_in_stream if streams else hang
    reply = racing.chat("pair", stream=streams)
    assert reply.status_code == 200
    assert reply.headers["x-tollway-model"] == "up/b"
    assert reply.headers["x-tollway-policy"] == "race"
    assert reply.headers["x-tollway-attempts"] == "2"
    if streams:
        assert events(reply.text)[-1] == "[DONE]"
    (beaten,) = (call for call in upstream.calls if call.model == "a")
    assert beaten.closed.wait(10), "its connection is left open"
    rows = by_target(rows_of(racing, reply.headers["x-tollway-request-id"], 2))
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "up/a": "cancelled",
        "up/b": "ok",
    }
    assert {row["route_reason"] for row in rows.values()} == {"race"}
    assert sorted(row["number"] for row in rows.values()) == [1, 2]
    assert all(row["hold_nanousd"] > 0 for row in rows.values())
    if not streams:
        cost = sum(row["cost_nanousd"] for row in rows.values())
        assert float(reply.headers["x-tollway-cost-usd"]) == pytest.approx(cost / 1e9)


def test_a_payload_wins_not_a_beginning(upstream: Upstream, racing: Tollway) -> None:
    """A target that sends status and role at once has not answered yet."""
    begun = threading.Event()

    async def begin(call: Call, line: Line) -> None:
        await line.start_stream()
        await line.event(chunk({"role": "assistant", "content": ""}))
        begun.set()
        await line.until_closed()

    upstream.scripts["a"] = begin
    upstream.scripts["b"] = once(begun, answer_ok)
    reply = racing.chat("pair", stream=True)
    assert reply.headers["x-tollway-model"] == "up/b"
    text = "".join(
        event["choices"][0]["delta"].get("content") or ""
        for event in events(reply.text)[:-1]
        if event["choices"]
    )
    assert text == "Hello there, friend"


def test_who_fails_gives_its_place_to_the_next(upstream: Upstream, racing: Tollway) -> None:
    upstream.scripts["a"] = fail
    upstream.scripts["b"] = hang
    reply = racing.chat("pair")
    assert reply.headers["x-tollway-model"] == "up/c"
    rows = by_target(rows_of(racing, reply.headers["x-tollway-request-id"], 3))
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "up/a": "upstream_error",
        "up/b": "cancelled",
        "up/c": "ok",
    }


def test_where_all_fail_the_client_is_told_so_once(upstream: Upstream, racing: Tollway) -> None:
    upstream.scripts.update(dict.fromkeys(MODELS, fail))
    for streams in (False, True):
        reply = racing.chat("all", stream=streams)
        assert (reply.status_code, reply.json()["error"]["message"]) == (502, "out of order")


def test_with_a_stagger_the_second_begins_later_or_where_the_first_fails(
    upstream: Upstream, racing: Tollway
) -> None:
    assert racing.chat("patient").headers["x-tollway-model"] == "up/a"
    assert [call.model for call in upstream.calls] == ["a"]
    upstream.scripts["a"] = hang
    reply = racing.chat("staggered")
    assert reply.headers["x-tollway-model"] == "up/b"
    assert float(reply.headers["x-tollway-overhead-ms"]) < 900, "waiting for a turn is no overhead"
    upstream.scripts["a"] = fail
    assert racing.chat("patient").headers["x-tollway-model"] == "up/b"


def test_a_race_of_one(upstream: Upstream, racing: Tollway) -> None:
    assert racing.chat("one").headers["x-tollway-attempts"] == "1"
    upstream.scripts["a"] = fail
    assert racing.chat("one").status_code == 502


def test_a_stream_that_breaks_after_it_has_won_is_not_continued_by_another(
    upstream: Upstream, racing: Tollway
) -> None:
    asked = threading.Event()

    async def begin(call: Call, line: Line) -> None:
        asked.set()
        await line.until_closed()

    upstream.scripts["a"] = once(asked, break_off)
    upstream.scripts["b"] = begin
    reply = racing.chat("pair", stream=True)
    last = events(reply.text)[-1]
    assert last != "[DONE]" and "error" in last
    rows = by_target(rows_of(racing, reply.headers["x-tollway-request-id"], 2))
    assert rows["up/a"]["outcome"] == "broken"
    assert rows["up/b"]["outcome"] == "cancelled"


def test_a_client_that_leaves_ends_all_branches(upstream: Upstream, racing: Tollway) -> None:
    upstream.scripts.update(a=hang_in_stream, b=hang)
    body = {"model": "pair", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    before = len(racing.rows())

    def leave() -> None:
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(f"{racing.url}/v1/chat/completions", json=body, timeout=1)

    asking = threading.Thread(target=leave)
    asking.start()
    calls = upstream.wait_for_calls(2)
    asking.join()
    assert all(call.closed.wait(10) for call in calls)
    assert [row["outcome"] for row in racing.rows(before + 2)[before:]] == ["client_gone"] * 2


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_the_sdk_sees_one_answer(upstream: Upstream, racing: Tollway, streams: bool) -> None:
    client = openai.OpenAI(base_url=f"{racing.url}/v1", api_key="none", max_retries=0)
    for _ in range(5):
        if streams:
            with client.chat.completions.stream(
                model="all", messages=[{"role": "user", "content": "Hi"}]
            ) as stream:
                answer = stream.get_final_completion()
            assert answer.choices[0].message.content == "Hello there, friend"
        else:
            whole = client.chat.completions.create(
                model="all", messages=[{"role": "user", "content": "Hi"}]
            )
            assert whole.choices[0].message.content == "Hello there"
    rows = racing.rows()
    assert {row["outcome"] for row in rows} <= {
        *("ok", "cancelled", "upstream_error", "broken", "client_gone", "not_dispatched")
    }


def test_a_race_never_overspends_a_hard_budget_and_who_is_refused_is_left_out(
    upstream: Upstream, tmp_path: Path
) -> None:
    """Room for one hold only: the race has one runner; room for none: the refusal."""
    config = provider(upstream.base_url, *MODELS, meterable=False)
    config["models"] = {
        "auto": {"targets": ["up/a", "up/b"], "policy": "race"},
    }
    # 1,000 tokens of output and some 400 of input hold $0.0024 or so.
    config["budgets"] = [{"scope": "global", "limit_usd": 0.004, "window": "lifetime"}]
    with serving(tmp_path, config) as tollway:
        reply = tollway.chat("auto", max_tokens=1000)
        assert reply.status_code == 200
        assert reply.headers["x-tollway-attempts"] == "1"
        # Each answer costs 25 µ$ and bills 7 tokens of output: in the end there is no room at all.
        upstream.scripts["a"] = upstream.scripts["b"] = _dear
        statuses = [tollway.chat("auto", max_tokens=1000).status_code for _ in range(4)]
        assert statuses[-1] == 429
        spent = sum(row["cost_nanousd"] for row in tollway.rows())
        assert spent <= 4_000_000
        (budget,) = tollway.admin("GET", "/budgets")["data"]
        assert budget["overrun_usd"] == 0
        assert tollway.chat("auto", max_tokens=1000).json()["error"]["code"] == "insufficient_quota"


async def _dear(call: Call, line: Line) -> None:
    await line.json(completion(output=1000))


def test_the_worker_dies_in_the_middle_of_a_race(upstream: Upstream, tmp_path: Path) -> None:
    config = provider(upstream.base_url, *MODELS)
    config["models"] = {
        "auto": {"targets": ["up/a", "up/b", "up/c"], "policy": {"name": "race", "targets": 3}}
    }
    config["server"]["workers"] = 1
    upstream.scripts.update(dict.fromkeys(MODELS, hang))
    with serving(tmp_path, config) as tollway:

        def ask() -> None:
            with pytest.raises(httpx2.TransportError):
                tollway.chat("auto")

        asking = threading.Thread(target=ask)
        asking.start()
        upstream.wait_for_calls(3)
        (worker,) = tollway.workers()
        worker.kill()
        asking.join()
        rows = tollway.rows(3)
        assert sorted(row["target"] for row in rows) == ["up/a", "up/b", "up/c"]
        assert {row["outcome"] for row in rows} == {"orphan"}
        assert sorted(row["number"] for row in rows) == [1, 2, 3]


def test_embeddings_and_other_dialects_race_too(upstream: Upstream, racing: Tollway) -> None:
    upstream.scripts["a"] = hang
    for path, body in (
        ("/v1/messages", {"max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/responses", {"input": "Hi"}),
        ("/v1/completions", {"prompt": "Hi"}),
    ):
        for streams in (False, True):
            reply = racing.post(path, {"model": "pair", "stream": streams, **body})
            assert reply.status_code == 200, (path, reply.text)
            assert reply.headers["x-tollway-model"] == "up/b"
            assert "Hello" in reply.text


def test_a_race_is_one_request_to_its_callers_limits(upstream: Upstream, racing: Tollway) -> None:
    """A second attempt gets nobody in whose first is not let in."""
    key = racing.admin("POST", "/keys", {"name": "slow", "requests_per_minute": 2})["key"]
    headers = {"authorization": f"Bearer {key}"}
    replies = [racing.chat("all", headers=headers) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [200, 200, 429, 429]
    assert replies[0].headers["x-ratelimit-remaining-requests"] == "1"
    assert replies[-1].json()["error"]["code"] == "rate_limit_exceeded"


def test_a_race_that_nobody_is_let_into_for_others_holds_waits_for_them(
    upstream: Upstream, tmp_path: Path
) -> None:
    """What holds the money ends within two seconds, and then there is enough."""
    config = provider(upstream.base_url, *MODELS, meterable=False)
    config["models"] = {
        "auto": {"targets": ["up/a", "up/b"], "policy": "race"},
        "single": {"targets": ["up/c"]},
    }
    config["budgets"] = [{"scope": "global", "limit_usd": 0.003, "window": "lifetime"}]
    let_go = asyncio.Event()

    async def hold(call: Call, line: Line) -> None:
        await let_go.wait()
        await answer_ok(call, line)

    upstream.scripts["c"] = hold
    with serving(tmp_path, config) as tollway:
        holder = threading.Thread(target=lambda: tollway.chat("single", max_tokens=1000))
        holder.start()
        upstream.wait_for_calls(1)
        replies: list[httpx2.Response] = []
        waiter = threading.Thread(
            target=lambda: replies.append(tollway.chat("auto", max_tokens=1000))
        )
        waiter.start()
        waiter.join(0.3)
        upstream.in_loop(let_go.set)
        waiter.join()
        holder.join()
        assert replies[0].status_code == 200, replies[0].text


def test_a_storm_of_races_leaves_no_attempt_open_and_no_call_without_its_row(
    upstream: Upstream, tmp_path: Path
) -> None:
    """Targets that answer, fail, break off and hang at random, and clients that leave."""
    chance = random.Random(7)

    async def whatever(call: Call, line: Line) -> None:
        await asyncio.sleep(chance.random() * 0.05)
        script = chance.choice((answer_ok, answer_ok, fail, hang, hang_in_stream, break_off))
        if script is hang_in_stream and not call.body.get("stream"):
            script = hang
        await script(call, line)

    async def ask(client: httpx2.AsyncClient, number: int) -> str:
        body = {
            "model": ("auto", "hedged")[number % 2],
            "stream": number % 3 > 0,
            "messages": [{"role": "user", "content": "Hi"}],
        }
        patience_s = 0.1 if number % 5 == 0 else 3.0
        try:
            reply = await client.post("/v1/chat/completions", json=body, timeout=patience_s)
        except httpx2.TransportError:
            return "left"
        if reply.status_code != 200:
            return str(reply.status_code)
        whole = not body["stream"] or "[DONE]" in reply.text
        return "answered" if whole else "cut"

    async def storm(url: str) -> list[str]:
        async with httpx2.AsyncClient(base_url=url) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(120)))

    upstream.scripts.update(dict.fromkeys(MODELS, whatever))
    config = provider(upstream.base_url, *MODELS)
    targets = [f"up/{model}" for model in MODELS]
    config["models"] = {
        "auto": {"targets": targets, "policy": {"name": "race", "targets": 2}},
        "hedged": {"targets": targets, "hedge": {"share": 1, "start_s": 0.1}},
    }
    config["budgets"] = [{"scope": "global", "limit_usd": 1, "window": "lifetime"}]
    with serving(tmp_path, config) as tollway:
        told = Counter(asyncio.run(storm(tollway.url)))
        assert told["answered"] > 20, told
        rows = tollway.rows(120)
        assert audit(tollway.data / "ledger.db") == []
    dispatched = Counter(row["target"] for row in rows)
    called = Counter(f"up/{call.model}" for call in upstream.calls)
    assert all(dispatched[target] >= calls for target, calls in called.items())
    for request in {row["request_id"] for row in rows}:
        of_request = [row for row in rows if row["request_id"] == request]
        assert sum(row["outcome"] == "ok" for row in of_request) <= 2  # two whole at one moment
        numbers = [row["number"] for row in of_request]
        assert len(set(numbers)) == len(numbers)
    assert {row["outcome"] for row in rows} >= {"ok", "cancelled", "upstream_error", "broken"}


@pytest.mark.parametrize("has_won", [False, True])
def test_a_race_that_outlasts_a_drain_ends_in_one_error_event(
    upstream: Upstream, tmp_path: Path, has_won: bool
) -> None:
    async def begin(call: Call, line: Line) -> None:
        await line.start_stream()
        if has_won:
            await line.event(chunk({"role": "assistant", "content": "Hel"}))
        await line.until_closed()

    config = provider(upstream.base_url, *MODELS)
    config["models"] = {"auto": {"targets": ["up/a", "up/b"], "policy": "race"}}
    config["server"] |= {"drain_s": 0.5, "first_payload_s": 0.1}
    upstream.scripts.update(a=begin, b=hang)
    body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    with serving(tmp_path, config) as tollway:
        with httpx2.stream(
            "POST", f"{tollway.url}/v1/chat/completions", json=body, timeout=30
        ) as reply:
            parts = reply.iter_text()
            text = next(parts)  # a payload, or a comment while there is none
            tollway.stop()
            text += "".join(parts)
        last = events(text)[-1]
        assert last["error"]["code"] == "server_stopping"
        assert text.count('"error"') == 1 and "[DONE]" not in text
        outcomes = {row["outcome"] for row in tollway.rows(1)}
        assert outcomes <= {"client_gone", "cancelled", "not_dispatched"}


def test_two_that_fail_do_not_both_go_to_the_same_fallback(
    upstream: Upstream, tmp_path: Path
) -> None:
    upstream.scripts["a"] = upstream.scripts["b"] = fail
    config = provider(upstream.base_url, *MODELS)
    config["models"] = {
        "pair": {
            "targets": ["up/a", "up/b"],
            "policy": "race",
            "fallbacks": {"overloaded": ["up/c"]},
        }
    }
    with serving(tmp_path, config) as tollway:
        assert tollway.chat("pair").headers["x-tollway-model"] == "up/c"
        assert sorted(row["target"] for row in tollway.rows()) == ["up/a", "up/b", "up/c"]


def test_the_models_of_a_request_do_not_race(upstream: Upstream, tmp_path: Path) -> None:
    """They are tried where none of the model's own targets answers."""
    config = provider(upstream.base_url, *MODELS)
    config["models"] = {"one": {"targets": ["up/a"], "policy": "race"}}
    with serving(tmp_path, config) as tollway:
        reply = tollway.chat("one", models=["up/b", "up/c"])
        assert rows_of(tollway, reply.headers["x-request-id"], 1)[0]["target"] == "up/a"
        upstream.scripts["a"] = upstream.scripts["b"] = fail
        for streams in (False, True):
            reply = tollway.chat("one", models=["up/b", "up/c"], stream=streams)
            rows = rows_of(tollway, reply.headers["x-request-id"], 3)
            assert [row["target"] for row in rows] == ["up/a", "up/b", "up/c"]
            assert rows[-1]["outcome"] == "ok"
