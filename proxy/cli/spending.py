"""`tollway spend`: sums as a table and a chart, or the last attempts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Annotated, get_args

import msgspec
import typer

from proxy.budgets import is_template
from proxy.cli import asking
from proxy.cli.asking import (
    ConfigOption,
    CsvOption,
    DataOption,
    JsonOption,
    SinceOption,
    UntilOption,
)
from proxy.cli.budgets import print_budgets
from proxy.cli.output import Grid, console, print_bars, print_csv, print_json
from proxy.errors import StartError
from proxy.ledger import reports
from proxy.ledger.folder import ledger_file
from proxy.ledger.protocol import BudgetState
from proxy.ledger.reports import AttemptRow, Dimension, Spend, SpendRow
from proxy.pricing import format_usd

app = typer.Typer(add_completion=False)

_DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
_CALENDAR: tuple[Dimension, ...] = ("day", "hour")
_MOST_BARS = 31


@app.command()
def spend(
    by: Annotated[
        str, typer.Option(help=f"Comma-separated: {', '.join(_DIMENSIONS)}")
    ] = "day,virtual_model,target",
    since: SinceOption = None,
    until: UntilOption = None,
    timezone: Annotated[str, typer.Option(help="Whose days and hours")] = "UTC",
    key: Annotated[str | None, typer.Option(help="Only this key; 'anonymous' for none")] = None,
    team: Annotated[str | None, typer.Option(help="Only this team")] = None,
    organisation: Annotated[str | None, typer.Option(help="Only this organisation")] = None,
    user: Annotated[str | None, typer.Option(help="Only this end user")] = None,
    tag: Annotated[str | None, typer.Option(help="Only what has this tag")] = None,
    virtual_model: Annotated[str | None, typer.Option(help="Only what asked for this")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model, at any provider")] = None,
    target: Annotated[str | None, typer.Option(help="Only this target")] = None,
    provider: Annotated[str | None, typer.Option(help="Only this provider")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Only this endpoint")] = None,
    outcome: Annotated[str | None, typer.Option(help="Only this outcome")] = None,
    last: Annotated[int, typer.Option(min=0, help="Show the last N attempts instead")] = 0,
    config: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """Show what was spent, on what, and what is left of the budgets."""
    asking.one_form(json=json, csv=csv)
    where: dict[Dimension, str | None] = {
        "key": "" if key == "anonymous" else key,
        "team": team,
        "organisation": organisation,
        "user": user,
        "tag": tag,
        "virtual_model": virtual_model,
        "model": model,
        "target": target,
        "provider": provider,
        "endpoint": endpoint,
        "outcome": outcome,
    }
    filters = {dimension: value for dimension, value in where.items() if value is not None}
    if last and filters:
        raise StartError("--last: shows attempts of all kinds; leave the filters out")
    groups: tuple[Dimension, ...] = tuple(
        asking.chosen(group.strip(), Dimension, "--by") for group in by.split(",") if group.strip()
    )
    begin, end = asking.moment(since, "--since"), asking.moment(until, "--until")
    folder = asking.data_folder(config, data).path
    with asking.ledger_of(config, data) as ledger:
        budgets = ledger.budgets()
    if last:
        _show_attempts(reports.attempts(ledger_file(folder), last), json=json, csv=csv)
        return
    try:
        found = reports.spend_and_total(
            ledger_file(folder),
            since=begin or 0,
            until=end,
            group_by=groups,
            where=filters,
            timezone=timezone,
        )
    except ValueError as error:
        raise StartError(f"--timezone: {error}") from None
    if json:
        print_json([msgspec.to_builtins(row) for row in found.rows])
    elif csv:
        _print_csv(groups, found.rows)
    else:
        _print_table(groups, found)
        _print_chart(groups, found.rows)
        _print_budgets(budgets)


def _print_csv(groups: Sequence[Dimension], rows: Sequence[SpendRow]) -> None:
    sums = [field.name for field in fields(SpendRow)][1:]
    print_csv(
        (*groups, *sums), ((*row.group, *(getattr(row, name) for name in sums)) for row in rows)
    )


def _print_table(groups: Sequence[Dimension], found: Spend) -> None:
    grid = Grid(*groups, numbers=("requests", "attempts", "input", "output", "cost"))
    for row in found.rows:
        grid.add(*map(_label, groups, row.group), *_numbers(row))
    blanks = [""] * max(0, len(groups) - 1)
    grid.add(*(["total", *blanks] if groups else []), *_numbers(found.total), style="bold")
    grid.print()
    if found.total.estimated_nanousd:
        console.print(
            f"{format_usd(found.total.estimated_nanousd)} of it is estimated", style="dim"
        )


def _numbers(row: SpendRow) -> tuple[str, ...]:
    counts = (row.requests, row.attempts, row.input_tokens, row.output_tokens)
    return (*(f"{count:,}" for count in counts), format_usd(row.cost_nanousd))


def _label(dimension: Dimension, value: str) -> str:
    if value:
        return value
    return "anonymous" if dimension == "key" else "-"


def _print_chart(groups: Sequence[Dimension], rows: Sequence[SpendRow]) -> None:
    """The cost by the first dimension: the last of days and hours, the dearest of all others."""
    if not groups:
        return
    costs: defaultdict[str, int] = defaultdict(int)
    for row in rows:
        costs[row.group[0]] += row.cost_nanousd
    if groups[0] in _CALENDAR:
        shown = sorted(costs.items())[-_MOST_BARS:]
    else:
        shown = sorted(costs.items(), key=lambda item: (-item[1], item[0]))[:_MOST_BARS]
    if len(shown) < 2:
        return
    console.print()
    print_bars([(_label(groups[0], name), cost, format_usd(cost)) for name, cost in shown])
    if len(costs) > len(shown):
        console.print(f"and {len(costs) - len(shown)} more", style="dim")


def _print_budgets(budgets: Sequence[BudgetState]) -> None:
    """All but those that a budget with `*` made: there may be one for each of a million users."""
    budgets = [budget for budget in budgets if not is_template(budget.scope)]
    shown = [budget for budget in budgets if budget.managed != "each"]
    if shown:
        console.print()
        print_budgets(shown)
    if len(shown) < len(budgets):
        rest = f"and {len(budgets) - len(shown):,} made by '*'; see 'tollway budgets list'"
        console.print(rest, style="dim")


def _show_attempts(rows: list[AttemptRow], *, json: bool, csv: bool) -> None:
    if json:
        print_json([msgspec.to_builtins(row) for row in rows])
        return
    if csv:
        names = [field.name for field in fields(AttemptRow)]
        print_csv(names, ([getattr(row, name) for name in names] for row in rows))
        return
    grid = Grid("time", "key", "asked", "target", "outcome", numbers=("tokens", "cost", "s"))
    for row in rows:
        about = "≈" if row.estimated else ""
        grid.add(
            datetime.fromtimestamp(row.started_at, UTC).strftime("%m-%d %H:%M:%S"),
            row.key_id or "anonymous",
            row.virtual_model or row.target,
            row.target,
            row.outcome,
            f"{about}{row.input_tokens}+{row.output_tokens}",
            f"{about}{format_usd(row.cost_nanousd)}",
            f"{row.total_us / 1e6:.2f}",
        )
    grid.print()
