"""`tollway serve`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from proxy import serve
from proxy.cli.asking import ConfigOption, DataOption
from proxy.cli.output import console

app = typer.Typer(add_completion=False)


@app.command()
def serve_command(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address [TOLLWAY_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="Port, 0 for any [TOLLWAY_PORT]")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes [TOLLWAY_WORKERS]")] = None,
    data: DataOption = None,
) -> None:
    """Serve the API until SIGTERM or Ctrl-C."""
    options = serve.Options(config=config, host=host, port=port, workers=workers, data=data)
    serve.run(options, os.environ, console)
