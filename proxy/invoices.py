"""A provider's own account of what it charged, read from the files it gives out. Pure.

Shapes, all with amounts as exact decimals, summed up by day (UTC) and model before they are
rounded to nano-USD:

- OpenAI: pages of `GET /v1/organization/costs` (best with `group_by=line_item`) and of
  `GET /v1/organization/usage/…` (with `group_by=model`), or the dashboard's CSV of either
  (https://platform.openai.com/docs/api-reference/usage). Usage has tokens only: give it together
  with costs.
- Anthropic: pages of `GET /v1/organizations/cost_report` (with `group_by[]=description`), whose
  amounts are in cents, and of `GET /v1/organizations/usage_report/messages`
  (https://platform.claude.com/docs/en/api/admin/cost_report).
- OpenRouter: `GET /api/v1/activity` or its CSV
  (https://openrouter.ai/docs/api-reference/analytics/get-activity).
- Ours: CSV or JSON lines with `day, model, cost_usd` and, if known, `input_tokens`,
  `output_tokens`, `requests`.

A line without a model is the whole account of its day.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Any, Literal, get_args

from proxy.ledger.protocol import MAX_AMOUNT_NANOUSD, MAX_COUNT, InvoiceLine

Format = Literal["auto", "openai", "anthropic", "openrouter", "csv", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)

# Amounts from 1e-40 to 1e13 with 40 digits add up exactly at this precision; others are refused.
_EXACT = Context(prec=120)
_NANO = 9
_MOST_DIGITS = 40
_LARGEST_EXPONENT = 12


class InvoiceError(ValueError):
    """A file that cannot be read as an invoice; `str()` says where and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Invoice:
    """Lines in order of day and model, each pair once."""

    lines: tuple[InvoiceLine, ...]
    has_more: bool = False
    """Whether the last page says that there are further ones."""


@dataclass(slots=True)
class _Sum:
    cost_usd: Decimal = field(default_factory=Decimal)
    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 0


@dataclass(frozen=True, slots=True)
class _Item:
    day: str
    model: str
    cost_usd: Decimal | None = None
    """None in a file of usage, which knows tokens only."""
    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 0


def parse(texts: Iterable[str], form: Format = "auto") -> Invoice:
    """What all the files together say. Raises `InvoiceError`."""
    sums: defaultdict[tuple[str, str], _Sum] = defaultdict(_Sum)
    has_cost = has_more = False
    for text in texts:
        items, has_more = _read(text, form)
        for item in items:
            total = sums[item.day, item.model]
            if item.cost_usd is not None:
                has_cost = True
                total.cost_usd = _EXACT.add(total.cost_usd, item.cost_usd)
            total.input_tokens += item.input_tokens
            total.output_tokens += item.output_tokens
            total.requests += item.requests
    if sums and not has_cost:
        raise InvoiceError(
            "tells tokens but no cost; give the file with the costs too (OpenAI: "
            "organization/costs, Anthropic: cost_report)"
        )
    lines = [_line(day, model, total) for (day, model), total in sorted(sums.items())]
    return Invoice(lines=tuple(lines), has_more=has_more)


def _line(day: str, model: str, total: _Sum) -> InvoiceLine:
    nanousd = total.cost_usd.scaleb(_NANO, _EXACT).to_integral_value(ROUND_HALF_EVEN)
    what = f"{day}, {model or 'all models'}"
    if nanousd < 0:
        raise InvoiceError(f"{what}: credits exceed the cost; leave credits out of the file")
    if nanousd > MAX_AMOUNT_NANOUSD:
        raise InvoiceError(f"{what}: the cost is above any that can be")
    if max(total.input_tokens, total.output_tokens, total.requests) > MAX_COUNT:
        raise InvoiceError(f"{what}: a count is above any that can be")
    return InvoiceLine(
        day, model, int(nanousd), total.input_tokens, total.output_tokens, total.requests
    )


def _read(text: str, form: Format) -> tuple[list[_Item], bool]:
    text = text.removeprefix("\ufeff").strip()
    if not text:
        raise InvoiceError("is empty")
    if form == "csv":
        return list(_read_csv(text, _OURS)), False
    if form == "jsonl":
        return list(_read_jsonl(text)), False
    pages = _pages(text)
    if pages is None:
        if form == "auto" and text[0] == "{":
            return list(_read_jsonl(text)), False
        if text[0] in "{[":
            raise InvoiceError("is not valid JSON")
        return list(_read_csv(text, _ANYBODYS)), False
    if form == "auto" and all(_cell(page, "day") is not None for page in pages):
        return [_item(page, f"row {n}", _OURS) for n, page in enumerate(pages, 1)], False
    items = [item for page in pages for item in _read_page(page, form)]
    return items, any(page.get("has_more") is True for page in pages[-1:])


