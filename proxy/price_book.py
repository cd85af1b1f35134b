"""Looks up prices in the snapshot that ships with the package (`prices.json`).

The snapshot is written by `proxy.price_snapshot`; reading it needs nothing but this module and
takes a few milliseconds, so it is done once, when targets are resolved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Self, assert_never

import msgspec

from proxy.pricing import Price, Tier

SNAPSHOT = Path(__file__).with_name("prices.json")
"""The packaged snapshot."""

_COMPACT_DATE = re.compile(r"-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=[-:]|$)")


class Equals(msgspec.Struct, frozen=True, array_like=True, tag="equals"):
    """The name is `text`. Like every text here but a pattern, `text` is in lower case."""

    text: str


class StartsWith(msgspec.Struct, frozen=True, array_like=True, tag="starts"):
    """The name starts with `text`."""

    text: str


class EndsWith(msgspec.Struct, frozen=True, array_like=True, tag="ends"):
    """The name ends with `text`."""

    text: str


class Contains(msgspec.Struct, frozen=True, array_like=True, tag="contains"):
    """`text` occurs in the name."""

    text: str


class Matches(msgspec.Struct, frozen=True, array_like=True, tag="regex"):
    """The pattern, case-sensitive, is found somewhere in the name, which is in lower case."""

    pattern: str


class AnyOf(msgspec.Struct, frozen=True, array_like=True, tag="any"):
    """At least one clause holds."""

    clauses: tuple[Clause, ...]


class AllOf(msgspec.Struct, frozen=True, array_like=True, tag="all"):
    """Every clause holds."""

    clauses: tuple[Clause, ...]


Clause = Equals | StartsWith | EndsWith | Contains | Matches | AnyOf | AllOf


class TierRates(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A long-prompt tier, field for field `pricing.Tier`."""

    above: int
    input: int
    output: int = 0
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None


class Rates(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Rates of one service tier, field for field `pricing.Price`, with its units and its None.

    No output rate means that the source charges for input only, as it does for embeddings.
    """

    input: int
    output: int = 0
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    input_audio: int | None = None
    input_image: int | None = None
    reasoning: int | None = None
    output_audio: int | None = None
    per_request: int = 0
    tiers: tuple[TierRates, ...] = ()


class DatedRates(Rates, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The rates in force from `since` (UTC) on; None is "from the first day"."""

    since: date | None = None
    service_tiers: dict[str, Rates] = {}

    def price(self, *, source: str, known_at: date) -> Price:
        """These rates as a price from `source`, whose data are of `known_at`."""

        def price_of(rates: Rates, service_tiers: Mapping[str, Price]) -> Price:
            return Price(
                input=rates.input,
                output=rates.output,
                cached_input=rates.cached_input,
                cache_write=rates.cache_write,
                cache_write_1h=rates.cache_write_1h,
                input_audio=rates.input_audio,
                input_image=rates.input_image,
                reasoning=rates.reasoning,
                output_audio=rates.output_audio,
                per_request=rates.per_request,
                tiers=tuple(
                    Tier(
                        above_input_tokens=tier.above,
                        input=tier.input,
                        output=tier.output,
                        cached_input=tier.cached_input,
                        cache_write=tier.cache_write,
                        cache_write_1h=tier.cache_write_1h,
                    )
                    for tier in rates.tiers
                ),
                service_tiers=service_tiers,
                source=source,
                as_of=self.since or known_at,
                known_at=known_at,
            )

        return price_of(
            self, {name: price_of(rates, {}) for name, rates in self.service_tiers.items()}
        )


class Model(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """One model of a provider: the names it goes by, and its rates in ascending order of date.

    A model without rates is one whose price is unknown or cannot be expressed in our rates. It is
    listed all the same, so that its names do not fall to a broader clause further down.
    """

    id: str
    match: Clause
    context: int | None = None
    rates: tuple[DatedRates, ...] = ()


class Provider(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A provider's models in the order of matching; `fallback` names whose models it also sells."""

    id: str
    fallback: tuple[str, ...] = ()
    models: tuple[Model, ...]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole table, with the package it was made from and the day that was."""

    source: str
    as_of: date
    providers: tuple[Provider, ...]

    @property
    def priced(self) -> int:
        """How many models have a price."""
        return sum(bool(model.rates) for provider in self.providers for model in provider.models)


class PriceBook:
    """Prices and context lengths by the price source's provider id and the model's name.

    `source` names the package that the prices come from, with its version; `as_of` is their date.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.source = snapshot.source
        self.as_of = snapshot.as_of
        self._providers = {provider.id: provider for provider in snapshot.providers}

    @classmethod
    def load(cls, path: Path = SNAPSHOT) -> Self:
        """Read a snapshot, by default the packaged one. Blocks on the file for milliseconds.

        Raises OSError, or msgspec.DecodeError for a file that is no such snapshot.
        """
        return cls(msgspec.json.decode(path.read_bytes(), type=Snapshot))

    def check(self) -> None:
        """Look at every entry; raises ValueError for one on which a lookup would fail.

        Worth its time, a tenth of a second, for a file that did not come with the package.
        """
        for provider in self._providers.values():
            unknown = set(provider.fallback) - self._providers.keys()
            if unknown:
                raise ValueError(f"{provider.id} falls back to the unknown {sorted(unknown)}")
            for model in provider.models:
                _compile(model.match)
                for rates in model.rates:
                    rates.price(source=self.source, known_at=self.as_of)

    def find(self, provider_id: str, model: str, on: date) -> Price | None:
        """The price in force on the UTC day `on`; None where it is unknown.

        A price may change overnight: whoever keeps the answer asks again the next day.
        """
        entry = self._find(provider_id, model)
        if entry is None or not entry.rates:
            return None
        return _in_force(entry.rates, on).price(source=self.source, known_at=self.as_of)

    def context_length(self, provider_id: str, model: str) -> int | None:
        """How many tokens the model's context holds; None where that is unknown."""
        entry = self._find(provider_id, model)
        return None if entry is None else entry.context

    def _find(self, provider_id: str, model: str) -> Model | None:
        provider = self._providers.get(provider_id)
        if provider is None:
            return None
        name = model.lower()
        return self._match(provider, name) or self._match(provider, _with_dashed_date(name))

    def _match(self, provider: Provider, name: str) -> Model | None:
        resold = (self._providers[seller] for seller in provider.fallback)
        for seller in (provider, *resold):
            for model in seller.models:
                if _holds(model.match, name):
                    return model
        return None


def _holds(clause: Clause, name: str) -> bool:
    match clause:
        case Equals(text):
            return name == text
        case StartsWith(text):
            return name.startswith(text)
        case EndsWith(text):
            return name.endswith(text)
        case Contains(text):
            return text in name
        case Matches(pattern):
            return re.search(pattern, name) is not None
        case AnyOf(clauses):
            return any(_holds(each, name) for each in clauses)
        case AllOf(clauses):
            return all(_holds(each, name) for each in clauses)
        case _:
            assert_never(clause)


def _compile(clause: Clause) -> None:
    match clause:
        case Matches(pattern):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no pattern: {error}") from None
        case AnyOf(clauses) | AllOf(clauses):
            for each in clauses:
                _compile(each)
        case _:
            return


def _in_force(rates: Sequence[DatedRates], on: date) -> DatedRates:
    started = [each for each in rates if each.since is None or each.since <= on]
    return started[-1] if started else rates[0]


def _with_dashed_date(name: str) -> str:
    """`gpt-5.2-20251211` as `gpt-5.2-2025-12-11`: some gateways write dates the short way."""
    return _COMPACT_DATE.sub(r"-\1-\2-\3", name)
