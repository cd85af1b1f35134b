"""What the catalogue says of a target, from all that is known of it."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from proxy import catalog, config_file
from proxy.discovery import with_found
from proxy.figures import UNKNOWN, Measured
from proxy.inventory import FoundModel, FoundProvider, Inventory
from proxy.model_host.protocol import ModelState
from proxy.price_book import PriceBook
from proxy.target_entry import Performance, TargetEntry, entry_of
from proxy.target_table import build_table
from proxy.targets import Target, TargetTable
from proxy.yaml_file import YamlFile

CONFIG = """
providers:
  a: {base_url: "http://10.0.0.1/v1"}
  here: {adapter: local, folder: models}
targets:
  - target: a/coder
    price: {input: 0.5, output: 1.5}
    tags: [code_generation]
    profile: {tokens_per_second: 90, cold_start_s: 4, memory_mb: 9000}
  - {target: a/eyes, capabilities: [chat, vision], price: free}
  - {target: a/unknown}
  - {target: here/*, tags: [private], context_length: 4096}
models: {local: {targets: [tier:local]}}
"""
FOUND = FoundModel(
    name="sub/tiny",
    capabilities=frozenset({"chat", "json_schema"}),
    tags=frozenset({"thinking"}),
    context_length=2048,
    architecture="llama",
    parameters=137408,
    quantisation="Q8_0",
    size_bytes=160_000,
    changed_at=1_795_000_000,
    path="/models/sub/tiny.gguf",
    backend="llama_cpp",
)
INVENTORY = Inventory(
    providers=(
        FoundProvider(name="here", adapter="local", by="models", folder="models", models=(FOUND,)),
        FoundProvider(
            name="ollama",
            adapter="ollama",
            by="127.0.0.1:11434",
            base_url="http://127.0.0.1:11434",
            models=(
                FoundModel(name="llama3", context_length=131072),
                FoundModel(name="broken", problem="is cut"),
                FoundModel(name="nomic-embed-text"),
            ),
        ),
    )
)


def _table(text: str = CONFIG, inventory: Inventory = INVENTORY) -> TargetTable:
    built = config_file.build(YamlFile.parse(text, "router.yaml"), {})
    extended, facts, _ = with_found(built, inventory)
    today = date(2026, 11, 21)
    return build_table(extended, catalog.load(), PriceBook.load(), today=today, found=facts)


def _entry(name: str, **known: Any) -> TargetEntry:
    target = _table().target(name)
    assert target is not None
    given = {"measured": UNKNOWN, "found_by": "router.yaml", "configured_at": 1.0, **known}
    return entry_of(target, **given)


def test_what_was_found_is_a_target_like_any_other() -> None:
    table = _table()
    tiny = table.targets["here/sub/tiny"]
    assert tiny.capabilities == {"chat", "json_schema"}
    # The operator's word comes before the model's own.
    assert (tiny.context_length, tiny.tags) == (4096, {"private", "thinking"})
    assert tiny.is_free
    assert tiny.metric_name == "here/*"
    llama = table.targets["ollama/llama3"]
    assert (llama.context_length, llama.asked_context) == (131072, None)
    assert llama.metric_name == "ollama/llama3"
    assert llama.is_free
    assert table.targets["ollama/nomic-embed-text"].capabilities == {"embeddings"}
    assert "ollama/broken" not in table.targets
    assert [target.name for target in table.models["local"].targets] == [
        "here/sub/tiny",
        "ollama/llama3",
    ]
    assert table.target("llama3") == llama
    assert table.target("here/another") is None


def test_what_is_gone_is_unknown_and_comes_back_the_same() -> None:
    without = _table(inventory=Inventory())
    assert without.target("here/sub/tiny") is None
    assert without.find("ollama/llama3") is None
    assert without.models["local"].targets == ()
    assert list(_table().targets.values()) == list(_table().targets.values())


def test_a_file_that_is_written_down_is_not_found_beside_itself() -> None:
    text = CONFIG.replace("  - {target: a/unknown}", "  - {target: here/sub/tiny, model: x.gguf}")
    tiny = _table(text).targets["here/sub/tiny"]
    assert tiny.metric_name == "here/sub/tiny"
    assert tiny.tags == frozenset()


def test_a_provider_of_ones_own_is_not_added_to_unasked() -> None:
    text = CONFIG.replace("  - {target: here/*, tags: [private], context_length: 4096}\n", "")
    assert "here/sub/tiny" not in _table(text).targets


def test_an_entry_of_what_is_configured() -> None:
    entry = _entry(
        "a/coder",
        measured=Measured(tokens_per_second=50.0, first_token_s=0.25, answered_at=7.0),
    )
    assert entry.declared == Performance(tokens_per_second=90, memory_mb=9000, cold_start_s=4)
    assert entry.measured == Performance(tokens_per_second=50.0, first_token_ms=250.0)
    assert entry.tags == {"code_generation"}
    assert entry.cost is not None
    assert (entry.cost.input_nanousd, entry.cost.output_nanousd) == (500_000_000, 1_500_000_000)
    assert (entry.health.state, entry.health.answered_at) == ("up", 7.0)
    assert (entry.state, entry.weights, entry.changed_at) == (None, None, 1.0)
    assert _entry("a/unknown").cost is None


def test_an_entry_of_what_was_found() -> None:
    state = ModelState(
        name="here/sub/tiny",
        backend="llama_cpp",
        state="loaded",
        bytes=3 << 20,
        gpu_bytes=0,
        pinned=False,
        concurrency=1,
        users=0,
        waiting=0,
        loads=1,
        load_s=0.5,
        pid=77,
        problem="",
        tokens_per_s=12.5,
    )
    entry = _entry("here/sub/tiny", found=FOUND, local=state, found_by="models")
    assert entry.weights is not None
    assert entry.weights.context_length == 2048
    assert (entry.state, entry.needs_mb, entry.backend) == ("loaded", 3, "llama_cpp")
    assert (entry.measured.memory_mb, entry.measured.cold_start_s) == (3, 0.5)
    assert entry.measured.tokens_per_second == 12.5  # as the model host counts all workers
    own = Measured(tokens_per_second=9.0)
    entry = _entry("here/sub/tiny", found=FOUND, local=state, measured=own)
    assert entry.measured.tokens_per_second == 9.0
    assert entry.changed_at == 1_795_000_000


@pytest.mark.parametrize(
    ("known", "state"),
    [
        ({}, "unknown"),
        ({"measured": Measured(answered_at=1.0)}, "up"),
        ({"measured": Measured(answered_at=1.0, failures=1, problem="no")}, "failing"),
        ({"is_silent": True}, "failing"),
    ],
)
def test_health_is_what_was_seen_last(known: dict[str, Any], state: str) -> None:
    assert _entry("a/coder", **known).health.state == state


@pytest.mark.parametrize(
    ("is_loaded", "state"), [(True, "loaded"), (False, "absent"), (None, None)]
)
def test_a_server_says_what_is_loaded(is_loaded: bool | None, state: str | None) -> None:
    assert _entry("ollama/llama3", is_loaded=is_loaded).state == state


def test_modalities_follow_from_what_a_target_does() -> None:
    eyes = _entry("a/eyes")
    assert (eyes.input_modalities, eyes.output_modalities) == (("text", "image"), ("text",))
    embedder = _entry("ollama/nomic-embed-text")
    assert (embedder.input_modalities, embedder.output_modalities) == (("text",), ("embeddings",))


def test_all_targets_have_entries() -> None:
    for target in _table().targets.values():
        assert isinstance(target, Target)
        assert _entry(target.name).output_modalities
