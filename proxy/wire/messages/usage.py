"""Token counts as Anthropic reports them: its `input_tokens` leaves out what a cache holds.

Source: Anthropic's documentation, "Prompt caching", "Tracking cache performance".
"""

from __future__ import annotations

from typing import Any

from proxy.pricing import Usage
from proxy.wire import usage as wire_usage


def reported(usage: dict[str, Any]) -> Usage | None:
    """A `usage` object of Anthropic's; None where it says nothing that could be true."""
    read, written = _count(usage, "cache_read_input_tokens"), _count(usage, _WRITTEN)
    return wire_usage.reported(
        {
            "prompt_tokens": _count(usage, "input_tokens") + read + written,
            "completion_tokens": usage.get("output_tokens"),
            "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
            "cache_creation": usage.get("cache_creation"),
            "completion_tokens_details": {
                "reasoning_tokens": _within(usage, "output_tokens_details", "thinking_tokens")
            },
        }
    )


def shown(usage: Usage) -> dict[str, Any]:
    """A whole answer's `usage` object."""
    written, hour = usage.cache_write_tokens, usage.cache_write_1h_tokens
    return {
        **cumulative(usage),
        "cache_creation": {
            "ephemeral_5m_input_tokens": written - hour,
            "ephemeral_1h_input_tokens": hour,
        },
    }


def cumulative(usage: Usage) -> dict[str, Any]:
    """The `usage` of the last event but one of a stream."""
    written, read = usage.cache_write_tokens, usage.cached_tokens
    counts: dict[str, Any] = {
        "input_tokens": usage.input_tokens - written - read,
        _WRITTEN: written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning_tokens:
        counts["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return counts


_WRITTEN = "cache_creation_input_tokens"


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if type(value) is int and value >= 0 else 0


def _within(usage: dict[str, Any], name: str, part: str) -> int:
    inner = usage.get(name)
    return _count(inner, part) if isinstance(inner, dict) else 0
