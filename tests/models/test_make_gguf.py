from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.models import make_gguf

# Any change of these is a change of what every test with a model sees.
_CANNED = "df9444bd2ecede187a97f20f7c15f780b1b78b9d6c2233df59075140327a58f5"
_BABBLING = "1863748e9b706450b966906f6ec503158c21291d1d7f0510d8636238f6433ae7"


def test_the_same_bytes_everywhere(tmp_path: Path) -> None:
    canned = make_gguf.canned(tmp_path / "canned.gguf", [b"Hello", b" you"]).read_bytes()
    babbling = make_gguf.babbling(tmp_path / "babbling.gguf").read_bytes()
    assert hashlib.sha256(canned).hexdigest() == _CANNED
    assert hashlib.sha256(babbling).hexdigest() == _BABBLING
    assert max(len(canned), len(babbling)) < 1_000_000


def test_a_seed_makes_another_model(tmp_path: Path) -> None:
    one, two = (make_gguf.babbling(tmp_path / "model.gguf", seed=s).read_bytes() for s in (1, 2))
    assert one != two and len(one) == len(two)


def test_a_token_is_said_once_only(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="successor"):
        make_gguf.canned(tmp_path / "canned.gguf", [b"a", b"b", b"a"])
