"""Token counts in the words of the Responses API."""

from __future__ import annotations

from typing import Any

from proxy.pricing import Usage
from proxy.wire import usage as wire_usage

_CHAT_NAMES = {
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
    "input_tokens_details": "prompt_tokens_details",
    "output_tokens_details": "completion_tokens_details",
}


def reported(usage: object) -> Usage | None:
    """The usage object of a response; None where it says nothing that could be true."""
    if not isinstance(usage, dict):
        return None
    return wire_usage.reported({_CHAT_NAMES.get(name, name): said for name, said in usage.items()})


def shown(usage: Usage | None) -> dict[str, Any] | None:
    """A usage object of our own."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
