"""The ops of the core beyond reserve and settle: metered holds, estimates, corrections, limits."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.ledger.audit import audit
from proxy.ledger.core import CloseSession, ReleaseExpired
from proxy.ledger.protocol import (
    AlertRaised,
    AlertsDelivered,
    ApplyConfig,
    Ask,
    Budgets,
    ConfigBudget,
    Correct,
    CreateGroup,
    CreateKey,
    Done,
    Extend,
    Failed,
    GroupChanged,
    GroupSettings,
    HardScope,
    Hello,
    ImportInvoice,
    InvoiceLine,
    KeyChanged,
    KeySettings,
    Limits,
    Prune,
    RaiseAlert,
    Refused,
    Reserve,
    Reserved,
    Settle,
    Settled,
    Standing,
    UpdateBudget,
    UpdateKey,
    Welcome,
)
from proxy.ledger.reports import attempts
from tests.proxy.ledger.making import NOON, Books, a_budget, a_settlement, an_attempt

DAY_S = 86_400


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path / "ledger.db")
    yield made
    assert audit(made.path) == []
    made.close()


def held(reply: object) -> int | None:
    assert isinstance(reply, Reserved), reply
    return reply.hold_nanousd


# --- metered holds -----------------------------------------------------------------------------


def test_a_metered_hold_is_the_whole_while_that_is_little_of_what_is_left(books: Books) -> None:
    budget = books.budget(32_000)
    assert held(books.reserve(1, 1_000, least=10)) is None
    assert books.money(budget) == (0, 1_000, 0)


def test_a_metered_hold_is_the_least_where_much_sits_idle(books: Books) -> None:
    budget = books.budget(32_000)
    books.reserve(1, 1_000, least=10)
    assert held(books.reserve(2, 1_000, least=10)) == 10
    assert books.money(budget) == (0, 1_010, 0)


def test_a_metered_hold_is_the_whole_under_a_budget_of_full_holds(books: Books) -> None:
    books.budget(32_000)
    full = books.budget(3_000, scope="key:k", holds="full")
    assert held(books.reserve(1, 2_000, scopes=("global", "key:k"), least=10)) is None
    assert books.money(full) == (0, 2_000, 0)
    refused = books.reserve(2, 2_000, scopes=("global", "key:k"), least=10)
    assert isinstance(refused, Refused)
    assert refused.needed_nanousd == 2_000


def test_full_holds_of_a_soft_budget_hold_nobody_back(books: Books) -> None:
    books.do(ApplyConfig(1, (ConfigBudget("global", a_budget(10, mode="soft", holds="full")),)))
    books.budget(320, scope="key:k")
    assert held(books.reserve(1, 2_000, scopes=("global", "key:k"), least=50)) == 50


def test_a_least_above_the_whole_holds_the_whole(books: Books) -> None:
    budget = books.budget(100)
    books.reserve(1, 40, least=60)
    assert books.money(budget) == (0, 40, 0)


def test_an_extension_is_answered_by_what_is_held_and_what_is_left(books: Books) -> None:
    budget = books.budget(3_200)
    books.reserve(1, 1_000, least=100)
    assert books.extend(1, 200) == Reserved(1, 3_000, 200)
    assert books.extend(1, 200) == Reserved(1, 3_000, 200)
    assert books.money(budget) == (0, 200, 0)


def test_an_extension_says_what_is_left_after_all_that_it_gave(books: Books) -> None:
    budget = books.budget(32_000)
    books.reserve(1, 5_000, least=100)
    assert books.money(budget) == (0, 1_000, 0)
    books.do(UpdateBudget(1, budget, {"limit_nanousd": 64_000}))
    assert books.extend(1, 1_001, 5_000) == Reserved(1, 62_000, 2_000)
    assert books.money(budget) == (0, 2_000, 0)


def test_an_extension_that_does_not_fit_keeps_the_hold(books: Books) -> None:
    budget = books.budget(300)
    books.reserve(1, 1_000, least=100)
    books.reserve(2, 100)
    refused = books.extend(1, 201)
    assert isinstance(refused, Refused)
    assert (refused.needed_nanousd, refused.held) == (101, True)
    assert books.extend(1, 200) == Reserved(1, 0, 200)
    books.settle(2, 100)
    spent = books.extend(1, 201)
    assert isinstance(spent, Refused)
    assert not spent.held or spent.needed_nanousd == 1
    assert books.money(budget) == (100, 200, 0)


def test_an_extension_belongs_to_the_window_its_attempt_was_admitted_in(books: Books) -> None:
    """What the new window has to spare says nothing about the old one."""
    budget = books.budget(3_200)
    books.reserve(1, 3_000)
    books.settle(1, 3_000)
    books.reserve(2, 1_000, least=100)
    books.now += DAY_S
    assert books.money(budget) == (0, 0, 0)
    assert held(books.extend(2, 110, 1_000)) == 110
    assert isinstance(books.extend(2, 201), Refused)
    assert held(books.extend(2, 200)) == 200
    assert books.money(budget) == (0, 0, 0)
    books.now -= DAY_S
    assert books.money(budget) == (3_000, 200, 0)


def test_only_an_open_attempt_is_extended(books: Books) -> None:
    books.budget(1_000)
    books.reserve(1, 100)
    books.settle(1, 10)
    for number in (1, 9):
        reply = books.extend(number, 200)
        assert isinstance(reply, Failed)
        assert reply.code == "conflict"


def test_a_raised_hold_covers_its_cost_and_survives_a_restart(books: Books) -> None:
    budget = books.budget(3_200)
    books.reserve(1, 1_000, least=100)
    books.extend(1, 700)
    books.restart()
    assert books.money(budget) == (0, 700, 0)
    assert held(books.reserve(1, 1_000, least=100)) == 700
    books.settle(1, 650)
    assert books.money(budget) == (650, 0, 0)
    (row,) = attempts(books.path, 1)
    assert (row.hold_nanousd, row.overrun_nanousd) == (700, 0)


# --- estimates and corrections -----------------------------------------------------------------


def test_what_an_estimate_leaves_uncertain_stays_held_until_the_deadline(books: Books) -> None:
    budget = books.budget(1_000)
    books.reserve(1, 500)
    books.settle(1, 100, estimated=True, uncertain=150)
    assert books.money(budget) == (100, 150, 0)
    books.restart()
    assert books.money(budget) == (100, 150, 0)
    books.now = NOON + 600
    books.do(ReleaseExpired())
    assert books.money(budget) == (100, 0, 0)


def test_no_more_is_uncertain_than_was_held(books: Books) -> None:
    budget = books.budget(1_000)
    books.reserve(1, 100)
    books.settle(1, 60, estimated=True, uncertain=500)
    assert books.money(budget) == (60, 40, 0)


def test_a_correction_moves_every_balance_and_releases_what_was_uncertain(books: Books) -> None:
    one, other = books.budget(1_000), books.budget(1_000, scope="key:k", window="30d")
    books.reserve(1, 500, scopes=("global", "key:k"))
    books.settle(1, 100, estimated=True, uncertain=300)
    assert books.do(Correct(7, books.number(1), 350, "invoice")) == Done(7, 1)
    assert books.money(one) == books.money(other) == (350, 0, 0)
    (row,) = attempts(books.path, 1)
    assert (row.cost_nanousd, row.estimated, row.output_tokens) == (350, False, 7)
    assert books.do(Correct(8, books.number(1), 350, "invoice")) == Done(8, 0)
    assert books.money(one) == (350, 0, 0)


def test_a_correction_by_hand_keeps_the_usage_that_came_late(books: Books) -> None:
    books.reserve(1, 100)
    books.do(CloseSession(books.session))
    books.settle(1, 70)
    books.do(Correct(1, books.number(1), 80, "invoice"))
    (row,) = attempts(books.path, 1)
    assert (row.outcome, row.cost_nanousd, row.output_tokens, row.status) == ("ok", 80, 7, 200)


def test_a_correction_back_and_forth_counts_as_overrun_what_others_could_have_got(
    books: Books,
) -> None:
    budget = books.budget(100)
    books.reserve(1, 100)
    books.settle(1, 60)
    assert books.reserve(2, 40) == Reserved(2, 0)
    books.do(Correct(1, books.number(1), 80, "invoice"))
    assert books.money(budget) == (80, 40, 20)
    books.do(Correct(1, books.number(1), 70, "credit"))
    assert books.money(budget) == (70, 40, 10)
    books.do(Correct(1, books.number(1), 50, "credit"))
    assert books.money(budget) == (50, 40, 0)
    assert books.reserve(3, 10) == Reserved(3, 0)
    books.do(Correct(1, books.number(1), 60, "invoice"))
    assert books.money(budget) == (60, 50, 10)


def test_only_what_is_settled_is_corrected(books: Books) -> None:
    books.reserve(1)
    for number, code in ((1, "conflict"), (5, "not_found")):
        reply = books.do(Correct(1, books.number(number), 5, "invoice"))
        assert isinstance(reply, Failed)
        assert reply.code == code


# --- scopes ------------------------------------------------------------------------------------


def test_a_scope_of_several_parts_needs_all_of_them(books: Books) -> None:
    both = books.budget(100, scope="key:a & tag:x")
    for counter, scopes in enumerate((("key:a",), ("tag:x",), ("key:b", "tag:x")), 1):
        assert books.reserve(counter, 500, scopes=scopes) == Reserved(counter, None)
    assert books.reserve(4, 60, scopes=("tag:x", "global", "key:a")) == Reserved(4, 40)
    assert books.money(both) == (0, 60, 0)


def test_a_star_gives_each_a_budget_of_its_own(books: Books) -> None:
    parent = books.budget(100, scope="team:t & user:*")
    assert books.reserve(1, 80, scopes=("team:t", "user:ada")) == Reserved(1, 20)
    assert books.reserve(2, 80, scopes=("team:t", "user:bob")) == Reserved(2, 20)
    assert isinstance(books.reserve(3, 80, scopes=("team:t", "user:ada")), Refused)
    assert books.reserve(4, 80, scopes=("team:u", "user:ada")) == Reserved(4, None)
    assert books.money(parent) == (0, 0, 0)
    books.restart()
    assert isinstance(books.reserve(5, 80, scopes=("user:bob", "team:t")), Refused)
    books.do(UpdateBudget(1, parent, {"limit_nanousd": 200}))
    assert books.reserve(6, 80, scopes=("user:bob", "team:t")) == Reserved(6, 40)
    books.do(UpdateBudget(1, parent, deleted=True))
    assert books.reserve(7, 10**6, scopes=("user:bob", "team:t")) == Reserved(7, None)


def test_a_budget_of_a_star_is_not_changed_by_itself(books: Books) -> None:
    books.budget(100, scope="user:*")
    books.reserve(1, 1, scopes=("user:ada",))
    listed = books.do(ApplyConfig(1, ()))
    assert isinstance(listed, Budgets)
    (made,) = books.ledger.apply([[Ask(1, ())]], NOON)
    assert made == [Standing(1, 0)]
    reply = books.do(UpdateBudget(1, 2, {"limit_nanousd": 5}))
    assert isinstance(reply, Failed)
    assert (reply.code, "budget 1" in reply.message) == ("conflict", True)


@pytest.mark.parametrize("user", ["user:*", "user:a & key:k"])
def test_a_name_that_would_read_as_another_scope_is_not_admitted_under_a_star(
    books: Books, user: str
) -> None:
    """It would get a budget that is not found again, or one that makes more of itself."""
    books.budget(100, scope="user:*")
    reply = books.reserve(1, 500, scopes=(user,))
    assert isinstance(reply, Failed)
    assert reply.code == "invalid"


def test_a_part_that_ends_in_a_star_is_a_name(books: Books) -> None:
    books.budget(100, scope="user:* & tag:a*")
    assert books.reserve(1, 60, scopes=("user:ada", "tag:a*")) == Reserved(1, 40)
    assert books.reserve(2, 500, scopes=("user:*b", "tag:abc")) == Reserved(2, None)
    assert books.reserve(3, 60, scopes=("user:bob", "tag:a*")) == Reserved(3, 40)


def test_asking_says_the_largest_share_that_is_spent(books: Books) -> None:
    books.budget(1_000)
    books.budget(100, scope="key:k")
    books.budget(1, scope="key:k", mode="soft")
    books.reserve(1, 100, scopes=("global", "key:k"))
    books.settle(1, 90)
    assert books.do(Ask(1, ("global",))) == Standing(1, 90_000)
    assert books.do(Ask(2, ("global", "key:k"))) == Standing(2, 900_000)
    assert books.do(Ask(3, ("tag:x",))) == Standing(3, 0)


# --- which scopes are hard ---------------------------------------------------------------------


def hard_scopes(books: Books) -> set[str]:
    welcome = books.do(Hello("client", "c"))
    assert isinstance(welcome, Welcome)
    return set(welcome.hard_scopes)


def test_news_of_hard_scopes_come_to_what_a_new_connection_is_told(books: Books) -> None:
    known: set[str] = set()

    def follow() -> None:
        for news in books.ledger.take_news():
            assert isinstance(news, HardScope)
            (known.add if news.is_hard else known.discard)(news.scope)
        assert known == hard_scopes(books)

    star = books.budget(100, scope="user:*")
    follow()
    books.reserve(1, 1, scopes=("user:ada",))
    follow()
    soft = books.budget(5, scope="user:ada", mode="soft")
    follow()
    books.do(UpdateBudget(1, soft, {"mode": "hard"}))
    follow()
    assert known == {"user:*", "user:ada"}
    books.do(UpdateBudget(1, star, deleted=True))
    follow()
    assert known == {"user:ada"}
    books.do(UpdateBudget(1, soft, {"mode": "soft"}))
    follow()
    assert known == set()


# --- alerts ------------------------------------------------------------------------------------


def raised(books: Books) -> list[tuple[str, int, int]]:
    news = [n.alert for n in books.ledger.take_news() if isinstance(n, AlertRaised)]
    return [(alert.kind, alert.percent, alert.amount_nanousd) for alert in news]


def test_each_share_of_a_budget_is_told_once(books: Books) -> None:
    books.budget(1_000)
    spent = 0
    told = []
    for counter in range(1, 11):
        books.reserve(counter, 100)
        books.settle(counter, 100)
        spent += 100
        told.append(raised(books))
    assert [t for t in told if t] == [
        [("budget", 50, 500)],
        [("budget", 80, 800)],
        [("budget", 100, 1_000)],
    ]


def test_the_first_settlement_after_a_restart_is_seen(books: Books) -> None:
    for window in ("day", "30d"):
        books.budget(100, scope=f"tag:{window}", window=window)
    books.reserve(1, 90, scopes=("tag:day", "tag:30d"))
    books.restart()
    books.settle(1, 85)
    assert raised(books) == [("budget", 80, 85)] * 2


@pytest.mark.parametrize("is_late", [False, True])
def test_an_overrun_is_told_once_a_day(books: Books, *, is_late: bool) -> None:
    books.reserve(1, 50)
    books.reserve(2, 50)
    if is_late:
        books.do(CloseSession(books.session))
    books.settle(1, 70)
    assert raised(books) == [("overrun", 0, 20)]
    books.settle(2, 90)
    assert raised(books) == []


def test_an_unpriced_target_and_a_drift_are_told_once_a_day(books: Books) -> None:
    books.reserve(1, 0, priced=False)
    books.reserve(2, 0, priced=False)
    assert raised(books) == [("unpriced", 0, 0)]
    drift = RaiseAlert(1, "drift", "openai", "OpenAI says more", -5)
    assert books.do(drift) == Done(1, 1)
    assert books.do(drift) == Done(1, 0)
    books.restart()
    assert books.do(drift) == Done(1, 0)
    assert raised(books) == []
    books.now += DAY_S
    assert books.do(drift) == Done(1, 1)


def test_what_several_workers_see_of_a_target_is_told_once(books: Books) -> None:
    for worker in range(3):
        seen = RaiseAlert(1, "errors", "openai/m", f"{worker} of 20 failed")
        assert books.do(seen) == Done(1, 1 if worker == 0 else 0)
        books.now += 299
    assert books.do(RaiseAlert(1, "latency", "openai/m", "slow")) == Done(1, 1)
    assert books.do(RaiseAlert(1, "errors", "openai/other", "…")) == Done(1, 1)
    assert books.do(RaiseAlert(1, "errors", "openai/m", "again")) == Done(1, 1)
    assert [kind for kind, _, _ in raised(books)] == ["errors", "latency", "errors", "errors"]


def test_alerts_are_kept_until_they_are_delivered(books: Books) -> None:
    books.reserve(1, 0, priced=False)
    (news,) = books.ledger.take_news()
    assert isinstance(news, AlertRaised)
    books.restart()
    welcome = books.do(Hello("client", "c"))
    assert isinstance(welcome, Welcome)
    assert welcome.alerts == (news.alert,)
    delivered = AlertsDelivered(1, (news.alert.alert_id, 77))
    assert books.do(delivered) == Done(1, 1)
    assert books.do(delivered) == Done(1, 0)
    books.restart()
    again = books.do(Hello("client", "c"))
    assert isinstance(again, Welcome)
    assert again.alerts == ()


def test_an_alert_of_a_batch_that_failed_is_raised_again(books: Books) -> None:
    books.budget(100)
    books.reserve(1, 100)
    stranger = sqlite3.connect(books.path, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    assert isinstance(books.settle(1, 100), Failed)
    stranger.execute("ROLLBACK")
    stranger.close()
    assert books.ledger.take_news() == []
    assert books.settle(1, 100) == Settled(1)
    assert raised(books) == [("budget", 100, 100)]


# --- limits ------------------------------------------------------------------------------------


def a_key(books: Books, digest: bytes = b"digest", **fields: object) -> str:
    settings = KeySettings(name="k", **fields)  # type: ignore[arg-type]
    made = books.do(CreateKey(1, digest, "…", settings))
    assert isinstance(made, KeyChanged)
    return made.key.key_id


def test_a_keys_limits_hold_across_a_restart(books: Books) -> None:
    key = a_key(books, limits=Limits(requests_per_minute=2))
    scopes = (f"key:{key}",)
    first = books.reserve(1, key_id=key, scopes=scopes)
    assert isinstance(first, Reserved)
    assert first.requests is not None
    assert (first.requests.limit, first.requests.left) == (2, 1)
    books.now += 30
    assert isinstance(books.reserve(2, key_id=key, scopes=scopes), Reserved)
    books.restart()
    refused = books.reserve(3, key_id=key, scopes=scopes)
    assert isinstance(refused, Refused)
    assert refused.reason == "rate"
    assert refused.rate is not None
    assert (refused.rate.kind, refused.rate.limit) == ("requests", 2)
    assert refused.rate.retry_ms == 30_100
    books.now += 30.1
    assert isinstance(books.reserve(4, key_id=key, scopes=scopes), Reserved)


def test_a_refused_request_counts_for_no_limit(books: Books) -> None:
    key = a_key(books, limits=Limits(requests_per_minute=1, concurrent=1))
    scopes = (f"key:{key}",)
    books.budget(50)
    assert isinstance(books.reserve(1, 100, key_id=key, scopes=("global", *scopes)), Refused)
    assert isinstance(books.reserve(2, 50, key_id=key, scopes=("global", *scopes)), Reserved)


def test_concurrency_ends_with_the_settlement(books: Books) -> None:
    key = a_key(books, limits=Limits(concurrent=1))
    scopes = (f"key:{key}",)
    books.reserve(1, key_id=key, scopes=scopes)
    refused = books.reserve(2, key_id=key, scopes=scopes)
    assert isinstance(refused, Refused)
    assert refused.rate is not None
    assert refused.rate.kind == "concurrent"
    fallback = an_attempt(books.number(3), key_id=key, scopes=scopes, first=False)
    assert isinstance(books.do(Reserve(3, fallback, a_settlement(books.number(1), 0))), Reserved)
    books.restart()
    assert isinstance(books.reserve(4, key_id=key, scopes=scopes), Refused)
    books.do(CloseSession(books.session))
    books.hello(books.session)
    assert isinstance(books.reserve(5, key_id=key, scopes=scopes), Reserved)


def test_configured_limits_of_targets_apply_to_fallbacks_too(books: Books) -> None:
    limits = {"target:a/b": Limits(requests_per_minute=1)}
    books.do(ApplyConfig(1, (), limits=limits))
    assert isinstance(books.reserve(1, scopes=("target:a/b",)), Reserved)
    assert isinstance(books.reserve(2, scopes=("target:a/b",), first=False), Refused)
    books.restart()
    assert isinstance(books.reserve(3, scopes=("target:a/b",)), Refused)
    books.do(ApplyConfig(1, ()))
    assert books.reserve(4, scopes=("target:a/b",)) == Reserved(4, None)


@pytest.mark.parametrize(
    ("changes", "may_spend"),
    [
        ({"blocked": True}, False),
        ({"expires_at": NOON}, False),
        ({"expires_at": NOON + 1}, True),
        ({"expires_at": None}, True),
    ],
)
def test_a_blocked_or_expired_key_gets_nothing(
    books: Books, changes: dict[str, object], *, may_spend: bool
) -> None:
    key = a_key(books)
    books.do(UpdateKey(1, key, changes))
    reply = books.reserve(1, key_id=key)
    assert isinstance(reply, Reserved if may_spend else Refused)


def test_a_keys_and_a_groups_budgets_are_made_with_them_or_not_at_all(books: Books) -> None:
    bad = a_budget(5, window="fortnight")
    for op in (
        CreateKey(1, b"d", "…", KeySettings(name="k"), (a_budget(5), bad)),
        CreateGroup(1, "team", GroupSettings(name="t"), (a_budget(5), bad)),
    ):
        reply = books.do(op)
        assert isinstance(reply, Failed)
        assert reply.code == "invalid"
    welcome = books.do(Hello("client", "c"))
    assert isinstance(welcome, Welcome)
    assert (welcome.keys, welcome.groups, welcome.hard_scopes) == ((), (), ())
    made = books.do(CreateGroup(1, "team", GroupSettings(name="t"), (a_budget(5),), "t_x"))
    assert isinstance(made, GroupChanged)
    assert hard_scopes(books) == {"team:t_x"}


# --- invoices and retention --------------------------------------------------------------------


def test_a_later_invoice_replaces_the_days_it_names(books: Books) -> None:
    first = (InvoiceLine("2026-03-10", "gpt-4o", 5), InvoiceLine("2026-03-11", "gpt-4o", 6))
    assert books.do(ImportInvoice(1, "openai", "a.csv", first)) == Done(1, 2)
    later = (InvoiceLine("2026-03-11", "gpt-4o", 9, 1, 2, 3),)
    assert books.do(ImportInvoice(2, "openai", "b.csv", later)) == Done(2, 1)
    with sqlite3.connect(books.path) as db:
        rows = db.execute("SELECT day, cost_nanousd, source FROM invoice_lines").fetchall()
    db.close()
    assert rows == [("2026-03-10", 5, "a.csv"), ("2026-03-11", 9, "b.csv")]


def test_what_is_forgotten_stays_in_the_balances(books: Books) -> None:
    budget = books.budget(1_000, window="year")
    for counter, cost in ((1, 50), (2, 130), (3, 0)):
        books.reserve(counter)
        if cost:
            books.settle(counter, cost)
    books.do(Correct(1, books.number(1), 40, "credit"))
    assert isinstance(books.do(Prune(1, NOON + 1)), Failed)
    books.now += 2 * DAY_S
    before = int(books.now) - DAY_S
    assert books.do(Prune(1, before, 1)) == Done(1, 1)
    assert books.do(Prune(2, before)) == Done(2, 1)
    assert books.do(Prune(3, before)) == Done(3, 0)
    assert books.money(budget) == (170, 100, 30)
    assert [row.outcome for row in attempts(books.path, 9)] == ["open"]
    books.restart()
    assert books.money(budget) == (170, 100, 30)
    assert books.settle(3, 100) == Settled(3)
    assert books.do(Prune(4, before)) == Done(4, 1)
    assert books.money(budget) == (270, 0, 30)


def test_settling_and_extending_go_on_while_a_stranger_locks_the_file(books: Books) -> None:
    budget = books.budget(3_200)
    books.reserve(1, 1_000, least=100)
    stranger = sqlite3.connect(books.path, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    ops = (
        Extend(1, books.number(1), 500, 500),
        Settle(1, a_settlement(books.number(1), 60, uncertain=40)),
        Correct(1, books.number(1), 5, "invoice"),
        CreateGroup(1, "team", GroupSettings(name="t")),
        RaiseAlert(1, "drift", "openai", "…"),
        ImportInvoice(1, "openai", "x", ()),
        Prune(1, NOON - DAY_S),
    )
    for op in ops[:2]:
        reply = books.do(op)
        assert isinstance(reply, Failed)
        assert reply.code == "unavailable"
    ((*replies,),) = books.ledger.apply([ops], NOON)
    assert all(isinstance(r, Failed) and r.code == "unavailable" for r in replies)
    stranger.execute("ROLLBACK")
    stranger.close()
    assert held(books.extend(1, 300)) == 300
    assert books.settle(1, 60, uncertain=40) == Settled(1)
    assert books.money(budget) == (60, 40, 0)


def test_an_extension_after_a_restart_counts_what_a_rolling_window_has_spent(books: Books) -> None:
    budget = books.budget(1_000, window="1h")
    books.reserve(1, 900)
    books.settle(1, 900)
    books.reserve(2, 500, least=50)
    books.restart()
    assert isinstance(books.extend(2, 101), Refused)
    assert books.extend(2, 100) == Reserved(2, 0, 100)
    assert books.money(budget) == (900, 100, 0)


def test_groups_are_there_again_after_a_restart(books: Books) -> None:
    made = books.do(CreateGroup(1, "organisation", GroupSettings(name="o")))
    assert isinstance(made, GroupChanged)
    books.restart()
    welcome = books.do(Hello("client", "c"))
    assert isinstance(welcome, Welcome)
    assert welcome.groups == (made.group,)


def test_an_extension_can_be_refused_right_after_a_restart(books: Books) -> None:
    books.budget(100)
    books.reserve(1, 500, least=50)
    books.restart()
    refused = books.extend(1, 101)
    assert isinstance(refused, Refused)
    assert refused.budget is not None
    assert refused.budget.held_nanousd == 50
