"""The ledger core against a small model, on real files, through crashes and failing disks.

After every batch each reply, each balance in memory and the whole file (by audit) must be what the
model says.
"""

from __future__ import annotations

import copy
import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.budgets import span_at, time_zone
from proxy.ledger.audit import audit
from proxy.ledger.core import CloseSession, Ledger, ReleaseExpired, Step
from proxy.ledger.protocol import (
    ATTEMPT_BITS,
    ApplyConfig,
    Attempt,
    Budgets,
    ConfigBudget,
    CreateBudget,
    CreateKey,
    Failed,
    Hello,
    KeyChanged,
    ListBudgets,
    Progress,
    Refused,
    Reply,
    Reserve,
    Reserved,
    Settle,
    Settled,
    Settlement,
    UpdateBudget,
    UpdateKey,
    Welcome,
)
from proxy.ledger.store import Store, open_store
from tests.proxy.ledger.making import NOON, a_settlement, an_attempt

T = TypeVar("T")

SCOPES = ("global", "team:a", "key:1", "key:2")
CALENDARS = (
    ("day", "UTC"),
    ("day", "UTC"),
    ("day", "America/New_York"),
    ("week", "Europe/Berlin"),
    ("month", "UTC"),
    ("lifetime", "UTC"),
)
Leg = tuple[int, int]
# Whether /dev/shm exists only decides how fast this runs.
RAM = "/dev/shm" if Path("/dev/shm").is_dir() else None


@dataclass
class ModelBudget:
    """`faithful`: hard all its life and never lowered, so its limit is a promise."""

    id: int
    scope: str
    window: Any
    timezone: str
    limit: int
    mode: str
    managed: str
    faithful: bool = True

    def change(self, limit: int, mode: str) -> None:
        self.faithful &= limit >= self.limit and mode == "hard"
        self.limit, self.mode = limit, mode

    def leg(self, now: int) -> Leg:
        return self.id, span_at(self.window, time_zone(self.timezone), now).starts_at


@dataclass
class ModelAttempt:
    hold: int
    floor: int
    deadline: int
    legs: list[Leg]
    committed_floor: int
    state: str = "open"  # open, settled, orphan, corrected
    cost: int = 0
    held: int = 0
    overrun: int = 0


