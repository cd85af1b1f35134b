"""The model host with real processes and real sockets, but without models."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from adapters.base import Unavailable
from proxy.errors import StartError
from proxy.ledger.folder import OwnSocket
from proxy.model_host.children import ChildFailed, running
from proxy.model_host.client import HostClient, look
from proxy.model_host.core import Need
from proxy.model_host.daemon import Connection, Host
from proxy.model_host.hosted import HostedModel, HostPlan
from proxy.model_host.protocol import SOCKET, ModelState

MB = 2**20
PATIENCE_S = 15.0
STAND_IN = "tests.proxy.model_host.stand_in"


class Place:
    """A model host in this process, and what its models are told to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.models: list[HostedModel] = []

    def model(self, name: str, *, megabytes: int = 10, **script: Any) -> HostedModel:
        """One more model; `needs` its memory, `script` what its process does."""
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps({"log": str(self.log), **script}))
        model = HostedModel(
            need=Need(name=f"local/{name}", bytes=megabytes * MB, concurrency=2),
            backend="llama_cpp",
            arguments=[STAND_IN, "--model", str(file), "--name", name],
        )
        self.models.append(model)
        return model

    @property
    def loads(self) -> list[str]:
        """The names of the processes that were started, in order."""
        return [line.split()[0] for line in self._lines()]

    @property
    def pids(self) -> list[int]:
        return [int(line.split()[1]) for line in self._lines()]

    def _lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    @contextlib.asynccontextmanager
    async def hosting(self, **settings: Any) -> AsyncIterator[Host]:
        plan = HostPlan(
            **{
                "models": self.models,
                "memory_bytes": 1000 * MB,
                "gpu_memory_bytes": 0,
                "max_loaded": 3,
                "groups": (),
                "ttl_s": 600.0,
                "collate_s": 0.0,
                "queue": 10,
                "preload": (),
                "validation_s": PATIENCE_S,
                "load_timeout_s": PATIENCE_S,
                "health_s": 600.0,
                **settings,
            }
        )
        host = Host(plan, os.environ)
        listening = OwnSocket.listen(self.folder, SOCKET)
        server = await asyncio.get_running_loop().create_unix_server(
            lambda: Connection(host), sock=listening.socket
        )
        host.start()
        try:
            yield host
        finally:
            server.close()
            await host.aclose()
            listening.close()
            assert not [pid for pid in self.pids if psutil.pid_exists(pid)]

    async def state(self, name: str) -> ModelState:
        async with client(self.folder) as asking:
            shown = await asking.look()
        return next(model for model in shown.models if model.name == f"local/{name}")

    async def until_state(self, name: str, state: str) -> None:
        await until_true(lambda: self._is(name, state))

    async def until_waiting(self, name: str) -> None:
        await until_true(lambda: self._is_waiting(name))

    async def _is_waiting(self, name: str) -> bool:
        return (await self.state(name)).waiting == 1

    async def _is(self, name: str, state: str) -> bool:
        return (await self.state(name)).state == state


@contextlib.asynccontextmanager
async def client(folder: Path) -> AsyncIterator[HostClient]:
    made = HostClient(folder)
    try:
        yield made
    finally:
        await made.aclose()


