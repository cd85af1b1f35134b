"""Keys, teams and organisations: what operators say of them, checked and kept."""

from __future__ import annotations

import base64
import ipaddress
import secrets
from collections.abc import Container, Iterable

import msgspec

from proxy import budgets
from proxy.ledger.faults import Fault, changed
from proxy.ledger.protocol import (
    CreateGroup,
    CreateKey,
    GroupRecord,
    GroupSettings,
    KeyRecord,
    KeySettings,
    RotateKey,
    UpdateGroup,
    UpdateKey,
)
from proxy.ledger.store import GroupRow, KeyRow, Store, to_json

_LONGEST_LABEL = 256
"""Characters of what people call a key or a group."""


class Directory:
    """Every key and group, by id. Raises `Fault`, and `sqlite3.Error` as `Book` does."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.keys = {row.id: _key(row) for row in store.read_keys()}
        self.groups = {row.id: _group(row) for row in store.read_groups()}

    def may_spend(self, key_id: str, now: int) -> bool:
        """Whether a key is good now."""
        key = self.keys.get(key_id)
        if key is None or key.revoked_at is not None or key.settings.blocked:
            return False
        expires_at = key.settings.expires_at
        return expires_at is None or now < expires_at

    # --- keys -----------------------------------------------------------------------------------

    def create_key(self, op: CreateKey, now: int) -> KeyRecord:
        """Make a key."""
        self._check_digest(op.digest)
        self._check_key(op.settings)
        _check_label(op.settings.name)
        _check_tags(op.settings.tags)
        key = KeyRecord(
            key_id=_new_id("k_", self.keys),
            digest=op.digest,
            hint=op.hint,
            settings=op.settings,
            created_at=now,
        )
        return self._put_key(key)

    def update_key(self, op: UpdateKey, now: int) -> KeyRecord:
        """Change a key's settings, or end it."""
        key = self._find_key(op.key_id)
        settings = changed(key.settings, op.changes)
        if settings != key.settings:
            self._check_key(settings)
        # What a key is called since before there was a rule must not keep it from being blocked.
        if settings.name != key.settings.name:
            _check_label(settings.name)
        if settings.tags != key.settings.tags:
            _check_tags(settings.tags)
        revoked_at = now if op.revoked and key.revoked_at is None else key.revoked_at
        return self._put_key(msgspec.structs.replace(key, settings=settings, revoked_at=revoked_at))

    def rotate_key(self, op: RotateKey, now: int) -> KeyRecord:
        """Give a key a new secret, and let the old one run out."""
        key = self._find_key(op.key_id)
        if key.revoked_at is not None:
            raise Fault("conflict", f"key {op.key_id!r} is revoked")
        self._check_digest(op.digest)
        return self._put_key(
            msgspec.structs.replace(
                key,
                digest=op.digest,
                hint=op.hint,
                previous_digest=key.digest if op.overlap_s else b"",
                previous_until=now + op.overlap_s if op.overlap_s else 0,
            )
        )

    def _find_key(self, key_id: str) -> KeyRecord:
        key = self.keys.get(key_id)
        if key is None:
            raise Fault("not_found", f"no key {key_id[:100]!r}")
        return key

    def _put_key(self, key: KeyRecord) -> KeyRecord:
        self._store.begin()
        self._store.put_key(
            KeyRow(
                key.key_id,
                key.digest,
                key.hint,
                to_json(key.settings),
                key.created_at,
                key.revoked_at,
                key.previous_digest,
                key.previous_until,
            )
        )
        self.keys[key.key_id] = key
        return key

    def _check_digest(self, digest: bytes) -> None:
        if not digest:
            raise Fault("invalid", "a key needs a digest")
        if any(digest in (key.digest, key.previous_digest) for key in self.keys.values()):
            raise Fault("conflict", "this key exists already")

    def _check_key(self, settings: KeySettings) -> None:
        if settings.team_id:
            self._check_group(settings.team_id, "team")
        for network in settings.networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise Fault("invalid", f"networks: {error}") from None

    # --- groups ---------------------------------------------------------------------------------

    def create_group(self, op: CreateGroup, now: int) -> GroupRecord:
        """Make a team or an organisation."""
        group_id = op.group_id or _new_id("t_" if op.kind == "team" else "o_", self.groups)
        if group_id in self.groups:
            raise Fault("conflict", f"{group_id[:100]!r} exists already")
        if not budgets.is_name(group_id):
            raise Fault("invalid", f"{group_id[:100]!r} cannot be an id")
        _check_label(op.settings.name)
        group = GroupRecord(group_id=group_id, kind=op.kind, settings=op.settings, created_at=now)
        self._check_parent(group, op.settings)
        return self._put_group(group)

    def update_group(self, op: UpdateGroup, now: int) -> GroupRecord:
        """Change a group's settings, or end it."""
        group = self.groups.get(op.group_id)
        if group is None:
            raise Fault("not_found", f"no team or organisation {op.group_id[:100]!r}")
        settings = changed(group.settings, op.changes)
        self._check_parent(group, settings)
        if settings.name != group.settings.name:
            _check_label(settings.name)
        deleted_at = group.deleted_at
        if op.deleted and deleted_at is None:
            self._check_unused(group)
            deleted_at = now
        return self._put_group(
            msgspec.structs.replace(group, settings=settings, deleted_at=deleted_at)
        )

    def _put_group(self, group: GroupRecord) -> GroupRecord:
        self._store.begin()
        self._store.put_group(
            GroupRow(
                group.group_id,
                group.kind,
                to_json(group.settings),
                group.created_at,
                group.deleted_at,
            )
        )
        self.groups[group.group_id] = group
        return group

    def _check_parent(self, group: GroupRecord, settings: GroupSettings) -> None:
        if not settings.organisation_id:
            return
        if group.kind != "team":
            raise Fault("invalid", "an organisation belongs to no other")
        self._check_group(settings.organisation_id, "organisation")

    def _check_group(self, group_id: str, kind: str) -> None:
        group = self.groups.get(group_id)
        if group is None or group.kind != kind or group.deleted_at is not None:
            raise Fault("invalid", f"there is no {kind} {group_id[:100]!r}")

    def _check_unused(self, group: GroupRecord) -> None:
        users: Iterable[str]
        if group.kind == "team":
            keys = (key for key in self.keys.values() if key.revoked_at is None)
            users = (key.key_id for key in keys if key.settings.team_id == group.group_id)
        else:
            teams = (team for team in self.groups.values() if team.deleted_at is None)
            users = (t.group_id for t in teams if t.settings.organisation_id == group.group_id)
        user = next(iter(users), None)
        if user is not None:
            raise Fault("conflict", f"{user!r} still belongs to {group.group_id!r}; move it first")


