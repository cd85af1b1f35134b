"""`/team/…`: teams with LiteLLM's field names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from proxy.admin.books import Books
from proxy.admin.groups import GroupId, living
from proxy.admin.limits import Rate
from proxy.admin.litellm.bodies import LiteLlmBody
from proxy.admin.litellm.durations import duration_of
from proxy.admin.litellm.keys import (
    LiteLlmKey,
    changed_limits,
    known_models,
    shown_keys,
    spent_by_key,
)
from proxy.admin.litellm.money import Money, ReferringFields, Standing
from proxy.admin.operations import Operation, operation
from proxy.admin.shapes import Body, Shown, Usd, iso, usd, usd_or_none
from proxy.errors import InvalidRequest
from proxy.ledger.protocol import (
    CreateGroup,
    GroupChanged,
    GroupRecord,
    GroupSettings,
    KeyChanged,
    KeyRecord,
    Limits,
    UpdateGroup,
    UpdateKey,
)


class TeamFields(ReferringFields, frozen=True, kw_only=True):
    """What `/team/new` and `/team/update` have in common."""

    team_alias: str | UnsetType | None = UNSET
    organization_id: str | UnsetType | None = UNSET
    models: list[str] | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType | None = UNSET
    blocked: bool | UnsetType | None = UNSET
    tpm_limit: Rate | UnsetType | None = UNSET
    rpm_limit: Rate | UnsetType | None = UNSET
    max_parallel_requests: Rate | UnsetType | None = UNSET


class LiteLlmNewTeam(TeamFields, frozen=True, kw_only=True):
    """`/team/new`."""

    team_id: GroupId | None = None


class UpdatedTeam(TeamFields, frozen=True, kw_only=True):
    """`/team/update`: what is not named stays; null takes away."""

    team_id: str


class OneTeam(LiteLlmBody, frozen=True, kw_only=True):
    """`/team/block` and `/team/unblock`."""

    team_id: str


class DeletedTeams(LiteLlmBody, frozen=True, kw_only=True):
    """`/team/delete`."""

    team_ids: list[str]


class TeamQuery(Body, frozen=True, kw_only=True):
    """Which team."""

    team_id: str


class TeamListQuery(Body, frozen=True, kw_only=True):
    """Which teams."""

    organization_id: str | None = None


class LiteLlmTeam(Shown, frozen=True, kw_only=True):
    """LiteLLM's `LiteLLM_TeamTable`."""

    team_id: str
    team_alias: str
    organization_id: str | None
    models: tuple[str, ...]
    metadata: dict[str, Any]
    blocked: bool
    spend: Usd
    """In the open window of its budget; where it has none, what its keys have spent in all."""
    max_budget: Usd | None
    soft_budget: Usd | None
    budget_duration: str | None
    budget_reset_at: str | None
    budget_id: str | None
    tpm_limit: int | None
    rpm_limit: int | None
    max_parallel_requests: int | None
    created_at: str | None
    members_with_roles: list[dict[str, str]] = msgspec.field(default_factory=list)


class ListedTeam(LiteLlmTeam, frozen=True, kw_only=True):
    """A team in `/team/list`."""

    keys: list[LiteLlmKey]
    team_memberships: list[dict[str, str]] = msgspec.field(default_factory=list)


class TeamInfo(Shown, frozen=True, kw_only=True):
    """Answers `/team/info`."""

    team_id: str
    team_info: LiteLlmTeam
    keys: list[LiteLlmKey]
    team_memberships: list[dict[str, str]] = msgspec.field(default_factory=list)


class TeamUpdated(Shown, frozen=True, kw_only=True):
    """Answers `/team/update`."""

    team_id: str
    data: LiteLlmTeam


class TeamsDeleted(Shown, frozen=True, kw_only=True):
    """Answers `/team/delete`."""

    deleted_teams: list[str]


