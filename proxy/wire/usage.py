"""Token counts and costs as providers report them, and what we say where they do not."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

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
    input_tokens, total = _count(usage.get("prompt_tokens")), _count(usage.get("total_tokens"))
    said = usage.get("completion_tokens")
    if said is None and total is not None:
        said = 0  # as in an embeddings answer
    output_tokens = _count(said)
    if not input_tokens or output_tokens is None:
        return None
    output_tokens = max(output_tokens, (total or 0) - input_tokens)
    into, out = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    cached = (
        _part(into, "cached_tokens")
        or _part(usage, "cached_tokens")  # Moonshot
        or _part(usage, "prompt_cache_hit_tokens")  # DeepSeek
    )
    cached = min(cached, input_tokens)
    written = min(_part(into, "cache_write_tokens"), input_tokens - cached)
    return Usage(
        input_tokens=input_tokens,
        cached_tokens=cached,
        cache_write_tokens=written,
        # As Anthropic splits what it wrote, where a gateway in between keeps its words.
        cache_write_1h_tokens=min(
            _part(usage.get("cache_creation"), "ephemeral_1h_input_tokens"), written
        ),
        input_image_tokens=min(_part(into, "image_tokens"), input_tokens),
        input_audio_tokens=min(_part(into, "audio_tokens"), input_tokens),
        output_tokens=output_tokens,
        reasoning_tokens=min(_part(out, "reasoning_tokens"), output_tokens),
        output_audio_tokens=min(_part(out, "audio_tokens"), output_tokens),
        output_image_tokens=min(_part(out, "image_tokens"), output_tokens),
    )


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
