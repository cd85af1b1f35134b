"""Files in the format of GGUF, whole and damaged."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.children.gguf import header, metadata, tells_pooling
from tests.models import make_gguf


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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_gguf.canned(tmp_path_factory.mktemp("canned") / "m.gguf", [b"Hi"]).read_bytes()


def test_a_header_tells_how_long_its_file_must_be(tmp_path: Path, whole: bytes) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(whole)
    read = header(file)
    assert read.least_bytes == len(whole)
    assert read.values["tokenizer.chat_template"] == make_gguf.TEMPLATE
    assert read.values["llama.context_length"] == 2048
    # What follows the header is counted, and not read.
    file.write_bytes(whole[: len(whole) // 2])
    assert header(file) == read


_READ_S = 20.0


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_garbled_headers_are_refused_in_bounded_time(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, data: st.DataObject
) -> None:
    garbled = bytearray(whole[: data.draw(st.integers(0, 20_000))])
    for _ in range(data.draw(st.integers(0, 8))):
        place = data.draw(st.integers(0, max(0, len(garbled) - 1)))
        garbled[place : place + 8] = data.draw(st.binary(min_size=1, max_size=9))
    file = tmp_path_factory.mktemp("garbled") / "m.gguf"
    file.write_bytes(garbled)
    began = time.process_time()
    try:
        read = header(file)
    except ValueError as error:
        assert str(error).startswith(str(file))
    else:
        assert read.least_bytes >= 0
    assert time.process_time() - began < _READ_S


@pytest.mark.parametrize(
    "entries",
    [
        [entry("a", 9, struct.pack("<IQ", 9, 1) * 6)],  # lists in lists in lists
        [entry("a", 8, struct.pack("<Q", 1 << 62))],
        [entry("a", 9, struct.pack("<IQ", 4, 1 << 60))],
        [entry("a", 77, b"")],
        [entry("general.alignment", 8, text("wide"))],
        [entry("general.alignment", 4, struct.pack("<I", 0))],
    ],
)
def test_numbers_that_ask_for_too_much_are_not_believed(
    tmp_path: Path, entries: list[bytes]
) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf(*entries, *ENTRIES))
    with pytest.raises(ValueError, match="damaged"):
        header(file)


def test_another_version_is_said_to_be_one(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 1, 0, 0))
    with pytest.raises(ValueError, match="version"):
        header(file)
