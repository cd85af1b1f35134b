"""What must hold of a configuration beyond its types: names that exist, amounts, addresses."""

from __future__ import annotations

import re
from datetime import date
from typing import get_args
from urllib.parse import urlsplit

from adapters import registry as adapter_registry
from adapters.base import Endpoint
from policies import registry as policy_registry
from policies.constraints import Constraints
from policies.rules import Rule
from policies.strategies import Cascade, Strategy
from proxy import budgets, catalog, webhooks
from proxy.addresses import parse_network
from proxy.catalog import TierName
from proxy.config import (
    DEMONSTRATION,
    LOCAL_PROVIDERS,
    LOCAL_TIER,
    LONGEST_NAME,
    NO_AMOUNTS,
    OF_CLOUDS,
    Amount,
    Budget,
    Charge,
    Config,
    Expectation,
    HostGroup,
    Limits,
    Policy,
    Price,
    PriceTier,
    Provider,
    Rates,
    Target,
    Unpriced,
    VirtualModel,
    Webhook,
    policy_of,
)
from proxy.errors import InvalidRequest
from proxy.model_host.lookout import is_looked_at
from proxy.moments import parse_moment
from proxy.policy_options import is_tier
from proxy.pricing import parse_usd
from proxy.priorities import KINDS
from proxy.swaps.orders import check_schema
from proxy.yaml_file import Path_, YamlFile

_ENDPOINTS = frozenset(get_args(Endpoint))
_OF_LOCAL_TARGETS = (
    *("backend", "needs_mb", "needs_gpu_mb", "gpu_layers"),
    *("concurrency", "timeout_s", "pinned", "kept_prompts_mb"),
)
_WITH_LAYERS = (None, "llama_server", "llama_cpp")
# What rules know of a caller; a request's model and target are not among it.
_CALLERS = ("organisation", "team", "key", "user", "tag")
# It becomes a part of a host name.
_REGION = re.compile("[a-z0-9]+(-[a-z0-9]+)*")


def check(file: YamlFile, config: Config) -> None:
    """Raise `StartError` for the first mistake, with its place in the file and the remedy."""
    for i, network in enumerate(config.server.trusted_proxies):
        try:
            parse_network(network)
        except ValueError as error:
            raise file.error(("server", "trusted_proxies", i), str(error)) from None
    _check_unpriced(file, ("unpriced",), config.unpriced)
    for scope in config.priorities:
        kind, _, name = scope.partition(":")
        if kind not in KINDS or not name:
            known = ", ".join(f"{kind}:ID" for kind in KINDS)
            raise file.error(("priorities", scope), f"is of no caller; write one of {known}")
    for i, webhook in enumerate(config.alerts.webhooks):
        _check_webhook(file, ("alerts", "webhooks", i), webhook)
    for name, provider in config.providers.items():
        _check_provider(file, name, provider)
    names: set[str] = set()
    for i, target in enumerate(config.targets):
        _check_target(file, ("targets", i), target, config, names)
    for name, model in config.models.items():
        _check_name(file, ("models", name), name)
        _check_policy(file, ("models", name, "policy"), model.policy)
        for i, target_name in enumerate(model.targets):
            _check_reference(file, ("models", name, "targets", i), target_name, config, names)
        _check_downgrades(file, ("models", name, "downgrade"), model, config, names)
        for cause, chain in model.fallbacks.items():
            for i, target_name in enumerate(chain):
                path: Path_ = ("models", name, "fallbacks", cause, i)
                _check_reference(file, path, target_name, config, names)
    for i, budget in enumerate(config.budgets):
        _check_budget(file, ("budgets", i), budget, config)
    for i, name in enumerate(config.host.preload):
        if name not in names or not _is_hosted(config, name):
            raise file.error(("host", "preload", i), f"{name!r} is no target with a local model")
    pinned = {target.target for target in config.targets if target.pinned}
    for group_name, group in config.host.groups.items():
        _check_group(file, ("host", "groups", group_name), group, config, names, pinned)