def _check_tags(tags: tuple[str, ...]) -> None:
    # What requests are refused for: a key whose tags cannot be could make none.
    for tag in tags:
        if not budgets.is_name(tag):
            raise Fault("invalid", f"{tag[:100]!r} cannot be a tag")
    if len(set(tags)) > budgets.MOST_TAGS:
        raise Fault("invalid", f"a key has at most {budgets.MOST_TAGS} tags")


def _check_label(name: str) -> None:
    if not name.isprintable() or len(name) > _LONGEST_LABEL:
        raise Fault(
            "invalid",
            f"name: {name[:100]!r} is not up to {_LONGEST_LABEL} printable characters",
        )


def _new_id(prefix: str, taken: Container[str]) -> str:
    while True:
        new = prefix + base64.b32encode(secrets.token_bytes(5)).decode().lower()
        if new not in taken:
            return new


def _key(row: KeyRow) -> KeyRecord:
    return KeyRecord(
        key_id=row.id,
        digest=row.digest,
        hint=row.hint,
        settings=msgspec.json.decode(row.settings, type=KeySettings),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        previous_digest=row.previous_digest,
        previous_until=row.previous_until,
    )


def _group(row: GroupRow) -> GroupRecord:
    return GroupRecord(
        group_id=row.id,
        kind="team" if row.kind == "team" else "organisation",
        settings=msgspec.json.decode(row.settings, type=GroupSettings),
        created_at=row.created_at,
        deleted_at=row.deleted_at,
    )