def _pages(text: str) -> list[dict[str, Any]] | None:
    """The JSON objects of a file that is one JSON value; None where it is something else."""
    try:
        value = json.loads(text, parse_float=_decimal_of, parse_constant=_refuse)
    except InvoiceError:
        raise
    except (ValueError, RecursionError):
        return None
    pages = value if isinstance(value, list) else [value]
    if not pages or not all(isinstance(page, dict) for page in pages):
        raise InvoiceError("is JSON, but neither an object nor a list of objects")
    return pages


# --- pages of the providers' APIs ----------------------------------------------------------------


def _read_page(page: dict[str, Any], form: Format) -> Iterator[_Item]:
    entries = page.get("data")
    if not isinstance(entries, list):
        raise InvoiceError("has no `data`: not a page of costs or usage")
    for number, entry in enumerate(entries, 1):
        where = f"data[{number - 1}]"
        if not isinstance(entry, dict):
            raise InvoiceError(f"{where}: is not an object")
        results = entry.get("results")
        if isinstance(results, list):
            yield from _bucket(entry, results, where, form)
        elif form in ("auto", "openrouter"):
            yield _item(entry, where, _ANYBODYS)
        else:
            raise InvoiceError(f"{where}: has no `results`")


def _bucket(entry: dict[str, Any], results: list[Any], where: str, form: Format) -> Iterator[_Item]:
    start = entry.get("start_time", entry.get("starting_at"))
    if start is None:
        raise InvoiceError(f"{where}: has neither `start_time` nor `starting_at`")
    day = _day(start, where)
    is_openai = "start_time" in entry
    if form not in ("auto", "openai" if is_openai else "anthropic"):
        raise InvoiceError(f"{where}: is not of {form}")
    for number, result in enumerate(results):
        at = f"{where}.results[{number}]"
        if not isinstance(result, dict):
            raise InvoiceError(f"{at}: is not an object")
        yield _openai_result(day, result, at) if is_openai else _anthropic_result(day, result, at)


def _openai_result(day: str, result: dict[str, Any], at: str) -> _Item:
    amount = result.get("amount")
    if isinstance(amount, dict):
        _only_usd(amount.get("currency"), at)
        model = _line_item_model(_text(result.get("line_item"), at))
        return _Item(day, model, _decimal(amount.get("value"), at))
    if "input_tokens" not in result and "num_model_requests" not in result:
        raise InvoiceError(f"{at}: is neither a cost nor a usage of tokens")
    return _Item(
        day,
        _text(result.get("model"), at),
        None,
        _count(result.get("input_tokens"), at),
        _count(result.get("output_tokens"), at),
        _count(result.get("num_model_requests"), at),
    )


def _line_item_model(line_item: str) -> str:
    """`gpt-4o-mini-2024-07-18, input` is of the model before the comma."""
    return line_item.partition(",")[0].strip()


def _anthropic_result(day: str, result: dict[str, Any], at: str) -> _Item:
    if "amount" in result:
        _only_usd(result.get("currency"), at)
        cents = _decimal(result["amount"], at)
        # What is of no model (web search, code execution) goes by its description.
        model = _text(result.get("model"), at) or _text(result.get("description"), at)
        return _Item(day, model, cents.scaleb(-2, _EXACT))
    if "output_tokens" not in result:
        raise InvoiceError(f"{at}: is neither a cost nor a usage of tokens")
    writes = result.get("cache_creation")
    written = [_count(value, at) for value in writes.values()] if isinstance(writes, dict) else []
    read = (result.get(name) for name in ("uncached_input_tokens", "cache_read_input_tokens"))
    return _Item(
        day,
        _text(result.get("model"), at),
        None,
        sum(written) + sum(_count(value, at) for value in read),
        _count(result["output_tokens"], at),
    )


# --- rows of CSV and JSON lines -------------------------------------------------------------------

_Names = Mapping[str, tuple[str, ...]]

_OURS: _Names = {
    "day": ("day",),
    "model": ("model",),
    "cost_usd": ("cost_usd",),
    "input_tokens": ("input_tokens",),
    "output_tokens": ("output_tokens",),
    "requests": ("requests",),
}
_ANYBODYS: _Names = {
    "day": ("day", "date", "start_time_iso", "start_time", "created_at"),
    "model": ("model", "line_item", "model_permaslug"),
    "cost_usd": ("cost_usd", "amount_value", "usage", "cost_total"),
    "input_tokens": ("input_tokens", "prompt_tokens", "tokens_prompt"),
    "output_tokens": ("output_tokens", "completion_tokens", "tokens_completion"),
    "requests": ("requests", "num_model_requests"),
}
"""What providers call the same thing, in the CSV of their dashboards and in rows of JSON."""


