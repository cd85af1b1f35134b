"""`tollway prices`."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from proxy import price_list, serve
from proxy.cli.asking import ConfigOption, DataOption, JsonOption
from proxy.cli.output import Grid, console, note, print_json
from proxy.data_folder import DataFolder
from proxy.errors import StartError
from proxy.pricing import format_usd

app = typer.Typer(add_completion=False)


@app.command()
def prices(
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Fetch today's prices into the data folder first")
    ] = False,
    source: Annotated[
        str | None, typer.Option("--from", help="File or URL to refresh from")
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show what every configured target charges, by whose word and how old that is."""
    if source is not None and not refresh:
        raise StartError("--from: says where --refresh gets the prices; give both")
    folder = Path(serve.data_path(serve.Options(config=config, data=data), os.environ))
    today = datetime.now(UTC).date()
    if refresh:
        # Not at the top: only this needs an HTTP client, and importing one takes a while.
        from proxy import price_refresh

        note(price_refresh.refresh(DataFolder.open(folder).path, source=source, today=today))
    book, problem = price_list.load(folder)
    if problem:
        note(f"tollway: {problem}")
    loaded = serve.load_config(serve.Options(config=config, data=data), os.environ)
    tables = serve.resolve(loaded, os.environ, book).tables
    rows = price_list.rows(tables().targets.values(), today)
    if json:
        print_json(rows)
    else:
        _print(rows)


def _print(rows: list[price_list.Row]) -> None:
    grid = Grid(
        "",
        "source",
        "from",
        "besides",
        numbers=("input", "cached", "output", "per request", "days old"),
        name="target",
    )
    for row in rows:
        amounts = (row.input, row.cached_input, row.output, row.per_request)
        grid.add(
            row.target,
            "" if row.state == "ok" else row.state,
            row.source,
            "" if row.as_of is None else str(row.as_of),
            ", ".join(row.pieces),
            *("" if amount is None else format_usd(amount) for amount in amounts),
            "" if row.age_days is None else str(row.age_days),
            style="yellow" if row.state in ("stale", "unpriced") else None,
        )
    grid.print()
    console.print(
        "USD per million tokens, or per request, in the standard service tier.", style="dim"
    )
