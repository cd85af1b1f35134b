"""What the commands for teams and for organisations have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import typer

from proxy.cli import asking
from proxy.cli.output import Grid, console, print_json, when
from proxy.errors import StartError
from proxy.ledger.errors import LedgerRefusal
from proxy.ledger.protocol import (
    BudgetSettings,
    CreateGroup,
    GroupChanged,
    GroupRecord,
    GroupSettings,
    Limits,
    UpdateGroup,
)
from proxy.ledger.sync import SyncLedger

Kind = Literal["team", "organisation"]

NameArgument = Annotated[str, typer.Argument(help="What people call it")]
NameOption = Annotated[str | None, typer.Option(help="What people call it")]
IdOption = Annotated[str, typer.Option("--id", help="The id it gets; a new one if left out")]
ModelOption = Annotated[
    list[str] | None, typer.Option(help="Its keys may only name this; repeatable")
]
BlockedOption = Annotated[
    bool | None, typer.Option("--blocked/--no-blocked", help="Refuse all its keys, or no longer")
]


def create(
    kind: Kind,
    settings: GroupSettings,
    budgets: tuple[BudgetSettings, ...],
    group_id: str,
    config: str | None,
    data: str | None,
) -> None:
    """Make a group and say its id."""
    op = CreateGroup(0, kind, settings, budgets, group_id)
    with asking.ledger_of(config, data) as ledger:
        made = asking.answered(ledger.call(op), GroupChanged)
    console.print(made.group.group_id, soft_wrap=True)


def print_groups(kind: Kind, config: str | None, data: str | None, *, json: bool) -> None:
    """Show every group of a kind, deleted ones too."""
    with asking.ledger_of(config, data) as ledger:
        groups = [group for group in ledger.groups() if group.kind == kind]
    groups.sort(key=lambda group: (group.created_at, group.group_id))
    if json:
        print_json([_shown(group) for group in groups])
        return
    parents = ("organisation",) if kind == "team" else ()
    limits = ("rpm", "tpm", "concurrent")
    texts = ("id", "name", *parents, "models", "created", "state")
    grid = Grid(*texts, numbers=limits)
    for group in groups:
        settings = group.settings
        grid.add(
            group.group_id,
            settings.name,
            *([settings.organisation_id] if parents else []),
            ", ".join(settings.models) or "all",
            when(group.created_at),
            _state(group),
            *map(_limit, msgspec.structs.astuple(settings.limits)),
        )
    grid.print()


def update(
    kind: Kind,
    group_id: str,
    changes: dict[str, Any],
    limits: dict[str, int | None],
    config: str | None,
    data: str | None,
) -> None:
    """Change what is named."""
    if not changes and not limits:
        raise StartError(f"{kind}s update: nothing to change; see 'tollway {kind}s update --help'")
    with asking.ledger_of(config, data) as ledger:
        there = _group(ledger, kind, group_id).settings
        if limits:
            changes["limits"] = asking.changed_limits(there.limits, limits)
        ledger.call(UpdateGroup(0, group_id, changes))
    console.print(f"{group_id} is changed")


def delete(kind: Kind, group_id: str, config: str | None, data: str | None) -> None:
    """End a group for good."""
    with asking.ledger_of(config, data) as ledger:
        _group(ledger, kind, group_id)
        ledger.call(UpdateGroup(0, group_id, deleted=True))
    console.print(f"{group_id} is deleted")


def settings(
    name: str,
    models: list[str] | None,
    metadata: str | None,
    limits: dict[str, int | None],
    organisation: str = "",
) -> GroupSettings:
    """Settings of a new group, from options."""
    asking.label(name)
    return GroupSettings(
        name=name,
        organisation_id=organisation,
        models=asking.listed(models) or (),
        limits=Limits(**limits),
        metadata=asking.metadata(metadata) or {},
    )


def changes(
    name: str | None,
    models: list[str] | None,
    blocked: bool | None,
    metadata: str | None,
    organisation: str | None = None,
) -> dict[str, Any]:
    """The settings that options name, by field."""
    return asking.named(
        name=asking.label(name),
        organisation_id=organisation,
        models=asking.listed(models),
        blocked=blocked,
        metadata=asking.metadata(metadata),
    )


def _group(ledger: SyncLedger, kind: Kind, group_id: str) -> GroupRecord:
    """The group, if there still is one of that kind; raises `LedgerRefusal`."""
    for group in ledger.groups():
        if group.group_id == group_id and group.kind == kind and group.deleted_at is None:
            return group
    raise LedgerRefusal("not_found", f"there is no {kind} {group_id[:100]!r}")


def _state(group: GroupRecord) -> str:
    if group.deleted_at is not None:
        return f"deleted {when(group.deleted_at)}"
    return "blocked" if group.settings.blocked else "active"


def _shown(group: GroupRecord) -> dict[str, Any]:
    """A group as JSON: flat, times in Unix seconds."""
    fields = msgspec.to_builtins(group.settings)
    if group.kind == "organisation":
        del fields["organisation_id"]
    return {
        "id": group.group_id,
        **fields,
        "created_at": group.created_at,
        "deleted_at": group.deleted_at,
    }


def _limit(limit: int | None) -> str:
    return "" if limit is None else f"{limit:,}"
