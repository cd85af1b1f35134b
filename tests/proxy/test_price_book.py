from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import msgspec
import pytest

from proxy.price_book import (
    AllOf,
    AnyOf,
    Clause,
    Contains,
    DatedRates,
    EndsWith,
    Equals,
    Matches,
    Model,
    PriceBook,
    Provider,
    Rates,
    Snapshot,
    StartsWith,
    TierRates,
)
from proxy.pricing import Price, Tier, Usage, cost_nanousd, parse_usd

TODAY = date(2026, 11, 20)
ROOT = Path(__file__).parents[2]


def rates(amount: int, since: date | None = None) -> DatedRates:
    return DatedRates(since=since, input=amount, output=amount)


def book(*providers: Provider) -> PriceBook:
    return PriceBook(Snapshot(source="prices 1.0", as_of=TODAY, providers=providers))


def book_of(*models: Model) -> PriceBook:
    return book(Provider(id="acme", models=models))


def found(prices: PriceBook, name: str, provider: str = "acme") -> int | None:
    price = prices.find(provider, name, TODAY)
    return None if price is None else price.input


@pytest.mark.parametrize(
    ("clause", "yes", "no"),
    [
        (Equals("gpt-x"), "gpt-x", "gpt-x1"),
        (StartsWith("gpt-x"), "gpt-x1", "a-gpt-x"),
        (EndsWith("gpt-x"), "a-gpt-x", "gpt-x1"),
        (Contains("gpt-x"), "a-gpt-x1", "gpt-y"),
        (Matches(r"^gpt-\d$"), "gpt-4", "gpt-x"),
        (Matches("GPT"), "-", "GPT"),
        (AnyOf((Equals("a"), Equals("b"))), "b", "c"),
        (AllOf((StartsWith("a"), EndsWith("b"))), "a-b", "a-c"),
        (AllOf((AnyOf((Equals("a1"), Equals("a2"))), EndsWith("2"))), "a2", "a1"),
    ],
)
def test_a_clause_holds_for_the_names_it_means(clause: Clause, yes: str, no: str) -> None:
    prices = book_of(
        Model(id="1", match=clause, rates=(rates(1),)),
        Model(id="-", match=Equals("-"), rates=(rates(1),)),
    )
    assert found(prices, yes) == 1
    assert found(prices, no) is None


def test_names_match_whatever_their_case() -> None:
    prices = book_of(Model(id="1", match=Equals("kimi-k3"), rates=(rates(1),)))
    assert found(prices, "Kimi-K3") == 1


def test_the_first_model_that_matches_wins() -> None:
    prices = book_of(
        Model(id="1", match=StartsWith("a"), rates=(rates(1),)),
        Model(id="2", match=Equals("ab"), rates=(rates(2),)),
    )
    assert found(prices, "ab") == 1


def test_a_model_without_rates_hides_broader_clauses_behind_it() -> None:
    prices = book_of(
        Model(id="1", match=Equals("gpt-audio"), context=128),
        Model(id="2", match=StartsWith("gpt"), rates=(rates(2),)),
    )
    assert found(prices, "gpt-audio") is None
    assert prices.context_length("acme", "gpt-audio") == 128
    assert found(prices, "gpt-text") == 2


def test_a_compact_date_is_read_as_a_dashed_one_if_nothing_else_matches() -> None:
    prices = book_of(
        Model(id="1", match=Equals("a-2025-12-11"), rates=(rates(1),)),
        Model(id="2", match=Equals("b-20251211"), rates=(rates(2),)),
    )
    assert found(prices, "a-20251211") == 1
    assert found(prices, "b-20251211") == 2
    assert found(prices, "a-20251311") is None


