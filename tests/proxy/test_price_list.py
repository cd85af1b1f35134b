from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from proxy import catalog, config_file, price_list
from proxy.price_book import (
    DatedRates,
    Equals,
    Matches,
    Model,
    PriceBook,
    Provider,
    Snapshot,
)
from proxy.price_snapshot import render
from proxy.target_table import build_table
from proxy.targets import Target
from proxy.yaml_file import YamlFile

NANO = 10**9
PACKAGED = PriceBook.load()
TODAY = PACKAGED.as_of + timedelta(days=200)

CONFIG = """\
providers:
  acme: {base_url: "http://a/v1"}
targets:
  - {target: acme/known}
  - {target: acme/unheard-of}
  - {target: acme/local, price: free}
  - {target: acme/mine, price: {from: 2020-01-01, input: 1, output: 2, per_request: 0.5}}
"""


def snapshot(as_of: date, name: str = "known", match: str | None = None) -> Snapshot:
    clause = Equals(name) if match is None else Matches(match)
    rates = DatedRates(since=date(2021, 1, 1), input=3 * NANO, output=6 * NANO, cached_input=NANO)
    model = Model(id=name, match=clause, rates=(rates,))
    return Snapshot(source="a list", as_of=as_of, providers=(Provider(id="acme", models=(model,)),))


def targets(book: PriceBook) -> list[Target]:
    loaded = config_file.build(YamlFile.parse(CONFIG, "router.yaml"), {})
    return list(build_table(loaded, catalog.load(), book, today=TODAY).targets.values())


def test_what_targets_charge_by_whose_word_and_how_old_that_is() -> None:
    book = PriceBook(snapshot(TODAY - timedelta(days=90)))
    known, unheard_of, local, mine = price_list.rows(targets(book), TODAY)
    assert known == price_list.Row(
        target="acme/known",
        state="ok",
        input=3 * NANO,
        cached_input=NANO,
        output=6 * NANO,
        per_request=0,
        source="a list",
        as_of=date(2021, 1, 1),
        age_days=90,
    )
    assert unheard_of == price_list.Row(target="acme/unheard-of", state="unpriced")
    assert (local.state, local.source, local.age_days) == ("free", "router.yaml", None)
    # What the operator wrote holds until it is changed, however long ago it came into force.
    assert (mine.state, mine.as_of) == ("ok", date(2020, 1, 1))
    assert mine.per_request == NANO // 2
    assert mine.age_days is not None
    assert mine.age_days > 1000


@pytest.mark.parametrize(("age_days", "state"), [(90, "ok"), (91, "stale")])
def test_prices_are_stale_after_ninety_days(age_days: int, state: str) -> None:
    found = targets(PriceBook(snapshot(TODAY - timedelta(days=age_days))))
    assert price_list.rows(found, TODAY)[0].state == state
    warning = price_list.staleness(found, TODAY)
    assert ("acme/known" in warning and "91 days" in warning) is (state == "stale")
    assert "\n" not in warning
    assert bool(warning) is (state == "stale")


@pytest.mark.parametrize(("days", "source"), [(1, "a list"), (0, "a list"), (-1, PACKAGED.source)])
def test_the_newer_of_two_snapshots_is_used(tmp_path: Path, days: int, source: str) -> None:
    refreshed = snapshot(PACKAGED.as_of + timedelta(days=days))
    (tmp_path / price_list.REFRESHED).write_text(render(refreshed))
    book, warning = price_list.load(tmp_path)
    assert (book.source, warning) == (source, "")


def test_without_a_refreshed_snapshot_the_packaged_one_is_used(tmp_path: Path) -> None:
    book, warning = price_list.load(tmp_path)
    assert (book.source, warning) == (PACKAGED.source, "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"source": "x"}',
        "\udcff",
        "[" * 100_000,
        render(snapshot(TODAY, match="(")),
        render(snapshot(TODAY)).replace('"input":3', '"input":-3'),
    ],
)
def test_a_broken_snapshot_is_a_warning_and_the_packaged_one_is_used(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / price_list.REFRESHED
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    book, warning = price_list.load(tmp_path)
    assert book.source == PACKAGED.source
    assert warning.startswith(f"{path}: ")
    assert "--refresh" in warning
    assert "\n" not in warning


def test_a_snapshot_that_cannot_be_read_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / price_list.REFRESHED).mkdir()
    book, warning = price_list.load(tmp_path)
    assert book.source == PACKAGED.source
    assert "directory" in warning


def test_what_is_charged_besides_tokens_is_told() -> None:
    text = """\
providers:
  acme: {base_url: "http://a/v1"}
targets:
  - {target: acme/whisper, price: {per_minute: 0.006}}
  - {target: acme/tts, price: {characters: 15}}
  - {target: acme/rerank, price: {per_search: 0.002}}
  - {target: acme/flux, price: {per_generated_image: 0.04}}
  - {target: acme/dall-e, price: {per_generated_image: {hd: 0.08, standard: 0.04}}}
"""
    table = build_table(
        config_file.build(YamlFile.parse(text, "router.yaml"), {}),
        catalog.load(),
        PACKAGED,
        today=TODAY,
    )
    assert [row.pieces for row in price_list.rows(table.targets.values(), TODAY)] == [
        ("$0.006 a minute",),
        ("$15.00 a million characters",),
        ("$0.002 a search",),
        ("$0.04 an image",),
        ("$0.08 an image of hd", "$0.04 an image of standard"),
    ]