def check_rules(file: YamlFile, config: Config) -> None:
    """The same for the rules and what is expected of them; the policies' options can be read."""
    names = {name for target in config.targets for name in (target.target, *target.alias)}
    for name, model in config.models.items():
        for policy in (model.policy, *(tier.policy for tier in model.downgrade)):
            if policy is not None:
                _check_targets_of(file, ("models", name), policy, config, names)
                _check_strategy(file, ("models", name), policy, model)
    rules: set[str] = set()
    for i, rule in enumerate(config.rules):
        _check_rule(file, ("rules", i), rule, config, names)
        if rule.name in rules:
            raise file.error(("rules", i, "name"), f"{rule.name!r} is there twice")
        rules.add(rule.name)
    for i, expected in enumerate(config.expect):
        _check_expectation(file, ("expect", i), expected, rules)


def _check_policy(file: YamlFile, path: Path_, policy: Policy) -> None:
    """Whether there is such a policy; its options are checked as they are read."""
    name, _ = policy_of(policy)
    if not name:
        raise file.error((*path, "name"), "is missing: the name of the policy")
    try:
        policy_registry.find(name)
    except KeyError:
        known = ", ".join(policy_registry.names())
        raise file.error(
            path, f"unknown policy {name!r}; known: {known}, or the path of a file '.py'"
        ) from None
    except ValueError as error:
        raise file.error(path, str(error)) from None


def _check_targets_of(
    file: YamlFile, path: Path_, policy: Policy, config: Config, names: set[str]
) -> None:
    """Whether what a policy's options name can be targets, of which they know no other names."""
    for target in getattr(policy_registry.make(*policy_of(policy)), "targets", ()):
        if not is_tier(target) and ("/" not in target or "*" in target):
            raise file.error(
                (*path, "policy"), f"{target!r} is no target; write provider/model or tier:NAME"
            )
        _check_reference(file, (*path, "policy"), target, config, names)


def _check_strategy(file: YamlFile, path: Path_, policy: Policy, model: VirtualModel) -> None:
    """Whether how a policy has its targets asked can be carried out."""
    strategy = getattr(policy_registry.make(*policy_of(policy)), "strategy", None)
    if strategy is not None and not isinstance(strategy, Strategy):
        raise file.error((*path, "policy"), f"its strategy is a {type(strategy).__name__}")
    if strategy is not None and model.hedge is not None:
        name, _ = policy_of(policy)
        raise file.error((*path, "hedge"), f"is not for the policy {name!r}; remove one of them")
    if isinstance(strategy, Cascade) and strategy.schema is not None:
        try:
            check_schema(strategy.schema, "schema")
        except InvalidRequest as error:
            raise file.error((*path, "policy"), error.message) from None


def _check_name(file: YamlFile, path: Path_, name: str) -> None:
    """A name may stand in headers, logs and lists."""
    if not name or name != name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        raise file.error(
            path,
            f"a name is 1 to {LONGEST_NAME} printable characters without white space around it",
        )


