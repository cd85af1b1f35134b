"""`tollway alerts`."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from proxy.cli import asking
from proxy.cli.asking import ConfigOption, DataOption, JsonOption
from proxy.cli.output import Grid, console, print_json, when, when_or_blank
from proxy.ledger import reports
from proxy.ledger.protocol import Alert

app = typer.Typer(add_completion=False)


@app.command()
def alerts(
    last: Annotated[int, typer.Option(min=1, help="How many")] = 20,
    config: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show the alerts raised last, newest first."""
    found = reports.last_alerts(asking.ledger_to_read(config, data), last)
    if json:
        print_json(
            [
                {**msgspec.structs.asdict(alert), "budget": _budget_id(alert), "delivered_at": at}
                for alert, at in found
            ]
        )
        return
    if not found:
        console.print("no alert was raised yet")
        return
    grid = Grid("raised", "kind", "what", "delivered")
    for alert, delivered_at in found:
        grid.add(when(alert.raised_at), alert.kind, alert.text, when_or_blank(delivered_at))
    grid.print()


def _budget_id(alert: Alert) -> int | None:
    return None if alert.budget is None else alert.budget.budget_id
