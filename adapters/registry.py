"""Adapter name -> how to make one. Another package's adapter registers under `tollway.adapters`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path

from adapters import gemini, ollama
from adapters.anthropic import Anthropic
from adapters.base import Adapter, Endpoint
from adapters.gemini import Gemini
from adapters.ollama import Ollama
from adapters.openai_compatible import OpenAICompatible
from adapters.over_http import HttpAdapter
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

    `speaks` are the endpoints whose calls it takes; `base_url` is where its provider is, unless the
    configuration says otherwise, and None where only the configuration can say. `meterable` says
    that whatever it speaks to stops generating and billing a stream that is closed; where that
    depends on the provider, it is False.
    """

    make: Callable[[Settings], Adapter]
    speaks: Set[Endpoint]
    base_url: str | None = None
    needs_base_url: bool = True
    demonstration: bool = False
    meterable: bool = False


def _over_http(adapter: Callable[..., HttpAdapter]) -> Callable[[Settings], Adapter]:
    """How an adapter is made that needs nothing but an address, credentials and a way there."""

    def make(settings: Settings) -> Adapter:
        return adapter(
            base_url=settings.base_url,
            api_key=settings.api_key,
            headers=settings.headers,
            proxy=settings.proxy,
            http2=settings.http2,
            ca_bundle=settings.ca_bundle,
        )

    return make


def _scripted(settings: Settings) -> Adapter:
    return Scripted.from_file(settings.script) if settings.script else Scripted.demonstrating()


BUILT_IN: Mapping[str, Entry] = {
    "openai_compatible": Entry(make=_over_http(OpenAICompatible), speaks=OpenAICompatible.speaks),
    "anthropic": Entry(
        make=_over_http(Anthropic),
        speaks=Anthropic.speaks,
        base_url="https://api.anthropic.com/v1",
    ),
    "gemini": Entry(make=_over_http(Gemini), speaks=Gemini.speaks, base_url=gemini.BASE_URL),
    # It stops when the connection is closed, and charges nothing in any case.
    "ollama": Entry(
        make=_over_http(Ollama), speaks=Ollama.speaks, base_url=ollama.BASE_URL, meterable=True
    ),
    "scripted": Entry(
        make=_scripted,
        speaks=Scripted.speaks,
        needs_base_url=False,
        demonstration=True,
        meterable=True,
    ),
}


def names() -> tuple[str, ...]:
    """Every adapter that `router.yaml` may name."""
    return (*BUILT_IN, *(point.name for point in entry_points(group="tollway.adapters")))


def speaks(adapter: str) -> Set[Endpoint]:
    """The endpoints whose calls an adapter takes; of another package's, those of plain chat."""
    return BUILT_IN[adapter].speaks if adapter in BUILT_IN else frozenset({"chat", "embeddings"})


def base_url(adapter: str) -> str | None:
    """Where an adapter's provider is, unless the configuration says otherwise."""
    return BUILT_IN[adapter].base_url if adapter in BUILT_IN else None


def needs_base_url(adapter: str) -> bool:
    """Whether `router.yaml` must say where the provider is."""
    entry = BUILT_IN.get(adapter)
    return entry is not None and entry.needs_base_url and entry.base_url is None


def make(adapter: str, settings: Settings) -> Adapter:
    """A provider's adapter; raises `KeyError` (unknown name) or `ValueError` (bad settings)."""
    if adapter in BUILT_IN:
        entry = BUILT_IN[adapter]
        return entry.make(replace(settings, base_url=settings.base_url or entry.base_url or ""))
    for point in entry_points(group="tollway.adapters"):
        if point.name == adapter:
            maker: Callable[[Settings], Adapter] = point.load()
            return maker(settings)
    raise KeyError(adapter)
