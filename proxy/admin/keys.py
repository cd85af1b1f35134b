"""`/admin/v1/keys`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from proxy.admin.books import Books, known_endpoints, known_networks
from proxy.admin.budgets import WithBudgets
from proxy.admin.limits import ChangedLimits, ShownLimits
from proxy.admin.operations import Operation, operation
from proxy.admin.shapes import LONGEST_OVERLAP_S, Body, Moment, Name, iso, moment
from proxy.ledger.protocol import (
    AtCap,
    CreateKey,
    KeyChanged,
    KeyRecord,
    KeySettings,
    RotateKey,
    UpdateKey,
)


class NewKey(WithBudgets, frozen=True, kw_only=True):
    """`POST /admin/v1/keys`."""

    name: Name
    team_id: str | None = None
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    expires_at: Moment | None = None
    blocked: bool = False
    at_cap: AtCap = "downgrade"
    clamp: bool = False
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)


class ChangedKey(ChangedLimits, frozen=True, kw_only=True):
    """`PATCH /admin/v1/keys/{id}`: what is not named stays; null takes away."""

    name: Name | UnsetType = UNSET
    team_id: str | UnsetType | None = UNSET
    models: tuple[str, ...] | UnsetType = UNSET
    endpoints: tuple[str, ...] | UnsetType = UNSET
    networks: tuple[str, ...] | UnsetType = UNSET
    expires_at: Moment | UnsetType | None = UNSET
    blocked: bool | UnsetType = UNSET
    at_cap: AtCap | UnsetType = UNSET
    clamp: bool | UnsetType = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    revoked: Literal[True] | UnsetType = UNSET
    """The same as DELETE."""


class Rotation(Body, frozen=True, kw_only=True):
    """`POST /admin/v1/keys/{id}/rotate`."""

    overlap_s: Annotated[int, msgspec.Meta(ge=0, le=LONGEST_OVERLAP_S)] = 0
    """How much longer the old key is accepted."""


class Key(ShownLimits, frozen=True, kw_only=True):
    """A key, without the key itself."""

    id: str
    name: str
    hint: str
    team_id: str | None
    models: tuple[str, ...]
    endpoints: tuple[str, ...]
    networks: tuple[str, ...]
    expires_at: str | None
    blocked: bool
    at_cap: AtCap
    clamp: bool
    tags: tuple[str, ...]
    metadata: dict[str, Any]
    created_at: str | None
    revoked_at: str | None
    previous_until: str | None
    """Until when the key from before the last rotation is accepted; null where it is not."""


class KeyWithSecret(Key, frozen=True, kw_only=True):
    """A key that was made or rotated."""

    key: str
    """Shown this once, and nowhere kept."""


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    """Keys."""

    data: list[Key]


class KeysApi:
    """The operations on keys."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def operations(self) -> list[Operation]:
        """All of them."""
        path = "/admin/v1/keys"
        one = f"{path}/{{key_id}}"
        return [
            operation("GET", path, self.list_keys, tag="keys"),
            operation("POST", path, self.create_key, tag="keys", status=201),
            operation("GET", one, self.get_key, tag="keys"),
            operation("PATCH", one, self.update_key, tag="keys"),
            operation("DELETE", one, self.revoke_key, tag="keys"),
            operation("POST", f"{one}/rotate", self.rotate_key, tag="keys"),
            operation("POST", f"{one}/block", self.block_key, tag="keys"),
            operation("POST", f"{one}/unblock", self.unblock_key, tag="keys"),
        ]

    async def list_keys(self) -> KeyList:
        """Every key, revoked ones too."""
        return KeyList(data=[self._shown(key) for key in self._books.all_keys()])

    async def create_key(self, body: NewKey) -> KeyWithSecret:
        """Make a key. The key itself is in this one answer and nowhere else."""
        settings = KeySettings(
            name=body.name,
            team_id=await self._team(body.team_id),
            models=self._books.known_models(body.models),
            endpoints=known_endpoints(body.endpoints),
            networks=known_networks(body.networks),
            expires_at=None if body.expires_at is None else moment(body.expires_at, "expires_at"),
            blocked=body.blocked,
            limits=body.limits(),
            at_cap=body.at_cap,
            clamp=body.clamp,
            tags=body.tags,
            metadata=body.metadata,
        )
        key, digest, hint = self._books.new_key()
        op = CreateKey(0, digest, hint, settings, body.own_budgets())
        changed = await self._books.call(op, KeyChanged)
        return self._with_secret(changed.key, key)

    async def get_key(self, key_id: str) -> Key:
        """One key."""
        return self._shown(await self._books.key(key_id))

    async def update_key(self, key_id: str, body: ChangedKey) -> Key:
        """Change any of a key's settings, or revoke it for good."""
        changes: dict[str, Any] = {
            name: value
            for name in ("name", "blocked", "at_cap", "clamp", "tags", "metadata")
            if (value := getattr(body, name)) is not UNSET
        }
        if not isinstance(body.team_id, UnsetType):
            changes["team_id"] = await self._team(body.team_id)
        if not isinstance(body.models, UnsetType):
            changes["models"] = self._books.known_models(body.models)
        if not isinstance(body.endpoints, UnsetType):
            changes["endpoints"] = known_endpoints(body.endpoints)
        if not isinstance(body.networks, UnsetType):
            changes["networks"] = known_networks(body.networks)
        if not isinstance(body.expires_at, UnsetType):
            at = body.expires_at
            changes["expires_at"] = None if at is None else moment(at, "expires_at")
        if body.changes_limits():
            record = await self._books.key(key_id)
            changes["limits"] = msgspec.to_builtins(body.changed(record.settings.limits))
        return await self._changed(key_id, changes, revoked=body.revoked is True)

    async def revoke_key(self, key_id: str) -> Key:
        """Revoke a key for good."""
        return await self._changed(key_id, {}, revoked=True)

    async def block_key(self, key_id: str) -> Key:
        """Refuse a key until it is unblocked."""
        return await self._changed(key_id, {"blocked": True})

    async def unblock_key(self, key_id: str) -> Key:
        """Serve a blocked key again."""
        return await self._changed(key_id, {"blocked": False})

    async def rotate_key(self, key_id: str, body: Rotation) -> KeyWithSecret:
        """Give a key a new secret; the old one is accepted for a while, or not at all."""
        key, digest, hint = self._books.new_key()
        op = RotateKey(0, key_id, digest, hint, body.overlap_s)
        changed = await self._books.call(op, KeyChanged)
        return self._with_secret(changed.key, key)

    async def _changed(self, key_id: str, changes: dict[str, Any], *, revoked: bool = False) -> Key:
        op = UpdateKey(0, key_id, changes, revoked=revoked)
        return self._shown((await self._books.call(op, KeyChanged)).key)

    async def _team(self, team_id: str | None) -> str:
        if not team_id:
            return ""
        return await self._books.living_group(team_id, "team", "team_id")

    def _shown(self, record: KeyRecord) -> Key:
        return Key(**self._fields(record))

    def _with_secret(self, record: KeyRecord, key: str) -> KeyWithSecret:
        return KeyWithSecret(**self._fields(record), key=key)

    def _fields(self, record: KeyRecord) -> dict[str, Any]:
        settings = record.settings
        overlaps = record.previous_until > self._books.clock.time()
        return {
            **msgspec.structs.asdict(settings.limits),
            "id": record.key_id,
            "name": settings.name,
            "hint": record.hint,
            "team_id": settings.team_id or None,
            "models": settings.models,
            "endpoints": settings.endpoints,
            "networks": settings.networks,
            "expires_at": iso(settings.expires_at),
            "blocked": settings.blocked,
            "at_cap": settings.at_cap,
            "clamp": settings.clamp,
            "tags": settings.tags,
            "metadata": settings.metadata,
            "created_at": iso(record.created_at),
            "revoked_at": iso(record.revoked_at),
            "previous_until": iso(record.previous_until) if overlaps else None,
        }