def _check_provider(file: YamlFile, name: str, provider: Provider) -> None:
    path: Path_ = ("providers", name)
    _check_name(file, path, name)
    if "/" in name:
        raise file.error(path, "a provider's name has no '/'")
    if provider.adapter not in adapter_registry.names():
        known = ", ".join(adapter_registry.names())
        raise file.error(
            (*path, "adapter"), f"unknown adapter {provider.adapter!r}; known: {known}"
        )
    if provider.base_url is None and adapter_registry.needs_base_url(provider.adapter):
        raise file.error((*path, "base_url"), "is missing; e.g. https://api.example.com/v1")
    for key in adapter_registry.needs(provider.adapter):
        if not getattr(provider, key):
            raise file.error((*path, key), f"is missing; {provider.adapter!r} needs it")
    for key in OF_CLOUDS:
        text = getattr(provider, key)
        if text is not None and not (text and text.isprintable()):
            raise file.error((*path, key), "must be printable text")
    if provider.region is not None and not _REGION.fullmatch(provider.region):
        raise file.error((*path, "region"), "is no region; e.g. us-east-1")
    _check_endpoints(file, (*path, "endpoints"), provider)
    if provider.adaptive is not None and provider.adaptive.least > provider.adaptive.most:
        raise file.error((*path, "adaptive", "least"), "is more than 'most'")
    if provider.health is not None and not adapter_registry.lists(provider.adapter):
        raise file.error(
            (*path, "health"),
            f"asks for a list of models, and {provider.adapter!r} has none; remove it",
        )
    for key, url in (("base_url", provider.base_url), ("proxy", provider.proxy)):
        if url is not None:
            _check_url(file, (*path, key), url)
    for header, text in provider.headers.items():
        if any(c in header + text for c in "\r\n\0"):
            raise file.error((*path, "headers", header), "must not contain line breaks or NUL")
    _check_unpriced(file, (*path, "unpriced"), provider.unpriced)
    if provider.api_key is not None and not provider.api_key.isprintable():
        raise file.error((*path, "api_key"), "must not contain line breaks or control characters")
    _check_keys(file, path, provider)


def _check_keys(file: YamlFile, path: Path_, provider: Provider) -> None:
    """Whether several keys are what the provider has; none of them is quoted."""
    if provider.api_keys and provider.api_key is not None:
        raise file.error((*path, "api_keys"), "and 'api_key' exclude each other; list all of them")
    if provider.api_keys and adapter_registry.is_hosted(provider.adapter):
        raise file.error((*path, "api_keys"), f"are not for {provider.adapter!r}; remove this")
    for i, key in enumerate(provider.api_keys):
        if not key or not key.isprintable():
            raise file.error((*path, "api_keys", i), "must be printable, and not empty")
        if key in provider.api_keys[:i]:
            raise file.error((*path, "api_keys", i), "is there twice")


def _check_endpoints(file: YamlFile, path: Path_, provider: Provider) -> None:
    if (provider.adapter == "http") != (provider.endpoints is not None):
        raise file.error(path, "are what 'adapter: http' needs, and no other has")
    if provider.endpoints is not None:
        for where, problem in provider.endpoints.problems():
            raise file.error((*path, *where), problem)


def _check_url(file: YamlFile, path: Path_, url: str) -> None:
    """The URL itself is never quoted: it may come from the environment, and hold a password."""
    schemes = ("http", "https", "socks5", "socks5h") if path[-1] == "proxy" else ("http", "https")
    problem = file.error(path, f"is no URL; expected {'://host or '.join(schemes)}://host")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise problem from None
    if parts.scheme not in schemes or not parts.hostname or port == 0:
        raise problem
    if path[-1] == "base_url" and ("@" in parts.netloc or parts.query or parts.fragment):
        raise file.error(path, "must have no user, query or fragment; put secrets into 'api_key'")