async def until_true(is_true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await is_true():  # noqa: ASYNC110 # what happens, happens in other processes
            await asyncio.sleep(0.01)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def run(scene: Coroutine[Any, Any, None], *, patience_s: float = 4 * PATIENCE_S) -> None:
    async def within() -> None:
        async with asyncio.timeout(patience_s):
            await scene

    asyncio.run(within())


def test_several_workers_load_a_model_once(place: Place) -> None:
    place.model("a")

    async def scene() -> None:
        async with place.hosting(), client(place.folder) as one, client(place.folder) as two:
            async with one.lease("local/a") as served, two.lease("local/a") as same:
                assert served == same
                state = await place.state("a")
                assert (state.state, state.users, state.loads) == ("loaded", 2, 1)
                assert state.pid == place.pids[0]
            assert (await place.state("a")).users == 0
        assert place.loads == ["a"]

    run(scene())


def test_what_it_takes_is_measured(place: Place) -> None:
    place.model("a", megabytes=1)
    # `megabytes` of the script, not of what is declared.
    (place.folder / "a.json").write_text(json.dumps({"log": str(place.log), "megabytes": 80}))

    async def scene() -> None:
        async with (
            place.hosting(),
            client(place.folder) as worker,
            worker.lease("local/a"),
        ):
            state = await place.state("a")
            resident = psutil.Process(state.pid).memory_info().rss
            assert 80 * MB < state.bytes < resident + 16 * MB

    run(scene())


def test_a_worker_that_goes_leaves_nothing_in_use(place: Place) -> None:
    place.model("a")

    async def scene() -> None:
        async with place.hosting():
            async with client(place.folder) as worker:
                lease = worker.lease("local/a")
                await lease.__aenter__()
                assert (await place.state("a")).users == 1
            await until_true(lambda: is_unused())

    async def is_unused() -> bool:
        return (await place.state("a")).users == 0

    run(scene())


def test_nobody_waits_so_the_load_is_given_up(place: Place) -> None:
    place.model("a", gate=str(place.folder / "never"))

    async def scene() -> None:
        async with place.hosting(), client(place.folder) as worker:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5), worker.lease("local/a"):
                    pass
            await place.until_state("a", "absent")

    run(scene())


def test_a_model_makes_room_for_another(place: Place) -> None:
    for name in "ab":
        place.model(name, megabytes=100)

    async def scene() -> None:
        async with place.hosting(memory_bytes=150 * MB), client(place.folder) as worker:
            async with worker.lease("local/a"):
                waiting = asyncio.create_task(use(worker, "local/b"))
                await place.until_waiting("b")
                assert place.loads == ["a"]
            await waiting
            assert (await place.state("a")).state == "absent"
            assert not psutil.pid_exists(place.pids[0])

    run(scene())


async def use(worker: HostClient, model: str) -> str:
    async with worker.lease(model) as served:
        return served.url


def test_a_model_that_nobody_uses_is_unloaded(place: Place) -> None:
    place.model("a")

    async def scene() -> None:
        async with place.hosting(ttl_s=0.2), client(place.folder) as worker:
            await use(worker, "local/a")
            await place.until_state("a", "absent")

    run(scene())


def test_loads_and_unloads_leave_nothing_open(place: Place) -> None:
    for name in "ab":
        place.model(name, megabytes=100)

    async def scene() -> None:
        async with place.hosting(memory_bytes=150 * MB), client(place.folder) as worker:
            open_files = []
            for _ in range(10):
                await use(worker, "local/a")
                await use(worker, "local/b")
                open_files.append(psutil.Process().num_fds())
            assert open_files[-1] <= open_files[1]
            assert len(asyncio.all_tasks()) <= 6
        assert place.loads == ["a", "b"] * 10

    run(scene())


def test_a_killed_process_is_started_again(place: Place) -> None:
    place.model("a")

    async def scene() -> None:
        async with place.hosting(), client(place.folder) as worker:
            first = await use(worker, "local/a")
            psutil.Process(place.pids[0]).kill()
            await place.until_state("a", "absent")
            assert await use(worker, "local/a") != first
        assert place.loads == ["a", "a"]

    run(scene())


def test_models_come_change_and_go_while_others_are_used(place: Place) -> None:
    first, changed = place.model("a"), place.model("b")
    new = place.model("c")

    async def scene() -> None:
        async with place.hosting(models=[first, changed]) as host, client(place.folder) as worker:
            await use(worker, "local/b")
            async with worker.lease("local/a"):
                other = replace(changed, arguments=[*changed.arguments, "--other"])
                host.set_models([other, new])
                assert (await place.state("a")).users == 1
                with pytest.raises(Unavailable, match="no local model 'local/a'"):
                    await use(worker, "local/a")
            await use(worker, "local/c")
            await use(worker, "local/b")
            await until_true(lambda: is_there(worker, {"local/b", "local/c"}))
        assert place.loads == ["b", "a", "c", "b"]

    async def is_there(worker: HostClient, names: set[str]) -> bool:
        return {model.name for model in (await worker.look()).models} == names

    run(scene())


