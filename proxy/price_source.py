"""Turns the data of the `genai-prices` package into our snapshot: what each model charges, by date.

What cannot be expressed in the rates of `pricing.Price` is left without a price, never with one
that could be too low. The package takes about a second to import, and only this module does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import TypeVar, assert_never

import genai_prices
import msgspec
from genai_prices import types as genai
from genai_prices.data import providers as genai_providers
from genai_prices.update_prices import DEFAULT_UPDATE_URL

from proxy import price_book
from proxy.pricing import AUTO, BATCH, STANDARD_TIERS, nanousd

__all__ = ("DEFAULT_UPDATE_URL", "PROVIDERS", "parse", "snapshot", "snapshot_of")

PROVIDERS = frozenset(
    {
        "anthropic",
        "azure",
        "baseten",
        "cerebras",
        "cloudflare",
        "cohere",
        "deepseek",
        "fireworks",
        "google",
        "groq",
        "meta",
        "minimax",
        "mistral",
        "moonshotai",
        "novita",
        "openai",
        "openrouter",
        "ovhcloud",
        "perplexity",
        "together",
        "voyageai",
        "x-ai",
        "zai",
    }
)
"""Whom the snapshot covers: providers that one reaches over OpenAI's dialect with a key."""

_Rates = TypeVar("_Rates", bound=price_book.Rates)

# genai-prices' name of a rate -> ours, and the rate that applies where it is missing.
_RATES: Mapping[str, tuple[str, str | None]] = {
    "input_mtok": ("input", None),
    "output_mtok": ("output", None),
    "cache_read_mtok": ("cached_input", "input_mtok"),
    "cache_write_mtok": ("cache_write", "input_mtok"),
    "cache_write_1h_mtok": ("cache_write_1h", "cache_write_mtok"),
    "input_audio_mtok": ("input_audio", "input_mtok"),
    "input_image_mtok": ("input_image", "input_mtok"),
    "output_reasoning_mtok": ("reasoning", "output_mtok"),
    "output_audio_mtok": ("output_audio", "output_mtok"),
}
_TIERED = (
    "input_mtok",
    "output_mtok",
    "cache_read_mtok",
    "cache_write_mtok",
    "cache_write_1h_mtok",
)

_PER_REQUEST = "requests_kcount"

# Fees of tools that a request has to ask for; such requests have no bound and are priced nowhere.
_TOOL_FEES = frozenset({"web_searches_kcount", "storage_searches_kcount"})

# What is cached of these is charged as if it were not, which is at least as dear: `_is_bounded`.
_CACHED_MEDIA: Mapping[str, str] = {
    "cache_audio_read_mtok": "input_audio_mtok",
    "cache_image_read_mtok": "input_image_mtok",
}

# The source's key for variants of a price -> the variants that are service tiers; None is all.
# Others are no matter of the tier: a model's fast mode, another route of a reseller.
_SERVICE_TIERS: Mapping[str, frozenset[str] | None] = {
    "service_tier": None,
    "processing": frozenset({BATCH}),
}

# Models that charge for more than the source's token rates say: searches they run unasked,
# images and songs they make, audio whose rate is missing. The first entry of every provider, as
# some clauses are broad: that of gpt-4o-mini would take gpt-4o-mini-search-preview.
_MORE_THAN_TOKENS = r"search-preview|search-api|deep-research|image|audio-preview|lyria"
_CHARGE_MORE = price_book.Model(
    id="charge more than their tokens", match=price_book.Matches(_MORE_THAN_TOKENS)
)
_SEARCHES_ITSELF = re.compile(r"\bsonar\b")


def snapshot(as_of: date) -> price_book.Snapshot:
    """The snapshot of the installed genai-prices, dated `as_of`: the package bears no date."""
    return snapshot_of(
        genai_providers, source=f"genai-prices {genai_prices.__version__}", as_of=as_of
    )


def parse(body: bytes, *, as_of: date) -> price_book.Snapshot:
    """The snapshot of the list that genai-prices publishes for updates.

    Raises ValueError for what is no such list, or for one that this version cannot read.
    """
    # Not through the package's public updater: that reads URLs only, and into its own globals.
    raw = json.loads(body, parse_float=Decimal)
    providers = genai._providers_from_raw(raw)
    return snapshot_of(providers, source=f"genai-prices, list of {as_of}", as_of=as_of)


