"""What the ledger should think, said a second time and in another way.

Nothing here keeps a balance: every sum is taken anew over the list of all attempts. Ids, and how
much of what a stream may hold it was given, are taken over from the ledger's replies, once they
are found to be right.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import msgspec

from proxy.budgets import rolling_s, span_at, time_zone
from proxy.ledger.core import CloseSession, News, ReleaseExpired, Step
from proxy.ledger.protocol import (
    ATTEMPT_BITS,
    Alert,
    AlertsDelivered,
    ApplyConfig,
    Ask,
    Attempt,
    Budgets,
    BudgetSettings,
    BudgetState,
    ConfigBudget,
    Correct,
    CreateBudget,
    CreateGroup,
    CreateKey,
    Done,
    Extend,
    Failed,
    GroupChanged,
    GroupRecord,
    HardScope,
    Hello,
    KeyChanged,
    KeyRecord,
    Limits,
    ListBudgets,
    Progress,
    Prune,
    RaiseAlert,
    Rate,
    Refused,
    Reply,
    Reserve,
    Reserved,
    RotateKey,
    Settle,
    Settled,
    Settlement,
    Standing,
    UpdateBudget,
    UpdateGroup,
    UpdateKey,
    Welcome,
)

DAY_S = 86_400
Key = int | tuple[int, str]
"""Names a budget: its id, or of one that was made for a `*` the parent's and the scope."""
Leg = tuple[Key, int]


@dataclass
class ModelBudget:
    """`faithful`: hard all its life and never lowered, so its limit is a promise."""

    key: Key
    scope: str
    settings: BudgetSettings
    managed: str
    faithful: bool
    id: int | None

    def change(self, settings: BudgetSettings) -> None:
        higher = settings.limit_nanousd >= self.settings.limit_nanousd
        self.faithful &= higher and settings.mode == "hard"
        self.settings = settings

    @property
    def limit(self) -> int:
        return self.settings.limit_nanousd

    @property
    def hard(self) -> bool:
        return self.settings.mode == "hard"

    @property
    def is_star(self) -> bool:
        return any(part.endswith(":*") for part in self.scope.split(" & "))

    def start(self, now: float) -> int:
        zone = time_zone(self.settings.timezone)
        return span_at(self.settings.window, zone, int(now)).starts_at

    def since(self, now: float) -> int:
        """What tells one occasion for an alert from the next."""
        return int(now) // DAY_S if rolling_s(self.settings.window) else self.start(now)


@dataclass
class ModelAttempt:
    asked: Attempt
    hold: int
    floor: int
    committed_floor: int
    legs: list[Leg]
    began_at: float
    began_after: float
    """Seconds that had really gone by, at least."""
    metered_in: set[str]
    """The scopes whose limits count it."""
    tokens: int
    state: str = "open"  # open, settled, orphan, corrected
    cost: int = 0
    held: int = 0
    overrun: int = 0
    late: int = 0
    """What it was extended by after a budget of it ended, or a rolling window had gone on."""


