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
    """Show the local models of a running server: loaded, loading, queue, memory, speed."""
    shown = look(asking.data_folder(config, data).path)
    if json:
        fields = msgspec.structs.asdict(shown)
        del fields["seq"]
        fields["models"] = [msgspec.structs.asdict(model) for model in shown.models]
        print_json(fields)
        return
    has_gpu = shown.gpu_memory_bytes > 0
    gpu_column = ("GPU MB",) if has_gpu else ()
    grid = Grid(
        *("model", "backend", "state"),
        numbers=("MB", *gpu_column, "in use", "waiting", "loads", "load s", "tokens/s"),
    )
    for model in shown.models:
        grid.add(
            model.name,
            model.backend,
            _state(model),
            _mb(model.bytes),
            *((_mb(model.gpu_bytes),) if has_gpu else ()),
            f"{model.users}/{model.concurrency}",
            str(model.waiting),
            str(model.loads),
            f"{model.load_s:.1f}" if model.load_s else "",
            f"{model.tokens_per_s:.0f}" if model.tokens_per_s else "",
        )
    grid.print()
    of_gpu = f", {_mb(shown.taken_gpu_bytes)} of {_mb(shown.gpu_memory_bytes)} MB of the GPU"
    console.print(
        f"{_mb(shown.taken_bytes)} of {_mb(shown.memory_bytes)} MB taken"
        f"{of_gpu if has_gpu else ''}; at most {shown.max_loaded} models at a time"
    )


def _state(model: ModelState) -> str:
    if model.state == "absent":
        return f"not loaded: {model.problem}" if model.problem else "not loaded"
    return f"{model.state}, pinned" if model.pinned else model.state


def _mb(size: int) -> str:
    return str(-(-size // 2**20))
