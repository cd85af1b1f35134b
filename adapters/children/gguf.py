"""What a GGUF file says of its model, read without loading it.

Source: ggml, docs/gguf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

Scalar = int | float | bool | str

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_FORMATS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_LONGEST = 1 << 24


def metadata(path: Path) -> dict[str, Scalar]:
    """The values that come before the vocabulary, which is long and says nothing of the model.

    Lists are left out. Raises `ValueError` for what is no GGUF file, and `OSError`.
    """
    with path.open("rb") as file:
        try:
            return dict(_scalars(file))
        except (struct.error, UnicodeDecodeError, KeyError, RecursionError):
            raise ValueError(f"{path}: is cut or damaged") from None


def tells_pooling(path: Path) -> bool:
    """Whether a model says how its vectors are pooled, as encoders do."""
    try:
        return any(key.endswith(".pooling_type") for key in metadata(path))
    except (OSError, ValueError):
        return False


def _scalars(file: BinaryIO) -> Iterator[tuple[str, Scalar]]:
    if file.read(4) != _MAGIC:
        raise ValueError("is no GGUF file")
    _version, _tensors, count = struct.unpack("<IQQ", file.read(20))
    for _ in range(count):
        key = _text(file)
        if key.startswith("tokenizer."):
            return
        value = _value(file, _number(file, "I"))
        if value is not None:
            yield key, value


def _value(file: BinaryIO, kind: int) -> Scalar | None:
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _number(file, _FORMATS[kind])
    inner = _number(file, "I")
    for _ in range(_length(file)):
        _value(file, inner)
    return None


def _text(file: BinaryIO) -> str:
    return file.read(_length(file)).decode()


def _length(file: BinaryIO) -> int:
    length = _number(file, "Q")
    if length > _LONGEST:
        raise ValueError("is damaged")
    return length


def _number(file: BinaryIO, form: str) -> int:
    (number,) = struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))
    return number  # type: ignore[no-any-return] # or a float or bool, by the form
