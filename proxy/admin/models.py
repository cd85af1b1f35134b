"""`/admin/v1/models`: the local models, as the model host has them now."""

from __future__ import annotations

from typing import Protocol

import msgspec

from proxy.admin.operations import Operation, operation
from proxy.admin.shapes import Shown
from proxy.errors import HostDown
from proxy.model_host import protocol
from proxy.model_host.core import Phase


class Looking(Protocol):
    """Whoever can ask the model host how things stand."""

    async def look(self) -> protocol.Shown:
        """Raises `OSError` where nobody answers."""


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


class LocalModels(Shown, frozen=True, kw_only=True):
    """All local models, and the memory that they have together."""

    memory_bytes: int
    taken_bytes: int
    gpu_memory_bytes: int
    """0 where no GPU has memory of its own."""
    taken_gpu_bytes: int
    max_loaded: int
    data: list[LocalModel]


class ModelsApi:
    """What can be asked about local models; `host` is None where none are configured."""

    def __init__(self, host: Looking | None) -> None:
        self._host = host

    def operations(self) -> list[Operation]:
        """Everything that can be asked for."""
        return [operation("GET", "/admin/v1/models", self.list_local_models, tag="models")]

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
            )
        try:
            shown = await self._host.look()
        except OSError:
            raise HostDown(
                "the model host cannot be reached; it is started again by itself",
                headers={"retry-after": "1"},
            ) from None
        return LocalModels(
            memory_bytes=shown.memory_bytes,
            taken_bytes=shown.taken_bytes,
            gpu_memory_bytes=shown.gpu_memory_bytes,
            taken_gpu_bytes=shown.taken_gpu_bytes,
            max_loaded=shown.max_loaded,
            data=[LocalModel(**msgspec.structs.asdict(model)) for model in shown.models],
        )
