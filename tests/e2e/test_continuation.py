"""Streams that break, and another target that goes on: what clients get and what it costs.

The targets: `m1` begins and breaks; `m2` and `m3` go on by a prefilled answer; `plain` cannot.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from proxy.ledger.audit import audit
from tests.e2e.tollway import Tollway, events, provider, run_cli, serving
from tests.e2e.upstream import Call, Line, Script, Upstream, chunk, usage_chunk

SAID = "It was the best of times, "


@pytest.fixture(scope="module")
def going_on(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    config = provider(upstream.base_url, "m1", "m2", "m3", "plain")
    config["targets"][1]["prefill"] = "prefix"
    config["targets"][2]["prefill"] = "continue"
    both = ["up/m1", "up/m2", "up/m3"]
    config["models"] = {
        "novel": {"targets": both, "continuation": True},
        "short": {"targets": ["up/m1", "up/plain", "up/m2"], "continuation": True},
        "alone": {"targets": ["up/m1", "up/plain"], "continuation": True},
        "fragile": {"targets": both},
        "prompt": {"targets": both, "continuation": True, "deadlines": {"first_token_s": 0.5}},
    }
    config["circuit"] = {"failures": 10**9, "least_requests": 10**9}  # they break all the time
    with serving(tmp_path_factory.mktemp("tollway"), config) as running:
        yield running


def saying(*deltas: dict[str, Any], breaks: bool = True, usage: bool = True) -> Script:
    async def script(call: Call, line: Line) -> None:
        await line.start_stream()
        for delta in deltas:
            await line.event(chunk(delta))
        if breaks:
            await asyncio.sleep(0.05)  # a reset overtakes what is still unread
            line.reset()
            return
        await line.event(chunk({}, "stop"))
        if usage:
            await line.event(usage_chunk())
        await line.end_stream()

    return script


def text_of(reply: str) -> str:
    chunks = [event for event in events(reply) if event != "[DONE]" and "error" not in event]
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])


def test_the_next_target_goes_on_where_the_first_one_broke(
    going_on: Tollway, upstream: Upstream
) -> None:
    upstream.scripts["m1"] = saying({"role": "assistant", "content": "It was the best "},
                                    {"content": "of times, "})  # fmt: skip
    upstream.scripts["m2"] = saying(
        {"role": "assistant", "content": " it was "}, {"content": "the worst"}, breaks=False
    )
    before = len(going_on.rows())
    reply = going_on.chat(
        "novel", stream=True, max_tokens=500, stream_options={"include_usage": True}
    )
    assert text_of(reply.text) == "It was the best of times, it was the worst"
    assert reply.text.endswith("data: [DONE]\n\n")
    said = events(reply.text)[:-1]
    assert len({event["id"] for event in said}) == 1
    assert sum("role" in c["delta"] for event in said for c in event["choices"]) == 1
    [note] = [event["tollway"] for event in said if "tollway" in event]
    assert note == {"continued": {"from": "up/m1", "by": "up/m2"}}

    first, second = upstream.calls
    assert second.body["messages"][:-1] == first.body["messages"]
    assert second.body["messages"][-1] == {
        "role": "assistant",
        "content": SAID.rstrip(),
        "prefix": True,
    }
    assert 450 < second.body["max_tokens"] < 500

    broken, ok = going_on.rows(before + 2)[before:]
    assert (broken["target"], broken["outcome"], broken["estimated"]) == ("up/m1", "broken", 1)
    assert (ok["target"], ok["outcome"], ok["number"]) == ("up/m2", "ok", 2)
    assert ok["route_reason"] == "continuation"
    assert broken["request_id"] == ok["request_id"]
    assert broken["cost_nanousd"] > 0
    assert ok["cost_nanousd"] == 11 * 1_000 + 7 * 2_000
    usage = said[-1]["usage"]
    assert usage["prompt_tokens"] == 11 + broken["input_tokens"]
    assert usage["completion_tokens"] == 7 + broken["output_tokens"]
    assert audit(going_on.data / "ledger.db") == []


def test_a_second_break_is_gone_on_with_too(going_on: Tollway, upstream: Upstream) -> None:
    upstream.scripts["m1"] = saying({"content": "One, "})
    upstream.scripts["m2"] = saying({"content": "two, "})
    upstream.scripts["m3"] = saying({"content": "three."}, breaks=False)
    reply = going_on.chat("novel", stream=True)
    assert text_of(reply.text) == "One, two, three."
    assert reply.text.endswith("data: [DONE]\n\n")
    last = upstream.calls[-1].body
    assert last["messages"][-1] == {"role": "assistant", "content": "One, two,"}
    assert last["continue_final_message"] is True
    assert last["add_generation_prompt"] is False
    reasons = [row["route_reason"] for row in going_on.rows()[-3:]]
    assert reasons[1:] == ["continuation", "continuation"]


def test_the_deadline_for_a_first_token_is_over_with_the_first_one(
    going_on: Tollway, upstream: Upstream
) -> None:
    async def breaks_later(call: Call, line: Line) -> None:
        await line.start_stream()
        await line.event(chunk({"content": "One, "}))
        await asyncio.sleep(0.6)
        line.reset()

    upstream.scripts["m1"] = breaks_later
    upstream.scripts["m2"] = saying({"content": "two."}, breaks=False)
    for asked in ({"model": "prompt"}, {"headers": {"x-stainless-read-timeout": "0.5"}}):
        reply = going_on.chat(**{"model": "novel", "stream": True, **asked})
        assert text_of(reply.text) == "One, two."
        assert reply.text.endswith("data: [DONE]\n\n")


def test_the_official_client_reads_one_answer(going_on: Tollway, upstream: Upstream) -> None:
    upstream.scripts["m1"] = saying({"role": "assistant", "content": SAID})
    upstream.scripts["m2"] = saying({"content": SAID + "it rained."}, breaks=False)
    with (
        openai.OpenAI(base_url=f"{going_on.url}/v1", api_key="none", max_retries=0) as client,
        client.chat.completions.stream(
            model="novel", messages=[{"role": "user", "content": "x"}]
        ) as stream,
    ):
        stream.until_done()
        answer = stream.get_final_completion()
    assert answer.choices[0].message.content == SAID + "it rained."
    assert answer.choices[0].finish_reason == "stop"


def test_a_target_that_fails_before_a_word_is_passed_over(
    going_on: Tollway, upstream: Upstream
) -> None:
    async def refuse(call: Call, line: Line) -> None:
        await line.json({"error": {"message": "no"}}, "500 No")

    upstream.scripts |= {"m1": saying({"content": "One, "}), "m2": refuse}
    upstream.scripts["m3"] = saying({"content": "two."}, breaks=False)
    assert text_of(going_on.chat("novel", stream=True).text) == "One, two."
    outcomes = [row["outcome"] for row in going_on.rows()[-3:]]
    assert outcomes == ["broken", "upstream_error", "ok"]


def test_who_cannot_go_on_is_not_asked(going_on: Tollway, upstream: Upstream) -> None:
    upstream.scripts["m1"] = saying({"content": "One, "})
    upstream.scripts["m2"] = saying({"content": "two."}, breaks=False)
    assert text_of(going_on.chat("short", stream=True).text) == "One, two."
    assert [call.model for call in upstream.calls] == ["m1", "m2"]


CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}


@pytest.mark.parametrize(
    ("model", "deltas", "fields"),
    [
        ("fragile", [{"content": "One"}], {}),  # not asked for
        ("up/m1", [{"content": "One"}], {}),
        ("alone", [{"content": "One"}], {}),  # nobody can
        ("novel", [{"content": "One"}, {"tool_calls": [CALL]}], {}),
        ("novel", [{"reasoning_content": "One"}], {}),
        ("novel", [{"content": "One"}], {"n": 2}),
        ("novel", [{"content": "One"}], {"logprobs": True}),
        ("novel", [{"content": "{"}], {"response_format": {"type": "json_object"}}),
        ("novel", [{"content": "One"}], {"reasoning_effort": "low"}),
    ],
)
def test_what_is_not_gone_on_with_ends_in_an_error(
    going_on: Tollway, upstream: Upstream, model: str, deltas: list[Any], fields: dict[str, Any]
) -> None:
    upstream.scripts["m1"] = saying(*deltas)
    before = len(going_on.rows())
    reply = going_on.chat(model, stream=True, **fields)
    assert events(reply.text)[-1]["error"]["code"] == "upstream_error"
    assert "[DONE]" not in reply.text
    assert len(upstream.calls) == 1
    [row] = going_on.rows(before + 1)[before:]
    assert row["outcome"] == "broken"


def test_other_dialects_are_not_gone_on_with(going_on: Tollway, upstream: Upstream) -> None:
    upstream.scripts["m1"] = saying({"content": "One"})
    body = {"model": "novel", "messages": [{"role": "user", "content": "x"}], "max_tokens": 9}
    reply = going_on.post("/v1/messages", {**body, "stream": True})
    assert "event: error" in reply.text
    assert len(upstream.calls) == 1


def test_when_all_have_failed_the_first_failure_is_told(
    going_on: Tollway, upstream: Upstream
) -> None:
    async def refuse(call: Call, line: Line) -> None:
        await line.json({"error": {"message": "too long", "code": "x"}}, "400 No")

    upstream.scripts |= {"m1": saying({"content": "One"}), "m2": refuse, "m3": refuse}
    reply = going_on.chat("novel", stream=True)
    assert "up/m1 broke its answer off" in events(reply.text)[-1]["error"]["message"]
    assert reply.text.count('"error"') == 1


def test_without_money_for_another_the_stream_ends_in_an_error(
    upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    upstream.scripts["m1"] = saying({"content": "One"})
    upstream.scripts["m2"] = saying({"content": "two"}, breaks=False)
    config = provider(upstream.base_url, "m1", "m2")
    config["targets"][1] |= {"prefill": "plain", "price": {"input": 1_000_000, "output": 1}}
    config["models"]["auto"]["continuation"] = True
    config["budgets"] = [{"limit_usd": 1}]
    with serving(tmp_path_factory.mktemp("tollway"), config) as tollway:
        reply = tollway.chat("auto", stream=True, max_tokens=9)
        assert text_of(reply.text) == "One"
        assert "up/m1 broke its answer off" in events(reply.text)[-1]["error"]["message"]
        assert len(upstream.calls) == 1
        [row] = tollway.rows(1)
        assert row["outcome"] == "broken"
        assert audit(tollway.data / "ledger.db") == []


def test_a_client_that_leaves_while_another_goes_on_is_billed_for_both(
    going_on: Tollway, upstream: Upstream
) -> None:
    async def hold(call: Call, line: Line) -> None:
        await line.start_stream()
        await line.event(chunk({"content": "two"}))
        await line.until_closed()

    upstream.scripts |= {"m1": saying({"content": "One, "}), "m2": hold}
    before = len(going_on.rows())
    with (
        openai.OpenAI(base_url=f"{going_on.url}/v1", api_key="none", max_retries=0) as client,
        client.chat.completions.create(
            model="novel", messages=[{"role": "user", "content": "x"}], stream=True
        ) as stream,
    ):
        for event in stream:
            if event.choices[0].delta.content == "two":
                break
    assert upstream.wait_for_calls(2)[1].closed.wait(10)
    outcomes = [row["outcome"] for row in going_on.rows(before + 2)[before:]]
    assert outcomes == ["broken", "client_gone"]
    assert json.loads(upstream.calls[1].raw)["messages"][-1]["content"] == "One,"


def test_a_continuation_that_nobody_can_make_is_told(tmp_path: Path) -> None:
    config = provider("http://127.0.0.1:9/v1", "m1", "m2")
    config["models"]["auto"]["continuation"] = True
    for prefill, is_told in ((None, True), ("none", True), ("plain", False)):
        config["targets"][1]["prefill"] = prefill
        (tmp_path / "router.yaml").write_text(yaml.safe_dump(config))
        said = run_cli("check", cwd=tmp_path)
        assert said.returncode == 0, said.stderr
        assert ("models.auto.continuation" in said.stdout) is is_told
