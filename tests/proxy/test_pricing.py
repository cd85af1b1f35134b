from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.pricing import (
    MAX_PRICE_USD,
    Price,
    Tier,
    Units,
    Usage,
    cost_nanousd,
    format_usd,
    hold_nanousd,
    parse_usd,
    plain_nanousd,
)

DOLLAR = 1_000_000_000

rates = st.integers(0, 10**15)
optional_rates = st.none() | rates
counts = st.integers(0, 10**9)
image_prices = st.dictionaries(
    st.sampled_from(["1024x1024", "high", "1024x1024/high", "1024x1024/low"]), rates, min_size=1
)

TIER_NAMES = ("flex", "priority", "batch", "ultrafast")
asked_tiers = st.none() | st.sampled_from(["auto", "default", "unheard-of", *TIER_NAMES])


@st.composite
def prices(draw: st.DrawFn, *, nested: bool = False) -> Price:
    thresholds = draw(st.lists(st.integers(0, 10**6), unique=True, max_size=3).map(sorted))
    return Price(
        input=draw(rates),
        output=draw(rates),
        cached_input=draw(optional_rates),
        cache_write=draw(optional_rates),
        cache_write_1h=draw(optional_rates),
        input_audio=draw(optional_rates),
        input_image=draw(optional_rates),
        reasoning=draw(optional_rates),
        output_audio=draw(optional_rates),
        image=draw(st.integers(0, 10**12)),
        per_request=draw(st.integers(0, 10**12)),
        output_image=draw(optional_rates),
        per_generated_image=draw(rates | image_prices),
        per_minute=draw(rates),
        characters=draw(rates),
        per_search=draw(rates),
        documents_per_search=draw(st.integers(1, 100)),
        document_tokens=draw(st.none() | st.integers(1, 1000)),
        tiers=tuple(
            Tier(
                above_input_tokens=threshold,
                input=draw(rates),
                output=draw(rates),
                cached_input=draw(optional_rates),
                cache_write=draw(optional_rates),
                cache_write_1h=draw(optional_rates),
            )
            for threshold in thresholds
        ),
        service_tiers={}
        if nested
        else draw(st.dictionaries(st.sampled_from(TIER_NAMES), prices(nested=True), max_size=2)),
        source="test",
    )


