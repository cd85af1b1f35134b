from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path

import msgspec
import pytest

from proxy.price_book import (
    SNAPSHOT,
    AnyOf,
    DatedRates,
    Equals,
    Model,
    PriceBook,
    Provider,
    Rates,
    Snapshot,
    StartsWith,
)
from proxy.price_snapshot import main, render
from proxy.pricing import PER_TOKENS, Usage, cost_nanousd

genai_prices = pytest.importorskip("genai_prices", reason="the source of prices is not installed")

from genai_prices import data, types  # noqa: E402 - only where it is installed

from proxy import price_source  # noqa: E402

ROOT = Path(__file__).parents[2]
NANO = 1_000_000_000
LONG_AGO = date(2020, 1, 1)


@cache
def packaged() -> Snapshot:
    return msgspec.json.decode(SNAPSHOT.read_bytes(), type=Snapshot)


def test_the_packaged_snapshot_is_what_the_installed_source_yields() -> None:
    if packaged().source != f"genai-prices {genai_prices.__version__}":
        pytest.skip(f"made from {packaged().source}, not from {genai_prices.__version__}")
    assert render(price_source.snapshot(packaged().as_of)) == SNAPSHOT.read_text(encoding="utf-8")


def test_a_rendered_snapshot_reads_back_with_a_model_a_line() -> None:
    snapshot = packaged()
    text = render(snapshot)
    assert msgspec.json.decode(text, type=Snapshot) == snapshot
    models = sum(len(provider.models) for provider in snapshot.providers)
    assert sum(line.startswith('{"id"') for line in text.splitlines()) == models + len(
        snapshot.providers
    )


def test_the_snapshot_stays_small() -> None:
    assert SNAPSHOT.stat().st_size < 400_000


def test_the_command_writes_a_snapshot_that_loads(tmp_path: Path) -> None:
    output = tmp_path / "prices.json"
    main(["--output", str(output), "--as-of", "2026-11-20"])
    assert PriceBook.load(output).as_of == date(2026, 11, 20)


