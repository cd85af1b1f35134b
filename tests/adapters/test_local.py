"""`local` leases its model for as long as the answer is open, whatever becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from msgspec import structs

from adapters.base import (
    AdapterError,
    BadRequest,
    Call,
    ConnectFailed,
    Deadlines,
    Unavailable,
    Unsupported,
)
from adapters.leases import Served
from adapters.local import Local
from tests.adapters.servers import Peer, ScriptedServer
from tests.adapters.wire import END, frame, framed, piece, stream_head, whole

MESSAGES = [{"role": "user", "content": "Hello"}]


class Landlord:
    """A lessor that remembers who has what."""

    def __init__(self, *urls: str, backend: str = "llama_server") -> None:
        self._backend = backend
        self._urls = list(urls)
        self.leased: list[str] = []
        self.given_back = 0
        self.told: list[tuple[str, int, float]] = []

    def spoke(self, model: str, tokens: int, seconds: float) -> None:
        self.told.append((model, tokens, seconds))

    @contextlib.asynccontextmanager
    async def lease(self, model: str, *, waits: bool) -> AsyncIterator[Served]:
        if not self._urls:
            await asyncio.Event().wait()
        self.leased.append(model)
        try:
            url = self._urls[0] if len(self._urls) == 1 else self._urls.pop(0)
            yield Served(url, "key-of-the-process", self._backend)
        finally:
            self.given_back += 1


def call(*, stream: bool = False, **deadlines: float) -> Call:
    return Call(
        endpoint="chat",
        model="tiny",
        body=json.dumps({"model": "tiny", "messages": MESSAGES, "stream": stream}).encode(),
        stream=stream,
        deadlines=Deadlines(**deadlines),
    )


def run(landlord: Landlord, play: Callable[[Local], Awaitable[Any]]) -> Any:
    async def within() -> Any:
        adapter = Local("local", landlord)
        try:
            async with asyncio.timeout(10):
                return await play(adapter)
        finally:
            await adapter.aclose()

    return asyncio.run(within())


def says(text: str) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        while asked := peer.read_request():
            assert asked.headers["authorization"] == "Bearer key-of-the-process"
            peer.send(whole({"said": text}))

    return answer


async def answered(adapter: Local) -> str:
    async with adapter.open(call()) as answer:
        said: str = json.loads(await answer.body())["said"]
        return said


def test_what_our_children_do_not_read_is_refused_or_dropped() -> None:
    def asking(**more: Any) -> Call:
        plain = call()
        body = {**json.loads(plain.body), "seed": 1, "user": "u", "prediction": {}, "n": 1}
        return structs.replace(plain, body=json.dumps(body).encode(), **more)

    async def play(adapter: Local) -> Sequence[str]:
        with pytest.raises(Unsupported, match="prediction"):
            async with adapter.open(asking()):
                pass
        async with adapter.open(asking(drop_params=True)) as answer:
            await answer.body()
            return answer.dropped

    def hear(peer: Peer) -> None:
        while asked := peer.read_request():
            bodies.append(json.loads(asked.body))
            peer.send(whole({}))

    bodies: list[Any] = []
    with ScriptedServer(hear) as server:
        landlord = Landlord(server.url, backend="llama_cpp")
        assert run(landlord, play) == ("prediction",)
        assert landlord.given_back == 2
    assert bodies == [{"model": "tiny", "messages": MESSAGES, "stream": False, "seed": 1, "n": 1}]


def test_the_lease_lasts_as_long_as_the_answer() -> None:
    async def play(adapter: Local) -> None:
        async with adapter.open(call()) as answer:
            assert landlord.leased == ["local/tiny"]
            await answer.body()
            assert landlord.given_back == 0
        assert landlord.given_back == 1

    with ScriptedServer(says("hello")) as server:
        landlord = Landlord(server.url)
        run(landlord, play)


def test_each_call_goes_where_its_model_is_now() -> None:
    async def play(adapter: Local) -> list[str]:
        return [await answered(adapter) for _ in range(3)]

    with ScriptedServer(says("one")) as one, ScriptedServer(says("two")) as two:
        assert run(Landlord(one.url, two.url), play) == ["one", "two", "two"]
        assert two.connections == 1  # kept for the third


def test_how_fast_an_answer_was_is_told_before_its_lease_ends() -> None:
    async def play(adapter: Local) -> None:
        async with adapter.open(call()) as answer:
            await answer.body()
        async with adapter.open(call(stream=True)) as answer:
            while await answer.payloads():
                first.set()
        async with adapter.open(call(stream=True)) as answer:
            await answer.payloads()

    def speak(peer: Peer) -> None:
        usage = {"usage": {"prompt_tokens": 2, "completion_tokens": 7}}
        peer.read_request()
        peer.send(whole(usage))
        peer.read_request()
        peer.send(stream_head("text/event-stream"))
        peer.send(piece(framed({"choices": [{"index": 0, "delta": {"content": "a"}}]})))
        assert first.wait(10)
        peer.send(piece(framed({"choices": [], **usage}) + frame(b"[DONE]")) + END)
        peer.read_request()
        peer.send(stream_head("text/event-stream") + piece(framed({"choices": []})))
        assert peer.is_gone()

    first = threading.Event()
    with ScriptedServer(speak) as server:
        landlord = Landlord(server.url)
        run(landlord, play)
    body, stream, left = landlord.told
    assert body[:2] == stream[:2] == ("local/tiny", 7)
    assert body[2] > 0 < stream[2]
    assert left == ("local/tiny", 0, 0.0)


@pytest.mark.parametrize("status", [400, 503])
def test_a_refused_call_gives_its_lease_back(status: int) -> None:
    async def play(adapter: Local) -> None:
        with pytest.raises(AdapterError) as caught:
            await answered(adapter)
        assert isinstance(caught.value, BadRequest) == (status == 400)

    def refuse(peer: Peer) -> None:
        peer.read_request()
        peer.send(whole({"error": {"message": "no"}}, status=status))

    with ScriptedServer(refuse) as server:
        landlord = Landlord(server.url)
        run(landlord, play)
    assert landlord.given_back == 1


def test_a_process_that_is_gone_gives_its_lease_back() -> None:
    async def play(adapter: Local) -> None:
        with pytest.raises(ConnectFailed):
            await answered(adapter)

    with ScriptedServer(lambda peer: None) as server:
        landlord = Landlord(server.url)
    run(landlord, play)
    assert landlord.given_back == len(landlord.leased) > 1


def test_a_process_that_ended_a_moment_ago_is_not_asked_for_good() -> None:
    with ScriptedServer(lambda peer: None) as gone:
        pass
    with ScriptedServer(says("here again")) as server:
        landlord = Landlord(gone.url, gone.url, server.url)
        assert run(landlord, answered) == "here again"
    assert landlord.given_back == len(landlord.leased) == 3


def test_a_caller_that_leaves_gives_its_lease_back() -> None:
    async def play(adapter: Local) -> None:
        task = asyncio.create_task(answered(adapter))
        await asyncio.to_thread(is_asked.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    is_asked = threading.Event()

    def hear_out(peer: Peer) -> None:
        peer.read_request()
        is_asked.set()
        assert peer.is_gone()

    with ScriptedServer(hear_out) as server:
        landlord = Landlord(server.url)
        run(landlord, play)
    assert landlord.given_back == 1


def test_a_model_that_is_not_there_in_time_is_unavailable() -> None:
    async def play(adapter: Local) -> None:
        with pytest.raises(Unavailable, match=r"'tiny' was not loaded and free within 0\.05 s"):
            async with adapter.open(call(first_byte_s=0.05)):
                pass

    run(Landlord(), play)
