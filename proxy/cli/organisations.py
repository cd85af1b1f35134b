"""`tollway organisations`."""

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
    no_args_is_help=True, help="Organisations, whose budgets and limits apply to all their teams."
)

IdArgument = Annotated[str, typer.Argument(help="As 'tollway organisations list' shows it")]


@app.command("create")
def create(
    name: NameArgument,
    group_id: IdOption = "",
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
    """Make an organisation, and print its id."""
    limits = asking.limit_changes(rpm, tpm, concurrent)
    settings = groups.settings(name, model, metadata, limits)
    budgets = asking.own_budgets(budget, window)
    groups.create("organisation", settings, budgets, group_id, config, data)


@app.command("list")
def list_organisations(
    config: ConfigOption = None, data: DataOption = None, json: JsonOption = False
) -> None:
    """Show the organisations there are."""
    groups.print_groups("organisation", config, data, json=json)


@app.command("update")
def update(
    group_id: IdArgument,
    name: NameOption = None,
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
    changes = groups.changes(name, model, blocked, metadata)
    limits = asking.limit_changes(rpm, tpm, concurrent)
    groups.update("organisation", group_id, changes, limits, config, data)


@app.command("delete")
def delete(group_id: IdArgument, config: ConfigOption = None, data: DataOption = None) -> None:
    """Delete an organisation for good; refused while teams still belong to it."""
    groups.delete("organisation", group_id, config, data)
