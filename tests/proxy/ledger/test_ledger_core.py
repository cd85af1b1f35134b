from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.ledger.audit import audit
from proxy.ledger.core import CloseSession, ReleaseExpired, Step
from proxy.ledger.protocol import (
    MAX_AMOUNT_NANOUSD,
    ApplyConfig,
    Budgets,
    ConfigBudget,
    CreateBudget,
    CreateKey,
    Failed,
    KeyChanged,
    KeyRecord,
    KeySettings,
    Progress,
    Refused,
    Reserve,
    Reserved,
    Settle,
    Settled,
    UpdateBudget,
    UpdateKey,
)
from proxy.ledger.reports import attempts
from tests.proxy.ledger.making import NOON, Books, a_budget, a_settlement, an_attempt


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "ledger.db")
    yield made
    assert audit(made.path) == []
    made.close()


# --- admission ---------------------------------------------------------------------------------


def test_a_hold_is_admitted_up_to_the_limit_and_not_beyond(books: Books) -> None:
    budget = books.budget(1_000)
    assert books.reserve(1, 600) == Reserved(1, 400)
    assert books.reserve(2, 400) == Reserved(2, 0)
    refused = books.reserve(3, 1)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.needed_nanousd, refused.held) == ("budget", 1, True)
    assert refused.budget == books.state(budget)
    assert books.money(budget) == (0, 1_000, 0)


def test_a_refusal_in_one_scope_leaves_the_others_untouched(books: Books) -> None:
    wide, narrow = books.budget(1_000), books.budget(50, scope="key:k")
    refused = books.reserve(1, 51, scopes=("global", "key:k"))
    assert isinstance(refused, Refused)
    assert refused.budget is not None
    assert (refused.budget.budget_id, refused.held) == (narrow, False)
    assert books.money(wide) == books.money(narrow) == (0, 0, 0)


def test_a_refusal_names_a_spent_budget_before_one_that_is_only_held(books: Books) -> None:
    held, spent = books.budget(100), books.budget(100, scope="key:k")
    books.reserve(1, 95, scopes=("global",))
    books.reserve(2, 95, scopes=("key:k",))
    books.settle(2, 95)
    refused = books.reserve(3, 10, scopes=("global", "key:k"))
    assert isinstance(refused, Refused)
    assert refused.budget is not None
    assert (refused.budget.budget_id, refused.held) == (spent, False)
    alone = books.reserve(3, 10)
    assert isinstance(alone, Refused)
    assert alone.budget is not None
    assert (alone.budget.budget_id, alone.held) == (held, True)


def test_a_soft_budget_admits_everything_and_still_counts(books: Books) -> None:
    soft = books.budget(10, mode="soft")
    assert books.reserve(1, 1_000) == Reserved(1, None)
    books.settle(1, 900)
    assert books.money(soft) == (900, 0, 0)


def test_an_attempt_without_a_price_is_refused_by_a_hard_budget_only(books: Books) -> None:
    books.budget(10, mode="soft", scope="tag:soft")
    assert isinstance(books.reserve(1, 0, scopes=("tag:soft",), priced=False), Reserved)
    hard = books.budget(1_000)
    refused = books.reserve(2, 0, scopes=("tag:soft", "global"), priced=False)
    assert isinstance(refused, Refused)
    assert refused.budget is not None
    assert (refused.reason, refused.budget.budget_id) == ("unpriced", hard)


def test_a_scope_named_twice_holds_once(books: Books) -> None:
    budget = books.budget(100)
    assert books.reserve(1, 60, scopes=("global", "global")) == Reserved(1, 40)
    assert books.money(budget) == (0, 60, 0)


def test_an_attempt_without_any_budget_is_admitted_and_recorded(books: Books) -> None:
    assert books.reserve(1, MAX_AMOUNT_NANOUSD, scopes=()) == Reserved(1, None)
    books.settle(1, 5)
    (row,) = attempts(books.path, 10)
    assert (row.attempt, row.outcome, row.cost_nanousd) == (books.number(1), "ok", 5)