def test_a_retired_model_goes_when_it_is_no_longer_used(place: Place) -> None:
    place.model("a")

    async def scene() -> None:
        async with place.hosting(), client(place.folder) as worker:
            async with worker.lease("local/a"):
                await worker.retire("local/a")
                again = asyncio.create_task(use(worker, "local/a"))
                await place.until_waiting("a")
                assert place.loads == ["a"]
            await again
            await worker.retire("local/a")
            await worker.retire("local/nonsense")
            await place.until_state("a", "absent")
        assert place.loads == ["a", "a"]

    run(scene())


def test_a_process_that_does_not_answer_is_ended(place: Place) -> None:
    deaf = place.folder / "deaf"
    place.model("a", deaf=str(deaf))

    async def scene() -> None:
        async with place.hosting(health_s=0.05), client(place.folder) as worker:
            await use(worker, "local/a")
            deaf.touch()
            await place.until_state("a", "absent")

    run(scene())


def test_a_failed_load_is_told_with_its_reason(place: Place) -> None:
    place.model("a", fails="the file is no model")

    async def scene() -> None:
        async with place.hosting(), client(place.folder) as worker:
            for _ in range(2):  # the second time without another try
                with pytest.raises(Unavailable, match="the file is no model") as caught:
                    await use(worker, "local/a")
                assert 0 < caught.value.retry_s <= 1
            assert (await place.state("a")).problem == "the file is no model"
        assert place.loads == ["a"]

    run(scene())


def test_what_the_machine_has_not_left_is_not_tried(place: Place) -> None:
    place.model("a", megabytes=1 << 30)

    async def scene() -> None:
        async with place.hosting(memory_bytes=1 << 60), client(place.folder) as worker:
            with pytest.raises(Unavailable, match="MB of memory left"):
                await use(worker, "local/a")
        assert place.loads == []

    run(scene())


def test_what_is_wrong_with_its_files_is_told_without_a_load(place: Place) -> None:
    broken = place.folder / "broken.gguf"
    broken.write_bytes(b"GGML")
    model = place.model("a")

    async def scene() -> None:
        unfit = [replace(model, files=[broken])]
        async with place.hosting(models=unfit), client(place.folder) as worker:
            with pytest.raises(Unavailable, match=r"broken\.gguf: is no GGUF file"):
                await use(worker, "local/a")
        assert place.loads == []

    run(scene())


def test_files_that_cannot_be_looked_at_in_time_are_no_load(place: Place) -> None:
    never = place.folder / "never"
    os.mkfifo(never)  # as on a disk that does not answer
    model = replace(place.model("a"), files=[never])

    async def scene() -> None:
        async with place.hosting(models=[model], validation_s=0.2), client(place.folder) as worker:
            with pytest.raises(Unavailable, match=r"looked at within 0\.2 s"):
                await use(worker, "local/a")
        assert place.loads == []
        never.open("wb").close()  # lets the thread go that still waits for it

    run(scene())


