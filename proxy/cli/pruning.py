"""`tollway prune`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from proxy.cli import asking
from proxy.cli.asking import ConfigOption, DataOption
from proxy.cli.output import console, note, when
from proxy.errors import StartError
from proxy.ledger.protocol import Done, Prune
from proxy.moments import parse_length_s

app = typer.Typer(add_completion=False)

# No calendar window up to a month that is open now, and no invoice that is still to come.
_YOUNGEST_DAYS = 32
_DAY_S = 86_400


@app.command()
def prune(
    before: Annotated[str | None, typer.Option(help="Forget what began earlier: a date")] = None,
    older_than: Annotated[str | None, typer.Option(help="The same as an age: 400d")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help=f"Also rows that are younger than {_YOUNGEST_DAYS} days")
    ] = False,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Forget old attempts for good; balances stay. Run 'tollway export' first."""
    now = int(time.time())
    moment = _moment(before, older_than, now)
    if moment > now - _YOUNGEST_DAYS * _DAY_S and not yes:
        raise StartError(
            f"prune: {when(moment)} is less than {_YOUNGEST_DAYS} days ago; reports and invoices "
            "of this month need those rows. Run 'tollway export' first, then give --yes"
        )
    count = 0
    with asking.ledger_of(config, data) as ledger:
        while forgotten := asking.answered(ledger.call(Prune(0, moment)), Done).count:
            count += forgotten
    console.print(f"{count:,} attempts from before {when(moment)} (UTC) are forgotten")
    if count:
        note("No report or export has them any more; what they cost stays in the balances.")


def _moment(before: str | None, older_than: str | None, now: int) -> int:
    if (before is None) == (older_than is None):
        raise StartError("prune: give either --before or --older-than")
    if before is not None:
        moment = asking.moment(before, "--before")
        if moment is None:
            raise StartError("--before: write a date, e.g. 2026-01-01")
        return max(0, moment)
    try:
        return max(0, now - parse_length_s(older_than or ""))
    except ValueError as error:
        raise StartError(f"--older-than: {error}") from None
