"""`tollway models`."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from proxy.cli import asking
from proxy.cli.asking import ConfigOption, DataOption, JsonOption
from proxy.cli.output import Grid, console, note, print_json, printable
from proxy.errors import StartError
from proxy.inventory import FoundModel, Inventory
from proxy.model_host.client import Viewer, look
from proxy.model_host.protocol import ModelState, PullShown, Shown

_POLL_S = 0.2

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    config: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show the models on this machine, files and servers': state, queue, memory, speed."""
    if context.invoked_subcommand is not None:
        return
    shown = look(asking.data_folder(config, data).path)
    if json:
        fields = msgspec.to_builtins(msgspec.structs.asdict(shown))
        del fields["seq"]
        fields["models"] = [msgspec.structs.asdict(model) for model in shown.models]
        fields["pulls"] = [msgspec.structs.asdict(pull) for pull in shown.pulls]
        print_json(fields)
        return
    _print_local(shown)
    _print_found(shown.inventory)


@app.command()
def pull(
    model: Annotated[str, typer.Argument(help="As Ollama calls it: llama3.2, qwen3:8b ...")],
    provider: Annotated[str, typer.Option(help="The Ollama server to fetch it")] = "ollama",
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Have an Ollama server fetch a model, and wait; it goes on without whoever waits."""
    with Viewer(asking.data_folder(config, data).path) as viewer:
        state = _pulled(viewer, provider, model)
        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
        ) as progress:
            task = progress.add_task(printable(state.status), total=None)
            while state.state == "running":
                time.sleep(_POLL_S)
                state = _seen(viewer.look(), provider, model)
                progress.update(
                    task,
                    description=printable(state.status)[:40],
                    completed=state.done_bytes,
                    total=state.total_bytes or None,
                )
    if state.state == "failed":
        raise StartError(f"{provider}: {model!r} could not be fetched: {state.status}")
    note(f"{provider}/{model} is there")


def _pulled(viewer: Viewer, provider: str, model: str) -> PullShown:
    reply = viewer.pull(provider, model)
    if reply.pull is None:
        raise StartError(reply.problem)
    return reply.pull


def _seen(shown: Shown, provider: str, model: str) -> PullShown:
    found = [pull for pull in shown.pulls if (pull.provider, pull.model) == (provider, model)]
    if not found:
        raise StartError(f"{provider}: the model host was started anew; ask for {model!r} again")
    return found[-1]


def _print_local(shown: Shown) -> None:
    has_gpu = shown.gpu_memory_bytes > 0
    gpu_column = ("GPU MB",) if has_gpu else ()
    grid = Grid(
        *("backend", "state"),
        name="model",
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
    for model in shown.models:
        if model.state == "absent" and model.problem:
            # Not in the table, whose other columns it would press together.
            console.print(
                printable(f"{model.name} could not be loaded: {model.problem}"), soft_wrap=True
            )


def _print_found(inventory: Inventory) -> None:
    """What is not ours to load: the models of servers, and files that cannot be used."""
    grid = Grid("at", "state", "kind", numbers=("context", "MB"), name="found")
    rows = 0
    for provider in inventory.providers:
        for model in provider.models:
            name = f"{provider.name}/{model.name}"
            if model.path and not model.problem:
                continue  # listed above
            rows += 1
            grid.add(
                name,
                provider.by,
                _found_state(inventory, provider.name, name, model),
                " ".join(filter(None, (model.architecture, model.quantisation))),
                str(model.context_length or ""),
                _mb(model.size_bytes) if model.size_bytes else "",
            )
    if rows:
        console.print()
        grid.print()


def _found_state(inventory: Inventory, provider: str, name: str, model: FoundModel) -> str:
    if model.problem:
        return f"cannot be used: {model.problem}"
    if provider in inventory.silent:
        return "its server does not answer"
    if provider not in inventory.tells_loading:
        return ""
    return "loaded" if name in inventory.loaded else "not loaded"


def _state(model: ModelState) -> str:
    if model.state == "absent":
        return "not loaded"
    return f"{model.state}, pinned" if model.pinned else model.state


def _mb(size: int) -> str:
    return str(-(-size // 2**20))
