"""What one attempt costs, and what must be set aside before it: integer nano-USD, rounded up.

Prices are nano-USD per million tokens: $0.15 per million tokens is `150_000_000`. No float takes
part in any amount; `Decimal` only reads an operator's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation
from types import MappingProxyType
from typing import Self

import msgspec

PER_TOKENS = 1_000_000
"""Prices are for this many tokens."""

MAX_PRICE_USD = 1_000_000
"""Dearer prices are refused as a mistake of units; the ledger's 64-bit sums rely on a bound."""

AUTO = "auto"
"""The service tier that leaves the choice to the provider; so does a request that names none."""

BATCH = "batch"
"""The service tier of requests sent in batches; one that is answered at once never gets there."""

STANDARD_TIERS = frozenset({"default", "standard", "standard_only", "on_demand"})
"""What providers call the service tier whose rates are the price itself."""

# OpenAI, Google, Groq and Amazon sell it at or below the standard rates, which bound it therefore.
_NEVER_DEARER = "flex"

_DECIMALS = 9  # a nano-USD is 10**-9 USD
_NO_TIERS: Mapping[str, Price] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Units:
    """What is billed by the piece and not by the token; all counts are 0 or more.

    `image_kind` is the size and the quality of the `generated_images`, as in `1024x1024/high`;
    either may be missing. `characters` are those of a text to be spoken. `document_bytes` has the
    size of each document to be ranked, together with the query; `searches` is what that came to,
    where the provider says.
    """

    generated_images: int = 0
    image_kind: str = ""
    audio_seconds: int = 0
    characters: int = 0
    document_bytes: tuple[int, ...] = ()
    searches: int | None = None


NO_UNITS = Units()


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The tokens of one attempt, counted as OpenAI does; all counts are 0 or more.

    `input_tokens` and `output_tokens` are totals; where both are 0, no tokens were told. The others
    are parts of them: cache reads, cache writes, audio and images of the input, reasoning, audio
    and images of the output; `cache_write_1h_tokens` is the part of `cache_write_tokens` kept for
    an hour. `images` counts the images that were sent, whatever tokens they took; `units` is what
    has a price of its own besides.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    input_audio_tokens: int = 0
    input_image_tokens: int = 0
    reasoning_tokens: int = 0
    output_audio_tokens: int = 0
    output_image_tokens: int = 0
    images: int = 0
    units: Units = NO_UNITS


