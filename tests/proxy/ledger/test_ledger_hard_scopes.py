from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger.hard_scopes import HardScopes
from proxy.ledger.protocol import HardScope


def known(*scopes: str) -> HardScopes:
    made = HardScopes()
    made.replace(scopes)
    return made


def test_until_the_ledger_has_spoken_every_scope_counts() -> None:
    scopes = HardScopes()
    assert scopes.cover(("global",))
    scopes.change(HardScope("key:k", False))
    assert scopes.cover(("global",))
    scopes.replace(())
    assert not scopes.cover(("global",))


def test_a_scope_of_several_parts_needs_all_of_them() -> None:
    scopes = known("key:k & model:auto")
    assert scopes.cover(("global", "model:auto", "key:k"))
    assert not scopes.cover(("global", "key:k"))
    assert not scopes.cover(("global", "key:k", "model:auto2"))


def test_a_star_is_met_by_any_of_its_kind_and_by_no_other() -> None:
    scopes = known("team:t & user:*")
    assert scopes.cover(("team:t", "user:alice"))
    assert not scopes.cover(("team:t", "key:user"))
    assert not scopes.cover(("team:other", "user:alice"))
    assert known("user:*").cover(("user:x",))
    assert not known("user:*").cover(("users:x",))


def test_a_budget_that_is_gone_or_soft_no_longer_counts() -> None:
    scopes = known("key:k", "user:*")
    scopes.change(HardScope("key:k", False))
    assert not scopes.cover(("key:k",))
    assert scopes.cover(("user:a",))
    scopes.change(HardScope("user:*", False))
    scopes.change(HardScope("never:there", False))
    assert not scopes.cover(("user:a",))
    scopes.replace(["key:j"])
    assert scopes.cover(("key:j",))


SCOPES = ["global", "key:k", "user:a", "user:b", "key:k & user:a", "user:*", "key:k & user:*"]


@given(
    start=st.sets(st.sampled_from(SCOPES)),
    changes=st.lists(st.tuples(st.sampled_from(SCOPES), st.booleans())),
    attempt=st.sets(st.sampled_from(SCOPES[:4]), min_size=1),
)
def test_changes_add_up_to_what_a_new_connection_is_told(
    start: set[str], changes: list[tuple[str, bool]], attempt: set[str]
) -> None:
    followed, truth = known(*start), set(start)
    for scope, is_hard in changes:
        followed.change(HardScope(scope, is_hard))
        (truth.add if is_hard else truth.discard)(scope)
    is_of_user = not attempt.isdisjoint({"user:a", "user:b"})
    expected = (
        not truth.isdisjoint(attempt)
        or ("key:k & user:a" in truth and {"key:k", "user:a"} <= attempt)
        or ("user:*" in truth and is_of_user)
        or ("key:k & user:*" in truth and is_of_user and "key:k" in attempt)
    )
    assert followed.cover(attempt) == known(*truth).cover(attempt) == expected
