"""What the ledger keeps in memory of money: budgets, their windows, balances and holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, cast
from weakref import WeakValueDictionary

import msgspec

from proxy import budgets
from proxy.ledger.faults import Fault
from proxy.ledger.protocol import BudgetSettings, BudgetState, ConfigBudget, HardScope
from proxy.ledger.rates import Counted
from proxy.ledger.store import BudgetRow, Store, to_json

Managed = Literal["api", "config", "each"]

# Soft budgets admit everything below this; it only keeps sums inside SQLite's 64 bits.
_SOFT_CEILING = 2**61

# Streams hold their whole maximum while all that is held stays below this part of what is left:
# little enough to sit idle, and it spares them from asking for more. Beyond it they hold slices.
_IDLE_PART = 32


class Totals:
    """Money that counts against a limit."""

    __slots__ = ("held", "spent")

    def __init__(self, spent: int = 0, held: int = 0) -> None:
        self.spent = spent
        self.held = held


class Balance(Totals):
    """The money of one budget in one of its windows: a row of `balances`."""

    __slots__ = ("__weakref__", "budget_id", "overrun", "window_start")

    def __init__(
        self, budget_id: int, window_start: int, spent: int, held: int, overrun: int
    ) -> None:
        super().__init__(spent, held)
        self.budget_id = budget_id
        self.window_start = window_start
        self.overrun = overrun

    def add(self, spent: int, held: int, overrun: int = 0) -> None:
        """Move money; negative amounts take it away."""
        self.spent += spent
        self.held += held
        self.overrun += overrun


class Slot(Balance):
    """A balance that is one slot of a rolling window, and moves the window's totals with it.

    What is held counts until it is settled, however old; what is spent while its slot does.
    """

    __slots__ = ("counts", "ring")

    def __init__(self, ring: Totals, budget_id: int, start: int, *money: int) -> None:
        super().__init__(budget_id, start, *money)
        self.ring = ring
        self.counts = False

    def add(self, spent: int, held: int, overrun: int = 0) -> None:
        """As of any balance, and of the window."""
        super().add(spent, held, overrun)
        self.ring.held += held
        if self.counts:
            self.ring.spent += spent


class Budget:
    """A budget with its window that is open now; `ends_at` is infinite for a lifetime.

    `balance` is where a hold goes that is admitted now, `totals` what it is admitted by: the same
    but for rolling windows. `others` are the parts of its scope besides the one it is found by.
    """

    __slots__ = (
        "alert_at",
        "balance",
        "ceiling",
        "created_at",
        "ends_at",
        "full_holds",
        "hard",
        "id",
        "length_s",
        "limit",
        "managed",
        "others",
        "parent",
        "scope",
        "settings",
        "slots",
        "starts_at",
        "totals",
        "zone",
    )

    def __init__(self, row: BudgetRow) -> None:
        self.id = row.id
        self.scope = row.scope
        self.parent = row.parent
        self.managed = cast(Managed, row.managed)
        self.created_at = row.created_at
        self.others: frozenset[str] = frozenset()
        self.slots: list[Slot] = []
        self.starts_at, self.ends_at = 0, -math.inf  # no window is open yet
        self.balance = Balance(row.id, 0, 0, 0, 0)
        self.totals: Totals = self.balance
        self.set(msgspec.json.decode(row.settings, type=BudgetSettings))

    def set(self, settings: BudgetSettings) -> None:
        """Take over its settings; the balance stays."""
        self.settings = settings
        self.zone = budgets.time_zone(settings.timezone)
        self.length_s = budgets.rolling_s(settings.window)
        self.limit = settings.limit_nanousd
        self.hard = settings.mode == "hard"
        self.full_holds = self.hard and settings.holds == "full"
        self.ceiling = self.limit if self.hard else _SOFT_CEILING
        self.alert_at = -math.inf  # whoever raises alerts works it out

    def check_changeable(self) -> None:
        """Raise `Fault` where it is not for operators to change by an op."""
        if self.managed == "config":
            raise Fault(
                "conflict",
                f"budget {self.id} is managed by router.yaml; change it there and restart",
            )
        if self.managed == "each":
            raise Fault(
                "conflict", f"budget {self.id} is one of those of budget {self.parent}; change that"
            )

    def left(self) -> int:
        """What is neither spent nor held."""
        return self.ceiling - self.totals.spent - self.totals.held

    def idle(self, totals: Totals) -> int:
        """How much more may be held, in the window of those, for streams that might do with less.

        Never more than is left in it.
        """
        return (self.ceiling - totals.spent) // _IDLE_PART - totals.held

    def reopen(self, balance: Balance, span: budgets.Span) -> None:
        """Begin a window."""
        self.balance = balance
        self.starts_at = span.starts_at
        self.ends_at = math.inf if span.ends_at is None else span.ends_at

    def state(self, needed_nanousd: int = 0) -> BudgetState:
        """What others see of it; `opens_at` is for somebody who needs so much."""
        counting = [slot for slot in self.slots if slot.counts]
        overrun = sum(slot.overrun for slot in counting) if counting else self.balance.overrun
        return BudgetState(
            budget_id=self.id,
            scope=self.scope,
            settings=self.settings,
            managed=self.managed,
            spent_nanousd=self.totals.spent,
            held_nanousd=self.totals.held,
            overrun_nanousd=overrun,
            starts_at=self._starts_at(),
            opens_at=self._opens_at(needed_nanousd),
            created_at=self.created_at,
        )

    def _starts_at(self) -> int | None:
        if self.length_s is not None:
            return self.starts_at - self.length_s
        return None if self.settings.window == "lifetime" else self.starts_at

    def _opens_at(self, needed_nanousd: int) -> int | None:
        """When so much may fit, None for never: what is held is taken to stay held."""
        if needed_nanousd > self.ceiling or self.settings.window == "lifetime":
            return None
        if self.length_s is None:
            return int(self.ends_at)
        lacking = needed_nanousd - self.left()
        last = self.starts_at
        for slot in self.slots:  # ascending: they leave in this order
            if slot.counts and slot.spent:
                last = slot.window_start
                lacking -= slot.spent
                if lacking <= 0:
                    break
        return last + self.length_s // budgets.SLOTS + self.length_s


class Hold:
    """Money set aside for an attempt; of a settled one, what may still turn out to be spent."""

    __slots__ = ("amount", "counted", "deadline", "floor", "legs")

    def __init__(self, amount: int, floor: int, deadline: int, legs: Sequence[Balance]) -> None:
        self.amount = amount
        self.floor = floor
        self.deadline = deadline
        self.legs = legs
        self.counted: Counted | None = None
        """Where it counts for rate limits, if anywhere."""


class Book:
    """Every budget, found by scope, with the balances that are in use.

    Its methods may raise `sqlite3.Error`: then it is thrown away, and made anew from the file.
    """

    def __init__(self, store: Store, now: int) -> None:
        self._store = store
        self.now = now
        self.budgets: dict[int, Budget] = {}
        self.news: list[HardScope] = []
        """What workers must be told."""
        self._balances: WeakValueDictionary[tuple[int, int], Balance] = WeakValueDictionary()
        self._by_scope: dict[str, list[Budget]] = {}
        # Budgets with `*`, and those that were made from them by (parent, scope).
        self._templates: list[_Template] = []
        self._made: dict[tuple[int, str], Budget] = {}
        for row in store.read_budgets():
            self._remember(Budget(row))

    # --- what applies --------------------------------------------------------------------------

    def applying(self, scopes: Mapping[str, object]) -> list[Budget]:
        """The budgets of an attempt, each with its window of now.

        Raises `Fault` for a scope that a budget with `*` cannot have one made for.
        """
        if self._templates:
            self._make_each(scopes)
        now, by_scope = self.now, self._by_scope
        found: list[Budget] = []
        for scope in scopes:
            if scope not in by_scope:  # most have none
                continue
            for budget in by_scope[scope]:
                if budget.others and not budget.others <= scopes.keys():
                    continue
                if not budget.starts_at <= now < budget.ends_at:
                    self._turn_to_now(budget)
                found.append(budget)
        return found

    def hard_scopes(self) -> tuple[str, ...]:
        """Every scope with a hard budget; those made from a `*` are covered by it."""
        return tuple({b.scope for b in self.budgets.values() if b.hard and b.managed != "each"})

    def states(self, scope: str = "") -> list[BudgetState]:
        """Every budget, or those of a scope, as of now."""
        return [self.state(b) for b in self.budgets.values() if not scope or b.scope == scope]

    def state(self, budget: Budget, needed_nanousd: int = 0) -> BudgetState:
        """A budget as of now, to somebody who needs so much."""
        return self.open_window(budget).state(needed_nanousd)

    def open_window(self, budget: Budget) -> Budget:
        """Turn the budget to the window of now, whichever way the clock went."""
        return (
            budget if budget.starts_at <= self.now < budget.ends_at else self._turn_to_now(budget)
        )

    def totals_of(self, leg: Balance) -> tuple[Budget | None, Totals]:
        """The budget of a balance, None if it is gone, and what that money counts in."""
        budget = self.budgets.get(leg.budget_id)
        if budget is None or budget.length_s is None:
            return budget, leg
        return budget, self.open_window(budget).totals

    # --- changes --------------------------------------------------------------------------------

    def add(
        self,
        scope: str,
        settings: BudgetSettings,
        managed: Managed,
        parent: int | None = None,
    ) -> Budget:
        """Make a budget."""
        self._store.begin()
        row = BudgetRow(0, scope, to_json(settings), managed, parent, self.now)
        budget = Budget(row._replace(id=self._store.add_budget(row)))
        self._remember(budget)
        if settings.mode == "hard" and managed != "each":
            self.news.append(HardScope(scope, True))
        return self.open_window(budget)

    def change(self, budget: Budget, settings: BudgetSettings) -> None:
        """Change the settings, and those of what was made from it."""
        if settings == budget.settings:
            return
        was_hard = self._is_hard(budget.scope)
        self._store.begin()
        for each in (budget, *self._made_from(budget)):
            self._store.change_budget(each.id, to_json(settings))
            each.set(settings)
        self._tell(budget.scope, was_hard)

    def delete(self, budget: Budget) -> None:
        """End a budget, and what was made from it; the rows stay."""
        was_hard = self._is_hard(budget.scope)
        self._store.begin()
        for each in (*self._made_from(budget), budget):
            self._store.delete_budget(each.id, self.now)
            self._forget(each)
        self._tell(budget.scope, was_hard)

    def apply_config(self, wanted: Sequence[ConfigBudget]) -> list[Budget]:
        """Make the `managed: config` budgets exactly these, and return them in order."""
        present = [budget for budget in self.budgets.values() if budget.managed == "config"]
        kept = matched(present, wanted)
        staying = {budget.id for budget in kept.values()}
        for budget in present:
            if budget.id not in staying:
                self.delete(budget)
        for index, want in enumerate(wanted):
            if index in kept:
                self.change(kept[index], want.settings)
            else:
                kept[index] = self.add(want.scope, want.settings, "config")
        return [kept[index] for index in range(len(wanted))]

    # --- scopes ---------------------------------------------------------------------------------

    def _remember(self, budget: Budget) -> None:
        self.budgets[budget.id] = budget
        if budget.parent is not None:
            self._made[budget.parent, budget.scope] = budget
        parts = budgets.scope_parts(budget.scope)
        star = next((part for part in parts if _is_star(part)), None)
        if star is not None:
            fixed = tuple(part for part in parts if part != star)
            self._templates.append(_Template(budget, fixed, star[: -len(budgets.EACH)]))
            return
        found_by, *others = sorted(parts, key=_rank)
        budget.others = frozenset(others)
        self._by_scope.setdefault(found_by, []).append(budget)

    def _forget(self, budget: Budget) -> None:
        del self.budgets[budget.id]
        if budget.parent is not None:
            del self._made[budget.parent, budget.scope]
        template = next((t for t in self._templates if t.budget is budget), None)
        if template is not None:
            self._templates.remove(template)
            return
        found_by = min(budgets.scope_parts(budget.scope), key=_rank)
        self._by_scope[found_by].remove(budget)
        if not self._by_scope[found_by]:
            del self._by_scope[found_by]

    def _made_from(self, budget: Budget) -> list[Budget]:
        return [made for made in self._made.values() if made.parent == budget.id]

    def _make_each(self, scopes: Mapping[str, object]) -> None:
        """Make the budgets of scopes that a `*` is met by for the first time."""
        for template in self._templates:
            if not all(part in scopes for part in template.fixed):
                continue
            parent = template.budget
            for scope in scopes:
                if not scope.startswith(template.kind):
                    continue
                made = budgets.AND.join((*template.fixed, scope))
                if (parent.id, made) not in self._made:
                    if _is_star(scope) or budgets.AND in scope:
                        raise Fault("invalid", f"{scope[:100]!r} reads as another scope")
                    self.add(made, parent.settings, "each", parent.id)

    def _is_hard(self, scope: str) -> bool:
        mine = (b for b in self.budgets.values() if b.scope == scope and b.managed != "each")
        return any(budget.hard for budget in mine)

    def _tell(self, scope: str, was_hard: bool) -> None:
        is_hard = self._is_hard(scope)
        if is_hard != was_hard:
            self.news.append(HardScope(scope, is_hard))

    # --- windows --------------------------------------------------------------------------------

    def _turn_to_now(self, budget: Budget) -> Budget:
        span = budgets.span_at(budget.settings.window, budget.zone, self.now)
        if budget.length_s is None:
            budget.reopen(self.balance(budget.id, span.starts_at), span)
            budget.totals = budget.balance
        else:
            self._turn(budget, budget.length_s, span)
        budget.alert_at = -math.inf
        return budget

    def _turn(self, budget: Budget, length_s: int, span: budgets.Span) -> None:
        """Count the slots of a rolling window anew: those in it, and older ones that still hold."""
        counting = budgets.counting_slots(length_s, span.starts_at)
        if isinstance(budget.totals, Balance):
            budget.totals = Totals()
        ring = budget.totals
        starts = set(self._store.balances_since(budget.id, counting[0]))
        starts |= {slot.window_start for slot in budget.slots}
        starts.add(span.starts_at)
        slots = [self._slot(budget.id, start, ring) for start in sorted(starts)]
        ring.spent = ring.held = 0
        budget.slots = []
        for slot in slots:
            slot.counts = slot.window_start in counting
            if slot.counts or slot.held:
                budget.slots.append(slot)
            ring.held += slot.held
            ring.spent += slot.spent if slot.counts else 0
        budget.reopen(self._slot(budget.id, span.starts_at, ring), span)

    def balance(self, budget_id: int, window_start: int) -> Balance:
        """The one object for that balance; it lives while a window or a hold refers to it."""
        balance = self._balances.get((budget_id, window_start))
        if balance is None:
            budget = self.budgets.get(budget_id)
            if budget is not None and budget.length_s is not None:
                if isinstance(budget.totals, Balance):
                    budget.totals = Totals()
                return self._slot(budget_id, window_start, budget.totals)
            balance = Balance(
                budget_id, window_start, *self._store.balance(budget_id, window_start)
            )
            self._balances[budget_id, window_start] = balance
        return balance

    def _slot(self, budget_id: int, start: int, ring: Totals) -> Slot:
        slot = self._balances.get((budget_id, start))
        if slot is None:
            slot = Slot(ring, budget_id, start, *self._store.balance(budget_id, start))
            self._balances[budget_id, start] = slot
        assert isinstance(slot, Slot)
        return slot

    def legs(self, legs: str) -> list[Balance]:
        """The balances that a row names."""
        pairs = msgspec.json.decode(legs, type=list[tuple[int, int]])
        return [self.balance(budget_id, window_start) for budget_id, window_start in pairs]


class _Template(NamedTuple):
    """A budget with `*`: parts that must all be there, and how those begin that get one each."""

    budget: Budget
    fixed: tuple[str, ...]
    kind: str


def _is_star(part: str) -> bool:
    return part.endswith(f":{budgets.EACH}")


def check_budgets(wanted: Iterable[tuple[str, BudgetSettings]]) -> None:
    """Raise `Fault` for a budget that cannot be, as far as its types leave it open."""
    for scope, settings in wanted:
        kinds = (*budgets.KINDS, budgets.TEMPLATE)
        fault = budgets.scope_problem(scope, kinds) or budgets.window_problem(settings.window)
        if fault is not None:
            raise Fault("invalid", fault)
        try:
            budgets.time_zone(settings.timezone)
        except ValueError as error:
            raise Fault("invalid", str(error)) from None


def calendar_of(settings: BudgetSettings) -> tuple[str, str]:
    """What says when a budget's windows begin."""
    return settings.window, settings.timezone


def matched(present: Sequence[Budget], wanted: Sequence[ConfigBudget]) -> dict[int, Budget]:
    """Which budget keeps its balance as which wanted one (by index): same scope and window.

    Where a scope has several over one window (a soft one below a hard one), modes tell them apart
    first, and order does for what is left.
    """
    free: dict[tuple[str, str, str], list[Budget]] = {}
    for budget in present:
        free.setdefault((budget.scope, *calendar_of(budget.settings)), []).append(budget)
    kept: dict[int, Budget] = {}
    for same_mode in (True, False):
        for index, want in enumerate(wanted):
            candidates = free.get((want.scope, *calendar_of(want.settings)), [])
            hard = want.settings.mode == "hard"
            matches = (b for b in candidates if not same_mode or b.hard == hard)
            match = next(matches, None) if index not in kept else None
            if match is not None:
                candidates.remove(match)
                kept[index] = match
    return kept


def _rank(part: str) -> tuple[int, str]:
    """The rarer kind first: by it a budget of several parts is found."""
    order = ("key", "user", "tag", "team", "organisation", "target", "model", "provider")
    kind = part.partition(":")[0]
    return (order.index(kind) if kind in order else len(order), part)
