"""The ledger core against a model, on real files, through crashes and failing disks.

After every batch each reply, each balance in memory, the news and the whole file (by audit) must
be what the model says. A list of bugs shows what the machine can see: it must find each of them.
"""

from __future__ import annotations

import copy
import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from proxy import budgets
from proxy.budgets import rolling_s
from proxy.ledger import book, core, notices, rates
from proxy.ledger.audit import audit
from proxy.ledger.core import CloseSession, Ledger, ReleaseExpired, Step
from proxy.ledger.directory import Directory
from proxy.ledger.protocol import (
    ATTEMPT_BITS,
    AlertsDelivered,
    ApplyConfig,
    Ask,
    Attempt,
    BudgetSettings,
    ConfigBudget,
    Correct,
    CreateBudget,
    CreateGroup,
    CreateKey,
    Extend,
    Failed,
    GroupSettings,
    Hello,
    KeySettings,
    Limits,
    ListBudgets,
    Progress,
    Prune,
    RaiseAlert,
    Reply,
    Reserve,
    RotateKey,
    Settle,
    Settlement,
    UpdateBudget,
    UpdateGroup,
    UpdateKey,
)
from proxy.ledger.store import Store, open_store
from tests.proxy.ledger.ledger_model import Model, digest
from tests.proxy.ledger.making import NOON, a_settlement, an_attempt

T = TypeVar("T")

SCOPES = ("global", "team:a", "user:u", "user:v", "tag:x", "target:t")
BUDGET_SCOPES = (*SCOPES[:3], "tag:x", "tag:x & team:a", "user:*", "team:a & user:*")
CALENDARS = (
    ("day", "UTC"),
    ("day", "America/New_York"),
    ("week", "Europe/Berlin"),
    ("quarter", "UTC"),
    ("year", "Europe/Berlin"),
    ("lifetime", "UTC"),
    ("5m", "UTC"),
    ("1h", "UTC"),
    ("30d", "UTC"),
)
STEPS_S = (0, 0, 0, 0, 0.05, 59, 59, 61, 700, 3_600, 86_400, 7 * 86_400, 31 * 86_400)
BACK_S = (-0.05, -1, -61, -1_800, -90_000)
# Whether /dev/shm exists only decides how fast this runs.
RAM = "/dev/shm" if Path("/dev/shm").is_dir() else None