class LiteLlmTeams:
    """The operations on teams."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._money = Money(books)

    def operations(self) -> list[Operation]:
        """All of them."""
        return [
            operation("POST", "/team/new", self.new_team, tag="litellm"),
            operation("GET", "/team/info", self.team_info, tag="litellm"),
            operation("POST", "/team/update", self.update_team_id, tag="litellm"),
            operation("GET", "/team/list", self.list_team_ids, tag="litellm"),
            operation("POST", "/team/delete", self.delete_team_ids, tag="litellm"),
            operation("POST", "/team/block", self.block_team, tag="litellm"),
            operation("POST", "/team/unblock", self.unblock_team, tag="litellm"),
        ]

    async def new_team(self, body: LiteLlmNewTeam) -> LiteLlmTeam:
        """Make a team."""
        changes = {"name": body.team_id or "", **await self._changes(body, Limits())}
        op = CreateGroup(
            0,
            "team",
            msgspec.convert(changes, GroupSettings),
            await self._money.new_budgets(body),
            body.team_id or "",
        )
        return await self._shown((await self._books.call(op, GroupChanged)).group)

    async def team_info(self, query: TeamQuery) -> TeamInfo:
        """One team with its keys."""
        record = await self._books.group(query.team_id, "team")
        return TeamInfo(
            team_id=record.group_id,
            team_info=await self._shown(record),
            keys=await shown_keys(self._books, self._keys_of(record)),
        )

    async def update_team_id(self, body: UpdatedTeam) -> TeamUpdated:
        """Change a team and its budgets."""
        record = await self._books.group(body.team_id, "team")
        changes = await self._changes(body, record.settings.limits)
        await self._money.change(f"team:{record.group_id}", body)
        changed = await self._books.call(UpdateGroup(0, body.team_id, changes), GroupChanged)
        return TeamUpdated(team_id=body.team_id, data=await self._shown(changed.group))

    async def list_team_ids(self, query: TeamListQuery) -> list[ListedTeam]:
        """Every team with its keys."""
        records = [
            record
            for record in living(self._books, "team")
            if query.organization_id in (None, record.settings.organisation_id)
        ]
        teams = await self._shown_all(records)
        keys = await shown_keys(
            self._books, [key for record in records for key in self._keys_of(record)]
        )
        return [
            ListedTeam(
                **msgspec.structs.asdict(team),
                keys=[key for key in keys if key.team_id == team.team_id],
            )
            for team in teams
        ]

    async def delete_team_ids(self, body: DeletedTeams) -> TeamsDeleted:
        """End teams, and revoke their keys with them, as LiteLLM does."""
        if not body.team_ids:
            raise InvalidRequest("'team_ids' names no team", param="team_ids")
        records = [await self._books.group(team_id, "team") for team_id in body.team_ids]
        for record in records:
            for key in self._keys_of(record):
                await self._books.call(UpdateKey(0, key.key_id, revoked=True), KeyChanged)
            await self._books.call(UpdateGroup(0, record.group_id, deleted=True), GroupChanged)
        return TeamsDeleted(deleted_teams=body.team_ids)

    async def block_team(self, body: OneTeam) -> LiteLlmTeam:
        """Refuse the keys of a team until it is unblocked."""
        return await self._block(body.team_id, blocked=True)

    async def unblock_team(self, body: OneTeam) -> LiteLlmTeam:
        """Serve the keys of a blocked team again."""
        return await self._block(body.team_id, blocked=False)

    async def _block(self, team_id: str, *, blocked: bool) -> LiteLlmTeam:
        await self._books.group(team_id, "team")
        op = UpdateGroup(0, team_id, {"blocked": blocked})
        return await self._shown((await self._books.call(op, GroupChanged)).group)

    async def _changes(self, body: TeamFields, limits: Limits) -> dict[str, Any]:
        """The settings that the body names, by our names; raises `InvalidRequest`."""
        changes: dict[str, Any] = {}
        if not isinstance(body.team_alias, UnsetType):
            changes["name"] = body.team_alias or ""
        if not isinstance(body.organization_id, UnsetType):
            changes["organisation_id"] = (
                await self._books.living_group(
                    body.organization_id, "organisation", "organization_id"
                )
                if body.organization_id
                else ""
            )
        if not isinstance(body.models, UnsetType):
            changes["models"] = known_models(self._books, body.models or ())
        if not isinstance(body.metadata, UnsetType):
            changes["metadata"] = body.metadata or {}
        if not isinstance(body.blocked, UnsetType):
            changes["blocked"] = bool(body.blocked)
        return changes | changed_limits(body, limits)

    def _keys_of(self, record: GroupRecord) -> list[KeyRecord]:
        return [
            key
            for key in self._books.all_keys()
            if key.settings.team_id == record.group_id and key.revoked_at is None
        ]

    async def _shown(self, record: GroupRecord) -> LiteLlmTeam:
        return (await self._shown_all([record]))[0]

    async def _shown_all(self, records: list[GroupRecord]) -> list[LiteLlmTeam]:
        standings = await self._money.standings()
        standing_of = {team.group_id: standings.of(f"team:{team.group_id}") for team in records}
        by_key: Mapping[str, int] = {}
        if any(standing.counting is None for standing in standing_of.values()):
            by_key = await spent_by_key(self._books)
        return [
            _shown_team(
                record,
                standing_of[record.group_id],
                sum(by_key.get(key.key_id, 0) for key in self._keys_of(record)),
            )
            for record in records
        ]


def _shown_team(record: GroupRecord, standing: Standing, spent: int) -> LiteLlmTeam:
    settings, counting = record.settings, standing.counting
    return LiteLlmTeam(
        team_id=record.group_id,
        team_alias=settings.name,
        organization_id=settings.organisation_id or None,
        models=settings.models,
        metadata=settings.metadata,
        blocked=settings.blocked,
        spend=usd(spent if counting is None else counting.spent_nanousd),
        max_budget=usd_or_none(standing.limit("max_budget")),
        soft_budget=usd_or_none(standing.limit("soft_budget")),
        budget_duration=None if counting is None else duration_of(counting.settings.window),
        budget_reset_at=None if counting is None else iso(counting.opens_at),
        budget_id=standing.budget_id,
        tpm_limit=settings.limits.tokens_per_minute,
        rpm_limit=settings.limits.requests_per_minute,
        max_parallel_requests=settings.limits.concurrent,
        created_at=iso(record.created_at),
    )
