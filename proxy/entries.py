"""Catalogue entries of a worker's targets, put together when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from adapters import registry
from proxy.inventory import FoundModel
from proxy.measured import Measurements
from proxy.model_host.protocol import ModelState, Shown
from proxy.target_entry import TargetEntry, entry_of
from proxy.targets import CurrentTable, Target

_FILE = "router.yaml"


class Looking(Protocol):
    """Whoever can ask the model host how things stand."""

    async def look(self) -> Shown:
        """Raises `OSError` where nobody answers."""


class Entries:
    """What is known of each target now: declared, found, measured here, and at the model host."""

    def __init__(
        self,
        *,
        tables: CurrentTable,
        measurements: Measurements,
        host: Looking | None,
        by_keys: Mapping[str, str],
        configured_at: float,
    ) -> None:
        self._tables = tables
        self._measurements = measurements
        self._host = host
        self._by_keys = by_keys
        self._configured_at = configured_at

    async def of(self, target: Target) -> TargetEntry:
        """The entry of a target; of a local one, how it stands at the model host at this moment."""
        inventory = self._tables.inventory
        provider = next(
            (each for each in inventory.providers if each.name == target.provider), None
        )
        found = self._found(target)
        told = inventory.tells_loading
        return entry_of(
            target,
            measured=self._measurements.of(target.name),
            found_by=provider.by
            if provider is not None and found is not None
            else self._by_keys.get(target.provider, _FILE),
            configured_at=self._configured_at,
            found=found,
            local=await self._local(target),
            is_loaded=target.name in inventory.loaded if target.provider in told else None,
            is_silent=target.provider in inventory.silent,
        )

    def _found(self, target: Target) -> FoundModel | None:
        models = self._tables.inventory.models()
        return models.get(target.name) or models.get(f"{target.provider}/{target.model}")

    async def _local(self, target: Target) -> ModelState | None:
        provider = self._tables().providers.get(target.provider)
        if self._host is None or provider is None or not registry.is_hosted(provider.adapter):
            return None
        try:
            shown = await self._host.look()
        except OSError:
            return None
        return next((model for model in shown.models if model.name == target.name), None)
