"""What one attempt costs, and what must be set aside before it: integer nano-USD, rounded up.

Prices are nano-USD per million tokens: $0.15 per million tokens is `150_000_000`. No float takes
part in any amount; `Decimal` only reads an operator's text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation
from typing import Self

PER_TOKENS = 1_000_000
"""Prices are for this many tokens."""

MAX_PRICE_USD = 1_000_000
"""Dearer prices are refused as a mistake of units; the ledger's 64-bit sums rely on a bound."""

_DECIMALS = 9  # a nano-USD is 10**-9 USD


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """The tokens of one attempt, counted as OpenAI does; all counts are 0 or more.

    `input_tokens` and `output_tokens` are totals. The others are parts of them: cache reads,
    cache writes and audio of the input, reasoning and audio of the output;
    `cache_write_1h_tokens` is the part of `cache_write_tokens` kept for an hour.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    input_audio_tokens: int = 0
    reasoning_tokens: int = 0
    output_audio_tokens: int = 0


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
    output: int
    reasoning: int
    output_audio: int
    dearest_input: int
    dearest_output: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What a target charges: nano-USD per million tokens, and `per_request` nano-USD a request.

    None means that the part is charged like its whole: `cached_input`, `cache_write` and
    `input_audio` like `input`, `cache_write_1h` like `cache_write`, `reasoning` and
    `output_audio` like `output`. `tiers` are in ascending order of their threshold.

    `source` names where the price comes from; `as_of` is the date it holds from or, where the
    source gives none, the date of the source. None for a price without any date.

    Raises ValueError for a negative amount or tiers out of order.
    """

    input: int
    output: int
    source: str
    as_of: date | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    input_audio: int | None = None
    reasoning: int | None = None
    output_audio: int | None = None
    per_request: int = 0
    tiers: tuple[Tier, ...] = ()
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
        if self.per_request < 0:
            raise ValueError(f"a price cannot be negative: {self!r}")
        object.__setattr__(self, "_bands", tuple(bands))

    @classmethod
    def free(cls, source: str) -> Self:
        """The price of a target that is declared free, such as a local model."""
        return cls(input=0, output=0, source=source)

    @property
    def dearest_input(self) -> int:
        """The dearest rate any input token can reach: over tiers, cache reads and writes, audio."""
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
        reasoning = _either(self.reasoning, tier.output)
        output_audio = _either(self.output_audio, tier.output)
        inputs = (tier.input, cached_input, cache_write, cache_write_1h, input_audio)
        outputs = (tier.output, reasoning, output_audio)
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
            output=tier.output,
            reasoning=reasoning,
            output_audio=output_audio,
            dearest_input=max(*inputs, below.dearest_input if below else 0),
            dearest_output=max(*outputs, below.dearest_output if below else 0),
        )

    def _band_at(self, input_tokens: int) -> _Band:
        for band in reversed(self._bands):
            if input_tokens > band.above_input_tokens:
                return band
        return self._bands[0]


def cost_nanousd(price: Price, usage: Usage) -> int:
    """What `usage` costs, in nano-USD, rounded up once at the end.

    Never more tokens are charged than the totals count. Where parts overlap (cached audio) or
    exceed their whole, they are charged in the order: audio, cache writes, cache reads, rest;
    providers do not report the overlap, and audio is the dearer of the two.
    """
    band = price._band_at(usage.input_tokens)
    total = _input_cost(price, band, usage) + _output_cost(price, band, usage)
    return _per_token(total) + price.per_request


def hold_nanousd(
    price: Price, *, input_bound_tokens: int, max_output_tokens: int, n: int = 1
) -> int:
    """An upper bound, in nano-USD, of what an attempt can cost.

    It holds for every usage of at most `input_bound_tokens` of input and, over all `n` answers,
    `n * max_output_tokens` of output, however the tokens divide into cached, audio, reasoning.
    Long-prompt tiers count only if the input bound can reach them.
    """
    band = price._band_at(input_bound_tokens)
    total = input_bound_tokens * band.dearest_input + max_output_tokens * n * band.dearest_output
    return _per_token(total) + price.per_request


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


def _input_cost(price: Price, band: _Band, usage: Usage) -> int:
    rest = usage.input_tokens
    audio = min(usage.input_audio_tokens, rest) if price.input_audio is not None else 0
    rest -= audio
    write_1h = min(usage.cache_write_1h_tokens, rest)
    rest -= write_1h
    write = min(max(usage.cache_write_tokens - write_1h, 0), rest)
    rest -= write
    cached = min(usage.cached_tokens, rest)
    rest -= cached
    return (
        rest * band.input
        + cached * band.cached_input
        + write * band.cache_write
        + write_1h * band.cache_write_1h
        + audio * band.input_audio
    )


def _output_cost(price: Price, band: _Band, usage: Usage) -> int:
    rest = usage.output_tokens
    audio = min(usage.output_audio_tokens, rest) if price.output_audio is not None else 0
    rest -= audio
    reasoning = min(usage.reasoning_tokens, rest)
    rest -= reasoning
    return rest * band.output + reasoning * band.reasoning + audio * band.output_audio


def _per_token(total: int) -> int:
    return -(-total // PER_TOKENS)


def _either(rate: int | None, fallback: int) -> int:
    return fallback if rate is None else rate
