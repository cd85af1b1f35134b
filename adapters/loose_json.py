r"""JSON that may have UTF-16 surrogates which stand alone, such as `"\ud83d"`.

Python's own parser takes them, and writes them as the escapes they were; fast ones do not.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec


def decode(text: bytes | str) -> Any:
    """The value of a JSON text; raises `ValueError` and `RecursionError`."""
    try:
        return msgspec.json.decode(text)
    except ValueError:
        return json.loads(text, parse_constant=_refuse)


def encode(value: Any) -> bytes:
    """The JSON of what `decode` gives."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
