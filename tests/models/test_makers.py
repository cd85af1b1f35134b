from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.models import make_gguf, make_mlx, tiny

# Any change of these is a change of what every test with a model sees.
_CANNED = "df9444bd2ecede187a97f20f7c15f780b1b78b9d6c2233df59075140327a58f5"
_BABBLING = "1863748e9b706450b966906f6ec503158c21291d1d7f0510d8636238f6433ae7"
_CANNED_FOLDER = "9e893002ec7cbc4ac6f804b1a219722413394c9ca9c42f347a9691b46e5221e0"
_BABBLING_FOLDER = "b319938c6f1d2885c8bae009206d555c8afc0b7ec142067c89a92a97601f9ef1"


def test_the_same_bytes_everywhere(tmp_path: Path) -> None:
    canned = make_gguf.canned(tmp_path / "canned.gguf", [b"Hello", b" you"]).read_bytes()
    babbling = make_gguf.babbling(tmp_path / "babbling.gguf").read_bytes()
    assert hashlib.sha256(canned).hexdigest() == _CANNED
    assert hashlib.sha256(babbling).hexdigest() == _BABBLING
    assert max(len(canned), len(babbling)) < 1_000_000


def test_the_same_folders_everywhere(tmp_path: Path) -> None:
    canned = make_mlx.canned(tmp_path / "canned", [b"Hello", b" you"])
    babbling = make_mlx.babbling(tmp_path / "babbling")
    assert _digest(canned) == _CANNED_FOLDER
    assert _digest(babbling) == _BABBLING_FOLDER
    assert sum(file.stat().st_size for file in babbling.iterdir()) < 1_000_000


def _digest(folder: Path) -> str:
    files = sorted(folder.iterdir())
    told = hashlib.sha256()
    for file in files:
        told.update(file.name.encode() + b"\0" + file.read_bytes())
    return told.hexdigest()


def test_a_seed_makes_another_model(tmp_path: Path) -> None:
    one, two = (make_gguf.babbling(tmp_path / "model.gguf", seed=s).read_bytes() for s in (1, 2))
    assert one != two and len(one) == len(two)


def test_a_token_is_said_once_only() -> None:
    with pytest.raises(AssertionError, match="successor"):
        tiny.canned([b"a", b"b", b"a"])