def _read_csv(text: str, names: _Names) -> Iterator[_Item]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = reader.fieldnames or []
        for wanted in ("day", "cost_usd"):
            if not any(name in columns for name in names[wanted]):
                if wanted == "cost_usd" and "num_model_requests" in columns:
                    continue  # a dashboard's file of usage, which has tokens only
                raise InvoiceError(
                    f"line 1: there is no column {' or '.join(map(repr, names[wanted]))}"
                )
        for row in reader:
            where = f"line {reader.line_num}"
            if None in row or None in row.values():
                raise InvoiceError(f"{where}: has not as many fields as the header")
            if _is_empty_bucket(row):
                continue
            yield _item(row, where, names)
    except csv.Error as error:
        raise InvoiceError(f"line {reader.line_num}: {error}") from None


def _is_empty_bucket(row: Mapping[str, Any]) -> bool:
    """OpenAI's dashboard writes a row without an amount for a day on which nothing was spent."""
    return row.get("amount_value") == ""


def _read_jsonl(text: str) -> Iterator[_Item]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_float=_decimal_of, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise InvoiceError(f"line {number}: is not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise InvoiceError(f"line {number}: is not an object")
        yield _item(row, f"line {number}", _OURS)


def _item(row: Mapping[str, Any], where: str, names: _Names) -> _Item:
    day, cost = _cell(row, *names["day"]), _cell(row, *names["cost_usd"])
    if day is None:
        raise InvoiceError(f"{where}: has no {' or '.join(map(repr, names['day']))}")
    if cost is None and _cell(row, "num_model_requests") is None:
        raise InvoiceError(f"{where}: has no {' or '.join(map(repr, names['cost_usd']))}")
    _only_usd(_cell(row, "currency", "amount_currency"), where)
    model = _text(_cell(row, *names["model"]), where)
    if "line_item" in row:
        model = _line_item_model(model)
    requests = _count(_cell(row, *names["requests"]), where)
    if "generation_id" in row:
        requests = 1
    return _Item(
        _day(day, where),
        model,
        None if cost is None else _decimal(cost, where),
        _count(_cell(row, *names["input_tokens"]), where),
        _count(_cell(row, *names["output_tokens"]), where),
        requests,
    )


def _cell(row: Mapping[str, Any], *names: str) -> Any:
    """The first of those cells that is there and not empty."""
    for name in names:
        if (value := row.get(name)) not in (None, ""):
            return value
    return None


# --- values --------------------------------------------------------------------------------------

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}(?=$|[T ])")
_COUNT = re.compile(r"\d{1,18}")


def _day(value: Any, where: str) -> str:
    """The day in UTC of a date, of a moment in ISO 8601, or of Unix seconds."""
    try:
        if isinstance(value, str) and not value.isdecimal():
            if _DAY.match(value) is None:
                raise ValueError
            if len(value) == len("2026-11-20"):
                return date.fromisoformat(value).isoformat()
            when = datetime.fromisoformat(value)
            utc = when.astimezone(UTC) if when.tzinfo else when
            return utc.date().isoformat()
        if isinstance(value, bool | float | Decimal):
            raise ValueError
        return datetime.fromtimestamp(int(value), UTC).date().isoformat()
    except (ValueError, TypeError, OverflowError, OSError):
        raise InvoiceError(
            f"{where}: {str(value)[:40]!r} is no day; write e.g. 2026-11-20"
        ) from None


def _decimal(value: Any, where: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise InvoiceError(f"{where}: {str(value)[:40]!r} is no amount")
    try:
        return _decimal_of(str(value).strip())
    except InvoiceError as error:
        raise InvoiceError(f"{where}: {error}") from None


def _decimal_of(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise InvoiceError(f"{text[:40]!r} is no amount") from None
    if not amount.is_finite() or not -_MOST_DIGITS <= amount.adjusted() <= _LARGEST_EXPONENT:
        raise InvoiceError(f"{text[:40]!r} is no amount")
    if len(amount.as_tuple().digits) > _MOST_DIGITS:
        raise InvoiceError(f"{text[:40]!r} has more than {_MOST_DIGITS} digits")
    return amount


def _refuse(text: str) -> Decimal:
    raise InvoiceError(f"{text!r} is no amount")


def _count(value: Any, where: str) -> int:
    if value is None:
        return 0
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and _COUNT.fullmatch(value.strip()):
        return int(value)
    raise InvoiceError(f"{where}: {str(value)[:40]!r} is no count")


def _text(value: Any, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvoiceError(f"{where}: {str(value)[:40]!r} is no name")
    return value.strip()


def _only_usd(currency: Any, where: str) -> None:
    if currency is not None and str(currency).lower() != "usd":
        raise InvoiceError(f"{where}: is in {str(currency)[:10]!r}; only USD can be compared")
