"""`/admin/v1/teams` and `/admin/v1/organisations`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from proxy.admin.books import Books
from proxy.admin.budgets import WithBudgets
from proxy.admin.limits import ChangedLimits, ShownLimits
from proxy.admin.operations import Operation, operation
from proxy.admin.shapes import Name, Shown, iso
from proxy.ledger.protocol import (
    CreateGroup,
    GroupChanged,
    GroupRecord,
    GroupSettings,
    UpdateGroup,
)

GroupId = Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.@-]{0,127})?$")]
"""It stands in scopes, whose own signs it must not have."""


class NewOrganisation(WithBudgets, frozen=True, kw_only=True):
    """`POST /admin/v1/organisations`."""

    name: Name
    id: GroupId = ""
    """A new one if empty."""
    models: tuple[str, ...] = ()
    blocked: bool = False
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)


class NewTeam(NewOrganisation, frozen=True, kw_only=True):
    """`POST /admin/v1/teams`."""

    organisation_id: str | None = None


class ChangedOrganisation(ChangedLimits, frozen=True, kw_only=True):
    """`PATCH /admin/v1/organisations/{id}`: what is not named stays; null takes away."""

    name: Name | UnsetType = UNSET
    models: tuple[str, ...] | UnsetType = UNSET
    blocked: bool | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class ChangedTeam(ChangedOrganisation, frozen=True, kw_only=True):
    """`PATCH /admin/v1/teams/{id}`."""

    organisation_id: str | UnsetType | None = UNSET


class Organisation(ShownLimits, frozen=True, kw_only=True):
    """An organisation."""

    id: str
    name: str
    models: tuple[str, ...]
    blocked: bool
    metadata: dict[str, Any]
    created_at: str | None
    deleted_at: str | None


class Team(Organisation, frozen=True, kw_only=True):
    """A team."""

    organisation_id: str | None


class OrganisationList(Shown, frozen=True, kw_only=True):
    """Organisations."""

    data: list[Organisation]


class TeamList(Shown, frozen=True, kw_only=True):
    """Teams."""

    data: list[Team]


class GroupsApi:
    """The operations on teams and organisations."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def operations(self) -> list[Operation]:
        """All of them."""
        teams, organisations = "/admin/v1/teams", "/admin/v1/organisations"
        team, organisation = f"{teams}/{{team_id}}", f"{organisations}/{{organisation_id}}"
        return [
            operation("GET", teams, self.list_teams, tag="teams"),
            operation("POST", teams, self.create_team, tag="teams", status=201),
            operation("GET", team, self.get_team, tag="teams"),
            operation("PATCH", team, self.update_team, tag="teams"),
            operation("DELETE", team, self.delete_team, tag="teams"),
            operation("GET", organisations, self.list_organisations, tag="organisations"),
            operation(
                "POST", organisations, self.create_organisation, tag="organisations", status=201
            ),
            operation("GET", organisation, self.get_organisation, tag="organisations"),
            operation("PATCH", organisation, self.update_organisation, tag="organisations"),
            operation("DELETE", organisation, self.delete_organisation, tag="organisations"),
        ]

    async def list_teams(self) -> TeamList:
        """Every team that is not deleted."""
        return TeamList(data=[shown_team(group) for group in living(self._books, "team")])

    async def create_team(self, body: NewTeam) -> Team:
        """Make a team, with budgets of its own if given."""
        organisation_id = await self._organisation(body.organisation_id)
        return shown_team(await self._make("team", body, organisation_id))

    async def get_team(self, team_id: str) -> Team:
        """One team."""
        return shown_team(await self._books.group(team_id, "team"))

    async def update_team(self, team_id: str, body: ChangedTeam) -> Team:
        """Change any of a team's settings."""
        changes: dict[str, Any] = {}
        if not isinstance(body.organisation_id, UnsetType):
            changes["organisation_id"] = await self._organisation(body.organisation_id)
        return shown_team(await self._change("team", team_id, body, changes))

    async def delete_team(self, team_id: str) -> Team:
        """End a team; 409 while keys belong to it."""
        return shown_team(await self._end("team", team_id))

    async def list_organisations(self) -> OrganisationList:
        """Every organisation that is not deleted."""
        groups = living(self._books, "organisation")
        return OrganisationList(data=[_shown_organisation(group) for group in groups])

    async def create_organisation(self, body: NewOrganisation) -> Organisation:
        """Make an organisation, with budgets of its own if given."""
        return _shown_organisation(await self._make("organisation", body, ""))

    async def get_organisation(self, organisation_id: str) -> Organisation:
        """One organisation."""
        return _shown_organisation(await self._books.group(organisation_id, "organisation"))

    async def update_organisation(
        self, organisation_id: str, body: ChangedOrganisation
    ) -> Organisation:
        """Change any of an organisation's settings."""
        return _shown_organisation(await self._change("organisation", organisation_id, body, {}))

    async def delete_organisation(self, organisation_id: str) -> Organisation:
        """End an organisation; 409 while teams belong to it."""
        return _shown_organisation(await self._end("organisation", organisation_id))

    async def _make(
        self, kind: Literal["team", "organisation"], body: NewOrganisation, organisation_id: str
    ) -> GroupRecord:
        settings = GroupSettings(
            name=body.name,
            organisation_id=organisation_id,
            models=self._books.known_models(body.models),
            blocked=body.blocked,
            limits=body.limits(),
            metadata=body.metadata,
        )
        op = CreateGroup(0, kind, settings, body.own_budgets(), body.id)
        return (await self._books.call(op, GroupChanged)).group

    async def _change(
        self, kind: str, group_id: str, body: ChangedOrganisation, changes: dict[str, Any]
    ) -> GroupRecord:
        record = await self._books.group(group_id, kind)
        for name in ("name", "blocked", "metadata"):
            if (value := getattr(body, name)) is not UNSET:
                changes[name] = value
        if not isinstance(body.models, UnsetType):
            changes["models"] = self._books.known_models(body.models)
        if body.changes_limits():
            changes["limits"] = msgspec.to_builtins(body.changed(record.settings.limits))
        op = UpdateGroup(0, group_id, changes)
        return (await self._books.call(op, GroupChanged)).group

    async def _end(self, kind: str, group_id: str) -> GroupRecord:
        await self._books.group(group_id, kind)
        op = UpdateGroup(0, group_id, deleted=True)
        return (await self._books.call(op, GroupChanged)).group

    async def _organisation(self, organisation_id: str | None) -> str:
        if not organisation_id:
            return ""
        return await self._books.living_group(organisation_id, "organisation", "organisation_id")


def living(books: Books, kind: str) -> list[GroupRecord]:
    """The teams, or the organisations, that are not deleted; oldest first."""
    found = [g for g in books.ledger.groups.values() if g.kind == kind and g.deleted_at is None]
    return sorted(found, key=lambda group: (group.created_at, group.group_id))


def shown_team(group: GroupRecord) -> Team:
    """A team as the API shows it."""
    return Team(**_fields(group), organisation_id=group.settings.organisation_id or None)


def _shown_organisation(group: GroupRecord) -> Organisation:
    return Organisation(**_fields(group))


def _fields(group: GroupRecord) -> dict[str, Any]:
    settings = group.settings
    return {
        **msgspec.structs.asdict(settings.limits),
        "id": group.group_id,
        "name": settings.name,
        "models": settings.models,
        "blocked": settings.blocked,
        "metadata": settings.metadata,
        "created_at": iso(group.created_at),
        "deleted_at": iso(group.deleted_at),
    }
