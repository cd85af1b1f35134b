"""The ledger: keys, budgets, balances and open holds in memory, every change of them on the disk.

`Ledger` is the single owner of a ledger file. It decides in memory and writes a batch of ops in
one transaction, so that one `fsync` serves all who wait. Where the transaction fails nothing of it
happened: the memory is thrown away and read from the file again before the next batch.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from proxy.ledger import rates
from proxy.ledger.book import Balance, Book, Budget, Hold, calendar_of, check_budgets
from proxy.ledger.directory import Directory
from proxy.ledger.faults import Fault, changed
from proxy.ledger.feedback import FeedbackBook
from proxy.ledger.notices import Notices
from proxy.ledger.protocol import (
    ATTEMPT_BITS,
    AdminOp,
    AlertRaised,
    AlertsDelivered,
    ApplyConfig,
    Ask,
    Attempt,
    BeginConversations,
    Budgets,
    ConversationsBegan,
    Correct,
    CreateBudget,
    CreateGroup,
    CreateKey,
    Done,
    Extend,
    Failed,
    GiveFeedback,
    GroupChanged,
    GroupRecord,
    HardScope,
    Hello,
    ImportInvoice,
    KeyChanged,
    KeyRecord,
    Limits,
    ListBudgets,
    MoveSwap,
    Op,
    OpenSwap,
    Outvote,
    Progress,
    Prune,
    Quality,
    RaiseAlert,
    RateRefusal,
    Refused,
    Reply,
    Reserve,
    Reserved,
    RotateKey,
    Settle,
    Settled,
    Settlement,
    Standing,
    SwapChanged,
    UpdateBudget,
    UpdateGroup,
    UpdateKey,
    Welcome,
)
from proxy.ledger.rates import RateBook
from proxy.ledger.store import (
    AppliedRow,
    AttemptRecord,
    Store,
    Synchronous,
    open_store,
    start_error,
    to_json,
)
from proxy.ledger.swaps import SwapBook

_log = logging.getLogger(__name__)

# Rows younger than this are never forgotten: repeated ops and rate limits still look at them.
_YOUNGEST_FORGOTTEN_S = 86_400
_PPM = 1_000_000

News = HardScope | AlertRaised | SwapChanged | ConversationsBegan | Quality
"""What every worker is told, though none asked."""


@dataclass(frozen=True, slots=True)
class CloseSession:
    """The worker of a session is gone: settle what it left open as orphans. No reply."""

    session: int


@dataclass(frozen=True, slots=True)
class ReleaseExpired:
    """Release the remainders of attempts whose deadline has passed. No reply."""


@dataclass(frozen=True, slots=True)
class AdvanceSwaps:
    """Take every swap as far as its time has come. No reply."""


Step = Op | CloseSession | ReleaseExpired | AdvanceSwaps


class Ledger:
    """Admits, settles and remembers. Not for more than one thread; blocks on the disk."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._now = 0
        self._clock = 0.0
        """The same moment to the millisecond."""
        # session -> its newest attempt on record: any later number needs no look into the file.
        self._attached: dict[int, int] = {}
        # Heartbeats live in memory only: losing one makes an orphan's first estimate coarser.
        self._floors: dict[int, int] = {}
        self._appliers: dict[type[Step], Callable[[Any], Reply | None]] = {
            Hello: self._hello,
            Reserve: _answering_faults(self._reserve),
            Extend: self._extend,
            Settle: self._settle,
            Progress: self._progress,
            CreateKey: _answering_faults(self._create_key),
            UpdateKey: _answering_faults(self._update_key),
            RotateKey: _answering_faults(self._rotate_key),
            CreateGroup: _answering_faults(self._create_group),
            UpdateGroup: _answering_faults(self._update_group),
            CreateBudget: _answering_faults(self._create_budget),
            UpdateBudget: _answering_faults(self._update_budget),
            ApplyConfig: _answering_faults(self._apply_config),
            ListBudgets: self._list_budgets,
            Ask: _answering_faults(self._ask),
            Correct: _answering_faults(self._correct_by_hand),
            ImportInvoice: self._import_invoice,
            Prune: _answering_faults(self._prune),
            RaiseAlert: self._raise_alert,
            AlertsDelivered: self._alerts_delivered,
            OpenSwap: _answering_faults(self._open_swap),
            MoveSwap: _answering_faults(self._move_swap),
            BeginConversations: self._begin_conversations,
            AdvanceSwaps: self._advance_swaps,
            Outvote: self._outvote,
            GiveFeedback: _answering_faults(self._give_feedback),
            CloseSession: self._close_session,
            ReleaseExpired: self._release_expired,
        }
        self._configured: dict[str, Limits] = {}
        self._is_counting = False
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
        self._clock = round(now, 3)
        try:
            if self.is_stale:
                self._load()
            self._book.now = self._now
            if not self._is_counting:
                self._load_rates()
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

    def take_news(self) -> list[News]:
        """What has come up since it was last asked, for everybody to hear."""
        swaps = self._swaps.take_news()
        judged = self._feedback.news
        if not (swaps or judged or self._book.news or self._notices.news):
            return []
        news: list[News] = [*self._book.news, *self._notices.news, *swaps, *judged]
        self._book.news.clear()
        self._notices.news.clear()
        judged.clear()
        return news

    def left_nanousd(self, budget_id: int) -> int | None:
        """What a budget has left as of the last batch; None where there is no such budget."""
        budget = self._book.budgets.get(budget_id)
        return budget.left() if budget is not None else None

    def open_sessions(self) -> set[int]:
        """Sessions with open holds, of workers that are connected or not."""
        return {attempt >> ATTEMPT_BITS for attempt in self._holds}

    def has_expired(self, now: float) -> bool:
        """Whether `ReleaseExpired` has something to do."""
        return any(hold.deadline <= now for hold in self._remainders.values())

    def has_due_swaps(self, now: float) -> bool:
        """Whether `AdvanceSwaps` has something to do."""
        return self._swaps.is_due(now)

    # --- sessions -------------------------------------------------------------------------------

    def _hello(self, op: Hello) -> Welcome:
        if op.role == "client":
            return self._welcome(0)
        self._flush()
        session = op.session
        if not self._store.has_session(session):
            session = self._store.add_session(op.name, self._now)
        self._was_attached.setdefault(session, session in self._attached)
        self._attached[session] = self._store.newest_attempt(session)
        return self._welcome(session)

    def _welcome(self, session: int) -> Welcome:
        return Welcome(
            session=session,
            keys=tuple(self._directory.keys.values()),
            groups=tuple(self._directory.groups.values()),
            hard_scopes=self._book.hard_scopes(),
            alerts=tuple(self._notices.undelivered.values()),
            swaps=tuple(self._swaps.swaps.values()),
            conversations=self._swaps.conversations(),
            quality=tuple(self._feedback.quality.values()),
        )

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
        if attempt.key_id and not self._directory.may_spend(attempt.key_id, self._now):
            return Refused(op.seq, "key_revoked", None, attempt.hold_nanousd)

        scopes = dict.fromkeys(attempt.scopes)
        meters = self._rates.meters_of(scopes) if self._rates else []
        if meters:
            limit = rates.refusal(meters, self._clock, attempt.tokens, attempt.number)
            if limit is not None:
                return _refused_rate(op, limit)
        applying = self._book.applying(scopes)
        amount = _amount(attempt, applying)
        remaining: int | None = None
        for budget in applying:
            totals = budget.totals
            left = budget.ceiling - totals.spent - totals.held - amount
            if left < 0 or (budget.hard and not attempt.priced):
                return self._refusal(op, applying, amount)
            if budget.hard and (remaining is None or left < remaining):
                remaining = left
        hold = self._hold(attempt, amount, [budget.balance for budget in applying])
        if meters:
            hold.counted = rates.count(
                meters, self._clock, attempt.tokens, attempt.number, is_open=True
            )
        if not attempt.priced:
            self._notices.unpriced(attempt.target, self._now)
        if self._swaps.watches:
            self._swaps.admitted(number, attempt.scopes)
        if number > newest:
            self._attached[number >> ATTEMPT_BITS] = number
        held = None if amount == attempt.hold_nanousd else amount
        if not meters:
            return Reserved(op.seq, remaining, held)
        return Reserved(op.seq, remaining, held, *rates.tightest(meters, self._clock))

    def _hold(self, attempt: Attempt, amount: int, legs: list[Balance]) -> Hold:
        number = attempt.attempt
        for balance in legs:
            balance.add(0, amount)
        self._dirty.update(legs)
        floor = attempt.floor_nanousd
        if amount < attempt.hold_nanousd:
            floor = min(floor, amount)
        hold = Hold(amount, floor, attempt.deadline, legs)
        self._holds[number] = hold
        self._hold_rows[number] = (number, amount, floor, attempt.deadline)
        self._attempt_rows.append(
            (
                number,
                self._clock,
                attempt.request_id,
                attempt.number,
                attempt.endpoint,
                attempt.key_id,
                attempt.virtual_model,
                attempt.target,
                attempt.provider,
                attempt.policy,
                attempt.route_reason,
                to_json(attempt.scopes),
                amount,
                floor,
                attempt.deadline,
                attempt.revision,
                attempt.priced,
                to_json([(balance.budget_id, balance.window_start) for balance in legs]),
                attempt.tokens,
                attempt.decision,
                attempt.task,
            )
        )
        return hold

    def _reserved_earlier(self, op: Reserve) -> Reply | None:
        """The answer to a `Reserve` that repeats one on record; None where this is the first."""
        number = op.attempt.attempt
        hold = self._holds.get(number)
        if hold is not None:
            applying = self._book.applying(dict.fromkeys(op.attempt.scopes))
            held = None if hold.amount == op.attempt.hold_nanousd else hold.amount
            return Reserved(op.seq, _remaining(applying), held)
        self._flush()
        if self._store.attempt(number) is None:
            return None
        return Failed(op.seq, "conflict", f"attempt {number} was settled already")

    def _refusal(self, op: Reserve, applying: list[Budget], amount: int) -> Refused:
        """Why a hold was refused: a budget that is spent before one that is only held."""
        if not op.attempt.priced:
            hard = next((budget for budget in applying if budget.hard), None)
            if hard is not None:
                return Refused(op.seq, "unpriced", hard.state(), amount)
        full = [budget for budget in applying if amount > budget.left()]
        spent = [b for b in full if b.totals.spent + amount > b.ceiling]
        tightest = min(spent or full, key=Budget.left)
        return Refused(op.seq, "budget", tightest.state(amount), amount, held=not spent)

    def _extend(self, op: Extend) -> Reply:
        """Raise a hold in the windows it was admitted in."""
        hold = self._holds.get(op.attempt)
        if hold is None:
            return Failed(op.seq, "conflict", f"attempt {op.attempt} is not open")
        extra, most = max(0, op.hold_nanousd - hold.amount), op.most_nanousd - hold.amount
        remaining: int | None = None
        for leg in hold.legs:
            budget, totals = self._book.totals_of(leg)
            if budget is None:
                continue
            left = budget.ceiling - totals.spent - totals.held - extra
            if left < 0:
                is_held = totals.spent + hold.amount + extra <= budget.ceiling
                state = self._book.state(budget, extra)
                return Refused(op.seq, "budget", state, extra, held=is_held)
            if budget.hard:
                remaining = left if remaining is None else min(remaining, left)
                most = min(most, budget.idle(totals))
        if most > extra:
            remaining = None if remaining is None else remaining - (most - extra)
            extra = most
        for leg in hold.legs:
            leg.add(0, extra)
        self._dirty.update(hold.legs)
        hold.amount += extra
        self._hold_rows[op.attempt] = (op.attempt, hold.amount, hold.floor, hold.deadline)
        return Reserved(op.seq, remaining, hold.amount)

    # --- settlements ----------------------------------------------------------------------------

    def _settle(self, op: Settle) -> Settled:
        self._settle_attempt(op.settlement)
        return Settled(op.seq)

    def _settle_attempt(self, settlement: Settlement) -> None:
        number = settlement.attempt
        hold = self._holds.pop(number, None)
        if hold is None:
            self._settle_late(settlement)
            return
        amount, cost = hold.amount, settlement.cost_nanousd
        uncertain = min(settlement.uncertain_nanousd, max(0, amount - cost))
        overrun = max(0, cost - amount)
        self._move(hold.legs, cost, uncertain - amount, overrun)
        if uncertain:
            self._keep(number, uncertain, hold)
        else:
            self._hold_rows[number] = None
        if hold.counted is not None:
            hold.counted.settle(settlement.usage.input + settlement.usage.output)
        self._settlement_rows.append(
            (
                number,
                self._now,
                settlement.outcome,
                cost,
                *_measured(settlement),
                amount,
                uncertain,
                settlement.usage.cache_write,
                settlement.usage.cache_write_1h,
            )
        )
        if overrun:
            self._overran(number, overrun)
        if self._swaps.attempts:
            self._swaps.settled(settlement, self._clock)

    def _move(self, legs: Sequence[Balance], spent: int, held: int, overrun: int = 0) -> None:
        """Move money in every balance of an attempt, and look whether somebody must hear of it."""
        book, budgets = self._book, self._book.budgets
        for leg in legs:
            leg.add(spent, held, overrun)
            budget = budgets.get(leg.budget_id)
            if budget is None:
                continue
            if not budget.starts_at <= book.now < budget.ends_at:
                book.open_window(budget)
            if budget.totals.spent >= budget.alert_at and (
                budget.balance is leg or budget.length_s is not None
            ):
                self._notices.spent(book, budget)
        self._dirty.update(legs)

    def _overran(self, number: int, overrun: int) -> None:
        self._flush()
        self._notices.overrun(self._store.target_of(number), overrun, self._now)

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
        if attempt.outcome == "orphan" and not attempt.is_corrected:
            self._correct(settlement, attempt, "late_settlement")

    def _correct(self, settlement: Settlement, attempt: AttemptRecord, reason: str) -> int:
        """Put what an attempt really cost in the place of what was taken for it."""
        number, cost, known = settlement.attempt, settlement.cost_nanousd, attempt.cost
        remainder = self._remainders.get(number)
        still_held = 0 if remainder is None else remainder.amount
        legs = self._book.legs(attempt.legs) if remainder is None else remainder.legs
        if remainder is not None:
            self._release(number)
        delta = cost - known
        # Above what the limits have let in for it and not let go: others may have got the rest.
        covered = known - attempt.overrun + still_held
        overrun = max(0, cost - covered) - attempt.overrun
        self._move(legs, delta, 0, overrun)
        self._store.begin()
        self._store.put_correction(
            (
                number,
                self._now,
                reason,
                delta,
                overrun,
                settlement.outcome,
                *_measured(settlement),
                settlement.usage.cache_write,
                settlement.usage.cache_write_1h,
            )
        )
        if overrun > 0:
            self._overran(number, overrun)
        return delta

    def _correct_by_hand(self, op: Correct) -> Done:
        self._flush()
        attempt = self._store.attempt(op.attempt)
        if attempt is None:
            raise Fault("not_found", f"no attempt {op.attempt}")
        settlement = self._store.settlement(op.attempt)
        if settlement is None:
            raise Fault("conflict", f"attempt {op.attempt} is still open")
        right = msgspec.structs.replace(settlement, cost_nanousd=op.cost_nanousd, estimated=False)
        return Done(op.seq, int(self._correct(right, attempt, op.reason) != 0))

    def _orphan(self, number: int, hold: Hold) -> None:
        """Settle a dead worker's attempt at its floor; what is uncertain above it stays held."""
        floor = max(hold.floor, self._floors.get(number, 0))
        remainder = max(0, hold.amount - floor)
        self._move(hold.legs, floor, remainder - hold.amount, max(0, floor - hold.amount))
        self._settlement_rows.append(
            (number, self._now, "orphan", floor, *_UNMEASURED, hold.amount, remainder, 0, 0)
        )
        if hold.counted is not None:
            hold.counted.settle(0)
        self._swaps.attempts.pop(number, None)
        if remainder:
            self._keep(number, remainder, hold)
        else:
            self._hold_rows[number] = None

    def _keep(self, number: int, amount: int, hold: Hold) -> None:
        """Keep what is uncertain of a settled attempt."""
        self._remainders[number] = Hold(amount, hold.floor, hold.deadline, hold.legs)
        self._hold_rows[number] = (number, amount, hold.floor, hold.deadline)

    def _release_expired(self, op: ReleaseExpired) -> None:
        for number in [n for n, hold in self._remainders.items() if hold.deadline <= self._now]:
            self._release(number)

    def _release(self, number: int) -> None:
        remainder = self._remainders.pop(number)
        self._move(remainder.legs, 0, -remainder.amount)
        self._hold_rows[number] = None

    # --- keys and groups ------------------------------------------------------------------------

    def _create_key(self, op: CreateKey) -> KeyChanged:
        check_budgets(("global", budget) for budget in op.budgets)
        key = self._directory.create_key(op, self._now)
        for budget in op.budgets:
            self._book.add(f"key:{key.key_id}", budget, "api")
        return self._key_changed(key, op.seq)

    def _update_key(self, op: UpdateKey) -> KeyChanged:
        return self._key_changed(self._directory.update_key(op, self._now), op.seq)

    def _rotate_key(self, op: RotateKey) -> KeyChanged:
        return KeyChanged(self._directory.rotate_key(op, self._now), op.seq)

    def _key_changed(self, key: KeyRecord, seq: int) -> KeyChanged:
        self._rates.set(f"key:{key.key_id}", key.settings.limits)
        return KeyChanged(key, seq)

    def _create_group(self, op: CreateGroup) -> GroupChanged:
        check_budgets(("global", budget) for budget in op.budgets)
        group = self._directory.create_group(op, self._now)
        for budget in op.budgets:
            self._book.add(f"{group.kind}:{group.group_id}", budget, "api")
        return self._group_changed(group, op.seq)

    def _update_group(self, op: UpdateGroup) -> GroupChanged:
        return self._group_changed(self._directory.update_group(op, self._now), op.seq)

    def _group_changed(self, group: GroupRecord, seq: int) -> GroupChanged:
        self._rates.set(f"{group.kind}:{group.group_id}", group.settings.limits)
        return GroupChanged(group, seq)

    # --- budgets --------------------------------------------------------------------------------

    def _list_budgets(self, op: ListBudgets) -> Budgets:
        return Budgets(op.seq, tuple(self._book.states(op.scope)))

    def _create_budget(self, op: CreateBudget) -> Budgets:
        check_budgets([(op.scope, op.settings)])
        return Budgets(op.seq, (self._book.add(op.scope, op.settings, "api").state(),))

    def _update_budget(self, op: UpdateBudget) -> Budgets:
        budget = self._book.budgets.get(op.budget_id)
        if budget is None:
            raise Fault("not_found", f"no budget {op.budget_id}")
        budget.check_changeable()
        if op.deleted:
            state = self._book.state(budget)
            self._book.delete(budget)
            return Budgets(op.seq, (state,))
        settings = changed(budget.settings, op.changes)
        if calendar_of(settings) != calendar_of(budget.settings):
            raise Fault(
                "invalid",
                "the window and time zone of a budget cannot change; delete it and make another",
            )
        self._book.change(budget, settings)
        return Budgets(op.seq, (self._book.state(budget),))

    def _apply_config(self, op: ApplyConfig) -> Budgets:
        check_budgets((wanted.scope, wanted.settings) for wanted in op.budgets)
        made = self._book.apply_config(op.budgets)
        self._rates.replace(self._configured, op.limits)
        self._configured = op.limits
        self._notices.set_percents(op.alert_percents, self._book)
        applied = AppliedRow(op.revision, to_json(op.limits), to_json(op.alert_percents))
        if applied != self._store.read_applied():
            self._store.begin()
            self._store.put_applied(applied)
        _log.info("revision %d: %d budgets from configuration", op.revision, len(op.budgets))
        return Budgets(op.seq, tuple(self._book.state(budget) for budget in made))

    def _ask(self, op: Ask) -> Standing:
        hard = (b for b in self._book.applying(dict.fromkeys(op.scopes)) if b.hard)
        shares = (b.totals.spent * _PPM // b.limit if b.limit else _PPM for b in hard)
        return Standing(op.seq, max(shares, default=0))

    # --- invoices, retention, alerts ------------------------------------------------------------

    def _import_invoice(self, op: ImportInvoice) -> Done:
        self._store.begin()
        self._store.put_invoice_lines(
            [
                (
                    op.provider,
                    line.day,
                    line.model,
                    line.cost_nanousd,
                    line.input_tokens,
                    line.output_tokens,
                    line.requests,
                    op.source,
                    self._now,
                )
                for line in op.lines
            ]
        )
        return Done(op.seq, len(op.lines))

    def _prune(self, op: Prune) -> Done:
        if op.before > self._now - _YOUNGEST_FORGOTTEN_S:
            raise Fault("invalid", "rows of the last day are not forgotten")
        self._flush()
        old = self._store.old_rows(op.before, op.batch)
        if old:
            self._store.begin()
            self._store.forget(op.before, old)
        return Done(op.seq, len(old))

    def _raise_alert(self, op: RaiseAlert) -> Done:
        return Done(op.seq, int(self._notices.asked(op, self._now) is not None))

    def _alerts_delivered(self, op: AlertsDelivered) -> Done:
        return Done(op.seq, self._notices.delivered(op.alert_ids, self._now))

    # --- swaps ----------------------------------------------------------------------------------

    def _open_swap(self, op: OpenSwap) -> SwapChanged:
        return SwapChanged(self._swaps.open(op, self._now), op.seq)

    def _move_swap(self, op: MoveSwap) -> SwapChanged:
        return SwapChanged(self._swaps.move(op, self._now), op.seq)

    def _begin_conversations(self, op: BeginConversations) -> None:
        self._swaps.begin_conversations(op.swap_id, op.conversations)

    def _advance_swaps(self, op: AdvanceSwaps) -> None:
        self._swaps.advance(self._now)

    # --- feedback -------------------------------------------------------------------------------

    def _outvote(self, op: Outvote) -> None:
        self._flush()  # they may be of this very batch
        self._store.begin()
        self._store.add_outvoted(op.attempts)

    def _give_feedback(self, op: GiveFeedback) -> Done:
        self._flush()  # its attempt may be of this very batch
        return self._feedback.give(op, self._now)

    # --- the file -------------------------------------------------------------------------------

    def _load(self) -> None:
        """Read everything that decisions rest on from the file."""
        store = self._store
        store.roll_back()  # in case it could not be undone when it failed
        applied = store.read_applied()
        self._directory = Directory(store)
        self._book = Book(store, self._now)
        self._notices = Notices(
            store, msgspec.json.decode(applied.alert_percents, type=tuple[int, ...])
        )
        self._swaps = SwapBook(store, self._notices)
        self._feedback = FeedbackBook(store)
        self._holds: dict[int, Hold] = {}
        self._remainders: dict[int, Hold] = {}
        for held in store.read_holds():
            group = self._remainders if held.is_settled else self._holds
            legs = self._book.legs(held.legs)
            group[held.attempt] = Hold(held.amount, held.floor, held.deadline, legs)
        for session in self._attached:
            self._attached[session] = store.newest_attempt(session)
        self._configured = msgspec.json.decode(applied.limits, type=dict[str, Limits])
        self._rates = RateBook()
        self._is_counting = False
        self.is_stale = False

    def _load_rates(self) -> None:
        """Count again what was counted before, as of now."""
        self._is_counting = True
        self._swaps.recall(self._clock)
        self._rates.replace({}, self._configured)
        for key in self._directory.keys.values():
            self._rates.set(f"key:{key.key_id}", key.settings.limits)
        for group in self._directory.groups.values():
            self._rates.set(f"{group.kind}:{group.group_id}", group.settings.limits)
        if not self._rates:
            return
        scopes_of = msgspec.json.Decoder(list[str]).decode
        for row in self._store.read_counted(self._clock - rates.COUNTED_S):
            hold = self._holds.get(row.attempt)
            meters = self._rates.meters_of(dict.fromkeys(scopes_of(row.scopes)))
            tokens = row.tokens if row.settled_tokens is None else row.settled_tokens
            counted = rates.count(
                meters, row.started_at, tokens, row.number, is_open=hold is not None
            )
            if hold is not None:
                hold.counted = counted

    def _start_batch(self) -> None:
        self._was_attached: dict[int, bool] = {}  # before the batch, of those it changes
        self._attempt_rows: list[tuple[Any, ...]] = []
        self._settlement_rows: list[tuple[Any, ...]] = []
        # attempt -> its row as it will be, None to delete it
        self._hold_rows: dict[int, tuple[int, int, int, int] | None] = {}
        self._dirty: set[Balance] = set()

    def _flush(self) -> None:
        """Write what has gathered into the open transaction, for commit or to be read back."""
        if not (self._hold_rows or self._dirty or self._settlement_rows):
            return
        store = self._store
        store.begin()
        store.put_attempts(self._attempt_rows)
        store.put_settlements(self._settlement_rows)
        held, dropped = [], []
        for number, row in self._hold_rows.items():
            if row is None:
                dropped.append((number,))
            else:
                held.append(row)
        store.put_holds(held)
        store.drop_holds(dropped)
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
        self.take_news()
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


def _amount(attempt: Attempt, applying: list[Budget]) -> int:
    """What an attempt holds to begin with.

    All that it can cost, unless it can be metered: then no more than may sit idle, and at least
    what it asks for.
    """
    most, least = attempt.hold_nanousd, attempt.least_nanousd
    if least is None or any(budget.full_holds for budget in applying):
        return most
    idle = min((budget.idle(budget.totals) for budget in applying if budget.hard), default=most)
    return min(most, max(least, idle))


def _remaining(applying: Iterable[Budget]) -> int | None:
    """What the tightest hard budget has left."""
    return min((budget.left() for budget in applying if budget.hard), default=None)


def _refused_rate(op: Reserve, limit: RateRefusal) -> Refused:
    return Refused(op.seq, "rate", None, op.attempt.hold_nanousd, rate=limit)


def _answering_faults(apply: Callable[[Any], Reply]) -> Callable[[Any], Reply]:
    """Carry out an op, and say what is wrong with it where something is."""

    def applied(op: AdminOp | Reserve) -> Reply:
        try:
            return apply(op)
        except Fault as fault:
            return Failed(op.seq, fault.code, fault.message)

    return applied


def _unavailable(op: Step, error: sqlite3.Error) -> Failed | None:
    if isinstance(op, Progress | BeginConversations | Outvote):
        return None
    seq = 0 if isinstance(op, Hello | CloseSession | ReleaseExpired | AdvanceSwaps) else op.seq
    return Failed(seq, "unavailable", f"the ledger could not write: {error}")
