"""What an attempt can cost before it is made, and what it did cost. Nano-USD; pure."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import msgspec

from adapters.base import Endpoint
from proxy import pricing
from proxy.metering import SLICE_TOKENS
from proxy.pricing import NO_UNITS
from proxy.targets import Target
from proxy.wire import usage as wire_usage
from proxy.wire.dialect import Request

# Where a target's own maximum is not known: small enough for every model in use.
DEFAULT_MAX_OUTPUT_TOKENS = 4_096
LEAST_OUTPUT_TOKENS = 256

LEAST_CLAMPED_TOKENS = 16
"""A request is not sent for an answer that could not be longer than this."""

OUTPUT = "output"
"""What `unbounded` calls the answer itself, where nothing says how long it can be."""

LOST_TOKENS = 256
LOST_BYTES = LOST_TOKENS * wire_usage.BYTES_PER_TOKEN
"""Output that a dying worker may have relayed since it last reported."""

# A second of sound in tokens, at most: Whisper's encoder makes 50 of it, OpenAI's newer models and
# Gemini about 10 and 32.
AUDIO_TOKENS_PER_SECOND = 50

# Endpoints that have no parameter for the most tokens of output: only the target's own maximum
# bounds them, and no stream of theirs shows its tokens one by one.
_UNCAPPED: frozenset[Endpoint] = frozenset({"images", "transcriptions", "speech"})

# Few texts have more tokens than half their bytes: digits and emoji do.
_BYTES_PER_TOKEN_AT_MOST = 2


class Bounds(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an attempt can cost; `base`, `token` and `least` where it can be metered.

    `floor` is what it has cost at least if its worker dies early, `base` the most that its input
    can cost, `token` one token of output, and `least` what it can begin with.
    """

    most: int
    floor: int
    base: int = 0
    token: int = 0
    least: int | None = None


_NOTHING = Bounds(most=0, floor=0)