class LedgerMachine(RuleBasedStateMachine):
    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=RAM))
        self.path = self.folder / "ledger.db"
        self.model = Model()
        self.now = float(NOON)
        self.made = 0
        self.sent: list[Attempt] = []
        shutil.copy(self.template, self.path)
        self.open()

    def open(self) -> None:
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        self.connection.execute("PRAGMA synchronous = OFF")
        self.ledger = Ledger(Store(self.connection))

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self.run([[Hello("worker", "a"), Hello("worker", "b")]])
        scopes = data.draw(st.lists(st.sampled_from(BUDGET_SCOPES), min_size=2, max_size=4))
        self.run([[self.draw_budget(data, scope) for scope in scopes]])
        self.run([[self.draw_config(data), self.draw_key(data)]])

    # --- drawing steps ---------------------------------------------------------------------------

    def draw_settings(self, data: st.DataObject) -> BudgetSettings:
        window, timezone = data.draw(st.sampled_from(CALENDARS))
        return BudgetSettings(
            limit_nanousd=data.draw(st.integers(0, 600) | st.sampled_from([3_200, 9_600])),
            window=window,
            timezone=timezone,
            mode=data.draw(st.sampled_from(["hard", "hard", "soft"])),  # type: ignore[arg-type]
            holds=data.draw(st.sampled_from(["sliced", "sliced", "full"])),  # type: ignore[arg-type]
        )

    def draw_budget(self, data: st.DataObject, scope: str) -> CreateBudget:
        return CreateBudget(1, scope, self.draw_settings(data))

    def draw_limits(self, data: st.DataObject) -> Limits:
        return Limits(
            requests_per_minute=data.draw(st.sampled_from([None, 1, 1, 3])),
            tokens_per_minute=data.draw(st.sampled_from([None, None, 60, 100])),
            concurrent=data.draw(st.sampled_from([None, None, None, 2])),
        )

    def draw_key(self, data: st.DataObject) -> CreateKey:
        name = data.draw(st.sampled_from(["a", "b", "c", "d"]))
        return CreateKey(1, digest(name), "…", KeySettings(name="k", limits=self.draw_limits(data)))

    def draw_config(self, data: st.DataObject) -> ApplyConfig:
        made = [
            self.draw_budget(data, data.draw(st.sampled_from(BUDGET_SCOPES)))
            for _ in range(data.draw(st.integers(0, 2)))
        ]
        limits = data.draw(st.booleans())
        return ApplyConfig(
            1,
            tuple(ConfigBudget(m.scope, m.settings) for m in made),
            limits={"target:t": self.draw_limits(data)} if limits else {},
            alert_percents=data.draw(st.sampled_from([(50, 80, 100), (50, 80, 100), (30,)])),
        )

    def draw_attempt(self, data: st.DataObject) -> Attempt:
        if self.sent and data.draw(st.integers(0, 9)) == 0:
            return data.draw(st.sampled_from(self.sent))  # a repetition
        session = pick(data, sorted(self.model.sessions))
        self.made += 1
        hold = data.draw(st.integers(0, 200))
        key_id = pick(data, ["", "", *self.model.keys, *self.model.keys, "k_unknown"])
        scopes = data.draw(st.lists(st.sampled_from(SCOPES), max_size=5))
        attempt = an_attempt(
            session << ATTEMPT_BITS | self.made,
            hold,
            scopes=(*scopes, f"key:{key_id}") if key_id else tuple(scopes),
            floor=data.draw(st.integers(0, 220)),
            deadline=int(self.now) + data.draw(st.integers(-10, 1_000)),
            key_id=key_id,
            priced=data.draw(st.integers(0, 9)) > 0,
            least=data.draw(st.none() | st.integers(0, 60)),
            tokens=data.draw(st.integers(0, 50)),
            first=data.draw(st.integers(0, 5)) > 0,
        )
        self.sent.append(attempt)
        return attempt

    def draw_settlement(self, data: st.DataObject) -> Settlement:
        attempt = data.draw(st.sampled_from(self.sent))
        uncertain = data.draw(st.sampled_from([0, 0, 30, 150]))
        return a_settlement(
            attempt.attempt,
            data.draw(st.integers(0, 200) | st.integers(0, 260)),
            uncertain=uncertain,
            estimated=bool(uncertain),
            tokens=data.draw(st.integers(0, 70)),
        )

    def draw_step(self, data: st.DataObject) -> Step:
        kind = data.draw(st.sampled_from(KINDS))
        sessions = sorted(self.model.sessions)
        if not self.sent and kind in ("settle", "fallback", "progress", "extend", "correct"):
            kind = "reserve"
        match kind:
            case "reserve":
                return Reserve(1, self.draw_attempt(data))
            case "fallback":
                settles = self.draw_settlement(data)
                return Reserve(1, self.draw_attempt(data), settles)
            case "extend":
                attempt = data.draw(st.sampled_from(self.sent))
                hold = data.draw(st.integers(0, 260))
                most = hold + data.draw(st.integers(0, 100))
                return Extend(1, attempt.attempt, hold, most)
            case "settle":
                return Settle(1, self.draw_settlement(data))
            case "progress":
                chosen = data.draw(st.lists(st.sampled_from(self.sent), max_size=3))
                return Progress(tuple((a.attempt, data.draw(st.integers(0, 220))) for a in chosen))
            case "correct":
                attempt = data.draw(st.sampled_from(self.sent))
                return Correct(1, attempt.attempt, data.draw(st.integers(0, 260)), "invoice")
            case "ask":
                scopes = data.draw(st.lists(st.sampled_from(SCOPES), max_size=4))
                return Ask(1, tuple(scopes))
            case "prune":
                days = data.draw(st.integers(0, 8))
                return Prune(1, max(0, int(self.now) - days * 86_400 - 1))
            case "hello":
                return Hello("worker", "w", pick(data, [0, 77, *sessions]))
            case "close":
                return CloseSession(pick(data, sessions))
            case "expire":
                return ReleaseExpired()
            case "key" | "rotate" | "change key":
                return self.draw_key_step(data, kind)
            case "group":
                return self.draw_group_step(data)
            case "budget":
                return self.draw_budget(data, data.draw(st.sampled_from(BUDGET_SCOPES)))
            case "change":
                ids = [budget.id for budget in self.model.budgets.values() if budget.id is not None]
                return UpdateBudget(
                    1,
                    pick(data, [*ids, 9_999]),
                    data.draw(
                        st.fixed_dictionaries(
                            {},
                            optional={
                                "limit_nanousd": st.integers(0, 900),
                                "mode": st.sampled_from(["hard", "soft"]),
                                "holds": st.sampled_from(["sliced", "full"]),
                            },
                        )
                    ),
                    deleted=data.draw(st.integers(0, 5)) == 0,
                )
            case "config":
                return self.draw_config(data)
            case "alert":
                return RaiseAlert(1, "drift", data.draw(st.sampled_from(["a", "b"])), "…", 5)
            case "delivered":
                return AlertsDelivered(1, tuple(list(self.model.alerts)[:2]))
            case _:
                return ListBudgets(1)

    def draw_key_step(self, data: st.DataObject, kind: str) -> Step:
        key_id = pick(data, ["k_unknown", *self.model.keys, *self.model.keys])
        if kind == "key":
            return self.draw_key(data)
        if kind == "rotate":
            new = digest(data.draw(st.sampled_from(["a", "b", "c", "d", "e", "f"])))
            return RotateKey(1, key_id, new, "…", data.draw(st.sampled_from([0, 60])))
        changes: dict[str, Any] = pick(
            data,
            [
                {"blocked": True},
                {"blocked": False},
                {"expires_at": int(self.now)},
                {"expires_at": None},
                {"limits": self.draw_limits(data)},
            ],
        )
        return UpdateKey(1, key_id, changes, revoked=data.draw(st.integers(0, 9)) == 0)

    def draw_group_step(self, data: st.DataObject) -> Step:
        limits = self.draw_limits(data)
        if data.draw(st.booleans()):
            return CreateGroup(1, "team", GroupSettings(name="a", limits=limits), (), "a")
        deleted = data.draw(st.integers(0, 5)) == 0
        return UpdateGroup(1, "a", {"limits": limits}, deleted=deleted)

    # --- rules -----------------------------------------------------------------------------------

    def run(self, frames: list[list[Step]]) -> bool:
        """Apply the frames; the model follows unless the ledger says that nothing happened."""
        return self.follow(frames, self.ledger.apply(frames, self.now))

    def follow(self, frames: list[list[Step]], answers: list[list[Reply | None]]) -> bool:
        steps = [step for frame in frames for step in frame]
        replies = [reply for answer in answers for reply in answer]
        failed = [isinstance(r, Failed) and r.code == "unavailable" for r in replies]
        if any(failed):
            assert all(failed) or all(
                is_failed or isinstance(step, Progress)
                for is_failed, step in zip(failed, steps, strict=True)
            )
            for step in steps:
                if isinstance(step, Progress):  # what workers say of themselves is not undone
                    self.model.check(step, None, self.now)
            assert self.ledger.take_news() == []
            self.model.reload_limits()
            return False
        model = copy.deepcopy(self.model)
        news = self.ledger.take_news()
        for step, reply in zip(steps, replies, strict=True):
            model.check(step, reply, round(self.now, 3))
        # Turns every window to now, which the batch must have done by itself where it had to.
        ((listed,),) = self.ledger.apply([[ListBudgets(1)]], self.now)
        model.check(ListBudgets(1), listed, self.now)
        model.check_news([*news, *self.ledger.take_news()], self.now)
        self.model = model
        return True

    @rule(data=st.data(), seconds=st.sampled_from(STEPS_S))
    def batch(self, data: st.DataObject, seconds: float) -> None:
        self.now = round(self.now + seconds, 3)
        self.model.passed += seconds
        sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
        assert self.run([[self.draw_step(data) for _ in range(size)] for size in sizes])

    # Said twice, since half of all steps should be plain ones: rules are drawn evenly.
    @rule(data=st.data(), seconds=st.sampled_from(STEPS_S))
    def another_batch(self, data: st.DataObject, seconds: float) -> None:
        self.batch(data, seconds)

    @rule(data=st.data(), seconds=st.sampled_from(BACK_S))
    def batch_after_the_clock_went_back(self, data: st.DataObject, seconds: float) -> None:
        self.now = round(self.now + seconds, 3)
        assert self.run([[self.draw_step(data) for _ in range(data.draw(st.integers(1, 5)))]])

    @rule(data=st.data(), after=st.integers(1, 400), size=st.integers(1, 8))
    def interrupted_batch(self, data: st.DataObject, after: int, size: int) -> None:
        """SQLite fails in whichever statement its virtual machine has then come to."""
        frame = [self.draw_step(data) for _ in range(size)]
        if any(isinstance(step, Progress) for step in frame):
            return
        self.connection.set_progress_handler(lambda: 1, after)
        try:
            answers = self.ledger.apply([frame], self.now)
        finally:
            self.connection.set_progress_handler(None, 0)
        self.follow([frame], answers)

    @rule(trouble=st.sampled_from(["a full disk", "a restart", "a crash"]))
    def trouble(self, trouble: str) -> None:
        if trouble == "a full disk":
            self.fill_the_disk()
        else:
            self.restart(is_crash=trouble == "a crash")

    def fill_the_disk(self) -> None:
        session = next(iter(self.model.sessions))
        (pages,) = self.connection.execute("PRAGMA page_count").fetchone()
        (free,) = self.connection.execute("PRAGMA freelist_count").fetchone()
        self.connection.execute(f"PRAGMA max_page_count = {pages}")
        try:
            self.made += free + 3
            big = [
                an_attempt(
                    session << ATTEMPT_BITS | self.made - i, 0, scopes=(), request_id="x" * 5_000
                )
                for i in range(free + 3)
            ]
            frame: list[Step] = [Hello("worker", "a", session), *(Reserve(1, a) for a in big)]
            assert not self.run([frame])
        finally:
            self.connection.execute("PRAGMA max_page_count = 1073741823")

    def restart(self, *, is_crash: bool) -> None:
        """A crash leaves the bytes as they are: nothing closed, nothing checkpointed."""
        if not is_crash:
            self.connection.close()
        else:
            fresh = Path(tempfile.mkdtemp(dir=RAM))
            for suffix in ("", "-wal"):
                left = self.path.with_name(self.path.name + suffix)
                if left.exists():
                    shutil.copy(left, fresh / left.name)
            self.connection.close()
            shutil.rmtree(self.folder)
            self.folder, self.path = fresh, fresh / "ledger.db"
        self.open()
        self.model.attached.clear()
        self.model.reload_limits()
        for attempt in self.model.attempts.values():
            attempt.floor = attempt.committed_floor  # heartbeats live in memory
        open_now = {
            number >> ATTEMPT_BITS
            for number, attempt in self.model.attempts.items()
            if attempt.state == "open"
        }
        assert self.ledger.open_sessions() == open_now
        ((welcome,),) = self.ledger.apply([[Hello("client", "c")]], self.now)
        self.model.check_connection(welcome)

    # --- what always holds -----------------------------------------------------------------------

    @invariant()
    def books_balance(self) -> None:
        assert audit(self.path) == []

    @invariant()
    def no_hard_budget_is_exceeded(self) -> None:
        """In every window there was, and not only in the one that is open now."""
        everyone = self.model.all_attempts()
        for budget in [*self.model.budgets.values(), *self.model.past]:
            if not budget.faithful:
                continue
            length_s = rolling_s(budget.settings.window)
            legs = [(s, a) for a in everyone for key, s in a.legs if key == budget.key]
            for end in {start for start, _ in legs}:
                first = end if length_s is None else end - length_s
                mine = [a for start, a in legs if first <= start <= end]
                is_past = budget.key not in self.model.budgets
                late = sum(a.late for a in mine) if length_s or is_past else 0
                used = sum(a.cost + a.held - a.overrun for a in mine)
                assert used <= budget.limit + late, (budget, end)

    def teardown(self) -> None:
        self.connection.close()
        shutil.rmtree(self.folder)


