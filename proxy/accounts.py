"""A configured provider as a worker uses it: the adapters that speak to it, and its retries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from adapters import registry
from adapters.base import Adapter
from adapters.leases import Lessor
from proxy.clock import Clock
from proxy.config import Provider, Retries
from proxy.errors import StartError
from proxy.provider_keys import ProviderKeys
from proxy.retries import RetryBudget
from proxy.targets import TargetTable


class Account:
    """A provider with its keys, each with an adapter of its own. One per worker and provider."""

    def __init__(self, keys: ProviderKeys, settings: Retries, budget: RetryBudget) -> None:
        self.keys = keys
        self.settings = settings
        self.budget = budget

    @property
    def adapter(self) -> Adapter:
        """That of the key whose turn it is."""
        return self.keys.take().adapter

    async def aclose(self) -> None:
        """Close idle connections."""
        for key in self.keys:
            await key.adapter.aclose()


def open_account(
    name: str, provider: Provider, lessor: Lessor | None, *, clock: Clock, workers: int
) -> Account:
    """A configured provider, in one of several workers that share its retries.

    Raises `StartError`.
    """
    keys: Sequence[str | None] = provider.api_keys or (provider.api_key,)
    adapters = [
        make_adapter(name, msgspec.structs.replace(provider, api_key=key), lessor) for key in keys
    ]
    retries = provider.retries
    budget = RetryBudget(
        share=retries.budget_percent / 100,
        per_s=retries.budget_per_s / workers,
        now=clock.monotonic(),
    )
    return Account(ProviderKeys(name, adapters, clock), retries, budget)


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
    """The accounts of a table's providers.

    They stay where providers go, which may come back. A provider that is configured as in `before`
    keeps the account that it has there, with its connections.
    """

    def __init__(
        self,
        table: Callable[[], TargetTable],
        lessor: Lessor | None = None,
        before: Accounts | None = None,
        *,
        clock: Clock,
        workers: int,
    ) -> None:
        """Raises `StartError`. `workers` share what a provider allows."""
        self.by_provider: dict[str, Account] = {}
        self._table = table
        self._lessor = lessor
        self._clock = clock
        self._workers = workers
        self._configured: dict[str, Provider] = {}
        if before is not None:
            for name, provider in table().providers.items():
                if before._configured.get(name) == provider:
                    self._configured[name] = provider
                    self.by_provider[name] = before.by_provider[name]
        self.complete()

    def complete(self) -> None:
        """Open an account at each provider that has none yet; raises `StartError`."""
        for name, provider in self._table().providers.items():
            if name not in self.by_provider:
                self.by_provider[name] = open_account(
                    name, provider, self._lessor, clock=self._clock, workers=self._workers
                )
                self._configured[name] = provider