def bounds_of(
    request: Request,
    target: Target,
    maximum: int | None,
    default_max: int | None,
    *,
    metered: bool,
    uncounted: int = 0,
) -> Bounds:
    """The bounds of an attempt with a `maximum` output, or the `default_max` where it has none.

    `uncounted` is by how much the request's own bound of its input is above what was counted.
    """
    price = target.price
    if price is None or target.is_free:
        return _NOTHING
    input_tokens, units = request.input_bound(target.image_tokens) - uncounted, request.units
    if units is not NO_UNITS:
        units = _most_units(request, target)
        input_tokens += units.audio_seconds * AUDIO_TOKENS_PER_SECOND
    bound = partial(
        pricing.hold_nanousd,
        price,
        input_bound_tokens=input_tokens,
        images=request.images,
        units=units,
        service_tier=target.tier_of(request.service_tier) if price.service_tiers else None,
    )
    if maximum is None:
        maximum = default_max or target.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS
    most = bound(max_output_tokens=maximum, n=request.n)
    floor = min(most, _floor(request, target, price))
    if not metered:
        return Bounds(most=most, floor=floor)
    base = bound(max_output_tokens=0)
    # Rounded up by itself: a sum of these is never less than the price of the whole.
    token = -(-(bound(max_output_tokens=pricing.PER_TOKENS) - base) // pricing.PER_TOKENS)
    if not token:
        return Bounds(most=most, floor=floor)
    least = min(most, base + SLICE_TOKENS * token)
    return Bounds(most=most, floor=floor, base=base, token=token, least=least)


def is_metered(request: Request, target: Target) -> bool:
    """Whether the hold of an attempt can follow what flows: all that is billed is seen."""
    hides = request.reasons and target.hides_asked_reasoning
    shows = request.stream and request.endpoint not in _UNCAPPED
    return shows and target.meterable and not hides


def default_maximum(request: Request, target: Target, *, bounded: bool = True) -> int | None:
    """The maximum to write into a request that sets none; None where nothing depends on it.

    The operator's default for the target; where the cost must be `bounded`, else the target's own
    maximum, where the context has the room.
    """
    if not _can_be_capped(request):
        return None
    default = target.defaults.max_tokens
    if not bounded or target.price is None or target.is_free:
        return default
    most = target.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS
    context = target.context_length
    if context is not None:
        tokens = request.input_tokens * wire_usage.BYTES_PER_TOKEN // _BYTES_PER_TOKEN_AT_MOST
        if (room := context - tokens) < most:
            most = min(most, max(LEAST_OUTPUT_TOKENS, room))
    return most if default is None else min(most, default)


def affordable_maximum(
    request: Request, target: Target, left_nanousd: int, uncounted: int = 0
) -> int | None:
    """The largest maximum output that so much money can pay for; None where it is no use."""
    if not _can_be_capped(request):
        return None
    bounds = bounds_of(
        request, target, request.max_output_tokens, None, metered=True, uncounted=uncounted
    )
    if not bounds.token:
        return None
    tokens = (left_nanousd - bounds.base) // (bounds.token * request.n)
    return tokens if tokens >= LEAST_CLAMPED_TOKENS else None


def may_fit(request: Request, target: Target, left_nanousd: int, *, uncounted: int) -> bool:
    """Whether so much money could pay for the input, if what may be counted of it were nothing."""
    bounds = bounds_of(request, target, 0, None, metered=False, uncounted=uncounted)
    return bounds.most <= left_nanousd


def unbounded(request: Request, target: Target) -> str | None:
    """The parameter, if any, whose cost at this target has no upper bound."""
    found, price = request.unbounded_at(target.speaks), target.price
    if found is not None or price is None:
        return found
    is_open = request.endpoint in _UNCAPPED and target.max_output_tokens is None
    if is_open and price.charges_output:
        return OUTPUT
    return None if price.bounds(target.tier_of(request.service_tier)) else "service_tier"


def cost_of(
    request: Request, target: Target, usage: pricing.Usage, served_tier: str | None = None
) -> int:
    """What a usage costs in the service tier that the answer names, else in the one asked for.

    Where neither names one, in the standard tier.
    """
    price = target.price
    if price is None:
        return 0
    if request.images and price.image:
        usage = msgspec.structs.replace(usage, images=request.images)
    if request.units is not NO_UNITS and usage.units is NO_UNITS:
        usage = msgspec.structs.replace(usage, units=_most_units(request, target))
    if not price.service_tiers:
        return pricing.cost_nanousd(price, usage)
    tier = served_tier or target.tier_of(request.service_tier)
    return pricing.cost_nanousd(price, usage, service_tier=tier)


def taken(request: Request, target: Target, told: pricing.Usage | None) -> pricing.Usage | None:
    """What an answer tells, if that is all that it is charged for; None where some is not told."""
    if told is None or target.price is None:
        return told
    if not told.input_tokens and not told.output_tokens and target.price.charges_tokens:
        return None
    if told.units is NO_UNITS and request.units is not NO_UNITS and target.price.charges_units:
        return None
    units = told.units
    if units.document_bytes and units.searches is None and target.price.document_tokens is not None:
        return None
    return told


def is_billed_unread(request: Request, target: Target) -> bool:
    """Whether an answer that nobody reads any more is known to be billed.

    What providers say of closed streams does not hold for answers in one piece.
    """
    return target.bills_when_left or (
        target.meterable and not target.is_free and not request.stream
    )


def _floor(request: Request, target: Target, price: pricing.Price) -> int:
    """What an attempt has cost at least whose worker dies early."""
    if request.images or request.units is not NO_UNITS or price.service_tiers:
        seen = wire_usage.estimated(request.input_tokens, LOST_BYTES)
        return cost_of(request, target, seen)
    return pricing.plain_nanousd(price, max(1, request.input_tokens), LOST_TOKENS)


def _can_be_capped(request: Request) -> bool:
    return request.max_output_tokens != 0 and request.endpoint not in _UNCAPPED


def _most_units(request: Request, target: Target) -> pricing.Units:
    """The units of a request, with no more sound than the target takes."""
    units, most = request.units, target.max_audio_seconds
    if most is None or units.audio_seconds <= most:
        return units
    return replace(units, audio_seconds=most)
