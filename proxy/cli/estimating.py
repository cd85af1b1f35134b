"""`tollway estimate`: what a month would cost, by virtual model."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
import typer

from policies.base import Denial
from proxy import planning
from proxy.auth import ANONYMOUS
from proxy.cli import asking
from proxy.cli.asking import ConfigOption, DataOption, JsonOption
from proxy.cli.deciding import declared_router
from proxy.cli.output import Grid, console, note, print_json
from proxy.errors import ApiError, StartError
from proxy.explain import MOST_INPUT_TOKENS, parse
from proxy.planning import NO_HISTORY, Estimate, Load
from proxy.pricing import Price, format_usd
from proxy.routing import Router
from proxy.targets import Target, TargetTable, VirtualModel

app = typer.Typer(add_completion=False)

_MOST_REQUESTS = 10**12


@app.command()
def estimate(
    requests_per_day: Annotated[
        int, typer.Option(min=1, max=_MOST_REQUESTS, help="How many a day")
    ],
    tokens: Annotated[
        str, typer.Option(help="Of a request: 1500, or 1200+300 of input and output")
    ],
    model: Annotated[
        list[str] | None, typer.Option(help="Only this virtual model or target; repeatable")
    ] = None,
    since: Annotated[str, typer.Option(help="Shares since 2026-11-20, or 7d ago")] = "30d",
    config: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Estimate what a month of 30 days would cost, for each model that could get the requests."""
    load = _load(requests_per_day, tokens)
    begin = asking.moment(since, "--since") or 0
    router = declared_router(config, data)
    table = router.table
    histories = planning.histories(asking.ledger_to_read(config, data), since=begin)
    found = []
    for name, asked in _asked(table, model):
        history = histories.get(name, NO_HISTORY) if name in table.models else NO_HISTORY
        declared = _declared(router, asked, name, load)
        prices = _prices(table, (*(taken.target for taken in history.taken), *declared))
        found.append(planning.estimate(name, load, history, prices, declared))
    mixed = planning.mixed_nanousd(found)
    if json:
        print_json(_shown(found, mixed, begin))
        return
    _print(found)
    if mixed is not None and len(found) > 1:
        console.print(f"shared out as the requests so far: {format_usd(mixed)} a month")
    for line in _remarks(found):
        note(line)


def _load(requests_per_day: int, tokens: str) -> Load:
    read, plus, written = tokens.partition("+")
    parts = (read, written) if plus else (read,)
    if not all(part.isascii() and part.isdecimal() and len(part) < 12 for part in parts):
        raise StartError(f"--tokens: {tokens[:40]!r} is no number; write 1500, or 1200+300")
    counts = [int(part) for part in parts]
    if not 0 < sum(counts) <= MOST_INPUT_TOKENS:
        raise StartError(f"--tokens: expected 1 to {MOST_INPUT_TOKENS}, not {tokens}")
    return Load(
        requests_per_day=requests_per_day,
        tokens=sum(counts),
        output_tokens=counts[1] if plus else None,
    )


def _asked(
    table: TargetTable, names: list[str] | None
) -> Iterable[tuple[str, VirtualModel | Target]]:
    """The models that are named, or all virtual ones; raises `StartError`."""
    if names is None:
        return table.models.items()
    found: list[tuple[str, VirtualModel | Target]] = []
    for name in dict.fromkeys(names):
        meant = table.find(name)
        if meant is None:
            raise StartError(f"--model: there is no model {name!r}; see 'tollway check'")
        found.append((name, meant))
    return found


def _prices(table: TargetTable, names: Iterable[str]) -> Mapping[str, Price | None]:
    """Of those that are there, behind `provider/*` too."""
    found = ((name, table.target(name)) for name in names)
    return {name: target.price for name, target in found if target is not None}


def _declared(
    router: Router, asked: VirtualModel | Target, name: str, load: Load
) -> tuple[str, ...]:
    """The route of a plain request of that size by the configuration alone; none if refused."""
    if isinstance(asked, Target):
        return (asked.name,)
    does_chat = any("chat" in target.capabilities for target in asked.targets)
    body: dict[str, Any] = {"model": name}
    if does_chat:
        body["messages"] = [{"role": "user", "content": ""}]
        body["input_tokens"] = load.tokens - (load.output_tokens or 0)
    else:
        body["input"] = ""
    try:
        outcome = router.decide(
            router.find(ANONYMOUS, name), parse(msgspec.json.encode(body)), at=time.time()
        ).outcome
    except ApiError:
        return ()
    return () if isinstance(outcome, Denial) else tuple(c.target for c in outcome.choices)


def _shown(found: list[Estimate], mixed: int | None, since: int) -> dict[str, Any]:
    """As programs have it; amounts are nano-USD."""
    models = [
        {
            "model": each.model,
            "basis": "ledger" if each.is_measured else "declared",
            "history_requests": each.history_requests,
            "requests_per_month": each.requests,
            "input_tokens": each.input_tokens,
            "output_tokens": each.output_tokens,
            "cost_nanousd": each.cost_nanousd,
            "is_whole": each.is_whole,
            "targets": [msgspec.to_builtins(part) for part in each.parts],
        }
        for each in found
    ]
    return {
        "days": planning.DAYS, "since": since, "models": models, "mixed_nanousd": mixed
    }  # fmt: skip


def _print(found: list[Estimate]) -> None:
    grid = Grid("model", "target", "share by", numbers=("share", "tokens", "a month"))
    for each in found:
        basis = (
            f"{each.history_requests:,} request{'' if each.history_requests == 1 else 's'}"
            if each.is_measured
            else "the declared route"
            if each.parts
            else "no route leads anywhere"
        )
        tokens = f"{each.input_tokens:,}+{each.output_tokens:,}"
        total = _total(each)
        if len(each.parts) == 1 and each.is_whole:
            part = each.parts[0]
            grid.add(each.model, part.target, basis, _share(part), tokens, total)
            continue
        grid.add(each.model, "", basis, "", tokens, total)
        for part in each.parts:
            cost = "not known" if part.cost_nanousd is None else format_usd(part.cost_nanousd)
            grid.add("", part.target, part.problem, _share(part), "", cost, style="dim")
    grid.print()


def _total(found: Estimate) -> str:
    if found.is_whole:
        return format_usd(found.cost_nanousd)
    if all(part.cost_nanousd is None for part in found.parts):
        return "not known"
    return f"at least {format_usd(found.cost_nanousd)}"


def _share(part: planning.Part) -> str:
    return f"{100 * part.attempts / part.of_requests:.1f} %"


def _remarks(found: list[Estimate]) -> Iterable[str]:
    """What must be known to read the table."""
    if any(each.parts and not each.is_measured for each in found):
        yield (
            "where the ledger has no requests, the first target of the declared route is taken for "
            "all, whatever a policy would make of real prompts"
        )
    for each in found:
        for part in each.parts:
            if part.cost_nanousd is None:
                yield f"{each.model}: {part.target} is not in the sum: {part.problem}"
