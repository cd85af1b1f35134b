"""JSON in which UTF-16 surrogates may stand alone: fast parsers refuse what is really sent."""

from __future__ import annotations

import json
import math
from typing import NoReturn, TypeVar

import msgspec

T = TypeVar("T")


def decode(decoder: msgspec.json.Decoder[T], text: bytes) -> T:
    """What `decoder` makes of it, lone surrogates kept.

    Raises `msgspec.ValidationError` for JSON of another type, and `ValueError` or `RecursionError`
    for what is no JSON.
    """
    try:
        return decoder.decode(text)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        value = json.loads(text.decode(), parse_float=_finite, parse_constant=_refuse)
        return msgspec.convert(value, decoder.type)


def encode(value: object) -> bytes:
    """JSON in UTF-8; all ASCII where it has lone surrogates."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        value = msgspec.to_builtins(value)
        return json.dumps(value, separators=(",", ":")).encode()


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is out of range")
    return number


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
