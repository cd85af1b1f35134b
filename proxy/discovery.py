"""What can be used without configuration: API keys in the environment, servers on this machine.

Everything found is expressed as configuration, so that nothing downstream knows the difference.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from adapters.base import AdapterError
from adapters.openai_compatible import OpenAICompatible
from proxy import catalog
from proxy.config import Config, Provider, Target

# Where local servers listen unless told otherwise.
LOCAL_SERVERS: Mapping[str, int] = {"ollama": 11434, "lmstudio": 1234, "llama-server": 8080}
_CONNECT_S = 0.2
_LIST_S = 2.0

DEMONSTRATION = "tollway"


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
        variable = next((name for name in entry.api_key_env if environ.get(name)), None)
        if variable is None or entry.id in config.providers:
            continue
        providers[entry.id] = _from_catalog(entry, environ, environ[variable])
        targets += [Target(target=f"{entry.id}/{model.name}") for model in entry.models]
        targets.append(Target(target=f"{entry.id}/*"))
        found.append(Found(provider=entry.id, by=variable))
    for name, port in local_servers.items():
        models = () if name in config.providers else _local_models(port)
        if models:
            providers[name] = _local(port)
            targets += [_local_target(name, model) for model in models]
            found.append(Found(provider=name, by=f"127.0.0.1:{port}"))
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
                price="free",
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


def _from_catalog(entry: catalog.Provider, environ: Mapping[str, str], key: str) -> Provider:
    base_url = environ.get(entry.base_url_env or "") or entry.base_url
    return Provider(
        base_url=base_url.rstrip("/"),
        api_key=key.strip(),
        max_tokens_field=entry.max_tokens_field,
        stream_usage=entry.stream_options,
        prices=entry.price_provider,
    )


def _local(port: int) -> Provider:
    return Provider(base_url=f"http://127.0.0.1:{port}/v1")


def _local_target(provider: str, model: str) -> Target:
    tiers = [] if "embed" in model.lower() else ["local"]
    return Target(target=f"{provider}/{model}", tiers=tiers, price="free")


def _local_models(port: int) -> tuple[str, ...]:
    """The models of an OpenAI-compatible server on this machine; none where there is no such."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=_CONNECT_S).close()
    except OSError:
        return ()
    return asyncio.run(_list_models(f"http://127.0.0.1:{port}/v1"))


async def _list_models(base_url: str) -> tuple[str, ...]:
    adapter = OpenAICompatible(base_url=base_url)
    try:
        async with asyncio.timeout(_LIST_S):
            return tuple(await adapter.models())
    except (AdapterError, TimeoutError):
        return ()
    finally:
        await adapter.aclose()
