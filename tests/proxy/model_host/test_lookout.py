"""Servers that come, hang, lie and go; and what becomes of what they say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import Config, Provider, Target
from proxy.inventory import FoundModel, FoundProvider, Inventory
from proxy.model_host import lookout as module
from proxy.model_host.lookout import Lookout, lookout
from tests.models import make_gguf
from tests.proxy.model_host.model_server import (
    OLLAMA_MODEL,
    OLLAMA_SHOWN,
    ModelServer,
    ollama,
    openai_list,
)

NOWHERE = Path("no-such-folder")


def discovering(ports: Mapping[str, int], folder: Path = NOWHERE) -> Lookout:
    return lookout(Config(source="test", discover=True), {}, local_servers=ports, folder=folder)


def configured(provider: Provider, *targets: str) -> Lookout:
    config = Config(
        source="test", providers={"up": provider}, targets=[Target(target=t) for t in targets]
    )
    return lookout(config, {}, local_servers={})


def provider_of(looking: Lookout, name: str) -> FoundProvider | None:
    return next((each for each in looking.inventory.providers if each.name == name), None)


def names(looking: Lookout) -> set[str]:
    return set(looking.inventory.models())


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LIST_S", 1.0)


def test_ollama_tells_what_its_models_can_do() -> None:
    with ollama(OLLAMA_MODEL, loaded=("qwen3:8b",)) as server:
        looking = discovering({"ollama": server.port})
        inventory = looking.first()
    (found,) = inventory.providers
    assert (found.name, found.adapter, found.base_url) == ("ollama", "ollama", server.url)
    (model,) = found.models
    assert model == FoundModel(
        name="qwen3:8b",
        capabilities=frozenset({"chat", "json_schema", "logprobs", "tools"}),
        tags=frozenset({"thinking"}),
        context_length=40960,
        architecture="qwen3",
        parameters=8_200_000_000,
        quantisation="Q4_K_M",
        size_bytes=5_200_000_000,
        changed_at=1_795_165_200,
    )
    assert inventory.loaded == {"ollama/qwen3:8b"}
    assert inventory.tells_loading == {"ollama"}


def test_a_model_is_shown_again_when_it_has_changed() -> None:
    async def scene() -> None:
        with ollama(OLLAMA_MODEL) as server:
            looking = discovering({"ollama": server.port})
            for _ in range(3):
                await looking.look()
            assert [path for path, _ in server.asked].count("/api/show") == 1
            server.answers["/api/tags"] = {"models": [{**OLLAMA_MODEL, "digest": "another"}]}
            server.answers["/api/show"] = {**OLLAMA_SHOWN, "capabilities": ["embedding"]}
            inventory = await looking.look()
            assert inventory.models()["ollama/qwen3:8b"].capabilities == {"embeddings"}
            server.answers["/api/tags"] = {"models": []}
            assert (await looking.look()).providers == ()
            await looking.aclose()

    asyncio.run(scene())


def test_lm_studio_tells_kinds_and_what_is_loaded() -> None:
    own = [
        {"id": "qwen", "type": "llm", "state": "loaded", "max_context_length": 32768,
         "loaded_context_length": 4096, "capabilities": ["tool_use"], "quantization": "4bit"},
        {"id": "seer", "type": "vlm", "state": "not-loaded", "max_context_length": 8192,
         "capabilities": []},
        {"id": "nomic", "type": "embeddings", "state": "not-loaded"},
    ]  # fmt: skip
    with ModelServer({"/api/v0/models": {"data": own}}) as server:
        inventory = discovering({"lmstudio": server.port}).first()
    models = inventory.models()
    assert models["lmstudio/qwen"].capabilities == {"chat", "json_schema", "tools"}
    assert models["lmstudio/qwen"].context_length == 4096
    assert models["lmstudio/seer"].capabilities == {"chat", "json_schema", "vision"}
    assert models["lmstudio/nomic"].capabilities == {"embeddings"}
    assert inventory.loaded == {"lmstudio/qwen"}


def test_an_older_lm_studio_is_asked_as_openai() -> None:
    with ModelServer({"/v1/models": openai_list("m")}) as server:
        looking = discovering({"lmstudio": server.port})
        assert set(looking.first().models()) == {"lmstudio/m"}
        assert looking.inventory.tells_loading == frozenset()


LLAMA_SERVER = {
    "models": [{"name": "m", "capabilities": ["completion", "multimodal"]}],
    "data": [
        {"id": "m", "created": 1, "owned_by": "llamacpp",
         "meta": {"n_ctx_train": 2048, "n_params": 137408, "size": 146936, "ftype": "Q8_0"}}
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "name", "adapter"),
    [
        (LLAMA_SERVER, "llama-server", "llama_server"),
        (openai_list("org/m", object="model", created=1795282524), "mlx", "mlx_server"),
        (openai_list("m", created=1, owned_by="somebody"), "llama-server", "llama_server"),
        (openai_list("m"), "llama-server", "llama_server"),
    ],
)
def test_who_answers_on_one_port_is_told_by_the_answer(
    answer: object, name: str, adapter: str
) -> None:
    with ModelServer({"/v1/models": answer}) as server:
        (found,) = discovering({"llama-server": server.port}).first().providers
    assert (found.name, found.adapter) == (name, adapter)


def test_llama_server_tells_of_its_model() -> None:
    with ModelServer({"/v1/models": LLAMA_SERVER}) as server:
        inventory = discovering({"llama-server": server.port}).first()
    model = inventory.models()["llama-server/m"]
    assert (model.context_length, model.parameters, model.quantisation) == (2048, 137408, "Q8_0")
    assert "vision" in (model.capabilities or ())
    assert inventory.loaded == {"llama-server/m"}


def test_a_server_comes_and_goes() -> None:
    async def scene() -> None:
        with ModelServer({"/v1/models": openai_list("m")}) as server:
            server.stop()
            looking = discovering({"lmstudio": server.port})
            assert not (await looking.look()).providers
            server.start()
            assert set((await looking.look()).models()) == {"lmstudio/m"}
            server.answers["/v1/models"] = openai_list("m", "n")
            assert set((await looking.look()).models()) == {"lmstudio/m", "lmstudio/n"}
            server.stop()
            assert not (await looking.look()).providers
            await looking.aclose()

    asyncio.run(scene())


@pytest.mark.usefixtures("patience")
def test_a_server_that_hangs_keeps_its_models_for_a_while() -> None:
    async def scene() -> None:
        with ModelServer({"/v1/models": openai_list("m")}) as server:
            looking = discovering({"lmstudio": server.port})
            while not (await looking.look()).providers:
                pass  # where the machine is slow, it may be late itself
            server.hanging.set()
            for _ in range(2):
                inventory = await looking.look()
                assert set(inventory.models()) == {"lmstudio/m"}
                assert inventory.silent == {"lmstudio"}
            assert not (await looking.look()).providers
            server.hanging.clear()
            while not (inventory := await looking.look()).providers:
                pass
            assert set(inventory.models()) == {"lmstudio/m"}
            assert inventory.silent == frozenset()
            await looking.aclose()

    asyncio.run(scene())


@pytest.mark.parametrize(
    "lie",
    [
        b"<html>",
        {"data": "many"},
        {"data": [{"id": 7}]},
        {"data": [{"id": "m", "meta": {"n_params": -1, "n_ctx": "long", "size": 1 << 70}}]},
        {"data": [{"id": "m", "meta": 5, "created": [], "owned_by": {}}]},
        openai_list(*(f"m{n}" for n in range(5000))),
        openai_list("", "*", "a\r\nb", " m", "x" * 300),
    ],
)
def test_what_a_server_says_is_not_believed(lie: object) -> None:
    with ModelServer({"/v1/models": lie}) as server:
        looking = discovering({"lmstudio": server.port})
        inventory = looking.first()
        for name, model in inventory.models().items():
            assert name.isprintable()
            assert model.parameters is None
            assert model.context_length is None
            assert model.size_bytes is None
        assert len(inventory.models()) <= 1000


def test_ollama_may_say_nonsense_of_its_models() -> None:
    nonsense: dict[str, Any] = {
        "capabilities": ["flying"],
        "model_info": {"general.architecture": 5, "x.context_length": "long"},
    }
    entry = {"name": "m", "size": -5, "modified_at": "yesterday", "details": None}
    with ollama(entry) as server:
        server.answers["/api/show"] = nonsense
        server.answers["/api/ps"] = b"?"
        (model,) = discovering({"ollama": server.port}).first().models().values()
    assert model == FoundModel(name="m")


def test_configured_servers_nearby_are_asked_where_everything_of_theirs_is_a_target() -> None:
    with ModelServer({"/v1/models": openai_list("m")}) as server:
        near = Provider(base_url=f"{server.url}/v1")
        assert set(configured(near, "up/*").first().models()) == {"up/m"}
        assert configured(near, "up/m").is_idle
    far = Provider(base_url="https://api.example.com/v1")
    assert configured(far, "up/*").is_idle
    assert not configured(Provider(adapter="ollama"), "up/*").is_idle


def test_an_address_that_is_configured_is_not_found_as_another() -> None:
    with ModelServer({"/v1/models": openai_list("m")}) as server:
        mine = Provider(base_url=f"http://localhost:{server.port}/v1")
        config = Config(source="test", discover=True, providers={"mine": mine})
        looking = lookout(config, {}, local_servers={"lmstudio": server.port}, folder=NOWHERE)
        assert looking.first().providers == ()


def test_files_are_found_beside_the_server_and_in_the_folders_that_are_named(
    tmp_path: Path,
) -> None:
    program = tmp_path / "llama-server"
    program.touch(0o755)
    for name in ("one", "two"):
        make_gguf.canned(tmp_path / f"{name}.gguf", [b"Hi"])
    looking = discovering({}, tmp_path)
    looking.first()
    assert names(looking) == {"local/one", "local/two"}
    here = Provider(adapter="local", folder=str(tmp_path), llama_server=str(program))
    config = Config(
        source="test",
        providers={"here": here},
        targets=[Target(target="here/*"), Target(target="here/mine", model="one.gguf")],
    )
    looking = lookout(config, {}, local_servers={})
    looking.first()
    # What is configured is itself, and not found beside that.
    assert names(looking) == {"here/mine", "here/two"}


def test_an_inventory_is_a_value() -> None:
    with ollama(OLLAMA_MODEL) as server:
        looking = discovering({"ollama": server.port})
        assert looking.first() == looking.first()
        assert json.dumps(sorted(looking.inventory.models()))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["data", "models", "id", "name", "meta", "details", "size", "capabilities", "created",
             "modified_at", "model_info", "family", "n_params", "ftype", "state", "type", "digest"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(said=st.lists(json_values, min_size=3, max_size=3))
def test_nothing_that_a_server_can_say_breaks_the_look(said: list[object]) -> None:
    listed, shown, running = said
    answers = {
        **dict.fromkeys(("/v1/models", "/api/v0/models", "/api/tags"), listed),
        "/api/show": shown,
        "/api/ps": running,
    }
    with ModelServer(answers) as server:
        ports = dict.fromkeys(("ollama", "lmstudio", "llama-server"), server.port)
        inventory = discovering(ports).first()
    told = msgspec.msgpack.encode(inventory)
    assert msgspec.msgpack.decode(told, type=Inventory) == inventory


def test_what_there_was_no_time_to_see_is_there_as_long_as_its_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        make_gguf.canned(tmp_path / f"{name}.gguf", [b"Hi"])
    looking = discovering({}, tmp_path)
    looking.first()
    all_of_them = {"local/a", "local/b", "local/c"}
    assert names(looking) == all_of_them
    assert looking.is_sure
    monkeypatch.setattr(module, "_FIRST_FOLDERS_S", -1.0)
    looking.first()
    assert names(looking) == all_of_them
    assert not looking.is_sure
    (tmp_path / "b.gguf").unlink()
    looking.first()
    assert names(looking) == {"local/a", "local/c"}
    fresh = discovering({}, tmp_path)
    for is_sure in (False, False, True):  # some day it is taken for what there is
        fresh.first()
        assert (names(fresh), fresh.is_sure) == (set(), is_sure)
