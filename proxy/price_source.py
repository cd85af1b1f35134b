"""Turns the data of the `genai-prices` package into our snapshot: what each model charges, by date.

What cannot be expressed in the rates of `pricing.Price` is left without a price, never with one
that could be too low. The package takes about a second to import, and only this module does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import assert_never

import genai_prices
import msgspec
from genai_prices import types as genai
from genai_prices.data import providers as genai_providers

from proxy import price_book
from proxy.pricing import nanousd

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

# genai-prices' name of a rate -> ours, and the rate that applies where it is missing.
_RATES: Mapping[str, tuple[str, str | None]] = {
    "input_mtok": ("input", None),
    "output_mtok": ("output", None),
    "cache_read_mtok": ("cached_input", "input_mtok"),
    "cache_write_mtok": ("cache_write", "input_mtok"),
    "cache_write_1h_mtok": ("cache_write_1h", "cache_write_mtok"),
    "input_audio_mtok": ("input_audio", "input_mtok"),
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

# Cached audio is charged as audio, which is at least as dear: see `_is_bounded`.
_CACHED_AUDIO = "cache_audio_read_mtok"

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
    return price_book.Snapshot(
        source=f"genai-prices {genai_prices.__version__}",
        as_of=as_of,
        providers=tuple(
            _provider(provider)
            for provider in sorted(genai_providers, key=lambda provider: provider.id)
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
    if _CACHED_AUDIO in stored and stored[_CACHED_AUDIO] > stored["input_audio_mtok"]:
        return False
    if any(isinstance(stored[key], genai.TieredPrices) for key in stored.keys() - set(_TIERED)):
        return False
    return stored.keys() <= _RATES.keys() | _TOOL_FEES | {_PER_REQUEST, _CACHED_AUDIO}


def _dated_rates(model: genai.ModelInfo) -> Iterator[price_book.DatedRates]:
    last: price_book.DatedRates | None = None
    for since in (None, *sorted(_start_dates(model))):
        rates = _dearest(_reachable(model, since))
        if rates != last:
            yield msgspec.structs.replace(rates, since=since)
        last = rates


def _start_dates(model: genai.ModelInfo) -> set[date]:
    return {
        each.constraint.start_date
        for each in _conditional(model)
        if isinstance(each.constraint, genai.StartDateConstraint)
    }


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


def _dearest(prices: Sequence[genai.ModelPrice]) -> price_book.DatedRates:
    """The prices as one, rate by rate the dearest."""
    requests = max(_value(each, _PER_REQUEST, 0) or Decimal(0) for each in prices)
    table = {
        **_rates(prices, tuple(_RATES), 0),
        "per_request": nanousd(requests / 1000),
        "tiers": [
            {"above": above, **_rates(prices, _TIERED, above + 1)} for above in _thresholds(prices)
        ],
    }
    return msgspec.convert(table, price_book.DatedRates)


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