@dataclass
class Model:
    """What the ledger should think. Ids are taken over from its replies."""

    budgets: dict[int, ModelBudget] = field(default_factory=dict)
    past: list[ModelBudget] = field(default_factory=list)
    attempts: dict[int, ModelAttempt] = field(default_factory=dict)
    keys: dict[str, bool] = field(default_factory=dict)  # key -> may spend
    sessions: set[int] = field(default_factory=set)
    attached: set[int] = field(default_factory=set)

    def money(self, leg: Leg) -> tuple[int, int, int]:
        mine = [a for a in self.attempts.values() if leg in a.legs]
        return sum(a.cost for a in mine), sum(a.held for a in mine), sum(a.overrun for a in mine)

    def legs(self) -> set[Leg]:
        return {leg for attempt in self.attempts.values() for leg in attempt.legs}

    def applying(self, scopes: tuple[str, ...]) -> list[ModelBudget]:
        return [b for b in self.budgets.values() if b.scope in scopes]

    # Each method checks the ledger's reply to one step and does in the model what it says.

    def check(self, step: Step, reply: Reply | None, now: int) -> None:
        match step:
            case Hello():
                assert isinstance(reply, Welcome)
                assert (reply.session == step.session) == (step.session in self.sessions)
                self.sessions.add(reply.session)
                self.attached.add(reply.session)
                assert {k.key_id: k.revoked_at is None for k in reply.keys} == self.keys
            case Reserve():
                if step.settles is not None:
                    self.settle(step.settles)
                self.check_reserve(step.attempt, reply, now)
            case Settle():
                assert isinstance(reply, Settled)
                self.settle(step.settlement)
            case Progress():
                assert reply is None
                for number, floor in step.floors:
                    attempt = self.attempts.get(number)
                    if attempt is not None and attempt.state == "open":
                        attempt.floor = max(attempt.floor, floor)
            case CloseSession():
                self.attached.discard(step.session)
                for number, attempt in self.attempts.items():
                    if number >> ATTEMPT_BITS == step.session and attempt.state == "open":
                        self.orphan(attempt)
            case ReleaseExpired():
                for attempt in self.attempts.values():
                    if attempt.state == "orphan" and attempt.deadline <= now:
                        attempt.held = 0
            case CreateKey():
                assert isinstance(reply, KeyChanged)
                self.keys[reply.key.key_id] = True
            case UpdateKey():
                if step.key_id in self.keys:
                    assert isinstance(reply, KeyChanged)
                    self.keys[step.key_id] &= not step.revoked
                else:
                    assert isinstance(reply, Failed)
                    assert reply.code == "not_found"
            case CreateBudget():
                assert isinstance(reply, Budgets)
                self.add_budget(reply, "api")
            case UpdateBudget():
                self.check_update_budget(step, reply)
            case ApplyConfig():
                assert isinstance(reply, Budgets)
                self.apply_config(step, reply)
            case ListBudgets():
                self.check_budgets(reply, now)

    def check_reserve(self, attempt: Attempt, reply: Reply | None, now: int) -> None:
        number, amount = attempt.attempt, attempt.hold_nanousd
        if number >> ATTEMPT_BITS not in self.attached:
            assert isinstance(reply, Failed)
            assert reply.code == "invalid"
            return
        earlier = self.attempts.get(number)
        if earlier is not None:
            if earlier.state == "open":
                assert isinstance(reply, Reserved)
            else:
                assert isinstance(reply, Failed)
                assert reply.code == "conflict"
            return
        if attempt.key_id and not self.keys.get(attempt.key_id, False):
            assert isinstance(reply, Refused)
            assert reply.reason == "key_revoked"
            return
        applying = self.applying(attempt.scopes)
        hard = [budget for budget in applying if budget.mode == "hard"]
        if hard and not attempt.priced:
            assert isinstance(reply, Refused)
            assert reply.reason in ("unpriced", "budget")
            assert not reply.held
            return
        left = {}
        left_without_holds = {}
        for budget in hard:
            spent, held, _ = self.money(budget.leg(now))
            left[budget.id] = budget.limit - spent - held
            left_without_holds[budget.id] = budget.limit - spent
        full = {budget_id for budget_id, room in left.items() if room < amount}
        if full:
            assert isinstance(reply, Refused), (reply, left)
            assert reply.reason == "budget"
            assert reply.budget is not None
            exhausted = {b for b in full if left_without_holds[b] < amount}
            assert reply.held == (not exhausted)
            assert reply.budget.budget_id in (exhausted or full)
            return
        assert isinstance(reply, Reserved), (reply, left)
        assert reply.remaining_nanousd == min(
            (room - amount for room in left.values()), default=None
        )
        self.attempts[number] = ModelAttempt(
            hold=amount,
            floor=attempt.floor_nanousd,
            committed_floor=attempt.floor_nanousd,
            deadline=attempt.deadline,
            legs=[budget.leg(now) for budget in applying],
            held=amount,
        )

    def settle(self, settlement: Settlement) -> None:
        attempt = self.attempts.get(settlement.attempt)
        if attempt is None or attempt.state not in ("open", "orphan"):
            return
        # What was still set aside for it: the hold, less what was released at its deadline.
        covered = min(attempt.hold, attempt.cost + attempt.held)
        attempt.state = "settled" if attempt.state == "open" else "corrected"
        attempt.cost = settlement.cost_nanousd
        attempt.overrun = max(0, attempt.cost - covered)
        attempt.held = 0

    def orphan(self, attempt: ModelAttempt) -> None:
        attempt.state = "orphan"
        attempt.cost = attempt.floor
        attempt.held = max(0, attempt.hold - attempt.floor)
        attempt.overrun = max(0, attempt.floor - attempt.hold)

    def add_budget(self, reply: Budgets, managed: str) -> None:
        (state,) = reply.budgets
        assert state.managed == managed
        self.remember(state)

    def remember(self, state: Any) -> None:
        self.budgets[state.budget_id] = ModelBudget(
            state.budget_id,
            state.scope,
            state.window,
            state.timezone,
            state.limit_nanousd,
            state.mode,
            state.managed,
            faithful=state.mode == "hard",
        )

    def check_update_budget(self, step: UpdateBudget, reply: Reply | None) -> None:
        budget = self.budgets.get(step.budget_id)
        if budget is None or budget.managed == "config":
            assert isinstance(reply, Failed)
            assert reply.code == ("not_found" if budget is None else "conflict")
            return
        assert isinstance(reply, Budgets)
        if step.deleted:
            self.past.append(self.budgets.pop(step.budget_id))
        else:
            limit = budget.limit if step.limit_nanousd is None else step.limit_nanousd
            budget.change(limit, step.mode or budget.mode)

    def apply_config(self, step: ApplyConfig, reply: Budgets) -> None:
        before = {b.id: b for b in self.budgets.values() if b.managed == "config"}
        assert [
            ConfigBudget(s.scope, s.window, s.limit_nanousd, s.mode, s.timezone)
            for s in reply.budgets
        ] == list(step.budgets)
        for state in reply.budgets:
            kept = before.pop(state.budget_id, None)
            if kept is None:
                assert state.budget_id not in self.budgets
                self.remember(state)
            else:
                assert (kept.scope, kept.window, kept.timezone) == (
                    state.scope,
                    state.window,
                    state.timezone,
                )
                kept.change(state.limit_nanousd, state.mode)
        for gone in before.values():
            calendar = (gone.scope, gone.window, gone.timezone)
            made = [s for s in reply.budgets if s.budget_id not in self.budgets]
            assert calendar not in [(s.scope, s.window, s.timezone) for s in made]
            self.past.append(self.budgets.pop(gone.id))

    def check_budgets(self, reply: Reply | None, now: int) -> None:
        assert isinstance(reply, Budgets)
        assert {s.budget_id for s in reply.budgets} == self.budgets.keys()
        for state in reply.budgets:
            budget = self.budgets[state.budget_id]
            money = (state.spent_nanousd, state.held_nanousd, state.overrun_nanousd)
            assert money == self.money(budget.leg(now))
            assert (state.limit_nanousd, state.mode) == (budget.limit, budget.mode)


