"""What of a configuration becomes a local model, and how its process is started."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from adapters.base import Deadlines
from adapters.children.serving import arguments
from proxy import catalog, config, config_file
from proxy.discovery import with_found
from proxy.errors import StartError
from proxy.inventory import FoundModel, FoundProvider, Inventory
from proxy.model_host import hosted, memory
from proxy.model_host.core import Group
from proxy.price_book import PriceBook
from proxy.target_table import build_table
from proxy.targets import TargetTable
from proxy.yaml_file import YamlFile

MB = 2**20


def built(text: str) -> tuple[config.Config, TargetTable]:
    made = config_file.build(YamlFile.parse(text, "router.yaml"), {})
    return made, build_table(made, catalog.load(), PriceBook.load(), today=date(2026, 11, 20))


def planned(text: str, **environ: str) -> hosted.HostPlan:
    made, table = built(text)
    plan = hosted.plan(made, table, environ)
    assert plan is not None
    return plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "chat.gguf").write_bytes(b"x" * 4 * MB)
    program = tmp_path / "llama-server"
    program.touch(0o755)
    return tmp_path


def test_without_local_models_there_is_nothing_to_host() -> None:
    made, table = built("providers: {up: {base_url: 'http://h'}}\ntargets: [{target: up/m}]")
    assert hosted.plan(made, table, {}) is None


def test_a_model_is_free_local_and_of_a_context_that_is_known(folder: Path) -> None:
    text = f"""
providers: {{here: {{adapter: local, folder: "{folder}", llama_server: "{folder}/llama-server"}}}}
targets:
  - {{target: here/chat, model: chat.gguf}}
  - {{target: here/embed, model: chat.gguf, capabilities: [embeddings], backend: minilm}}
"""
    _, table = built(text)
    chat, embed = table.targets["here/chat"], table.targets["here/embed"]
    assert chat.is_free
    assert embed.is_free
    assert chat.tiers == {"local"}
    assert embed.tiers == set()
    assert "completions" in chat.speaks  # llama-server has them
    assert "completions" not in embed.speaks
    assert chat.model == "chat"  # what callers see is the name, not the file
    serving, embedding = planned(text).models
    assert serving.name == "here/chat"
    module, name, *rest = serving.arguments
    assert name == "--name=chat"
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    assert module == "adapters.children.llama_server"
    assert options == {
        "--model": str(folder / "chat.gguf"),
        "--port": "0",
        "--context": str(chat.context_length),
        "--parallel": "4",
        "--binary": str(folder / "llama-server"),
    }
    assert "--embeddings" in embedding.arguments
    assert "--context" not in embedding.arguments  # its own is the right one


def test_a_name_may_look_like_an_option(folder: Path) -> None:
    (folder / "-n.gguf").write_bytes((folder / "chat.gguf").read_bytes())
    text = f"""
providers: {{here: {{adapter: local, folder: "{folder}", llama_server: "{folder}/llama-server"}}}}
targets: [{{target: here/-n, model: -n.gguf}}, {{target: here/--port, model: chat.gguf}}]
"""
    names = [
        arguments("").parse_known_args(model.arguments[1:])[0].name
        for model in planned(text).models
    ]
    assert names == ["-n", "--port"]


def test_what_is_declared_counts(folder: Path) -> None:
    text = f"""
providers: {{here: {{adapter: local, folder: "{folder}", llama_server: "{folder}/llama-server"}}}}
targets:
  - target: here/a
    model: chat.gguf
    needs_mb: 700
    concurrency: 2
    timeout_s: 7
    pinned: true
  - {{target: here/b, model: chat.gguf, price: {{input: 1, output: 1}}}}
host: {{memory_mb: 2000, max_loaded: 2, ttl_s: 60, preload: [here/a]}}
"""
    plan, (_, table) = planned(text), built(text)
    waits_s = [table.targets[name].deadlines.first_byte_s for name in ("here/a", "here/b")]
    assert waits_s == [7.0, Deadlines().first_byte_s]
    declared, estimated = (model.need for model in plan.models)
    assert (declared.bytes, declared.concurrency, declared.pinned) == (700 * MB, 2, True)
    assert estimated.bytes == (4 + 1 + 128) * MB
    assert (plan.memory_bytes, plan.max_loaded, plan.ttl_s) == (2000 * MB, 2, 60.0)
    assert plan.preload == ("here/a",)


def test_what_is_not_declared_is_as_promised(folder: Path) -> None:
    plan = planned(
        f"""
providers: {{here: {{adapter: local, folder: "{folder}", llama_server: "{folder}/llama-server"}}}}
targets: [{{target: here/a, model: chat.gguf}}]
"""
    )
    assert (plan.max_loaded, plan.ttl_s, plan.validation_s) == (3, 30 * 60, 5)
    assert (plan.discovery_s, plan.health_s) == (30, 10)


def test_mlx_is_told_what_it_may_keep(folder: Path) -> None:
    (folder / "mlx").mkdir()
    (folder / "mlx" / "model.safetensors").write_bytes(bytes(8 * MB))
    text = f"""