def snapshot_of(
    providers: Iterable[genai.Provider], *, source: str, as_of: date
) -> price_book.Snapshot:
    """The snapshot of data in the form of genai-prices."""
    return price_book.Snapshot(
        source=source,
        as_of=as_of,
        providers=tuple(
            _provider(provider)
            for provider in sorted(providers, key=lambda provider: provider.id)
            if provider.id in PROVIDERS
        ),
    )


def _provider(provider: genai.Provider) -> price_book.Provider:
    return price_book.Provider(
        id=provider.id,
        fallback=tuple(
            seller for seller in provider.fallback_model_providers or () if seller in PROVIDERS
        ),
        # In the source's order, which is the order of matching.
        models=(_CHARGE_MORE, *(_model(model) for model in provider.models)),
    )


def _model(model: genai.ModelInfo) -> price_book.Model:
    return price_book.Model(
        id=model.id,
        match=_clause(model.match),
        context=model.context_window,
        rates=tuple(_dated_rates(model)) if _is_expressible(model) else (),
    )


def _clause(clause: genai.MatchLogic) -> price_book.Clause:
    match clause:
        case genai.ClauseEquals(text):
            return price_book.Equals(text.lower())
        case genai.ClauseStartsWith(text):
            return price_book.StartsWith(text.lower())
        case genai.ClauseEndsWith(text):
            return price_book.EndsWith(text.lower())
        case genai.ClauseContains(text):
            return price_book.Contains(text.lower())
        case genai.ClauseRegex(pattern):
            return price_book.Matches(pattern)
        case genai.ClauseOr(clauses):
            return price_book.AnyOf(tuple(_clause(each) for each in clauses))
        case genai.ClauseAnd(clauses):
            return price_book.AllOf(tuple(_clause(each) for each in clauses))
        case _:
            assert_never(clause)


def _is_expressible(model: genai.ModelInfo) -> bool:
    if re.search(_MORE_THAN_TOKENS, model.id):
        return False
    conditional = _conditional(model)
    return bool(conditional) and all(_is_bounded(model, each.prices) for each in conditional)


def _is_bounded(model: genai.ModelInfo, prices: genai.ModelPrice) -> bool:
    """Whether `pricing` charges at least what these prices come to."""
    stored = {key: value for key, value in vars(prices).items() if value is not None}
    if not stored:
        # No rates at all is a gap in the data as often as a gift, except where the name says so.
        return model.id.endswith(":free")
    if "input_mtok" not in stored:
        return False
    if _SEARCHES_ITSELF.search(model.id) and _PER_REQUEST not in stored:
        return False
    if any(isinstance(stored[key], genai.TieredPrices) for key in stored.keys() - set(_TIERED)):
        return False
    for cached, whole in _CACHED_MEDIA.items():
        if cached in stored and (whole not in stored or stored[cached] > stored[whole]):
            return False
    return stored.keys() <= _RATES.keys() | _TOOL_FEES | _CACHED_MEDIA.keys() | {_PER_REQUEST}


def _dated_rates(model: genai.ModelInfo) -> Iterator[price_book.DatedRates]:
    last: price_book.DatedRates | None = None
    for since in (None, *sorted(_start_dates(model))):
        prices = _reachable(model, since)
        rates = _dearest(prices, price_book.DatedRates)
        rates = msgspec.structs.replace(rates, service_tiers=_service_tiers(model, prices, since))
        if rates != last:
            yield msgspec.structs.replace(rates, since=since)
        last = rates


def _start_dates(model: genai.ModelInfo) -> set[date]:
    return {
        each.constraint.start_date
        for each in (*_conditional(model), *(model.price_variants or ()))
        if isinstance(each.constraint, genai.StartDateConstraint)
    }


def _service_tiers(
    model: genai.ModelInfo, standard: Sequence[genai.ModelPrice], on: date | None
) -> dict[str, price_book.Rates]:
    """The service tiers that are priced on a day; one that cannot be expressed is left out."""
    tiers: dict[str, price_book.Rates] = {}
    for name, variants in _variants(model).items():
        changes = _changes(variants, on)
        prices = [genai.ModelPrice(**{**vars(each), **changes}) for each in standard]
        if changes and all(_is_bounded(model, price) for price in prices):
            tiers[name] = _dearest(prices, price_book.Rates)
    return tiers


