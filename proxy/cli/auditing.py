"""`tollway audit`."""

from __future__ import annotations

import typer

from proxy.cli import asking
from proxy.cli.asking import ConfigOption, DataOption
from proxy.cli.output import console
from proxy.ledger.audit import examine

app = typer.Typer(add_completion=False)


@app.command()
def audit(config: ConfigOption = None, data: DataOption = None) -> None:
    """Recompute every balance from the rows; exit code 1 where something differs."""
    found = examine(asking.ledger_to_read(config, data))
    for line in found.differences:
        console.print(line, soft_wrap=True)
    if found.differences:
        raise typer.Exit(1)
    console.print(f"no differences in {found.attempts:,} attempts, {found.balances:,} balances")
