"""The target table: what is configured, with price, context length and capabilities resolved.

Names of a target: `provider/model`; its aliases; its bare model name (where several providers have
it, the first configured); and where `provider/*` is configured, whatever else that provider has.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, partial
from itertools import islice
from urllib.parse import urlsplit

import msgspec

from adapters import registry as adapter_registry
from adapters.base import Deadlines, Endpoint, Prefill
from policies import registry as policy_registry
from policies.base import Candidate, Capability, Choice, Policy, Route, Sense
from policies.constraints import NO_CONSTRAINTS, Constraints
from policies.rules import Rule
from policies.strategies import Hedge, Strategy
from proxy import catalog
from proxy import config as cfg
from proxy.causes import Cause
from proxy.clock import Clock
from proxy.errors import InvalidRequest
from proxy.http import HeaderList
from proxy.inventory import NOTHING, FoundModel, Inventory
from proxy.policy_options import spelt_out
from proxy.price_book import PriceBook
from proxy.pricing import AUTO, Price, parse_usd

# What a target is taken to do where neither the configuration nor the catalogue says.
TEXT_CAPABILITIES: frozenset[Capability] = frozenset(
    {"chat", "tools", "json_schema", "logprobs", "n"}
)
# What models other than those for text are called, by what they do. The first that matches counts:
# `bge-reranker-v2` is no `bge`.
_KINDS: tuple[tuple[Capability, re.Pattern[str]], ...] = (
    ("rerank", re.compile(r"rerank")),
    # `nomic-embed-text`, `bge-m3`, `multilingual-e5-large`, `all-minilm`, `gte-large` ...
    ("embeddings", re.compile(r"embed|\b(bge|gte|e5|minilm)\b")),
    ("moderations", re.compile(r"\bmoderation\b")),
    ("transcriptions", re.compile(r"whisper|transcribe")),
    ("speech", re.compile(r"\btts\b")),
    ("images", re.compile(r"\b(gpt-image|dall-e|imagen|stable-diffusion|flux)\b")),
)
# OpenAI's o1, o3, o4-mini, gpt-5 …, xAI's grok-4, Google's gemini-2.5 and later, Claude 5 (which
# shows a summary of its thoughts, and thinks unasked).
_HIDES_REASONING = re.compile(
    r"\b(o[1-9]|gpt-[5-9]|grok-[4-9]|gemini-(2\.[5-9]|[3-9])|claude-[a-z]+-[5-9])\b"
)
# Claude 4 thinks where it is asked to, and shows a summary.
_HIDES_ASKED_REASONING = re.compile(r"\bclaude-([a-z]+-4|4)\b")
# The context of a local model of which nothing is said. Its own may be longer than memory holds.
_HOSTED_CONTEXT = 8192
# Of models of the catalogue without a declared quality; the first that holds.
_QUALITY_OF_TIERS = (("best", 0.9), ("auto", 0.8), ("cheap", 0.65), ("fast", 0.65))
# Targets made on demand behind `provider/*` that are remembered.
_MOST_REMEMBERED = 1_000


@dataclass(frozen=True, kw_only=True)
class Target:
    """One concrete model at one provider."""

    name: str
    provider: str
    model: str
    price: Price | None
    context_length: int | None
    max_output_tokens: int | None
    capabilities: frozenset[Capability]
    tiers: frozenset[str]
    vector_space: str | None
    image_tokens: int
    max_tokens_field: str
    stream_usage: bool
    deadlines: Deadlines
    """Those that its adapter keeps."""
    demonstration: bool
    metric_name: str
    """The configured name behind which it is counted: bounded, whatever clients ask for."""
    max_audio_seconds: int | None = None
    """The longest sound that it takes; None if not known."""
    service_tier: str | None = None
    """What the account is billed at where a request leaves the tier open; None if not known."""
    speaks: Set[Endpoint] = frozenset({"chat", "embeddings"})
    """The endpoints whose requests its adapter takes as they are."""
    drop_params: bool = False
    """Whether what it has no parameter for is left out of requests, and told, not refused."""
    reports_cost: bool = False
    """Whether its own word of what an attempt cost is taken."""
    meterable: bool = False
    """Whether it stops generating and billing when a stream is closed early.

    And shows what it generates: the hold of a stream follows what was seen.
    """
    hides_asked_reasoning: bool = False
    """Whether it bills reasoning that it does not show where a request asks for reasoning."""
    bills_when_left: bool = False
    """Whether it is known to finish, and bill, an answer that nobody reads any more."""
    is_hosted: bool = False
    """Whether the model host loads it."""
    asked_context: int | None = None
    """The context length that the operator wants it to be given; None leaves it to the adapter."""
    tags: frozenset[str] = frozenset()
    """What else it is good at, by the operator's word, or its own."""
    profile: cfg.Profile = field(default_factory=cfg.Profile)
    """How it performs, by the operator's word."""
    backend: str = ""
    """What runs it: of a local model its backend, else its provider."""
    memory_mb: int | None = 0
    """What a local model takes of this machine; None if not known."""
    region: str | None = None
    zero_retention: bool = False
    quality: Mapping[str, float] = field(default_factory=dict)
    latency_ms: float | None = None
    reliability: float | None = None
    specialisations: frozenset[str] = frozenset()
    defaults: cfg.Defaults = cfg.NO_DEFAULTS
    """What it is sent where the client leaves it out."""
    first_token_s: float | None = None
    """How long an attempt may take to the first token of a stream."""
    whole_s: float | None = None
    """How long one may take in all."""
    prefill: Prefill | None = None
    """How it is asked to go on with an answer that was begun; None where it cannot be."""

    @cached_property
    def is_free(self) -> bool:
        """Whether nothing is ever charged here, so that nothing needs to be held."""
        return self.price is not None and self.price.is_free

    def tier_of(self, asked: str | None) -> str | None:
        """The service tier that a request asks for here, where the account settles open ones."""
        leaves_it_open = asked is None or asked == AUTO
        return self.service_tier or asked if leaves_it_open else asked

    @cached_property
    def default_members(self) -> Mapping[str, bytes]:
        """What a chat that lacks them is sent, as JSON; the maximum is written as money needs."""
        defaults = {"temperature": self.defaults.temperature, "top_p": self.defaults.top_p}
        return {
            name: msgspec.json.encode(value)
            for name, value in defaults.items()
            if value is not None
        }

    @cached_property
    def scopes(self) -> tuple[str, str]:
        """The scopes whose budgets and limits it is under."""
        return f"target:{self.name}", f"provider:{self.provider}"

    @cached_property
    def candidate(self) -> Candidate:
        """The target as policies see it."""
        return Candidate(
            name=self.name,
            capabilities=self.capabilities,
            context_length=self.context_length,
            input_nanousd=self.price.input if self.price else None,
            output_nanousd=self.price.output if self.price else None,
            vector_space=self.vector_space,
            demonstration=self.demonstration,
            fee_nanousd=self.price.fee if self.price else 0,
            backend=self.backend,
            region=self.region,
            zero_retention=self.zero_retention,
            memory_mb=self.memory_mb,
            quality=self.quality,
            specialisations=self.specialisations,
            latency_ms=self.latency_ms,
            reliability=self.reliability,
        )

    @cached_property
    def reply_headers(self) -> HeaderList:
        """The reply headers that name this target."""
        headers = [
            (b"x-tollway-model", self.name.encode("ascii", "backslashreplace")),
            (b"x-tollway-provider", self.provider.encode("ascii", "backslashreplace")),
        ]
        if self.demonstration:
            headers.append((b"x-tollway-demonstration", b"true"))
        return headers

    def route_for(self, capability: Capability) -> Route:
        """The route of a request that names this target; raises `InvalidRequest`.

        Only what kind of model it is is checked: what else it can do its provider knows best.
        """
        if capability not in self.capabilities:
            raise InvalidRequest(f"the model {self.name!r} has no {capability}", param="model")
        choice = Choice(target=self.name, reason="named by the client")
        return Route(policy="named", choices=(choice,))