def test_the_memory_of_a_gpu_is_measured_by_process(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = place.model("a")
    small, large = (
        replace(model, need=replace(model.need, gpu_bytes=size * MB)) for size in (50, 900)
    )
    # What the stand-in's log says is its process: the last line's is the one that runs.
    table = f"""\
case "$1" in
  --query-gpu=memory.free) echo 400; echo "[N/A]" ;;
  --query-compute-apps=*) echo "999999, 7"; echo "$(tail -n 1 {place.log} | cut -d' ' -f2), 123" ;;
esac
"""
    stand_in_nvidia_smi(place.folder, table, monkeypatch)

    async def scene() -> None:
        async with (
            place.hosting(models=[small], gpu_memory_bytes=1000 * MB) as host,
            client(place.folder) as worker,
        ):
            await use(worker, "local/a")
            await until_true(lambda: is_measured(worker))
            host.set_models([large])
            await worker.retire("local/a")
            with pytest.raises(Unavailable, match="900 MB of GPU memory, and 400 MB are left"):
                await use(worker, "local/a")

    async def is_measured(worker: HostClient) -> bool:
        shown = await worker.look()
        return shown.taken_gpu_bytes == shown.models[0].gpu_bytes == 123 * MB

    run(scene())


def stand_in_nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_a_model_says_how_fast_it_was(place: Place) -> None:
    place.model("a")

    async def scene() -> None:
        async with place.hosting(), client(place.folder) as worker:
            for tokens, seconds in ((100, 2.0), (0, 0.0), (200, 1.0)):
                async with worker.lease("local/a"):
                    worker.spoke("local/a", tokens, seconds)
            await until_true(lambda: is_as_fast(100.0))

    async def is_as_fast(tokens_per_s: float) -> bool:
        return (await place.state("a")).tokens_per_s == tokens_per_s

    run(scene())


def test_without_a_file_descriptor_left_a_load_fails_and_the_next_one_does_not(
    place: Place,
) -> None:
    place.model("a")

    async def scene() -> None:
        async with place.hosting(), client(place.folder) as worker:
            await worker.look()  # it is connected
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            os.close(lowest := os.dup(0))
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                with pytest.raises(Unavailable, match="Too many open files") as caught:
                    await use(worker, "local/a")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await asyncio.sleep(caught.value.retry_s)
            await use(worker, "local/a")

    run(scene())


def test_what_has_no_room_at_the_start_is_told(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.model("a")
    place.model("b", megabytes=2000)

    async def scene() -> None:
        async with place.hosting(preload=["local/a", "local/b"]):
            await place.until_state("a", "loaded")

    run(scene())
    (said,) = (line for line in caplog.messages if "preloaded" in line)
    assert "local/b" in said


def test_preloaded_models_are_there_before_anybody_asks(place: Place) -> None:
    for name in "ab":
        place.model(name)

    async def scene() -> None:
        async with place.hosting(preload=["local/b"]):
            await place.until_state("b", "loaded")
        assert place.loads == ["b"]

    run(scene())


def test_waiters_ask_a_new_host_again(place: Place) -> None:
    gate = place.folder / "gate"
    place.model("a", gate=str(gate))

    async def scene() -> None:
        async with client(place.folder) as worker:
            async with place.hosting():
                waiting = asyncio.create_task(use(worker, "local/a"))
                await place.until_state("a", "loading")
            gate.touch()
            async with place.hosting():
                assert (await waiting).startswith("http://127.0.0.1:")

    run(scene())


def test_a_stranger_is_cut_off_and_the_others_stay(place: Place) -> None:
    place.model("a")

    async def scene() -> None:
        async with place.hosting(), client(place.folder) as worker, worker.lease("local/a"):
            reader, writer = await asyncio.open_unix_connection(
                str(place.folder / f"{SOCKET}.sock")
            )
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await reader.read() == b""
            writer.close()
            assert (await place.state("a")).users == 1

    run(scene())


def test_a_look_without_a_server_says_so(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no server with local models"):
        look(tmp_path)


def test_a_child_that_ignores_its_end_is_killed_with_its_children(tmp_path: Path) -> None:
    program = tmp_path / "stubborn.py"
    program.write_text(
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "own = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{own.pid}}')\n"
        "print('something else', flush=True)\n"
        "print('ready 1', flush=True)\n"
        "time.sleep(600)\n"
    )

    async def scene() -> None:
        environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
        began = time.monotonic()
        async with running(["stubborn"], environ, load_timeout_s=PATIENCE_S) as child:
            assert child.url == "http://127.0.0.1:1"
            assert not await child.is_well()
        assert time.monotonic() - began < PATIENCE_S
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        await until_true(lambda: are_gone(pids))

    async def are_gone(pids: list[int]) -> bool:
        return not any(psutil.pid_exists(pid) for pid in pids)

    run(scene())


def test_a_child_gets_no_secrets_and_no_more_time_than_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "silent.py"
    program.write_text(
        "import os, time\n"
        f"open({str(tmp_path / 'environ')!r}, 'w').write(repr(dict(os.environ)))\n"
        "time.sleep(600)\n"
    )
    environ = {"PYTHONPATH": str(tmp_path), "OPENAI_API_KEY": "sk-1", "OMP_NUM_THREADS": "3"}

    async def scene() -> None:
        with pytest.raises(ChildFailed, match="not loaded within 1 s"):
            async with running(["silent"], environ, load_timeout_s=1.0):
                pass
        seen = (tmp_path / "environ").read_text()
        assert "OMP_NUM_THREADS" in seen
        assert "sk-1" not in seen
        assert "LLAMA_API_KEY" in seen  # its own

    run(scene())