def _check_target(
    file: YamlFile, path: Path_, target: Target, config: Config, names: set[str]
) -> None:
    provider, _, model = target.target.partition("/")
    if not model:
        raise file.error((*path, "target"), f"{target.target!r} is not of the form provider/model")
    if provider not in config.providers:
        raise file.error(
            (*path, "target"), f"there is no provider {provider!r}; add it under 'providers'"
        )
    for field in ("alias", "model", "tiers", "vector_space", "limits"):
        if model == "*" and getattr(target, field) not in (None, [], Limits()):
            raise file.error((*path, field), "is of one target, and 'provider/*' stands for many")
    _check_name(file, (*path, "target"), target.target)
    for name in (target.target, *target.alias):
        _check_name(file, (*path, "alias"), name)
        if name in names or name in config.models:
            raise file.error(path, f"the name {name!r} is taken already")
        names.add(name)
    adapter = config.providers[provider].adapter
    is_local = adapter_registry.is_hosted(adapter)
    _check_local_target(file, path, target, is_local=is_local)
    if is_local and model == "*" and config.providers[provider].folder is None:
        # Else every file below the folder that somebody happened to start the server in.
        raise file.error(
            ("providers", provider, "folder"), f"is missing: {target.target!r} is what is in it"
        )
    for i, capability in enumerate(target.capabilities or ()):
        if capability in _ENDPOINTS and capability not in adapter_registry.speaks(adapter):
            raise file.error(
                (*path, "capabilities", i), f"the adapter {adapter!r} has no {capability}"
            )
    if isinstance(target.price, Price):
        _check_price(file, (*path, "price"), target.price)
    elif isinstance(target.price, list):
        _check_dated_prices(file, (*path, "price"), target.price)


def _check_local_target(file: YamlFile, path: Path_, target: Target, *, is_local: bool) -> None:
    for field in _OF_LOCAL_TARGETS:
        given = getattr(target, field)
        if not is_local and given is not None and given is not False:
            raise file.error((*path, field), "is for targets whose provider has 'adapter: local'")
    if target.kept_prompts_mb is not None and target.backend != "mlx":
        raise file.error((*path, "kept_prompts_mb"), "is for targets with 'backend: mlx'")
    if target.target.endswith("/*") and target.pinned:
        raise file.error((*path, "pinned"), "is of one target, and 'provider/*' stands for many")
    if target.gpu_layers is not None and target.backend not in _WITH_LAYERS:
        raise file.error(
            (*path, "gpu_layers"), f"the backend {target.backend!r} has no such number"
        )


def _check_group(
    file: YamlFile,
    path: Path_,
    group: HostGroup,
    config: Config,
    names: set[str],
    pinned: set[str],
) -> None:
    _check_name(file, path, str(path[-1]))
    for i, name in enumerate(group.targets):
        if name not in names or not _is_hosted(config, name):
            raise file.error((*path, "targets", i), f"{name!r} is no target with a local model")
    if group.max_loaded is None and not group.exclusive:
        raise file.error(path, "forbids nothing; give it 'max_loaded', 'exclusive: true' or both")
    inside = pinned.intersection(group.targets)
    if group.exclusive and inside:
        raise file.error(
            (*path, "exclusive"), f"{min(inside)!r} is pinned, and would keep all others out"
        )
    if group.max_loaded is not None and group.max_loaded <= len(inside) < len(set(group.targets)):
        raise file.error(
            (*path, "max_loaded"), "pinned targets leave no place for the others; raise it"
        )


def _is_hosted(config: Config, name: str) -> bool:
    provider = config.providers.get(name.partition("/")[0])
    return provider is not None and adapter_registry.is_hosted(provider.adapter)


def _check_price(file: YamlFile, path: Path_, price: Price) -> None:
    _check_rates(file, path, price)
    for name, rates in price.service_tiers.items():
        _check_rates(file, (*path, "service_tiers", name), rates)
    try:
        price.resolved()
    except ValueError as error:
        raise file.error((*path, "service_tiers"), str(error)) from None


def _check_rates(file: YamlFile, path: Path_, rates: Rates) -> None:
    if rates.input is None and not _charges_pieces(rates):
        raise file.error((*path, "input"), "is missing")
    for field in Rates.__struct_fields__:
        if field not in NO_AMOUNTS:
            _check_amount(file, (*path, field), getattr(rates, field))
    below = -1
    for i, tier in enumerate(rates.tiers):
        for field in PriceTier.__struct_fields__:
            if field != "above_input_tokens":
                _check_amount(file, (*path, "tiers", i, field), getattr(tier, field))
        if tier.above_input_tokens <= below:
            raise file.error((*path, "tiers", i, "above_input_tokens"), "must be above the last")
        below = tier.above_input_tokens


