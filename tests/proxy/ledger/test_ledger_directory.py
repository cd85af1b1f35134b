"""What operators say of keys and groups outlives the process."""

from __future__ import annotations

from pathlib import Path

from proxy.ledger.core import Ledger
from proxy.ledger.protocol import (
    CreateGroup,
    CreateKey,
    GroupChanged,
    GroupSettings,
    Hello,
    KeySettings,
    Limits,
    UpdateGroup,
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
