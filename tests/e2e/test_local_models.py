"""Local models end to end: by stand-ins for `llama-server`, and by the real one where it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from proxy.model_host import children
from tests.e2e.test_llama_server import BINARY
from tests.e2e.tollway import ADMIN_TOKEN, Tollway, events, serving
from tests.models import make_gguf
from tests.proxy.model_host.stand_in import ENDLESS, NO_TENSORS
from tests.waiting import is_alive, until

PATIENCE_S = 20.0
REAL = pytest.mark.skipif(BINARY is None, reason="no llama-server at hand; LLAMA_SERVER names it")


class Machine:
    """What is in the folder of local models, and which of them were started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.program = folder / "stand-in-llama-server"
        self.program.write_text(
            f"#!{sys.executable}\n"
            "from tests.proxy.model_host.stand_in import llama_server\n"
            "llama_server()\n"
        )
        self.program.chmod(0o755)

    def model(self, name: str, **script: Any) -> str:
        said = json.dumps({"log": str(self.log), **script}).encode()
        (self.folder / name).write_bytes(NO_TENSORS + said)
        return name

    def config(self, *targets: dict[str, Any], **host: Any) -> dict[str, Any]:
        return {
            "providers": {
                "local": {
                    "adapter": "local",
                    "folder": str(self.folder),
                    "llama_server": str(self.program),
                }
            },
            "targets": list(targets),
            "models": {"local": {"targets": ["tier:local"]}},
            "host": {"collate_s": 0, **host},
        }

    @property
    def loads(self) -> list[str]:
        return [line.split()[0] for line in self._lines()]

    @property
    def pids(self) -> list[int]:
        return [int(line.split()[1]) for line in self._lines()]

    def alive(self) -> list[int]:
        return [pid for pid in self.pids if is_alive(pid)]

    def _lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    folder = tmp_path / "models"
    folder.mkdir()
    return Machine(folder)


def states(tollway: Tollway) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in tollway.admin("GET", "/models")["data"]}


def metrics_of(tollway: Tollway) -> dict[str, float]:
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    text = httpx2.get(f"{tollway.url}/metrics", headers=headers, timeout=PATIENCE_S).text
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


@contextlib.contextmanager
def streaming(tollway: Tollway, model: str, said: str = ENDLESS) -> Iterator[Iterator[str]]:
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": said}]}
    with httpx2.stream(
        "POST", f"{tollway.url}/v1/chat/completions", json=body, timeout=PATIENCE_S
    ) as reply:
        assert reply.status_code == 200
        yield reply.iter_lines()


def test_two_workers_load_a_model_once_and_it_goes_when_unused(
    machine: Machine, tmp_path: Path
) -> None:
    target = {"target": "local/a", "model": machine.model("a.gguf")}
    with serving(tmp_path, machine.config(target, ttl_s=1), "--workers", "2") as tollway:
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: tollway.chat("local"), range(16)))
        assert {reply.status_code for reply in replies} == {200}
        assert machine.loads == ["a"]
        assert "local/a" in tollway.cli("models").stdout
        until(lambda: states(tollway)["local/a"]["state"] == "absent")
        until(lambda: not machine.alive())
        assert tollway.chat("local").status_code == 200
        assert machine.loads == ["a", "a"]
    assert not machine.alive()
    row = tollway.rows()[-1]
    assert (row["outcome"], row["cost_nanousd"], row["output_tokens"]) == ("ok", 0, 2)


def test_how_models_stand_is_among_the_metrics(machine: Machine, tmp_path: Path) -> None:
    target = {"target": "local/a", "model": machine.model("a.gguf")}
    with serving(tmp_path, machine.config(target)) as tollway:
        assert tollway.chat("local").status_code == 200
        until(lambda: states(tollway)["local/a"]["tokens_per_s"] > 0)
        metrics = metrics_of(tollway)
    of_a = {name: metrics[f'tollway_local_{name}{{target="local/a"}}'] for name in _OF_MODELS}
    assert of_a["loaded"] == of_a["loads_total"] == 1
    assert of_a["users"] == of_a["waiting"] == of_a["gpu_bytes"] == 0
    assert of_a["tokens_per_second"] > 0
    assert of_a["bytes"] > 1 << 20


_OF_MODELS = (
    *("loaded", "loads_total", "users", "waiting"),
    *("bytes", "gpu_bytes", "tokens_per_second"),
)