@dataclass(frozen=True, kw_only=True, slots=True)
class Tier:
    """Rates of a long prompt: for *every* token of a request of more than `above_input_tokens`.

    Nano-USD per million tokens. None is the rate of the whole in this tier: of `input` for the
    caches (of `cache_write` for an hour's), as in `Price`.
    """

    above_input_tokens: int
    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Band:
    """The rates in force from a prompt length on, every fall-back resolved.

    `dearest_*` cover this band and all below it: what a prompt can reach that may be this long.
    """

    above_input_tokens: int
    input: int
    cached_input: int
    cache_write: int
    cache_write_1h: int
    input_audio: int
    input_image: int
    output: int
    reasoning: int
    output_audio: int
    output_image: int
    dearest_input: int
    dearest_output: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What a target charges: nano-USD per million tokens, `per_request` and `image` nano-USD each.

    None means that the part is charged like its whole: `cached_input`, `cache_write`,
    `input_audio` and `input_image` like `input`, `cache_write_1h` like `cache_write`, `reasoning`,
    `output_audio` and `output_image` like `output`. `tiers` are in ascending order of their
    threshold.

    Of `Units`, `characters` is for a million of them, `per_minute` for one of sound, `per_search`
    for each `documents_per_search` documents, where one of more than `document_tokens` counts as
    several. `per_generated_image` may depend on `Units.image_kind`, or its size or quality alone;
    the dearest is for what is not named.

    `service_tiers` are the prices at which a provider serves the same model faster, slower or in
    batches, by the name it answers with; each is complete, and has none of its own.

    `source` names where the price comes from; `as_of` is the date it holds from or, where the
    source gives none, the date of the source; `known_at` is the date of the source, which vouched
    for it then. None for a price without such a date.

    Raises ValueError for a negative amount, tiers out of order, service tiers within service
    tiers or under a name of the standard one.
    """

    input: int
    output: int
    source: str
    as_of: date | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    input_audio: int | None = None
    input_image: int | None = None
    reasoning: int | None = None
    output_audio: int | None = None
    output_image: int | None = None
    image: int = 0
    per_request: int = 0
    per_generated_image: int | Mapping[str, int] = 0
    per_minute: int = 0
    characters: int = 0
    per_search: int = 0
    documents_per_search: int = 100
    document_tokens: int | None = None
    tiers: tuple[Tier, ...] = ()
    service_tiers: Mapping[str, Price] = field(default_factory=lambda: _NO_TIERS)
    known_at: date | None = None
    _bands: tuple[_Band, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        base = Tier(
            above_input_tokens=-1,
            input=self.input,
            output=self.output,
            cached_input=self.cached_input,
            cache_write=self.cache_write,
            cache_write_1h=self.cache_write_1h,
        )
        bands: list[_Band] = []
        for tier in (base, *self.tiers):
            bands.append(self._band(tier, bands[-1] if bands else None))
        if min(self.image, *self._unit_prices) < 0:
            raise ValueError(f"a price cannot be negative: {self!r}")
        if self.documents_per_search < 1 or self.document_tokens == 0:
            raise ValueError(f"searches are of at least one document and token: {self!r}")
        for name, price in self.service_tiers.items():
            if name == AUTO or name in STANDARD_TIERS:
                raise ValueError(f"the rates of the service tier {name!r} are those of the price")
            if price.service_tiers:
                raise ValueError(f"the service tier {name!r} cannot have service tiers itself")
        object.__setattr__(self, "_bands", tuple(bands))

    @classmethod
    def free(cls, source: str) -> Self:
        """The price of a target that is declared free, such as a local model."""
        return cls(input=0, output=0, source=source)

    @property
    def is_free(self) -> bool:
        """Whether nothing is ever charged, in whatever service tier."""
        charges = self.dearest_input, self.dearest_output, self.image, *self._unit_prices
        return not any(charges) and all(tier.is_free for tier in self.service_tiers.values())

    @property
    def charges_tokens(self) -> bool:
        """Whether tokens are charged, in whatever service tier."""
        prices = (self, *self.service_tiers.values())
        return any(price.dearest_input or price.dearest_output for price in prices)

    @property
    def charges_output(self) -> bool:
        """Whether tokens of output are charged, in whatever service tier."""
        return any(price.dearest_output for price in (self, *self.service_tiers.values()))

    @property
    def charges_units(self) -> bool:
        """Whether anything of `Units` is charged, in whatever service tier."""
        return any(any(p._unit_prices[1:]) for p in (self, *self.service_tiers.values()))

    @property
    def fee(self) -> int:
        """What a request costs besides tokens, where it asks for little: for comparisons."""
        small = Units(generated_images=1, audio_seconds=60, characters=1_000, searches=1)
        return self.per_request + _unit_cost(self, small)

    @property
    def _unit_prices(self) -> tuple[int, ...]:
        images = self.per_generated_image
        by_kind = (images,) if isinstance(images, int) else tuple(images.values())
        if not by_kind:
            raise ValueError("there is no kind of image that 'per_generated_image' has a price for")
        return self.per_request, self.per_minute, self.characters, self.per_search, *by_kind

    def bounds(self, service_tier: str | None) -> bool:
        """Whether every rate is known that a request for this service tier may be billed at.

        A tier of unknown price may cost anything, but for one that is only ever a discount.
        """
        return (
            service_tier is None
            or service_tier in (AUTO, _NEVER_DEARER)
            or service_tier in STANDARD_TIERS
            or service_tier in self.service_tiers
        )

    def billed_at(self, service_tier: str | None) -> Price:
        """The price in a service tier; the standard one where that has no rates of its own."""
        return self.service_tiers.get(service_tier, self) if service_tier else self

    def reachable(self, service_tier: str | None) -> tuple[Price, ...]:
        """Every price at which a request for this service tier may be billed.

        Where the tier is left to the provider, it may be any (OpenAI: the project's own); where
        one is named, it is that or, as none is guaranteed, the standard one.
        """
        if service_tier is not None and service_tier != AUTO:
            return self, self.billed_at(service_tier)
        tiers = self.service_tiers.items()
        return (self, *(price for name, price in tiers if name != BATCH))

    @property
    def dearest_input(self) -> int:
        """The dearest rate any input token can reach: over tiers, caches, audio and images."""
        return self._bands[-1].dearest_input

    @property
    def dearest_output(self) -> int:
        """The dearest rate any output token can reach: over tiers, reasoning and audio."""
        return self._bands[-1].dearest_output

    def _band(self, tier: Tier, below: _Band | None) -> _Band:
        cached_input = _either(tier.cached_input, tier.input)
        cache_write = _either(tier.cache_write, tier.input)
        cache_write_1h = _either(tier.cache_write_1h, cache_write)
        input_audio = _either(self.input_audio, tier.input)
        input_image = _either(self.input_image, tier.input)
        reasoning = _either(self.reasoning, tier.output)
        output_audio = _either(self.output_audio, tier.output)
        output_image = _either(self.output_image, tier.output)
        caches = (cached_input, cache_write, cache_write_1h)
        inputs = (tier.input, *caches, input_audio, input_image)
        outputs = (tier.output, reasoning, output_audio, output_image)
        if min(*inputs, *outputs) < 0:
            raise ValueError(f"a price cannot be negative: {self!r}")
        if below is not None and tier.above_input_tokens <= below.above_input_tokens:
            raise ValueError(f"price tiers must be in ascending order: {self.tiers!r}")
        return _Band(
            above_input_tokens=tier.above_input_tokens,
            input=tier.input,
            cached_input=cached_input,
            cache_write=cache_write,
            cache_write_1h=cache_write_1h,
            input_audio=input_audio,
            input_image=input_image,
            output=tier.output,
            reasoning=reasoning,
            output_audio=output_audio,
            output_image=output_image,
            dearest_input=max(*inputs, below.dearest_input if below else 0),
            dearest_output=max(*outputs, below.dearest_output if below else 0),
        )

    def _band_at(self, input_tokens: int) -> _Band:
        if not self.tiers:
            return self._bands[0]
        for band in reversed(self._bands):
            if input_tokens > band.above_input_tokens:
                return band
        return self._bands[0]


def cost_nanousd(price: Price, usage: Usage, *, service_tier: str | None = None) -> int:
    """What `usage` costs in a service tier, in nano-USD, rounded up once at the end.

    Never more tokens are charged than the totals count. Where parts overlap (cached audio) or
    exceed their whole, they are charged in the order: audio, images, cache writes, cache reads,
    rest; providers do not report the overlap, and audio is the dearer of the two.
    """
    if price.service_tiers:
        price = price.billed_at(service_tier)
    band = price._band_at(usage.input_tokens)
    total = _input_cost(price, band, usage) + _output_cost(price, band, usage)
    cost = -(-total // PER_TOKENS) + usage.images * price.image + price.per_request
    return cost if usage.units is NO_UNITS else cost + _unit_cost(price, usage.units)


def plain_nanousd(price: Price, input_tokens: int, output_tokens: int) -> int:
    """What so many tokens cost at the standard rates, none of them of a rate of its own."""
    band = price._band_at(input_tokens)
    total = input_tokens * band.input + output_tokens * band.output
    return -(-total // PER_TOKENS) + price.per_request


def hold_nanousd(
    price: Price,
    *,
    input_bound_tokens: int,
    max_output_tokens: int,
    n: int = 1,
    images: int = 0,
    units: Units = NO_UNITS,
    service_tier: str | None = None,
) -> int:
    """An upper bound, in nano-USD, of what an attempt can cost.

    It holds for every usage of at most `input_bound_tokens` of input, `images` images, `units`
    (the images of any kind) and, over all `n` answers, `n * max_output_tokens` of output, however
    the tokens divide into cached, audio, reasoning; in every service tier that `Price.reachable`
    names for the one asked for. Long-prompt tiers count only if the input bound can reach them.
    """
    if units.image_kind:
        units = replace(units, image_kind="")
    output = max_output_tokens * n
    if not price.service_tiers:
        return _bound(price, input_bound_tokens, output, images, units)
    prices = price.reachable(service_tier)
    return max(_bound(each, input_bound_tokens, output, images, units) for each in prices)


def parse_usd(value: int | float | str) -> int:
    """An operator's price in USD, per million tokens or per request, as nano-USD, rounded up.

    A float counts as the decimal number it prints as, so that `0.15` in YAML means 0.15.
    Raises ValueError for what is no number, is negative, not finite or above `MAX_PRICE_USD`.
    """
    if isinstance(value, bool):
        raise ValueError(f"an amount must be a number of USD, not {value!r}")
    try:
        usd = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"an amount must be a number of USD, not {value!r}") from None
    if not usd.is_finite():
        raise ValueError(f"an amount must be finite, not {value!r}")
    if not 0 <= usd <= MAX_PRICE_USD:
        raise ValueError(f"an amount must be between 0 and {MAX_PRICE_USD} USD, not {value!r}")
    return nanousd(usd)


def nanousd(usd: Decimal) -> int:
    """A finite amount of USD up to `MAX_PRICE_USD` as nano-USD, rounded up."""
    # Rounding up to 28 digits and then to a whole number is rounding up once; going through a
    # context keeps `Decimal("1e-999999")` from becoming a ratio of a million digits.
    scaled = usd.scaleb(_DECIMALS, Context(prec=28, rounding=ROUND_CEILING))
    return int(scaled.to_integral_value(ROUND_CEILING))


def format_usd(amount_nanousd: int) -> str:
    """An amount for people: exact, with at least two decimals. `$0.000025`, `-$1.50`."""
    whole, rest = divmod(abs(amount_nanousd), 10**_DECIMALS)
    decimals = f"{rest:0{_DECIMALS}d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount_nanousd < 0 else ''}${whole:,}.{decimals}"


def _bound(price: Price, input_tokens: int, output_tokens: int, images: int, units: Units) -> int:
    band = price._band_at(input_tokens)
    total = input_tokens * band.dearest_input + output_tokens * band.dearest_output
    cost = -(-total // PER_TOKENS) + images * price.image + price.per_request
    return cost if units is NO_UNITS else cost + _unit_cost(price, units)


def _unit_cost(price: Price, units: Units) -> int:
    """What the units cost, each kind rounded up; images of no known kind as the dearest."""
    cost = units.generated_images * _image_price(price.per_generated_image, units.image_kind)
    cost += -(-units.audio_seconds * price.per_minute // 60)
    cost += -(-units.characters * price.characters // PER_TOKENS)
    return cost + _searches(price, units) * price.per_search if price.per_search else cost


def _image_price(prices: int | Mapping[str, int], kind: str) -> int:
    if isinstance(prices, int):
        return prices
    size, _, quality = kind.partition("/")
    named = (prices[key] for key in (kind, size, quality) if key in prices)
    return next(named, max(prices.values()))


def _searches(price: Price, units: Units) -> int:
    """The searches, as the provider counts them or, as a token is at least one byte, at most."""
    if units.searches is not None:
        return units.searches
    documents = len(units.document_bytes)
    if price.document_tokens is not None:
        documents = sum(max(1, -(-size // price.document_tokens)) for size in units.document_bytes)
    return -(-documents // price.documents_per_search)


def _input_cost(price: Price, band: _Band, usage: Usage) -> int:
    # Most usages have few parts, and many none: those that are 0 cost no more than the look.
    rest, cost = usage.input_tokens, 0
    if usage.input_audio_tokens and price.input_audio is not None:
        audio = min(usage.input_audio_tokens, rest)
        rest, cost = rest - audio, audio * band.input_audio
    if usage.input_image_tokens and price.input_image is not None:
        image = min(usage.input_image_tokens, rest)
        rest, cost = rest - image, cost + image * band.input_image
    if usage.cache_write_tokens or usage.cache_write_1h_tokens:
        write_1h = min(usage.cache_write_1h_tokens, rest)
        write = min(max(usage.cache_write_tokens - write_1h, 0), rest - write_1h)
        rest -= write_1h + write
        cost += write * band.cache_write + write_1h * band.cache_write_1h
    if usage.cached_tokens:
        cached = min(usage.cached_tokens, rest)
        rest, cost = rest - cached, cost + cached * band.cached_input
    return cost + rest * band.input


def _output_cost(price: Price, band: _Band, usage: Usage) -> int:
    rest, cost = usage.output_tokens, 0
    if usage.output_audio_tokens and price.output_audio is not None:
        audio = min(usage.output_audio_tokens, rest)
        rest, cost = rest - audio, audio * band.output_audio
    if usage.output_image_tokens and price.output_image is not None:
        image = min(usage.output_image_tokens, rest)
        rest, cost = rest - image, cost + image * band.output_image
    if usage.reasoning_tokens:
        reasoning = min(usage.reasoning_tokens, rest)
        rest, cost = rest - reasoning, cost + reasoning * band.reasoning
    return cost + rest * band.output


def _either(rate: int | None, fallback: int) -> int:
    return fallback if rate is None else rate
