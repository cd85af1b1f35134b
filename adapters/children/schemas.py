"""JSON schemas as llama-cpp-python can make a grammar of them, in a moment.

It writes every repetition out, so that a schema of one line can take all memory there is: what
repeats too often is left out where that only allows more, and refused elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

# How often something may be repeated, and how large a schema and its grammar may be.
_MOST = 1000
_LARGEST_SCHEMA = 5000
LARGEST_GRAMMAR = 1 << 20

_AT_MOST = frozenset({"maxLength", "maxItems"})
_AT_LEAST = frozenset({"minLength", "minItems"})
# What is in these is no schema.
_VALUES = frozenset({"const", "enum", "default", "examples"})
# The kinds of characters that patterns have letters for, as a set has them.
_KINDS = {r"\d": "0-9", r"\w": "a-zA-Z0-9_", r"\s": r" \t\n\r"}
_PIECE = re.compile(r"\\.|\[|\]", re.DOTALL)
_COUNTS = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}")


def bounded(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema without upper bounds that are out of reach; raises `ValueError` for other excess."""
    kept: Mapping[str, Any] = _Copy().of(schema)
    return kept


class _Copy:
    def __init__(self) -> None:
        self._members = 0

    def of(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.of(item) for item in node]
        if not isinstance(node, Mapping):
            return node
        self._members += len(node)
        if self._members > _LARGEST_SCHEMA:
            raise ValueError(f"a schema has at most {_LARGEST_SCHEMA} members here")
        return {name: self._member(name, node[name]) for name in node if _is_kept(name, node[name])}

    def _member(self, name: str, value: Any) -> Any:
        if name in _VALUES:
            return value
        if name in _AT_LEAST and _is_number(value) and value > _MOST:
            raise ValueError(f"{name!r} is at most {_MOST} here")
        if name == "pattern" and isinstance(value, str) and _repeats(value) > _MOST:
            raise ValueError(f"a pattern repeats at most {_MOST} times here")
        if name == "pattern" and isinstance(value, str):
            return _spelt_out(value)
        return self.of(value)


def _is_kept(name: str, value: Any) -> bool:
    return not (name in _AT_MOST and _is_number(value) and value > _MOST)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _repeats(pattern: str) -> int:
    """How often something can be repeated at most, were all its counts nested; or its length."""
    counts = (max(int(n[:9]) for n in found if n) for found in _counts(pattern))
    return max(len(pattern), math.prod(max(count, 1) for count in counts))


def _counts(pattern: str) -> list[tuple[str, str]]:
    return [found for found in _COUNTS.findall(pattern) if any(found)]


def _spelt_out(pattern: str) -> str:
    """A pattern with sets in place of the letters for kinds of characters."""
    is_set = False

    def spell(found: re.Match[str]) -> str:
        nonlocal is_set
        piece = found[0]
        if piece in _KINDS:
            return _KINDS[piece] if is_set else f"[{_KINDS[piece]}]"
        if piece in "[]":
            is_set = piece == "["
        return piece

    return _PIECE.sub(spell, pattern)