@dataclass(frozen=True, kw_only=True)
class VirtualModel:
    """A virtual model with its targets found."""

    name: str
    description: str
    policy: Policy
    targets: tuple[Target, ...]
    downgrades: tuple[Downgrade, ...] = ()
    """What it is from a share of a spent budget on, in ascending order."""
    pinned_space: str | None = None
    """The space of the model's full self, where this is a cheaper one."""
    cold_start: cfg.ColdStart = "wait"
    constraints: Constraints = NO_CONSTRAINTS
    fallbacks: Mapping[Cause, tuple[Target, ...]] = field(default_factory=dict)
    """Where a request goes on that failed of a cause."""
    deadlines: cfg.RequestDeadlines = cfg.NO_DEADLINES
    history: cfg.History | None = None
    """How much of a conversation it is sent."""
    rules: tuple[Rule, ...] = ()
    """Those that may hold for it."""
    continues: bool = False
    """Whether a stream of it that breaks goes on at the next target that can take it up."""
    in_place: Mapping[str, VirtualModel] = field(default_factory=dict)
    """What it is where a rule of that name has other targets for it."""
    hedge: Hedge | None = None
    """When a second target is asked, where the policy leaves that open."""

    @cached_property
    def strategy(self) -> Strategy | None:
        """How its targets are asked; None: one after the other."""
        found: Strategy | None = getattr(self.policy, "strategy", None)
        return found or self.hedge

    @cached_property
    def reads(self) -> frozenset[Sense]:
        """What its policy and its rules have to know of a request."""
        return self.policy.reads.union(*(rule.reads for rule in self.rules))

    @cached_property
    def longest_context(self) -> int | None:
        """The longest of its targets' contexts; None where one has no limit that is known."""
        lengths = [target.context_length for target in self.targets]
        return None if None in lengths else max(filter(None, lengths), default=0)

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """The targets as policies see them."""
        return tuple(target.candidate for target in self.targets)

    @cached_property
    def vector_space(self) -> str | None:
        """The one space its embeddings are in: that of its first real target that has any.

        It does not depend on which target is up: vectors of two spaces in one index are worse
        than no answer.
        """
        if self.pinned_space is not None:
            return self.pinned_space
        real_first = sorted(self.targets, key=lambda target: target.demonstration)
        return next((t.vector_space for t in real_first if t.vector_space is not None), None)


