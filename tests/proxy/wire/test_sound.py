from __future__ import annotations

import io
import struct
import wave

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.sound import LEAST_BYTES_PER_SECOND, length_of


def _wav(seconds: float, *, rate: int = 8000, channels: int = 1, width: int = 2) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setnchannels(channels)
        wav.setsampwidth(width)
        wav.setframerate(rate)
        wav.writeframes(bytes(int(seconds * rate) * channels * width))
    return file.getvalue()


def _most(file: bytes) -> tuple[int, bool]:
    length = length_of(memoryview(file))
    return length.most, length.is_exact


@pytest.mark.parametrize(
    ("file", "seconds"),
    [
        (_wav(7), 7),
        (_wav(7.01), 8),
        (_wav(7, rate=44_100, channels=2), 7),
        (_wav(7, width=3), 7),
        (_wav(7) + b"LIST" + struct.pack("<I", 1_000_000) + bytes(1_000_000), 7),
        (_wav(7) + b"data" + struct.pack("<I", 16_000) + bytes(16_000), 8),
        (_wav(7).replace(b"data", b"junk" + struct.pack("<I", 3) + bytes(4) + b"data"), 7),
    ],
)
def test_the_length_of_plain_sound_is_exact(file: bytes, seconds: int) -> None:
    assert _most(file) == (seconds, True)


@pytest.mark.parametrize("told", [0, 1, 0xFFFFFFFF])
def test_a_length_that_a_recorder_left_open_is_that_of_the_file(told: int) -> None:
    file = _wav(7)
    place = file.index(b"data") + 4
    file = file[:place] + struct.pack("<I", told) + file[place + 4 :]
    assert _most(file) == (1 if told == 1 else 7, True)


def test_the_rate_that_a_head_claims_is_not_believed() -> None:
    file = bytearray(_wav(7))
    place = file.index(b"fmt ") + 16
    file[place : place + 4] = struct.pack("<I", 10**9)
    assert _most(bytes(file)) == (7, True)


@pytest.mark.parametrize("kind", [0x55, 0x11, 0xFFFE])
def test_sound_in_a_codec_is_as_long_as_its_bytes_could_be(kind: int) -> None:
    file = bytearray(_wav(7))
    place = file.index(b"fmt ") + 8
    file[place : place + 2] = struct.pack("<H", kind)
    assert _most(bytes(file)) == (-(-len(file) // LEAST_BYTES_PER_SECOND), False)


@given(st.binary(max_size=400), st.integers(0, 60), st.binary(max_size=8))
def test_no_file_breaks_the_reader(noise: bytes, place: int, patch: bytes) -> None:
    file = bytearray(_wav(0.01))
    file[place : place + len(patch)] = patch
    for each in (noise, b"RIFF1234WAVE" + noise, bytes(file)):
        length = length_of(memoryview(each))
        assert length.most >= 0 and length.likely <= max(length.most, 1)
