"""`local`: models in processes of our own, each of which serves OpenAI's dialect.

Which of them run is a lessor's business. A call leases its model first, and gives it back when its
answer is closed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from types import TracebackType

import msgspec

from adapters.base import Answer, Call, ConnectFailed, Unavailable
from adapters.children import chat, vectors
from adapters.leases import Lessor, Served
from adapters.openai_compatible import OpenAICompatible
from adapters.presets import PRESETS
from adapters.wire.fitting import Rules

_PRESETS = {"llama_server": PRESETS["llama_server"]}
# What our own children read; they refuse the rest.
_OF_OUR_OWN = replace(
    PRESETS["llama_server"],
    rules={
        "chat": Rules(knows=chat.CARRIED | {"model", "stream", "stream_options"}),
        "embeddings": Rules(knows=vectors.CARRIED),
    },
)

# A process that has just ended may be leased once more, until its parent notices.
_NOTICED_WITHIN_S = (0.05, 0.1, 0.2, 0.4, 0.8)


class Local:
    """The local models of one provider."""

    demonstration = False
    speaks = frozenset({"chat", "completions", "embeddings"})

    def __init__(self, provider: str, lessor: Lessor) -> None:
        self._provider = provider
        self._lessor = lessor
        self._servers: dict[str, _Server] = {}

    def open(self, call: Call) -> _Leased:
        """Lease the model of a call and dispatch it; see `adapters.base.Adapter`."""
        return _Leased(self, call)

    async def models(self) -> Sequence[str]:
        """None but those that are configured."""
        return ()

    async def aclose(self) -> None:
        """Close idle connections."""
        for server in self._servers.values():
            await server.aclose()

    def lease(self, call: Call) -> AbstractAsyncContextManager[Served]:
        """Where the model of a call is served."""
        return self._lessor.lease(f"{self._provider}/{call.model}", waits=call.waits)

    def spoke(self, call: Call, tokens: int, seconds: float) -> None:
        """The model of a call answered: see `Lessor.spoke`."""
        self._lessor.spoke(f"{self._provider}/{call.model}", tokens, seconds)

    async def server(self, model: str, served: Served) -> _Server:
        """What speaks to the process of a model; the connections to an earlier one are closed."""
        known = self._servers.get(model)
        if known is not None and known.served == served:
            return known
        server = self._servers[model] = _Server(served)
        if known is not None:
            await known.aclose()
        return server


class _Server(OpenAICompatible):
    """One process."""

    def __init__(self, served: Served) -> None:
        super().__init__(
            preset=_PRESETS.get(served.backend, _OF_OUR_OWN),
            base_url=f"{served.url}/v1",
            api_key=served.key,
        )
        self.served = served


class _Leased:
    """One call, from the lease of its model to the end of its answer."""

    def __init__(self, adapter: Local, call: Call) -> None:
        self._adapter = adapter
        self._call = call
        self._opened = AsyncExitStack()
        self._answer: _Timed | None = None

    async def __aenter__(self) -> Answer:
        for wait_s in _NOTICED_WITHIN_S:
            try:
                return await self._open()
            except ConnectFailed:  # nothing was sent
                await asyncio.sleep(wait_s)
        return await self._open()

    async def _open(self) -> Answer:
        call = self._call
        async with AsyncExitStack() as opening:
            served = await self._lease(opening)
            server = await self._adapter.server(call.model, served)
            began_at = time.perf_counter()
            answer = await opening.enter_async_context(server.open(call))
            self._answer = _Timed(answer, began_at)
            self._opened = opening.pop_all()
        return self._answer

    async def _lease(self, opening: AsyncExitStack) -> Served:
        call = self._call
        wait_s = call.deadlines.first_byte_s
        try:
            async with asyncio.timeout(wait_s):
                return await opening.enter_async_context(self._adapter.lease(call))
        except TimeoutError:
            raise Unavailable(
                f"{call.model!r} was not loaded and free within {wait_s:g} s"
            ) from None

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._answer is not None:
            self._adapter.spoke(self._call, self._answer.tokens, self._answer.seconds)
        await self._opened.__aexit__(kind, error, trace)


class _Timed:
    """An answer, and how long it took: a stream from its first payload on."""

    def __init__(self, answer: Answer, began_at: float) -> None:
        self._answer = answer
        self._began_at = self._ended_at = began_at
        self._last = b""

    @property
    def headers(self) -> Mapping[str, str]:
        return self._answer.headers

    @property
    def dropped(self) -> Sequence[str]:
        return self._answer.dropped

    async def body(self) -> bytes:
        self._last = await self._answer.body()
        self._ended_at = time.perf_counter()
        return self._last

    async def payloads(self) -> Sequence[bytes]:
        payloads = await self._answer.payloads()
        if payloads:
            self._ended_at = time.perf_counter()
            if not self._last:
                self._began_at = self._ended_at
            self._last = payloads[-1]
        return payloads

    async def pieces(self) -> bytes:
        return await self._answer.pieces()

    @property
    def tokens(self) -> int:
        """Of its output, by the usage that it ends with; 0 where it has none."""
        try:
            return _ended.decode(self._last).usage.completion_tokens
        except msgspec.DecodeError:
            return 0

    @property
    def seconds(self) -> float:
        return self._ended_at - self._began_at


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Ended(msgspec.Struct):
    usage: _Usage


_ended = msgspec.json.Decoder(_Ended)
