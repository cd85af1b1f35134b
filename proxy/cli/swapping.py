"""`tollway swap`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
import yaml

from proxy.cli import asking
from proxy.cli.asking import ConfigOption, DataOption
from proxy.cli.output import console
from proxy.errors import InvalidRequest, StartError
from proxy.ledger import reports
from proxy.ledger.folder import ledger_file
from proxy.ledger.protocol import MoveSwap, OpenSwap, SwapChanged
from proxy.ledger.reports import SwapHistory
from proxy.swaps.core import Plan, Swap
from proxy.swaps.orders import NewSwap

app = typer.Typer(add_completion=False)

_LOOK_AGAIN_S = 0.2
# How long after its time a swap may take to be given up, by a ledger that ticks every second.
_LATE_S = 10


@app.command()
def swap(
    name: Annotated[str | None, typer.Argument(help="The virtual model or the alias")] = None,
    source: Annotated[str | None, typer.Option("--from", help="The target it leads to")] = None,
    target: Annotated[str | None, typer.Option("--to", help="The target it is to lead to")] = None,
    steps: Annotated[str, typer.Option(help="Percents of the requests, in order")] = "100",
    step: Annotated[int, typer.Option(help="Seconds that each of them lasts")] = 60,
    grace: Annotated[int, typer.Option(help="Seconds for the old target to finish")] = 30,
    keep_conversations: Annotated[
        bool, typer.Option("--keep-conversations", help="They stay until the grace is over")
    ] = False,
    checks: Annotated[
        Path | None, typer.Option(help="YAML or JSON with `checks` and, if not all, `passing`")
    ] = None,
    error_rate: Annotated[
        float | None, typer.Option(help="Roll back if a larger share fails, e.g. 0.05")
    ] = None,
    latency_ms: Annotated[
        int | None, typer.Option(help="Roll back if more than 5 of 100 take longer")
    ] = None,
    min_requests: Annotated[int, typer.Option(help="Judge by no fewer")] = 20,
    window: Annotated[int, typer.Option(help="Seconds that are judged by")] = 60,
    watch: Annotated[int, typer.Option(help="Seconds to go on with that at 100 percent")] = 300,
    follow: Annotated[bool, typer.Option("--follow", help="Wait until it has ended")] = False,
    rollback: Annotated[int | None, typer.Option(help="Roll this swap back instead")] = None,
    cancel: Annotated[int | None, typer.Option(help="Cancel this swap instead")] = None,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Move a virtual model or an alias to another target, or take that back."""
    if rollback is not None or cancel is not None:
        if name is not None or (rollback is not None and cancel is not None):
            raise StartError("swap: give a name, or --rollback ID, or --cancel ID")
        _take_back(rollback, cancel, config, data)
        return
    if name is None or source is None or target is None:
        raise StartError("swap: give NAME --from TARGET --to TARGET; see 'tollway swap --help'")
    fields: dict[str, Any] = {
        **_checks_of(checks),
        "name": name,
        "from": source,
        "to": target,
        "steps": _steps(steps),
        "step_s": step,
        "grace_s": grace,
        "keep_conversations": keep_conversations,
        "rollback": {
            "error_rate": error_rate,
            "p95_latency_ms": latency_ms,
            "min_requests": min_requests,
            "window_s": window,
            "watch_s": watch,
        },
    }
    plan = _plan(fields, checks)
    folder = asking.data_folder(config, data).path
    with asking.ledger_of(config, data) as ledger:
        if not ledger.is_served:
            raise StartError(
                f"{folder}: no server runs there, so nothing can be moved; start one with "
                "'tollway serve', or name its data folder with --data"
            )
        made = asking.answered(ledger.call(OpenSwap(0, plan)), SwapChanged).swap
    _wait(ledger_file(folder), made, follow=follow)


def _take_back(
    rollback: int | None, cancel: int | None, config: str | None, data: str | None
) -> None:
    to: Literal["rolled_back", "cancelled"] = "cancelled" if rollback is None else "rolled_back"
    number = cancel if rollback is None else rollback
    assert number is not None
    if not 0 < number < 2**62:
        raise StartError(f"swap: {number} is no number of a swap")
    with asking.ledger_of(config, data) as ledger:
        op = MoveSwap(0, number, to, "by the operator")
        moved = asking.answered(ledger.call(op), SwapChanged).swap
    console.print(_line(moved), soft_wrap=True)


def _wait(file: Path, swap: Swap, *, follow: bool) -> None:
    """Say what becomes of a swap, until it is under way, or with `follow` until it has ended."""
    told = 0
    until = time.monotonic() + swap.plan.prepare_s + _LATE_S
    while True:
        history = reports.one_swap(file, swap.swap_id)
        assert history is not None
        for line in _events(history)[told:]:
            console.print(line, soft_wrap=True)
        told = len(history.events)
        now = history.swap
        if now.state == "failed":
            raise StartError(f"swap {now.swap_id} failed: {now.reason}")
        if now.state in ("cancelled", "rolled_back"):
            raise StartError(f"swap {now.swap_id} was {_words(now.state)}: {now.reason}")
        if now.state == "completed" or (now.state != "preparing" and not follow):
            return
        if now.state == "preparing" and time.monotonic() > until:
            raise StartError(f"swap {now.swap_id} is still being prepared; see 'tollway swaps'")
        time.sleep(_LOOK_AGAIN_S)


def _events(history: SwapHistory) -> list[str]:
    made = []
    for _, state, percent, _ in history.events:
        share = f", {percent} %" if state == "shifting" else ""
        made.append(f"swap {history.swap.swap_id}: {_words(state)}{share}")
    return made


def _line(swap: Swap) -> str:
    return f"swap {swap.swap_id} of {swap.plan.name} is {_words(swap.state)}"


def _words(state: str) -> str:
    return state.replace("_", " ")


def _steps(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and len(part) < 6 for part in parts):
        raise StartError(f"--steps: {text[:100]!r} are no percents; write 10,50,100")
    return [int(part) for part in parts]


def _checks_of(file: Path | None) -> dict[str, Any]:
    """What a file says of checks, yet to be read as what it should be."""
    if file is None:
        return {}
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise StartError(f"{file}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise StartError(f"{file}: is no YAML: {' '.join(str(error).split())}") from None
    if isinstance(said, list):
        said = {"checks": said}
    if not isinstance(said, dict) or not said.keys() <= {"checks", "passing"}:
        raise StartError(f"{file}: has `checks`, a list, and at most `passing` beside it")
    return said


def _plan(fields: dict[str, Any], checks: Path | None) -> Plan:
    try:
        return msgspec.convert(fields, NewSwap).plan()
    except (msgspec.ValidationError, InvalidRequest) as error:
        problem = error.message if isinstance(error, InvalidRequest) else str(error)
        place = f"{checks}" if checks is not None and "checks" in problem else "swap"
        raise StartError(f"{place}: {problem}") from None
