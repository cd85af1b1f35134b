"""A configured provider as the adapter that speaks to it."""

from __future__ import annotations

from pathlib import Path

from adapters import registry
from adapters.base import Adapter
from adapters.leases import Lessor
from proxy.config import Provider
from proxy.errors import StartError


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
