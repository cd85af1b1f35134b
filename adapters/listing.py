"""What a provider tells of the models that it lists, where it tells more than their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from adapters.base import Adapter


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """One model; what is empty or None is not told.

    `capabilities` are in the product's words: `chat`, `tools`, `vision`, `embeddings` …, and
    `thinking`. `context_length` is the longest that the model can have. `owner` is what OpenAI's
    dialect calls `owned_by`; `created` says whether it has a time of its making there.
    """

    name: str
    capabilities: frozenset[str] | None = None
    context_length: int | None = None
    architecture: str = ""
    parameters: int | None = None
    quantisation: str = ""
    size_bytes: int | None = None
    changed_at: int | None = None
    is_loaded: bool | None = None
    owner: str = ""
    created: bool = False


@runtime_checkable
class Lister(Protocol):
    """An adapter whose provider tells more than names."""

    async def listed(self) -> Sequence[Listed]:
        """The models with what is told of them; raises `AdapterError`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a provider has come with fetching a model. Both numbers are 0 where it tells none."""

    status: str
    done_bytes: int = 0
    total_bytes: int = 0


async def listed(adapter: Adapter) -> Sequence[Listed]:
    """The models of any adapter; raises `AdapterError`."""
    if isinstance(adapter, Lister):
        return await adapter.listed()
    return [Listed(name=name) for name in await adapter.models()]