@dataclass(frozen=True, kw_only=True)
class Downgrade:
    """A virtual model as it is when `at_percent` of a budget is spent."""

    at_percent: int
    model: VirtualModel


class TargetTable:
    """Every target and virtual model of one configuration, and the providers of the targets."""

    def __init__(
        self,
        *,
        targets: Mapping[str, Target],
        aliases: Mapping[str, str],
        models: Mapping[str, VirtualModel],
        wildcards: Mapping[str, _Maker],
        providers: Mapping[str, cfg.Provider],
        revision: int = 0,
        doubtful: Mapping[str, int] = {},
    ) -> None:
        """`doubtful` are aliases of what was found, with how many wildcards come before it."""
        self.targets = targets
        self.models = models
        self.providers = providers
        self.revision = revision
        self.tags = frozenset[str]().union(*(target.tags for target in targets.values()))
        """All words that targets have for what they are good at."""
        self.has_real_targets = bool(wildcards) or any(
            not target.demonstration for target in targets.values()
        )
        self.aliases = aliases
        self._wildcards = wildcards
        self._doubtful = doubtful
        self._remembered: OrderedDict[str, Target] = OrderedDict()

    def find(self, name: str) -> VirtualModel | Target | None:
        """What a client means by a name."""
        return self.models.get(name) or self.target(name)

    def target(self, name: str) -> Target | None:
        """The target of a name: configured, an alias, a bare id, or behind a wildcard."""
        known = self.targets.get(name)
        if known is None and name not in self._doubtful:
            known = self._of_alias(name)
        return known or self._behind_wildcard(name)

    def known(self, name: str) -> Target:
        """A target that is there, as those are which this table was routed by."""
        target = self.target(name)
        assert target is not None, name
        return target

    def listed(self) -> Iterable[VirtualModel | Target]:
        """Virtual models, then configured targets."""
        yield from self.models.values()
        yield from self.targets.values()

    def _of_alias(self, name: str) -> Target | None:
        return self.targets.get(self.aliases.get(name, ""))

    def _behind_wildcard(self, name: str) -> Target | None:
        if name in self._remembered:
            self._remembered.move_to_end(name)
            return self._remembered[name]
        if not self._wildcards or not _is_sane(name):
            return None
        target = self._make(name)
        if target is not None:
            self._remembered[name] = target
            if len(self._remembered) > _MOST_REMEMBERED:
                self._remembered.popitem(last=False)
        return target

    def _make(self, name: str) -> Target | None:
        provider, slash, model = name.partition("/")
        if slash and model and provider in self._wildcards:
            return self._wildcards[provider].make(model)
        for maker in islice(self._wildcards.values(), self._doubtful.get(name)):
            if maker.knows(name):
                return maker.make(name)
        return self._of_alias(name)


