from __future__ import annotations

from datetime import date

import pytest

from proxy import catalog, config
from proxy.discovery import with_demonstration
from proxy.errors import InvalidRequest
from proxy.price_book import PriceBook
from proxy.pricing import Price
from proxy.targets import Target, TargetTable, VirtualModel, build_table, is_embedder
from proxy.yaml_file import YamlFile

BASE = """\
providers:
  a: {base_url: "http://a/v1", prices: openai, max_tokens_field: max_completion_tokens}
  b: {base_url: "http://b/v1"}
targets:
  - {target: a/gpt-4o, alias: [four], tiers: [best]}
  - {target: b/gpt-4o, price: free, context_length: 99, tiers: [best, cheap]}
  - {target: b/mine, model: upstream-name, price: {input: 1, output: 2}, tiers: [cheap]}
  - {target: b/my-embedder, price: free}
  - {target: a/text-embedding-3-small}
  - {target: a/*}
models:
  best: {targets: [tier:best]}
  mixed: {policy: cheapest, targets: [b/mine, four, tier:cheap, b/*]}
  embed: {targets: [b/my-embedder, a/text-embedding-3-small]}
  empty: {targets: [tier:local]}
"""


def _table(text: str = BASE) -> TargetTable:
    built = config.build(YamlFile.parse(text, "router.yaml"), {})
    return build_table(built, catalog.load(), PriceBook.load(), today=date(2026, 11, 20))


def _target(table: TargetTable, name: str) -> Target:
    found = table.find(name)
    assert isinstance(found, Target), name
    return found


def _virtual(table: TargetTable, name: str) -> VirtualModel:
    found = table.find(name)
    assert isinstance(found, VirtualModel), name
    return found


def test_names_of_a_target() -> None:
    table = _table()
    assert _target(table, "a/gpt-4o").name == "a/gpt-4o"
    assert _target(table, "four").name == "a/gpt-4o"
    assert _target(table, "gpt-4o").name == "a/gpt-4o"  # the first configured of two
    assert _target(table, "upstream-name").name == "b/mine"
    assert _target(table, "b/mine").model == "upstream-name"
    assert table.find("b/none") is None
    assert table.find("c/gpt-4o") is None


def test_a_wildcard_stands_for_whatever_else_a_provider_has() -> None:
    table = _table()
    target = _target(table, "a/gpt-4.1-mini")
    assert (target.model, target.metric_name) == ("gpt-4.1-mini", "a/*")
    assert target.price
    assert target.max_tokens_field == "max_completion_tokens"
    assert _target(table, "gpt-4.1-mini").name == "a/gpt-4.1-mini"  # its price is known there
    assert _target(table, "a/unheard-of").price is None
    assert table.find("unheard-of") is None
    assert table.target("a/gpt-4.1-mini") is target


@pytest.mark.parametrize("name", ["a/", "a/../x", "a/x\r\ny", "a/\0", "a/" + "x" * 300, ""])
def test_names_with_tricks_are_no_names(name: str) -> None:
    assert _table().find(name) is None


def test_what_the_file_says_of_a_wildcard_holds_for_all_behind_it() -> None:
    text = (
        "providers: {mine: {base_url: 'http://mine/v1'}}\n"
        "targets: [{target: mine/*, price: free, context_length: 99, image_tokens: 5}]\n"
    )
    target = _target(_table(text), "mine/anything")
    assert target.is_free
    assert (target.context_length, target.image_tokens) == (99, 5)


def test_a_resellers_model_does_not_shadow_the_provider_of_that_name() -> None:
    text = (
        "providers: {a: {base_url: 'http://a'}, b: {base_url: 'http://b'}}\n"
        "targets: [{target: a/b/x}, {target: a/c/x}, {target: b/*}]\n"
    )
    table = _table(text)
    assert _target(table, "b/x").provider == "b"
    assert _target(table, "c/x").name == "a/c/x"
    assert _target(table, "a/b/x").model == "b/x"


