"""Providers that fall silent in the middle of an answer: each dialect has its word for that."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.ledger.audit import audit
from tests.e2e.tollway import Tollway, provider, serving
from tests.e2e.upstream import Call, Line, Upstream, chunk

ASKED = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"prompt": "x"},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9},
    "/v1/responses": {"input": "x"},
}
ENDS = {
    "/v1/chat/completions": "[DONE]",
    "/v1/completions": "[DONE]",
    "/v1/messages": "message_stop",
    "/v1/responses": "response.completed",
}
PAUSE_S = 0.05


@pytest.fixture(scope="module")
def impatient(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tollway]:
    deadlines = {"idle_s": 1.0, "silent_s": 0.5}
    config = provider(upstream.base_url, "m1", deadlines=deadlines)
    with serving(tmp_path_factory.mktemp("tollway"), config) as running:
        yield running


async def _nothing(line: Line) -> None:
    await line.until_closed()


async def _comments(line: Line) -> None:
    while True:
        await line.chunk(b": PROCESSING\n\n")
        await asyncio.sleep(PAUSE_S)


async def _empty_deltas(line: Line) -> None:
    while True:
        await line.event(chunk({"content": ""}))
        await asyncio.sleep(PAUSE_S)


async def _drops_of_an_event(line: Line) -> None:
    await line.chunk(b"data: ")
    while True:
        await line.chunk(b" ")
        await asyncio.sleep(PAUSE_S)


@pytest.mark.parametrize("fall_silent", [_nothing, _comments, _empty_deltas, _drops_of_an_event])
@pytest.mark.parametrize("path", ASKED)
def test_a_silent_provider_is_told_of_in_the_stream(
    impatient: Tollway, upstream: Upstream, path: str, fall_silent: Any
) -> None:
    async def script(call: Call, line: Line) -> None:
        await line.start_stream()
        if path == "/v1/completions":  # which goes on as it is
            await line.event(chunk(choices=[{"index": 0, "text": "Hel"}]))
        else:
            await line.event(chunk({"role": "assistant", "content": "Hel"}))
        await fall_silent(line)

    upstream.scripts["m1"] = script
    before = len(impatient.rows())
    reply = impatient.post(path, {"model": "up/m1", "stream": True, **ASKED[path]})
    assert reply.status_code == 200
    assert "Hel" in reply.text
    assert ENDS[path] not in reply.text
    last = reply.text.rstrip().splitlines()[-1]
    assert "did not answer in time" in json.dumps(json.loads(last.removeprefix("data: ")))
    [row] = impatient.rows(before + 1)[before:]
    assert (row["outcome"], row["estimated"]) == ("broken", 1)
    assert row["cost_nanousd"] > 0
    assert audit(impatient.data / "ledger.db") == []
    assert upstream.calls[0].closed.wait(10)


def test_comments_alone_before_the_first_word_lead_to_the_next_target(
    upstream: Upstream, tmp_path: Path
) -> None:
    async def script(call: Call, line: Line) -> None:
        await line.start_stream()
        await _comments(line)

    upstream.scripts["m1"] = script
    config = provider(upstream.base_url, "m1", "m2", deadlines={"silent_s": 0.3})
    with serving(tmp_path, config) as tollway:
        reply = tollway.chat("auto", stream=True)
        assert "Hello" in reply.text
        assert reply.text.endswith("data: [DONE]\n\n")
        assert [row["outcome"] for row in tollway.rows(2)] == ["timeout", "ok"]


def test_a_slow_provider_that_says_something_is_not_silent(
    impatient: Tollway, upstream: Upstream
) -> None:
    async def script(call: Call, line: Line) -> None:
        await line.start_stream()
        for _ in range(6):
            await line.chunk(b": PROCESSING\n\n")
            await asyncio.sleep(0.15)
            await line.event(chunk({"content": "x"}))
        await line.event(chunk({}, "stop"))
        await line.end_stream()

    upstream.scripts["m1"] = script
    reply = impatient.chat("up/m1", stream=True)
    assert reply.text.endswith("data: [DONE]\n\n")