providers: {{here: {{adapter: local, folder: "{folder}"}}}}
targets: [{{target: here/m, model: mlx, backend: mlx, kept_prompts_mb: 0}}]
"""
    (model,) = planned(text).models
    assert model.arguments[0] == "adapters.children.mlx"
    assert model.arguments[-2:] == ["--kept-prompts-mb", "0"]
    assert (model.need.bytes, model.need.concurrency) == ((8 + 2 + 128) * MB, 1)


def test_a_model_of_several_files_takes_all_of_them(folder: Path) -> None:
    for part in (1, 2, 3):
        (folder / f"big-0000{part}-of-00003.gguf").write_bytes(b"x" * MB)
    (folder / "bert").mkdir()
    (folder / "bert" / "model.safetensors").write_bytes(b"x" * 8 * MB)
    text = f"""
providers: {{here: {{adapter: local, folder: "{folder}"}}}}
targets:
  - {{target: here/big, model: big-00001-of-00003.gguf, backend: llama_cpp}}
  - {{target: here/bert, backend: minilm}}
"""
    plan = planned(text)
    assert [model.need.bytes for model in plan.models] == [
        (3 * MB) + (3 * MB) // 4 + 128 * MB,
        (8 + 2 + 128) * MB,
    ]
    (folder / "big-00002-of-00003.gguf").unlink()
    assert len(planned(text).models[0].files) == 3


def test_the_program_is_found_by_the_environment(folder: Path) -> None:
    text = f"""
providers: {{here: {{adapter: local, folder: "{folder}"}}}}
targets: [{{target: here/chat, model: chat.gguf}}]
"""
    for environ in ({"LLAMA_SERVER": f"{folder}/llama-server"}, {"PATH": str(folder)}):
        assert planned(text, **environ).models[0].arguments[-1] == f"{folder}/llama-server"
    with pytest.raises(StartError, match="LLAMA_SERVER"):
        planned(text, PATH="/nowhere")
    (folder / "chat.gguf").unlink()
    with pytest.raises(StartError, match=r"here/chat: there is no file or folder .*chat\.gguf"):
        planned(text, PATH=str(folder))


def test_what_a_gpu_is_to_have_counts_as_memory_where_there_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"""
providers: {{here: {{adapter: local, folder: "{folder}"}}}}
targets:
  - target: here/a
    model: chat.gguf
    backend: llama_cpp
    needs_mb: 10
    needs_gpu_mb: 70
    gpu_layers: 0
  - {{target: here/b, model: chat.gguf, backend: llama_cpp}}
host: {{groups: {{both: {{targets: [here/a, here/b], max_loaded: 1}}}}}}
"""
    monkeypatch.setenv("PATH", str(folder))  # where no nvidia-smi is
    plan = planned(text)
    need = plan.models[0].need
    assert (need.bytes, need.gpu_bytes, plan.gpu_memory_bytes) == (80 * MB, 0, 0)
    assert plan.models[0].arguments[-2:] == ["--gpu-layers", "0"]
    assert plan.groups == (Group(models=frozenset({"here/a", "here/b"}), max_loaded=1),)
    (folder / "nvidia-smi").write_text("#!/bin/sh\necho 1000; echo 2000\n")
    (folder / "nvidia-smi").chmod(0o755)
    plan = planned(text)
    need = plan.models[0].need
    assert (need.bytes, need.gpu_bytes) == (10 * MB, 70 * MB)
    assert plan.gpu_memory_bytes == 2700 * MB
    assert planned(text.replace("host: {", "host: {gpu_memory_mb: 500, ")).gpu_memory_bytes == (
        500 * MB
    )


def test_the_machine_says_what_it_has() -> None:
    available = memory.available_bytes()
    assert available is None or available > 0
    assert memory.installed_bytes() > 0
    assert memory.resident_bytes(2**22 + 1) == 0


def test_what_macos_says_is_free() -> None:
    text = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10000.
Pages active:                            500000.
Pages inactive:                           20000.
Pages speculative:                         3000.
Pages throttled:                              0.
Pages wired down:                        150000.
Pages purgeable:                            400.
"Translation faults":                1234567890.
"""
    assert memory.free_in_vm_stat(text) == 33_400 * 16384
    assert memory.free_in_vm_stat("") is None


def test_files_that_were_found_are_local_models(folder: Path) -> None:
    text = f"""
providers: {{here: {{adapter: local, folder: "{folder}", llama_server: "{folder}/llama-server"}}}}
targets: [{{target: here/*, context_length: 1024, concurrency: 2}}]
"""
    made = config_file.build(YamlFile.parse(text, "router.yaml"), {})
    facts = [
        FoundModel(
            name="chat",
            path=str(folder / "chat.gguf"),
            backend="llama_server",
            projector=str(folder / "mmproj.gguf"),
        ),
        FoundModel(name="gone", path=str(folder / "gone.gguf"), backend="llama_server"),
        FoundModel(name="cut", path=str(folder / "chat.gguf"), problem="is cut"),
    ]
    place = FoundProvider(name="here", adapter="local", by="x", models=tuple(facts))
    extended, found, _ = with_found(made, Inventory(providers=(place,)))
    table = build_table(
        extended, catalog.load(), PriceBook.load(), today=date(2026, 11, 20), found=found
    )
    (model,) = hosted.found(extended, table, found, {})
    assert (model.name, model.need.concurrency) == ("here/chat", 2)
    arguments = list(model.arguments)
    assert arguments[arguments.index("--projector") + 1] == str(folder / "mmproj.gguf")
    assert arguments[arguments.index("--context") + 1] == "1024"
