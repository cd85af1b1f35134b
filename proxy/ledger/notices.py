"""Alerts: what operators should hear of, raised in the transaction that made it true.

Each has an occasion, and is raised once for it, however often it comes true again.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from proxy.ledger.book import Book, Budget
from proxy.ledger.protocol import Alert, AlertRaised, RaiseAlert
from proxy.ledger.store import AlertRow, Store, to_json
from proxy.pricing import format_usd
from proxy.swaps.core import Swap

_DAY_S = 86_400
# What several workers see of a target within so long is one and the same.
_SAME_S = 600
# Occasions of this day that are remembered, so that each is looked up in the file once.
_MOST_REMEMBERED = 10_000


class Notices:
    """Raises alerts, and knows those that are not delivered. May raise `sqlite3.Error`."""

    def __init__(self, store: Store, percents: tuple[int, ...]) -> None:
        self._store = store
        self.percents = tuple(sorted(percents))
        self.undelivered = {row.id: _alert(row) for row in store.read_undelivered_alerts()}
        self.news: list[AlertRaised] = []
        """What workers must be told."""
        self._raised: set[str] = set()
        self._episodes: dict[str, int] = {}
        """When workers began to see something; what is as old as `_SAME_S` is over."""

    def set_percents(self, percents: tuple[int, ...], book: Book) -> None:
        """Raise alerts at other shares from now on."""
        self.percents = tuple(sorted(percents))
        for budget in book.budgets.values():
            budget.alert_at = -math.inf

    def _watch(self, budget: Budget) -> None:
        """Work out what a budget must have spent before it is looked at again."""
        amounts = (_share(budget.limit, percent) for percent in self.percents)
        ahead = (amount for amount in amounts if amount > budget.totals.spent)
        budget.alert_at = min(ahead, default=math.inf)

    def spent(self, book: Book, budget: Budget) -> None:
        """A budget has reached what it was watched for, or its window is new."""
        reached = [p for p in self.percents if budget.totals.spent >= _share(budget.limit, p)]
        self._watch(budget)
        if not reached or not budget.limit:
            return
        state = budget.state()
        percent = max(reached)
        window = state.settings.window
        # A rolling window has no beginning that could tell one occasion from the next.
        since = book.now // _DAY_S if budget.length_s is not None else budget.starts_at
        self._raise(
            f"budget:{budget.id}:{since}:{budget.limit}:{percent}",
            now=book.now,
            kind="budget",
            subject=budget.scope,
            text=f"{budget.scope} has spent {percent} % of its {window} budget: "
            f"{format_usd(state.spent_nanousd)} of {format_usd(budget.limit)}",
            percent=percent,
            amount_nanousd=state.spent_nanousd,
            budget=state,
        )

    def overrun(self, target: str, amount_nanousd: int, now: int) -> None:
        """A provider billed more than was held."""
        self._raise(
            f"overrun:{target}:{now // _DAY_S}",
            now=now,
            kind="overrun",
            subject=target,
            text=f"{target} billed {format_usd(amount_nanousd)} more than an attempt could cost",
            amount_nanousd=amount_nanousd,
        )

    def unpriced(self, target: str, now: int) -> None:
        """An attempt went to a target whose price is not known."""
        self._raise(
            f"unpriced:{target}:{now // _DAY_S}",
            now=now,
            kind="unpriced",
            subject=target,
            text=f"{target} is used, but has no price: what it costs is not counted",
        )

    def swap(self, swap: Swap) -> None:
        """A swap did not come to its end."""
        plan = swap.plan
        what = "was rolled back" if swap.state == "rolled_back" else "failed"
        self._raise(
            f"swap:{swap.swap_id}:{swap.state}",
            now=swap.since,
            kind="swap",
            subject=plan.name,
            text=f"swap {swap.swap_id} of {plan.name} from {plan.source} to {plan.target} "
            f"{what}: {swap.reason}",
        )

    def asked(self, op: RaiseAlert, now: int) -> Alert | None:
        """Raise what somebody else saw; None where it was raised not long ago."""
        occasion = f"{op.kind}:{op.subject}"
        if op.kind == "drift":
            occasion = f"{occasion}:{now // _DAY_S}"
        else:
            since = self._episodes.get(occasion, -_SAME_S)
            if len(self._episodes) >= _MOST_REMEMBERED:
                self._episodes.clear()
            self._episodes[occasion] = since = since if now < since + _SAME_S else now
            occasion = f"{occasion}:{since}"
        return self._raise(
            occasion,
            now=now,
            kind=op.kind,
            subject=op.subject,
            text=op.text,
            amount_nanousd=op.amount_nanousd,
        )

    def delivered(self, alert_ids: tuple[int, ...], now: int) -> int:
        """Forget what has reached its receivers."""
        known = [number for number in alert_ids if self.undelivered.pop(number, None) is not None]
        if known:
            self._store.begin()
            self._store.mark_alerts_delivered(known, now)
        return len(known)

    def _raise(self, occasion: str, *, now: int, **fields: Any) -> Alert | None:
        if occasion in self._raised:
            return None
        if len(self._raised) >= _MOST_REMEMBERED:
            self._raised.clear()
        self._raised.add(occasion)
        self._store.begin()
        number = self._store.new_alert_id()
        alert = Alert(alert_id=number, raised_at=now, **fields)
        row = AlertRow(number, occasion, alert.kind, now, alert.subject, to_json(alert))
        if not self._store.add_alert(row):
            return None
        self.undelivered[number] = alert
        self.news.append(AlertRaised(alert))
        return alert


def _share(limit: int, percent: int) -> int:
    return -(-limit * percent // 100)


def _alert(row: AlertRow) -> Alert:
    return msgspec.json.decode(row.alert, type=Alert)
