"""`/admin/v1/models`: the models on this machine, as the model host knows them now."""

from __future__ import annotations

from typing import Protocol

import msgspec

from proxy.admin.operations import Operation, operation
from proxy.admin.shapes import Body, Name, Shown
from proxy.errors import HostDown, InvalidRequest
from proxy.inventory import FoundProvider, Inventory
from proxy.model_host import protocol
from proxy.model_host.core import Phase


class Looking(Protocol):
    """Whoever can ask the model host. Both raise `OSError` where nobody answers."""

    async def look(self) -> protocol.Shown:
        """How things stand."""

    async def pull(self, provider: str, model: str) -> protocol.Pulled:
        """Have a server fetch a model, or see how far it is."""


class LocalModel(Shown, frozen=True, kw_only=True):
    """One local model: what it takes, and who is there for it."""

    name: str
    backend: str
    state: Phase
    bytes: int
    """What it takes, or would: as declared or estimated, and corrected by what was measured."""
    gpu_bytes: int
    """Likewise, of a GPU that has memory of its own."""
    pinned: bool
    concurrency: int
    users: int
    """How many requests it answers now."""
    waiting: int
    loads: int
    """How often it was loaded since the start."""
    load_s: float
    """How long the last load took; 0 before."""
    pid: int
    problem: str
    """Why the last load failed; empty where it did not."""
    tokens_per_s: float
    """Output tokens of its latest answers; 0 before the first."""


class FoundModelShown(Shown, frozen=True, kw_only=True):
    """A model that was found; empty or null is not told."""

    name: str
    is_loaded: bool | None
    """Whether it is in its server's memory; null of files, and of servers that do not say."""
    context_length: int | None
    architecture: str
    parameters: int | None
    quantisation: str
    size_bytes: int | None
    problem: str
    """Why it cannot be used."""


class FoundProviderShown(Shown, frozen=True, kw_only=True):
    """A server or a folder with the models that were found there."""

    provider: str
    by: str
    is_silent: bool
    """It did not answer when it was asked last; the models are those that it had before."""
    models: list[FoundModelShown]


class PullShown(Shown, frozen=True, kw_only=True):
    """A model that a server was told to fetch, and how far it is; bytes are 0 if not told."""

    provider: str
    model: str
    state: protocol.PullState
    status: str
    done_bytes: int
    total_bytes: int


class LocalModels(Shown, frozen=True, kw_only=True):
    """All local models, the memory that they have together, and what was found besides."""

    memory_bytes: int
    taken_bytes: int
    gpu_memory_bytes: int
    """0 where no GPU has memory of its own."""
    taken_gpu_bytes: int
    max_loaded: int
    data: list[LocalModel]
    found: list[FoundProviderShown]
    pulls: list[PullShown]


class PullBody(Body, frozen=True, kw_only=True):
    """Which model to fetch, and by which server."""

    model: Name
    provider: str = "ollama"


class ModelsApi:
    """What can be asked about local models; `host` is None where none are configured."""

    def __init__(self, host: Looking | None) -> None:
        self._host = host

    def operations(self) -> list[Operation]:
        """Everything that can be asked for."""
        pull = "/admin/v1/models/pull"
        return [
            operation("GET", "/admin/v1/models", self.list_local_models, tag="models"),
            operation("POST", pull, self.pull_model, tag="models", status=202),
        ]

    async def list_local_models(self) -> LocalModels:
        """Local models: loaded, loading, queue, bytes, tokens per second."""
        if self._host is None:
            return LocalModels(
                memory_bytes=0,
                taken_bytes=0,
                gpu_memory_bytes=0,
                taken_gpu_bytes=0,
                max_loaded=0,
                data=[],
                found=[],
                pulls=[],
            )
        try:
            shown = await self._host.look()
        except OSError:
            raise _down() from None
        return LocalModels(
            memory_bytes=shown.memory_bytes,
            taken_bytes=shown.taken_bytes,
            gpu_memory_bytes=shown.gpu_memory_bytes,
            taken_gpu_bytes=shown.taken_gpu_bytes,
            max_loaded=shown.max_loaded,
            data=[LocalModel(**msgspec.structs.asdict(model)) for model in shown.models],
            found=[_found(each, shown.inventory) for each in shown.inventory.providers],
            pulls=[_pull(each) for each in shown.pulls],
        )

    async def pull_model(self, body: PullBody) -> PullShown:
        """Have an Ollama server fetch a model; asked again, how far it is."""
        if self._host is None:
            raise InvalidRequest(
                "no servers are looked at; configure one, or set 'discover: true'",
                param="provider",
            )
        try:
            pulled = await self._host.pull(body.provider, body.model)
        except OSError:
            raise _down() from None
        if pulled.pull is None:
            raise InvalidRequest(pulled.problem)
        return _pull(pulled.pull)


def _down() -> HostDown:
    return HostDown(
        "the model host cannot be reached; it is started again by itself",
        headers={"retry-after": "1"},
    )


def _pull(shown: protocol.PullShown) -> PullShown:
    return PullShown(**msgspec.structs.asdict(shown))


def _found(provider: FoundProvider, inventory: Inventory) -> FoundProviderShown:
    tells = provider.name in inventory.tells_loading
    return FoundProviderShown(
        provider=provider.name,
        by=provider.by,
        is_silent=provider.name in inventory.silent,
        models=[
            FoundModelShown(
                name=model.name,
                is_loaded=f"{provider.name}/{model.name}" in inventory.loaded if tells else None,
                context_length=model.context_length,
                architecture=model.architecture,
                parameters=model.parameters,
                quantisation=model.quantisation,
                size_bytes=model.size_bytes,
                problem=model.problem,
            )
            for model in provider.models
        ],
    )
