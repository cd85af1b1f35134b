"""`reasoning_details` of a chat -> blocks of thinking; their shapes are OpenRouter's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

UNSIGNED = "unsigned"
"""The signature of what no provider signed: clients send back only thoughts that have one."""


def blocks(details: object) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """The blocks that a list of details stands for, each with its place among all, where told.

    What cannot be read is no block.
    """
    for entry in details if isinstance(details, list) else ():
        if not isinstance(entry, dict):
            continue
        place = entry.get("index")
        index = place if type(place) is int and place >= 0 else None
        match entry.get("type"):
            case "reasoning.encrypted" if _text(entry, "data"):
                yield index, {"type": "redacted_thinking", "data": _text(entry, "data")}
            case "reasoning.text" | "reasoning.summary":
                thinking = _text(entry, "text") or _text(entry, "summary")
                signature = _text(entry, "signature")
                if thinking or signature:
                    block = {"thinking": thinking, "signature": signature}
                    yield index, {"type": "thinking", **block}


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    return value if isinstance(value, str) else ""
