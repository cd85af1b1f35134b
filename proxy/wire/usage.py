"""Token counts and costs as providers report them, and what we say where they do not."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import msgspec

from proxy.pricing import Usage, nanousd
from proxy.wire.surrogates import without_lone

# Above any real request, below what arithmetic or a database column could choke on.
_MOST_TOKENS = 10**10
# Above what any request costs: a number in another unit, or no cost at all.
_MOST_USD = 10_000
# English averages four bytes a token; the error per language is in docs/money.md.
BYTES_PER_TOKEN = 4
_BYTES_OF_AN_EVENT = 6
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportedCost:
    """What a provider says that an attempt cost, in nano-USD, rounded up.

    None where what it says cannot be true; `problem` tells why.
    """

    nanousd: int | None
    problem: str = ""


class _CostDetails(msgspec.Struct):
    upstream_inference_cost: Decimal | None = None


class _Cost(msgspec.Struct):
    cost: Decimal | None = None
    is_byok: bool | None = None
    cost_details: _CostDetails | None = None


class _Holder(msgspec.Struct):
    usage: _Cost | None = None


_Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST_TOKENS)]


class _Parts(msgspec.Struct, frozen=True):
    """What is told of the parts of a count, by any provider's name for them."""

    cached_tokens: _Count | None = 0
    cache_write_tokens: _Count | None = 0
    ephemeral_1h_input_tokens: _Count | None = 0
    image_tokens: _Count | None = 0
    audio_tokens: _Count | None = 0
    reasoning_tokens: _Count | None = 0


_NO_PARTS = _Parts()
_UNDIVIDED = (None, _NO_PARTS)


