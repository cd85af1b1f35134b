"""Token counts as providers report them, and what we say where they do not."""

from __future__ import annotations

from proxy.pricing import Usage

# Above any real request, below what arithmetic or a database column could choke on.
_MOST_TOKENS = 10**10
# English averages four bytes a token; the error per language is in docs/money.md.
BYTES_PER_TOKEN = 4


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
    return Usage(
        input_tokens=input_tokens,
        cached_tokens=cached,
        cache_write_tokens=min(_part(into, "cache_write_tokens"), input_tokens - cached),
        input_audio_tokens=min(_part(into, "audio_tokens"), input_tokens),
        output_tokens=output_tokens,
        reasoning_tokens=min(_part(out, "reasoning_tokens"), output_tokens),
        output_audio_tokens=min(_part(out, "audio_tokens"), output_tokens),
    )


def estimated(input_tokens: int, output_bytes: int) -> Usage:
    """What an answer without usage must have taken; at least one input token."""
    return Usage(
        input_tokens=max(1, input_tokens), output_tokens=-(-output_bytes // BYTES_PER_TOKEN)
    )


def _count(value: object) -> int | None:
    """A count of tokens; None for what can be none."""
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None


def _part(whole: object, name: str) -> int:
    """A part of a count; 0 where it is not told, as only the split and not the sum is at stake."""
    return (_count(whole.get(name)) or 0) if isinstance(whole, dict) else 0
