"""`tollway reload`."""

from __future__ import annotations

from typing import Annotated

import typer

from proxy.cli.asking import ConfigOption, DataOption, data_folder
from proxy.cli.output import console
from proxy.errors import StartError
from proxy.reloading import Wanted, ask

app = typer.Typer(add_completion=False)

EXIT_PROBLEMS = 1


@app.command()
def reload(
    config: ConfigOption = None,
    data: DataOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what would become of it")
    ] = False,
) -> None:
    """Have the running server read its configuration again; exit code 2 says why it does not."""
    folder = data_folder(config, data)
    try:
        outcome = ask(folder.path, Wanted(is_dry=check))
    except OSError:
        raise StartError(
            f"{folder.path}: no server of this data folder answers; start one with "
            "'tollway serve', or name its folder with --data"
        ) from None
    if outcome.refusal:
        raise StartError(f"{outcome.refusal} (revision {outcome.revision} is served on)")
    if check:
        console.print(f"{outcome.source}: is fine; revision {outcome.revision} is served")
    else:
        console.print(f"revision {outcome.revision} of {outcome.source} is served")
    for name in outcome.needs_restart:
        console.print(f"{name}: takes effect when the server is started again")
    for problem in outcome.problems:
        console.print(problem)
    if outcome.problems:
        raise typer.Exit(EXIT_PROBLEMS)
