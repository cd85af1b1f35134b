"""Models that servers fetch because the operator told them to; nothing else makes them do so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from adapters.base import AdapterError
from adapters.ollama import Ollama
from proxy.accounts import make_adapter
from proxy.config import LONGEST_NAME
from proxy.model_host.lookout import Lookout
from proxy.model_host.protocol import PullShown, PullState

_PULLS = "ollama"
"""The adapter whose server can be told to fetch a model."""
_MOST_REMEMBERED = 100


@dataclass(slots=True)
class _Pull:
    provider: str
    model: str
    state: PullState = "running"
    status: str = "begins"
    done_bytes: int = 0
    total_bytes: int = 0
    task: asyncio.Task[None] | None = None

    def shown(self) -> PullShown:
        return PullShown(
            self.provider, self.model, self.state, self.status, self.done_bytes, self.total_bytes
        )


class Pulls:
    """Those that run, and those that ended last. They go on though nobody looks."""

    def __init__(self, lookout: Lookout | None) -> None:
        self.lookout = lookout
        """Who knows the servers."""
        self._pulls: dict[tuple[str, str], _Pull] = {}
        self._done = asyncio.Event()

    def begin(self, provider: str, model: str) -> PullShown:
        """Begin a pull, unless it runs; how it stands. Raises `ValueError` where it cannot be."""
        if not (0 < len(model) <= LONGEST_NAME and model.isprintable() and model == model.strip()):
            raise ValueError(f"{model[:100]!r} is no name of a model")
        known = self._pulls.get((provider, model))
        if known is not None and known.state == "running":
            return known.shown()
        server = self.lookout.server(provider) if self.lookout is not None else None
        if server is None:
            raise ValueError(
                f"there is no server {provider!r} that is looked at; configure it with a target "
                f"'{provider}/*', or set 'discover: true'"
            )
        if server.adapter != _PULLS:
            raise ValueError(f"{provider!r} cannot be told to fetch models; only Ollama can")
        adapter = make_adapter(provider, server)
        assert isinstance(adapter, Ollama)
        pull = _Pull(provider, model)
        self._pulls.pop((provider, model), None)
        self._pulls[provider, model] = pull
        pull.task = asyncio.get_running_loop().create_task(self._carry_out(adapter, pull))
        self._forget_oldest()
        return pull.shown()

    def shown(self) -> tuple[PullShown, ...]:
        """All that are remembered, the latest last."""
        return tuple(pull.shown() for pull in self._pulls.values())

    async def any_done(self, within_s: float) -> None:
        """Wait for a pull to end well, but no longer than that."""
        try:
            async with asyncio.timeout(within_s):
                await self._done.wait()
        except TimeoutError:
            return
        self._done.clear()

    async def aclose(self) -> None:
        """Give up what runs."""
        tasks = [pull.task for pull in self._pulls.values() if pull.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_out(self, adapter: Ollama, pull: _Pull) -> None:
        try:
            async for progress in adapter.pull(pull.model):
                pull.status = progress.status[:200]
                pull.done_bytes, pull.total_bytes = progress.done_bytes, progress.total_bytes
        except AdapterError as error:
            pull.state, pull.status = "failed", error.message[:500]
        else:
            pull.state = "done"
            self._done.set()
        finally:
            await adapter.aclose()

    def _forget_oldest(self) -> None:
        ended = [key for key, pull in self._pulls.items() if pull.state != "running"]
        for key in ended[: max(0, len(self._pulls) - _MOST_REMEMBERED)]:
            del self._pulls[key]
