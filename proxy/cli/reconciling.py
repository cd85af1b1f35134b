"""`tollway reconcile`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy.cli import asking
from proxy.cli.asking import ConfigOption, CsvOption, DataOption, JsonOption
from proxy.cli.output import Grid, console, note, print_csv, print_json
from proxy.errors import StartError
from proxy.invoices import FORMATS, Format, Invoice, InvoiceError, parse
from proxy.ledger.folder import ledger_file
from proxy.ledger.protocol import ImportInvoice, InvoiceLine, RaiseAlert
from proxy.ledger.reconciliation import Comparison, Drift, accounts, compare
from proxy.ledger.sync import SyncLedger
from proxy.pricing import format_usd

app = typer.Typer(add_completion=False)

# Far below the size of a frame, whatever the names of models are.
_LINES_AT_ONCE = 2_000


@app.command()
def reconcile(
    files: Annotated[list[Path], typer.Argument(help="What the provider gave out")],
    provider: Annotated[str, typer.Option(help="Whose account it is, as router.yaml names it")],
    form: Annotated[str, typer.Option("--format", help=", ".join(FORMATS))] = "auto",
    alert_percent: Annotated[str, typer.Option(help="Raise an alert above this much drift")] = "1",
    config: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """Import a provider's invoice or usage and show how far it is from our account."""
    asking.one_form(json=json, csv=csv)
    most = _percent(alert_percent)
    invoice = _read(files, asking.chosen(form, Format, "--format"))
    folder = asking.data_folder(config, data).path
    with asking.ledger_of(config, data) as ledger:
        ours, pruned_until, providers = accounts(ledger_file(folder), provider)
        if provider not in providers:
            known = ", ".join(providers) or "none"
            raise StartError(
                f"--provider: {provider[:100]!r} has no attempts on record; have {known}"
            )
        for lines in _batches(invoice.lines):
            source = ", ".join(file.name for file in files)
            ledger.call(ImportInvoice(0, provider, source, lines))
        found = compare(ours, invoice.lines, pruned_until=pruned_until)
        if found.total.is_above(most):
            _raise_alert(ledger, provider, found)
    if json:
        print_json(_shown(provider, found))
    elif csv:
        columns = list(_fields(found.total))
        print_csv(columns, (list(_fields(row).values()) for row in found.rows))
    else:
        _print(found)
    _say_what_is_missing(invoice, found)


def _read(files: list[Path], form: Format) -> Invoice:
    """All files as one invoice; what is wrong names the file where it is one file's fault."""
    texts = []
    for file in files:
        try:
            texts.append(file.read_text("utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise StartError(f"{file}: cannot be read ({reason})") from None
    try:
        invoice = parse(texts, form)
    except InvoiceError as error:
        raise StartError(f"{', '.join(map(str, files))}: {error}") from None
    if not invoice.lines:
        raise StartError(f"{', '.join(map(str, files))}: there is no cost in it")
    return invoice


def _batches(lines: tuple[InvoiceLine, ...]) -> Iterator[tuple[InvoiceLine, ...]]:
    for start in range(0, len(lines), _LINES_AT_ONCE):
        yield lines[start : start + _LINES_AT_ONCE]


def _percent(text: str) -> Decimal:
    try:
        percent = Decimal(text)
        if not (percent.is_finite() and 0 <= percent <= 1_000_000):
            raise InvalidOperation
    except InvalidOperation:
        raise StartError(f"--alert-percent: {text[:40]!r} is no percentage") from None
    return percent


def _raise_alert(ledger: SyncLedger, provider: str, found: Comparison) -> None:
    total = found.total
    days = sorted({row.day for row in found.rows})
    percent = "" if total.percent is None else f" ({total.percent:+} %)"
    direction = "more" if total.drift_nanousd > 0 else "less"
    text = (
        f"{provider} charged {format_usd(abs(total.drift_nanousd))} {direction} than was counted "
        f"from {days[0]} to {days[-1]}{percent}"
    )
    ledger.call(RaiseAlert(0, "drift", provider, text, total.drift_nanousd))
    note(f"alert: {text}")


def _print(found: Comparison) -> None:
    numbers = ("ours", "estimated", "theirs", "drift", "percent")
    grid = Grid("day", "target", numbers=numbers)
    for row in found.rows:
        grid.add(row.day, row.target, *_amounts(row))
    grid.add("total", "", *_amounts(found.total), style="bold")
    grid.print()
    console.print(
        "Drift is what the provider charged beyond what was counted, in USD and in percent of "
        "what it charged.",
        style="dim",
    )


def _amounts(row: Drift) -> tuple[str, ...]:
    amounts = (row.ours_nanousd, row.estimated_nanousd, row.theirs_nanousd, row.drift_nanousd)
    percent = "-" if row.percent is None else f"{row.percent:+}%"
    return (*map(format_usd, amounts), percent)


def _fields(row: Drift) -> dict[str, Any]:
    return {
        "day": row.day,
        "target": row.target,
        "ours_nanousd": row.ours_nanousd,
        "estimated_nanousd": row.estimated_nanousd,
        "theirs_nanousd": row.theirs_nanousd,
        "drift_nanousd": row.drift_nanousd,
        "drift_percent": None if row.percent is None else str(row.percent),
    }


def _shown(provider: str, found: Comparison) -> dict[str, Any]:
    total = _fields(found.total)
    del total["day"], total["target"]
    return {
        "provider": provider,
        "rows": [_fields(row) for row in found.rows],
        "total": total,
        "days_without_invoice": found.missing_days,
        "days_pruned": found.pruned_days,
    }


def _say_what_is_missing(invoice: Invoice, found: Comparison) -> None:
    if invoice.has_more:
        note("The last page says that there are more: give those files too.")
    _say("spent, but without an invoice", found.missing_days)
    _say("not compared, since rows of ours were pruned", found.pruned_days)


def _say(what: str, days: Iterable[str]) -> None:
    if listed := ", ".join(days):
        note(f"{what}: {listed}")
