"""A swap between local models: the new one is loaded first, and the old one unloaded after it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_llama_server import BINARY
from tests.e2e.test_swaps import reaches, stream, swap
from tests.e2e.tollway import Tollway, serving
from tests.models import make_gguf
from tests.waiting import until

OLD_SAYS, NEW_SAYS = "The old model says so.", "The new model says otherwise."
BACKENDS = [
    pytest.param(
        {"backend": "llama_cpp"},
        marks=pytest.mark.skipif(
            find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
        ),
        id="llama_cpp",
    ),
    pytest.param(
        {"backend": "llama_server", "concurrency": 4},
        marks=pytest.mark.skipif(BINARY is None, reason="no llama-server is at hand"),
        id="llama_server",
    ),
]


def words(text: str) -> list[bytes]:
    return [word.encode() for word in text.replace(" ", " |").split("|")]


@pytest.fixture(params=BACKENDS)
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tollway]:
    make_gguf.canned(tmp_path / "old.gguf", words(OLD_SAYS))
    make_gguf.canned(tmp_path / "new.gguf", words(NEW_SAYS))
    small = {"needs_mb": 150, "context_length": 1024, **request.param}
    huge = {**small, "needs_mb": 10_000}
    config = {
        "providers": {"local": {"adapter": "local", "folder": str(tmp_path)}},
        "targets": [
            {"target": "local/old", "model": "old.gguf", "tiers": [], **small},
            {"target": "local/new", "model": "new.gguf", "tiers": [], **small},
            {"target": "local/huge", "model": "new.gguf", "tiers": [], **huge},
        ],
        "models": {"mine": {"targets": ["local/old"]}},
        "host": {"memory_mb": 2000},
    }
    with serving(tmp_path, config, "--workers", "2", LLAMA_SERVER=BINARY or "") as up:
        yield up


def local_models(running: Tollway) -> dict[str, Any]:
    return {model["name"]: model for model in running.admin("GET", "/models")["data"]}


def test_fifty_streams_while_the_model_is_swapped(running: Tollway) -> None:
    checks = [{"prompt": "Hello", "contains": "otherwise"}]

    async def load() -> tuple[int, list[str]]:
        async with asyncio.TaskGroup() as group:
            streams = []
            for number in range(50):
                streams.append(group.create_task(stream(running.url, "mine")))
                if number == 15:
                    moving = swap(
                        running, "mine", "local/old", "local/new", checks=checks, grace_s=1
                    )
                if number == 35:
                    states = ("draining", "completed")
                    await asyncio.to_thread(reaches, running, moving, *states)
                await asyncio.sleep(0.02)
        return moving, [done.result() for done in streams]

    moving, texts = asyncio.run(load())
    assert set(texts) == {OLD_SAYS, NEW_SAYS}
    reaches(running, moving, "completed")
    until(lambda: local_models(running)["local/old"]["state"] == "absent", told=running.log)
    new = local_models(running)["local/new"]
    assert (new["state"], new["loads"]) == ("loaded", 1)
    running.admin("POST", f"/swaps/{moving}/rollback")
    until(lambda: local_models(running)["local/new"]["state"] == "absent")
    assert asyncio.run(stream(running.url, "mine")) == OLD_SAYS


def test_a_model_that_cannot_fit_moves_nothing(running: Tollway) -> None:
    number = swap(running, "mine", "local/old", "local/huge")
    reason = reaches(running, number, "failed")["reason"]
    assert reason == "'local/huge' needs 10000 MB, and local models have 2000 MB together"
    assert asyncio.run(stream(running.url, "mine")) == OLD_SAYS


def test_a_model_that_does_not_load_moves_nothing(running: Tollway) -> None:
    (running.folder / "new.gguf").write_bytes(b"GGUF, but no more than that")
    number = swap(running, "mine", "local/old", "local/new")
    assert "local/new" in reaches(running, number, "failed")["reason"]
    assert asyncio.run(stream(running.url, "mine")) == OLD_SAYS
