"""`tollway`: one module for each group of commands, imported when one of them is asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
import typer.core
import typer.main

from proxy import __version__
from proxy.cli.output import console, note, printable
from proxy.errors import StartError
from proxy.ledger.errors import LedgerError

EXIT_USAGE = 2

# In the order in which help shows them. Each module has an `app` with the command of its name.
_MODULES = {
    "serve": "serving",
    "check": "checking",
    "reload": "reloading",
    "route": "routing",
    "replay": "replaying",
    "learn": "learning",
    "recommend": "recommending",
    "estimate": "estimating",
    "models": "models",
    "swap": "swapping",
    "swaps": "swaps",
    "keys": "keys",
    "teams": "teams",
    "organisations": "organisations",
    "budgets": "budgets",
    "spend": "spending",
    "alerts": "alerts",
    "prices": "prices",
    "audit": "auditing",
    "export": "exporting",
    "prune": "pruning",
    "reconcile": "reconciling",
}


class _Commands(MutableMapping[str, Any]):
    """The commands by name; looking one up imports its module, so that `serve` starts sooner."""

    def __getitem__(self, name: str) -> Any:
        module = import_module(f"proxy.cli.{_MODULES[name]}")
        command = typer.main.get_command(module.app)
        command.name = name
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)

    def __setitem__(self, name: str, command: Any) -> NoReturn:
        raise TypeError("a command is added to the modules above")

    def __delitem__(self, name: str) -> NoReturn:
        raise TypeError("a command is taken from the modules above")


class _Root(typer.core.TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()

    def list_commands(self, ctx: object) -> list[str]:
        return list(_MODULES)


app = typer.Typer(
    cls=_Root,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An OpenAI-compatible gateway that routes, keeps every budget and counts every cent.",
)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version")] = False,
) -> None:
    """Print the version if asked to."""
    if show:
        console.print(__version__)
        raise typer.Exit


def main() -> None:
    """The command's entry point: expected failures are one line and exit code 2."""
    try:
        app()
    except (StartError, LedgerError) as error:
        note(f"tollway: {printable(str(error))}")  # the one line; a provider may have written it
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        sys.exit(130)
