"""The target table of a configuration: every target made, and what virtual models name, found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date
from functools import partial
from urllib.parse import urlsplit

from adapters import registry as adapter_registry
from policies import registry as policy_registry
from policies.base import Policy
from policies.rules import Rule
from proxy import catalog
from proxy import config as cfg
from proxy.inventory import FoundModel
from proxy.policy_options import spelt_out
from proxy.price_book import PriceBook
from proxy.target_maker import TargetMaker
from proxy.targets import Downgrade, Target, TargetTable, VirtualModel


def build_table(
    config: cfg.Config,
    known: catalog.Catalog,
    book: PriceBook,
    *,
    today: date,
    revision: int = 0,
    found: Mapping[str, FoundModel] = {},
) -> TargetTable:
    """The table of a configuration as of a day (prices have dates).

    `found` are those of the targets that nobody wrote down.
    """
    catalogued = {
        provider.price_provider: {model.name: model for model in provider.models}
        for provider in known.providers
    }
    makers: dict[str, TargetMaker] = {}
    for name, settings in config.providers.items():
        service = _at(known, settings)
        prices = settings.prices or adapter_registry.prices(settings.adapter)
        prices = prices or (service.price_provider if service is not None else name)
        makers[name] = TargetMaker(
            name=name,
            provider=settings,
            prices=prices,
            known=catalogued.get(prices, {}),
            unpriced=config.unpriced if settings.unpriced is None else settings.unpriced,
            drop_params=config.drop_params,
            catalogued=service,
            book=book,
            today=today,
        )
    targets: dict[str, Target] = {}
    aliases: dict[str, str] = {}
    wildcards: dict[str, TargetMaker] = {}
    for entry in config.targets:
        provider, _, model = entry.target.partition("/")
        if model == "*":
            wildcards[provider] = replace(makers[provider], wildcard=entry)
    for entry in config.targets:
        provider, _, model = entry.target.partition("/")
        if model == "*":
            continue
        facts = found.get(entry.target)
        # Only what was found may stand behind a `provider/*`: what is written down is itself.
        maker = makers[provider] if facts is None else wildcards.get(provider, makers[provider])
        target = targets[entry.target] = maker.build(entry, facts)
        for alias in entry.alias:
            aliases[alias] = target.name
    # The files of a local provider are all that its `provider/*` stands for.
    open_ended = {
        name: maker
        for name, maker in wildcards.items()
        if not adapter_registry.is_hosted(maker.provider.adapter)
    }
    before: dict[str, int] = {}
    for name in wildcards:
        before[name] = sum(other in open_ended for other in before)
    doubtful: dict[str, int] = {}
    for target in targets.values():
        # But `anthropic/x` of a reseller is not its, where `anthropic` is a provider of its own.
        prefix, slash, _ = target.model.partition("/")
        if (not slash or prefix not in config.providers) and target.model not in aliases:
            aliases[target.model] = target.name
            # Whoever listens on a usual port may say that it has `gpt-4o`, too.
            rank = before.get(target.provider, len(open_ended))
            if target.name in found and rank:
                doubtful[target.model] = rank
    make = partial(
        TargetTable,
        targets=targets,
        aliases=aliases,
        wildcards=open_ended,
        providers=config.providers,
        revision=revision,
        doubtful=doubtful,
    )
    table = make(models={})
    models = {
        name: _with_downgrades(
            _with_rules(
                VirtualModel(
                    name=name,
                    description=model.description,
                    policy=_policy(model.policy, table),
                    targets=_resolve(model.targets, table),
                    cold_start=model.cold_start,
                    constraints=model.constraints,
                    fallbacks={
                        cause: _resolve(names, table) for cause, names in model.fallbacks.items()
                    },
                    deadlines=model.deadlines,
                    continues=model.continuation,
                    hedge=None if model.hedge is None else model.hedge.strategy,
                    history=model.history,
                ),
                config.rules,
                table,
            ),
            model,
            table,
        )
        for name, model in config.models.items()
    }
    return make(models=models)


def _at(known: catalog.Catalog, provider: cfg.Provider) -> catalog.Provider | None:
    """The catalogue's entry of the service that a provider's requests really go to."""
    base_url = provider.base_url or adapter_registry.base_url(provider.adapter) or ""
    host = urlsplit(base_url).hostname
    return next((p for p in known.providers if urlsplit(p.address).hostname == host), None)


def _with_rules(model: VirtualModel, rules: Iterable[Rule], table: TargetTable) -> VirtualModel:
    """The model with the rules that may hold for it, and what it is by their targets.

    Vectors stay in the space of its own.
    """
    found = tuple(
        rule for rule in rules if rule.when.models is None or model.name in rule.when.models
    )
    in_place = {
        rule.name: replace(
            model, targets=_resolve(rule.targets, table), pinned_space=model.vector_space
        )
        for rule in found
        if rule.targets is not None
    }
    return replace(model, rules=found, in_place=in_place)


def _with_downgrades(
    full: VirtualModel, model: cfg.VirtualModel, table: TargetTable
) -> VirtualModel:
    """The model with its cheaper selves, whose vectors are of the same space as its own."""
    made = (
        Downgrade(
            at_percent=tier.at_percent,
            model=VirtualModel(
                name=full.name,
                description=full.description,
                policy=_policy(tier.policy or model.policy, table),
                targets=_resolve(tier.targets, table),
                pinned_space=full.vector_space,
                cold_start=full.cold_start,
                constraints=full.constraints,
                fallbacks=full.fallbacks,
                deadlines=full.deadlines,
                history=full.history,
                rules=full.rules,
                continues=full.continues,
                hedge=full.hedge,
            ),
        )
        for tier in model.downgrade
    )
    return replace(full, downgrades=tuple(sorted(made, key=lambda tier: tier.at_percent)))


def _policy(said: cfg.Policy, table: TargetTable) -> Policy:
    """A policy whose options have the targets of a tier in place of `tier:NAME`."""
    name, options = cfg.policy_of(said)
    options = spelt_out(options, lambda tier: [t.name for t in _resolve((tier,), table)])
    return policy_registry.make(name, options)


def _resolve(names: Iterable[str], table: TargetTable) -> tuple[Target, ...]:
    """The targets that the lines of a virtual model name, each once, in order."""
    found: dict[str, Target] = {}
    for name in names:
        provider, _, model = name.partition("/")
        if name.startswith("tier:"):
            tier = name.removeprefix("tier:")
            matches = [
                t
                for t in table.targets.values()
                if tier in t.tiers and not (t.demonstration and table.has_real_targets)
            ]
        elif model == "*":
            matches = [t for t in table.targets.values() if t.provider == provider]
        else:
            target = table.target(name)
            matches = [] if target is None else [target]
        for target in matches:
            found.setdefault(target.name, target)
    return tuple(found.values())
