"""What is refused before a model is loaded, and in which words."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from proxy.model_host.core import Need
from proxy.model_host.hosted import HostedModel
from proxy.model_host.validation import Unfit, check
from tests.proxy.model_host.stand_in import NO_TENSORS

TENSORS = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
SAFE = struct.pack("<Q", len(TENSORS)) + TENSORS + bytes(4)


def model(*files: Path, program: str | None = None, size: int = 1) -> HostedModel:
    return HostedModel(
        need=Need(name="local/a", bytes=size),
        backend="llama_server",
        arguments=[],
        files=files,
        program=program,
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.gguf", NO_TENSORS),
        ("model.safetensors", SAFE),
        ("config.json", b'{"hidden_size": 8}'),
        ("vocab.txt", b""),
    ],
)
def test_what_is_sound_is_loaded(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    check(model(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.gguf", b"", r"a\.gguf: is cut or damaged; get it again"),
        ("a.gguf", NO_TENSORS[:12], r"a\.gguf: is cut or damaged"),
        ("a.gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 5), r"a\.gguf: is cut or damaged"),
        ("model.safetensors", SAFE[:20], r"model\.safetensors: is cut or damaged"),
        ("model.safetensors", b"\x01", r"model\.safetensors: is cut or damaged"),
        ("model.safetensors", b"<html>, not a model</html>", "is cut or damaged"),
        ("config.json", b"[1]", r"config\.json: is no JSON object"),
        ("config.json", b"{", r"config\.json: is no JSON object"),
    ],
)
def test_what_is_no_model_is_not(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Unfit, match=said):
        check(model(tmp_path / name))


def test_what_is_gone_or_no_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unfit, match=r"gone\.gguf: cannot be read \(No such file"):
        check(model(tmp_path / "gone.gguf"))
    plain = tmp_path / "llama-server"
    plain.touch(0o644)
    with pytest.raises(Unfit, match=r"llama-server: is no program .* correct 'llama_server'"):
        check(model(program=str(plain)))


def test_what_the_machine_has_not_left_is_told() -> None:
    with pytest.raises(
        Unfit, match=r"it needs 1048576 MB, and the machine has .* MB of memory left"
    ):
        check(model(size=1 << 40))