KINDS = (
    *("reserve",) * 12,
    *("settle",) * 7,
    *("extend",) * 4,
    *("fallback",) * 2,
    *("progress",) * 2,
    *("correct",) * 2,
    *("close",) * 2,
    *("hello",) * 3,
    "expire",
    "ask",
    "prune",
    "key",
    "rotate",
    *("change key",) * 2,
    "group",
    *("budget",) * 2,
    *("change",) * 2,
    "config",
    *("alert",) * 3,
    "delivered",
)


def pick(data: st.DataObject, items: Sequence[T]) -> T:
    """One of what the ledger holds by now.

    The draw itself must not depend on how much that is: whether an interrupted batch went through
    can differ between two runs of one example, and Hypothesis calls that flaky.
    """
    return items[data.draw(st.integers(0, 999)) % len(items)]


def check_ledger(template: Path, **how: Any) -> None:
    """Run the machine. Raises what it found."""

    class Machine(LedgerMachine):
        pass

    Machine.template = template
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), **how
        ),
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    open_store(path).close()
    return path


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "proxy.ledger.core")  # it reports every injected fault


def test_the_ledger_does_what_a_model_says(template: Path) -> None:
    check_ledger(template, max_examples=100)


# --- bugs that the machine must find -------------------------------------------------------------

