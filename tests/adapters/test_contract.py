"""What every adapter promises, whatever its provider speaks (`adapters/base.py`)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from adapters import base, registry
from adapters.base import Adapter, AdapterError, Answer, Call, Deadlines
from tests.adapters.contract import CALL, MODEL, STAGES, TEXT, WITHOUT_TOOLS, Scene

T = TypeVar("T")

BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell me"}],
    "stream_options": {"include_usage": True},
}

every_adapter = pytest.mark.parametrize(
    "name", [name for name in registry.BUILT_IN if "chat" in registry.speaks(name)]
)
every_embedder = pytest.mark.parametrize(
    "name", [name for name in registry.BUILT_IN if "embeddings" in registry.speaks(name, MODEL)]
)
either_kind = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def call(*, stream: bool, **deadlines: float) -> Call:
    return Call(
        endpoint="chat",
        model=MODEL,
        body=json.dumps(BODY | {"stream": stream}).encode(),
        stream=stream,
        deadlines=Deadlines(**deadlines),
    )


def on_stage(name: str, scene: Scene, play: Callable[[Adapter], Awaitable[T]]) -> T:
    """Run a scene with an adapter, and close it behind."""

    async def run(adapter: Adapter) -> T:
        try:
            async with asyncio.timeout(10):
                return await play(adapter)
        finally:
            await adapter.aclose()

    with STAGES[name](scene) as adapter:
        return asyncio.run(run(adapter))


async def chunks_of(answer: Answer) -> list[dict[str, Any]]:
    """Every payload of a stream to its proper end."""
    found = []
    while payloads := await answer.payloads():
        assert all(payloads), "an empty payload"
        found += [json.loads(payload) for payload in payloads]
    return found


def failure_of(name: str, scene: Scene, asked: Call) -> AdapterError:
    """The failure of a call, before its answer or within it."""

    async def play(adapter: Adapter) -> AdapterError:
        with pytest.raises(AdapterError) as caught:
            async with adapter.open(asked) as answer:
                await (chunks_of(answer) if asked.stream else answer.body())
        return caught.value

    return on_stage(name, scene, play)


def test_every_registered_adapter_has_a_stage() -> None:
    assert STAGES.keys() == registry.BUILT_IN.keys()


@every_adapter
def test_a_stream_says_its_text_and_ends(name: str) -> None:
    async def play(adapter: Adapter) -> list[dict[str, Any]]:
        async with adapter.open(call(stream=True)) as answer:
            assert all(header == header.lower() for header in answer.headers)
            return await chunks_of(answer)

    chunks = on_stage(name, "text", play)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(c["delta"].get("content") or "" for c in choices) == TEXT
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == ["stop"]
    assert chunks[-1]["usage"]["completion_tokens"] == 5


@every_adapter
def test_a_whole_answer_says_the_same(name: str) -> None:
    async def play(adapter: Adapter) -> dict[str, Any]:
        async with adapter.open(call(stream=False)) as answer:
            body: dict[str, Any] = json.loads(await answer.body())
            return body

    body = on_stage(name, "text", play)
    assert body["choices"][0]["message"]["content"] == TEXT
    assert body["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize(
    "name", [n for n in STAGES if "chat" in registry.speaks(n) and n not in WITHOUT_TOOLS]
)
def test_tool_calls_come_in_both_kinds_of_answer(name: str) -> None:
    async def stream(adapter: Adapter) -> list[dict[str, Any]]:
        async with adapter.open(call(stream=True)) as answer:
            return [c for chunk in await chunks_of(answer) for c in chunk["choices"]]

    async def whole(adapter: Adapter) -> dict[str, Any]:
        async with adapter.open(call(stream=False)) as answer:
            choice: dict[str, Any] = json.loads(await answer.body())["choices"][0]
            return choice

    choices = on_stage(name, "tools", stream)
    entries = [e for c in choices for e in c["delta"].get("tool_calls", ())]
    assert entries[0]["function"]["name"] == CALL["name"]
    arguments = "".join(entry["function"].get("arguments", "") for entry in entries)
    assert json.loads(arguments) == CALL["arguments"]
    assert choices[-1]["finish_reason"] == "tool_calls"

    choice = on_stage(name, "tools", whole)
    function = choice["message"]["tool_calls"][0]["function"]
    assert function["name"] == CALL["name"]
    assert json.loads(function["arguments"]) == CALL["arguments"]
    assert choice["finish_reason"] == "tool_calls"


@every_embedder
def test_embeddings_have_a_vector_for_each_input(name: str) -> None:
    body = json.dumps({"model": MODEL, "input": ["a", "b"]}).encode()
    asked = Call(endpoint="embeddings", model=MODEL, body=body, stream=False, deadlines=Deadlines())

    async def play(adapter: Adapter) -> dict[str, Any]:
        async with adapter.open(asked) as answer:
            answered: dict[str, Any] = json.loads(await answer.body())
            return answered

    answered = on_stage(name, "embeddings", play)
    assert [item["index"] for item in answered["data"]] == [0, 1]
    assert answered["usage"]["prompt_tokens"] == 2


@pytest.mark.parametrize(
    ("scene", "kind", "status"),
    [
        ("status 400", base.BadRequest, 400),
        ("status 401", base.UpstreamAuth, 401),
        ("status 404", base.ModelNotFound, 404),
        ("status 429", base.RateLimited, 429),
        ("status 500", base.Overloaded, 500),
        ("too long", base.ContextExceeded, 400),
    ],
)
@either_kind
@every_adapter
def test_an_error_status_is_raised_as_its_family(
    name: str, stream: bool, scene: Scene, kind: type[base.UpstreamError], status: int
) -> None:
    failure = failure_of(name, scene, call(stream=stream))
    assert type(failure) is kind
    assert failure.status == status
    assert failure.message
    assert failure.dispatched
    expected = {"retry-after": "7"} if status == 429 else {}
    assert failure.headers == expected


@either_kind
@every_adapter
def test_a_refused_connection_dispatched_nothing(name: str, stream: bool) -> None:
    failure = failure_of(name, "refused connection", call(stream=stream))
    assert type(failure) is base.ConnectFailed
    assert not failure.dispatched


@every_adapter
def test_a_cut_stream_says_what_came_and_does_not_end(name: str) -> None:
    came = []

    async def play(adapter: Adapter) -> None:
        async with adapter.open(call(stream=True)) as answer:
            while payloads := await answer.payloads():
                came.extend(payloads)

    with pytest.raises(base.ConnectionLost):
        on_stage(name, "cut", play)
    assert any(b'"content":"Once"' in payload.replace(b" ", b"") for payload in came)


@every_adapter
def test_a_silent_stream_times_out(name: str) -> None:
    failure = failure_of(name, "stall", call(stream=True, idle_s=0.1))
    assert isinstance(failure, base.UpstreamTimeout)
    assert failure.phase == "idle"


@every_adapter
def test_an_error_in_the_stream_arrives_as_a_payload(name: str) -> None:
    async def play(adapter: Adapter) -> list[bytes]:
        async with adapter.open(call(stream=True)) as answer:
            seen: list[bytes] = []
            while not any(b'"error"' in payload for payload in seen):
                seen += await answer.payloads()
            return seen

    last = json.loads(on_stage(name, "error in the stream", play)[-1])
    assert last["error"]["message"] == "no"
    assert last["error"]["code"] == "c"


@every_adapter
def test_leaving_an_answer_early_does_not_wait_for_the_provider(name: str) -> None:
    async def play(adapter: Adapter) -> float:
        async with adapter.open(call(stream=True, idle_s=30)) as answer:
            await answer.payloads()
            began = time.perf_counter()
        return time.perf_counter() - began

    assert on_stage(name, "stall", play) < 2


@every_adapter
def test_cancelling_a_reader_closes_its_answer_at_once(name: str) -> None:
    async def play(adapter: Adapter) -> None:
        has_answer = asyncio.Event()

        async def read() -> None:
            async with adapter.open(call(stream=True, idle_s=30)) as answer:
                has_answer.set()
                await chunks_of(answer)

        reader = asyncio.create_task(read())
        await has_answer.wait()
        reader.cancel()
        async with asyncio.timeout(2):
            with pytest.raises(asyncio.CancelledError):
                await reader

    on_stage(name, "stall", play)


@every_adapter
def test_an_adapter_answers_many_calls_at_once(name: str) -> None:
    async def play(adapter: Adapter) -> list[int]:
        async def count() -> int:
            async with adapter.open(call(stream=True)) as answer:
                return len(await chunks_of(answer))

        return await asyncio.gather(*(count() for _ in range(8)))

    assert len(set(on_stage(name, "text", play))) == 1


@pytest.mark.parametrize("name", STAGES)
def test_an_adapter_takes_the_calls_that_the_registry_says(name: str) -> None:
    async def play(adapter: Adapter) -> None:
        assert set(adapter.speaks) == set(registry.speaks(name))

    on_stage(name, "text", play)
