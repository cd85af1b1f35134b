from __future__ import annotations

from datetime import UTC, date, datetime

import msgspec
import pytest

from proxy import catalog, config_file, discovery
from proxy.discovery import with_demonstration
from proxy.errors import InvalidRequest
from proxy.inventory import FoundModel, FoundProvider, Inventory
from proxy.price_book import PriceBook
from proxy.pricing import Price, Tier, parse_usd
from proxy.target_maker import capabilities_by_name
from proxy.target_table import build_table
from proxy.targets import CurrentTable, Target, TargetTable, VirtualModel
from proxy.wire import moderations
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


def _table(text: str = BASE, today: date = date(2026, 11, 20)) -> TargetTable:
    built = config_file.build(YamlFile.parse(text, "router.yaml"), {})
    return build_table(built, catalog.load(), PriceBook.load(), today=today)


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


CLAIMED = ("gpt-4o", "anthropic/claude-sonnet-4", "text-embedding-3-small", "own")


@pytest.mark.parametrize(
    ("targets", "leads_to"),
    [
        (
            "{target: openai/*}, {target: router/*}",
            {"openai/gpt-4o", "router/anthropic/claude-sonnet-4", "openai/text-embedding-3-small"},
        ),
        (
            "{target: openai/*}, {target: lmstudio/*}, {target: router/*}",
            {
                "openai/gpt-4o",
                "lmstudio/anthropic/claude-sonnet-4",
                "openai/text-embedding-3-small",
            },
        ),
        (
            "{target: lmstudio/*}, {target: openai/*}",
            {
                "lmstudio/gpt-4o",
                "lmstudio/anthropic/claude-sonnet-4",
                "lmstudio/text-embedding-3-small",
            },
        ),
    ],
)
def test_what_is_found_takes_no_name_that_a_wildcard_before_it_knows(
    targets: str, leads_to: set[str]
) -> None:
    text = f"""\
providers:
  openai: {{adapter: openai, api_key: sk-1}}
  router: {{base_url: "https://openrouter.ai/api/v1"}}
  lmstudio: {{adapter: lm_studio, base_url: "http://127.0.0.1:1234/v1"}}
targets: [{targets}]
"""
    config = config_file.build(YamlFile.parse(text, "router.yaml"), {})
    if "lmstudio/*" not in targets:
        own = {name: each for name, each in config.providers.items() if name != "lmstudio"}
        config = msgspec.structs.replace(config, providers=own)
    liar = FoundProvider(
        name="lmstudio",
        adapter="lm_studio",
        by="1234",
        base_url="http://127.0.0.1:1234/v1",
        models=tuple(FoundModel(name=name) for name in CLAIMED),
    )
    config, facts, _ = discovery.with_found(config, Inventory(providers=(liar,)))
    known, book, today = catalog.load(), PriceBook.load(), date(2026, 11, 20)
    table = build_table(config, known, book, today=today, found=facts)
    assert {_target(table, name).name for name in CLAIMED} == leads_to | {"lmstudio/own"}
    assert _target(table, "lmstudio/gpt-4o").provider == "lmstudio"


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
    assert ("embeddings" in capabilities_by_name(model)) == embeds


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("BAAI/bge-reranker-v2-m3", "rerank"),
        ("rerank-v3.5", "rerank"),
        ("omni-moderation-latest", "moderations"),
        ("whisper-1", "transcriptions"),
        ("gpt-4o-mini-transcribe", "transcriptions"),
        ("gpt-4o-mini-tts", "speech"),
        ("tts-1-hd", "speech"),
        ("gpt-image-2", "images"),
        ("black-forest-labs/FLUX.1-schnell", "images"),
    ],
)
def test_what_else_models_do_is_told_by_their_names(model: str, kind: str) -> None:
    assert capabilities_by_name(model) == {kind}


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
    alone = config_file.build(YamlFile.parse(text, "x"), {})
    book, known, today = PriceBook.load(), catalog.load(), date(2026, 11, 20)
    table = build_table(with_demonstration(alone), known, book, today=today)
    assert [t.name for t in _virtual(table, "auto").targets] == ["tollway/demo"]
    assert not table.has_real_targets
    beside = config_file.build(
        YamlFile.parse(BASE + text.replace("models: {", "  ")[:-2] + "\n", "x"), {}
    )
    table = build_table(with_demonstration(beside), known, book, today=today)
    assert _virtual(table, "auto").targets == ()
    assert table.has_real_targets
    assert _target(table, "tollway/demo").demonstration


