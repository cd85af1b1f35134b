"""Adapter name -> how to make one. Another package's adapter registers under `tollway.adapters`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from adapters import bedrock, gemini, ollama, vertex
from adapters.anthropic import Anthropic
from adapters.azure import Azure
from adapters.base import Adapter, Endpoint
from adapters.bedrock import Bedrock
from adapters.gemini import Gemini
from adapters.ollama import Ollama
from adapters.openai_compatible import OpenAICompatible
from adapters.over_http import HttpAdapter
from adapters.presets import PLAIN, PRESETS, MaxTokensField, Preset
from adapters.scripted import Scripted
from adapters.templated_http import TemplatedHttp
from adapters.templates import Endpoints
from adapters.vertex import Vertex


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
    api_version: str | None = None
    region: str | None = None
    profile: str | None = None
    project: str | None = None
    credentials_file: Path | None = None
    endpoints: Endpoints | None = None
    script: Path | None = None

    def __repr__(self) -> str:
        return f"Settings(name={self.name!r}, base_url={self.base_url!r})"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One adapter: how it is made, and whether its answers are made up.

    `speaks` are the endpoints whose calls it takes, and `speaks_of` those for one model, where it
    depends on that. `needs` are the settings it cannot do without. `base_url` is where its provider
    is, unless the configuration says otherwise, and None where only the configuration can say.
    `meterable` says that whatever it speaks to stops generating and billing a stream that is
    closed; where that depends on the provider, it is False. `max_tokens_field` is the request's
    field for the maximum, `stream_usage` whether `stream_options` may be sent.
    """

    make: Callable[[Settings], Adapter]
    speaks: Set[Endpoint]
    speaks_of: Callable[[str], Set[Endpoint]] | None = None
    needs: Sequence[str] = ()
    base_url: str | None = None
    needs_base_url: bool = True
    demonstration: bool = False
    meterable: bool = False
    max_tokens_field: MaxTokensField = "max_tokens"
    stream_usage: bool = True


def _over_http(
    adapter: Callable[..., HttpAdapter], **constant: Any
) -> Callable[[Settings], Adapter]:
    """How an adapter is made that needs nothing but an address, credentials and a way there."""

    def make(settings: Settings) -> Adapter:
        return adapter(
            base_url=settings.base_url,
            api_key=settings.api_key,
            headers=settings.headers,
            proxy=settings.proxy,
            http2=settings.http2,
            ca_bundle=settings.ca_bundle,
            **constant,
        )

    return make


def _openai_compatible(preset: Preset) -> Entry:
    return Entry(
        make=_over_http(OpenAICompatible, preset=preset),
        speaks=preset.speaks,
        base_url=preset.base_url,
        meterable=preset.meterable,
        max_tokens_field=preset.max_tokens_field,
        stream_usage=preset.stream_usage,
    )


def _azure(settings: Settings) -> Adapter:
    return _over_http(Azure, api_version=settings.api_version)(settings)


def _bedrock(settings: Settings) -> Adapter:
    assert settings.region is not None
    make = _over_http(Bedrock, region=settings.region, profile=settings.profile)
    return make(settings)


def _vertex(settings: Settings) -> Adapter:
    assert settings.region is not None
    assert settings.project is not None
    make = _over_http(
        Vertex,
        region=settings.region,
        project=settings.project,
        credentials_file=settings.credentials_file,
    )
    return make(settings)


def _http(settings: Settings) -> Adapter:
    return _over_http(TemplatedHttp, endpoints=settings.endpoints or Endpoints())(settings)


def _scripted(settings: Settings) -> Adapter:
    return Scripted.from_file(settings.script) if settings.script else Scripted.demonstrating()


BUILT_IN: Mapping[str, Entry] = {
    "openai_compatible": _openai_compatible(PLAIN),
    **{name: _openai_compatible(preset) for name, preset in PRESETS.items()},
    "azure": replace(_openai_compatible(PRESETS["azure"]), make=_azure),
    "anthropic": Entry(
        make=_over_http(Anthropic),
        speaks=Anthropic.speaks,
        base_url="https://api.anthropic.com/v1",
    ),
    "gemini": Entry(make=_over_http(Gemini), speaks=Gemini.speaks, base_url=gemini.BASE_URL),
    # Both have an address for each region.
    "bedrock": Entry(
        make=_bedrock,
        speaks=Bedrock.speaks,
        speaks_of=bedrock.speaks,
        needs=("region",),
        needs_base_url=False,
    ),
    "vertex": Entry(
        make=_vertex,
        speaks=Vertex.speaks,
        speaks_of=vertex.speaks,
        needs=("region", "project"),
        needs_base_url=False,
    ),
    # It stops when the connection is closed, and charges nothing in any case.
    "ollama": Entry(
        make=_over_http(Ollama), speaks=Ollama.speaks, base_url=ollama.BASE_URL, meterable=True
    ),
    "http": Entry(make=_http, speaks=frozenset({"chat", "embeddings"})),
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


def speaks(adapter: str, model: str | None = None) -> Set[Endpoint]:
    """The endpoints whose calls an adapter takes, of a model if one is named.

    Of another package's adapter, those of plain chat.
    """
    entry = BUILT_IN.get(adapter)
    if entry is None:
        return frozenset({"chat", "embeddings"})
    return entry.speaks if model is None or entry.speaks_of is None else entry.speaks_of(model)


def needs(adapter: str) -> Sequence[str]:
    """The settings, besides a base URL, that an adapter cannot do without."""
    return BUILT_IN[adapter].needs if adapter in BUILT_IN else ()


def base_url(adapter: str) -> str | None:
    """Where an adapter's provider is, unless the configuration says otherwise."""
    return BUILT_IN[adapter].base_url if adapter in BUILT_IN else None


def needs_base_url(adapter: str) -> bool:
    """Whether `router.yaml` must say where the provider is."""
    entry = BUILT_IN.get(adapter)
    return entry is not None and entry.needs_base_url and entry.base_url is None


def max_tokens_field(adapter: str) -> MaxTokensField:
    """The request's field by which an adapter's provider caps the output."""
    return BUILT_IN[adapter].max_tokens_field if adapter in BUILT_IN else "max_tokens"


def stream_usage(adapter: str) -> bool:
    """Whether an adapter's provider understands `stream_options.include_usage`."""
    return adapter not in BUILT_IN or BUILT_IN[adapter].stream_usage


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
