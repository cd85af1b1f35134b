"""The ledger: keys, budgets, balances and open holds in memory, every change of them on the disk.

`Ledger` is the single owner of a ledger file. It decides in memory and writes a batch of ops in
one transaction, so that one `fsync` serves all who wait. Where the transaction fails nothing of it
happened: the memory is thrown away and read from the file again before the next batch.
"""

from __future__ import annotations

import base64
import logging
import math
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import msgspec

from proxy import budgets
from proxy.ledger.book import Balance, Budget, Hold, fault_of, matched
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
    KeyRecord,
    ListBudgets,
    Mode,
    Op,
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
from proxy.ledger.store import (
    AttemptRecord,
    BudgetRow,
    KeyRow,
    Store,
    Synchronous,
    open_store,
    start_error,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CloseSession:
    """The worker of a session is gone: settle what it left open as orphans. No reply."""

    session: int


@dataclass(frozen=True, slots=True)
class ReleaseExpired:
    """Release the remainders of orphans whose deadline has passed. No reply."""


Step = Op | CloseSession | ReleaseExpired


class Ledger:
    """Admits, settles and remembers. Not for more than one thread; blocks on the disk."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._now = 0
        self._started_at = 0.0
        """The same moment to the millisecond, for the order of the rows."""
        # session -> its newest attempt on record: any later number needs no look into the file.
        self._attached: dict[int, int] = {}
        # Heartbeats live in memory only: losing one makes an orphan's first estimate coarser.
        self._floors: dict[int, int] = {}
        self._appliers: dict[type[Step], Callable[[Any], Reply | None]] = {
            Hello: self._hello,
            Reserve: self._reserve,
            Settle: self._settle,
            Progress: self._progress,
            CreateKey: self._create_key,
            UpdateKey: self._update_key,
            CreateBudget: self._create_budget,
            UpdateBudget: self._update_budget,
            ApplyConfig: self._apply_config,
            ListBudgets: self._list_budgets,
            CloseSession: self._close_session,
            ReleaseExpired: self._release_expired,
        }
        self._is_failing = False
        self.is_stale = True
        """Whether the last batch failed: what is in memory then means nothing until the next."""
        self._start_batch()
        self._load()

    @classmethod
    def open(cls, path: Path, *, synchronous: Synchronous = "FULL") -> Ledger:
        """Open the ledger file at `path`. Raises `LedgerStartError`; the caller owns its lock."""
        store = open_store(path, synchronous=synchronous)
        try:
            return cls(store)
        except sqlite3.Error as error:
            store.close()
            raise start_error(path, error) from error
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Close the file. Raises `sqlite3.Error`."""
        self._store.close()

    def checkpoint(self) -> None:
        """Move the log into the file while nobody waits. Raises `sqlite3.Error`."""
        self._store.checkpoint()

    def apply(self, frames: Sequence[Sequence[Step]], now: float) -> list[list[Reply | None]]:
        """Apply all frames in order, in one transaction; a reply for each op that has one.

        When this returns, what the replies say is on the disk. If the disk fails, every op is
        answered `unavailable` and none has happened; the next call tries afresh.
        """
        self._now = int(now)
        self._started_at = round(now, 3)
        try:
            if self.is_stale:
                self._load()
            appliers = self._appliers
            replies = [[appliers[type(op)](op) for op in ops] for ops in frames]
            self._flush()
            has_written = self._store.commit()
        except sqlite3.Error as error:
            self._forget()
            self._report_failure(error)
            return [[_unavailable(op, error) for op in ops] for ops in frames]
        except BaseException:
            self._forget()
            raise
        self._end_batch(has_written)
        return replies

    def _report_failure(self, error: sqlite3.Error) -> None:
        """Once for a trouble, not for each batch that it spoils."""
        if not self._is_failing:
            _log.error("the ledger cannot write, nothing is admitted: %s", error)
        self._is_failing = True

    # --- what the daemon asks -------------------------------------------------------------------

    def left_nanousd(self, budget_id: int) -> int | None:
        """What a budget has left as of the last batch; None where there is no such budget."""
        budget = self._budgets.get(budget_id)
        return budget.left() if budget is not None else None

    def open_sessions(self) -> set[int]:
        """Sessions with open holds, of workers that are connected or not."""
        return {attempt >> ATTEMPT_BITS for attempt in self._holds}

    def has_expired(self, now: float) -> bool:
        """Whether `ReleaseExpired` has something to do."""
        return any(hold.deadline <= now for hold in self._remainders.values())

    # --- sessions -------------------------------------------------------------------------------

    def _hello(self, op: Hello) -> Welcome:
        if op.role == "client":
            return Welcome(session=0, keys=tuple(self._keys.values()))
        self._flush()
        session = op.session
        if not self._store.has_session(session):
            session = self._store.add_session(op.name, self._now)
        self._was_attached.setdefault(session, session in self._attached)
        self._attached[session] = self._store.newest_attempt(session)
        return Welcome(session=session, keys=tuple(self._keys.values()))

    def _close_session(self, op: CloseSession) -> None:
        self._was_attached.setdefault(op.session, op.session in self._attached)
        self._attached.pop(op.session, None)
        for attempt in [a for a in self._holds if a >> ATTEMPT_BITS == op.session]:
            self._orphan(attempt, self._holds.pop(attempt))

    def _progress(self, op: Progress) -> None:
        for attempt, floor in op.floors:
            if attempt in self._holds:
                self._floors[attempt] = max(floor, self._floors.get(attempt, 0))

    # --- holds ----------------------------------------------------------------------------------

    def _reserve(self, op: Reserve) -> Reply:
        if op.settles is not None:
            self._settle_attempt(op.settles)
        attempt = op.attempt
        number = attempt.attempt
        newest = self._attached.get(number >> ATTEMPT_BITS)
        if newest is None:
            return Failed(op.seq, "invalid", f"attempt {number} is of no open session")
        if number <= newest:
            earlier = self._reserved_earlier(op)
            if earlier is not None:
                return earlier
        if attempt.key_id and not self._may_spend(attempt.key_id):
            return Refused(op.seq, "key_revoked", None, attempt.hold_nanousd)

        now, amount = self._now, attempt.hold_nanousd
        remaining: int | None = None
        legs: list[Balance] = []
        for scope in dict.fromkeys(attempt.scopes):
            for budget in self._by_scope.get(scope, ()):
                if not budget.starts_at <= now < budget.ends_at:
                    self._open_window(budget)
                balance = budget.balance
                if not budgets.fits(budget.ceiling, balance.spent, balance.held, amount):
                    return self._refusal(op)
                if budget.hard:
                    if not attempt.priced:
                        return self._refusal(op)
                    left = budget.limit - balance.spent - balance.held - amount
                    if remaining is None or left < remaining:
                        remaining = left
                legs.append(balance)
        self._hold(attempt, legs)
        if number > newest:
            self._attached[number >> ATTEMPT_BITS] = number
        return Reserved(op.seq, remaining)

    def _may_spend(self, key_id: str) -> bool:
        key = self._keys.get(key_id)
        return key is not None and key.revoked_at is None

    def _hold(self, attempt: Attempt, legs: list[Balance]) -> None:
        number, amount = attempt.attempt, attempt.hold_nanousd
        for balance in legs:
            balance.held += amount
        self._dirty.update(legs)
        self._holds[number] = Hold(amount, attempt.floor_nanousd, attempt.deadline, legs)
        self._hold_rows[number] = (number, amount, attempt.floor_nanousd, attempt.deadline)
        self._attempt_rows.append(
            (
                number,
                self._started_at,
                attempt.request_id,
                attempt.number,
                attempt.endpoint,
                attempt.key_id,
                attempt.virtual_model,
                attempt.target,
                attempt.provider,
                attempt.policy,
                attempt.route_reason,
                _to_json(attempt.scopes),
                amount,
                attempt.floor_nanousd,
                attempt.deadline,
                attempt.revision,
                attempt.priced,
                _to_json([(balance.budget_id, balance.window_start) for balance in legs]),
            )
        )

    def _reserved_earlier(self, op: Reserve) -> Reply | None:
        """The answer to a `Reserve` that repeats one on record; None where this is the first."""
        number = op.attempt.attempt
        if number in self._holds:
            return Reserved(op.seq, self._remaining(op.attempt.scopes))
        self._flush()
        if self._store.attempt(number) is None:
            return None
        return Failed(op.seq, "conflict", f"attempt {number} was settled already")

    def _remaining(self, scopes: Iterable[str]) -> int | None:
        """What the tightest hard budget of the scopes has left."""
        return min((b.left() for b in self._budgets_of(scopes) if b.hard), default=None)

    def _refusal(self, op: Reserve) -> Refused:
        """Why a hold was refused: a budget that is spent before one that is only held."""
        attempt, amount = op.attempt, op.attempt.hold_nanousd
        applying = self._budgets_of(attempt.scopes)
        if not attempt.priced:
            hard = next((budget for budget in applying if budget.hard), None)
            if hard is not None:
                return Refused(op.seq, "unpriced", hard.state(), amount)
        full = [budget for budget in applying if amount > budget.left()]
        spent = [b for b in full if not budgets.fits(b.ceiling, b.balance.spent, 0, amount)]
        tightest = min(spent or full, key=Budget.left)
        return Refused(op.seq, "budget", tightest.state(), amount, held=not spent)

    def _budgets_of(self, scopes: Iterable[str]) -> list[Budget]:
        return [
            self._open_window(budget)
            for scope in dict.fromkeys(scopes)
            for budget in self._by_scope.get(scope, ())
        ]

    # --- settlements ----------------------------------------------------------------------------

    def _settle(self, op: Settle) -> Settled:
        self._settle_attempt(op.settlement)
        return Settled(op.seq)

    def _settle_attempt(self, settlement: Settlement) -> None:
        hold = self._holds.pop(settlement.attempt, None)
        if hold is None:
            self._settle_late(settlement)
            return
        amount, cost = hold.amount, settlement.cost_nanousd
        for balance in hold.legs:
            balance.held -= amount
            balance.spent += cost
            if cost > amount:
                balance.overrun += cost - amount
        self._dirty.update(hold.legs)
        self._hold_rows[settlement.attempt] = None
        self._settlement_rows.append(
            (settlement.attempt, self._now, settlement.outcome, cost, *_measured(settlement))
        )

    def _settle_late(self, settlement: Settlement) -> None:
        """Settle an attempt that has no open hold: mostly a repetition, sometimes an orphan."""
        number = settlement.attempt
        self._flush()
        attempt = self._store.attempt(number)
        if attempt is None:
            # Acknowledged all the same: a worker that got no answer would repeat it for ever. A
            # reserve that was given up while its fate was unknown ends here in the normal course.
            if settlement.outcome != "not_dispatched":
                _log.error(
                    "attempt %d is not on record; its settlement is lost: %r", number, settlement
                )
            return
        if attempt.outcome != "orphan" or attempt.corrected:
            return
        self._correct(settlement, attempt)

    def _correct(self, settlement: Settlement, attempt: AttemptRecord) -> None:
        """Put what an orphan really cost in the place of what the ledger took it for."""
        number, cost, known = settlement.attempt, settlement.cost_nanousd, attempt.cost_nanousd
        remainder = self._remainders.get(number)
        still_held = 0 if remainder is None else remainder.amount
        legs = self._legs(attempt.legs) if remainder is None else remainder.legs
        if remainder is not None:
            self._release(number)
        delta = cost - known
        # Above what was still held for it: others may have been admitted on a released remainder.
        overrun = max(0, cost - min(attempt.hold_nanousd, known + still_held))
        overrun -= max(0, known - attempt.hold_nanousd)
        for balance in legs:
            balance.spent += delta
            balance.overrun += overrun
        self._dirty.update(legs)
        self._store.begin()
        self._store.put_correction(
            (
                number,
                self._now,
                "late_settlement",
                delta,
                overrun,
                settlement.outcome,
                *_measured(settlement),
            )
        )

    def _orphan(self, number: int, hold: Hold) -> None:
        """Settle a dead worker's attempt at its floor; what is uncertain above it stays held."""
        floor = max(hold.floor, self._floors.get(number, 0))
        remainder = max(0, hold.amount - floor)
        for balance in hold.legs:
            balance.held -= hold.amount - remainder
            balance.spent += floor
            balance.overrun += max(0, floor - hold.amount)
        self._dirty.update(hold.legs)
        self._settlement_rows.append((number, self._now, "orphan", floor, *_UNMEASURED))
        if remainder:
            self._remainders[number] = Hold(remainder, floor, hold.deadline, hold.legs)
            self._hold_rows[number] = (number, remainder, floor, hold.deadline)
        else:
            self._hold_rows[number] = None

    def _release_expired(self, op: ReleaseExpired) -> None:
        for number in [n for n, hold in self._remainders.items() if hold.deadline <= self._now]:
            self._release(number)

    def _release(self, number: int) -> None:
        remainder = self._remainders.pop(number)
        for balance in remainder.legs:
            balance.held -= remainder.amount
        self._dirty.update(remainder.legs)
        self._hold_rows[number] = None

    # --- keys -----------------------------------------------------------------------------------

    def _create_key(self, op: CreateKey) -> KeyChanged | Failed:
        if not op.digest:
            return Failed(op.seq, "invalid", "a key needs a digest")
        if any(key.digest == op.digest for key in self._keys.values()):
            return Failed(op.seq, "conflict", "this key exists already")
        key = KeyRecord(
            key_id=self._new_key_id(),
            digest=op.digest,
            name=op.name,
            hint=op.hint,
            models=op.models,
            created_at=self._now,
            revoked_at=None,
        )
        self._store.begin()
        self._store.add_key(
            KeyRow(
                key.key_id, key.digest, key.name, key.hint, _to_json(key.models), self._now, None
            )
        )
        self._keys[key.key_id] = key
        if op.budget is not None:
            budget = op.budget
            wanted = ConfigBudget(f"key:{key.key_id}", budget.window, budget.limit_nanousd)
            self._add_budget(wanted, "api")
        return KeyChanged(key, op.seq)

    def _new_key_id(self) -> str:
        while True:
            key_id = "k_" + base64.b32encode(secrets.token_bytes(5)).decode().lower()
            if key_id not in self._keys:
                return key_id

    def _update_key(self, op: UpdateKey) -> KeyChanged | Failed:
        key = self._keys.get(op.key_id)
        if key is None:
            return Failed(op.seq, "not_found", f"no key {op.key_id!r}")
        if op.name is not None:
            key = msgspec.structs.replace(key, name=op.name)
        if op.models is not None:
            key = msgspec.structs.replace(key, models=op.models)
        if op.revoked and key.revoked_at is None:
            key = msgspec.structs.replace(key, revoked_at=self._now)
        self._store.begin()
        self._store.change_key(key.key_id, key.name, _to_json(key.models), key.revoked_at)
        self._keys[key.key_id] = key
        return KeyChanged(key, op.seq)

    # --- budgets --------------------------------------------------------------------------------

    def _list_budgets(self, op: ListBudgets) -> Budgets:
        states = (self._open_window(budget).state() for budget in self._budgets.values())
        return Budgets(op.seq, tuple(states))

    def _create_budget(self, op: CreateBudget) -> Budgets | Failed:
        wanted = ConfigBudget(op.scope, op.window, op.limit_nanousd, op.mode, op.timezone)
        fault = fault_of(wanted)
        if fault is not None:
            return Failed(op.seq, "invalid", fault)
        return Budgets(op.seq, (self._add_budget(wanted, "api").state(),))

    def _update_budget(self, op: UpdateBudget) -> Budgets | Failed:
        budget = self._budgets.get(op.budget_id)
        if budget is None:
            return Failed(op.seq, "not_found", f"no budget {op.budget_id}")
        if budget.managed == "config":
            return Failed(
                op.seq,
                "conflict",
                f"budget {budget.id} is managed by router.yaml; change it there and reload",
            )
        if op.deleted:
            self._delete_budget(budget)
        else:
            limit = budget.limit if op.limit_nanousd is None else op.limit_nanousd
            self._change_budget(budget, limit, op.mode or ("hard" if budget.hard else "soft"))
        return Budgets(op.seq, (self._open_window(budget).state(),))

    def _apply_config(self, op: ApplyConfig) -> Budgets | Failed:
        fault = next(filter(None, map(fault_of, op.budgets)), None)
        if fault is not None:
            return Failed(op.seq, "invalid", fault)
        present = [budget for budget in self._budgets.values() if budget.managed == "config"]
        kept = matched(present, op.budgets)
        staying = {budget.id for budget in kept.values()}
        for budget in present:
            if budget.id not in staying:
                self._delete_budget(budget)
        for index, wanted in enumerate(op.budgets):
            if index in kept:
                self._change_budget(kept[index], wanted.limit_nanousd, wanted.mode)
            else:
                kept[index] = self._add_budget(wanted, "config")
        _log.info("revision %d: %d budgets from configuration", op.revision, len(op.budgets))
        states = (self._open_window(kept[index]).state() for index in range(len(op.budgets)))
        return Budgets(op.seq, tuple(states))

    def _add_budget(self, wanted: ConfigBudget, managed: Literal["api", "config"]) -> Budget:
        self._store.begin()
        number = self._store.add_budget(
            wanted.scope,
            wanted.window,
            wanted.timezone,
            wanted.limit_nanousd,
            wanted.mode,
            managed,
            self._now,
        )
        budget = Budget(
            BudgetRow(
                number,
                wanted.scope,
                wanted.window,
                wanted.timezone,
                wanted.limit_nanousd,
                wanted.mode,
                managed,
                self._now,
            )
        )
        self._remember(budget)
        return self._open_window(budget)

    def _remember(self, budget: Budget) -> None:
        self._budgets[budget.id] = budget
        self._by_scope.setdefault(budget.scope, []).append(budget)

    def _change_budget(self, budget: Budget, limit_nanousd: int, mode: Mode) -> None:
        if limit_nanousd == budget.limit and (mode == "hard") == budget.hard:
            return
        self._store.begin()
        self._store.change_budget(budget.id, limit_nanousd, mode)
        budget.allow(limit_nanousd, mode)

    def _delete_budget(self, budget: Budget) -> None:
        self._store.begin()
        self._store.delete_budget(budget.id, self._now)
        del self._budgets[budget.id]
        self._by_scope[budget.scope].remove(budget)
        if not self._by_scope[budget.scope]:
            del self._by_scope[budget.scope]

    def _open_window(self, budget: Budget) -> Budget:
        """Turn the budget to the window of now, whichever way the clock went."""
        if not budget.starts_at <= self._now < budget.ends_at:
            span = budgets.span_at(budget.window, budget.zone, self._now)
            budget.balance = self._balance(budget.id, span.starts_at)
            budget.starts_at = span.starts_at
            budget.ends_at = math.inf if span.ends_at is None else span.ends_at
        return budget

    def _balance(self, budget_id: int, window_start: int) -> Balance:
        """The one object for that balance; it lives while a window or a hold refers to it."""
        balance = self._balances.get((budget_id, window_start))
        if balance is None:
            kept = self._store.balance(budget_id, window_start)
            balance = Balance(budget_id, window_start, *kept)
            self._balances[budget_id, window_start] = balance
        return balance

    def _legs(self, legs: str) -> list[Balance]:
        pairs = msgspec.json.decode(legs, type=list[tuple[int, int]])
        return [self._balance(budget_id, window_start) for budget_id, window_start in pairs]

    # --- the file -------------------------------------------------------------------------------

    def _load(self) -> None:
        """Read everything that decisions rest on from the file."""
        self._store.roll_back()  # in case it could not be undone when it failed
        self._balances: WeakValueDictionary[tuple[int, int], Balance] = WeakValueDictionary()
        self._budgets: dict[int, Budget] = {}
        self._by_scope: dict[str, list[Budget]] = {}
        self._keys = {row.id: _key(row) for row in self._store.read_keys()}
        for row in self._store.read_budgets():
            self._remember(Budget(row))
        self._holds: dict[int, Hold] = {}
        self._remainders: dict[int, Hold] = {}
        for held in self._store.read_holds():
            group = self._remainders if held.orphaned else self._holds
            legs = self._legs(held.legs)
            group[held.attempt] = Hold(held.amount, held.floor, held.deadline, legs)
        for session in self._attached:
            self._attached[session] = self._store.newest_attempt(session)
        self.is_stale = False

    def _start_batch(self) -> None:
        self._was_attached: dict[int, bool] = {}  # before the batch, of those it changes
        self._attempt_rows: list[tuple[Any, ...]] = []
        self._settlement_rows: list[tuple[Any, ...]] = []
        # attempt -> its row as it will be, None to delete it
        self._hold_rows: dict[int, tuple[int, int, int, int] | None] = {}
        self._dirty: set[Balance] = set()

    def _flush(self) -> None:
        """Write what has gathered into the open transaction, for commit or to be read back."""
        if not self._hold_rows and not self._dirty:
            return
        store = self._store
        store.begin()
        store.put_attempts(self._attempt_rows)
        store.put_settlements(self._settlement_rows)
        store.put_holds([row for row in self._hold_rows.values() if row is not None])
        store.drop_holds([(number,) for number, row in self._hold_rows.items() if row is None])
        store.put_balances(
            [(b.budget_id, b.window_start, b.spent, b.held, b.overrun) for b in self._dirty]
        )
        self._attempt_rows.clear()
        self._settlement_rows.clear()
        self._hold_rows.clear()
        self._dirty.clear()

    def _end_batch(self, has_written: bool) -> None:
        self._was_attached.clear()
        if self._is_failing and has_written:
            _log.info("the ledger can write again")
            self._is_failing = False
        # Settled attempts leave their floors behind, so that a batch which fails loses none.
        if len(self._floors) > 2 * len(self._holds) + 1_000:
            self._floors = {n: floor for n, floor in self._floors.items() if n in self._holds}

    def _forget(self) -> None:
        """Drop the batch and distrust the memory: only the file knows what happened."""
        self.is_stale = True
        for session, was_attached in self._was_attached.items():
            self._attached.pop(session, None)
            if was_attached:
                self._attached[session] = 0  # until it is loaded
        self._start_batch()
        try:
            self._store.roll_back()
        except sqlite3.Error as error:
            _log.error("the ledger could not roll back: %s", error)


_UNMEASURED = (0, 0, 0, 0, True, 0, None, 0, "")


def _measured(settlement: Settlement) -> tuple[Any, ...]:
    """The columns that settlements and corrections share, after the money."""
    usage = settlement.usage
    return (
        usage.input,
        usage.cached,
        usage.output,
        usage.reasoning,
        settlement.estimated,
        settlement.status,
        settlement.first_token_us,
        settlement.total_us,
        settlement.error,
    )


def _key(row: KeyRow) -> KeyRecord:
    return KeyRecord(
        key_id=row.id,
        digest=row.digest,
        name=row.name,
        hint=row.hint,
        models=msgspec.json.decode(row.models, type=tuple[str, ...]),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )


def _unavailable(op: Step, error: sqlite3.Error) -> Failed | None:
    if isinstance(op, Progress):
        return None
    seq = 0 if isinstance(op, Hello | CloseSession | ReleaseExpired) else op.seq
    return Failed(seq, "unavailable", f"the ledger could not write: {error}")


def _to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()
