"""`tollway swaps`."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from proxy.cli import asking
from proxy.cli.asking import ConfigOption, DataOption, JsonOption
from proxy.cli.output import Grid, console, print_json, when
from proxy.errors import StartError
from proxy.ledger import reports
from proxy.ledger.reports import SwapHistory

app = typer.Typer(add_completion=False)


@app.command()
def swaps(
    swap_id: Annotated[int | None, typer.Argument(metavar="ID", help="One, with all of it")] = None,
    last: Annotated[int, typer.Option(min=1, help="How many")] = 20,
    config: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show the swaps begun last, newest first; or what became of one."""
    file = asking.ledger_to_read(config, data)
    if swap_id is None:
        found = reports.last_swaps(file, last)
    else:
        one = reports.one_swap(file, swap_id) if 0 < swap_id < 2**62 else None
        if one is None:
            raise StartError(f"there is no swap {swap_id}; see 'tollway swaps'")
        found = [one]
    if json:
        print_json([_as_json(history) for history in found])
    elif not found:
        console.print("nothing was swapped yet")
    elif swap_id is not None:
        _print_events(found[0])
    else:
        _print_swaps(found)


def _print_swaps(found: list[SwapHistory]) -> None:
    grid = Grid("begun", "name", "from", "to", "state", "why", numbers=("id", "%"))
    for history in found:
        swap, plan = history.swap, history.swap.plan
        state = swap.state.replace("_", " ")
        texts = (when(swap.created_at), plan.name, plan.source, plan.target, state, swap.reason)
        grid.add(*texts, str(swap.swap_id), str(swap.percent))
    grid.print()


def _print_events(history: SwapHistory) -> None:
    plan = history.swap.plan
    console.print(f"{plan.name}: {plan.source} -> {plan.target}", soft_wrap=True)
    grid = Grid("at", "state", "why", numbers=("%",))
    for at, state, percent, reason in history.events:
        grid.add(when(at), state.replace("_", " "), reason, str(percent))
    grid.print()


def _as_json(history: SwapHistory) -> dict[str, object]:
    """A swap as JSON: times in Unix seconds, amounts in nano-USD."""
    fields: dict[str, object] = msgspec.to_builtins(history.swap)
    names = ("at", "state", "percent", "reason")
    events = [dict(zip(names, event, strict=True)) for event in history.events]
    return {**fields, "events": events}