@dataclass
class Model:
    """Each step is checked against its reply, and then done here."""

    budgets: dict[Key, ModelBudget] = field(default_factory=dict)
    past: list[ModelBudget] = field(default_factory=list)
    attempts: dict[int, ModelAttempt] = field(default_factory=dict)
    archive: list[ModelAttempt] = field(default_factory=list)
    keys: dict[str, KeyRecord] = field(default_factory=dict)
    groups: dict[str, GroupRecord] = field(default_factory=dict)
    sessions: set[int] = field(default_factory=set)
    attached: set[int] = field(default_factory=set)
    configured: dict[str, Limits] = field(default_factory=dict)
    percents: tuple[int, ...] = (50, 80, 100)
    passed: float = 0.0
    hard_scopes: set[str] = field(default_factory=set)
    alerts: dict[int, Alert] = field(default_factory=dict)
    """Those that are not delivered."""
    occasions: set[tuple[Any, ...]] = field(default_factory=set)
    moved: set[Key] = field(default_factory=set)
    """Budgets whose open window had money moved in this batch."""
    due: set[tuple[Any, ...]] = field(default_factory=set)
    """Occasions of this batch that are no budget's."""
    has_changed_budgets: bool = False

    # --- sums ------------------------------------------------------------------------------------

    def all_attempts(self) -> list[ModelAttempt]:
        return [*self.attempts.values(), *self.archive]

    def money(self, leg: Leg) -> tuple[int, int, int]:
        mine = [a for a in self.all_attempts() if leg in a.legs]
        return sum(a.cost for a in mine), sum(a.held for a in mine), sum(a.overrun for a in mine)

    def window(self, budget: ModelBudget, start: int) -> tuple[int, int, int]:
        """(spent, held, overrun) of a budget in the window that starts, or has its slot, there."""
        length_s = rolling_s(budget.settings.window)
        if length_s is None:
            return self.money((budget.key, start))
        spent = held = overrun = 0
        for attempt in self.all_attempts():
            for key, at in attempt.legs:
                if key == budget.key:
                    counts = abs(at - start) <= length_s
                    held += attempt.held
                    spent += attempt.cost if counts else 0
                    overrun += attempt.overrun if counts else 0
        return spent, held, overrun

    def legs(self) -> set[Leg]:
        return {leg for attempt in self.all_attempts() for leg in attempt.legs}

    def applying(self, scopes: tuple[str, ...]) -> list[ModelBudget]:
        """Also makes the budgets of those that a `*` is met by for the first time."""
        for parent in [b for b in self.budgets.values() if b.is_star]:
            *fixed, star = sorted(parent.scope.split(" & "), key=lambda part: part[-1] == "*")
            if not set(fixed) <= set(scopes):
                continue
            for scope in scopes:
                made = " & ".join((*fixed, scope))
                if scope.startswith(star[:-1]) and (parent.key, made) not in self.budgets:
                    assert isinstance(parent.key, int)
                    key = (parent.key, made)
                    self.budgets[key] = ModelBudget(
                        key, made, parent.settings, "each", parent.hard, None
                    )
        return [b for b in self.budgets.values() if set(b.scope.split(" & ")) <= set(scopes)]

    def limits(self) -> dict[str, Limits]:
        found = dict(self.configured)
        found |= {f"key:{key.key_id}": key.settings.limits for key in self.keys.values()}
        found |= {f"{g.kind}:{g.group_id}": g.settings.limits for g in self.groups.values()}
        return {scope: limits for scope, limits in found.items() if limits != Limits()}

    # --- steps -----------------------------------------------------------------------------------

    def check(self, step: Step, reply: Reply | None, now: float) -> None:
        match step:
            case Hello():
                assert isinstance(reply, Welcome)
                assert (reply.session == step.session) == (step.session in self.sessions)
                self.sessions.add(reply.session)
                self.attached.add(reply.session)
                self.check_welcome(reply)
            case Reserve():
                if step.settles is not None:
                    self.settle(step.settles, now)
                self.check_reserve(step.attempt, reply, now)
            case Extend():
                self.check_extend(step, reply, now)
            case Settle():
                assert isinstance(reply, Settled)
                self.settle(step.settlement, now)
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
                        self.orphan(attempt, now)
            case ReleaseExpired():
                for attempt in self.attempts.values():
                    if attempt.state != "open" and attempt.asked.deadline <= int(now):
                        attempt.held = 0
            case Ask():
                assert isinstance(reply, Standing)
                shares = [0]
                for budget in self.applying(step.scopes):
                    if budget.hard:
                        spent, _, _ = self.window(budget, budget.start(now))
                        shares.append(spent * 10**6 // budget.limit if budget.limit else 10**6)
                assert reply.spent_ppm == max(shares)
            case Correct():
                self.check_correct(step, reply, now)
            case Prune():
                self.check_prune(step, reply, now)
            case CreateKey() | UpdateKey() | RotateKey():
                self.check_key(step, reply, now)
            case CreateGroup() | UpdateGroup():
                self.check_group(step, reply, now)
            case CreateBudget():
                assert isinstance(reply, Budgets)
                (state,) = reply.budgets
                assert (state.managed, state.scope) == ("api", step.scope)
                self.remember(state)
            case UpdateBudget():
                self.check_update_budget(step, reply)
            case ApplyConfig():
                assert isinstance(reply, Budgets)
                self.apply_config(step, reply)
            case RaiseAlert():
                assert isinstance(reply, Done)
                occasion = (step.kind, step.subject, int(now) // DAY_S)
                assert reply.count == (occasion not in self.occasions | self.due)
                self.due.add(occasion)
            case AlertsDelivered():
                assert isinstance(reply, Done)
                gone = [self.alerts.pop(number, None) for number in step.alert_ids]
                assert reply.count == sum(alert is not None for alert in gone)
            case ListBudgets():
                self.check_budgets(reply, now)

    def check_connection(self, reply: Reply | None) -> None:
        """A `Welcome` outside of any batch tells all there is."""
        assert isinstance(reply, Welcome)
        self.check_welcome(reply)
        assert set(reply.hard_scopes) == self.hard_scopes
        assert {alert.alert_id: alert for alert in reply.alerts} == self.alerts

    def check_welcome(self, reply: Welcome) -> None:
        assert {key.key_id: key for key in reply.keys} == self.keys
        assert {group.group_id: group for group in reply.groups} == self.groups

    def check_reserve(self, attempt: Attempt, reply: Reply | None, now: float) -> None:
        number = attempt.attempt
        if number >> ATTEMPT_BITS not in self.attached:
            assert isinstance(reply, Failed)
            assert reply.code == "invalid"
            return
        earlier = self.attempts.get(number)
        if earlier is not None:
            if earlier.state == "open":
                assert isinstance(reply, Reserved)
                assert _held(reply, attempt) == earlier.hold
                self.applying(attempt.scopes)
            else:
                assert isinstance(reply, Failed)
                assert reply.code == "conflict"
            return
        if attempt.key_id and not self.may_spend(attempt.key_id, now):
            assert isinstance(reply, Refused)
            assert reply.reason == "key_revoked"
            return
        metered = {s: limit for s, limit in self.limits().items() if s in attempt.scopes}
        if isinstance(reply, Refused) and reply.reason == "rate":
            self.check_rate(attempt, reply, metered, now)
            return
        for scope, limits in metered.items():
            for kind, limit in _limited(limits):
                if attempt.number == 1 or scope.startswith("target:"):
                    used, _ = self.used(scope, kind, now)
                    asked = attempt.tokens if kind == "tokens" else 1
                    assert used + asked <= limit, (scope, kind, used, reply)
        self.check_admission(attempt, reply, metered, now)

    def may_spend(self, key_id: str, now: float) -> bool:
        key = self.keys.get(key_id)
        if key is None or key.revoked_at is not None or key.settings.blocked:
            return False
        return key.settings.expires_at is None or key.settings.expires_at > int(now)

    def used(self, scope: str, kind: str, now: float) -> tuple[int, int]:
        """How much of a limit must be taken as used, and how much may be."""
        must = may = 0
        for attempt in self.all_attempts():
            if scope not in attempt.metered_in:
                continue
            if kind == "concurrent":
                count = int(attempt.state == "open")
                must, may = must + count, may + count
                continue
            counts = attempt.asked.number == 1 or scope.startswith("target:")
            count = attempt.tokens if kind == "tokens" else int(counts)
            must += count if attempt.began_after > self.passed - 60 else 0
            may += count if attempt.began_at > now - 60.11 else 0
        return must, may

    def check_rate(
        self, attempt: Attempt, reply: Refused, metered: dict[str, Limits], now: float
    ) -> None:
        rate = reply.rate
        assert rate is not None
        assert attempt.number == 1 or rate.scope.startswith("target:")
        assert (rate.kind, rate.limit) in _limited(metered[rate.scope])
        _, used = self.used(rate.scope, rate.kind, now)
        asked = attempt.tokens if rate.kind == "tokens" else 1
        assert used + asked > rate.limit, (rate, used)

    def check_admission(
        self, attempt: Attempt, reply: Reply | None, metered: dict[str, Limits], now: float
    ) -> None:
        applying = self.applying(attempt.scopes)
        hard = [budget for budget in applying if budget.hard]
        if hard and not attempt.priced:
            assert isinstance(reply, Refused)
            assert reply.reason == "unpriced"
            return
        needed = attempt.hold_nanousd
        if attempt.least_nanousd is not None and all(b.settings.holds != "full" for b in hard):
            needed = min(needed, attempt.least_nanousd)
        sums = {budget.key: self.window(budget, budget.start(now)) for budget in hard}
        left = {b.key: b.limit - sums[b.key][0] - sums[b.key][1] for b in hard}
        full = {key for key, room in left.items() if room < needed}
        if full:
            assert isinstance(reply, Refused), (reply, left)
            assert (reply.reason, reply.needed_nanousd) == ("budget", needed)
            assert reply.budget is not None
            exhausted = {k for k in full if self.budgets[k].limit - sums[k][0] < needed}
            assert reply.held == (not exhausted)
            named = [self.budgets[key] for key in exhausted or full]
            said = (reply.budget.scope, reply.budget.settings, reply.budget.managed)
            assert said in [(b.scope, b.settings, b.managed) for b in named]
            return
        assert isinstance(reply, Reserved), (reply, left)
        amount = _held(reply, attempt)
        assert needed <= amount <= attempt.hold_nanousd
        assert amount == needed or all(room >= amount for room in left.values())
        rest = min((room - amount for room in left.values()), default=None)
        assert reply.remaining_nanousd == rest, (reply, rest, left)
        own = [limits for scope, limits in metered.items() if not scope.startswith("target:")]
        _check_rate(reply.requests, [limits.requests_per_minute for limits in own])
        _check_rate(reply.tokens, [limits.tokens_per_minute for limits in own])
        if not attempt.priced:
            self.due.add(("unpriced", attempt.target, int(now) // DAY_S))
        floor = attempt.floor_nanousd
        floor = min(floor, amount) if amount < attempt.hold_nanousd else floor
        self.attempts[attempt.attempt] = ModelAttempt(
            asked=attempt,
            hold=amount,
            floor=floor,
            committed_floor=floor,
            legs=[(budget.key, budget.start(now)) for budget in applying],
            began_at=now,
            began_after=self.passed,
            metered_in=set(metered),
            tokens=attempt.tokens,
            held=amount,
        )

    def check_extend(self, op: Extend, reply: Reply | None, now: float) -> None:
        attempt = self.attempts.get(op.attempt)
        if attempt is None or attempt.state != "open":
            assert isinstance(reply, Failed)
            assert reply.code == "conflict"
            return
        extra = max(0, op.hold_nanousd - attempt.hold)
        left = {}
        for key, start in attempt.legs:
            budget = self.budgets.get(key)
            if budget is not None and budget.hard:
                rolls = rolling_s(budget.settings.window) is not None
                spent, held, _ = self.window(budget, budget.start(now) if rolls else start)
                left[key] = budget.limit - spent - held
        if any(room < extra for room in left.values()):
            assert isinstance(reply, Refused), (reply, left)
            assert (reply.reason, reply.needed_nanousd) == ("budget", extra)
            return
        assert isinstance(reply, Reserved), (reply, left)
        assert reply.hold_nanousd is not None
        given = reply.hold_nanousd - attempt.hold
        assert extra <= given <= max(extra, op.most_nanousd - attempt.hold)
        assert all(room >= given for room in left.values())
        rest = min((room - given for room in left.values()), default=None)
        assert reply.remaining_nanousd == rest, (reply, rest, left)
        attempt.hold += given
        attempt.held += given
        is_gone = any(key not in self.budgets for key, _ in attempt.legs)
        attempt.late += given if is_gone or now != attempt.began_at else 0

    def settle(self, settlement: Settlement, now: float) -> None:
        attempt = self.attempts.get(settlement.attempt)
        if attempt is None or attempt.state not in ("open", "orphan"):
            return
        cost = settlement.cost_nanousd
        if attempt.state == "open":
            attempt.state = "settled"
            attempt.tokens = settlement.usage.input + settlement.usage.output
            attempt.held = min(settlement.uncertain_nanousd, max(0, attempt.hold - cost))
            attempt.overrun = max(0, cost - attempt.hold)
            attempt.cost = cost
            if attempt.overrun:
                self.due.add(("overrun", attempt.asked.target, int(now) // DAY_S))
            self.note_moved(attempt, now)
        else:
            self.correct(attempt, cost, now)

    def correct(self, attempt: ModelAttempt, cost: int, now: float) -> None:
        # All of it that limits have admitted and nobody else can have got since.
        covered = attempt.cost - attempt.overrun + attempt.held
        overrun = max(0, cost - covered)
        if overrun > attempt.overrun:
            self.due.add(("overrun", attempt.asked.target, int(now) // DAY_S))
        attempt.state, attempt.cost, attempt.overrun = "corrected", cost, overrun
        attempt.held = 0
        self.note_moved(attempt, now)

    def check_correct(self, op: Correct, reply: Reply | None, now: float) -> None:
        attempt = self.attempts.get(op.attempt)
        if attempt is None or attempt.state == "open":
            assert isinstance(reply, Failed)
            assert reply.code == ("not_found" if attempt is None else "conflict")
            return
        assert reply == Done(op.seq, int(attempt.cost != op.cost_nanousd))
        self.correct(attempt, op.cost_nanousd, now)

    def orphan(self, attempt: ModelAttempt, now: float) -> None:
        attempt.state = "orphan"
        attempt.cost = attempt.floor
        attempt.held = max(0, attempt.hold - attempt.floor)
        attempt.overrun = max(0, attempt.floor - attempt.hold)
        attempt.tokens = 0
        self.note_moved(attempt, now)

    def note_moved(self, attempt: ModelAttempt, now: float) -> None:
        for key, start in attempt.legs:
            budget = self.budgets.get(key)
            if budget is None:
                continue
            rolls = rolling_s(budget.settings.window) is not None
            if rolls or budget.start(now) == start:
                self.moved.add(key)

    def check_prune(self, op: Prune, reply: Reply | None, now: float) -> None:
        if op.before > int(now) - DAY_S:
            assert isinstance(reply, Failed)
            assert reply.code == "invalid"
            return
        old = [
            number
            for number, attempt in self.attempts.items()
            if attempt.began_at < op.before and attempt.state != "open" and not attempt.held
        ]
        assert reply == Done(op.seq, len(old))
        self.archive += [self.attempts.pop(number) for number in old]

    # --- keys and groups -------------------------------------------------------------------------

    def check_key(
        self, op: CreateKey | UpdateKey | RotateKey, reply: Reply | None, now: float
    ) -> None:
        if isinstance(op, CreateKey):
            if self.is_taken(op.digest):
                assert isinstance(reply, Failed)
                assert reply.code == "conflict"
                return
            assert isinstance(reply, KeyChanged)
            made = reply.key
            assert made.key_id not in self.keys
            self.keys[made.key_id] = KeyRecord(
                key_id=made.key_id,
                digest=op.digest,
                hint=op.hint,
                settings=op.settings,
                created_at=int(now),
            )
            assert made == self.keys[made.key_id]
            return
        key = self.keys.get(op.key_id)
        if key is None:
            assert isinstance(reply, Failed)
            assert reply.code == "not_found"
            return
        if isinstance(op, RotateKey):
            if key.revoked_at is not None or self.is_taken(op.digest):
                assert isinstance(reply, Failed)
                assert reply.code == "conflict"
                return
            expected = msgspec.structs.replace(
                key,
                digest=op.digest,
                hint=op.hint,
                previous_digest=key.digest if op.overlap_s else b"",
                previous_until=int(now) + op.overlap_s if op.overlap_s else 0,
            )
        else:
            revoked_at = int(now) if op.revoked and key.revoked_at is None else key.revoked_at
            settings = msgspec.structs.replace(key.settings, **op.changes)
            expected = msgspec.structs.replace(key, settings=settings, revoked_at=revoked_at)
        assert reply == KeyChanged(expected, op.seq)
        self.keys[key.key_id] = expected
        self.note_limits(f"key:{key.key_id}")

    def is_taken(self, digest: bytes) -> bool:
        return any(digest in (key.digest, key.previous_digest) for key in self.keys.values())

    def check_group(self, op: CreateGroup | UpdateGroup, reply: Reply | None, now: float) -> None:
        group = self.groups.get(op.group_id)
        if isinstance(op, CreateGroup):
            if group is not None:
                assert isinstance(reply, Failed)
                assert reply.code == "conflict"
                return
            group = GroupRecord(
                group_id=op.group_id, kind=op.kind, settings=op.settings, created_at=int(now)
            )
        elif group is None:
            assert isinstance(reply, Failed)
            assert reply.code == "not_found"
            return
        else:
            settings = msgspec.structs.replace(group.settings, **op.changes)
            ends = op.deleted and group.deleted_at is None
            group = msgspec.structs.replace(
                group, settings=settings, deleted_at=int(now) if ends else group.deleted_at
            )
        assert reply == GroupChanged(group, op.seq)
        self.groups[group.group_id] = group
        self.note_limits(f"{group.kind}:{group.group_id}")

    def note_limits(self, scope: str) -> None:
        """Whoever has no limits any more is not counted any more."""
        if scope not in self.limits():
            for attempt in self.all_attempts():
                attempt.metered_in.discard(scope)

    def reload_limits(self) -> None:
        """What a ledger that reads its file counts, whether it was limited at the time or not."""
        limited = self.limits().keys()
        for attempt in self.all_attempts():
            attempt.metered_in = limited & set(attempt.asked.scopes)

    # --- budgets ---------------------------------------------------------------------------------

    def remember(self, state: BudgetState) -> None:
        self.has_changed_budgets = True
        self.budgets[state.budget_id] = ModelBudget(
            state.budget_id,
            state.scope,
            state.settings,
            state.managed,
            state.settings.mode == "hard",
            state.budget_id,
        )

    def end(self, key: Key) -> None:
        self.past.append(self.budgets.pop(key))
        for made in [b.key for b in self.budgets.values() if b.managed == "each"]:
            if isinstance(made, tuple) and made[0] == key:
                self.past.append(self.budgets.pop(made))

    def alter(self, key: Key, settings: BudgetSettings) -> None:
        for budget in self.budgets.values():
            if budget.key == key or (isinstance(budget.key, tuple) and budget.key[0] == key):
                budget.change(settings)

    def check_update_budget(self, step: UpdateBudget, reply: Reply | None) -> None:
        self.has_changed_budgets = True
        known = [b for b in self.budgets.values() if b.id == step.budget_id]
        if not known or known[0].managed != "api":
            assert isinstance(reply, Failed)
            # A budget of a `*` that was made in this batch has no id here yet.
            assert reply.code == "conflict" if known else reply.code in ("conflict", "not_found")
            return
        assert isinstance(reply, Budgets)
        if step.deleted:
            self.end(step.budget_id)
        else:
            self.alter(step.budget_id, msgspec.structs.replace(known[0].settings, **step.changes))

    def apply_config(self, step: ApplyConfig, reply: Budgets) -> None:
        self.has_changed_budgets = True
        before = {b.key: b for b in self.budgets.values() if b.managed == "config"}
        said = [ConfigBudget(state.scope, state.settings) for state in reply.budgets]
        assert said == list(step.budgets)
        made = []
        for state in reply.budgets:
            kept = before.pop(state.budget_id, None)
            if kept is None:
                assert state.budget_id not in self.budgets
                self.remember(state)
                made.append(_calendar(state.scope, state.settings))
            else:
                assert _calendar(kept.scope, kept.settings) == _calendar(
                    state.scope, state.settings
                )
                self.alter(kept.key, state.settings)
        for gone in before.values():
            assert _calendar(gone.scope, gone.settings) not in made
            self.end(gone.key)
        dropped = self.configured.keys() - step.limits.keys()
        self.configured = step.limits
        for scope in (*dropped, *step.limits):
            self.note_limits(scope)
        self.percents = step.alert_percents

    def check_budgets(self, reply: Reply | None, now: float) -> None:
        assert isinstance(reply, Budgets)
        unnamed = {b.key: b for b in self.budgets.values() if b.id is None}
        by_id = {b.id: b for b in self.budgets.values() if b.id is not None}
        for state in reply.budgets:
            if state.budget_id not in by_id:
                said = (state.scope, state.settings)
                same = [k for k, b in unnamed.items() if (b.scope, b.settings) == said]
                assert same, state
                key = same[0]  # they are listed as they were made
                by_id[state.budget_id] = unnamed.pop(key)
                by_id[state.budget_id].id = state.budget_id
        assert not unnamed
        assert {s.budget_id for s in reply.budgets} == by_id.keys()
        for state in reply.budgets:
            budget = by_id[state.budget_id]
            money = (state.spent_nanousd, state.held_nanousd, state.overrun_nanousd)
            assert money == self.window(budget, budget.start(now)), (state, now)
            assert (state.settings, state.managed) == (budget.settings, budget.managed)
            assert state.opens_at is None or state.opens_at > int(now)

    # --- news ------------------------------------------------------------------------------------

    def check_news(self, news: list[News], now: float) -> None:
        """What was said of a batch that went through, and whether all was said that had to be."""
        for item in news:
            if isinstance(item, HardScope):
                (self.hard_scopes.add if item.is_hard else self.hard_scopes.discard)(item.scope)
            else:
                self.check_alert(item.alert, now)
        own = [b for b in self.budgets.values() if b.managed != "each"]
        assert self.hard_scopes == {b.scope for b in own if b.hard}
        assert self.due <= self.occasions, self.due - self.occasions
        for key in self.moved:
            budget = self.budgets.get(key)
            if budget is not None and not self.has_changed_budgets and budget.limit:
                self.check_told(budget, now)
        self.moved, self.due, self.has_changed_budgets = set(), set(), False

    def check_alert(self, alert: Alert, now: float) -> None:
        occasion: tuple[Any, ...]
        if alert.kind != "budget":
            occasion = (alert.kind, alert.subject, int(now) // DAY_S)
            assert occasion in self.due, alert
        else:
            state = alert.budget
            assert state is not None
            assert (alert.subject, alert.amount_nanousd) == (state.scope, state.spent_nanousd)
            limit = state.settings.limit_nanousd
            assert alert.amount_nanousd * 100 >= limit * alert.percent
            rolls = rolling_s(state.settings.window) is not None
            since = int(now) // DAY_S if rolls else (state.starts_at or 0)
            occasion = ("budget", state.budget_id, since, limit, alert.percent)
        assert occasion not in self.occasions, alert
        assert alert.alert_id not in self.alerts
        self.occasions.add(occasion)
        self.alerts[alert.alert_id] = alert

    def check_told(self, budget: ModelBudget, now: float) -> None:
        spent, _, _ = self.window(budget, budget.start(now))
        reached = [p for p in self.percents if spent * 100 >= budget.limit * p]
        told = [
            occasion[-1]
            for occasion in self.occasions
            if occasion[:4] == ("budget", budget.id, budget.since(now), budget.limit)
        ]
        assert not reached or max(told, default=0) >= max(reached), (budget, spent, told)


def digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _held(reply: Reserved, attempt: Attempt) -> int:
    return attempt.hold_nanousd if reply.hold_nanousd is None else reply.hold_nanousd


def _calendar(scope: str, settings: BudgetSettings) -> tuple[str, str, str]:
    return scope, settings.window, settings.timezone


def _limited(limits: Limits) -> list[tuple[str, int]]:
    kinds = {
        "concurrent": limits.concurrent,
        "requests": limits.requests_per_minute,
        "tokens": limits.tokens_per_minute,
    }
    return [(kind, limit) for kind, limit in kinds.items() if limit is not None]


def _check_rate(rate: Rate | None, limits: list[int | None]) -> None:
    known = [limit for limit in limits if limit is not None]
    assert (rate is None) == (not known)
    if rate is not None:
        assert rate.limit in known
        assert 0 <= rate.left <= rate.limit
        assert 0 <= rate.reset_ms <= 60_100
