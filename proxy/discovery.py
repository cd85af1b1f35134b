"""What can be used without configuration: API keys in the environment, servers on this machine.

Everything found is expressed as configuration, so that nothing downstream knows the difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from adapters import registry
from adapters.base import AdapterError
from adapters.presets import PRESETS
from proxy import catalog
from proxy.config import (
    DEMONSTRATION,
    LOCAL_SERVERS,
    LOCAL_TIER,
    LONGEST_NAME,
    Config,
    Price,
    Provider,
    Target,
)
from proxy.errors import StartError
from proxy.targets import capabilities_by_name

_LIST_S = 2.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1", "0.0.0.0")  # noqa: S104 # recognised, not bound


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Something that was found, and by what."""

    provider: str
    by: str


def discover(
    config: Config,
    known: catalog.Catalog,
    environ: Mapping[str, str],
    local_servers: Mapping[str, int] = LOCAL_SERVERS,
) -> tuple[Config, tuple[Found, ...]]:
    """The configuration with what was found added behind what the operator wrote.

    Asks the local servers for their models: blocks for up to two seconds where one hangs, for
    nothing where none listens.
    """
    providers: dict[str, Provider] = {}
    targets: list[Target] = []
    found: list[Found] = []
    for entry in known.providers:
        variable = next((name for name in entry.api_key_env if _value(environ, name)), None)
        if variable is None or entry.id in config.providers:
            continue
        providers[entry.id] = _from_catalog(entry, environ, variable, config.server.port)
        targets += [Target(target=f"{entry.id}/{model.name}") for model in entry.models]
        targets.append(Target(target=f"{entry.id}/*"))
        found.append(Found(provider=entry.id, by=variable))
    asked = {
        name: port
        for name, port in local_servers.items()
        if name not in config.providers and port != config.server.port
    }
    for name, models in asyncio.run(_list_all(asked)).items():
        if models:
            providers[name] = _local(name, asked[name])
            targets += [_local_target(name, model) for model in models]
            found.append(Found(provider=name, by=f"127.0.0.1:{asked[name]}"))
    return _extend(config, providers, targets), tuple(found)


def with_demonstration(config: Config) -> Config:
    """The configuration with the built-in demonstration, for where there is nothing else."""
    tiers = ["auto", "best", "cheap", "fast"]
    return _extend(
        config,
        {DEMONSTRATION: Provider(adapter="scripted")},
        [
            Target(
                target=f"{DEMONSTRATION}/demo",
                tiers=tiers,
                # Made up like its answers, so that costs and budgets can be watched at work.
                price=Price(input="0.10", output="0.40"),
                context_length=128_000,
                max_output_tokens=4096,
                capabilities=["chat", "tools", "json_schema", "n"],
            ),
            Target(
                target=f"{DEMONSTRATION}/demo-embed",
                tiers=["embed"],
                price="free",
                context_length=8192,
                capabilities=["embeddings"],
            ),
        ],
    )


def _extend(config: Config, providers: dict[str, Provider], targets: list[Target]) -> Config:
    return msgspec.structs.replace(
        config,
        providers={**config.providers, **providers},
        targets=[*config.targets, *targets],
    )


def _value(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name, "").strip()


def _from_catalog(
    entry: catalog.Provider, environ: Mapping[str, str], variable: str, own_port: int
) -> Provider:
    key = _value(environ, variable)
    if not (key.isascii() and key.isprintable()):
        raise StartError(f"{variable}: holds characters that no key has; set it anew, or unset it")
    base_url = _value(environ, entry.base_url_env or "")
    if not base_url or _is_own(base_url, own_port):
        base_url = entry.address
    base_url = base_url.rstrip("/")
    is_elsewhere = entry.adapter in PRESETS and base_url != entry.address
    return Provider(
        # What is known of OpenAI says nothing of who answers at another address.
        adapter="openai_compatible" if is_elsewhere else entry.adapter,
        base_url=base_url,
        api_key=key,
        max_tokens_field=registry.max_tokens_field(entry.adapter) if is_elsewhere else None,
        prices=entry.price_provider,
    )


def _is_own(url: str, own_port: int) -> bool:
    """Whether the address is ours: the variable points clients here, and we would ask ourselves."""
    try:
        parts = urlsplit(url)
        return parts.port == own_port and parts.hostname in _LOOPBACK
    except ValueError:
        return False


# What Ollama has at /v1 cuts long prompts in silence, so it is spoken to as it speaks itself.
_LOCAL_ADAPTERS = {
    "ollama": ("ollama", ""),
    "lmstudio": ("lm_studio", "/v1"),
    "llama-server": ("llama_server", "/v1"),
}


def _local(name: str, port: int) -> Provider:
    adapter, path = _LOCAL_ADAPTERS.get(name, ("openai_compatible", "/v1"))
    return Provider(adapter=adapter, base_url=f"http://127.0.0.1:{port}{path}")


def _local_target(provider: str, model: str) -> Target:
    tiers = [LOCAL_TIER] if "chat" in capabilities_by_name(model) else []
    return Target(target=f"{provider}/{model}", tiers=tiers, price="free")


async def _list_all(ports: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    servers = (_local(name, port) for name, port in ports.items())
    listed = await asyncio.gather(*map(_list_models, servers))
    return dict(zip(ports, listed, strict=True))


async def _list_models(server: Provider) -> tuple[str, ...]:
    """The models of a server on this machine; none where there is no such."""
    settings = registry.Settings(name="local", base_url=server.base_url or "")
    adapter = registry.make(server.adapter, settings)
    try:
        async with asyncio.timeout(_LIST_S):
            models = await adapter.models()
    except (AdapterError, TimeoutError):
        return ()
    finally:
        await adapter.aclose()
    # Whatever listens there is not the operator's word: names that mean more stay out.
    return tuple(
        model
        for model in dict.fromkeys(models)
        if model not in ("", "*") and model.isprintable() and len(model) < LONGEST_NAME // 2
    )