class _Counts(msgspec.Struct, frozen=True):
    """A usage object."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    total_tokens: _Count | None = None
    cached_tokens: _Count | None = None
    prompt_cache_hit_tokens: _Count | None = None
    prompt_tokens_details: _Parts | None = None
    completion_tokens_details: _Parts | None = None
    cache_creation: _Parts | None = None

    @property
    def is_undivided(self) -> bool:
        """Whether there is no part of its counts that anything has to be charged otherwise for."""
        return (
            self.prompt_tokens_details in _UNDIVIDED
            and self.completion_tokens_details in _UNDIVIDED
            and not self.cached_tokens
            and not self.prompt_cache_hit_tokens
        )


_WHOLES = (*_COUNTS, "cached_tokens", "prompt_cache_hit_tokens")
_DIVISIONS = ("prompt_tokens_details", "completion_tokens_details", "cache_creation")

# Numbers become decimals from their text, with no float in between.
_holder = msgspec.json.Decoder(_Holder)


def reported_cost(body: bytes) -> ReportedCost | None:
    """The cost in the usage object of an answer or a chunk; None where it tells none.

    Source: OpenRouter, "Usage Accounting". `cost` is what the account there is charged. Where the
    request went to the operator's own account at the provider ("bring your own key"), that is
    only OpenRouter's fee, often 0, and `upstream_inference_cost` comes on top of it; elsewhere
    that is a part of `cost`.
    """
    try:
        usage = _decode(body).usage
    except (msgspec.DecodeError, RecursionError):
        return ReportedCost(nanousd=None, problem="a cost that is no number")
    if usage is None or usage.cost is None:
        return None
    upstream = None if usage.cost_details is None else usage.cost_details.upstream_inference_cost
    amounts = [usage.cost] if upstream is None else [usage.cost, upstream]
    for amount in amounts:
        if not amount.is_finite() or not 0 <= amount <= _MOST_USD:
            return ReportedCost(nanousd=None, problem=f"a cost of {str(amount)[:50]} USD")
    # An answer that does not say whose key it was: a part is never more than its whole.
    is_byok = usage.is_byok
    if is_byok is None:
        is_byok = upstream is not None and upstream > usage.cost
    if not is_byok:
        return ReportedCost(nanousd=nanousd(usage.cost))
    if upstream is None:
        return ReportedCost(nanousd=None, problem="a fee alone, without the provider's cost")
    return ReportedCost(nanousd=nanousd(usage.cost) + nanousd(upstream))


def _decode(body: bytes) -> _Holder:
    try:
        return _holder.decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return _holder.decode(without_lone(body))


def service_tier(answer: object, usage: object) -> str | None:
    """The service tier that an answer or a chunk names, beside its usage or in it (Anthropic)."""
    if isinstance(answer, str) and answer:
        return answer
    within = usage.get("service_tier") if isinstance(usage, dict) else None
    return within if isinstance(within, str) and within else None


def reported(usage: object) -> Usage | None:
    """The usage object of an answer; None where it says nothing that could be true.

    Counts that are negative, absurd or not whole are no counts, and no prompt has zero tokens:
    servers that do not count say so with zeros. The total counts what some providers leave out
    of `completion_tokens`: their reasoning (xAI, Gemini).
    """
    if not isinstance(usage, dict):
        return None
    try:
        said = msgspec.convert(usage, _Counts)
    except msgspec.ValidationError:
        said = _credible(usage)
    input_tokens, output_tokens, total = (
        said.prompt_tokens,
        said.completion_tokens,
        said.total_tokens,
    )
    if output_tokens is None and total is not None:
        output_tokens = 0  # as in an embeddings answer
    if not input_tokens or output_tokens is None:
        return None
    if total:
        output_tokens = max(output_tokens, total - input_tokens)
    if said.is_undivided:
        return Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    return _divided(said, input_tokens, output_tokens)


def _divided(said: _Counts, input_tokens: int, output_tokens: int) -> Usage:
    """Where parts are told they are never more than their whole."""
    into, out = said.prompt_tokens_details or _NO_PARTS, said.completion_tokens_details or _NO_PARTS
    kept = said.cache_creation or _NO_PARTS
    cached = (
        into.cached_tokens
        or said.cached_tokens  # Moonshot
        or said.prompt_cache_hit_tokens  # DeepSeek
        or 0
    )
    cached = min(cached, input_tokens)
    written = min(into.cache_write_tokens or 0, input_tokens - cached)
    return Usage(
        input_tokens=input_tokens,
        cached_tokens=cached,
        cache_write_tokens=written,
        # As Anthropic splits what it wrote, where a gateway in between keeps its words.
        cache_write_1h_tokens=min(kept.ephemeral_1h_input_tokens or 0, written),
        input_image_tokens=min(into.image_tokens or 0, input_tokens),
        input_audio_tokens=min(into.audio_tokens or 0, input_tokens),
        output_tokens=output_tokens,
        reasoning_tokens=min(out.reasoning_tokens or 0, output_tokens),
        output_audio_tokens=min(out.audio_tokens or 0, output_tokens),
        output_image_tokens=min(out.image_tokens or 0, output_tokens),
    )


def _credible(usage: dict[str, Any]) -> _Counts:
    """What can be counts in a usage object of which something cannot."""
    counts: dict[str, Any] = {name: _count(usage.get(name)) for name in _WHOLES}
    if counts["completion_tokens"] is None and usage.get("completion_tokens") is not None:
        return _Counts()  # what it is charged for cannot be told
    counts |= {name: _parts(usage.get(name)) for name in _DIVISIONS}
    return _Counts(**counts)


def _parts(whole: object) -> _Parts:
    return _Parts(**{name: _part(whole, name) for name in _Parts.__struct_fields__})


def reported_media(usage: object) -> Usage | None:
    """The usage object of an answer about images or sound, as `reported` reads that of a chat.

    Source: OpenAI's API reference, "Create image" and "Create transcription".
    """
    if not isinstance(usage, dict):
        return None
    input_tokens, output_tokens = (
        _count(usage.get("input_tokens")),
        _count(usage.get("output_tokens")),
    )
    if not input_tokens or output_tokens is None:
        return reported(usage)
    into = usage.get("input_tokens_details") or usage.get("input_token_details")
    out = usage.get("output_tokens_details")
    return Usage(
        input_tokens=input_tokens,
        cached_tokens=min(_part(into, "cached_tokens"), input_tokens),
        input_image_tokens=min(_part(into, "image_tokens"), input_tokens),
        input_audio_tokens=min(_part(into, "audio_tokens"), input_tokens),
        output_tokens=output_tokens,
        output_image_tokens=min(_part(out, "image_tokens"), output_tokens),
    )


def estimated(input_tokens: int, output_bytes: int, output_events: int = 0) -> Usage:
    """What an answer without usage must have taken; at least one input token.

    Of a stream also never less than a token an event, nor more than `counted` says.
    """
    output_tokens = -(-output_bytes // BYTES_PER_TOKEN)
    if output_events:
        most = counted(output_events, output_bytes)
        output_tokens = min(max(output_events, output_tokens), most)
    return Usage(input_tokens=max(1, input_tokens), output_tokens=output_tokens)


def counted(events: int, output_bytes: int) -> int:
    """An upper estimate of the tokens of a stream while it flows.

    Providers send about a token an event, and what they send in larger pieces has seldom as much
    as a token to two bytes: one for each event, and one for each two bytes that it has beyond six.
    """
    return events + max(0, output_bytes - _BYTES_OF_AN_EVENT * events) // 2


def shown(*usages: Usage) -> dict[str, int]:
    """A usage object of our own, for all of them together."""
    input_tokens = sum(usage.input_tokens for usage in usages)
    output_tokens = sum(usage.output_tokens for usage in usages)
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
    }


def completed(usage: dict[str, Any]) -> dict[str, Any]:
    """A provider's usage object with the three counts that clients add up.

    As it is where it has them, or says nothing that could be true.
    """
    missing = [name for name in _COUNTS if type(usage.get(name)) is not int]
    counted = reported(usage) if missing else None
    if counted is None:
        return usage
    counts = shown(counted)
    return {**usage, **{name: counts[name] for name in missing}}


def _count(value: object) -> int | None:
    """A count of tokens; None for what can be none."""
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None


def _part(whole: object, name: str) -> int:
    """A part of a count; 0 where it is not told, as only the split and not the sum is at stake."""
    return (_count(whole.get(name)) or 0) if isinstance(whole, dict) else 0