def _charges_pieces(rates: Rates) -> bool:
    """Whether something besides tokens has a price, so that one of tokens may be missing."""
    prices = (rates.per_request, rates.per_generated_image, rates.per_minute)
    return any(price != 0 for price in (*prices, rates.characters, rates.per_search))


def _check_dated_prices(file: YamlFile, path: Path_, prices: list[Price]) -> None:
    if not prices:
        raise file.error(path, "is empty; list prices, or remove this")
    before: date | None = None
    for i, price in enumerate(prices):
        _check_price(file, (*path, i), price)
        if i and (price.since is None or (before is not None and price.since <= before)):
            raise file.error((*path, i, "from"), "must be a day after the one of the price before")
        before = price.since


def _check_unpriced(file: YamlFile, path: Path_, unpriced: Unpriced | None) -> None:
    if isinstance(unpriced, Charge):
        _check_amount(file, (*path, "per_request"), unpriced.per_request)


def _check_reference(
    file: YamlFile, path: Path_, name: str, config: Config, names: set[str]
) -> None:
    """What a virtual model names: a tier that something may have, or a target that may be there."""
    provider, slash, model = name.partition("/")
    if name.startswith("tier:"):
        own = (tier for target in config.targets for tier in target.tiers or ())
        known = dict.fromkeys((*get_args(TierName), LOCAL_TIER, *own))
        if name.removeprefix("tier:") not in known:
            raise file.error(path, f"no target has this tier; known: {', '.join(known)}")
    elif not slash and name not in names:
        raise file.error(
            path, f"{name!r} is neither a target nor an alias; write provider/model or tier:NAME"
        )
    elif slash and provider in config.providers:
        has_any = any(n.startswith(f"{provider}/") and n != f"{provider}/*" for n in names)
        is_found = f"{provider}/*" in names and is_looked_at(config.providers[provider])
        is_there = has_any or is_found if model == "*" else {name, f"{provider}/*"} & names
        if not is_there:
            raise file.error(path, f"there is no target {name!r}; add it under 'targets'")
    elif slash and name not in names and not (config.discover and provider in _discoverable()):
        raise file.error(path, f"there is no provider {provider!r}; add it under 'providers'")


def may_be_there(config: Config, kind: str, name: str) -> bool:
    """Whether there is such a virtual `model`, `target` or `provider`, or may be once it is served.

    What is discovered depends on the environment of the server, so every provider may be that
    discovery knows.
    """
    if kind == "model":
        return name in config.models
    provider = name.partition("/")[0]
    if provider in config.providers:
        names = {target.target for target in config.targets}
        return kind == "provider" or not names.isdisjoint((name, f"{provider}/*"))
    if config.discover and provider in _discoverable():
        return True
    return provider == DEMONSTRATION and not config.targets


def _discoverable() -> set[str]:
    return {*LOCAL_PROVIDERS, *(provider.id for provider in catalog.load().providers)}


def _check_downgrades(
    file: YamlFile, path: Path_, model: VirtualModel, config: Config, names: set[str]
) -> None:
    shares: set[int] = set()
    for i, tier in enumerate(model.downgrade):
        if tier.at_percent in shares:
            raise file.error((*path, i, "at_percent"), f"{tier.at_percent} is there twice")
        shares.add(tier.at_percent)
        if tier.policy is not None:
            _check_policy(file, (*path, i, "policy"), tier.policy)
        for j, target_name in enumerate(tier.targets):
            _check_reference(file, (*path, i, "targets", j), target_name, config, names)


