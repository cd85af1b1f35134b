"""`tollway check`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from proxy import config_file, serve
from proxy.cli.output import Grid, console
from proxy.clock import SystemClock
from proxy.errors import StartError
from proxy.expectations import unmet
from proxy.price_book import PriceBook

app = typer.Typer(add_completion=False)


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="The file to check")] = Path("router.yaml"),
) -> None:
    """Check a configuration without starting anything; exit code 2 names file, path and remedy."""
    loaded = config_file.load(path, os.environ)
    loaded = msgspec.structs.replace(loaded, discover=False)
    tables = serve.resolve(loaded, os.environ, PriceBook.load(), looks=False).tables
    serve.check(loaded, tables)
    table = tables()
    problems = unmet(loaded.expect, tables, SystemClock())
    for problem in problems:
        console.print(f"{path}: {problem}")
    if problems:
        raise StartError(
            f"{path}: expect: {len(problems)} of {len(loaded.expect)} are not met; "
            "change the rules, or what is expected of them"
        )
    console.print(f"{path}: is fine")
    for model in table.models.values():
        if model.continues and not any(target.prefill for target in model.targets[1:]):
            console.print(
                f"{path}: models.{model.name}.continuation: idle, since no target after the first "
                "is known to go on with an answer; 'prefill' of a target says that it does"
            )
    grid = Grid("virtual model", "policy", "targets")
    for model in table.models.values():
        targets = " → ".join(target.name for target in model.targets)
        grid.add(model.name, model.policy.name, targets or "found at start, if any")
    grid.print()
