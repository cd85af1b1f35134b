"""How long the sound in a file can be: exactly for plain WAV, else what its bytes could hold.

Sources: "Multimedia Programming Interface and Data Specifications" (RIFF) and Microsoft's
"WAVEFORMATEXTENSIBLE structure" for the former.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

# Below the least that codecs for speech are made for: 4.75 kbit/s of AMR, 6 of Opus, 8 of MP3.
LEAST_BYTES_PER_SECOND = 500
# 128 kbit/s, which most files have.
USUAL_BYTES_PER_SECOND = 16_000

_PCM = frozenset({1, 3})  # whole numbers, and floats
_EXTENSIBLE = 0xFFFE
_FORMAT = struct.Struct("<HHIIHH")
# More than any recorder writes.
_MOST_CHUNKS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Length:
    """Seconds, rounded up: an upper bound, and a guess for routing. Both are exact or none is."""

    most: int
    likely: int
    is_exact: bool = False


def length_of(file: memoryview) -> Length:
    """The length of the sound in a file."""
    exact = _wav_seconds(file)
    if exact is not None:
        return Length(most=exact, likely=exact, is_exact=True)
    return Length(
        most=-(-file.nbytes // LEAST_BYTES_PER_SECOND),
        likely=-(-file.nbytes // USUAL_BYTES_PER_SECOND),
    )


def _wav_seconds(file: memoryview) -> int | None:
    """The seconds of uncompressed sound in a WAV file; None for any other file.

    Every chunk of sound counts, as decoders go on behind the first.
    """
    if bytes(file[:4]) != b"RIFF" or bytes(file[8:12]) != b"WAVE":
        return None
    heads: list[memoryview] = []
    sound = 0
    for number, (name, content) in enumerate(_chunks(file[12:])):
        if number == _MOST_CHUNKS:
            return None
        if name == b"fmt ":
            heads.append(content)
        elif name == b"data":
            sound += content.nbytes
    rate = _bytes_per_second(heads[0]) if len(heads) == 1 else None
    return -(-sound // rate) if rate and sound else None


def _chunks(file: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The chunks of a file. One whose size was left open, or is too large, goes on to its end."""
    while file.nbytes >= 8:
        size = int.from_bytes(file[4:8], "little") or file.nbytes
        yield bytes(file[:4]), file[8 : 8 + size]
        file = file[8 + size + size % 2 :]


def _bytes_per_second(head: memoryview) -> int | None:
    """Of uncompressed sound, by what decoders go by: not the rate of bytes that the head tells."""
    if head.nbytes < _FORMAT.size:
        return None
    kind, channels, samples, _, _, bits = _FORMAT.unpack_from(head)
    if kind == _EXTENSIBLE and head.nbytes >= 26:
        kind = int.from_bytes(head[24:26], "little")
    return channels * samples * (bits // 8) or None if kind in _PCM else None
