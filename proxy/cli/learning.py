"""`tollway learn`."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from policies.base import Question
from policies.learned import Learned
from proxy import request_store, serve
from proxy.cli import asking
from proxy.cli.asking import ConfigOption, DataOption, JsonOption, UntilOption
from proxy.cli.output import Grid, console, print_json
from proxy.cli.replaying import reading_requests, table_of
from proxy.errors import StartError
from proxy.learning import SURE, Example, learn, score
from proxy.learning import Learned as Found
from proxy.ledger import answers
from proxy.targets import VirtualModel

app = typer.Typer(add_completion=False)

# What tells the tiers apart where only prices do: a request of middling size.
_MIDDLING = Question(needs=frozenset({"chat"}), input_tokens=1000)
_SHARES = (0.1, 0.3, 0.5)
# The latest ones. A table of more says the same.
_MOST_REQUESTS = 100_000


@app.command(name="learn")
def learn_command(
    model: Annotated[
        str, typer.Option(help="The virtual model whose requests to learn of")
    ] = "auto",
    since: Annotated[str, typer.Option(help="2026-11-20, or 30d ago")] = "30d",
    until: UntilOption = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Write the weights to this file; without it they are only judged"),
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Fit the policy 'learned' to your own requests, and to what callers said of the answers."""
    begin, end = asking.moment(since, "--since"), asking.moment(until, "--until")
    folder = asking.data_folder(config, data).path
    worth = answers.worth_of_answers(asking.ledger_to_read(config, data), begin or 0)
    loaded = serve.load_config(serve.Options(config=config, data=data), os.environ)
    found_model = table_of(loaded).models.get(model)
    if found_model is None:
        raise StartError(f"--model: there is no virtual model {model[:100]!r}")
    policy = found_model.policy if isinstance(found_model.policy, Learned) else Learned()
    cheap = _cheap_tier(found_model, policy)
    latest: deque[Example] = deque(maxlen=_MOST_REQUESTS)
    with reading_requests():
        for asked, _ in request_store.read(folder, begin or 0, end):
            if asked.model == model and asked.readings:
                target, said = worth.get(asked.request_id, ("", None))
                latest.append(
                    Example(
                        request_id=asked.request_id,
                        readings=asked.readings,
                        worth=said if target in cheap else None,
                    )
                )
    examples = list(latest)
    try:
        found = learn(examples, policy.difficulty)
    except ValueError as error:
        raise StartError(
            f"{folder / request_store.FILE}: {error}; they are written down with "
            "'logging: {requests: true}' in the configuration"
        ) from None
    if output is not None:
        _write(output, found)
    shares = _shares(examples, policy)
    if json:
        print_json({"model": model, **_as_json(found), "strong_share_now": shares})
        return
    _print(found, shares, output)


def _cheap_tier(model: VirtualModel, policy: Learned) -> frozenset[str]:
    cheap, _, _ = policy.tiers(_MIDDLING, model.candidates)
    return frozenset(candidate.name for candidate in cheap)


def _shares(examples: list[Example], policy: Learned) -> dict[str, float]:
    """By what the dial says: how much goes to the strong tier by the table in use."""
    scores = [score(policy.difficulty, each) for each in examples]
    limits = {str(share): policy.calibration.threshold(share) for share in _SHARES}
    return {
        share: sum(value >= limit for value in scores) / len(scores)
        for share, limit in limits.items()
    }


def _write(path: Path, found: Found) -> None:
    """In one piece: a server that starts meanwhile reads the old file or the new one."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(found.own), indent=1))
        fresh.replace(path)
    except OSError as error:
        raise StartError(f"--output: {path}: {error.strerror}") from None


def _as_json(found: Found) -> dict[str, Any]:
    refit = found.refit
    return {
        "requests": found.requests,
        "labels": found.labels,
        "refit": None
        if refit is None
        else {
            "held_back": refit.held_back,
            "auc_before": refit.auc_before,
            "auc_after": refit.auc_after,
            "better_in": refit.better_in,
            "kept": refit.is_kept,
        },
    }


def _print(found: Found, shares: dict[str, float], output: Path | None) -> None:
    console.print(f"{found.requests:,} requests, {found.labels:,} judged answers of the cheap tier")
    refit = found.refit
    if refit is None:
        console.print("too few good and bad answers to fit weights to: those in use stay")
    else:
        console.print(
            f"of {refit.held_back:,} answers that were held back, a bad one scores above a good "
            f"one in {refit.auc_before:.1%} of pairs with the weights in use, "
            f"in {refit.auc_after:.1%} with new ones; better in {refit.better_in:.0%} of resamples "
            f"({SURE:.0%} are needed)"
        )
        console.print("the new weights are taken" if refit.is_kept else "the weights in use stay")
    console.print()
    grid = Grid("share", numbers=("goes to the strong tier now", "with the new table"))
    for share, part in shares.items():
        grid.add(share, f"{part:.1%}", f"{float(share):.1%}")
    grid.print()
    if output is None:
        console.print("nothing is written without --output", style="dim")
    else:
        console.print(f"to use it: policy: {{name: learned, weights: {output}}}")
