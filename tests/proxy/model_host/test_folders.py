"""Folders as people have them: nested, half-written, linked in circles, unreadable."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.inventory import FoundModel
from proxy.model_host import folders
from proxy.model_host.folders import Folders
from proxy.model_host.model_files import Runtimes
from tests.adapters.children.test_gguf import entry, gguf, text
from tests.models import make_gguf

ALL = Runtimes(llama_server=True, llama_cpp=True, mlx=True, minilm=True)
NONE = Runtimes(llama_server=False, llama_cpp=False, mlx=False, minilm=False)


def models(
    root: Path, runtimes: Runtimes = ALL, looking: Folders | None = None
) -> dict[str, FoundModel]:
    found = (looking or Folders()).models(root, runtimes, within_s=60)
    return {model.name: model for model in found}


@pytest.fixture(scope="module")
def canned(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_gguf.canned(tmp_path_factory.mktemp("canned") / "m.gguf", [b"Hi"]).read_bytes()


def described(*entries: bytes) -> bytes:
    """A file without tensors that says these things of itself."""
    return gguf(*entries).ljust(1024, b"\0")


def hugging_face(folder: Path, config: dict[str, Any], **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def test_a_file_tells_what_it_is(tmp_path: Path, canned: bytes) -> None:
    (tmp_path / "Tiny-Q8_0.gguf").write_bytes(canned)
    model = models(tmp_path)["Tiny-Q8_0"]
    assert model.capabilities == {"chat", "json_schema", "logprobs", "n"}
    assert (model.context_length, model.architecture) == (2048, "llama")
    assert model.parameters
    assert model.size_bytes == len(canned)
    assert (model.backend, model.problem) == ("llama_server", "")
    assert model.path == str(tmp_path / "Tiny-Q8_0.gguf")


@pytest.mark.parametrize(
    ("template", "tools", "thinks"),
    [
        ("{% if tools %}{{ tools }}{% endif %}", True, False),
        ("{{ messages }}<think>", False, True),
        ("{{ messages }}", False, False),
    ],
)
def test_a_template_tells_of_tools_and_thoughts(
    tmp_path: Path, template: str, tools: bool, thinks: bool
) -> None:
    make_gguf.canned(tmp_path / "m.gguf", [b"Hi"], template=template)
    model = models(tmp_path)["m"]
    assert model.capabilities is not None
    assert ("tools" in model.capabilities) is tools
    assert ("thinking" in model.tags) is thinks


def test_encoders_are_known_by_their_pooling_or_kind(tmp_path: Path) -> None:
    pooled = [
        entry("general.architecture", 8, text("gemma3")),
        entry("gemma3.pooling_type", 4, struct.pack("<I", 1)),
    ]
    (tmp_path / "pooled.gguf").write_bytes(described(*pooled))
    (tmp_path / "bert.gguf").write_bytes(
        described(entry("general.architecture", 8, text("nomic-bert")))
    )
    found = models(tmp_path)
    assert {model.capabilities for model in found.values()} == {frozenset({"embeddings"})}


def test_nested_files_are_called_by_where_they_lie(tmp_path: Path, canned: bytes) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "m.gguf").write_bytes(canned)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "m.gguf").write_bytes(canned)
    assert list(models(tmp_path)) == ["a/b/m"]


def test_a_model_in_several_files_is_one_once_all_are_there(tmp_path: Path, canned: bytes) -> None:
    for number in (1, 3):
        (tmp_path / f"big-0000{number}-of-00003.gguf").write_bytes(canned)
    looking = Folders()
    assert "00002-of-00003.gguf is missing" in models(tmp_path, looking=looking)["big"].problem
    (tmp_path / "big-00002-of-00003.gguf").write_bytes(canned)
    model = models(tmp_path, looking=looking)["big"]
    assert (model.problem, model.size_bytes) == ("", 3 * len(canned))
    assert model.path.endswith("big-00001-of-00003.gguf")


def test_a_file_that_grows_is_taken_once_it_is_whole(tmp_path: Path, canned: bytes) -> None:
    file, looking = tmp_path / "m.gguf", Folders()
    for size in (0, 3, 100, 5000, len(canned) // 2, len(canned) - 40):
        file.write_bytes(canned[:size])
        assert models(tmp_path, looking=looking)["m"].problem, size
    file.write_bytes(canned)
    assert not models(tmp_path, looking=looking)["m"].problem


def test_what_did_not_change_is_not_read_again(
    tmp_path: Path, canned: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.gguf").write_bytes(canned)
    looking = Folders()
    before = models(tmp_path, looking=looking)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("it was read again"))
    assert models(tmp_path, looking=looking) == before
    (tmp_path / "m.gguf").unlink()
    assert models(tmp_path, looking=looking) == {}
    assert not looking._known


def test_links_in_circles_and_the_same_folder_twice_are_seen_once(
    tmp_path: Path, canned: bytes
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "m.gguf").write_bytes(canned)
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "z").symlink_to(tmp_path / "a")
    (tmp_path / "dead.gguf").symlink_to(tmp_path / "nowhere")
    assert list(models(tmp_path)) == ["a/m"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_passed_over(tmp_path: Path, canned: bytes) -> None:
    for name in ("open", "shut"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.gguf").write_bytes(canned)
    (tmp_path / "shut").chmod(0)
    try:
        assert list(models(tmp_path)) == ["open/m"]
    finally:
        (tmp_path / "shut").chmod(0o700)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")  # opening it would wait for ever
    (tmp_path / "folder.gguf").mkdir()
    assert models(tmp_path) == {}
    assert models(tmp_path / "missing") == {}


@pytest.mark.parametrize("name", ["two\nlines", "*", " around ", "up..dir", "x" * 200])
def test_names_that_no_client_could_ask_for_are_left_out(
    tmp_path: Path, canned: bytes, name: str
) -> None:
    (tmp_path / f"{name}.gguf").write_bytes(canned)
    assert models(tmp_path) == {}


def test_a_huge_folder_costs_bounded_time(
    tmp_path: Path, canned: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_MOST_ENTRIES", 50)
    for number in range(60):
        (tmp_path / f"d{number:02}").mkdir()
    assert models(tmp_path) == {}
    ticks = iter(range(1000))
    slow = Folders(clock=lambda: float(next(ticks)))
    (tmp_path / "few").mkdir()
    for number in range(40):
        (tmp_path / "few" / f"{number}.gguf").write_bytes(canned)
    assert 0 < len(slow.models(tmp_path / "few", ALL, within_s=60)) < 40


def test_other_kinds_of_files_are_no_models(tmp_path: Path) -> None:
    lora = [
        entry("general.architecture", 8, text("llama")),
        entry("general.type", 8, text("adapter")),
    ]
    (tmp_path / "lora.gguf").write_bytes(described(*lora))
    (tmp_path / "notes.gguf").write_text("not a model")
    (tmp_path / "readme.txt").write_text("x")
    found = models(tmp_path)
    assert {name: bool(model.problem) for name, model in found.items()} == {
        "lora": True,
        "notes": True,
    }


def test_a_projector_beside_a_model_makes_it_see(tmp_path: Path, canned: bytes) -> None:
    projector = described(entry("general.architecture", 8, text("clip")))
    for folder in ("sees", "many"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.gguf").write_bytes(canned)
        (tmp_path / folder / "mmproj-f16.gguf").write_bytes(projector)
    (tmp_path / "many" / "other.gguf").write_bytes(canned)
    found = models(tmp_path)
    assert "vision" in (found["sees/m"].capabilities or ())
    assert found["sees/m"].projector.endswith("sees/mmproj-f16.gguf")
    assert "vision" not in (found["many/m"].capabilities or ())
    assert found["sees/mmproj-f16"].problem


def test_folders_of_hugging_face_are_models(tmp_path: Path) -> None:
    told = {"max_position_embeddings": 4096, "quantization": {"bits": 4, "group_size": 64}}
    template = json.dumps({"chat_template": "{{ tools }}<think>"})
    hugging_face(tmp_path / "mlx" / "Tiny-4bit", LLAMA | told, tokenizer_config__json=template)
    hugging_face(tmp_path / "minilm", {"model_type": "bert", "max_position_embeddings": 512})
    hugging_face(tmp_path / "whisper", {"model_type": "whisper"})
    found = models(tmp_path)
    chat, embed, other = found["mlx/Tiny-4bit"], found["minilm"], found["whisper"]
    assert (chat.backend, chat.context_length, chat.quantisation) == ("mlx", 4096, "4-bit")
    assert chat.capabilities is not None
    assert "tools" in chat.capabilities
    assert chat.tags == {"thinking"}
    assert (embed.backend, embed.capabilities) == ("minilm", {"embeddings"})
    assert "nothing here runs" in other.problem


def test_a_folder_is_taken_once_its_weights_are_whole(tmp_path: Path) -> None:
    folder, looking = hugging_face(tmp_path / "m", LLAMA), Folders()
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for size in (0, 4, 20, len(whole) - 1):
        weights.write_bytes(whole[:size])
        assert models(tmp_path, looking=looking)["m"].problem, size
    weights.write_bytes(whole)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "second"}}))
    assert "second is missing" in models(tmp_path, looking=looking)["m"].problem
    index.write_text(json.dumps({"metadata": {"total_parameters": 7}}))
    model = models(tmp_path, looking=looking)["m"]
    assert (model.problem, model.parameters) == ("", 7)


@pytest.mark.parametrize("content", ["", "[", "[]", "null", '{"architectures": 5}', "[" * 100_000])
def test_a_config_that_is_none_is_a_problem_and_no_crash(tmp_path: Path, content: str) -> None:
    (hugging_face(tmp_path / "m", LLAMA) / "config.json").write_text(content)
    assert models(tmp_path)["m"].problem


def test_what_nothing_here_runs_says_what_to_install(tmp_path: Path, canned: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(canned)
    hugging_face(tmp_path / "b", {"model_type": "bert"})
    found = models(tmp_path, NONE)
    assert "tollway[llama]" in found["m"].problem
    assert "tollway[embeddings]" in found["b"].problem
    assert found["m"].architecture == "llama"


def test_what_a_file_says_of_itself_is_text_for_people(tmp_path: Path) -> None:
    odd = {"model_type": "\ud800x", "architectures": ["XForCausalLM"], "torch_dtype": "\x1b[2J"}
    hugging_face(tmp_path / "m", odd)
    model = models(tmp_path)["m"]
    assert (model.architecture, model.quantisation) == ("", "")
    assert msgspec.msgpack.encode(model)
    index = {"weight_map": {"a": "\ud800"}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert models(tmp_path)["m"].problem == "is damaged"
