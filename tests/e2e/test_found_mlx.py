"""A folder of MLX's that lies among the models is one of them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.e2e.tollway import serving
from tests.models import make_mlx


@pytest.mark.skipif(find_spec("mlx_lm") is None, reason="the extra `mlx` is not installed")
def test_a_folder_is_found_and_answers(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    make_mlx.canned(tmp_path / "models" / "tiny", [b"Good", b" day", b"!"])
    config = {
        "providers": {"local": {"adapter": "local", "folder": str(tmp_path / "models")}},
        "targets": [{"target": "local/*"}],
        "host": {"memory_mb": 1000},
    }
    with serving(tmp_path, config) as tollway:
        reply = tollway.chat("local/tiny")
        assert reply.json()["choices"][0]["message"]["content"] == "Good day!"
        assert tollway.get("/v1/models/local/tiny").json()["context_length"] == 2048