Patch = pytest.MonkeyPatch
Bug = Callable[[Patch], None]


def zero_size_holds(patch: Patch) -> None:
    amount = core._amount
    patch.setattr(core, "_amount", lambda a, on: amount(a, on) if a.least_nanousd is None else 0)


def short_slices(patch: Patch) -> None:
    amount = core._amount
    patch.setattr(
        core, "_amount", lambda a, on: min(amount(a, on), (a.least_nanousd or 10**9) // 2)
    )


def full_holds_forgotten(patch: Patch) -> None:
    settle = book.Budget.set

    def forgetful(self: book.Budget, told: BudgetSettings) -> None:
        settle(self, told)
        self.full_holds = False

    patch.setattr(book.Budget, "set", forgetful)


def a_limit_off_by_one(patch: Patch) -> None:
    settle = book.Budget.set

    def generous(self: book.Budget, told: BudgetSettings) -> None:
        settle(self, told)
        self.ceiling += 1

    patch.setattr(book.Budget, "set", generous)


def extensions_not_counted(patch: Patch) -> None:
    extend = Ledger._extend

    def uncounted(self: Ledger, op: Extend) -> Any:
        hold = self._holds.get(op.attempt)
        before = 0 if hold is None else hold.amount
        reply = extend(self, op)
        for leg in () if hold is None else hold.legs:
            leg.add(0, before - hold.amount)  # type: ignore[union-attr]
        return reply

    patch.setattr(Ledger, "_extend", uncounted)


def extensions_in_the_wrong_window(patch: Patch) -> None:
    def newest(self: book.Book, leg: book.Balance) -> Any:
        budget = self.budgets.get(leg.budget_id)
        return budget, leg if budget is None else self.open_window(budget).totals

    patch.setattr(book.Book, "totals_of", newest)


def a_slot_that_leaves_too_early(patch: Patch) -> None:
    slots = budgets.counting_slots
    patch.setattr(budgets, "counting_slots", lambda length_s, start: slots(length_s, start)[1:])


def a_clock_that_goes_back_spends_twice(patch: Patch) -> None:
    slots = budgets.counting_slots
    patch.setattr(
        budgets,
        "counting_slots",
        lambda length_s, start: slots(length_s, start)[: budgets.SLOTS + 1],
    )


def windows_in_utc(patch: Patch) -> None:
    span, utc = budgets.span_at, budgets.time_zone("UTC")
    patch.setattr(budgets, "span_at", lambda window, zone, now: span(window, utc, now))


def stars_shared_by_all(patch: Patch) -> None:
    applying = book.Book.applying
    shared = {"user:v": "user:u"}

    def mixed_up(self: book.Book, scopes: dict[str, object]) -> Any:
        return applying(self, dict.fromkeys(shared.get(scope, scope) for scope in scopes))

    patch.setattr(book.Book, "applying", mixed_up)


def any_part_of_a_scope_is_enough(patch: Patch) -> None:
    remember = book.Book._remember

    def careless(self: book.Book, budget: book.Budget) -> None:
        remember(self, budget)
        budget.others = frozenset()

    patch.setattr(book.Book, "_remember", careless)


def uncertain_remainders_dropped(patch: Patch) -> None:
    settle = Ledger._settle_attempt

    def certain(self: Ledger, settlement: Settlement) -> None:
        settle(self, msgspec.structs.replace(settlement, uncertain_nanousd=0))

    patch.setattr(Ledger, "_settle_attempt", certain)


def remainders_released_twice(patch: Patch) -> None:
    release = Ledger._release

    def twice(self: Ledger, number: int) -> None:
        remainder = self._remainders[number]
        release(self, number)
        self._move(remainder.legs, 0, -remainder.amount)

    patch.setattr(Ledger, "_release", twice)


def corrections_applied_twice(patch: Patch) -> None:
    correct = Ledger._correct

    def twice(self: Ledger, settlement: Settlement, attempt: Any, reason: str) -> int:
        delta = correct(self, settlement, attempt, reason)
        self._move(self._book.legs(attempt.legs), delta, 0)
        return delta

    patch.setattr(Ledger, "_correct", twice)


def late_settlements_lost(patch: Patch) -> None:
    patch.setattr(Ledger, "_settle_late", lambda self, settlement: None)


def overruns_forgotten_by_corrections(patch: Patch) -> None:
    correct = Ledger._correct

    def blind(self: Ledger, settlement: Settlement, attempt: Any, reason: str) -> int:
        return correct(self, settlement, attempt._replace(cost=attempt.cost, overrun=0), reason)

    patch.setattr(Ledger, "_correct", blind)


def tokens_counted_twice(patch: Patch) -> None:
    def on_top(self: rates.Counted, tokens: int) -> None:
        for meter, entry in self._places:
            meter.open -= 1
            meter.tokens.correct(entry, tokens)

    patch.setattr(rates.Counted, "settle", on_top)


def concurrency_never_ends(patch: Patch) -> None:
    def open_still(self: rates.Counted, tokens: int) -> None:
        for meter, entry in self._places:
            meter.tokens.correct(entry, tokens - self._tokens)

    patch.setattr(rates.Counted, "settle", open_still)


def a_minute_of_59_seconds(patch: Patch) -> None:
    patch.setattr(rates, "_MINUTE", 580)


def limits_forgotten_by_a_restart(patch: Patch) -> None:
    patch.setattr(Ledger, "_load_rates", lambda self: None)


def alerts_lost_with_a_failed_batch(patch: Patch) -> None:
    told: set[str] = set()

    class Remembering(notices.Notices):
        def __init__(self, store: Store, percents: tuple[int, ...]) -> None:
            super().__init__(store, percents)
            self._raised = told

    started = LedgerMachine.__init__

    def fresh(self: LedgerMachine) -> None:
        told.clear()
        started(self)

    patch.setattr(LedgerMachine, "__init__", fresh)
    patch.setattr(core, "Notices", Remembering)


def alerts_raised_again_and_again(patch: Patch) -> None:
    patch.setattr(
        notices.Notices,
        "overrun",
        lambda self, target, amount, now: self._raise(
            f"overrun:{self._store.new_alert_id()}",
            now=now,
            kind="overrun",
            subject=target,
            text="",
            amount_nanousd=amount,
        ),
    )


def hard_scopes_not_told(patch: Patch) -> None:
    patch.setattr(book.Book, "_tell", lambda self, scope, was_hard: None)


def blocked_keys_spend(patch: Patch) -> None:
    patch.setattr(
        Directory,
        "may_spend",
        lambda self, key_id, now: key_id in self.keys and self.keys[key_id].revoked_at is None,
    )


def settlements_not_written(patch: Patch) -> None:
    patch.setattr(Store, "put_settlements", lambda self, rows: None)


def memory_trusted_after_a_failure(patch: Patch) -> None:
    forget = Ledger._forget

    def trusting(self: Ledger) -> None:
        forget(self)
        self.is_stale = False

    patch.setattr(Ledger, "_forget", trusting)


def nothing_kept_of_what_is_forgotten(patch: Patch) -> None:
    forget = Store.forget

    def all_of_it(self: Store, before: int, rows: Any) -> None:
        forget(self, before, [row._replace(legs="[]") for row in rows])

    patch.setattr(Store, "forget", all_of_it)


BUGS: tuple[Bug, ...] = (
    zero_size_holds,
    short_slices,
    full_holds_forgotten,
    a_limit_off_by_one,
    extensions_not_counted,
    extensions_in_the_wrong_window,
    a_slot_that_leaves_too_early,
    a_clock_that_goes_back_spends_twice,
    windows_in_utc,
    stars_shared_by_all,
    any_part_of_a_scope_is_enough,
    uncertain_remainders_dropped,
    remainders_released_twice,
    corrections_applied_twice,
    late_settlements_lost,
    overruns_forgotten_by_corrections,
    tokens_counted_twice,
    concurrency_never_ends,
    a_minute_of_59_seconds,
    limits_forgotten_by_a_restart,
    alerts_lost_with_a_failed_batch,
    alerts_raised_again_and_again,
    hard_scopes_not_told,
    blocked_keys_spend,
    settlements_not_written,
    memory_trusted_after_a_failure,
    nothing_kept_of_what_is_forgotten,
)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_the_machine_finds(bug: Bug, template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    with pytest.raises((AssertionError, KeyError, ValueError, sqlite3.Error)):
        # The same examples every time, and no search for smaller ones.
        check_ledger(
            template,
            max_examples=2_000,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,
        )
