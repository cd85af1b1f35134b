"""`tollway models`."""

from __future__ import annotations

import msgspec
import typer

from proxy.cli import asking
from proxy.cli.asking import ConfigOption, DataOption, JsonOption
from proxy.cli.output import Grid, console, print_json
from proxy.model_host.client import look
from proxy.model_host.protocol import ModelState

app = typer.Typer(add_completion=False)


@app.command()
def models(
    config: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show the local models of a running server: loaded, loading, queue, memory."""
    shown = look(asking.data_folder(config, data).path)
    if json:
        fields = msgspec.structs.asdict(shown)
        del fields["seq"]
        fields["models"] = [msgspec.structs.asdict(model) for model in shown.models]
        print_json(fields)
        return
    grid = Grid("model", "backend", "state", numbers=("MB", "in use", "waiting", "loads", "load s"))
    for model in shown.models:
        grid.add(
            model.name,
            model.backend,
            _state(model),
            _mb(model.bytes),
            f"{model.users}/{model.concurrency}",
            str(model.waiting),
            str(model.loads),
            f"{model.load_s:.1f}" if model.load_s else "",
        )
    grid.print()
    console.print(
        f"{_mb(shown.taken_bytes)} of {_mb(shown.memory_bytes)} MB taken; "
        f"at most {shown.max_loaded} models at a time"
    )


def _state(model: ModelState) -> str:
    if model.state == "absent":
        return f"not loaded: {model.problem}" if model.problem else "not loaded"
    return f"{model.state}, pinned" if model.pinned else model.state


def _mb(size: int) -> str:
    return str(-(-size // 2**20))