def test_every_rate_of_the_file_reaches_the_price() -> None:
    text = """\
providers: {a: {base_url: "http://a/v1"}}
targets:
  - target: a/m
    price:
      from: 2026-01-01
      input: 1
      output: 2
      cached_input: 0.1
      cache_write: 1.25
      cache_write_1h: 2
      reasoning: 3
      input_audio: 4
      input_image: 5
      output_audio: 6
      image: 0.007
      per_request: 0.008
      tiers: [{above_input_tokens: 200000, input: 2, output: 4, cached_input: 0.2}]
      service_tiers: {flex: {input: 0.5, output: 1}, priority: {input: 2, output: 4}}
"""
    nano = 10**9
    assert _target(_table(text), "a/m").price == Price(
        input=nano,
        output=2 * nano,
        cached_input=nano // 10,
        cache_write=nano * 5 // 4,
        cache_write_1h=2 * nano,
        reasoning=3 * nano,
        input_audio=4 * nano,
        input_image=5 * nano,
        output_audio=6 * nano,
        image=nano * 7 // 1000,
        per_request=nano * 8 // 1000,
        tiers=(
            Tier(
                above_input_tokens=200_000, input=2 * nano, output=4 * nano, cached_input=nano // 5
            ),
        ),
        service_tiers={
            "flex": Price(input=nano // 2, output=nano, source="router.yaml"),
            "priority": Price(input=2 * nano, output=4 * nano, source="router.yaml"),
        },
        source="router.yaml",
        as_of=date(2026, 1, 1),
    )


DATED = """\
providers: {a: {base_url: "http://a/v1", prices: openai}}
targets:
  - target: a/gpt-4o
    price: [{from: 2026-12-01, input: 7}, {from: 2027-01-01, input: 8}]
  - target: a/mine
    price: [{input: 1}, {from: 2026-12-01, input: 2}]
"""


@pytest.mark.parametrize(
    ("today", "known", "mine"),
    [
        (date(2026, 11, 30), "2.5", "1"),  # until the first date the snapshot has its say
        (date(2026, 12, 1), "7", "2"),
        (date(2026, 12, 31), "7", "2"),
        (date(2027, 1, 1), "8", "2"),
    ],
)
def test_the_price_in_force_on_the_day_applies(today: date, known: str, mine: str) -> None:
    table = _table(DATED, today)
    prices = [_target(table, name).price for name in ("a/gpt-4o", "a/mine")]
    assert [price and price.input for price in prices] == [parse_usd(known), parse_usd(mine)]


class _Clock:
    """Unix time, moved by hand."""

    def __init__(self, *moment: int) -> None:
        self.set(*moment)

    def set(self, *moment: int) -> None:
        self._now = datetime(*moment, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now


def test_a_running_server_takes_a_price_up_on_its_day() -> None:
    clock = _Clock(2026, 11, 30, 23, 59, 59)
    tables = CurrentTable(lambda today, _: _table(DATED, today), clock)

    def price() -> int:
        found = _target(tables(), "a/mine").price
        assert found
        return found.input

    before = _target(tables(), "a/mine")
    assert price() == parse_usd(1)
    assert tables() is tables()
    clock.set(2026, 12, 1)
    assert price() == parse_usd(2)
    # What is under way keeps the target, and with it the price, that it was held at.
    assert before.price
    assert before.price.input == parse_usd(1)
    clock.set(2026, 11, 30, 12)  # a clock that was set back
    assert price() == parse_usd(1)


UNPRICED = """\
unpriced: free
providers:
  a: {base_url: "http://a/v1"}
  b: {base_url: "http://b/v1", unpriced: {per_request: 0.01}}
  c: {base_url: "http://c/v1", unpriced: refuse, prices: openai}
targets:
  - {target: a/x}
  - {target: b/*}
  - {target: c/x}
  - {target: c/gpt-4o}
"""


def test_the_narrowest_word_on_unpriced_targets_counts() -> None:
    table = _table(UNPRICED)
    free, charged = _target(table, "a/x").price, _target(table, "b/anything").price
    assert free == Price.free("unpriced: free (router.yaml)")
    assert charged
    assert (charged.input, charged.output, charged.per_request) == (0, 0, 10**7)
    assert "unpriced" in charged.source
    assert _target(table, "c/x").price is None
    assert _target(table, "c/gpt-4o").price


def test_without_a_word_on_them_unpriced_targets_have_no_price() -> None:
    table = _table(UNPRICED.replace("unpriced: free\n", ""))
    assert _target(table, "a/x").price is None


FLAGS = """\
providers:
  mine: {base_url: "https://api.openai.com/v1"}
  openrouter: {base_url: "http://10.0.0.5/v1"}
  router: {base_url: "https://openrouter.ai/api/v1"}
  told: {base_url: "http://10.0.0.6/v1", meterable: true, reports_cost: true}
  doubted: {base_url: "https://api.openai.com/v1", meterable: false}
  demo: {adapter: scripted}
targets:
  - {target: mine/m}
  - {target: openrouter/m}
  - {target: router/m}
  - {target: told/m}
  - {target: doubted/m}
  - {target: demo/m}
"""


@pytest.mark.parametrize(
    ("provider", "meterable", "reports_cost"),
    [
        ("mine", True, False),
        ("openrouter", False, False),  # by name only: nobody knows what listens there
        ("router", False, True),
        ("told", True, True),
        ("doubted", False, False),
        ("demo", True, False),
    ],
)
def test_what_is_known_of_a_service_goes_by_its_address(
    provider: str, meterable: bool, reports_cost: bool
) -> None:
    target = _target(_table(FLAGS), f"{provider}/m")
    assert (target.meterable, target.reports_cost) == (meterable, reports_cost)


@pytest.mark.parametrize(
    ("asked", "account", "tier"),
    [
        (None, None, None),
        ("auto", None, "auto"),
        (None, "default", "default"),
        ("auto", "priority", "priority"),
        ("flex", "priority", "flex"),
    ],
)
def test_the_account_settles_the_tier_that_a_request_leaves_open(
    asked: str | None, account: str | None, tier: str | None
) -> None:
    setting = f", service_tier: {account}" if account else ""
    text = f'providers: {{a: {{base_url: "http://a/v1"{setting}}}}}\ntargets: [{{target: a/m}}]\n'
    assert _target(_table(text), "a/m").tier_of(asked) == tier


def test_a_cheaper_self_never_changes_the_space_of_embeddings() -> None:
    text = BASE.replace(
        "  embed: {targets: [b/my-embedder, a/text-embedding-3-small]}",
        "  embed:\n    targets: [a/text-embedding-3-small]\n"
        "    downgrade: [{at_percent: 50, targets: [b/my-embedder]}]",
    )
    full = _virtual(_table(text), "embed")
    (tier,) = full.downgrades
    assert full.vector_space == tier.model.vector_space == "openai/text-embedding-3-small"


def test_openais_moderations_are_known_to_be_free() -> None:
    table = _table("""\
providers: {openai: {adapter: openai, api_key: k}}
targets: [{target: openai/*}]
""")
    target = _target(table, moderations.DEFAULT_MODEL)
    assert target.name == "openai/omni-moderation-latest"
    assert target.is_free
    assert target.capabilities == {"moderations"}


def test_quality_is_the_operators_word_or_the_catalogues_tier() -> None:
    table = _table("""\
providers: {openai: {adapter: openai, api_key: k}}
targets:
  - {target: openai/gpt-6-astra}
  - {target: openai/gpt-6.1-terra, tiers: [best]}
  - {target: openai/gpt-6-luna, quality: {coding: 0.7}}
  - {target: openai/gpt-unheard-of, tiers: [best]}
""")
    qualities = [dict(_target(table, name).quality) for name in table.targets]
    assert qualities == [{"general": 0.9}, {"general": 0.8}, {"coding": 0.7}, {}]


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ('{base_url: "https://api.x.ai/v1"}', "grok-4"),
        ("{adapter: xai}", "grok-4"),
        ("{adapter: azure, base_url: 'https://me.openai.azure.com'}", "gpt-4o"),
        ("{adapter: vertex, region: global, project: p}", "gemini-2.5-pro"),
        ('{base_url: "http://10.0.0.9/v1", prices: openai}', "gpt-4o"),
    ],
)
def test_prices_are_those_of_the_service_whatever_it_is_called(provider: str, model: str) -> None:
    table = _table(f"providers:\n  mine: {provider}\ntargets:\n  - {{target: mine/{model}}}\n")
    price = _target(table, f"mine/{model}").price
    assert price is not None
    assert price.input > 0
