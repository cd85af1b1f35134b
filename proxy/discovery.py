"""What can be used without configuration: API keys in the environment, models on this machine.

Everything found is expressed as configuration, so that nothing downstream knows the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from adapters import registry
from adapters.presets import PRESETS
from proxy import catalog
from proxy.config import DEMONSTRATION, LOCAL_TIER, Config, Price, Provider, Target
from proxy.errors import StartError
from proxy.inventory import FoundModel, Inventory
from proxy.target_maker import capabilities_of

_LOOPBACK = ("127.0.0.1", "localhost", "::1", "0.0.0.0")  # noqa: S104 # recognised, not bound


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Something that was found, and by what."""

    provider: str
    by: str


def discover(
    config: Config, known: catalog.Catalog, environ: Mapping[str, str]
) -> tuple[Config, tuple[Found, ...]]:
    """The configuration with the providers of the environment's keys behind the operator's own."""
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
    return _extend(config, providers, targets), tuple(found)


def with_found(
    config: Config, inventory: Inventory
) -> tuple[Config, Mapping[str, FoundModel], tuple[Found, ...]]:
    """The configuration with what is on this machine added last, and what is known of that.

    Of a provider that is configured, those models are added that its `provider/*` stands for.
    """
    wildcards = {t.target.removesuffix("/*"): t for t in config.targets if t.target.endswith("/*")}
    taken = {name for target in config.targets for name in (target.target, *target.alias)}
    providers: dict[str, Provider] = {}
    targets: list[Target] = []
    facts: dict[str, FoundModel] = {}
    found: list[Found] = []
    for each in inventory.providers:
        own = config.providers.get(each.name)
        is_configured = own is not None
        # What answers elsewhere says nothing of a provider that happens to be called alike.
        if own is not None and (each.name not in wildcards or each.base_url != own.base_url):
            continue
        usable = {f"{each.name}/{model.name}": model for model in each.models if not model.problem}
        new = {name: model for name, model in usable.items() if name not in taken}
        facts |= new
        template = wildcards.get(each.name, Target(target=f"{each.name}/*", price="free"))
        targets += [_found_target(template, name, model) for name, model in new.items()]
        if not is_configured and new:
            providers[each.name] = Provider(
                adapter=each.adapter, base_url=each.base_url, folder=each.folder
            )
            found.append(Found(provider=each.name, by=each.by))
    return _extend(config, providers, targets), facts, tuple(found)


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


def _found_target(template: Target, name: str, model: FoundModel) -> Target:
    capabilities = template.capabilities
    if capabilities is None:
        capabilities = list(capabilities_of(model))
    # The operator may prefer one of the two that run GGUF files; of all others there is but one.
    has_choice = model.backend in ("llama_server", "llama_cpp")
    return msgspec.structs.replace(
        template,
        target=name,
        tiers=[LOCAL_TIER] if "chat" in capabilities else [],
        model=model.path or None,
        backend=(template.backend if has_choice else None) or model.backend or None,
    )