def _check_rule(file: YamlFile, path: Path_, rule: Rule, config: Config, names: set[str]) -> None:
    for model in sorted(rule.when.models or ()):
        if model not in config.models:
            raise file.error((*path, "when", "models"), f"there is no model {model!r}")
    for scope in sorted(rule.when.scopes or ()):
        kind, _, name = scope.partition(":")
        is_caller = scope in budgets.BARE or (kind in _CALLERS and name)
        if not is_caller and "*" not in kind:
            known = ", ".join((*budgets.BARE, *(f"{kind}:..." for kind in _CALLERS)))
            raise file.error((*path, "when", "scopes"), f"{scope!r} is no caller; write {known}")
    for j, name in enumerate(rule.targets or ()):
        _check_reference(file, (*path, "targets", j), name, config, names)
    if rule.targets == ():
        raise file.error((*path, "targets"), "is empty; list targets, or remove this")
    if (rule.weights, rule.constraints, rule.targets) == (None, Constraints(), None):
        raise file.error(path, "does nothing; give it weights, constraints or targets")
    try:
        budgets.time_zone(rule.when.timezone)
    except ValueError as error:
        raise file.error((*path, "when", "timezone"), str(error)) from None
    policies = (
        policy_registry.make(*policy_of(model.policy))
        for name, model in config.models.items()
        if rule.when.models is None or name in rule.when.models
    )
    if rule.weights is not None and not any("weights" in policy.reads for policy in policies):
        raise file.error((*path, "weights"), "are for models whose policy takes weights; none does")


def _check_expectation(file: YamlFile, path: Path_, expected: Expectation, rules: set[str]) -> None:
    for j, name in enumerate(expected.rules or ()):
        if name not in rules:
            raise file.error((*path, "rules", j), f"there is no rule {name!r}")
    if expected.target is None and expected.rules is None and not expected.refused:
        raise file.error(path, "expects nothing; give it a target, rules, or 'refused: true'")
    if expected.target is not None and expected.refused:
        raise file.error((*path, "refused"), "and a target exclude each other")
    try:
        parse_moment(expected.at)
    except ValueError as error:
        raise file.error((*path, "at"), str(error)) from None


def _check_budget(file: YamlFile, path: Path_, budget: Budget, config: Config) -> None:
    problem = budgets.scope_problem(budget.joined_scope)
    if problem is not None:
        raise file.error((*path, "scope"), problem)
    for kind, name in budgets.named_in(budget.joined_scope):
        # Keys, teams and organisations are the ledger's.
        if kind in ("model", "target", "provider") and not may_be_there(config, kind, name):
            raise file.error(
                (*path, "scope"), f"there is no {kind} {name!r}; add it under '{kind}s'"
            )
    problem = budgets.window_problem(budget.window)
    if problem is not None:
        raise file.error((*path, "window"), problem)
    _check_amount(file, (*path, "limit_usd"), budget.limit_usd)
    try:
        budgets.time_zone(budget.timezone)
    except ValueError as error:
        raise file.error((*path, "timezone"), str(error)) from None


def _check_webhook(file: YamlFile, path: Path_, webhook: Webhook) -> None:
    problem = webhooks.url_problem(webhook.url)
    if problem is not None:
        raise file.error((*path, "url"), problem)
    if webhook.format == "slack":
        if webhook.secret is not None:
            raise file.error((*path, "secret"), "is not used by the format slack; remove it")
        return
    if webhook.secret is None:
        raise file.error(
            (*path, "secret"),
            "is missing: messages are signed with it; make one with 'openssl rand -base64 32'",
        )
    try:
        webhooks.signing_key(webhook.secret)
    except ValueError as error:
        raise file.error((*path, "secret"), str(error)) from None


def _check_amount(file: YamlFile, path: Path_, amount: Amount | dict[str, Amount] | None) -> None:
    if amount is None:
        return
    if isinstance(amount, dict):
        if not amount:
            raise file.error(path, "is empty; give an amount, or one for each kind of image")
        for kind, each in amount.items():
            _check_amount(file, (*path, kind), each)
        return
    try:
        parse_usd(amount)
    except ValueError as error:
        raise file.error(path, str(error)) from None