def _variants(model: genai.ModelInfo) -> dict[str, list[genai.PriceVariant]]:
    """The variants of a price that are service tiers, by our name of the tier."""
    found: dict[str, list[genai.PriceVariant]] = {}
    for variant in model.price_variants or ():
        (key, name), *others = variant.when.items()
        if others or key not in _SERVICE_TIERS or name == AUTO or name in STANDARD_TIERS:
            continue
        names = _SERVICE_TIERS[key]
        if names is None or name in names:
            found.setdefault(name, []).append(variant)
    return found


def _changes(
    variants: Sequence[genai.PriceVariant], on: date | None
) -> dict[str, Decimal | genai.TieredPrices]:
    """What the variants in force on a day say otherwise; of two, the first one is meant."""
    changes: dict[str, Decimal | genai.TieredPrices] = {}
    for variant in variants:
        match variant.constraint:
            case genai.TimeOfDateConstraint():
                return {}  # the rates of some hours are none that bound a whole day
            case genai.StartDateConstraint(start_date) if on is None or start_date > on:
                continue
            case None | genai.StartDateConstraint():
                for key, value in vars(variant.prices).items():
                    if value is not None:
                        changes.setdefault(key, value)
            case _:
                assert_never(variant.constraint)
    return changes


def _reachable(model: genai.ModelInfo, on: date | None) -> Sequence[genai.ModelPrice]:
    """Every price in force at some hour of the day `on`; None is a day before all dates.

    The source lets the last price win whose condition holds. A time of day holds for a part of
    the day only, so the search goes on behind it.
    """
    prices: list[genai.ModelPrice] = []
    conditional = _conditional(model)
    for each in reversed(conditional):
        match each.constraint:
            case genai.TimeOfDateConstraint():
                prices.append(each.prices)
            case genai.StartDateConstraint(start_date):
                if on is not None and start_date <= on:
                    return [*prices, each.prices]
            case None:
                return [*prices, each.prices]
            case _:
                assert_never(each.constraint)
    return [*prices, conditional[0].prices]


def _conditional(model: genai.ModelInfo) -> Sequence[genai.ConditionalPrice]:
    if isinstance(model.prices, genai.ModelPrice):
        return [genai.ConditionalPrice(prices=model.prices)]
    return model.prices


def _dearest(prices: Sequence[genai.ModelPrice], kind: type[_Rates]) -> _Rates:
    """The prices as one, rate by rate the dearest."""
    requests = max(_value(each, _PER_REQUEST, 0) or Decimal(0) for each in prices)
    table = {
        **_rates(prices, tuple(_RATES), 0),
        "per_request": nanousd(requests / 1000),
        "tiers": [
            {"above": above, **_rates(prices, _TIERED, above + 1)} for above in _thresholds(prices)
        ],
    }
    return msgspec.convert(table, kind)


def _thresholds(prices: Sequence[genai.ModelPrice]) -> Sequence[int]:
    tiered = [
        value
        for each in prices
        for value in vars(each).values()
        if isinstance(value, genai.TieredPrices)
    ]
    return sorted({tier.start for value in tiered for tier in value.tiers})


def _rates(
    prices: Sequence[genai.ModelPrice], keys: Sequence[str], input_tokens: int
) -> dict[str, int]:
    """The dearest of each rate, by our names; parts that no price sets apart are left out."""
    return {
        _RATES[key][0]: max(nanousd(_effective(each, key, input_tokens)) for each in prices)
        for key in keys
        if _RATES[key][1] is None
        or any(_value(each, key, input_tokens) is not None for each in prices)
    }


def _effective(price: genai.ModelPrice, key: str, input_tokens: int) -> Decimal:
    value = _value(price, key, input_tokens)
    fallback = _RATES[key][1]
    if value is not None:
        return value
    return Decimal(0) if fallback is None else _effective(price, fallback, input_tokens)


def _value(price: genai.ModelPrice, key: str, input_tokens: int) -> Decimal | None:
    """The rate for a prompt of this length; a tier applies to prompts *above* its start."""
    value = vars(price).get(key)
    if not isinstance(value, genai.TieredPrices):
        return value
    reached = [tier.price for tier in value.tiers if input_tokens > tier.start]
    return reached[-1] if reached else value.base