def test_a_model_killed_in_a_stream_fails_it_in_band_and_is_started_again(
    machine: Machine, tmp_path: Path
) -> None:
    target = {"target": "local/a", "model": machine.model("a.gguf")}
    with serving(tmp_path, machine.config(target)) as tollway:
        with streaming(tollway, "local/a") as lines:
            assert next(lines).startswith("data: ")
            os.kill(machine.pids[-1], signal.SIGKILL)
            text = "\n".join(lines)
        assert "[DONE]" not in text
        last = events(f"{text.lstrip()}\n")[-1]  # it may be all that came after the first
        assert last["error"]["code"] == "upstream_error"
        reply = tollway.chat("local/a")
        assert reply.status_code == 200, reply.text
        assert machine.loads == ["a", "a"]
    assert [row["outcome"] for row in tollway.rows()] == ["broken", "ok"]
    assert not machine.alive()


def test_what_cannot_fit_is_a_clear_503_and_the_next_target_serves(
    machine: Machine, tmp_path: Path
) -> None:
    big = {"target": "local/big", "model": machine.model("big.gguf"), "needs_mb": 500}
    small = {"target": "local/small", "model": machine.model("small.gguf"), "needs_mb": 50}
    with serving(tmp_path, machine.config(big, small, memory_mb=100)) as tollway:
        reply = tollway.chat("local/big")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_target")
        assert "500 MB" in reply.json()["error"]["message"]
        assert "100 MB" in reply.json()["error"]["message"]
        spilled = tollway.chat("local")
        assert spilled.headers["x-tollway-model"] == "local/small"
    assert machine.loads == ["small"]
    outcomes = [(row["target"], row["outcome"]) for row in tollway.rows()]
    assert outcomes[:2] == [("local/big", "not_dispatched")] * 2


def test_requests_go_where_room_is_left_by_what_is_measured(
    machine: Machine, tmp_path: Path
) -> None:
    targets = [
        {"target": f"local/{name}", "model": machine.model(f"{name}.gguf"), "needs_mb": 600}
        for name in ("a", "b")
    ]
    config = machine.config(*targets, memory_mb=2000, health_s=0.1)
    config["models"]["roomy"] = {
        "targets": ["local/b", "local/a"],
        "constraints": {"resource_limits": {"free_memory_mb": 1000}},
    }
    with serving(tmp_path, config) as tollway:

        def route() -> tuple[list[str], dict[str, str]]:
            body = {"model": "roomy", "messages": [{"role": "user", "content": "Hello"}]}
            shown = tollway.post("/v1/route", body).json()
            rejections = {each["target"]: each["reason"] for each in shown["rejections"]}
            return [choice["target"] for choice in shown["choices"]], rejections

        assert route() == (["local/b", "local/a"], {})
        assert tollway.chat("local/a").status_code == 200
        # That one is there, and needs no more room; beside it there is none for the other.
        until(lambda: route()[0] == ["local/a"])
        assert "it would leave 800 MB, under 1000" in route()[1]["local/b"]
        assert tollway.chat("roomy").headers["x-tollway-model"] == "local/a"
    assert machine.loads == ["a"]


def test_a_cold_model_lets_the_next_target_answer_or_refuses(
    machine: Machine, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    cold = {"target": "local/cold", "model": machine.model("cold.gguf", gate=str(gate))}
    warm = {"target": "local/warm", "model": machine.model("warm.gguf")}
    config = machine.config(cold, warm)
    targets = ["local/cold", "local/warm"]
    config["models"] = {
        "spill": {"targets": targets, "cold_start": "spill"},
        "refuse": {"targets": targets, "cold_start": "refuse"},
    }
    with serving(tmp_path, config) as tollway:
        spilled = tollway.chat("spill")
        assert spilled.headers["x-tollway-model"] == "local/warm"
        assert spilled.headers["x-tollway-not-loaded"] == "local/cold"
        refused = tollway.chat("refuse")
        assert refused.status_code == 503
        assert "'local/cold' is not loaded yet" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] == "1"
        gate.touch()
        until(lambda: states(tollway)["local/cold"]["state"] == "loaded")
        for model in ("spill", "refuse"):
            served = tollway.chat(model)
            assert served.headers["x-tollway-model"] == "local/cold"
            assert "x-tollway-not-loaded" not in served.headers
        assert sorted(machine.loads) == ["cold", "warm"]
    outcomes = [(row["target"], row["outcome"]) for row in tollway.rows()]
    assert outcomes[:2] == [("local/cold", "not_dispatched"), ("local/warm", "ok")]