def test_a_reseller_charges_the_makers_price_unless_it_has_its_own() -> None:
    prices = book(
        Provider(
            id="acme",
            fallback=("maker",),
            models=(Model(id="1", match=Equals("both"), rates=(rates(1),)),),
        ),
        Provider(
            id="maker",
            fallback=("other",),
            models=(
                Model(id="2", match=Equals("both"), rates=(rates(2),)),
                Model(id="3", match=Equals("mine"), rates=(rates(3),)),
            ),
        ),
        Provider(id="other", models=(Model(id="4", match=Equals("far"), rates=(rates(4),)),)),
    )
    assert found(prices, "both") == 1
    assert found(prices, "mine") == 3
    assert found(prices, "far") is None
    assert found(prices, "far", "maker") == 4


@pytest.mark.parametrize(
    ("on", "amount", "as_of"),
    [
        (date(2026, 7, 31), 1, TODAY),
        (date(2026, 8, 1), 2, date(2026, 8, 1)),
        (date(2026, 12, 31), 2, date(2026, 8, 1)),
        (date(2027, 1, 1), 3, date(2027, 1, 1)),
    ],
)
def test_the_price_of_the_day_counts(on: date, amount: int, as_of: date) -> None:
    dated = (rates(1), rates(2, date(2026, 8, 1)), rates(3, date(2027, 1, 1)))
    price = book_of(Model(id="1", match=Equals("a"), rates=dated)).find("acme", "a", on)
    assert price is not None
    assert (price.input, price.as_of, price.source) == (amount, as_of, "prices 1.0")


def test_before_its_first_date_a_model_costs_what_it_cost_then() -> None:
    dated = (rates(1, date(2027, 1, 1)), rates(2, date(2027, 6, 1)))
    assert found(book_of(Model(id="1", match=Equals("a"), rates=dated)), "a") == 1


def test_every_rate_reaches_the_price() -> None:
    tier = TierRates(
        above=7, input=10, output=11, cached_input=12, cache_write=13, cache_write_1h=14
    )
    everything = DatedRates(
        input=1,
        output=2,
        cached_input=3,
        cache_write=4,
        cache_write_1h=5,
        input_audio=6,
        input_image=15,
        reasoning=7,
        output_audio=8,
        per_request=9,
        tiers=(tier,),
        service_tiers={"flex": Rates(input=16, output=17)},
    )
    prices = book_of(Model(id="1", match=Equals("a"), rates=(everything,)))
    assert prices.find("acme", "a", TODAY) == Price(
        input=1,
        output=2,
        cached_input=3,
        cache_write=4,
        cache_write_1h=5,
        input_audio=6,
        input_image=15,
        reasoning=7,
        output_audio=8,
        per_request=9,
        service_tiers={
            "flex": Price(input=16, output=17, source="prices 1.0", as_of=TODAY, known_at=TODAY)
        },
        known_at=TODAY,
        tiers=(
            Tier(
                above_input_tokens=7,
                input=10,
                output=11,
                cached_input=12,
                cache_write=13,
                cache_write_1h=14,
            ),
        ),
        source="prices 1.0",
        as_of=TODAY,
    )


def test_unknown_providers_and_models_have_no_price() -> None:
    prices = PriceBook.load()
    assert prices.find("nobody", "gpt-4o", TODAY) is None
    assert prices.find("openai", "nothing-like-it", TODAY) is None
    assert prices.context_length("nobody", "gpt-4o") is None
    assert prices.context_length("openai", "nothing-like-it") is None


