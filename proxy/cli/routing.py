"""`tollway route`: what would become of a prompt."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from proxy import wishes as wish_list
from proxy.auth import ANONYMOUS
from proxy.cli.asking import ConfigOption, DataOption, JsonOption
from proxy.cli.deciding import KeyOption, UrlOption, declared_router, served
from proxy.cli.output import Grid, console, note, print_json
from proxy.errors import ApiError, StartError
from proxy.explain import explained, parse

app = typer.Typer(add_completion=False)


@app.command()
def route(
    prompt: Annotated[str, typer.Argument(help="What a user would say")],
    model: Annotated[str, typer.Option(help="The name that the client asks for")] = "auto",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The client's maximum")] = None,
    input_tokens: Annotated[
        int | None, typer.Option(min=0, help="As if the prompt were so long")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="As in cost=0.7,latency=0.2")] = None,
    max_cost_usd: Annotated[str | None, typer.Option(help="Most that it may cost")] = None,
    max_latency_ms: Annotated[str | None, typer.Option(help="Most to the first token")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Show where a prompt would go, and why; by the configuration alone without --url."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if input_tokens is not None:
        body["input_tokens"] = input_tokens
    headers = {
        name: text
        for name, text in (
            ("x-tollway-weights", weights),
            ("x-tollway-max-cost-usd", max_cost_usd),
            ("x-tollway-max-latency-ms", max_latency_ms),
        )
        if text is not None
    }
    if url is not None:
        shown = served(url, key, "/v1/route", body, headers)
    else:
        shown = _decided(config, data, body, headers)
    if json:
        print_json(shown)
        return
    _print(shown)
    if url is None:
        note("by the configuration alone; with --url a server adds what it measured, and budgets")


def _decided(
    config: str | None, data: str | None, body: dict[str, Any], headers: dict[str, str]
) -> dict[str, Any]:
    """What a server without any figures and budgets would do. Raises `StartError`."""
    router = declared_router(config, data)
    try:
        request = parse(msgspec.json.encode(body))
        wishes = wish_list.read({n.encode(): text.encode() for n, text in headers.items()})
        decision = router.decide(router.find(ANONYMOUS, request.model), request, wishes)
    except ApiError as error:
        raise StartError(error.message) from None
    return explained(request, decision, router.table)


def _print(shown: dict[str, Any]) -> None:
    """The route as a table, and who was left out."""
    analysis = shown["analysis"]
    if analysis is not None:
        words = ("task", "complexity", "domain", "language")
        console.print(", ".join(f"{word} {analysis[word]}" for word in words))
    if shown["budget_left"] is not None:
        console.print(f"{shown['budget_left']:.0%} of the budget left")
    if shown["error"] is not None:
        console.print(f"{shown['error']['status']}: {shown['error']['message']}")
        return
    grid = Grid("", "target", "why", numbers=("score", "cost", "ms"))
    for place, choice in enumerate(shown["choices"], 1):
        grid.add(
            str(place),
            choice["target"],
            choice["reason"],
            _number(choice["score"], ".3f"),
            _number(choice["estimated_cost_usd"], ".6f"),
            _number(choice["estimated_latency_ms"], ".0f"),
        )
    for rejection in shown["rejections"]:
        grid.add("-", rejection["target"], rejection["reason"], "", "", "", style="dim")
    grid.print()
    for cause, chain in shown["fallbacks"].items():
        console.print(f"{cause}: then {', '.join(chain) or 'nothing that fits'}")
    strategy = shown["strategy"]
    if strategy is not None:
        most = _number(strategy["worst_case_cost_usd"], ".6f") or "unknown"
        console.print(f"asked as a {strategy['kind']}: ${most} at most")
    console.print(f"policy {shown['policy']}, decision {shown['decision']}", style="dim")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
