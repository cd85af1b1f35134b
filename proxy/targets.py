"""The target table: what is configured, with price, context length and capabilities resolved.

Names of a target: `provider/model`; its aliases; its bare model name (where several providers have
it, the first configured); and where `provider/*` is configured, whatever else that provider has.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import Protocol

import msgspec

from adapters.base import Deadlines, Endpoint, Prefill
from policies.base import Candidate, Capability, Choice, Policy, Route, Sense
from policies.constraints import NO_CONSTRAINTS, Constraints, Screen
from policies.rules import Rule
from policies.strategies import Hedge, Strategy
from proxy import config as cfg
from proxy.causes import Cause
from proxy.clock import Clock
from proxy.errors import InvalidRequest
from proxy.http import HeaderList
from proxy.inventory import NOTHING, Inventory
from proxy.pricing import AUTO, Price

# Targets made on demand behind `provider/*` that are remembered.
_MOST_REMEMBERED = 1_000
_OF_PROMPTS: frozenset[Sense] = frozenset({"prompt", "conversation"})


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
    def screen(self) -> Screen:
        """Which of them can answer what is asked, where what was measured has no say."""
        return Screen(self.candidates)

    @cached_property
    def reads_prompts(self) -> bool:
        """Whether any of that is in what a request says."""
        return not self.reads.isdisjoint(_OF_PROMPTS)

    @cached_property
    def heeds_budgets(self) -> bool:
        """Whether what is left of a budget has a say in where its requests go."""
        return bool(self.downgrades) or "budget" in self.reads

    @cached_property
    def own_constraints(self) -> tuple[Constraints, ...]:
        """Those that hold for every request."""
        return () if self.constraints is NO_CONSTRAINTS else (self.constraints,)

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


class Maker(Protocol):
    """Makes targets of a provider that are configured only by `provider/*`."""

    def knows(self, model: str) -> bool:
        """Whether the provider is known to have this model."""
        ...

    def make(self, model: str) -> Target:
        """The target of any name of a model."""
        ...


class TargetTable:
    """Every target and virtual model of one configuration, and the providers of the targets."""

    def __init__(
        self,
        *,
        targets: Mapping[str, Target],
        aliases: Mapping[str, str],
        models: Mapping[str, VirtualModel],
        wildcards: Mapping[str, Maker],
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
        target = self.targets.get(name) or self.target(name)
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
        self._now = clock.time
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
        now = self._now()
        if not self._begins <= now < self._ends:
            self._table = self._begin(now)
        return self._table

    def _begin(self, now: float) -> TargetTable:
        today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        self._begins = today.timestamp()
        self._ends = (today + timedelta(days=1)).timestamp()
        return self._build(today.date(), self.inventory)


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