class LedgerMachine(RuleBasedStateMachine):
    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=RAM))
        self.path = self.folder / "ledger.db"
        self.model = Model()
        self.now = NOON
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
        self.run([[self.draw_budget(data, scope) for scope in SCOPES]])

    # --- drawing steps --------------------------------------------------------------------------

    def draw_budget(self, data: st.DataObject, scope: str) -> CreateBudget:
        window, timezone = data.draw(st.sampled_from(CALENDARS))
        limit = data.draw(st.integers(0, 600))
        mode = data.draw(st.sampled_from(["hard", "hard", "soft"]))
        return CreateBudget(1, scope, window, limit, mode, timezone)  # type: ignore[arg-type]

    def draw_attempt(self, data: st.DataObject) -> Attempt:
        if self.sent and data.draw(st.integers(0, 9)) == 0:
            return data.draw(st.sampled_from(self.sent))  # a repetition
        session = pick(data, sorted(self.model.sessions))
        self.made += 1
        hold = data.draw(st.integers(0, 200))
        attempt = an_attempt(
            session << ATTEMPT_BITS | self.made,
            hold,
            scopes=tuple(data.draw(st.lists(st.sampled_from(SCOPES), max_size=4))),
            floor=data.draw(st.integers(0, 220)),
            deadline=self.now + data.draw(st.integers(-10, 1_000)),
            key_id=pick(data, ["", "", "", *self.model.keys, "k_unknown"]),
            priced=data.draw(st.integers(0, 9)) > 0,
        )
        self.sent.append(attempt)
        return attempt

    def draw_settlement(self, data: st.DataObject) -> Settlement:
        attempt = data.draw(st.sampled_from(self.sent))
        return a_settlement(attempt.attempt, data.draw(st.integers(0, 260)))

    def draw_step(self, data: st.DataObject) -> Step:
        kind = data.draw(st.sampled_from(KINDS))
        sessions = sorted(self.model.sessions)
        budget_ids = [*self.model.budgets, 99]
        if not self.sent and kind in ("settle", "fallback", "progress"):
            kind = "reserve"
        match kind:
            case "reserve":
                return Reserve(1, self.draw_attempt(data))
            case "fallback":
                settles = self.draw_settlement(data)
                return Reserve(1, self.draw_attempt(data), settles)
            case "settle":
                return Settle(1, self.draw_settlement(data))
            case "progress":
                chosen = data.draw(st.lists(st.sampled_from(self.sent), max_size=3))
                return Progress(tuple((a.attempt, data.draw(st.integers(0, 220))) for a in chosen))
            case "hello":
                return Hello("worker", "w", pick(data, [0, 77, *sessions]))
            case "close":
                return CloseSession(pick(data, sessions))
            case "expire":
                return ReleaseExpired()
            case "key":
                self.made += 1
                return CreateKey(1, b"digest %d" % self.made, "name", "sk-..x")
            case "revoke":
                key_id = pick(data, ["k_unknown", *self.model.keys])
                return UpdateKey(1, key_id, revoked=data.draw(st.booleans()))
            case "budget":
                return self.draw_budget(data, data.draw(st.sampled_from(SCOPES)))
            case "change":
                return UpdateBudget(
                    1,
                    pick(data, budget_ids),
                    data.draw(st.none() | st.integers(0, 900)),
                    data.draw(st.sampled_from([None, None, "hard", "soft"])),
                    deleted=data.draw(st.integers(0, 5)) == 0,
                )
            case "config":
                made = [
                    self.draw_budget(data, data.draw(st.sampled_from(SCOPES)))
                    for _ in range(data.draw(st.integers(0, 3)))
                ]
                wanted = (
                    ConfigBudget(m.scope, m.window, m.limit_nanousd, m.mode, m.timezone)
                    for m in made
                )
                return ApplyConfig(1, tuple(wanted))
            case _:
                return ListBudgets(1)

    # --- rules ----------------------------------------------------------------------------------

    def run(self, frames: list[list[Step]]) -> bool:
        """Apply the frames; the model follows unless the ledger says that nothing happened."""
        answers = self.ledger.apply(frames, self.now)
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
            return False
        model = copy.deepcopy(self.model)
        for step, reply in zip(steps, replies, strict=True):
            model.check(step, reply, self.now)
        self.model = model
        return True

    @rule(
        data=st.data(),
        sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
        seconds=st.sampled_from([0, 0, 0, 60, 700, 86_400, -60, -90_000, 7 * 86_400, 31 * 86_400]),
    )
    def batch(self, data: st.DataObject, sizes: list[int], seconds: int) -> None:
        self.now += seconds
        frames = [[self.draw_step(data) for _ in range(size)] for size in sizes]
        assert self.run(frames)
        self.check_memory()

    @rule(data=st.data(), after=st.integers(1, 400), size=st.integers(1, 8))
    def interrupted_batch(self, data: st.DataObject, after: int, size: int) -> None:
        """SQLite fails in whichever statement its virtual machine has then come to."""
        frame = [self.draw_step(data) for _ in range(size)]
        if any(isinstance(step, Progress) for step in frame):
            return
        self.connection.set_progress_handler(lambda: 1, after)
        try:
            self.run([frame])
        finally:
            self.connection.set_progress_handler(None, 0)
        self.check_memory()

    @rule()
    def disk_full(self) -> None:
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
        self.check_memory()

    @rule(graceful=st.booleans())
    def restart(self, graceful: bool) -> None:
        """A crash leaves the bytes as they are: nothing closed, nothing checkpointed."""
        if graceful:
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
        for attempt in self.model.attempts.values():
            attempt.floor = attempt.committed_floor  # heartbeats live in memory
        open_now = {
            number >> ATTEMPT_BITS
            for number, attempt in self.model.attempts.items()
            if attempt.state == "open"
        }
        assert self.ledger.open_sessions() == open_now

    # --- what always holds ----------------------------------------------------------------------

    def check_memory(self) -> None:
        # Not an invariant: it turns every window to now, which a batch must do by itself.
        assert self.run([[ListBudgets(1)]])

    @invariant()
    def books_balance(self) -> None:
        assert audit(self.path) == []
        kept = {
            (budget_id, start): money
            for budget_id, start, *money in self.connection.execute("SELECT * FROM balances")
        }
        for leg in self.model.legs():
            assert tuple(kept[leg]) == self.model.money(leg)

    @invariant()
    def no_hard_budget_is_exceeded(self) -> None:
        budgets = {b.id: b for b in [*self.model.budgets.values(), *self.model.past]}
        for leg in self.model.legs():
            spent, held, overrun = self.model.money(leg)
            if budgets[leg[0]].faithful:
                assert spent + held <= budgets[leg[0]].limit + overrun

    def teardown(self) -> None:
        self.connection.close()
        shutil.rmtree(self.folder)


KINDS = (
    *("reserve",) * 10,
    *("settle",) * 6,
    *("fallback",) * 2,
    *("progress",) * 2,
    *("close",) * 2,
    *("hello",) * 3,
    "expire",
    "key",
    "revoke",
    "budget",
    *("change",) * 2,
    "config",
)


def pick(data: st.DataObject, items: Sequence[T]) -> T:
    """One of what the ledger holds by now.

    The draw itself must not depend on how much that is: whether an interrupted batch went through
    can differ between two runs of one example, and Hypothesis calls that flaky.
    """
    return items[data.draw(st.integers(0, 999)) % len(items)]


def test_the_ledger_does_what_a_small_model_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "proxy.ledger.core")  # it reports every injected fault
    template = tmp_path / "ledger.db"
    open_store(template).close()

    class Machine(LedgerMachine):
        pass

    Machine.template = template
    Machine.TestCase.settings = settings(
        max_examples=100,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    Machine.TestCase("runTest").runTest()
