"""`reasoning_details` of a chat -> blocks of thinking; their shapes are OpenRouter's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def blocks(details: object) -> Iterator[dict[str, Any]]:
    """The blocks that a list of details stands for; what cannot be read is no block."""
    for entry in details if isinstance(details, list) else ():
        if not isinstance(entry, dict):
            continue
        match entry.get("type"):
            case "reasoning.encrypted" if _text(entry, "data"):
                yield {"type": "redacted_thinking", "data": _text(entry, "data")}
            case "reasoning.text" | "reasoning.summary":
                thinking = _text(entry, "text") or _text(entry, "summary")
                signature = _text(entry, "signature")
                if thinking or signature:
                    yield {"type": "thinking", "thinking": thinking, "signature": signature}


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    return value if isinstance(value, str) else ""