def test_a_model_that_does_not_load_says_why(machine: Machine, tmp_path: Path) -> None:
    target = {"target": "local/a", "model": machine.model("a.gguf", fails="error: no magic")}
    with serving(tmp_path, machine.config(target)) as tollway:
        reply = tollway.chat("local/a")
        assert reply.status_code == 503
        assert "error: no magic" in reply.json()["error"]["message"]
        assert reply.headers["retry-after"] == "1"
        assert "error: no magic" in tollway.cli("models").stdout


def test_a_client_that_leaves_while_a_model_loads_gives_the_load_up(
    machine: Machine, tmp_path: Path
) -> None:
    name = machine.model("a.gguf", gate=str(tmp_path / "never"))
    with serving(tmp_path, machine.config({"target": "local/a", "model": name})) as tollway:
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(
                f"{tollway.url}/v1/chat/completions",
                json={"model": "local", "messages": [{"role": "user", "content": "x"}]},
                timeout=1.0,
            )
        until(lambda: bool(machine.pids) and not machine.alive())
        until(lambda: states(tollway)["local/a"]["state"] == "absent")


def test_a_killed_host_takes_its_models_along_and_is_started_again(
    machine: Machine, tmp_path: Path
) -> None:
    target = {"target": "local/a", "model": machine.model("a.gguf")}
    with serving(tmp_path, machine.config(target), "--workers", "2") as tollway:
        assert tollway.chat("local").status_code == 200
        host_of(tollway, machine.pids[0]).kill()
        until(lambda: not machine.alive())
        reply = tollway.chat("local")
        assert reply.status_code == 200, reply.text
        assert machine.loads == ["a", "a"]
    assert not machine.alive()


