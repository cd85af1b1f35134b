"""An OpenAI client at an Anthropic provider: what it cost, what could not be said, who is next."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from proxy.ledger.audit import audit
from tests.e2e.tollway import Tollway, serving
from tests.e2e.upstream import Call, Line, Upstream, completion

# The price of Claude Sonnet 4.5, of whose counts and cost there is an example in the wild.
PRICE = {"input": 3, "output": 15, "cached_input": 0.3, "cache_write": 3.75, "cache_write_1h": 6}
USAGE = {
    "input_tokens": 10,
    "cache_read_input_tokens": 100,
    "cache_creation_input_tokens": 30,
    "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
    "output_tokens": 7,
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "Hello there"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": USAGE,
}
EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " there"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": USAGE},
    {"type": "message_stop"},
]


async def claude(call: Call, line: Line) -> None:
    assert call.path == "/v1/messages"
    assert call.headers["x-api-key"] == "sk-ant-upstream"
    if not call.body["stream"]:
        await line.json(MESSAGE)
        return
    await line.start_stream()
    for event in EVENTS:
        await line.chunk(b"event: %b\n" % event["type"].encode())
        await line.event(event)
    await line.send(b"0\r\n\r\n")


@pytest.fixture
def tollway(upstream: Upstream, tmp_path: Path) -> Iterator[Tollway]:
    provider = {"base_url": upstream.base_url, "api_key": "sk-ant-upstream"}
    both = {"targets": ["claude/claude-sonnet-4-5", "plain/m1"]}
    config = {
        "providers": {
            "claude": {"adapter": "anthropic", **provider},
            "plain": {"base_url": upstream.base_url},
        },
        "targets": [
            {"target": "claude/claude-sonnet-4-5", "price": PRICE, "max_output_tokens": 64},
            {"target": "plain/m1", "price": {"input": 1, "output": 2}},
        ],
        "models": {"auto": both},
    }
    upstream.scripts["claude-sonnet-4-5"] = claude
    with serving(tmp_path, config) as running:
        yield running


def client_of(tollway: Tollway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{tollway.url}/v1", api_key="any", max_retries=0)


@pytest.mark.parametrize("stream", [False, True])
def test_caches_are_counted_and_charged_as_anthropic_bills_them(
    tollway: Tollway, stream: bool
) -> None:
    with client_of(tollway) as client:
        asked: Any = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
        if stream:
            options = {"include_usage": True}
            chunks = list(
                client.chat.completions.create(**asked, stream=True, stream_options=options)
            )
            text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            usage = chunks[-1].usage
        else:
            answer = client.chat.completions.create(**asked)
            text, usage = answer.choices[0].message.content, answer.usage
    assert text == "Hello there"
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (140, 7, 147)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 100
    (row,) = tollway.rows(1)
    assert row["cost_nanousd"] == 322_500
    assert row["cached_tokens"] == 100
    assert (row["cache_write_tokens"], row["cache_write_1h_tokens"]) == (30, 20)
    assert audit(tollway.data / "ledger.db") == []


def test_a_missing_maximum_is_the_targets_own(tollway: Tollway, upstream: Upstream) -> None:
    assert tollway.chat("claude/claude-sonnet-4-5").status_code == 200
    assert upstream.calls[-1].body["max_tokens"] == 64


def test_what_a_provider_has_no_parameter_for_is_refused_by_name(
    tollway: Tollway, upstream: Upstream
) -> None:
    reply = tollway.chat("claude/claude-sonnet-4-5", logit_bias={"5": 1})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == "logit_bias"
    assert "claude/claude-sonnet-4-5" in error["message"]
    assert upstream.calls == []
    (row,) = tollway.rows(1)
    assert (row["outcome"], row["cost_nanousd"]) == ("not_dispatched", 0)


def test_or_left_out_and_told_where_that_is_asked_for(tollway: Tollway, upstream: Upstream) -> None:
    reply = tollway.chat(
        "claude/claude-sonnet-4-5",
        logit_bias={"5": 1},
        seed=3,
        headers={"x-tollway-drop-params": "true"},
    )
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-tollway-dropped-params"] == "logit_bias, seed"
    assert not {"logit_bias", "seed"} & upstream.calls[-1].body.keys()


def test_a_parameter_of_any_name_writes_no_header_of_its_own(tollway: Tollway) -> None:
    reply = tollway.chat(
        "claude/claude-sonnet-4-5",
        headers={"x-tollway-drop-params": "true"},
        **{"a\r\nx-mine: 1\r\n\x00ö\U0001f44b": 1},
    )
    assert reply.status_code == 200, reply.text
    assert "x-mine" not in reply.headers
    told = reply.headers["x-tollway-dropped-params"]
    assert told == r"a\r\nx-mine: 1\r\n\x00\xf6\U0001f44b"


def test_a_target_that_can_be_told_is_next(tollway: Tollway, upstream: Upstream) -> None:
    async def plain(call: Call, line: Line) -> None:
        await line.json(completion())

    upstream.scripts["m1"] = plain
    reply = tollway.chat("auto", logit_bias={"5": 1})
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-tollway-model"] == "plain/m1"
    assert "x-tollway-dropped-params" not in reply.headers
    assert json.loads(upstream.calls[-1].raw)["logit_bias"] == {"5": 1}


def test_that_one_target_lacks_a_parameter_says_less_than_that_another_failed(
    tollway: Tollway, upstream: Upstream
) -> None:
    async def failing(call: Call, line: Line) -> None:
        await line.json({"error": {"message": "on fire"}}, status="500 Oh")

    upstream.scripts["m1"] = failing
    reply = tollway.chat("auto", logit_bias={"5": 1})
    assert reply.status_code == 502
    assert reply.json()["error"]["message"] == "on fire"


def test_a_providers_words_reach_the_client_and_its_key_does_not(
    tollway: Tollway, upstream: Upstream
) -> None:
    async def refusing(call: Call, line: Line) -> None:
        error = {"type": "invalid_request_error", "message": "no, sk-ant-upstream: bad image"}
        await line.json({"type": "error", "error": error}, status="400 Bad")

    upstream.scripts["claude-sonnet-4-5"] = refusing
    reply = tollway.chat("claude/claude-sonnet-4-5")
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == "no, [redacted]: bad image"
    assert "sk-ant-upstream" not in reply.text + str(reply.headers) + tollway.log()
