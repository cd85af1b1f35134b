"""The events of OpenAI's Responses API, up to the last one, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from adapters.base import Adapter, Answer, Call, ConnectionLost, Deadlines
from adapters.registry import BUILT_IN, Settings
from tests.adapters.contract import EVENTS
from tests.adapters.servers import Peer, Request, ScriptedServer
from tests.adapters.wire import END, piece

CALL = Call(
    endpoint="responses", model="m", body=b'{"model":"m"}', stream=True, deadlines=Deadlines()
)


def event(kind: str, **members: object) -> bytes:
    payload = json.dumps({"type": kind, **members}).encode()
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), payload)


DELTA = event("response.output_text.delta", delta="Hi")


def serving(*events: bytes, seen: list[Request]) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        seen.append(peer.read_request())
        peer.send(EVENTS)
        for one in events:
            peer.send(piece(one))
        peer.send(END)

    return answer


def kinds_of(name: str, *events: bytes, seen: list[Request], version: str = "") -> list[str]:
    """The kinds of the events that an adapter reads."""

    async def read(answer: Answer) -> list[str]:
        found: list[str] = []
        while payloads := await answer.payloads():
            found += [json.loads(payload)["type"] for payload in payloads]
        return found

    async def run(adapter: Adapter) -> list[str]:
        try:
            async with asyncio.timeout(10), adapter.open(CALL) as answer:
                return await read(answer)
        finally:
            await adapter.aclose()

    with ScriptedServer(serving(*events, seen=seen)) as server:
        settings = Settings(name="p", base_url=server.url, api_version=version or None)
        return asyncio.run(run(BUILT_IN[name].make(settings)))


@pytest.mark.parametrize(
    "end",
    [
        event("response.completed", response={"status": "completed"}),
        event("response.incomplete", response={}),
        event("response.failed", response={"error": {"message": "\ud83d"}}),
        event("error", message="x"),
    ],
)
def test_the_last_event_is_the_end(end: bytes) -> None:
    done = b"data: [DONE]\n\n"
    kinds = kinds_of("openai", DELTA, end, DELTA, done, seen=[])
    assert kinds[0] == "response.output_text.delta"
    assert len(kinds) == 2


def test_a_stream_without_its_last_event_is_lost() -> None:
    for tail in ((), (b"data: [DONE]\n\n",)):
        with pytest.raises(ConnectionLost):
            kinds_of("openai", DELTA, *tail, seen=[])


@pytest.mark.parametrize(
    ("name", "version", "path"),
    [
        ("openai", "", "/responses"),
        ("azure", "", "/openai/v1/responses"),
        ("azure", "2025-04-01-preview", "/openai/responses?api-version=2025-04-01-preview"),
    ],
)
def test_where_they_are(name: str, version: str, path: str) -> None:
    seen: list[Request] = []
    kinds_of(name, event("response.completed"), seen=seen, version=version)
    assert seen[0].line == f"POST {path} HTTP/1.1"


def test_a_server_of_which_nothing_is_known_has_none() -> None:
    assert "responses" not in BUILT_IN["openai_compatible"].speaks
    assert {"responses", "completions"} <= BUILT_IN["openai"].speaks
