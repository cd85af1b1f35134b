"""Adapter name -> how to make one. Another package's adapter registers under `tollway.adapters`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from adapters.base import Adapter
from adapters.openai_compatible import OpenAICompatible
from adapters.scripted import Scripted


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the configuration says of a provider. Secrets do not show in its `repr`."""

    name: str
    base_url: str = ""
    api_key: str | None = None
    headers: Mapping[str, str] | None = None
    proxy: str | None = None
    http2: bool = False
    ca_bundle: Path | None = None
    script: Path | None = None

    def __repr__(self) -> str:
        return f"Settings(name={self.name!r}, base_url={self.base_url!r})"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One adapter: how it is made, and whether its answers are made up.

    `meterable` says that whatever it speaks to stops generating and billing a stream that is
    closed; where that depends on the provider, it is False.
    """

    make: Callable[[Settings], Adapter]
    demonstration: bool = False
    meterable: bool = False


def _openai_compatible(settings: Settings) -> Adapter:
    return OpenAICompatible(
        base_url=settings.base_url,
        api_key=settings.api_key,
        headers=settings.headers or {},
        proxy=settings.proxy,
        http2=settings.http2,
        ca_bundle=settings.ca_bundle,
    )


def _scripted(settings: Settings) -> Adapter:
    return Scripted.from_file(settings.script) if settings.script else Scripted.demonstrating()


BUILT_IN: Mapping[str, Entry] = {
    "openai_compatible": Entry(make=_openai_compatible),
    "scripted": Entry(make=_scripted, demonstration=True, meterable=True),
}


def names() -> tuple[str, ...]:
    """Every adapter that `router.yaml` may name."""
    return (*BUILT_IN, *(point.name for point in entry_points(group="tollway.adapters")))


def make(adapter: str, settings: Settings) -> Adapter:
    """A provider's adapter; raises `KeyError` (unknown name) or `ValueError` (bad settings)."""
    if adapter in BUILT_IN:
        return BUILT_IN[adapter].make(settings)
    for point in entry_points(group="tollway.adapters"):
        if point.name == adapter:
            maker: Callable[[Settings], Adapter] = point.load()
            return maker(settings)
    raise KeyError(adapter)
