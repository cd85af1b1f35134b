"""Models that come and go leave nothing behind, as the operating system sees it."""

from __future__ import annotations

import gc
import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from proxy.model_host import memory
from proxy.model_host.client import HostClient
from proxy.model_host.core import Need
from proxy.model_host.hosted import HostedModel
from tests.models import make_gguf
from tests.proxy.model_host.test_daemon import MB, Place, client, run, use

# What the allocator keeps for itself.
_SLACK = 4 * MB
_PATIENCE_S = 600.0


@dataclass(frozen=True)
class Held:
    """What this process, in which the host runs, has of the system's."""

    files: int
    sockets: int
    children: int
    resident: int

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        process = psutil.Process()
        return cls(
            files=process.num_fds(),
            sockets=len(process.net_connections("all")),
            children=len(process.children(recursive=True)),  # zombies are among them
            resident=process.memory_info().rss,
        )

    def is_no_more_than(self, earlier: Held) -> bool:
        return (
            self.files <= earlier.files
            and self.sockets <= earlier.sockets
            and self.children <= earlier.children
            and self.resident <= earlier.resident + _SLACK
        )


def hosted(name: str, *arguments: str) -> HostedModel:
    need = Need(name=f"local/{name}", bytes=MB)
    return HostedModel(need=need, backend="llama_cpp", arguments=arguments)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def _loads(worker: HostClient) -> int:
    return sum(model.loads for model in (await worker.look()).models)


def cycling(place: Place, models: list[HostedModel], cycles: int, warm: int) -> None:
    """Each use of one model ends the process of the one before."""

    async def scene() -> None:
        async with place.hosting(models=models, max_loaded=1), client(place.folder) as worker:
            for number in range(warm):
                await use(worker, models[number % 2].name)
            before = Held.now()
            for number in range(cycles):
                await use(worker, models[number % 2].name)
            after = Held.now()
            assert await _loads(worker) == warm + cycles
            assert after.is_no_more_than(before), (before, after)

    run(scene(), patience_s=_PATIENCE_S)


def test_two_hundred_loads_leave_nothing(place: Place) -> None:
    light = "tests.proxy.model_host.light_child"
    cycling(place, [hosted("a", light), hosted("b", light)], cycles=200, warm=20)


@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
def test_ten_loads_of_real_models_leave_nothing(place: Place, tmp_path: Path) -> None:
    path = make_gguf.babbling(tmp_path / "tiny.gguf")
    models = [
        hosted(name, "adapters.children.llama_cpp", "--model", str(path), "--name", name)
        for name in "ab"
    ]
    cycling(place, models, cycles=10, warm=2)


def test_the_memory_of_a_model_is_given_back(place: Place) -> None:
    place.model("a")
    (place.folder / "a.json").write_text(json.dumps({"log": str(place.log), "megabytes": 80}))

    async def scene() -> None:
        async with place.hosting(), client(place.folder) as worker:
            await use(worker, "local/a")
            (pid,) = place.pids
            assert memory.resident_bytes(os.getpgid(pid)) > 80 * MB
            await worker.retire("local/a")
            await place.until_state("a", "absent")
            assert memory.resident_bytes(pid) == 0
            assert not psutil.pid_exists(pid)

    run(scene())