@pytest.mark.parametrize(
    ("provider", "model", "usage", "nanousd"),
    [
        (
            "openai",
            "gpt-4o",
            Usage(input_tokens=1000, cached_tokens=400, output_tokens=100),
            3_000_000,
        ),
        (
            "openai",
            "text-embedding-3-small",
            Usage(input_tokens=1000, output_tokens=0),
            20_000,
        ),
        (
            "openai",
            "gpt-5.5",
            Usage(input_tokens=272_000, output_tokens=100_000),
            4_360_000_000,
        ),
        (
            "openai",
            "gpt-5.5",
            Usage(input_tokens=1_000_000, output_tokens=100_000),
            14_500_000_000,
        ),
        (
            "google",
            "gemini-2.5-pro",
            Usage(input_tokens=300_000, output_tokens=1000),
            765_000_000,
        ),
        (
            "anthropic",
            "claude-sonnet-4-5",
            Usage(
                input_tokens=140,
                cached_tokens=100,
                cache_write_tokens=30,
                cache_write_1h_tokens=20,
                output_tokens=7,
            ),
            322_500,
        ),
        (
            "perplexity",
            "sonar",
            Usage(input_tokens=1000, output_tokens=1000),
            12_000_000 + 2_000_000,
        ),
    ],
)
def test_the_packaged_prices_meet_known_bills(
    provider: str, model: str, usage: Usage, nanousd: int
) -> None:
    price = PriceBook.load().find(provider, model, TODAY)
    assert price is not None
    assert cost_nanousd(price, usage) == nanousd


def test_where_the_hour_decides_the_dearest_hour_is_charged() -> None:
    prices = PriceBook.load()
    announced = prices.find("deepseek", "deepseek-v4-flash", date(2026, 9, 10))
    assert announced is not None
    assert announced.input == parse_usd("0.3")


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-search-preview"),  # searches, for a fee, unasked
        ("openai", "gpt-4o-mini-search-preview"),  # the same, under a name the source lacks
        ("azure", "gpt-4o-mini-search-preview"),  # the same, resold
        ("openai", "o3-deep-research"),
        ("perplexity", "sonar-deep-research"),
        ("openrouter", "perplexity/sonar-pro"),
        ("openai", "gpt-image-1"),  # images at rates of their own
        ("google", "gemini-2.5-flash-image"),
        ("openai", "gpt-4o-audio-preview"),  # audio without a rate
        ("openai", "whisper-1"),  # by the hour
        ("openai", "tts-1"),  # by the character
        ("mistral", "mistral-ocr-latest"),  # by the page
        ("google", "gemma-3-27b-it"),  # no rates at all
        ("openrouter", "openai/gpt-4o:online"),  # a suffix that adds a fee
    ],
)
def test_what_our_rates_cannot_bound_has_no_price(provider: str, model: str) -> None:
    assert PriceBook.load().find(provider, model, TODAY) is None


def test_models_named_free_are_free() -> None:
    price = PriceBook.load().find("openrouter", "openai/gpt-oss-20b:free", TODAY)
    assert price is not None
    assert cost_nanousd(price, Usage(input_tokens=10**6, output_tokens=10**6)) == 0


def test_the_packaged_snapshot_names_its_source_and_date() -> None:
    prices = PriceBook.load()
    assert prices.source.startswith("genai-prices ")
    assert prices.as_of <= date.today()


def test_looking_prices_up_does_not_import_their_source() -> None:
    code = (
        "import sys; from proxy.price_book import PriceBook; PriceBook.load();"
        "print({'genai_prices', 'pydantic'} & sys.modules.keys())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "set()"


def test_a_file_that_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "prices.json"
    wrong.write_text('{"source":"x","as_of":"2026-11-20","providers":[],"surprise":1}')
    with pytest.raises(msgspec.ValidationError, match="surprise"):
        PriceBook.load(wrong)


@pytest.mark.parametrize(
    ("provider", "problem"),
    [
        (Provider(id="acme", fallback=("nobody",), models=()), "nobody"),
        (
            Provider(
                id="acme",
                models=(
                    Model(id="1", match=AnyOf((Equals("a"), AllOf((Matches("("),)))), rates=()),
                ),
            ),
            "pattern",
        ),
        (
            Provider(id="acme", models=(Model(id="1", match=Equals("a"), rates=(rates(-1),)),)),
            "neg",
        ),
    ],
)
def test_a_snapshot_on_which_lookups_would_fail_is_told_apart(
    provider: Provider, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        book(provider).check()


def test_the_packaged_snapshot_is_whole() -> None:
    PriceBook.load().check()
