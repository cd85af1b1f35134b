"""How a target comes about: from its configuration, the catalogue, prices and its own word."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import date

import msgspec

from adapters import registry as adapter_registry
from adapters.base import Deadlines, Endpoint, Prefill
from policies.base import Capability
from proxy import catalog
from proxy import config as cfg
from proxy.inventory import FoundModel
from proxy.price_book import PriceBook
from proxy.pricing import Price, parse_usd
from proxy.targets import Target

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


@dataclass(frozen=True, kw_only=True)
class TargetMaker:
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