def _is_sane(name: str) -> bool:
    """A name that may go upstream in a request: short, printable, without tricks in the path."""
    return len(name) <= cfg.LONGEST_NAME and name.isprintable() and ".." not in name


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """Makes the targets of one provider."""

    name: str
    provider: cfg.Provider
    prices: str
    """Whose prices its models have."""
    known: Mapping[str, catalog.Model]
    unpriced: cfg.Unpriced
    drop_params: bool
    catalogued: catalog.Provider | None
    """What is known of the service at this address, whatever name the configuration gives it."""
    book: PriceBook
    today: date
    wildcard: cfg.Target | None = None
    """What the configuration says of `provider/*`."""

    def knows(self, model: str) -> bool:
        """Whether the catalogue or the price book has this model at this provider."""
        return model in self.known or self.book.find(self.prices, model, self.today) is not None

    def make(self, model: str) -> Target:
        """A target that is configured only by `provider/*`."""
        assert self.wildcard is not None
        target = msgspec.structs.replace(self.wildcard, target=f"{self.name}/{model}")
        return self.build(target)

    def _speaks(self, target: cfg.Target, model: str) -> Set[Endpoint]:
        if self.provider.endpoints is not None:
            return self.provider.endpoints.speaks
        spoken = adapter_registry.speaks(self.provider.adapter, model)
        # Children of our own take chats alone, and a completion can be told as one.
        return spoken if target.backend in (None, "llama_server") else spoken - {"completions"}

    def _prefill(self, target: cfg.Target, model: str) -> Prefill | None:
        if target.prefill is not None:
            return None if target.prefill == "none" else target.prefill
        if adapter_registry.is_hosted(self.provider.adapter):
            return "plain" if target.backend in (None, "llama_server") else None
        return adapter_registry.prefill(self.provider.adapter, model)

    def build(self, target: cfg.Target, found: FoundModel | None = None) -> Target:
        """A target from its configuration; catalogue, price book and its own word fill in."""
        own_name = target.target.partition("/")[2]
        is_hosted = adapter_registry.is_hosted(self.provider.adapter)
        model = own_name if is_hosted else target.model or own_name
        known = self.known.get(model)
        capabilities = self._capabilities(target, known, model, found)
        told = found.context_length if found is not None else None
        adapter = adapter_registry.BUILT_IN.get(self.provider.adapter)
        deadlines = _narrowed(self.provider.deadlines, target.deadlines)
        return Target(
            name=target.target,
            provider=self.name,
            model=model,
            price=self._price(target, model),
            context_length=target.context_length
            or (known.context_length if known else None)
            or self.book.context_length(self.prices, model)
            or (_hosted_context(told, capabilities) if is_hosted else told),
            max_output_tokens=target.max_output_tokens
            or (known.max_output_tokens if known else None),
            capabilities=capabilities,
            tiers=frozenset(
                target.tiers
                if target.tiers is not None
                else [cfg.LOCAL_TIER]
                if is_hosted and "chat" in capabilities
                else _tiers(known)
            ),
            vector_space=self._vector_space(target, known, capabilities, model),
            image_tokens=target.image_tokens,
            max_audio_seconds=target.max_audio_seconds,
            max_tokens_field=self.provider.max_tokens_field
            or adapter_registry.max_tokens_field(self.provider.adapter),
            stream_usage=_either(
                self.provider.stream_usage, adapter_registry.stream_usage(self.provider.adapter)
            ),
            deadlines=Deadlines(
                connect_s=deadlines.connect_s,
                first_byte_s=target.deadlines.first_byte_s
                or target.timeout_s
                or deadlines.first_byte_s,
                idle_s=deadlines.idle_s,
                silent_s=deadlines.silent_s,
            ),
            demonstration=adapter is not None and adapter.demonstration,
            # What stands behind `provider/*` is counted together: clients may ask for anything.
            metric_name=target.target if self.wildcard is None else self.wildcard.target,
            service_tier=self.provider.service_tier,
            speaks=self._speaks(target, model),
            drop_params=_either(self.provider.drop_params, self.drop_params),
            reports_cost=_either(
                self.provider.reports_cost,
                self.catalogued is not None and self.catalogued.reports_cost,
            ),
            meterable=self._is_meterable(adapter) and not hides_reasoning(model),
            hides_asked_reasoning=_HIDES_ASKED_REASONING.search(model.lower()) is not None,
            bills_when_left=self.provider.meterable is False
            or (self.catalogued is not None and not self._is_meterable(adapter)),
            is_hosted=is_hosted,
            asked_context=target.context_length,
            tags=frozenset(target.tags) | (found.tags if found is not None else frozenset()),
            profile=target.profile,
            backend=(target.backend or "llama_server") if is_hosted else self.name,
            memory_mb=target.needs_mb if is_hosted else 0,
            region=target.region or ("local" if is_hosted else self.provider.region),
            zero_retention=target.zero_retention or is_hosted,
            quality={str(task): share for task, share in target.quality.items()}
            or _assumed_quality(known),
            latency_ms=target.latency_ms,
            reliability=target.reliability,
            specialisations=target.specialisations,
            defaults=target.defaults,
            first_token_s=deadlines.first_token_s,
            whole_s=deadlines.whole_s,
            prefill=self._prefill(target, model),
        )

    def _is_meterable(self, adapter: adapter_registry.Entry | None) -> bool:
        return _either(
            self.provider.meterable,
            (adapter is not None and adapter.meterable)
            or (self.catalogued is not None and self.catalogued.meterable),
        )

    def _price(self, target: cfg.Target, model: str) -> Price | None:
        if target.price == "free":
            return Price.free(source="router.yaml")
        if target.price is None and adapter_registry.is_hosted(self.provider.adapter):
            return Price.free(source="runs on this machine")
        prices = [target.price] if isinstance(target.price, cfg.Price) else target.price or []
        in_force = [each for each in prices if each.since is None or each.since <= self.today]
        if in_force:
            return in_force[-1].resolved()
        known = self.known.get(model)
        if known is not None and known.free:
            return Price.free(source="catalogue")
        return self.book.find(self.prices, model, self.today) or _price_of_unpriced(self.unpriced)

    def _capabilities(
        self,
        target: cfg.Target,
        known: catalog.Model | None,
        model: str,
        found: FoundModel | None,
    ) -> frozenset[Capability]:
        if target.capabilities is not None:
            return frozenset(target.capabilities)
        if known is not None:
            return frozenset(known.capabilities)
        return capabilities_by_name(model) if found is None else capabilities_of(found)

    def _vector_space(
        self,
        target: cfg.Target,
        known: catalog.Model | None,
        capabilities: frozenset[Capability],
        model: str,
    ) -> str | None:
        if "embeddings" not in capabilities:
            return None
        return target.vector_space or (known.vector_space if known else None) or model


