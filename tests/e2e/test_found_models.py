"""Models that come and go while the product runs: files in folders, and servers beside it."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest

from tests.e2e import stand_ins
from tests.e2e.test_llama_server import BINARY
from tests.e2e.test_local_models import ENDLESS, Machine, metrics_of, streaming
from tests.e2e.tollway import ADMIN_TOKEN, Tollway, serving
from tests.models import make_gguf
from tests.proxy.model_host.model_server import (
    OLLAMA_MODEL,
    OLLAMA_SHOWN,
    ModelServer,
    ollama,
    openai_list,
)
from tests.waiting import until

WORKERS = 2


def ids(tollway: Tollway, query: str = "") -> set[str]:
    """What every worker lists: as many new connections as reach them all, most likely."""
    lists = [tollway.get(f"/v1/models{query}").json()["data"] for _ in range(4 * WORKERS)]
    found = [{model["id"] for model in listed} for listed in lists]
    assert all(isinstance(each, set) for each in found)
    return set.intersection(*found) if found else set()


def anywhere(tollway: Tollway) -> set[str]:
    """What any worker lists."""
    lists = [tollway.get("/v1/models").json()["data"] for _ in range(4 * WORKERS)]
    return {model["id"] for listed in lists for model in listed}


def answered(body: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hi"}
    counts = {"prompt_eval_count": 3, "eval_count": 1}
    return {
        "model": body["model"],
        "message": message,
        "done": True,
        "done_reason": "stop",
    } | counts


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    folder = tmp_path / "files"
    folder.mkdir()
    return Machine(folder)


def local(folder: Path, program: Path | str, **host: Any) -> dict[str, Any]:
    return {
        "providers": {
            "local": {"adapter": "local", "folder": str(folder), "llama_server": str(program)}
        },
        "targets": [{"target": "local/*"}],
        "models": {"local": {"targets": ["tier:local"]}, "all": {"targets": ["local/*"]}},
        "host": {"collate_s": 0, "discovery_s": 0.2, **host},
    }


def test_why_a_model_could_not_be_loaded_is_said_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    name = "-a-name-as-long-as-those-that-models-have-Q4_K_M"
    make_gguf.canned(folder / f"{name}.gguf", [b"Hello"])
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    with serving(tmp_path, local(folder, program)) as tollway:
        until(lambda: f"local/{name}" in ids(tollway))
        reply = tollway.chat(f"local/{name}")
        assert reply.status_code == 503
        assert "(SIGKILL), as the system does when memory runs out" in reply.text
        lines = tollway.cli("models").stdout.splitlines()
        assert any(line.startswith(f"local/{name} ") and "not loaded" in line for line in lines)
        (why,) = (line for line in lines if "could not be loaded" in line)
        assert why.startswith(f"local/{name} ")
        assert why.endswith("memory runs out")


@pytest.mark.skipif(BINARY is None, reason="no llama-server at hand")
def test_a_file_that_is_dropped_into_the_folder_answers_until_it_goes(tmp_path: Path) -> None:
    assert BINARY is not None
    folder, outside = tmp_path / "files", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    model = make_gguf.canned(outside / "Tiny-Q8.gguf", [b"Hello", b" there"])
    config = local(folder, BINARY)
    with serving(tmp_path, config, "--workers", str(WORKERS)) as tollway:
        assert tollway.chat("local/Tiny-Q8").status_code == 404
        half = model.read_bytes()
        (folder / "Tiny-Q8.gguf").write_bytes(half[: len(half) // 2])
        until(lambda: "is not whole" in tollway.cli("models").stdout)
        assert "local/Tiny-Q8" not in anywhere(tollway)
        shutil.copy(model, folder / "Tiny-Q8.gguf")
        until(lambda: "local/Tiny-Q8" in ids(tollway))
        with ThreadPoolExecutor(4) as pool:
            asked = list(pool.map(lambda _: tollway.chat("all", max_tokens=8), range(8)))
        assert {reply.json()["choices"][0]["message"]["content"] for reply in asked} == {
            "Hello there"
        }
        with openai.OpenAI(base_url=f"{tollway.url}/v1", api_key="none") as client:
            entry = client.models.retrieve("local/Tiny-Q8").model_dump()
        assert (entry["id"], entry["object"], entry["owned_by"]) == (
            "local/Tiny-Q8",
            "model",
            "local",
        )
        assert (entry["state"], entry["found_by"]) == ("loaded", "files/")
        assert entry["weights"]["architecture"] == "llama"
        assert entry["profile"]["measured"]["cold_start_s"] > 0
        assert entry["health"]["state"] in ("up", "unknown")  # as far as this worker knows
        assert entry["changed_at"].endswith("Z")
        (folder / "Tiny-Q8.gguf").unlink()
        until(lambda: "local/Tiny-Q8" not in anywhere(tollway))
        gone = tollway.chat("local/Tiny-Q8")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
    assert {row["target"] for row in tollway.rows()} == {"local/Tiny-Q8"}


def scripted(machine: Machine, tmp_path: Path, **script: Any) -> Path:
    """A file that can be found, and a stand-in for the program that would run it."""
    make_gguf.canned(machine.folder / "a.gguf", [b"x"])
    program = machine.folder / "scripted-llama-server"
    (tmp_path / "script.json").write_text(json.dumps({"log": str(machine.log), **script}))
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        f"sys.argv[sys.argv.index('--model') + 1] = {str(tmp_path / 'script.json')!r}\n"
        "from tests.proxy.model_host.stand_in import llama_server\nllama_server()\n"
    )
    program.chmod(0o755)
    return program


def test_a_stream_goes_on_when_its_file_is_deleted(machine: Machine, tmp_path: Path) -> None:
    script = scripted(machine, tmp_path)
    with serving(tmp_path, local(machine.folder, script)) as tollway:
        with streaming(tollway, "local/a", ENDLESS) as lines:
            assert next(lines).startswith("data: ")
            (machine.folder / "a.gguf").unlink()
            until(lambda: "local/a" not in anywhere(tollway))
            assert [next(lines) for _ in range(200)]
        until(lambda: not machine.alive())


def test_what_was_left_out_and_is_gone_is_not_shown_as_out(
    machine: Machine, tmp_path: Path
) -> None:
    script = scripted(machine, tmp_path, ill=str(machine.folder))
    config = local(machine.folder, script) | {"circuit": {"failures": 2, "out_s": 600}}
    config["circuit"]["longest_s"] = 600
    with serving(tmp_path, config) as tollway:
        until(lambda: "local/a" in ids(tollway))

        def shown_as_out() -> float:
            shown = metrics_of(tollway)
            return sum(shown[name] for name in shown if name.startswith("tollway_circuits_open{"))

        def fails_until_it_is_out() -> bool:
            assert tollway.chat("local/a").status_code >= 500
            return shown_as_out() > 0

        until(fails_until_it_is_out)
        (machine.folder / "a.gguf").unlink()
        until(lambda: "local/a" not in anywhere(tollway))
        until(lambda: shown_as_out() == 0)


@contextlib.contextmanager
def polled(
    tmp_path: Path, server: ModelServer, adapter: str = "ollama", **more: Any
) -> Iterator[Tollway]:
    path = "" if adapter == "ollama" else "/v1"
    config = {
        "providers": {"near": {"adapter": adapter, "base_url": server.url + path}},
        "targets": [{"target": "near/*", "price": "free", **more}],
        "models": {"auto": {"targets": ["near/*"]}, "local": {"targets": ["tier:local"]}},
        "host": {"discovery_s": 0.2},
    }
    with serving(tmp_path, config, "--workers", str(WORKERS)) as tollway:
        yield tollway


def test_a_server_comes_changes_and_goes(tmp_path: Path) -> None:
    with ollama(OLLAMA_MODEL, loaded=("qwen3:8b",)) as server:
        server.answers["/api/chat"] = answered
        server.stop()
        with polled(tmp_path, server) as tollway:
            assert tollway.chat("auto").status_code == 503
            server.start()
            until(lambda: "near/qwen3:8b" in ids(tollway))
            for model in ("auto", "local", "near/qwen3:8b", "qwen3:8b"):
                assert tollway.chat(model).status_code == 200, model
            entry = tollway.get("/v1/models/near/qwen3:8b").json()
            assert (entry["state"], entry["context_length"]) == ("loaded", 40960)
            assert entry["tags"] == ["thinking"]
            assert entry["input_modalities"] == ["text"]
            assert entry["cost"]["input_usd_per_million_tokens"] == 0
            shown = tollway.admin("GET", "/models")["found"][0]
            assert (shown["provider"], shown["models"][0]["is_loaded"]) == ("near", True)
            assert "loaded" in tollway.cli("models").stdout
            told = json.loads(tollway.cli("models", "--json").stdout)
            assert told["inventory"]["providers"][0]["models"][0]["name"] == "qwen3:8b"
            server.stop()
            until(lambda: "near/qwen3:8b" not in anywhere(tollway))
            assert tollway.chat("auto").status_code == 503


def test_a_request_keeps_the_targets_that_it_was_routed_by(tmp_path: Path) -> None:
    asked, gone = threading.Event(), threading.Event()
    other = {**OLLAMA_MODEL, "name": "other", "digest": "b"}

    def chat(body: Any) -> object:
        if body["model"] == "other":
            return answered(body)
        asked.set()
        gone.wait(30)
        return b"not an answer"

    with ollama(OLLAMA_MODEL, other) as server:
        server.answers["/api/chat"] = chat
        with polled(tmp_path, server) as tollway, ThreadPoolExecutor(1) as pool:
            until(lambda: "near/other" in ids(tollway))
            reply = pool.submit(tollway.chat, "auto")
            assert asked.wait(30)
            server.answers["/api/tags"] = {"models": []}
            until(lambda: not {"near/other", "near/qwen3:8b"} & anywhere(tollway))
            gone.set()
            assert reply.result().headers["x-tollway-model"] == "near/other"
            assert reply.result().status_code == 200


def test_models_are_found_by_what_they_can_do(tmp_path: Path) -> None:
    seer = {**OLLAMA_MODEL, "name": "seer", "digest": "b"}

    def show(body: Any) -> object:
        more = ["vision"] if body["model"] == "seer" else []
        return {**OLLAMA_SHOWN, "capabilities": ["completion", "tools", *more]}

    with ollama(OLLAMA_MODEL, seer) as server:
        server.answers["/api/show"] = show
        with polled(tmp_path, server, tags=["code_generation"]) as tollway:
            until(lambda: "near/seer" in ids(tollway))
            assert ids(tollway, "?capability=vision") == {"near/seer", "auto", "local"}
            both = ids(tollway, "?capability=tools,code_generation")
            assert both == {"near/seer", "near/qwen3:8b", "auto", "local"}
            assert ids(tollway, "?capability=vision&capability=embeddings") == set()
            wrong = tollway.get("/v1/models?capability=telepathy")
            assert wrong.status_code == 400
            error = wrong.json()["error"]
            assert (error["param"], error["type"]) == ("capability", "invalid_request_error")
            assert "code_generation" in error["message"]
            assert "vision" in error["message"]
            with openai.OpenAI(base_url=f"{tollway.url}/v1", api_key="none") as client:
                listed = client.models.list(extra_query={"capability": "vision"})
                assert {model.id for model in listed} == {"near/seer", "auto", "local"}


def test_a_key_sees_only_what_it_may_name(tmp_path: Path) -> None:
    with ollama(OLLAMA_MODEL) as server, polled(tmp_path, server) as tollway:
        until(lambda: "near/qwen3:8b" in ids(tollway))
        key = tollway.admin("POST", "/keys", {"name": "k", "models": ["auto"]})["key"]
        headers = {"authorization": f"Bearer {key}"}
        listed = tollway.get("/v1/models?capability=tools", headers=headers).json()["data"]
        assert [model["id"] for model in listed] == ["auto"]
        hidden = tollway.get("/v1/models/near/qwen3:8b", headers=headers)
        assert hidden.status_code == 404


def test_the_operators_context_length_goes_to_ollama(tmp_path: Path) -> None:
    seen: list[Any] = []

    def chat(body: Any) -> object:
        seen.append(body)
        return answered(body)

    with ollama(OLLAMA_MODEL) as server:
        server.answers["/api/chat"] = chat
        with polled(tmp_path, server, context_length=12_288) as tollway:
            until(lambda: "near/qwen3:8b" in ids(tollway))
            assert tollway.chat("near/qwen3:8b").status_code == 200
    assert seen[0]["options"]["num_ctx"] == 12_288


def test_a_killed_host_makes_no_target_vanish(tmp_path: Path) -> None:
    with ollama(OLLAMA_MODEL) as server, polled(tmp_path, server) as tollway:
        until(lambda: "near/qwen3:8b" in ids(tollway))
        ledger = tollway.ledger()
        before = set(tollway.children())
        for child in before - {ledger}:
            listens = [each.status == psutil.CONN_LISTEN for each in child.net_connections("inet")]
            if not any(listens):
                child.kill()  # it is the host: workers listen
        server.answers["/api/tags"] = {"models": [OLLAMA_MODEL, {"name": "new"}]}

        def has_been_told() -> bool:
            listed = ids(tollway)
            assert "near/qwen3:8b" in listed
            return "near/new" in listed

        until(has_been_told)
        assert set(tollway.children()) - before


def test_the_operator_has_a_model_fetched(tmp_path: Path) -> None:
    released = threading.Event()

    def fetch(body: Any) -> bytes:
        released.wait(30)
        server.answers["/api/tags"] = {"models": [OLLAMA_MODEL]}
        step = {"status": "pulling aa", "digest": "aa", "total": 100, "completed": 100}
        return b"".join(json.dumps(each).encode() + b"\n" for each in (step, {"status": "success"}))

    server = ollama()
    server.answers["/api/pull"] = fetch
    with server, polled(tmp_path, server) as tollway:
        for model in ("near/qwen3:8b", "qwen3:8b", "auto"):
            assert tollway.chat(model).status_code >= 400
        assert "/api/pull" not in [path for path, _ in server.asked]
        pull = {"model": "qwen3:8b", "provider": "near"}
        anybody = tollway.post("/admin/v1/models/pull", pull)
        assert anybody.status_code == 401
        began = tollway.admin("POST", "/models/pull", pull)
        assert (began["state"], began["done_bytes"]) == ("running", 0)
        released.set()
        until(lambda: tollway.admin("GET", "/models")["pulls"][0]["state"] == "done")
        until(lambda: "near/qwen3:8b" in ids(tollway))
        done = tollway.cli("models", "pull", "qwen3:8b", "--provider", "near")
        assert done.returncode == 0, done.stderr
        wrong = tollway.cli("models", "pull", "m", "--provider", "nobody")
        assert wrong.returncode == 2
        assert "there is no server 'nobody'" in wrong.stderr
        server.answers["/api/pull"] = b'{"error":"file does not exist"}\n'
        failed = tollway.cli("models", "pull", "m", "--provider", "near")
        assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
        assert "file does not exist" in failed.stderr
        refused = httpx2.post(
            f"{tollway.url}/admin/v1/models/pull",
            json={"model": "m", "provider": "nobody"},
            headers={"authorization": f"Bearer {ADMIN_TOKEN}"},
        )
        assert refused.status_code == 400
    pulled = [body["model"] for path, body in server.asked if path == "/api/pull"]
    assert pulled == ["qwen3:8b", "qwen3:8b", "m"]


def test_files_beside_the_server_are_found_without_configuration(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    make_gguf.canned(tmp_path / "models" / "tiny.gguf", [b"x"])
    (tmp_path / "llama-server").touch(0o755)
    environ = {"LLAMA_SERVER": str(tmp_path / "llama-server")}
    config = {"discover": True, "models": {"local": {"targets": ["tier:local"]}}}
    tollway = Tollway(tmp_path, config, **environ).start()
    try:
        assert "local (models/)" in tollway.log()
        assert "local/tiny" in ids(tollway)
    finally:
        assert tollway.stop() == 0


def test_a_server_that_answers_openai_lists_is_polled_too(tmp_path: Path) -> None:
    with (
        ModelServer({"/v1/models": openai_list("m")}) as server,
        polled(tmp_path, server, "openai_compatible") as tollway,
    ):
        until(lambda: "near/m" in ids(tollway))
        server.answers["/v1/models"] = b"<html>"
        until(lambda: "near/m" not in anywhere(tollway))


@pytest.mark.skipif(not stand_ins.has_npm_peers(), reason="no Node.js, or no packages from npm")
def test_a_stand_in_of_others_for_ollama_is_found(tmp_path: Path) -> None:
    fixtures = [{"match": {"userMessage": "Hello"}, "response": {"content": "Hi!"}}]
    config = {
        "targets": [{"target": "near/*", "price": "free"}],
        "models": {"auto": {"targets": ["near/*"]}},
        "host": {"discovery_s": 0.2},
    }
    with stand_ins.aimock(tmp_path, fixtures) as url:
        near = {"near": {"adapter": "ollama", "base_url": url}}
        with serving(tmp_path, {"providers": near, **config}) as tollway:
            until(lambda: "near/gpt-4o" in ids(tollway))
            assert tollway.chat("auto").json()["choices"][0]["message"]["content"] == "Hi!"
            assert tollway.get("/v1/models/near/gpt-4o").json()["state"] is None


@pytest.mark.skipif(BINARY is None, reason="no llama-server at hand")
def test_a_real_llama_server_is_found_while_it_runs(tmp_path: Path) -> None:
    assert BINARY is not None
    model = make_gguf.canned(tmp_path / "tiny.gguf", [b"Hello", b" there"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = {
        "providers": {
            "near": {"adapter": "llama_server", "base_url": f"http://127.0.0.1:{port}/v1"}
        },
        "targets": [{"target": "near/*", "price": "free"}],
        "models": {"auto": {"targets": ["near/*"]}},
        "host": {"discovery_s": 0.2},
    }
    command = [BINARY, "--model", str(model), "--alias", "tiny", "--port", str(port)]
    with serving(tmp_path, config, "--workers", str(WORKERS)) as tollway:
        assert "near/tiny" not in anywhere(tollway)
        with (tmp_path / "server.log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until(lambda: "near/tiny" in ids(tollway))
            reply = tollway.chat("auto", max_tokens=8)
            assert reply.json()["choices"][0]["message"]["content"] == "Hello there"
            entry = tollway.get("/v1/models/near/tiny").json()
            assert (entry["state"], entry["weights"]["context_length"]) == ("loaded", 2048)
            assert entry["weights"]["parameters"] > 0
        finally:
            server.terminate()
            server.wait(20)
        until(lambda: "near/tiny" not in anywhere(tollway))
