"""`tollway recommend`: which targets suit a task."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from policies import weights as weighing
from proxy.auth import ANONYMOUS
from proxy.cli.asking import ConfigOption, DataOption, JsonOption, named
from proxy.cli.deciding import KeyOption, UrlOption, declared_router, served
from proxy.cli.output import Grid, console, note, print_json
from proxy.errors import ApiError, StartError
from proxy.recommending import DEFAULT_INPUT_TOKENS, parse, recommended

app = typer.Typer(add_completion=False)


@app.command()
def recommend(
    task: Annotated[str, typer.Argument(help="What is to be done, in a sentence or two")],
    input_tokens: Annotated[int, typer.Option(min=0, help="Of a request")] = DEFAULT_INPUT_TOKENS,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer")] = None,
    require: Annotated[
        list[str] | None, typer.Option(help="A capability: tools, vision ...; repeatable")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="A target, provider or model; repeatable")
    ] = None,
    region: Annotated[list[str] | None, typer.Option(help="Where data may go; repeatable")] = None,
    zero_retention: Annotated[
        bool, typer.Option("--zero-retention", help="Only where nothing is kept")
    ] = False,
    max_cost_usd: Annotated[float | None, typer.Option(help="Most that a request may cost")] = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="Most to the first token")] = None,
    min_reliability: Annotated[float | None, typer.Option(help="0 to 1")] = None,
    weights: Annotated[str | None, typer.Option(help="As in cost=0.7,latency=0.2")] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Rank the targets for a task, with reasons; by the configuration alone without --url."""
    constraints = named(
        required_capabilities=require,
        excluded_models=exclude,
        regions=region,
        zero_retention=zero_retention or None,
        max_cost_per_request=max_cost_usd,
        max_latency_ms=max_latency_ms,
        min_reliability=min_reliability,
    )
    body: dict[str, Any] = {"task": task, "input_tokens": input_tokens}
    body |= named(max_tokens=max_tokens, constraints=constraints or None)
    if weights is not None:
        body["weights"] = _weights(weights)
    if url is not None:
        shown = served(url, key, "/v1/recommend", body)
    else:
        try:
            asked = parse(msgspec.json.encode(body))
            shown = recommended(declared_router(config, data), ANONYMOUS, asked)
        except ApiError as error:
            raise StartError(error.message) from None
    if json:
        print_json(shown)
        return
    _print(shown)
    if url is None:
        note("by the configuration alone; with --url a server adds what it measured")


def _weights(text: str) -> dict[str, float]:
    try:
        return msgspec.structs.asdict(weighing.parse(text))
    except ValueError as error:
        raise StartError(f"--weights: {error}") from None


def _print(shown: dict[str, Any]) -> None:
    """The targets with their reasons, and who was left out."""
    analysis = shown["analysis"]
    words = ("task", "complexity", "domain", "language")
    console.print(", ".join(f"{word} {analysis[word]}" for word in words))
    grid = Grid("", "target", "why", numbers=("score",))
    for place, choice in enumerate(shown["choices"], 1):
        reasons = "; ".join(choice["reasons"])
        grid.add(str(place), choice["target"], reasons, f"{choice['score']:.3f}")
    for rejection in shown["rejections"]:
        grid.add("-", rejection["target"], rejection["reason"], "", style="dim")
    grid.print()
    if not shown["choices"]:
        console.print("nothing that there is suits")