def test_a_lowered_limit_blocks_new_holds_and_keeps_what_is_spent(books: Books) -> None:
    budget = books.budget(1_000)
    books.reserve(1, 500)
    books.settle(1, 500)
    books.do(UpdateBudget(1, budget, {"limit_nanousd": 100}))
    assert isinstance(books.reserve(2, 0), Refused)
    assert books.money(budget) == (500, 0, 0)
    books.do(UpdateBudget(1, budget, {"limit_nanousd": 600}))
    assert books.reserve(3, 100) == Reserved(3, 0)


def test_an_attempt_of_no_open_session_is_not_admitted(books: Books) -> None:
    reply = books.do(Reserve(1, an_attempt(999 << 32 | 1)))
    assert isinstance(reply, Failed)
    assert reply.code == "invalid"


# --- settling ----------------------------------------------------------------------------------


def test_settling_replaces_the_hold_by_the_cost(books: Books) -> None:
    budget = books.budget(1_000)
    books.reserve(1, 600)
    assert books.settle(1, 250) == Settled(1)
    assert books.money(budget) == (250, 0, 0)


def test_a_cost_above_the_hold_is_spent_and_recorded_as_overrun(books: Books) -> None:
    budget = books.budget(1_000)
    books.reserve(1, 600)
    books.settle(1, 1_250)
    assert books.money(budget) == (1_250, 0, 650)
    assert isinstance(books.reserve(2, 0), Refused)
    assert attempts(books.path, 1)[0].overrun_nanousd == 650


def test_settling_twice_counts_once(books: Books) -> None:
    budget = books.budget(1_000)
    books.reserve(1)
    books.settle(1, 30)
    assert books.settle(1, 99) == Settled(1)
    assert books.money(budget) == (30, 0, 0)


def test_reserving_again_what_was_settled_in_the_same_batch_is_a_conflict(books: Books) -> None:
    reserve = Reserve(1, an_attempt(books.number(1)))
    frame: list[Step] = [reserve, Settle(2, a_settlement(books.number(1))), reserve]
    ((first, second, third),) = books.ledger.apply([frame], NOON)
    assert (first, second) == (Reserved(1, None), Settled(2))
    assert isinstance(third, Failed)
    assert third.code == "conflict"


def test_settling_twice_in_one_batch_counts_once(books: Books) -> None:
    budget = books.budget(1_000)
    settlements = [Settle(2, a_settlement(books.number(1), cost)) for cost in (30, 99)]
    frame: list[Step] = [Reserve(1, an_attempt(books.number(1))), *settlements]
    assert books.ledger.apply([frame], NOON)[0][1:] == [Settled(2), Settled(2)]
    assert books.money(budget) == (30, 0, 0)


def test_reserving_again_what_is_open_answers_the_same_and_holds_once(books: Books) -> None:
    budget = books.budget(1_000)
    assert books.reserve(1, 600) == books.reserve(1, 600) == Reserved(1, 400)
    assert books.money(budget) == (0, 600, 0)


def test_reserving_again_what_is_settled_is_a_conflict(books: Books) -> None:
    books.reserve(1)
    books.settle(1)
    again = books.reserve(1)
    assert isinstance(again, Failed)
    assert again.code == "conflict"


def test_a_fallback_settles_and_holds_at_once(books: Books) -> None:
    budget = books.budget(100)
    books.reserve(1, 100)
    second = Reserve(2, an_attempt(books.number(2), 90), a_settlement(books.number(1), 10))
    assert books.do(second) == Reserved(2, 0)
    assert books.money(budget) == (10, 90, 0)
    assert books.do(second) == Reserved(2, 0)
    assert books.money(budget) == (10, 90, 0)


def test_a_refused_fallback_leaves_the_settlement_standing(books: Books) -> None:
    budget = books.budget(100)
    books.reserve(1, 100)
    second = Reserve(2, an_attempt(books.number(2), 91), a_settlement(books.number(1), 10))
    assert isinstance(books.do(second), Refused)
    assert books.money(budget) == (10, 0, 0)