@st.composite
def units(draw: st.DrawFn) -> Units:
    return Units(
        generated_images=draw(st.integers(0, 10)),
        image_kind=draw(st.sampled_from(["", "1024x1024", "/high", "1024x1024/high", "8x8/best"])),
        audio_seconds=draw(st.integers(0, 10**6)),
        characters=draw(st.integers(0, 10**6)),
        document_bytes=tuple(draw(st.lists(st.integers(0, 10**5), max_size=300))),
    )


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Parts are drawn freely: they may overlap and, from a faulty provider, exceed their whole."""
    names = set(Usage.__struct_fields__) - {"units"}
    return Usage(**{name: draw(counts) for name in names}, units=draw(units()))


GPT_4O = Price(
    input=parse_usd(2.5), cached_input=parse_usd(1.25), output=parse_usd(10), source="test"
)
EMBEDDING = Price(input=parse_usd("0.02"), output=0, source="test")
GEMINI_25_PRO = Price(
    input=parse_usd("1.25"),
    output=parse_usd(10),
    cached_input=parse_usd("0.125"),
    tiers=(
        Tier(
            above_input_tokens=200_000,
            input=parse_usd("2.5"),
            output=parse_usd(15),
            cached_input=parse_usd("0.25"),
        ),
    ),
    source="test",
)
SONNET_45 = Price(
    input=parse_usd(3),
    cached_input=parse_usd("0.3"),
    cache_write=parse_usd("3.75"),
    cache_write_1h=parse_usd(6),
    output=parse_usd(15),
    source="test",
)
OPUS_47 = Price(
    input=parse_usd(5),
    cached_input=parse_usd("0.5"),
    cache_write=parse_usd("6.25"),
    cache_write_1h=parse_usd(10),
    output=parse_usd(25),
    source="test",
)


@pytest.mark.parametrize(
    ("price", "usage", "usd"),
    [
        (GPT_4O, Usage(input_tokens=1000, cached_tokens=400, output_tokens=100), "0.0030"),
        (EMBEDDING, Usage(input_tokens=1000, output_tokens=0), "0.00002"),
        (GEMINI_25_PRO, Usage(input_tokens=300_000, output_tokens=1000), "0.765"),
        (
            SONNET_45,
            Usage(
                input_tokens=140,
                cached_tokens=100,
                cache_write_tokens=30,
                cache_write_1h_tokens=20,
                output_tokens=7,
            ),
            "0.0003225",
        ),
        (
            OPUS_47,
            Usage(input_tokens=159_223, cache_write_tokens=159_217, output_tokens=2_745),
            "1.06376125",
        ),
        (
            OPUS_47,
            Usage(
                input_tokens=159_223,
                cache_write_tokens=159_217,
                cache_write_1h_tokens=159_217,
                output_tokens=2_745,
            ),
            "1.660825",
        ),
    ],
)
def test_known_bills_are_met_to_the_nanodollar(price: Price, usage: Usage, usd: str) -> None:
    assert cost_nanousd(price, usage) == Decimal(usd) * DOLLAR


@pytest.mark.parametrize(("tokens", "rate"), [(200_000, "1.25"), (200_001, "2.5")])
def test_crossing_a_tier_reprices_every_token(tokens: int, rate: str) -> None:
    usage = Usage(input_tokens=tokens, output_tokens=0)
    assert cost_nanousd(GEMINI_25_PRO, usage) == tokens * Decimal(rate) * 1000


def test_a_tier_without_its_own_cache_rate_charges_its_input_rate() -> None:
    price = Price(
        input=1 * DOLLAR,
        output=0,
        cached_input=DOLLAR // 10,
        tiers=(Tier(above_input_tokens=10, input=2 * DOLLAR, output=0),),
        source="test",
    )
    usage = Usage(input_tokens=11, cached_tokens=11, output_tokens=0)
    assert cost_nanousd(price, usage) == 11 * 2000


def test_a_part_without_a_rate_costs_what_its_whole_costs() -> None:
    price = Price(input=2 * DOLLAR, output=8 * DOLLAR, source="test")
    plain = Usage(input_tokens=90, output_tokens=70)
    parted = Usage(
        input_tokens=90,
        cached_tokens=10,
        cache_write_tokens=20,
        cache_write_1h_tokens=5,
        input_audio_tokens=30,
        output_tokens=70,
        reasoning_tokens=20,
        output_audio_tokens=30,
    )
    assert cost_nanousd(price, parted) == cost_nanousd(price, plain)


def test_each_part_is_charged_at_its_own_rate() -> None:
    price = Price(
        input=1 * DOLLAR,
        cached_input=2 * DOLLAR,
        cache_write=3 * DOLLAR,
        cache_write_1h=5 * DOLLAR,
        input_audio=7 * DOLLAR,
        output=11 * DOLLAR,
        reasoning=13 * DOLLAR,
        output_audio=17 * DOLLAR,
        per_request=19,
        source="test",
    )
    usage = Usage(
        input_tokens=10_000 + 1000 + 110 + 1,
        cached_tokens=1000,
        cache_write_tokens=110,
        cache_write_1h_tokens=10,
        input_audio_tokens=1,
        output_tokens=100 + 10 + 1,
        reasoning_tokens=10,
        output_audio_tokens=1,
    )
    inputs = 10_000 * 1 + 1000 * 2 + 100 * 3 + 10 * 5 + 1 * 7
    outputs = 100 * 11 + 10 * 13 + 1 * 17
    assert cost_nanousd(price, usage) == (inputs + outputs) * 1000 + 19


def test_cached_audio_is_charged_once_and_as_audio() -> None:
    price = Price(input=1 * DOLLAR, cached_input=0, input_audio=9 * DOLLAR, output=0, source="test")
    usage = Usage(input_tokens=5, cached_tokens=5, input_audio_tokens=5, output_tokens=0)
    assert cost_nanousd(price, usage) == 5 * 9000


def test_amounts_are_rounded_up_once() -> None:
    price = Price(input=1, output=1, per_request=5, source="test")
    assert cost_nanousd(price, Usage(input_tokens=1, output_tokens=1)) == 1 + 5
    assert cost_nanousd(price, Usage(input_tokens=999_999, output_tokens=1)) == 1 + 5
    assert cost_nanousd(price, Usage(input_tokens=999_999, output_tokens=2)) == 2 + 5
    assert cost_nanousd(price, Usage(input_tokens=0, output_tokens=0)) == 5


def test_amounts_beyond_what_a_float_holds_are_exact() -> None:
    price = Price(input=3 * 10**15 + 1, output=0, source="test")
    usage = Usage(input_tokens=10**18, output_tokens=0)
    assert cost_nanousd(price, usage) == (3 * 10**15 + 1) * 10**12


@given(prices(), usages(), counts, st.integers(1, 128), asked_tiers, st.data())
def test_a_hold_covers_every_usage_within_its_bounds(
    price: Price, usage: Usage, unused: int, n: int, asked: str | None, data: st.DataObject
) -> None:
    hold = hold_nanousd(
        price,
        input_bound_tokens=usage.input_tokens + unused,
        max_output_tokens=-(-usage.output_tokens // n),
        n=n,
        images=usage.images,
        units=usage.units,
        service_tier=asked,
    )
    leaves_it_open = asked in (None, "auto")
    answered = [None, "default", *(set(TIER_NAMES) - {"batch"} if leaves_it_open else {asked})]
    served = data.draw(st.sampled_from(sorted(answered, key=str)))
    assert 0 <= cost_nanousd(price, usage, service_tier=served) <= hold


@given(prices(nested=True), counts, counts)
def test_plain_tokens_cost_what_a_usage_without_parts_costs(
    price: Price, input_tokens: int, output_tokens: int
) -> None:
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    assert plain_nanousd(price, input_tokens, output_tokens) == cost_nanousd(price, usage)


@given(prices(nested=True), counts, counts)
def test_a_hold_is_never_above_the_dearest_rates(price: Price, bound: int, maximum: int) -> None:
    most = bound * price.dearest_input + maximum * price.dearest_output
    hold = hold_nanousd(price, input_bound_tokens=bound, max_output_tokens=maximum)
    assert hold <= -(-most // 1_000_000) + price.per_request


NO_TOKENS = Price(input=0, output=0, source="test")
IMAGES = {"1024x1024/high": 300, "1024x1024": 200, "low": 100, "4096x4096/high": 900}


@pytest.mark.parametrize(
    ("kind", "price"),
    [
        ("1024x1024/high", 300),
        ("1024x1024/medium", 200),
        ("1024x1024", 200),
        ("512x512/low", 100),
        ("/low", 100),
        ("8x8/best", 900),
        ("", 900),
    ],
)
def test_an_image_costs_what_its_size_and_quality_say_or_the_dearest(kind: str, price: int) -> None:
    charging = dataclasses.replace(NO_TOKENS, per_generated_image=IMAGES)
    made = Units(generated_images=2, image_kind=kind)
    assert cost_nanousd(charging, Usage(input_tokens=0, output_tokens=0, units=made)) == 2 * price
    assert hold_nanousd(charging, input_bound_tokens=0, max_output_tokens=0, units=made) == 2 * 900


@pytest.mark.parametrize(
    ("prices", "units", "cost"),
    [
        ({"per_minute": 6_000_000}, Units(audio_seconds=90), 9_000_000),
        ({"per_minute": 100}, Units(audio_seconds=1), 2),
        ({"characters": 15 * DOLLAR}, Units(characters=1000), 15_000_000),
        ({"characters": 1}, Units(characters=1), 1),
        ({"per_search": 7}, Units(document_bytes=(1,)), 7),
        ({"per_search": 7}, Units(document_bytes=(5000,) * 100), 7),
        ({"per_search": 7}, Units(document_bytes=(1,) * 101), 14),
        ({"per_search": 7, "documents_per_search": 10}, Units(document_bytes=(1,) * 11), 14),
        ({"per_search": 7, "document_tokens": 500}, Units(document_bytes=(501,) * 51), 14),
        ({"per_search": 7}, Units(document_bytes=(1,), searches=3), 21),
    ],
)
def test_what_is_billed_by_the_piece(prices: dict[str, int], units: Units, cost: int) -> None:
    price = dataclasses.replace(NO_TOKENS, **prices)
    usage = Usage(input_tokens=0, output_tokens=0, units=units)
    assert cost_nanousd(price, usage) == cost
    assert cost_nanousd(NO_TOKENS, usage) == 0
    assert price.charges_units and not price.charges_tokens and not price.is_free


@pytest.mark.parametrize(
    ("prices", "fee"),
    [
        ({"per_request": 5}, 5),
        ({"per_minute": 5}, 5),
        ({"per_search": 5}, 5),
        ({"per_generated_image": {"low": 5, "high": 9}}, 9),
        ({"characters": 5_000}, 5),
    ],
)
def test_the_fee_is_for_comparisons(prices: dict[str, Any], fee: int) -> None:
    assert dataclasses.replace(NO_TOKENS, **prices).fee == fee


def test_images_have_a_rate_of_their_own_among_the_output() -> None:
    price = dataclasses.replace(GPT_4O, output_image=parse_usd(40))
    usage = Usage(input_tokens=0, output_tokens=30, output_image_tokens=20)
    assert cost_nanousd(price, usage) == 20 * 40_000 + 10 * 10_000
    assert price.dearest_output == parse_usd(40)


@pytest.mark.parametrize(
    "wrong", [{"per_generated_image": {}}, {"documents_per_search": 0}, {"document_tokens": 0}]
)
def test_a_price_of_nothing_countable_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"search|image"):
        dataclasses.replace(NO_TOKENS, **wrong)


def _flat(rate: int, **fields: Any) -> Price:
    return Price(input=rate, output=rate, source="test", **fields)


TIERED = _flat(
    10 * DOLLAR,
    service_tiers={
        "flex": _flat(5 * DOLLAR),
        "priority": _flat(20 * DOLLAR),
        "batch": _flat(90 * DOLLAR),
    },
)


@pytest.mark.parametrize(
    ("asked", "rate"),
    [
        (None, 20),  # the account's own choice
        ("auto", 20),
        ("default", 10),
        ("standard_only", 10),
        ("flex", 10),  # not guaranteed
        ("priority", 20),
        ("batch", 90),
        ("unheard-of", 10),
    ],
)
def test_a_hold_covers_the_tiers_that_a_request_can_reach(asked: str | None, rate: int) -> None:
    hold = hold_nanousd(TIERED, input_bound_tokens=1, max_output_tokens=0, service_tier=asked)
    assert hold == rate * 1000


@pytest.mark.parametrize(
    ("served", "rate"),
    [(None, 10), ("auto", 10), ("default", 10), ("flex", 5), ("priority", 20), ("scale", 10)],
)
def test_a_cost_is_taken_at_the_tier_that_served(served: str | None, rate: int) -> None:
    usage = Usage(input_tokens=1, output_tokens=1)
    assert cost_nanousd(TIERED, usage, service_tier=served) == 2 * rate * 1000


@pytest.mark.parametrize(
    ("asked", "known", "unknown"),
    [
        (None, True, True),
        ("auto", True, True),
        ("default", True, True),
        ("on_demand", True, True),
        ("flex", True, True),  # a discount wherever it is sold
        ("priority", True, False),
        ("scale", False, False),
    ],
)
def test_only_a_tier_of_known_price_has_a_bound(
    asked: str | None, known: bool, unknown: bool
) -> None:
    assert TIERED.bounds(asked) is known
    assert _flat(1).bounds(asked) is unknown


def test_images_are_charged_by_the_piece_or_by_their_tokens() -> None:
    price = _flat(1 * DOLLAR, image=7, input_image=3 * DOLLAR, cached_input=0)
    usage = Usage(
        input_tokens=10, input_image_tokens=4, cached_tokens=10, output_tokens=0, images=2
    )
    assert cost_nanousd(price, usage) == 4 * 3000 + 2 * 7
    hold = hold_nanousd(price, input_bound_tokens=10, max_output_tokens=0, images=2)
    assert hold == 10 * 3000 + 2 * 7


@pytest.mark.parametrize(
    ("price", "is_free"),
    [
        (Price.free("test"), True),
        (_flat(0, service_tiers={"priority": _flat(0)}), True),
        (_flat(0, service_tiers={"priority": _flat(1)}), False),
        (_flat(0, image=1), False),
        (_flat(0, per_request=1), False),
        (_flat(0, reasoning=1), False),
    ],
)
def test_free_is_what_never_charges(price: Price, is_free: bool) -> None:
    assert price.is_free is is_free


@pytest.mark.parametrize("tiers", [{"default": _flat(1)}, {"auto": _flat(1)}, {"flex": TIERED}])
def test_service_tiers_that_mean_nothing_are_refused(tiers: dict[str, Price]) -> None:
    with pytest.raises(ValueError, match="service tier"):
        _flat(1, service_tiers=tiers)


def test_a_hold_ignores_tiers_out_of_the_prompts_reach() -> None:
    reachable = {"max_output_tokens": 1000, "n": 2}
    below = hold_nanousd(GEMINI_25_PRO, input_bound_tokens=200_000, **reachable)
    above = hold_nanousd(GEMINI_25_PRO, input_bound_tokens=200_001, **reachable)
    assert below == (200_000 * 1.25 + 2000 * 10) * 1000
    assert above == (200_001 * 2.5 + 2000 * 15) * 1000


def test_a_hold_covers_a_prompt_that_stays_below_a_cheaper_tier() -> None:
    price = Price(
        input=9 * DOLLAR,
        output=0,
        tiers=(Tier(above_input_tokens=100, input=1 * DOLLAR, output=0),),
        source="test",
    )
    usage = Usage(input_tokens=100, output_tokens=0)
    hold = hold_nanousd(price, input_bound_tokens=101, max_output_tokens=0)
    assert hold >= cost_nanousd(price, usage)


def test_the_dearest_rates_look_at_parts_and_tiers() -> None:
    assert SONNET_45.dearest_input == parse_usd(6)
    assert GEMINI_25_PRO.dearest_input == parse_usd("2.5")
    assert GEMINI_25_PRO.dearest_output == parse_usd(15)
    spoken = dataclasses.replace(GPT_4O, input_audio=parse_usd(40), output_audio=parse_usd(80))
    assert (spoken.dearest_input, spoken.dearest_output) == (parse_usd(40), parse_usd(80))


@given(prices(), usages(), st.sampled_from(["input_tokens", "output_tokens"]), counts)
def test_more_tokens_never_cost_less(price: Price, usage: Usage, total: str, more: int) -> None:
    untiered = dataclasses.replace(price, tiers=())
    longer = msgspec.structs.replace(usage, **{total: getattr(usage, total) + more})
    assert cost_nanousd(untiered, longer) >= cost_nanousd(untiered, usage)


@given(usages())
def test_a_free_target_costs_nothing(usage: Usage) -> None:
    free = Price.free("router.yaml")
    assert cost_nanousd(free, usage) == 0
    assert hold_nanousd(free, input_bound_tokens=10**9, max_output_tokens=10**9, n=128) == 0
    assert free.source == "router.yaml"


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": -1},
        {"output": -1},
        {"cached_input": -1},
        {"cache_write": -1},
        {"cache_write_1h": -1},
        {"input_audio": -1},
        {"reasoning": -1},
        {"output_audio": -1},
        {"output_image": -1},
        {"per_request": -1},
        {"per_generated_image": -1},
        {"per_generated_image": {"high": 1, "low": -1}},
        {"per_minute": -1},
        {"characters": -1},
        {"per_search": -1},
        {"tiers": (Tier(above_input_tokens=1, input=0, output=-1),)},
    ],
)
def test_a_negative_price_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="negative"):
        dataclasses.replace(GPT_4O, **wrong)


@pytest.mark.parametrize("thresholds", [(-1,), (5, 5), (6, 5)])
def test_tiers_out_of_order_are_refused(thresholds: tuple[int, ...]) -> None:
    tiers = tuple(Tier(above_input_tokens=each, input=1, output=1) for each in thresholds)
    with pytest.raises(ValueError, match="order"):
        Price(input=1, output=1, tiers=tiers, source="test")


@pytest.mark.parametrize(
    ("written", "nanousd"),
    [
        (0, 0),
        (3, 3_000_000_000),
        (0.15, 150_000_000),
        (1e-9, 1),
        ("0.15", 150_000_000),
        (" 2.50 ", 2_500_000_000),
        ("1e-3", 1_000_000),
        (MAX_PRICE_USD, MAX_PRICE_USD * DOLLAR),
        ("0.0833333333333333", 83_333_334),
        ("0.0000000001", 1),
        ("1e-999999", 1),
        ("1." + "0" * 60 + "1", 1_000_000_001),
    ],
)
def test_an_operators_price_is_read_as_written_and_rounded_up(
    written: float | str, nanousd: int
) -> None:
    assert parse_usd(written) == nanousd


@given(st.decimals(0, MAX_PRICE_USD, allow_nan=False, places=9))
def test_nine_decimals_are_exact(usd: Decimal) -> None:
    assert parse_usd(str(usd)) == usd * DOLLAR


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        (-1, "between 0 and"),
        ("-0.000001", "between 0 and"),
        (MAX_PRICE_USD + 1, "between 0 and"),
        ("1e999999", "between 0 and"),
        (float("nan"), "finite"),
        ("sNaN", "finite"),
        (float("inf"), "finite"),
        ("-Infinity", "finite"),
        ("cheap", "number of USD"),
        ("", "number of USD"),
        ("$3", "number of USD"),
        (True, "number of USD"),
    ],
)
def test_what_is_no_price_is_refused_with_its_value(written: float | str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as refusal:
        parse_usd(written)
    assert repr(written) in str(refusal.value)


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "$0.00"),
        (25_000, "$0.000025"),
        (1, "$0.000000001"),
        (10**10, "$10.00"),
        (1_234_567_890_000_000, "$1,234,567.89"),
        (-1_500_000_000, "-$1.50"),
    ],
)
def test_amounts_are_shown_exactly(amount: int, shown: str) -> None:
    assert format_usd(amount) == shown
