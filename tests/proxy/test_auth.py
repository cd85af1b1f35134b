from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from proxy import auth
from proxy.addresses import parse_network
from proxy.auth import Auth, Caller
from proxy.errors import (
    ApiError,
    KeyBlocked,
    KeyExpired,
    MissingKey,
    NetworkRefused,
    WrongKey,
)
from proxy.http import Exchange, Message
from proxy.ledger.protocol import GroupRecord, GroupSettings, KeyRecord, KeySettings

SECRET = b"s" * 32
KEY = "sk-tw-current"
OLD_KEY = "sk-tw-before"


class StillClock:
    """Time that only moves when it is told to."""

    now = 1_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class World:
    """An `Auth` over tables that the test changes as the ledger would."""

    def __init__(self) -> None:
        self.keys: dict[bytes, KeyRecord] = {}
        self.groups: dict[str, GroupRecord] = {}
        self.clock = StillClock()
        self.auth = Auth(
            secret=SECRET,
            keys=lambda: self.keys,
            groups=lambda: self.groups,
            allow_anonymous=True,
            clock=self.clock,
            trusted_proxies=(parse_network("10.0.0.0/8"),),
        )

    def key(self, record: KeyRecord | None = None, **settings: object) -> KeyRecord:
        made = record or KeyRecord(
            key_id="k_1",
            digest=auth.digest(KEY, SECRET),
            hint="",
            settings=KeySettings(name="alice", **settings),  # type: ignore[arg-type]
            created_at=0,
        )
        self.keys[made.digest] = made
        if made.previous_digest:
            self.keys[made.previous_digest] = made
        return made

    def group(self, group_id: str, deleted_at: int | None = None, **settings: object) -> None:
        self.groups[group_id] = GroupRecord(
            group_id=group_id,
            kind="organisation" if group_id.startswith("o") else "team",
            settings=GroupSettings(name=group_id, **settings),  # type: ignore[arg-type]
            created_at=0,
            deleted_at=deleted_at,
        )

    def ask(
        self, key: str | None = KEY, peer: str = "127.0.0.1", headers: dict[str, str] | None = None
    ) -> Caller:
        sent = {"host": "localhost", **(headers or {})}
        if key is not None:
            sent["authorization"] = f"Bearer {key}"
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "client": (peer, 1),
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        }
        return self.auth.identify(Exchange(scope, _never, _send))

    def refusal(self, **asked: object) -> ApiError:
        with pytest.raises(ApiError) as caught:
            self.ask(**asked)  # type: ignore[arg-type]
        return caught.value


async def _never() -> Message:
    raise AssertionError("the body is not needed to know who asks")


async def _send(message: Message) -> None:
    raise AssertionError("identifying sends nothing")


def test_caller_stands_for_its_key_its_team_and_its_organisation() -> None:
    world = World()
    world.group("o_1", models=("auto", "best"))
    world.group("t_1", organisation_id="o_1", models=("auto", "cheap"))
    world.key(
        team_id="t_1", models=("auto", "cheap", "best"), tags=("x",), at_cap="stop", clamp=True
    )
    caller = world.ask()
    assert caller.scopes == ("global", "organisation:o_1", "team:t_1", "key:k_1")
    assert (caller.team_id, caller.tags, caller.at_cap, caller.clamp) == ("t_1", ("x",), "stop", 1)
    allowed = [model for model in ("auto", "cheap", "best", "fast") if caller.may_name(model)]
    assert allowed == ["auto"]


def test_nothing_listed_is_everything_allowed() -> None:
    world = World()
    world.group("t_1")
    world.key(team_id="t_1")
    caller = world.ask()
    assert caller.may_name("anything")
    assert caller.may_use("chat")
    assert caller.scopes == ("global", "team:t_1", "key:k_1")


def test_only_listed_endpoints_may_be_used() -> None:
    world = World()
    world.key(endpoints=("embeddings",))
    assert world.ask().may_use("embeddings")
    assert not world.ask().may_use("chat")


def test_unknown_and_revoked_keys_are_not_told_apart() -> None:
    world = World()
    record = world.key()
    unknown = world.refusal(key="sk-tw-guessed")
    world.key(replace(record, revoked_at=5, settings=replace(record.settings, blocked=True)))
    revoked = world.refusal()
    assert isinstance(unknown, WrongKey)
    assert unknown.body() == revoked.body()


def test_a_change_holds_from_the_next_request_on() -> None:
    world = World()
    world.group("o_1")
    world.group("t_1", organisation_id="o_1")
    record = world.key(team_id="t_1")
    assert world.ask().may_name("auto")
    world.key(replace(record, settings=replace(record.settings, models=("other",))))
    assert not world.ask().may_name("auto")
    for group_id in ("o_1", "t_1"):
        before = world.groups[group_id]
        world.group(group_id, blocked=True, organisation_id=before.settings.organisation_id)
        assert isinstance(world.refusal(), KeyBlocked)
        world.groups[group_id] = before
        assert not world.ask().may_name("auto")


