r"""JSON that may have UTF-16 surrogates which stand alone, such as `"\ud83d"`.

Python's own parser takes them, and writes them as the escapes they were; fast ones do not.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn, TypeVar

import msgspec

T = TypeVar("T")


def decode(text: bytes | str) -> Any:
    """The value of a JSON text; raises `ValueError` and `RecursionError`."""
    try:
        return msgspec.json.decode(text)
    except ValueError:
        return json.loads(text, parse_float=_finite, parse_constant=_refuse)


def decode_as(decoder: msgspec.json.Decoder[T], text: bytes) -> T:
    """The value of a JSON text in the types of a decoder; raises like `decode`.

    JSON of other types raises `msgspec.ValidationError`, which is a `ValueError`.
    """
    try:
        return decoder.decode(text)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return msgspec.convert(decode(text), decoder.type)


def encode(value: Any) -> bytes:
    """The JSON of what `decode` gives."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value)
        return json.dumps(plain, separators=(",", ":")).encode()


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is out of range")
    return number


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
