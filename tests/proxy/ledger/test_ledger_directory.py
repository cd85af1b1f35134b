"""What operators say of keys and groups outlives the process."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from proxy.ledger.core import Ledger
from proxy.ledger.protocol import (
    CreateGroup,
    CreateKey,
    Failed,
    GroupChanged,
    GroupSettings,
    Hello,
    KeyChanged,
    KeySettings,
    Limits,
    UpdateGroup,
    UpdateKey,
    Welcome,
)
from tests.proxy.ledger.making import NOON, Books


def test_groups_and_their_keys_are_there_after_a_restart(tmp_path: Path) -> None:
    books = Books(tmp_path / "ledger.db")
    limits = Limits(requests_per_minute=5)
    books.do(CreateGroup(0, "organisation", GroupSettings("Acme"), group_id="acme"))
    team = GroupSettings("Dev", organisation_id="acme", limits=limits, metadata={"a": [1]})
    books.do(CreateGroup(0, "team", team, group_id="dev"))
    gone = books.do(CreateGroup(0, "team", GroupSettings("Gone")))
    assert isinstance(gone, GroupChanged)
    books.do(UpdateGroup(0, gone.group.group_id, deleted=True))
    books.do(CreateKey(0, b"d", "hint", KeySettings("alice", team_id="dev", tags=("x",))))
    before = books.do(Hello("client", "before"))
    books.close()

    ledger = Ledger.open(books.path)
    ((after,),) = ledger.apply([[Hello("client", "after")]], NOON)
    ledger.close()
    assert isinstance(before, Welcome)
    assert isinstance(after, Welcome)
    assert len(before.groups) == 3
    by_id = [
        sorted(welcome.groups, key=lambda group: group.group_id) for welcome in (before, after)
    ]
    assert by_id[0] == by_id[1]
    assert after.keys == before.keys


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (KeySettings("x", tags=("*",)), "'*' cannot be a tag"),
        (KeySettings("x", tags=("a & b",)), "'a & b' cannot be a tag"),
        (KeySettings("x", tags=("t" * 129,)), "cannot be a tag"),
        (KeySettings("x", tags=tuple(map(str, range(17)))), "at most 16 tags"),
        (KeySettings("a\nb"), "name: 'a\\nb'"),
        (KeySettings("n" * 257), "up to 256"),
    ],
)
def test_what_no_request_could_be_made_with_is_refused(
    tmp_path: Path, settings: KeySettings, said: str
) -> None:
    books = Books(tmp_path / "ledger.db")
    refused = books.do(CreateKey(0, b"d", "hint", settings))
    made = books.do(CreateKey(0, b"e", "hint", KeySettings("fine")))
    assert isinstance(made, KeyChanged)
    changes = {"name": settings.name, "tags": settings.tags}
    again = books.do(UpdateKey(0, made.key.key_id, changes))
    books.close()
    for reply in (refused, again):
        assert isinstance(reply, Failed)
        assert reply.code == "invalid"
        assert said in reply.message


def test_a_key_from_before_there_were_rules_can_still_be_blocked(tmp_path: Path) -> None:
    books = Books(tmp_path / "ledger.db")
    made = books.do(CreateKey(0, b"d", "hint", KeySettings("old")))
    assert isinstance(made, KeyChanged)
    books.close()
    with closing(sqlite3.connect(books.path)) as db, db:
        db.execute(
            "UPDATE keys SET settings = json_set(settings, '$.name', char(27), '$.tags[0]', '*')"
        )
    books = Books(books.path)
    blocked = books.do(UpdateKey(0, made.key.key_id, {"blocked": True}))
    books.close()
    assert isinstance(blocked, KeyChanged)
    assert blocked.key.settings == KeySettings("\x1b", tags=("*",), blocked=True)