def test_a_host_killed_in_a_load_ends_it_and_whoever_waits_is_served(
    machine: Machine, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    target = {"target": "local/a", "model": machine.model("a.gguf", gate=str(gate))}
    config = machine.config(target)
    config["models"]["spill"] = {"targets": ["local/a"], "cold_start": "refuse"}
    with serving(tmp_path, config) as tollway, ThreadPoolExecutor() as pool:
        waiting = pool.submit(tollway.chat, "local")
        until(lambda: bool(machine.pids))
        host_of(tollway, machine.pids[0]).kill()
        until(lambda: machine.pids[0] not in machine.alive())
        refused = tollway.chat("spill")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        gate.touch()
        assert waiting.result(PATIENCE_S).status_code == 200
        assert tollway.chat("spill").status_code == 200


def host_of(tollway: Tollway, pid: int) -> psutil.Process:
    """The process that has started a model's."""
    return next(
        child
        for child in tollway.children()
        if pid in {below.pid for below in child.children(recursive=True)}
    )


def test_a_killed_supervisor_leaves_no_model_behind(machine: Machine, tmp_path: Path) -> None:
    target = {"target": "local/a", "model": machine.model("a.gguf")}
    tollway = Tollway(tmp_path, machine.config(target, preload=["local/a"])).start()
    try:
        until(lambda: states(tollway)["local/a"]["state"] == "loaded")
        os.kill(tollway.pid, signal.SIGKILL)
        until(lambda: not machine.alive())
    finally:
        tollway.stop()


def test_a_killed_supervisor_lets_streams_end(machine: Machine, tmp_path: Path) -> None:
    target = {"target": "local/a", "model": machine.model("a.gguf")}
    tollway = Tollway(tmp_path, machine.config(target)).start()
    try:
        with streaming(tollway, "local/a") as lines:
            next(lines)
            os.kill(tollway.pid, signal.SIGKILL)
            assert [next(lines) for _ in range(200)]
            assert machine.alive()
        until(lambda: not machine.alive())
    finally:
        tollway.stop()


@pytest.mark.parametrize(
    ("collate_s", "loads"), [(0, "abacabc"), (5, "abc")], ids=["first in, first out", "collated"]
)
def test_requests_that_alternate_do_not_make_models_alternate(
    machine: Machine, tmp_path: Path, collate_s: float, loads: str
) -> None:
    gate = tmp_path / "gate"
    names = (machine.model(f"{name}.gguf", gate=str(gate)) for name in "abc")
    targets = [{"target": f"local/{name[0]}", "model": name, "needs_mb": 60} for name in names]
    config = machine.config(*targets, max_loaded=1, collate_s=collate_s)
    with serving(tmp_path, config) as tollway, ThreadPoolExecutor(8) as pool:
        asked = []
        for name in "abaacabc":
            asked.append(pool.submit(tollway.chat, f"local/{name}"))
            until(lambda: sum(each["waiting"] for each in states(tollway).values()) == len(asked))
        gate.touch()
        assert [future.result().status_code for future in asked] == [200] * 8
    assert machine.loads == list(loads)


def test_what_is_missing_is_said_at_the_start(machine: Machine, tmp_path: Path) -> None:
    config = machine.config({"target": "local/a", "model": "missing.gguf"})
    tollway = Tollway(tmp_path, config)
    done = tollway.cli("serve", "--port", "0")
    assert done.returncode == 2
    assert "missing.gguf" in done.stderr
    config = machine.config({"target": "local/a", "model": machine.model("a.gguf")})
    config["providers"]["local"]["llama_server"] = str(tmp_path / "nothing")
    done = Tollway(tmp_path, config).cli("serve", "--port", "0")
    assert done.returncode == 2
    assert "llama-server" in done.stderr


@REAL
def test_the_real_server_serves_dies_and_serves_again(tmp_path: Path) -> None:
    model = make_gguf.babbling(tmp_path / "tiny.gguf")
    config = {
        "providers": {
            "local": {"adapter": "local", "folder": str(tmp_path), "llama_server": BINARY}
        },
        "targets": [
            {
                "target": "local/tiny",
                "model": model.name,
                "context_length": 512,
                "gpu_layers": 0,
            },
            {"target": "local/embed", "model": model.name, "capabilities": ["embeddings"]},
        ],
        "models": {"local": {"targets": ["tier:local"]}},
    }
    with serving(tmp_path, config, "--workers", "2") as tollway:
        never_ends = {str(token): -100 for token in range(3)}
        body = {"temperature": 0, "seed": 1, "max_tokens": 20, "logit_bias": never_ends}
        reply = tollway.chat("local", **body)
        assert reply.status_code == 200, reply.text
        text = reply.json()["choices"][0]["message"]["content"]
        streamed = events(tollway.chat("local", **body, stream=True).text)[:-1]
        parts = [chunk["choices"][0]["delta"].get("content") or "" for chunk in streamed]
        assert "".join(parts) == text
        until(lambda: states(tollway)["local/tiny"]["tokens_per_s"] > 0)
        embedded = tollway.post("/v1/embeddings", {"model": "local/embed", "input": ["a", "b"]})
        first, second = (item["embedding"] for item in embedded.json()["data"])
        assert len(first) == len(second)
        assert first != second
        state = states(tollway)["local/tiny"]
        # It keeps web pages out, which loopback alone does not.
        (server,) = psutil.Process(state["pid"]).children()
        (listening,) = (c for c in server.net_connections() if c.status == psutil.CONN_LISTEN)
        stranger = httpx2.get(f"http://127.0.0.1:{listening.laddr.port}/slots")
        assert stranger.status_code == 401
        (server,) = psutil.Process(state["pid"]).children()
        server.kill()
        until(lambda: tollway.chat("local", **body).status_code == 200)
        assert states(tollway)["local/tiny"]["loads"] == 2
        (server,) = psutil.Process(states(tollway)["local/tiny"]["pid"]).children()
    assert not is_alive(server.pid)
    whole, stream = tollway.rows()[:2]
    assert whole["output_tokens"] == stream["output_tokens"] == 20


def test_a_server_that_is_killed_is_said_to_have_been(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    file = tmp_path / machine.model("a.gguf")
    child = ["adapters.children.llama_server", "--name=a", "--model", str(file)]

    async def scene() -> str:
        arguments = [*child, "--binary", str(machine.program)]
        async with children.running(arguments, os.environ, load_timeout_s=60) as running:
            (server,) = psutil.Process(running.pid).children()
            server.kill()
            return await running.ended()

    assert "llama-server was killed (SIGKILL)" in asyncio.run(scene())


def test_a_model_that_is_well_but_answers_nothing_is_started_anew(
    machine: Machine, tmp_path: Path
) -> None:
    ill = tmp_path / "ill"
    ill.touch()
    machine.model("a.gguf", ill=str(ill))
    config = machine.config({"target": "local/a", "model": "a.gguf"})
    config["providers"]["local"]["retries"] = {"tries": 1}
    with serving(tmp_path, config) as tollway:
        assert tollway.chat("local/a").status_code == 502
        ill.unlink()
        for _ in range(4):
            assert tollway.chat("local/a").status_code == 502
        first, *_ = machine.pids
        until(lambda: not is_alive(first))
        assert tollway.chat("local/a").status_code == 200
        assert machine.loads == ["a", "a"]
        assert "local/a is left out" in tollway.log()
