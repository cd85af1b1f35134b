"""Files in the format of GGUF, whole and damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.children.gguf import metadata, tells_pooling


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


ENTRIES = [
    entry("general.architecture", 8, text("bert")),
    entry("bert.context_length", 4, struct.pack("<I", 512)),
    entry("bert.layers", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 5, 2) + b"\0" * 8),
    entry("bert.names", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
    entry("bert.attention.epsilon", 6, struct.pack("<f", 0.5)),
    entry("bert.attention.causal", 7, b"\0"),
]
POOLING = entry("bert.pooling_type", 4, struct.pack("<I", 2))
TOKENS = entry("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 1 << 40))


def gguf(*entries: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries)


def test_values_are_read_up_to_the_vocabulary(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf(*ENTRIES, TOKENS))
    assert metadata(file) == {
        "general.architecture": "bert",
        "bert.context_length": 512,
        "bert.attention.epsilon": 0.5,
        "bert.attention.causal": False,
    }
    assert not tells_pooling(file)
    file.write_bytes(gguf(*ENTRIES, POOLING))
    assert tells_pooling(file)


WHOLE = gguf(*ENTRIES, POOLING)


@settings(deadline=None)
@given(st.integers(0, len(WHOLE) - 1) | st.binary(max_size=64))
def test_what_is_damaged_says_so_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, how: int | bytes
) -> None:
    file = tmp_path_factory.mktemp("gguf") / "m.gguf"
    file.write_bytes(WHOLE[:how] if isinstance(how, int) else WHOLE[:4] + how)
    try:
        metadata(file)
    except ValueError:
        assert not tells_pooling(file)


def test_a_file_that_is_not_there_tells_nothing(tmp_path: Path) -> None:
    assert not tells_pooling(tmp_path / "missing.gguf")