def test_a_settlement_of_an_unknown_attempt_is_acknowledged_and_logged(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    assert books.settle(77) == Settled(77)
    assert "not on record" in caplog.text
    caplog.clear()
    given_up = a_settlement(books.number(78), 0, outcome="not_dispatched")
    assert books.do(Settle(1, given_up)) == Settled(1)
    assert caplog.text == ""


# --- windows and clocks ------------------------------------------------------------------------


def test_a_hold_stays_in_the_window_it_was_admitted_in(books: Books) -> None:
    budget = books.budget(100)
    books.reserve(1, 80)
    books.now += 86_400
    assert books.reserve(2, 100) == Reserved(2, 0)
    books.settle(1, 70)
    assert books.money(budget) == (0, 100, 0)
    books.now -= 86_400
    assert books.reserve(3, 30) == Reserved(3, 0)
    assert books.money(budget) == (70, 30, 0)


def test_a_window_turns_at_midnight_of_the_budgets_own_zone(books: Books) -> None:
    budget = books.budget(100, timezone="America/New_York")
    books.reserve(1, 100)
    state = books.state(budget)
    assert state.opens_at is not None
    books.now = state.opens_at - 1
    assert isinstance(books.reserve(2, 1), Refused)
    books.now = state.opens_at
    assert books.reserve(3, 100) == Reserved(3, 0)


def test_a_lifetime_has_one_balance_whatever_the_clock_says(books: Books) -> None:
    budget = books.budget(100, window="lifetime")
    books.reserve(1, 60)
    for books.now in (NOON + 10**8, 5, -5):
        assert isinstance(books.reserve(2, 41), Refused)
    state = books.state(budget)
    assert (state.starts_at, state.opens_at) == (None, None)


# --- orphans -----------------------------------------------------------------------------------


def test_an_orphan_is_settled_at_its_floor_and_the_rest_stays_held_until_its_deadline(
    books: Books,
) -> None:
    budget = books.budget(1_000)
    books.reserve(1, 100, floor=10)
    books.do(CloseSession(books.session))
    assert books.money(budget) == (10, 90, 0)
    (row,) = attempts(books.path, 1)
    assert (row.outcome, row.estimated) == ("orphan", True)
    assert (row.cost_nanousd, row.held_nanousd) == (10, 90)
    assert not books.ledger.has_expired(NOON + 599)
    books.now = NOON + 600
    assert books.ledger.has_expired(books.now)
    books.do(ReleaseExpired())
    assert books.money(budget) == (10, 0, 0)
    assert not books.ledger.has_expired(books.now)


def test_an_orphan_is_settled_at_its_last_heartbeat(books: Books) -> None:
    budget = books.budget(1_000)
    books.reserve(1, 100, floor=10)
    books.do(Progress(((books.number(1), 55), (books.number(9), 70))))
    books.do(CloseSession(books.session))
    assert books.money(budget) == (55, 45, 0)


def test_an_orphan_whose_floor_is_above_its_hold_is_an_overrun(books: Books) -> None:
    budget = books.budget(1_000)
    books.reserve(1, 100, floor=130)
    books.do(CloseSession(books.session))
    assert books.money(budget) == (130, 0, 30)
    books.settle(1, 90)
    assert books.money(budget) == (90, 0, 0)


@pytest.mark.parametrize(
    ("cost", "money"), [(4, (4, 0, 0)), (70, (70, 0, 0)), (100, (100, 0, 0)), (130, (130, 0, 30))]
)
def test_a_late_settlement_corrects_an_orphan_and_releases_the_rest(
    books: Books, cost: int, money: tuple[int, int, int]
) -> None:
    budget = books.budget(1_000)
    books.reserve(1, 100, floor=10)
    books.do(CloseSession(books.session))
    assert books.settle(1, cost) == Settled(1)
    assert books.money(budget) == money
    (row,) = attempts(books.path, 1)
    assert (row.outcome, row.cost_nanousd, row.output_tokens) == ("ok", cost, 7)
    assert books.settle(1, cost + 1) == Settled(1)
    assert books.money(budget) == money


def test_what_a_late_settlement_costs_above_a_released_remainder_is_an_overrun(
    books: Books,
) -> None:
    budget = books.budget(100)
    books.reserve(1, 100, floor=10)
    books.do(CloseSession(books.session))
    books.now = NOON + 601
    books.do(ReleaseExpired())
    books.hello(books.session)
    assert books.reserve(2, 90) == Reserved(2, 0)
    books.settle(1, 70)
    assert books.money(budget) == (70, 90, 60)


def test_orphaning_and_settling_in_one_batch_ends_with_the_settlement(books: Books) -> None:
    budget = books.budget(1_000)
    late = Settle(1, a_settlement(books.number(1), 42))
    books.ledger.apply(
        [[Reserve(1, an_attempt(books.number(1)))], [CloseSession(books.session)], [late]], NOON
    )
    assert books.money(budget) == (42, 0, 0)


def test_closing_a_session_leaves_those_of_others_alone(books: Books) -> None:
    budget = books.budget(1_000)
    books.reserve(1, 100)
    other = books.hello()
    books.do(CloseSession(other))
    assert books.money(budget) == (0, 100, 0)
    assert books.ledger.open_sessions() == {books.session}


# --- keys --------------------------------------------------------------------------------------


def make_key(books: Books, digest: bytes = b"digest") -> KeyRecord:
    made = books.do(CreateKey(3, digest, "sk-t…4f", KeySettings(name="ci", models=("cheap",))))
    assert isinstance(made, KeyChanged)
    assert made.seq == 3
    return made.key


def test_a_key_has_a_short_id_and_may_spend_until_it_is_revoked(books: Books) -> None:
    key = make_key(books)
    assert re.fullmatch(r"k_[a-z2-7]{8}", key.key_id)
    assert (key.settings.models, key.created_at, key.revoked_at) == (("cheap",), NOON, None)
    assert isinstance(books.reserve(1, key_id=key.key_id), Reserved)
    books.do(UpdateKey(1, key.key_id, revoked=True))
    refused = books.reserve(2, key_id=key.key_id)
    assert refused == Refused(2, "key_revoked", None, 100)
    assert isinstance(books.reserve(3, key_id="k_unknown"), Refused)


def test_a_revoked_key_stays_revoked_and_its_open_attempts_still_settle(books: Books) -> None:
    key = make_key(books)
    books.reserve(1, key_id=key.key_id)
    books.do(UpdateKey(1, key.key_id, revoked=True))
    books.now += 50
    renamed = books.do(UpdateKey(1, key.key_id, {"name": "old ci", "models": ()}))
    assert isinstance(renamed, KeyChanged)
    assert (renamed.key.settings.name, renamed.key.settings.models, renamed.key.revoked_at) == (
        "old ci",
        (),
        NOON,
    )
    assert books.settle(1) == Settled(1)


def test_the_same_key_cannot_be_made_twice(books: Books) -> None:
    make_key(books)
    again = books.do(CreateKey(1, b"digest", "sk-…", KeySettings(name="other")))
    assert isinstance(again, Failed)
    assert again.code == "conflict"
    assert isinstance(books.do(CreateKey(1, b"", "sk-…", KeySettings(name="other"))), Failed)
    missing = books.do(UpdateKey(1, "k_unknown"))
    assert isinstance(missing, Failed)
    assert missing.code == "not_found"


# --- budgets -----------------------------------------------------------------------------------


def test_a_new_budget_counts_from_its_creation(books: Books) -> None:
    books.budget(1_000)
    books.reserve(1, 100)
    fresh = books.budget(1_000)
    books.settle(1, 100)
    assert books.money(fresh) == (0, 0, 0)


def test_a_deleted_budget_admits_everything_and_still_settles_its_holds(books: Books) -> None:
    budget = books.budget(100)
    books.reserve(1, 100)
    gone = books.do(UpdateBudget(1, budget, deleted=True))
    assert isinstance(gone, Budgets)
    assert books.reserve(2, 10_000) == Reserved(2, None)
    books.settle(1, 60)
    again = books.do(UpdateBudget(1, budget, {"limit_nanousd": 5}))
    assert isinstance(again, Failed)
    assert again.code == "not_found"


@pytest.mark.parametrize(("scope", "timezone"), [("", "UTC"), ("global", "Mars/Olympus")])
def test_a_budget_without_scope_or_zone_is_invalid(books: Books, scope: str, timezone: str) -> None:
    reply = books.do(CreateBudget(1, scope, a_budget(5, "day", "hard", timezone)))
    assert isinstance(reply, Failed)
    assert reply.code == "invalid"
    config = books.do(ApplyConfig(1, (ConfigBudget(scope, a_budget(5, "day", "hard", timezone)),)))
    assert isinstance(config, Failed)
    assert config.code == "invalid"


def test_configuration_replaces_its_own_budgets_and_keeps_the_balances_of_those_that_stay(
    books: Books,
) -> None:
    by_api = books.budget(500, scope="key:k")
    first = ApplyConfig(
        1,
        (
            ConfigBudget("global", a_budget(100, "day")),
            ConfigBudget("team:t", a_budget(100, "day")),
        ),
    )
    before = books.do(first)
    assert isinstance(before, Budgets)
    kept, dropped = (state.budget_id for state in before.budgets)
    books.reserve(1, 40)
    after = books.do(ApplyConfig(2, (ConfigBudget("global", a_budget(200, "day", "soft")),)))
    assert isinstance(after, Budgets)
    (state,) = after.budgets
    assert (state.budget_id, state.settings.limit_nanousd, state.settings.mode) == (
        kept,
        200,
        "soft",
    )
    assert books.money(kept) == (0, 40, 0)
    assert books.state(by_api).managed == "api"
    assert dropped not in [s.budget_id for s in books.do(ApplyConfig(3, ())).budgets]  # type: ignore[union-attr]


def test_a_soft_and_a_hard_budget_over_one_window_are_told_apart(books: Books) -> None:
    soft, hard = (
        ConfigBudget("global", a_budget(80, "day", "soft")),
        ConfigBudget("global", a_budget(100, "day")),
    )
    before = books.do(ApplyConfig(1, (soft, hard)))
    after = books.do(ApplyConfig(2, (hard, soft)))
    assert isinstance(before, Budgets)
    assert isinstance(after, Budgets)
    assert after.budgets == before.budgets[::-1]


def test_a_configured_budget_cannot_be_changed_by_hand(books: Books) -> None:
    applied = books.do(ApplyConfig(1, (ConfigBudget("global", a_budget(100, "day")),)))
    assert isinstance(applied, Budgets)
    reply = books.do(UpdateBudget(1, applied.budgets[0].budget_id, {"limit_nanousd": 5}))
    assert isinstance(reply, Failed)
    assert reply.code == "conflict"
    assert "router.yaml" in reply.message


# --- the file ----------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["attempts", "settlements", "corrections"])
@pytest.mark.parametrize("change", ["DELETE FROM {}", "UPDATE {} SET error = ''"])
def test_what_happened_cannot_be_rewritten(books: Books, table: str, change: str) -> None:
    books.reserve(1)
    books.do(CloseSession(books.session))
    books.settle(1)
    if table == "attempts":
        change = change.replace("error", "request_id")
    with (
        sqlite3.connect(books.path) as db,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        db.execute(change.format(table))
    db.close()


def test_everything_is_there_again_after_a_restart(books: Books, tmp_path: Path) -> None:
    budget = books.budget(1_000)
    key = make_key(books)
    books.reserve(1, 100, key_id=key.key_id)
    books.reserve(2, 200)
    books.settle(2, 150)
    books.close()
    again = Books(books.path)
    assert again.money(budget) == (150, 100, 0)
    assert again.ledger.open_sessions() == {books.session}
    assert again.session != books.session
    assert again.hello(books.session) == books.session
    assert again.do(Reserve(1, an_attempt(books.number(1), 100))) == Reserved(1, 750)
    assert again.do(Settle(1, a_settlement(books.number(1), 10))) == Settled(1)
    assert again.money(budget) == (160, 0, 0)
    again.close()


def test_a_locked_file_answers_unavailable_and_nothing_has_happened(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    budget = books.budget(1_000)
    books.reserve(1, 100)
    stranger = sqlite3.connect(books.path, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    for reply in (
        books.reserve(2, 100),
        books.settle(1),
        books.do(CreateKey(1, b"d", "", KeySettings(name=""))),
    ):
        assert isinstance(reply, Failed)
        assert reply.code == "unavailable"
    assert books.hello(books.session) == books.session  # writes nothing
    assert isinstance(books.do(CloseSession(books.session)), Failed)
    stranger.execute("ROLLBACK")
    stranger.close()
    assert books.reserve(1, 100) == Reserved(1, 900)
    assert caplog.text.count("cannot write") == 1
    assert books.money(budget) == (0, 100, 0)
    assert books.reserve(2, 100) == Reserved(2, 800)
    assert books.settle(1, 60) == Settled(1)
    assert books.money(budget) == (60, 100, 0)
