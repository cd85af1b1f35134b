"""Invoices are read exactly, in every shape that providers give them out in."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.invoices import FORMATS, Format, InvoiceError, parse
from proxy.ledger.protocol import InvoiceLine

AUGUST_1 = int(datetime(2026, 8, 1, tzinfo=UTC).timestamp())

OPENAI_COSTS = """{
  "object": "page",
  "data": [
    {"object": "bucket", "start_time": 1785542400, "end_time": 1785628800, "results": [
      {"object": "organization.costs.result", "amount": {"value": 0.1, "currency": "usd"},
       "line_item": "gpt-4o-mini-2024-07-18, input", "project_id": "proj_1"},
      {"object": "organization.costs.result", "amount": {"value": 0.2, "currency": "usd"},
       "line_item": "gpt-4o-mini-2024-07-18, output", "project_id": "proj_1"},
      {"object": "organization.costs.result",
       "amount": {"value": "0.8958740000000000", "currency": "usd"},
       "line_item": "gpt-4o-2024-08-06, input", "project_id": null}
    ]},
    {"object": "bucket", "start_time": 1785628800, "end_time": 1785715200, "results": []}
  ],
  "has_more": false, "next_page": null
}"""
OPENAI_USAGE = """{
  "object": "page",
  "data": [{"object": "bucket", "start_time": 1785542400, "end_time": 1785628800, "results": [
    {"object": "organization.usage.completions.result", "input_tokens": 1000,
     "output_tokens": 500, "input_cached_tokens": 800, "num_model_requests": 5,
     "model": "gpt-4o-mini-2024-07-18", "project_id": null}
  ]}],
  "has_more": true, "next_page": "page_2"
}"""
ANTHROPIC_COSTS = """{
  "data": [{"starting_at": "2026-08-01T00:00:00Z", "ending_at": "2026-08-02T00:00:00Z",
    "results": [
      {"amount": "123.78912", "currency": "USD", "cost_type": "tokens",
       "context_window": "0-200k", "model": "claude-opus-4-20250514", "service_tier": "standard",
       "token_type": "uncached_input_tokens", "workspace_id": null,
       "description": "Claude Opus 4 Usage - Input Tokens"},
      {"amount": "1", "currency": "USD", "cost_type": "web_search", "context_window": null,
       "model": null, "service_tier": null, "token_type": null, "workspace_id": null,
       "description": "Web Search Usage"}
    ]}],
  "has_more": false, "next_page": null
}"""
ANTHROPIC_USAGE = """{
  "data": [{"starting_at": "2026-08-01T00:00:00Z", "ending_at": "2026-08-02T00:00:00Z",
    "results": [
      {"uncached_input_tokens": 1500, "cache_read_input_tokens": 200, "output_tokens": 500,
       "cache_creation": {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 500},
       "server_tool_use": {"web_search_requests": 10}, "model": "claude-opus-4-20250514"}
    ]}],
  "has_more": false, "next_page": null
}"""
OPENROUTER_JSON = """{"data": [
  {"date": "2026-08-01 00:00:00", "model": "openai/gpt-4.1",
   "model_permaslug": "openai/gpt-4.1-2025-04-14", "endpoint_id": "e", "provider_name": "OpenAI",
   "usage": 0.015, "byok_usage_inference": 0.012, "requests": 5, "prompt_tokens": 50,
   "completion_tokens": 125, "reasoning_tokens": 25},
  {"date": "2026-08-01", "model": "openai/gpt-4.1", "usage": 1e-7, "requests": 1,
   "prompt_tokens": 1, "completion_tokens": 1, "reasoning_tokens": 0}
]}"""
OPENROUTER_CSV = """date,model,model_permaslug,usage,byok_usage_inference,requests,\
prompt_tokens,completion_tokens,reasoning_tokens
2026-08-01,openai/gpt-4.1,openai/gpt-4.1-2025-04-14,0.0150001,0.012,6,51,126,25
"""
OPENAI_CSV = """start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,\
line_item,project_id
1785542400,1785628800,2026-08-01T00:00:00+00:00,2026-08-02T00:00:00+00:00,0.2500000000,usd,,
1785628800,1785715200,2026-08-02T00:00:00+00:00,2026-08-03T00:00:00+00:00,,,,
"""


@pytest.mark.parametrize(
    ("form", "texts", "lines"),
    [
        (
            "openai",
            [OPENAI_COSTS, OPENAI_USAGE],
            [
                InvoiceLine("2026-08-01", "gpt-4o-2024-08-06", 895_874_000),
                InvoiceLine("2026-08-01", "gpt-4o-mini-2024-07-18", 300_000_000, 1000, 500, 5),
            ],
        ),
        (
            "anthropic",
            [ANTHROPIC_COSTS, ANTHROPIC_USAGE],
            [
                InvoiceLine("2026-08-01", "Web Search Usage", 10_000_000),
                InvoiceLine("2026-08-01", "claude-opus-4-20250514", 1_237_891_200, 3200, 500),
            ],
        ),
        (
            "openrouter",
            [OPENROUTER_JSON],
            [InvoiceLine("2026-08-01", "openai/gpt-4.1", 15_000_100, 51, 126, 6)],
        ),
        (
            "openrouter",
            [OPENROUTER_CSV],
            [InvoiceLine("2026-08-01", "openai/gpt-4.1", 15_000_100, 51, 126, 6)],
        ),
        ("openai", [OPENAI_CSV], [InvoiceLine("2026-08-01", "", 250_000_000)]),
    ],
)
def test_providers_own_shapes(form: Format, texts: list[str], lines: list[InvoiceLine]) -> None:
    for asked in (form, "auto"):
        assert list(parse(texts, asked).lines) == lines  # type: ignore[arg-type]


def test_a_page_that_has_more_says_so() -> None:
    assert parse([OPENAI_COSTS, OPENAI_USAGE]).has_more
    assert not parse([OPENAI_USAGE, OPENAI_COSTS]).has_more


def test_several_pages_in_one_file() -> None:
    (line, _) = parse([f"[{OPENAI_COSTS}, {OPENAI_COSTS}]"]).lines
    assert line.cost_nanousd == 2 * 895_874_000


@pytest.mark.parametrize("moment", ["2026-08-01", "2026-08-01T23:30:00-00:30", str(AUGUST_1)])
def test_days_are_utc(moment: str) -> None:
    (line,) = parse([f"day,model,cost_usd\n{moment},m,1\n"], "csv").lines
    assert line.day in ("2026-08-01", "2026-08-02")
    assert (line.day == "2026-08-02") == ("T" in moment)


@pytest.mark.parametrize(
    ("text", "form", "message"),
    [
        ("", "auto", "is empty"),
        (" \n", "csv", "is empty"),
        ("{", "openai", "is not valid JSON"),
        ("[]", "auto", "neither an object nor a list of objects"),
        ("7", "auto", "neither an object nor a list of objects"),
        ("{}", "anthropic", "has no `data`"),
        ('{"data": [3]}', "openai", r"data[0]: is not an object"),
        ('{"data": [{"results": []}]}', "openai", "neither `start_time` nor `starting_at`"),
        ('{"data": [{"results": [], "start_time": 1}]}', "anthropic", "is not of anthropic"),
        ('{"data": [{"results": [], "start_time": "x"}]}', "openai", "'x' is no day"),
        (OPENAI_COSTS.replace("usd", "eur"), "auto", "only USD can be compared"),
        (OPENAI_COSTS.replace("0.1,", "NaN,"), "auto", "'NaN' is no amount"),
        (OPENAI_COSTS.replace("0.1,", "true,"), "auto", "'True' is no amount"),
        (OPENAI_COSTS.replace("0.1,", "1e9999999999,"), "auto", "no amount"),
        (OPENAI_COSTS.replace("0.1,", "-5,"), "auto", "credits exceed the cost"),
        (OPENAI_COSTS.replace("0.1,", "1e12,"), "auto", "above any that can be"),
        (OPENAI_USAGE, "auto", "tells tokens but no cost"),
        ("day,model\n", "csv", "line 1: there is no column 'cost_usd'"),
        ("model,cost_usd\n", "csv", "line 1: there is no column 'day'"),
        ("day,model,cost_usd\n2026-08-01,m\n", "csv", "line 2: has not as many fields"),
        ("day,model,cost_usd\n2026-08-01,m,1,2\n", "csv", "line 2: has not as many fields"),
        ("day,model,cost_usd\n2026-02-30,m,1\n", "csv", "line 2: '2026-02-30' is no day"),
        ("day,model,cost_usd\n2026-08-01,m,1 USD\n", "csv", "line 2: '1 USD' is no amount"),
        ("day,model,cost_usd\n2026-08-01,m,\n", "csv", "line 2: has no 'cost_usd'"),
        ("day,model,cost_usd\n2026-08-01,m,0.1" + "1" * 99, "csv", "more than 40 digits"),
        ("day,model,cost_usd,requests\n2026-08-01,m,1,x", "csv", "line 2: 'x' is no count"),
        ('{"day": "2026-08-01", "cost_usd": 1}\n[]', "jsonl", "line 2: is not an object"),
        ('{"day": "2026-08-01", "cost_usd": 1}\n{', "jsonl", "line 2: is not valid JSON"),
        ('{"day": "2026-08-01", "cost_usd": 1, "model": 7}', "jsonl", "'7' is no name"),
        ('{"day": "2026-08-01", "cost_usd": 1, "requests": -1}', "jsonl", "'-1' is no count"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, form: Format, message: str) -> None:
    with pytest.raises(InvoiceError) as caught:
        parse([text], form)
    assert message in str(caught.value)


DAYS = st.dates(date(2024, 1, 1), date(2030, 1, 1)).map(date.isoformat)
MODELS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=20)
AMOUNTS = st.integers(0, 10**15)
COUNTS = st.integers(0, 10**15)
LINES = st.lists(
    st.builds(InvoiceLine, DAYS, MODELS, AMOUNTS, COUNTS, COUNTS, COUNTS),
    min_size=1,
    max_size=20,
    unique_by=lambda line: (line.day, line.model),
)


def written(line: InvoiceLine) -> dict[str, Any]:
    return {
        "day": line.day,
        "model": line.model,
        "cost_usd": str(Decimal(line.cost_nanousd).scaleb(-9)),
        "input_tokens": line.input_tokens,
        "output_tokens": line.output_tokens,
        "requests": line.requests,
    }


@given(LINES)
def test_what_is_written_is_read(lines: list[InvoiceLine]) -> None:
    expected = sorted(lines, key=lambda line: (line.day, line.model))
    output = io.StringIO(newline="")
    writer = csv.DictWriter(output, list(written(lines[0])))
    writer.writeheader()
    writer.writerows(map(written, lines))
    objects = "\n".join(json.dumps(written(line)) for line in lines)
    for text, form in ((output.getvalue(), "csv"), (objects, "jsonl")):
        assert list(parse([text], form).lines) == expected  # type: ignore[arg-type]
        assert list(parse(["\ufeff" + text]).lines) == expected


@given(st.lists(st.decimals(0, 100, places=17), min_size=1, max_size=30))
def test_amounts_are_added_before_they_are_rounded(amounts: list[Decimal]) -> None:
    results = [
        {"amount": {"value": "@", "currency": "usd"}, "line_item": f"m, part {number}"}
        for number in range(len(amounts))
    ]
    page = json.dumps({"data": [{"start_time": AUGUST_1, "results": results}]})
    for amount in amounts:
        page = page.replace('"@"', format(amount, "f"), 1)
    (line,) = parse([page]).lines
    exact = sum(int(amount.scaleb(17)) for amount in amounts)
    assert abs(line.cost_nanousd * 10**8 - exact) <= 10**8 // 2


@given(st.text(max_size=300), st.sampled_from(FORMATS))
def test_any_text_is_read_or_refused(text: str, form: Format) -> None:
    try:
        parse([text], form)
    except InvoiceError as error:
        assert "\n" not in str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["data", "results", "start_time", "starting_at", "amount", "value", "day"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from(FORMATS))
def test_any_json_is_read_or_refused(value: Any, form: Format) -> None:
    try:
        parse([json.dumps(value)], form)
    except InvoiceError as error:
        assert "\n" not in str(error)