def _narrowed(deadlines: cfg.Deadlines, own: cfg.TargetDeadlines) -> cfg.Deadlines:
    """A provider's deadlines with those of a target in their place."""
    given = {
        name: seconds
        for name in cfg.TargetDeadlines.__struct_fields__
        if (seconds := getattr(own, name)) is not None
    }
    return msgspec.structs.replace(deadlines, **given)


def hides_reasoning(model: str) -> bool:
    """Whether a model bills reasoning that it does not show, going by its name."""
    return _HIDES_REASONING.search(model.lower()) is not None


def capabilities_by_name(model: str) -> frozenset[Capability]:
    """What a model that nobody describes is taken to do, going by its name."""
    name = model.lower()
    kind = next((kind for kind, pattern in _KINDS if pattern.search(name)), None)
    return TEXT_CAPABILITIES if kind is None else frozenset({kind})


def capabilities_of(model: FoundModel) -> frozenset[Capability]:
    """What a model does that was found, by its own word if it has one."""
    if model.capabilities is None:
        return capabilities_by_name(model.name)
    return model.capabilities


def _hosted_context(told: int | None, capabilities: frozenset[Capability]) -> int | None:
    if "chat" not in capabilities:
        return None
    return min(told or _HOSTED_CONTEXT, _HOSTED_CONTEXT)


