"""A configured provider as the adapter that speaks to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from adapters import registry
from adapters.base import Adapter
from adapters.leases import Lessor
from proxy.config import Provider
from proxy.errors import StartError
from proxy.targets import TargetTable


def make_adapter(name: str, provider: Provider, lessor: Lessor | None = None) -> Adapter:
    """The adapter of a configured provider; raises `StartError`."""
    settings = registry.Settings(
        name=name,
        base_url=provider.base_url or "",
        api_key=provider.api_key,
        headers=provider.headers,
        proxy=provider.proxy,
        http2=provider.http2,
        ca_bundle=Path(provider.ca_bundle) if provider.ca_bundle else None,
        api_version=provider.api_version,
        region=provider.region,
        profile=provider.profile,
        project=provider.project,
        credentials_file=(
            Path(provider.credentials_file).expanduser() if provider.credentials_file else None
        ),
        endpoints=provider.endpoints,
        script=Path(provider.script) if provider.script else None,
        lessor=lessor,
    )
    try:
        return registry.make(provider.adapter, settings)
    except (ValueError, OSError, ImportError) as error:
        raise StartError(f"providers.{name}: {error}") from None


class Accounts:
    """The adapters of a table's providers.

    They stay where providers go, which may come back. A provider that is configured as in `before`
    keeps the adapter that it has there, with its connections.
    """

    def __init__(
        self,
        table: Callable[[], TargetTable],
        lessor: Lessor | None = None,
        before: Accounts | None = None,
    ) -> None:
        """Raises `StartError`."""
        self.adapters: dict[str, Adapter] = {}
        """By provider."""
        self._table = table
        self._lessor = lessor
        self._configured: dict[str, Provider] = {}
        if before is not None:
            for name, provider in table().providers.items():
                if before._configured.get(name) == provider:
                    self._configured[name] = provider
                    self.adapters[name] = before.adapters[name]
        self.complete()

    def complete(self) -> None:
        """Make an adapter for each provider that has none yet; raises `StartError`."""
        for name, provider in self._table().providers.items():
            if name not in self.adapters:
                self.adapters[name] = make_adapter(name, provider, self._lessor)
                self._configured[name] = provider
