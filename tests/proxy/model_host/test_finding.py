"""What a model host finds and tells, over its own socket, and what it has servers fetch."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.config import Config
from proxy.inventory import Inventory
from proxy.model_host import lookout as module
from proxy.model_host.core import Need
from proxy.model_host.hosted import HostedModel
from proxy.model_host.lookout import Lookout, lookout
from proxy.model_host.protocol import PullShown
from tests.proxy.model_host.model_server import OLLAMA_MODEL, ModelServer, ollama, openai_list
from tests.proxy.model_host.test_daemon import (
    MB,
    PATIENCE_S,
    STAND_IN,
    Place,
    client,
    run,
    until_true,
    use,
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def looking_at(servers: Mapping[str, ModelServer]) -> Lookout:
    ports = {name: server.port for name, server in servers.items()}
    config = Config(source="test", discover=True)
    return lookout(config, {}, local_servers=ports, folder=Path("no-such-folder"))


class Worker:
    """Whoever watches: all inventories that it was told of, in order."""

    def __init__(self) -> None:
        self.told: list[Inventory] = []

    async def until(self, *names: str) -> None:
        async def knows() -> bool:
            return bool(self.told) and set(self.told[-1].models()) == set(names)

        await until_true(knows)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer({"/v1/models": openai_list("m")}) as made:
        yield made


def test_every_worker_is_told_of_what_changes(place: Place, server: ModelServer) -> None:
    async def scene() -> None:
        watching = looking_at({"lmstudio": server})
        async with (
            place.hosting(lookout=watching, discovery_s=0.05),
            client(place.folder) as one,
            client(place.folder) as two,
        ):
            workers = [Worker(), Worker()]
            tasks = [
                asyncio.create_task(line.watch(worker.told.append))
                for line, worker in zip((one, two), workers, strict=True)
            ]
            for worker in workers:
                await worker.until("lmstudio/m")
            server.answers["/v1/models"] = openai_list("m", "n")
            for worker in workers:
                await worker.until("lmstudio/m", "lmstudio/n")
            server.stop()
            for worker in workers:
                await worker.until()
                # Nothing is told twice, however often is looked.
                assert len(worker.told) == len({str(each) for each in worker.told})
            late = Worker()
            async with client(place.folder) as line:
                joining = asyncio.create_task(line.watch(late.told.append))
                await late.until()
                joining.cancel()
            for task in tasks:
                task.cancel()

    run(scene())


def test_a_host_that_is_started_anew_tells_nothing_before_it_has_looked(
    place: Place, server: ModelServer
) -> None:
    async def scene() -> None:
        async with client(place.folder) as line:
            worker = Worker()
            task = asyncio.create_task(line.watch(worker.told.append))
            async with place.hosting(lookout=looking_at({"lmstudio": server}), discovery_s=60):
                await worker.until("lmstudio/m")
            async with place.hosting(lookout=looking_at({"lmstudio": server}), discovery_s=60):

                async def told_again() -> bool:
                    return len(worker.told) == 2

                await until_true(told_again)
            assert worker.told[0] == worker.told[1]
            task.cancel()

    run(scene())


def test_a_host_that_does_not_know_yet_tells_nothing(
    place: Place, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LIST_S", 1.0)

    async def scene() -> None:
        server.hanging.set()
        async with (
            place.hosting(lookout=looking_at({"lmstudio": server}), discovery_s=0.01),
            client(place.folder) as line,
        ):
            worker = Worker()
            task = asyncio.create_task(line.watch(worker.told.append))

            async def was_asked() -> bool:
                return len(server.asked) == 1

            await until_true(was_asked)
            server.hanging.clear()
            await worker.until("lmstudio/m")
            assert len(worker.told) == 1
            task.cancel()

    run(scene())


def test_files_that_are_found_are_loaded_and_end_when_they_go(place: Place) -> None:
    gate = place.folder / "there"

    def found(inventory: Inventory) -> Sequence[HostedModel]:
        if not gate.exists():
            return []
        arguments = [STAND_IN, "--model", str(place.folder / "f.json"), "--name", "f"]
        need = Need(name="local/f", bytes=MB, concurrency=1)
        return [HostedModel(need=need, backend="llama_cpp", arguments=arguments)]

    (place.folder / "f.json").write_text(json.dumps({"log": str(place.log)}))

    async def scene() -> None:
        with ModelServer({"/v1/models": openai_list("m")}) as server:
            looking = looking_at({"lmstudio": server})
            async with (
                place.hosting(lookout=looking, discovery_s=0.05, found=found),
                client(place.folder) as line,
            ):
                gate.touch()
                server.answers["/v1/models"] = openai_list("changed")

                async def is_known() -> bool:
                    return any(m.name == "local/f" for m in (await line.look()).models)

                await until_true(is_known)
                assert (await use(line, "local/f")).startswith("http://127.0.0.1:")
                gate.unlink()
                server.answers["/v1/models"] = openai_list("m")

                async def is_gone() -> bool:
                    return not await is_known()

                await until_true(is_gone)

    run(scene())


def test_files_that_hang_keep_nobody_from_the_models_there_are(place: Place) -> None:
    place.model("a")
    hangs, is_over = threading.Event(), threading.Event()
    ended: list[bool] = []

    def found(inventory: Inventory) -> Sequence[HostedModel]:
        hangs.set()
        ended.append(is_over.wait(PATIENCE_S))
        return []

    async def scene() -> None:
        with ModelServer({"/v1/models": openai_list("m")}) as server:
            looking = looking_at({"lmstudio": server})
            async with (
                place.hosting(lookout=looking, discovery_s=0.05, found=found),
                client(place.folder) as line,
            ):
                try:
                    assert await asyncio.to_thread(hangs.wait, PATIENCE_S)
                    assert (await use(line, "local/a")).startswith("http://127.0.0.1:")
                    assert not ended
                finally:
                    is_over.set()

    run(scene())


def test_a_file_in_the_place_of_a_loaded_one_is_loaded(place: Place) -> None:
    model = place.model("a")
    weights = place.folder / "weights"
    weights.write_text("these")
    (place.folder / "config.json").write_text("{}")
    place.models[0] = replace(model, files=[weights, place.folder / "config.json"])

    async def scene() -> None:
        with ModelServer({"/v1/models": openai_list("m")}) as server:
            looking = looking_at({"lmstudio": server})
            async with (
                place.hosting(lookout=looking, discovery_s=0.05),
                client(place.folder) as line,
            ):
                await use(line, "local/a")
                weights.write_text("others")
                (place.folder / "config.json").write_text("{")  # still being written
                asked = len(server.asked)

                async def was_looked_at_twice() -> bool:
                    return len(server.asked) >= asked + 3

                await until_true(was_looked_at_twice)
                assert (await place.state("a")).state == "loaded"
                (place.folder / "config.json").write_text("{}")
                await place.until_state("a", "absent")
                await use(line, "local/a")
                assert place.loads == ["a", "a"]

    run(scene())


# --- pulls ----------------------------------------------------------------------------------------


def lines(*steps: Mapping[str, Any]) -> bytes:
    return b"".join(json.dumps(step).encode() + b"\n" for step in steps)


def test_a_pull_goes_on_by_itself_and_its_model_is_found(place: Place) -> None:
    released = threading.Event()

    def fetch(body: Any) -> bytes:
        assert body["model"] == "qwen3:8b"
        released.wait(30)
        ollama_server.answers["/api/tags"] = {"models": [OLLAMA_MODEL]}
        step = {"status": "pulling", "digest": "a", "total": 10, "completed": 10}
        return lines(step, {"status": "success"})

    ollama_server = ollama()
    ollama_server.answers["/api/pull"] = fetch

    async def scene() -> None:
        async with (
            place.hosting(lookout=looking_at({"ollama": ollama_server}), discovery_s=600),
            client(place.folder) as line,
        ):

            async def is_done() -> bool:
                return (await line.look()).pulls[0].state == "done"

            async def is_found() -> bool:
                return "ollama/qwen3:8b" in (await line.look()).inventory.models()

            async with client(place.folder) as asking:
                first = await asking.pull("ollama", "qwen3:8b")
            again = await line.pull("ollama", "qwen3:8b")
            for reply in (first, again):
                assert reply.pull is not None
                assert reply.pull.state == "running"
            released.set()
            await until_true(is_done)
            shown = await line.look()
            assert shown.pulls == (PullShown("ollama", "qwen3:8b", "done", "success", 10, 10),)
            # At once, and not when the next look is due.
            await until_true(is_found)

    with ollama_server:
        run(scene())
        assert [path for path, _ in ollama_server.asked].count("/api/pull") == 1


def test_a_pull_that_fails_says_why_and_can_be_asked_for_again(
    place: Place, server: ModelServer
) -> None:
    async def scene(ollama_server: ModelServer) -> None:
        servers = {"ollama": ollama_server, "lmstudio": server}
        async with (
            place.hosting(lookout=looking_at(servers), discovery_s=600),
            client(place.folder) as line,
        ):
            for provider, model, says in (
                ("nobody", "m", "there is no server 'nobody'"),
                ("lmstudio", "m", "only Ollama"),
                ("ollama", "", "no name"),
                ("ollama", "a\nb", "no name"),
            ):
                assert says in (await line.pull(provider, model)).problem
            ollama_server.answers["/api/pull"] = lines({"error": "no such model"})
            await line.pull("ollama", "m")

            async def ended() -> bool:
                return (await line.look()).pulls[-1].state != "running"

            await until_true(ended)
            assert (await line.look()).pulls[-1].status == "no such model"
            ollama_server.answers["/api/pull"] = lines({"status": "success"})
            await line.pull("ollama", "m")
            await until_true(ended)
            assert [pull.state for pull in (await line.look()).pulls] == ["done"]

    with ollama() as made:
        run(scene(made))
