"""What a GGUF file says of its model, read without loading it.

Nothing is believed of a file: no number in it makes more be read, or remembered, than is allowed.

Source: ggml, docs/gguf.md, and the block sizes of `GGML_QUANT_SIZES` in its Python package.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

Scalar = int | float | bool | str

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
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
_SIZES = {kind: struct.calcsize(f"<{form}") for kind, form in _FORMATS.items()}
# A vocabulary of a quarter of a million tokens, with its merges, takes some 15 MB.
_MOST_BYTES = 64 << 20
_LONGEST_TEXT = 1 << 20
_DEEPEST = 4
_MOST_DIMENSIONS = 8
_PIECE = 1 << 18
# By the type of a tensor: so many numbers take so many bytes. Of other types at least one is there.
_BLOCKS = {
    **{0: (1, 4), 1: (1, 2), 30: (1, 2), 24: (1, 1), 25: (1, 2), 26: (1, 4), 28: (1, 8)},
    **{2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 20: (32, 18)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210)},
    **{16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 21: (256, 110)},
    **{22: (256, 82), 23: (256, 136), 29: (256, 56), 39: (32, 17)},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """All that stands before the numbers of a model.

    `values` are without lists. `parameters` counts the numbers of the tensors, and `least_bytes` is
    how long the file must be to hold them.
    """

    values: Mapping[str, Scalar]
    parameters: int
    least_bytes: int


def header(path: Path) -> Header:
    """The whole header, vocabulary skipped; raises `ValueError` for what is none, and `OSError`."""
    with path.open("rb") as file:
        cursor = _Cursor(file, path)
        tensors, count = cursor.start()
        values = dict(cursor.values(count))
        parameters, least = cursor.tensors(tensors, values.get("general.alignment", 32))
        return Header(values=values, parameters=parameters, least_bytes=least)


def metadata(path: Path) -> dict[str, Scalar]:
    """The values that come before the vocabulary, which is long and says nothing of the model.

    Lists are left out. Raises `ValueError` for what is no GGUF file, and `OSError`.
    """
    with path.open("rb") as file:
        cursor = _Cursor(file, path)
        _, count = cursor.start()
        return dict(cursor.values(count, until="tokenizer."))


def tells_pooling(path: Path) -> bool:
    """Whether a model says how its vectors are pooled, as encoders do."""
    try:
        return any(key.endswith(".pooling_type") for key in metadata(path))
    except (OSError, ValueError):
        return False


class _Cursor:
    """A place in a file. It is read in pieces, never mapped: it may be cut meanwhile."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._piece = b""
        self._begins = 0
        """Where in the file the piece begins."""
        self._at = 0
        """The place within it."""

    def start(self) -> tuple[int, int]:
        """How many tensors and how many values there are."""
        if self._take(4) != _MAGIC:
            raise ValueError(f"{self._path}: is no GGUF file")
        version, tensors, count = struct.unpack("<IQQ", self._take(20))
        if version not in _VERSIONS:
            raise ValueError(f"{self._path}: is of a version that is not read, {version}")
        return tensors, count

    def values(self, count: int, *, until: str | None = None) -> Iterator[tuple[str, Scalar]]:
        """Keys with their values, but for lists, up to a key that begins so."""
        for _ in range(count):
            key = self._text()
            if until is not None and key.startswith(until):
                return
            value = self._value(self._number(4))
            if value is not None:
                yield key, value

    def tensors(self, count: int, alignment: Scalar) -> tuple[int, int]:
        """How many numbers the tensors have, and where in the file the last of them ends."""
        if type(alignment) is not int or not 1 <= alignment <= 1 << 16:
            raise self._damaged()
        parameters = end = 0
        for _ in range(count):
            self._text()
            dimensions = self._number(4)
            if dimensions > _MOST_DIMENSIONS:
                raise self._damaged()
            numbers = math.prod(self._number(8) for _ in range(dimensions))
            kind, offset = self._number(4), self._number(8)
            block, size = _BLOCKS.get(kind, (numbers or 1, 1))
            parameters += numbers
            end = max(end, offset + numbers // block * size)
        place = self._begins + self._at
        return parameters, place + -place % alignment + end

    def _value(self, kind: int, depth: int = 0) -> Scalar | None:
        if kind == _STRING:
            return self._text()
        if kind in _FORMATS:
            (value,) = struct.unpack(f"<{_FORMATS[kind]}", self._take(_SIZES[kind]))
            return value  # type: ignore[no-any-return] # a number or bool, by the form
        if kind != _ARRAY or depth == _DEEPEST:
            raise self._damaged()
        inner, count = self._number(4), self._number(8)
        if inner in _SIZES:
            self._skip(count * _SIZES[inner])
        elif inner == _STRING:
            self._skip_texts(count)
        else:
            for _ in range(count):
                self._value(inner, depth + 1)
        return None

    def _text(self) -> str:
        length = self._number(8)
        if length > _LONGEST_TEXT:
            raise self._damaged()
        return self._take(length).decode("utf-8", "replace")

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _take(self, size: int) -> bytes:
        if self._at + size > len(self._piece):
            self._read(size)
        taken = self._piece[self._at : self._at + size]
        self._at += size
        return taken

    def _skip(self, size: int) -> None:
        self._at += size

    def _skip_texts(self, count: int) -> None:
        """Vocabularies are long: this loop is most of what reading a header costs."""
        piece, at = self._piece, self._at
        for _ in range(count):
            if at + 8 > len(piece):
                self._at = at
                self._read(8)
                piece, at = self._piece, self._at
            at += 8 + int.from_bytes(piece[at : at + 8], "little")
        self._at = at

    def _read(self, size: int) -> None:
        """The next piece, with at least so many bytes."""
        self._begins += self._at
        if self._begins + size > _MOST_BYTES:
            raise self._damaged()
        self._file.seek(self._begins)
        self._piece = self._file.read(max(size, _PIECE))
        self._at = 0
        if len(self._piece) < size:
            raise self._damaged()

    def _damaged(self) -> ValueError:
        return ValueError(f"{self._path}: is cut or damaged")
