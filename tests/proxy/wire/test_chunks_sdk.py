"""Repaired streams, read by OpenAI's own SDK from a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from openai.types.chat import ParsedChatCompletion

from tests.adapters.servers import Peer, ScriptedServer
from tests.proxy.wire.streams import (
    ROLE,
    STOP,
    USAGE,
    USAGE_CHUNK,
    chunk,
    relayed,
    say,
)
from tests.proxy.wire.test_chunks import CALLS, USAGES


@contextmanager
def client_reading(body: bytes) -> Iterator[openai.OpenAI]:
    """A client of a server that answers everything with this event stream."""

    def answer(peer: Peer) -> None:
        peer.read_request()
        peer.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)
        )

    with (
        ScriptedServer(answer) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-x", max_retries=0) as client,
    ):
        yield client


def read(upstream: list[Any], *, wants_usage: bool = False) -> ParsedChatCompletion[None]:
    """What the SDK's own accumulation makes of a repaired stream."""
    with (
        client_reading(relayed(upstream, wants_usage=wants_usage)) as client,
        client.chat.completions.stream(
            model="m", messages=[{"role": "user", "content": "Hello"}]
        ) as stream,
    ):
        for _ in stream:
            pass
        return stream.get_final_completion()


TOLD_BY_ID = {
    name: row
    for name, row in CALLS.items()
    if row[1][0]["kind"] == "function" and row[1][0]["name"]
}


@pytest.mark.parametrize("row", TOLD_BY_ID.values(), ids=TOLD_BY_ID.keys())
def test_tool_calls_of_every_upstream_are_put_together(row: tuple[list[Any], list[Any]]) -> None:
    upstream, expected = row
    choice = read([ROLE, *upstream, chunk({}, "stop")]).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert [
        {"id": c.id, "kind": c.type, "name": c.function.name, "arguments": c.function.arguments}
        for c in choice.message.tool_calls or ()
    ] == expected


@pytest.mark.parametrize("upstream", USAGES.values(), ids=USAGES.keys())
def test_usage_of_every_upstream_is_found(upstream: list[Any]) -> None:
    completion = read(upstream, wants_usage=True)
    assert completion.usage is not None
    assert completion.usage.model_dump(include=set(USAGE)) == USAGE
    assert completion.choices[0].message.content


@pytest.mark.parametrize(
    "upstream",
    [
        [chunk({"role": "assistant", "content": text}) for text in "abc"] + [STOP],
        [*map(say, "abc"), chunk({}, "eos")],
        [ROLE, *(say(text, error=None) for text in "abc"), chunk(None, "STOP")],
        [{"choices": [], "id": "", "prompt_filter_results": []}, ROLE, *map(say, "abc"), STOP],
        [
            ROLE,
            *(chunk({"content": text, "tool_calls": None}, "") for text in "abc"),
            chunk({"content": None}, "stop", usage=USAGE),
            USAGE_CHUNK | {"choices": None},
        ],
    ],
)
def test_text_of_every_upstream_is_put_together(upstream: list[Any]) -> None:
    choice = read(upstream).choices[0]
    assert choice.message.content == "abc"
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"


def test_reasoning_and_several_choices_are_kept_apart() -> None:
    upstream = [
        chunk({"reasoning_content": "hm"}, index=1),
        chunk({"content": "x"}, index=0),
        chunk({"reasoning_content": "m"}, index=1),
        chunk({"content": "y"}, index=1),
        chunk({}, "stop", index=1),
        chunk({}, "length", index=0),
    ]
    with client_reading(relayed(upstream)) as client:
        sums = {0: ["", ""], 1: ["", ""]}
        for part in client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hello"}], stream=True, n=2
        ):
            for choice in part.choices:
                sums[choice.index][0] += choice.delta.content or ""
                sums[choice.index][1] += getattr(choice.delta, "reasoning_content", None) or ""
    assert sums == {0: ["x", ""], 1: ["y", "hmm"]}