def test_the_command_says_in_one_line_what_to_install() -> None:
    without_source = "import sys; sys.modules['genai_prices'] = None;"
    run = subprocess.run(
        [sys.executable, "-c", without_source + "from proxy.price_snapshot import main; main([])"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr.splitlines() == [
        "genai-prices is not installed; install tollway[prices] to refresh the prices"
    ]


def model_info(**fields: object) -> types.ModelInfo:
    return types.ModelInfo(id="m", match=types.ClauseEquals("m"), **fields)  # type: ignore[arg-type]


def mtok(**usd: str) -> types.ModelPrice:
    return types.ModelPrice(**{f"{name}_mtok": Decimal(text) for name, text in usd.items()})


def translated(model: types.ModelInfo) -> Model:
    """The model as the snapshot of a source with nothing but it would have it."""
    return price_source._model(model)


def test_rates_that_start_on_a_date_are_kept_apart() -> None:
    start = types.StartDateConstraint(date(2026, 5, 1))
    model = model_info(
        prices=[
            types.ConditionalPrice(prices=mtok(input="1", output="2")),
            types.ConditionalPrice(start, prices=mtok(input="3", output="4")),
        ]
    )
    assert translated(model).rates == (
        DatedRates(input=1 * NANO, output=2 * NANO),
        DatedRates(since=date(2026, 5, 1), input=3 * NANO, output=4 * NANO),
    )


def test_rates_by_the_hour_become_the_dearest_of_the_day_rate_by_rate() -> None:
    night = types.TimeOfDateConstraint(
        datetime(2026, 1, 1, 1, tzinfo=UTC).timetz(), datetime(2026, 1, 1, 4, tzinfo=UTC).timetz()
    )
    model = model_info(
        prices=[
            types.ConditionalPrice(prices=mtok(input="9", output="9")),
            types.ConditionalPrice(
                types.StartDateConstraint(date(2026, 5, 1)), prices=mtok(input="1", output="6")
            ),
            types.ConditionalPrice(night, prices=mtok(input="2", output="4", cache_read="0.5")),
        ]
    )
    assert translated(model).rates == (
        DatedRates(input=9 * NANO, output=9 * NANO, cached_input=9 * NANO),
        # By day a cache read costs what input costs, 1, as no rate of its own is set.
        DatedRates(since=date(2026, 5, 1), input=2 * NANO, output=6 * NANO, cached_input=1 * NANO),
    )


def test_tiers_of_single_rates_become_tiers_of_the_whole_price() -> None:
    tiered = types.ModelPrice(
        input_mtok=types.TieredPrices(Decimal(1), [types.Tier(200, Decimal(2))]),
        output_mtok=types.TieredPrices(
            Decimal(5), [types.Tier(100, Decimal(6)), types.Tier(200, Decimal(7))]
        ),
        cache_read_mtok=Decimal("0.5"),
    )
    (rates,) = translated(model_info(prices=tiered)).rates
    assert (rates.input, rates.output, rates.cached_input) == (NANO, 5 * NANO, NANO // 2)
    assert [(tier.above, tier.input, tier.output, tier.cached_input) for tier in rates.tiers] == [
        (100, 1 * NANO, 6 * NANO, NANO // 2),
        (200, 2 * NANO, 7 * NANO, NANO // 2),
    ]


def test_a_fraction_of_a_nanodollar_is_rounded_up() -> None:
    (rates,) = translated(model_info(prices=mtok(input="0.0833333333333333", output="0"))).rates
    assert rates.input == 83_333_334


@pytest.mark.parametrize(
    "prices",
    [
        [],
        types.ModelPrice(),
        mtok(output="1"),
        mtok(input="1", output="1", output_image="30"),
        mtok(input="1", output="1", output_citation="1"),
        mtok(input="1", output="1", input_audio="1", cache_audio_read="2"),
        types.ModelPrice(input_mtok=Decimal(1), audio_hours=Decimal(1)),
        types.ModelPrice(
            input_mtok=Decimal(1),
            output_audio_mtok=types.TieredPrices(Decimal(1), [types.Tier(1, Decimal(2))]),
        ),
    ],
)
def test_a_price_that_our_rates_cannot_express_is_left_out(
    prices: types.ModelPrice | list[types.ConditionalPrice],
) -> None:
    assert translated(model_info(prices=prices)).rates == ()


def priced() -> Iterator[tuple[types.Provider, types.ModelInfo, Model]]:
    """Every model of the packaged snapshot that has rates, beside its origin."""
    origins = {(provider.id, model.id): (provider, model) for provider in data.providers
               for model in provider.models}  # fmt: skip
    for provider in packaged().providers:
        for model in provider.models:
            if model.rates:
                yield *origins[provider.id, model.id], model


def sample_usages(rates: Rates) -> Iterator[Usage]:
    yield Usage(input_tokens=1000, output_tokens=0)
    yield Usage(input_tokens=1234, output_tokens=567)
    yield Usage(
        input_tokens=99_999,
        cached_tokens=30_000,
        cache_write_tokens=20_003,
        cache_write_1h_tokens=7_001,
        input_audio_tokens=12_345,
        input_image_tokens=2_345,
        output_tokens=4_099,
        reasoning_tokens=1_111,
        output_audio_tokens=777,
    )
    for tier in rates.tiers:
        for input_tokens in (tier.above, tier.above + 1):
            yield Usage(
                input_tokens=input_tokens,
                cached_tokens=10_000,
                cache_write_tokens=5_000,
                cache_write_1h_tokens=1_000,
                output_tokens=333,
            )


def depends_on_the_hour(model: types.ModelInfo) -> bool:
    return not isinstance(model.prices, types.ModelPrice) and any(
        isinstance(each.constraint, types.TimeOfDateConstraint) for each in model.prices
    )


def moments(model: types.ModelInfo, since: date | None) -> list[datetime]:
    """Moments of a day that meet every price of that day."""
    day = datetime.combine(since or LONG_AGO, datetime.min.time(), UTC)
    half_hours = range(48) if depends_on_the_hour(model) else (0,)
    return [day + timedelta(minutes=30 * each) for each in half_hours]


def bill_nanousd(
    provider: types.Provider,
    model: types.ModelInfo,
    usage: Usage,
    at: datetime,
    context: dict[str, str] | None = None,
) -> Decimal:
    counts = types.Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        input_audio_tokens=usage.input_audio_tokens,
        cache_audio_read_tokens=0,
        input_image_tokens=usage.input_image_tokens,
        cache_image_read_tokens=0,
        output_tokens=usage.output_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
        output_audio_tokens=usage.output_audio_tokens,
    )
    return (
        model.calc_price(
            counts, provider, genai_request_timestamp=at, price_context=context
        ).total_price
        * NANO
    )


def test_every_price_bills_what_its_source_bills_rounded_up() -> None:
    compared = 0
    for provider, origin, model in priced():
        for rates in model.rates:
            price = rates.price(source="", known_at=LONG_AGO)
            for usage in sample_usages(rates):
                case = (provider.id, model.id, rates.since, usage)
                cost = cost_nanousd(price, usage)
                bill = max(
                    bill_nanousd(provider, origin, usage, at) for at in moments(origin, rates.since)
                )
                assert cost >= bill, case
                # A rate finer than a nano-USD was rounded up, by less than one per million tokens.
                tokens = Decimal(usage.input_tokens + usage.output_tokens)
                if not depends_on_the_hour(origin):
                    assert cost < bill + tokens / PER_TOKENS + 1, case
                compared += 1
    assert compared > 5000


VARIANTS = {"batch": {"processing": "batch"}}


def test_every_service_tier_bills_what_its_source_bills_rounded_up() -> None:
    compared = 0
    for provider, origin, model in priced():
        for rates in model.rates:
            for name, tier in rates.service_tiers.items():
                price = rates.price(source="", known_at=LONG_AGO).billed_at(name)
                assert price.input == tier.input
                for usage in sample_usages(tier):
                    context = VARIANTS.get(name, {"service_tier": name})
                    bill = max(
                        bill_nanousd(provider, origin, usage, at, context)
                        for at in moments(origin, rates.since)
                    )
                    cost = cost_nanousd(price, usage)
                    tokens = Decimal(usage.input_tokens + usage.output_tokens)
                    case = (provider.id, model.id, rates.since, name, usage)
                    assert bill <= cost < bill + tokens / PER_TOKENS + 1, case
                    compared += 1
    assert compared > 500


def test_a_variant_in_force_becomes_a_service_tier() -> None:
    model = model_info(
        prices=mtok(input="2", output="4", cache_read="1"),
        price_variants=[
            types.PriceVariant({"service_tier": "flex"}, mtok(input="1", output="2")),
            types.PriceVariant(
                {"processing": "batch"},
                mtok(input="1"),
                types.StartDateConstraint(date(2026, 5, 1)),
            ),
            types.PriceVariant({"service_tier": "default"}, types.ModelPrice()),
            types.PriceVariant({"speed": "fast"}, mtok(input="9")),
            types.PriceVariant({"service_tier": "flex", "route": "eu"}, mtok(input="9")),
            types.PriceVariant({"processing": "slow"}, mtok(input="9")),
            types.PriceVariant(
                {"service_tier": "hourly"},
                mtok(input="9"),
                types.TimeOfDateConstraint(
                    datetime(2026, 1, 1, 1, tzinfo=UTC).timetz(),
                    datetime(2026, 1, 1, 4, tzinfo=UTC).timetz(),
                ),
            ),
            # What our rates cannot express is left out, as a tier of unknown price.
            types.PriceVariant({"service_tier": "odd"}, mtok(output_citation="1")),
        ],
    )
    first, later = translated(model).rates
    flex = Rates(input=NANO, output=2 * NANO, cached_input=NANO)
    assert (first.since, first.service_tiers) == (None, {"flex": flex})
    assert later.since == date(2026, 5, 1)
    assert later.service_tiers == {
        "flex": flex,
        "batch": Rates(input=NANO, output=4 * NANO, cached_input=NANO),
    }


def test_of_two_variants_of_a_tier_the_first_in_force_is_meant() -> None:
    start = types.StartDateConstraint(date(2027, 1, 1))
    flex = {"service_tier": "flex"}
    model = model_info(
        prices=mtok(input="4", output="4"),
        price_variants=[
            types.PriceVariant(flex, mtok(input="1"), start),
            types.PriceVariant(flex, mtok(input="2", output="2")),
        ],
    )
    now, later = (rates.service_tiers["flex"] for rates in translated(model).rates)
    assert (now.input, now.output) == (2 * NANO, 2 * NANO)
    assert (later.input, later.output) == (1 * NANO, 2 * NANO)


def test_the_published_list_is_read_with_every_digit() -> None:
    listed = (
        b'[{"id": "openai", "name": "OpenAI", "api_pattern": "x", "models": ['
        b'{"id": "m", "match": {"or": [{"equals": "m"}, {"starts_with": "m-"}]},'
        b' "context_window": 9, "prices": {"input_mtok": 0.1234567891, "output_mtok": 2},'
        b' "price_variants": [{"when": {"service_tier": "flex"}, "prices": {"input_mtok": 0.05}}]'
        b'}]}, {"id": "unheard-of", "name": "x", "api_pattern": "x", "models": []}]'
    )
    snapshot = price_source.parse(listed, as_of=date(2026, 12, 1))
    assert snapshot.as_of == date(2026, 12, 1)
    (provider,) = snapshot.providers
    assert provider.models[1] == Model(
        id="m",
        match=AnyOf((Equals("m"), StartsWith("m-"))),
        context=9,
        rates=(
            DatedRates(
                input=123_456_790,
                output=2 * NANO,
                service_tiers={"flex": Rates(input=50_000_000, output=2 * NANO)},
            ),
        ),
    )


def names(provider: Provider) -> Iterator[str]:
    for model in provider.models:
        yield from (model.id.upper(), f"{model.id}-20260131")


def test_every_name_finds_the_model_that_its_source_finds() -> None:
    prices = PriceBook(packaged())
    origins = {provider.id: provider for provider in data.providers}
    by_id = {(provider.id, model.id): model for provider in packaged().providers
             for model in provider.models}  # fmt: skip
    compared = 0
    for provider in packaged().providers:
        for name in names(provider):
            origin = origins[provider.id].find_model(name, all_providers=data.providers)
            found = prices._find(provider.id, name)
            if origin is None:
                assert found is None or found is provider.models[0], (provider.id, name)
            elif found is not provider.models[0]:
                sellers = (provider.id, *provider.fallback)
                assert found in [by_id.get((each, origin.id)) for each in sellers], name
                compared += 1
    assert compared > 1500