def _tiers(known: catalog.Model | None) -> frozenset[str]:
    return frozenset(known.tiers if known else ())


def _assumed_quality(known: catalog.Model | None) -> Mapping[str, float]:
    """What a model is taken to be worth of which nobody says it, by its tier in the catalogue."""
    tiers = _tiers(known)
    assumed = next((quality for tier, quality in _QUALITY_OF_TIERS if tier in tiers), None)
    return {} if assumed is None else {"general": assumed}


def _either(said: bool | None, otherwise: bool) -> bool:
    return otherwise if said is None else said


def _price_of_unpriced(unpriced: cfg.Unpriced) -> Price | None:
    match unpriced:
        case "refuse":
            return None
        case "free":
            return Price.free("unpriced: free (router.yaml)")
        case cfg.Charge(per_request=amount):
            source = "unpriced: charged per request (router.yaml)"
            return Price(input=0, output=0, per_request=parse_usd(amount), source=source)


def _at(known: catalog.Catalog, provider: cfg.Provider) -> catalog.Provider | None:
    """The catalogue's entry of the service that a provider's requests really go to."""
    base_url = provider.base_url or adapter_registry.base_url(provider.adapter) or ""
    host = urlsplit(base_url).hostname
    return next((p for p in known.providers if urlsplit(p.address).hostname == host), None)


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
    makers: dict[str, _Maker] = {}
    for name, settings in config.providers.items():
        service = _at(known, settings)
        prices = settings.prices or adapter_registry.prices(settings.adapter)
        prices = prices or (service.price_provider if service is not None else name)
        makers[name] = _Maker(
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
    wildcards: dict[str, _Maker] = {}
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


class CurrentTable:
    """The target table of the moment.

    It is made anew on the first look after a UTC day has begun, since prices have dates and a
    server may run for months; and when other models are found. Targets do not change, so that an
    attempt which goes on past that settles at the price that it was held at.
    """

    def __init__(
        self,
        build: Callable[[date, Inventory], TargetTable],
        clock: Clock,
        inventory: Inventory = NOTHING,
    ) -> None:
        self._build = build
        self._clock = clock
        self.inventory = inventory
        """What was found on this machine."""
        self._table = self._begin(clock.time())

    def find(self, inventory: Inventory) -> bool:
        """Take over what was found; whether there is another table for it. Blocks like a call."""
        before, self.inventory = self.inventory, inventory
        if before.providers == inventory.providers:
            return False
        self._table = self._begin(self._clock.time())
        return True

    def __call__(self) -> TargetTable:
        """The table; blocks for milliseconds once a day."""
        now = self._clock.time()
        if not self._begins <= now < self._ends:
            self._table = self._begin(now)
        return self._table

    def _begin(self, now: float) -> TargetTable:
        today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        self._begins = today.timestamp()
        self._ends = (today + timedelta(days=1)).timestamp()
        return self._build(today.date(), self.inventory)


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


def is_configured(kind: str, name: str, table: TargetTable, providers: Container[str]) -> bool:
    """Whether there is such a `model` (a virtual one), `target` or `provider`."""
    match kind:
        case "model":
            return name in table.models
        case "target":
            found = table.target(name)
            return found is not None and found.name == name
        case "provider":
            return name in providers
    raise ValueError(f"{kind!r} is no kind of what is configured")
