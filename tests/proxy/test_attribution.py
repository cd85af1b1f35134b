from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import budgets
from proxy.attribution import TAGS_HEADER, USER_HEADER, scopes_of
from proxy.auth import Caller
from proxy.errors import InvalidRequest
from proxy.http import Exchange

CALLER = Caller(key_id="k", name="k", scopes=("global", "key:k"))


async def _unused(*_: Any) -> Any:
    raise AssertionError("nothing is read or sent for this")


def added(
    headers: Mapping[bytes, bytes] | None = None,
    *,
    user: str | None = None,
    tags: tuple[str, ...] = (),
    caller: Caller = CALLER,
) -> tuple[str, ...]:
    """What a request adds to its caller's scopes."""
    scope = {"headers": list((headers or {}).items()), "method": "POST"}
    found = scopes_of(caller, Exchange(scope, _unused, _unused), user, tags)
    own = len(caller.scopes)
    assert found[:own] == caller.scopes
    assert len(set(found)) == len(found)
    return found[own:]


def test_a_request_that_says_nothing_adds_nothing() -> None:
    assert added() == ()
    assert added(user="") == ()
    assert added({TAGS_HEADER: b" , "}) == ()


def test_the_header_goes_before_the_body_and_tags_of_both_count() -> None:
    assert added(user="alice") == ("user:alice",)
    assert added({USER_HEADER: b"bob"}, user="alice") == ("user:bob",)
    caller = replace(CALLER, tags=("team-a",))
    found = added({TAGS_HEADER: b"x, y ,x"}, tags=("y", "z"), caller=caller)
    assert found == ("tag:team-a", "tag:y", "tag:z", "tag:x")


@pytest.mark.parametrize("name", ["Zoë", "日本", "naïve café"])
def test_a_name_is_the_same_by_header_and_by_body(name: str) -> None:
    by_body = added(user=name, tags=(name,))
    assert added({USER_HEADER: name.encode(), TAGS_HEADER: name.encode()}) == by_body


def test_a_header_that_is_not_utf_8_is_read_as_the_standard_says() -> None:
    headers = {USER_HEADER: "Zoë".encode("latin-1"), TAGS_HEADER: "é".encode("latin-1")}
    assert added(headers) == ("user:Zoë", "tag:é")


@pytest.mark.parametrize(
    "user", ["*", "a & key:k", " a", "a\n", "\x1b[31m", "\ud800", "a" * 129, "x" * 10_000_000]
)
def test_a_user_that_cannot_stand_in_a_scope_is_known_by_its_digest(user: str) -> None:
    (scope,) = added(user=user)
    assert scope.startswith("user:sha256-")
    assert len(scope) == len("user:sha256-") + 32
    assert added(user=user) == (scope,)
    assert added(user=user + "!") != (scope,)


@pytest.mark.parametrize("tag", ["*", "", "a & b", " a", "a\n", "\ud800", "a" * 129])
def test_a_tag_that_cannot_stand_in_a_scope_is_refused(tag: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        added(tags=(tag,))
    assert refused.value.param == "metadata.tags"
    str(refused.value).encode()  # it can be said


def test_tags_are_counted_once_each_and_not_beyond_their_number() -> None:
    names = tuple(f"t{number}" for number in range(16))
    assert len(added(tags=names * 2)) == 16
    with pytest.raises(InvalidRequest, match="at most 16 tags"):
        added({TAGS_HEADER: b"one-more"}, tags=names)


@given(user=st.text(min_size=1), other=st.text(min_size=1))
def test_every_user_has_one_scope_of_its_own_that_a_budget_can_name(user: str, other: str) -> None:
    (scope,) = added(user=user)
    assert budgets.scope_parts(scope) == (scope,)
    assert budgets.scope_problem(scope) is None
    assert not scope.endswith(f":{budgets.EACH}")
    assert (added(user=other) == (scope,)) == (user == other)


@given(header=st.binary())
def test_no_header_is_an_internal_error(header: bytes) -> None:
    added({USER_HEADER: header})
    try:
        found = added({TAGS_HEADER: header})
    except InvalidRequest:
        return
    assert all(budgets.scope_problem(scope) is None for scope in found)
