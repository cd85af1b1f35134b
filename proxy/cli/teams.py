"""`tollway teams`."""

from __future__ import annotations

from typing import Annotated

import typer

from proxy.cli import asking, groups
from proxy.cli.asking import (
    BudgetOption,
    ConcurrentOption,
    ConfigOption,
    DataOption,
    JsonOption,
    MetadataOption,
    RpmOption,
    TpmOption,
    WindowOption,
)
from proxy.cli.groups import BlockedOption, IdOption, ModelOption, NameArgument, NameOption

app = typer.Typer(
    no_args_is_help=True, help="Teams, whose budgets and limits apply to all their keys."
)

IdArgument = Annotated[str, typer.Argument(help="As 'tollway teams list' shows it")]
OrganisationOption = Annotated[str | None, typer.Option(help="Organisation it belongs to")]


@app.command("create")
def create(
    name: NameArgument,
    group_id: IdOption = "",
    organisation: OrganisationOption = None,
    model: ModelOption = None,
    rpm: RpmOption = None,
    tpm: TpmOption = None,
    concurrent: ConcurrentOption = None,
    metadata: MetadataOption = None,
    budget: BudgetOption = None,
    window: WindowOption = "month",
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Make a team, and print its id."""
    limits = asking.limit_changes(rpm, tpm, concurrent)
    settings = groups.settings(name, model, metadata, limits, organisation or "")
    budgets = asking.own_budgets(budget, window)
    groups.create("team", settings, budgets, group_id, config, data)


@app.command("list")
def list_teams(
    config: ConfigOption = None, data: DataOption = None, json: JsonOption = False
) -> None:
    """Show the teams there are."""
    groups.print_groups("team", config, data, json=json)


@app.command("update")
def update(
    group_id: IdArgument,
    name: NameOption = None,
    organisation: OrganisationOption = None,
    model: ModelOption = None,
    blocked: BlockedOption = None,
    rpm: RpmOption = None,
    tpm: TpmOption = None,
    concurrent: ConcurrentOption = None,
    metadata: MetadataOption = None,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Change what is named; an empty text takes away: --model '', --rpm ''."""
    changes = groups.changes(name, model, blocked, metadata, organisation)
    limits = asking.limit_changes(rpm, tpm, concurrent)
    groups.update("team", group_id, changes, limits, config, data)


@app.command("delete")
def delete(group_id: IdArgument, config: ConfigOption = None, data: DataOption = None) -> None:
    """Delete a team for good; refused while keys still belong to it."""
    groups.delete("team", group_id, config, data)
