"""Adapter name -> how to make one. Another package's adapter registers under `tollway.adapters`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from adapters.base import Adapter, Endpoint, Prefill
from adapters.leases import Lessor
from adapters.presets import PLAIN, PRESETS, MaxTokensField, Preset
from adapters.wire import anthropic_models
from adapters.wire.templates import Endpoints


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
    lessor: Lessor | None = None

    def __repr__(self) -> str:
        return f"Settings(name={self.name!r}, base_url={self.base_url!r})"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One adapter: how it is made, and whether its answers are made up.

    `speaks` are the endpoints whose calls it takes; `speaks_of` tells those of one model, where
    that matters. `needs` are the settings it cannot do without. `base_url` is where its provider
    is, unless the configuration says otherwise, and None where only the configuration can say.
    `meterable` says that whatever it speaks to stops generating and billing a stream that is
    closed; where that depends on the provider, it is False. `max_tokens_field` is the request's
    field for the maximum, `stream_usage` whether `stream_options` may be sent; `prices` is whose
    price list its models are on, where the address does not tell. `hosted`: its models run in
    processes of ours, for nothing, and a target's `model` names a file. `lists`: it can ask its
    provider which models there are. `prefill` is how it is asked to go on with an answer that was
    begun; where `prefills` is set, by the models it names.
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
    prices: str | None = None
    hosted: bool = False
    lists: bool = True
    prefill: Prefill | None = None
    prefills: Callable[[str], bool] | None = None


_ACCOUNT = ("base_url", "api_key", "headers", "proxy", "http2", "ca_bundle")


def _load(place: str) -> Any:
    """What stands at `module:name`. Adapters are imported when a provider needs them, and not
    before: together they take longer than everything else at the start.
    """
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _over_http(place: str, *takes: str, **constant: Any) -> Callable[[Settings], Adapter]:
    """How an adapter over HTTP is made: of an account, and what else it takes of the settings."""

    def make(settings: Settings) -> Adapter:
        given = {name: getattr(settings, name) for name in (*_ACCOUNT, *takes)}
        adapter: Adapter = _load(place)(**given, **constant)
        return adapter

    return make


def _openai_compatible(preset: Preset) -> Entry:
    return Entry(
        make=_over_http("adapters.openai_compatible:OpenAICompatible", preset=preset),
        speaks=preset.speaks,
        base_url=preset.base_url,
        meterable=preset.meterable,
        max_tokens_field=preset.max_tokens_field,
        stream_usage=preset.stream_usage,
        prices=preset.prices,
        prefill=preset.prefill,
    )


def _scripted(settings: Settings) -> Adapter:
    scripted = _load("adapters.scripted:Scripted")
    adapter: Adapter = (
        scripted.from_file(settings.script) if settings.script else scripted.demonstrating()
    )
    return adapter


def _local(settings: Settings) -> Adapter:
    if settings.lessor is None:
        raise ValueError("local models are served by 'tollway serve' alone")
    adapter: Adapter = _load("adapters.local:Local")(settings.name, settings.lessor)
    return adapter


def _speaks_of(place: str) -> Callable[[str], Set[Endpoint]]:
    return lambda model: frozenset(_load(place)(model))


BUILT_IN: Mapping[str, Entry] = {
    "openai_compatible": _openai_compatible(PLAIN),
    **{name: _openai_compatible(preset) for name, preset in PRESETS.items()},
    "azure": replace(
        _openai_compatible(PRESETS["azure"]), make=_over_http("adapters.azure:Azure", "api_version")
    ),
    "lm_studio": replace(
        _openai_compatible(PRESETS["lm_studio"]), make=_over_http("adapters.lm_studio:LmStudio")
    ),
    "anthropic": Entry(
        make=_over_http("adapters.anthropic:Anthropic"),
        speaks=frozenset({"chat", "messages", "count_tokens"}),
        base_url="https://api.anthropic.com/v1",
        prefill="plain",
        prefills=anthropic_models.prefills,
    ),
    "gemini": Entry(
        make=_over_http("adapters.gemini:Gemini"),
        speaks=frozenset({"chat", "embeddings"}),
        base_url="https://generativelanguage.googleapis.com/v1beta",
    ),
    # Both have an address for each region.
    "bedrock": Entry(
        make=_over_http("adapters.bedrock:Bedrock", "region", "profile"),
        speaks=frozenset({"chat", "messages", "count_tokens", "embeddings"}),
        speaks_of=_speaks_of("adapters.bedrock:speaks"),
        needs=("region",),
        needs_base_url=False,
        lists=False,
        prefill="plain",
        prefills=anthropic_models.prefills,
    ),
    "vertex": Entry(
        make=_over_http("adapters.vertex:Vertex", "region", "project", "credentials_file"),
        speaks=frozenset({"chat", "messages", "count_tokens", "embeddings"}),
        speaks_of=_speaks_of("adapters.vertex:speaks"),
        needs=("region", "project"),
        needs_base_url=False,
        prices="google",
        lists=False,
        prefill="plain",
        prefills=anthropic_models.prefills,
    ),
    # It stops when the connection is closed, and charges nothing in any case.
    "ollama": Entry(
        make=_over_http("adapters.ollama:Ollama"),
        speaks=frozenset({"chat", "completions", "embeddings"}),
        base_url="http://127.0.0.1:11434",
        meterable=True,
    ),
    "local": Entry(
        make=_local,
        speaks=frozenset({"chat", "completions", "embeddings"}),
        needs_base_url=False,
        meterable=True,
        hosted=True,
        lists=False,
    ),
    "http": Entry(
        make=_over_http("adapters.templated_http:TemplatedHttp", "endpoints"),
        speaks=frozenset({"chat", "embeddings"}),
        lists=False,
    ),
    "scripted": Entry(
        make=_scripted,
        speaks=frozenset({"chat", "embeddings"}),
        needs_base_url=False,
        demonstration=True,
        meterable=True,
        lists=False,
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


def is_hosted(adapter: str) -> bool:
    """Whether an adapter's models run in processes of ours."""
    return adapter in BUILT_IN and BUILT_IN[adapter].hosted


def lists(adapter: str) -> bool:
    """Whether an adapter can ask its provider which models there are."""
    return adapter not in BUILT_IN or BUILT_IN[adapter].lists


def prices(adapter: str) -> str | None:
    """Whose price list the models of an adapter are on, where its address does not tell."""
    return BUILT_IN[adapter].prices if adapter in BUILT_IN else None


def max_tokens_field(adapter: str) -> MaxTokensField:
    """The request's field by which an adapter's provider caps the output."""
    return BUILT_IN[adapter].max_tokens_field if adapter in BUILT_IN else "max_tokens"


def stream_usage(adapter: str) -> bool:
    """Whether an adapter's provider understands `stream_options.include_usage`."""
    return adapter not in BUILT_IN or BUILT_IN[adapter].stream_usage


def prefill(adapter: str, model: str) -> Prefill | None:
    """How a model is asked to go on with an answer that was begun; None where none is known to."""
    entry = BUILT_IN.get(adapter)
    if entry is None or (entry.prefills is not None and not entry.prefills(model)):
        return None
    return entry.prefill


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
