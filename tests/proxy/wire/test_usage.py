"""Token counts: every provider's way to report them, and what is no count."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.pricing import Usage
from proxy.wire.usage import (
    ReportedCost,
    completed,
    estimated,
    reported,
    reported_cost,
    service_tier,
)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
            Usage(input_tokens=3, output_tokens=2),
        ),
        # an embeddings answer
        ({"prompt_tokens": 3, "total_tokens": 3}, Usage(input_tokens=3, output_tokens=0)),
        ({"prompt_tokens": 3, "completion_tokens": 0}, Usage(input_tokens=3, output_tokens=0)),
        (
            {
                "prompt_tokens": 140,
                "completion_tokens": 7,
                "total_tokens": 147,
                "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 30},
                "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": None},
            },
            Usage(
                input_tokens=140,
                cached_tokens=100,
                cache_write_tokens=30,
                output_tokens=7,
                reasoning_tokens=4,
            ),
        ),
        # xAI and Gemini leave the reasoning out of completion_tokens, and bill it
        (
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            Usage(input_tokens=32, output_tokens=103, reasoning_tokens=94),
        ),
        # DeepSeek, Moonshot
        (
            {"prompt_tokens": 10, "completion_tokens": 1, "prompt_cache_hit_tokens": 8},
            Usage(input_tokens=10, output_tokens=1, cached_tokens=8),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 1, "cached_tokens": 8},
            Usage(input_tokens=10, output_tokens=1, cached_tokens=8),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_tokens_details": {"audio_tokens": 4},
                "completion_tokens_details": {"audio_tokens": 3},
            },
            Usage(input_tokens=10, output_tokens=5, input_audio_tokens=4, output_audio_tokens=3),
        ),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cache_write_tokens": 60, "image_tokens": 30},
                "cache_creation": {"ephemeral_1h_input_tokens": 90},
            },
            Usage(
                input_tokens=100,
                output_tokens=5,
                cache_write_tokens=60,
                cache_write_1h_tokens=60,
                input_image_tokens=30,
            ),
        ),
        # parts are never more than their whole, and details that are none do not cost the totals
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 99, "cache_write_tokens": 99},
                "completion_tokens_details": {"reasoning_tokens": 99},
            },
            Usage(input_tokens=10, output_tokens=5, cached_tokens=10, reasoning_tokens=5),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": "15",
                "prompt_tokens_details": [],
                "completion_tokens_details": {"reasoning_tokens": -1},
            },
            Usage(input_tokens=10, output_tokens=5),
        ),
    ],
)
def test_reported_usage(said: dict[str, Any], expected: Usage) -> None:
    assert reported(said) == expected


_BELOW_1000 = st.integers(0, 1000)
_PARTS = st.dictionaries(
    st.sampled_from(["cached_tokens", "cache_write_tokens", "reasoning_tokens", "audio_tokens"]),
    _BELOW_1000 | st.none(),
)


@given(
    st.fixed_dictionaries(
        {"prompt_tokens": _BELOW_1000, "completion_tokens": _BELOW_1000},
        optional={
            "total_tokens": _BELOW_1000 | st.none(),
            "cached_tokens": _BELOW_1000,
            "prompt_cache_hit_tokens": _BELOW_1000,
            "prompt_tokens_details": _PARTS,
            "completion_tokens_details": _PARTS,
        },
    )
)
def test_one_count_that_is_none_costs_no_other(said: dict[str, Any]) -> None:
    nonsense = {"cache_creation": {"ephemeral_1h_input_tokens": "many"}}
    assert reported({**said, **nonsense}) == reported(said)


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        "usage",
        {},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"prompt_tokens": 0, "completion_tokens": 5},
        {"prompt_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": None},
        {"prompt_tokens": -1, "completion_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": -1},
        {"prompt_tokens": 5.5, "completion_tokens": 1},
        {"prompt_tokens": "5", "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": True},
        {"prompt_tokens": 10**11, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": 2**63},
    ],
)
def test_what_cannot_be_true_is_no_usage(said: object) -> None:
    assert reported(said) is None


_counts = st.integers(-5, 10**12) | st.none() | st.booleans() | st.floats() | st.text(max_size=3)
_details = st.dictionaries(
    st.sampled_from(
        [
            "cached_tokens",
            "cache_write_tokens",
            "audio_tokens",
            "image_tokens",
            "reasoning_tokens",
            "ephemeral_1h_input_tokens",
        ]
    ),
    _counts,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens": _counts,
            "completion_tokens": _counts,
            "total_tokens": _counts,
            "cached_tokens": _counts,
            "prompt_tokens_details": _details | _counts,
            "cache_creation": _details | _counts,
            "completion_tokens_details": _details | _counts,
        },
    )
)
def test_whatever_is_reported_parts_stay_within_their_whole(said: dict[str, Any]) -> None:
    usage = reported(said)
    if usage is None:
        return
    assert usage.input_tokens == said["prompt_tokens"] > 0
    assert usage.output_tokens >= (said.get("completion_tokens") or 0)
    assert 0 <= usage.cached_tokens + usage.cache_write_tokens <= usage.input_tokens
    assert 0 <= usage.cache_write_1h_tokens <= usage.cache_write_tokens
    assert 0 <= usage.input_audio_tokens <= usage.input_tokens
    assert 0 <= usage.input_image_tokens <= usage.input_tokens
    assert 0 <= usage.reasoning_tokens <= usage.output_tokens
    assert 0 <= usage.output_audio_tokens <= usage.output_tokens


@pytest.mark.parametrize(
    ("input_tokens", "output_bytes", "expected"),
    [(0, 0, (1, 0)), (10, 1, (10, 1)), (10, 4, (10, 1)), (10, 5, (10, 2))],
)
def test_an_estimate_is_never_nothing(
    input_tokens: int, output_bytes: int, expected: tuple[int, int]
) -> None:
    usage = estimated(input_tokens, output_bytes)
    assert (usage.input_tokens, usage.output_tokens) == expected


def told(cost: str, rest: str = "") -> ReportedCost | None:
    return reported_cost(f'{{"id": "x", "usage": {{"cost": {cost}{rest}}}}}'.encode())


@pytest.mark.parametrize(
    ("cost", "nanousd"),
    [
        ("0", 0),
        ("0.0042", 4_200_000),
        ("0.00000285", 2_850),
        ("1e-9", 1),
        ("1.1e-9", 2),  # rounded up
        ("0.1", 100_000_000),  # which as a float is a little more
        ("0.30000000000000000000000000001", 300_000_001),
        ("10000", 10_000 * 10**9),
        ("1e-999999999", 1),
    ],
)
def test_a_reported_cost_is_read_to_the_last_digit(cost: str, nanousd: int) -> None:
    assert told(cost) == ReportedCost(nanousd=nanousd)


@pytest.mark.parametrize("cost", ["-0.01", "10000.01", "1e999999", '"NaN"', '"x"', "true", "[]"])
def test_a_cost_that_cannot_be_true_is_not_believed(cost: str) -> None:
    believed = told(cost)
    assert believed is not None
    assert believed.nanousd is None
    assert believed.problem


@pytest.mark.parametrize("body", [b'{"id": "x"}', b'{"usage": null}', b'{"usage": {"cost": null}}'])
def test_no_cost_is_no_report(body: bytes) -> None:
    assert reported_cost(body) is None


@pytest.mark.parametrize(
    ("cost", "is_byok", "upstream", "nanousd"),
    [
        # Both as observed: a part of the charge, and a charge of its own.
        ("0.00000285", "false", "0.00000285", 2_850),
        ("0", "true", "0.00000285", 2_850),
        ("0.95", "null", "19", 19_950_000_000),  # the example of the documentation
        ("0.5", "null", "0.4", 500_000_000),
        ("0.5", "false", "0.6", 500_000_000),  # a discount of the reseller
        ("0.05", "true", "1", 1_050_000_000),
        ("0.05", "true", "null", None),
        ("0.05", "true", "-1", None),
    ],
)
def test_on_an_account_of_ones_own_the_providers_charge_comes_on_top(
    cost: str, is_byok: str, upstream: str, nanousd: int | None
) -> None:
    rest = f', "is_byok": {is_byok}, "cost_details": {{"upstream_inference_cost": {upstream}}}'
    believed = told(cost, rest)
    assert believed is not None
    assert believed.nanousd == nanousd


@given(st.decimals(0, 10_000, places=12))
def test_a_reported_cost_is_never_rounded_down(cost: Decimal) -> None:
    believed = told(str(cost))
    assert believed is not None
    assert believed.nanousd is not None
    assert 0 <= believed.nanousd - cost * 10**9 < 1


@pytest.mark.parametrize(
    ("answer", "usage", "tier"),
    [
        ("priority", {}, "priority"),
        (None, {"service_tier": "standard"}, "standard"),
        ("flex", {"service_tier": "standard"}, "flex"),
        (None, {}, None),
        ("", None, None),
        (5, {"service_tier": 5}, None),
    ],
)
def test_the_tier_that_an_answer_names(answer: object, usage: object, tier: str | None) -> None:
    assert service_tier(answer, usage) == tier


def test_images_of_an_answer_are_told_apart_from_its_text() -> None:
    said = {
        "prompt_tokens": 5,
        "completion_tokens": 1300,
        "completion_tokens_details": {"image_tokens": 1290},
    }
    found = reported(said)
    assert found is not None
    assert found.output_image_tokens == 1290


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 2}, (3, 2, 5)),
        ({"prompt_tokens": 3, "completion_tokens": None, "total_tokens": 5}, (3, 2, 5)),
        ({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": "5"}, (3, 2, 5)),
        ({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 9}, (3, 2, 9)),
    ],
)
def test_a_usage_object_has_the_counts_that_clients_add_up(
    said: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    whole = completed({**said, "x": 1})
    assert (whole["prompt_tokens"], whole["completion_tokens"], whole["total_tokens"]) == expected
    assert whole["x"] == 1


@pytest.mark.parametrize("said", [{}, {"total_tokens": 5}, {"prompt_tokens": -1}])
def test_a_usage_object_that_says_nothing_stays(said: dict[str, Any]) -> None:
    assert completed(said) is said