def test_tiers_are_the_catalogues_unless_the_file_has_any() -> None:
    text = (
        "providers: {openai: {base_url: 'http://a'}}\n"
        "targets:\n  - {target: openai/gpt-6-luna}\n  - {target: openai/gpt-6-astra, tiers: []}\n"
        "  - {target: openai/gpt-6.1-sol, tiers: [mine]}\n"
    )
    table = _table(text)
    assert _target(table, "openai/gpt-6-luna").tiers == {"cheap", "fast"}
    assert _target(table, "openai/gpt-6-astra").tiers == set()
    assert _target(table, "openai/gpt-6.1-sol").tiers == {"mine"}


@pytest.mark.parametrize(
    ("model", "embeds"),
    [
        ("nomic-embed-text", True),
        ("Qwen3-Embedding-8B", True),
        ("bge-m3:latest", True),
        ("BAAI/bge-large-en", True),
        ("multilingual-e5-large", True),
        ("all-minilm:22m", True),
        ("llama3", False),
        ("gte-qwen2", True),
        ("e5x", False),
        ("gigabge", False),
    ],
)
def test_embedders_are_told_by_their_names(model: str, embeds: bool) -> None:
    assert is_embedder(model) == embeds


def test_names_asked_for_are_not_remembered_without_end() -> None:
    table = _table()
    for n in range(3000):
        assert table.target(f"a/m{n}")
    assert len(table._remembered) <= 1000


def test_what_a_virtual_model_resolves_to() -> None:
    table = _table()
    assert [t.name for t in _virtual(table, "best").targets] == ["a/gpt-4o", "b/gpt-4o"]
    assert [t.name for t in _virtual(table, "mixed").targets] == [
        "b/mine", "a/gpt-4o", "b/gpt-4o", "b/my-embedder",
    ]  # fmt: skip
    assert _virtual(table, "empty").targets == ()
    assert _virtual(table, "mixed").policy.name == "cheapest"


def test_embeddings_are_of_the_first_targets_space() -> None:
    table = _table()
    assert _virtual(table, "embed").vector_space == "my-embedder"
    small = _target(table, "a/text-embedding-3-small")
    assert small.vector_space == "openai/text-embedding-3-small"
    assert _target(table, "a/gpt-4o").vector_space is None


def test_a_demonstration_does_not_settle_the_space_of_real_targets() -> None:
    text = (
        "providers: {b: {base_url: 'http://b'}, demo: {adapter: scripted}}\n"
        "targets:\n"
        "  - {target: demo/embed-x, price: free}\n  - {target: b/embed-y, price: free}\n"
        "models: {embed: {targets: [demo/embed-x, b/embed-y]}}\n"
    )
    assert _virtual(_table(text), "embed").vector_space == "embed-y"


def test_prices_and_limits_come_from_the_file_first() -> None:
    table = _table()
    assert _target(table, "b/gpt-4o").is_free
    assert _target(table, "b/gpt-4o").context_length == 99
    mine = _target(table, "b/mine").price
    assert mine == Price(input=10**9, output=2 * 10**9, source="router.yaml")
    known = _target(table, "a/gpt-4o")
    assert known.price
    assert known.price.input == 2_500_000_000
    assert known.price.source.startswith("genai-prices")
    assert known.context_length == 128_000


def test_only_the_endpoint_is_checked_of_a_named_target() -> None:
    target = _target(_table(), "b/my-embedder")
    assert target.route_for("embeddings").choices[0].target == target.name
    with pytest.raises(InvalidRequest):
        target.route_for("chat")


def test_a_demonstration_gives_way_to_anything_real() -> None:
    text = "models: {auto: {targets: [tier:auto]}}\n"
    alone = config.build(YamlFile.parse(text, "x"), {})
    book, known, today = PriceBook.load(), catalog.load(), date(2026, 11, 20)
    table = build_table(with_demonstration(alone), known, book, today=today)
    assert [t.name for t in _virtual(table, "auto").targets] == ["tollway/demo"]
    assert not table.has_real_targets
    beside = config.build(
        YamlFile.parse(BASE + text.replace("models: {", "  ")[:-2] + "\n", "x"), {}
    )
    table = build_table(with_demonstration(beside), known, book, today=today)
    assert _virtual(table, "auto").targets == ()
    assert table.has_real_targets
    assert _target(table, "tollway/demo").demonstration