@pytest.mark.parametrize("group_id", ["t_1", "o_1"])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_deleted_group_takes_its_keys_with_it(group_id: str, is_there: bool) -> None:
    world = World()
    world.group("o_1")
    world.group("t_1", organisation_id="o_1")
    world.key(team_id="t_1")
    if is_there:
        world.group(group_id, deleted_at=3, organisation_id="o_1" if group_id == "t_1" else "")
    else:
        del world.groups[group_id]
    refusal = world.refusal()
    assert isinstance(refusal, KeyBlocked)
    assert "no longer exists" in refusal.message


def test_blocked_is_said_only_to_who_has_the_key() -> None:
    world = World()
    world.key(blocked=True)
    assert isinstance(world.refusal(), KeyBlocked)
    assert isinstance(world.refusal(key="sk-tw-guessed"), WrongKey)


def test_a_key_expires_at_its_second() -> None:
    world = World()
    world.key(expires_at=1_001)
    assert world.ask().key_id == "k_1"
    world.clock.now = 1_001.0
    assert isinstance(world.refusal(), KeyExpired)


def test_the_secret_before_a_rotation_is_accepted_until_its_overlap_ends() -> None:
    world = World()
    record = world.key()
    old = auth.digest(OLD_KEY, SECRET)
    world.key(replace(record, previous_digest=old, previous_until=1_060))
    assert world.ask(key=OLD_KEY).key_id == world.ask().key_id == "k_1"
    world.clock.now = 1_060.0
    assert isinstance(world.refusal(key=OLD_KEY), WrongKey)
    assert world.ask().key_id == "k_1"


def test_a_replaced_secret_is_refused_even_if_it_is_still_in_the_table() -> None:
    world = World()
    record = world.key()
    world.keys[auth.digest(OLD_KEY, SECRET)] = record
    assert isinstance(world.refusal(key=OLD_KEY), WrongKey)


def test_a_key_that_was_served_before_is_looked_at_anew() -> None:
    world = World()
    record = world.key()
    assert world.ask().key_id == world.ask().key_id == "k_1"
    other = {"x-api-key": OLD_KEY}
    assert isinstance(world.refusal(headers=other), WrongKey)
    world.key(replace(record, settings=replace(record.settings, blocked=True)))
    assert isinstance(world.refusal(), KeyBlocked)
    world.key(replace(record, settings=replace(record.settings, expires_at=1_060)))
    assert world.ask().key_id == "k_1"
    world.clock.now = 1_060.0
    assert isinstance(world.refusal(), KeyExpired)
    world.key(replace(record, revoked_at=1))
    assert isinstance(world.refusal(), WrongKey)
    world.key(record)
    assert world.ask().key_id == "k_1"
    del world.keys[record.digest]
    assert isinstance(world.refusal(), WrongKey)


def test_a_key_is_bound_to_its_networks() -> None:
    world = World()
    world.key(networks=("192.0.2.0/24", "2001:db8::/32"))
    assert world.ask(peer="192.0.2.9").key_id == "k_1"
    assert world.ask(peer="::ffff:192.0.2.9").key_id == "k_1"
    refusal = world.refusal(peer="198.51.100.1")
    assert isinstance(refusal, NetworkRefused)
    assert "198.51.100.1" in refusal.message
    forwarded = {"x-forwarded-for": "192.0.2.9"}
    assert world.ask(peer="10.1.1.1", headers=forwarded).key_id == "k_1"
    assert isinstance(world.refusal(peer="198.51.100.1", headers=forwarded), NetworkRefused)


def test_no_key_is_needed_until_the_first_is_made() -> None:
    world = World()
    assert world.ask(key=None) is auth.ANONYMOUS
    world.key()
    assert isinstance(world.refusal(key=None), MissingKey)


@pytest.mark.negative(number=6)
def test_a_guess_that_begins_right_is_as_wrong_as_any() -> None:
    """Digests and hashes are looked up: of a key that only begins right, nothing is compared."""
    world = World()
    world.key()
    looked_up: list[bytes] = []

    class Keys(dict[bytes, KeyRecord]):
        def get(self, sent: bytes, default: Any = None) -> Any:
            looked_up.append(sent)
            return super().get(sent, default)

    world.keys = Keys(world.keys)
    right = auth.digest(KEY, SECRET)
    for length in range(len(KEY)):
        guess = KEY[:length] + "".join("b" if c == "a" else "a" for c in KEY[length:])
        assert guess != KEY
        assert str(world.refusal(key=guess)) == "the API key is unknown or revoked"
    assert len(set(looked_up)) == len(KEY)
    assert {len(sent) for sent in looked_up} == {32}
    # Of digests that know nothing of each other, one in 65,536 shares two bytes with another.
    assert sum(sent[:2] == right[:2] for sent in looked_up) <= 1
