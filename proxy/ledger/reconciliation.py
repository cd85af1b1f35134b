"""Our account beside a provider's own: how far they drift apart, by target and day (UTC).

Drift is what the provider charged beyond what we counted, so it is negative where we counted more.
Only days are compared for which there is an invoice and no row has been pruned.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from proxy.ledger.protocol import InvoiceLine
from proxy.ledger.reading import reading

ALL_TARGETS = "(all)"
"""Stands for every target of the provider, on a day whose invoice tells no models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ours:
    """What we counted for a target on a day. Money is nano-USD, a part of it estimated."""

    day: str
    target: str
    cost_nanousd: int
    estimated_nanousd: int
    attempts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """A target and a day in both accounts; money is nano-USD."""

    day: str
    target: str
    """Where none of ours is of that model: the model's name in the invoice."""
    ours_nanousd: int
    theirs_nanousd: int
    estimated_nanousd: int
    """The part of ours that was estimated: the first suspect."""

    @property
    def drift_nanousd(self) -> int:
        """What the provider charged beyond what we counted."""
        return self.theirs_nanousd - self.ours_nanousd

    @property
    def percent(self) -> Decimal | None:
        """The drift in percent of what the provider charged, to the hundredth.

        None where it charged nothing for what we counted.
        """
        if not self.theirs_nanousd:
            return None if self.ours_nanousd else Decimal("0.00")
        share = Decimal(100 * self.drift_nanousd) / self.theirs_nanousd
        return share.quantize(Decimal("0.01"))

    def is_above(self, percent: Decimal) -> bool:
        """Whether the drift, either way, is more than that much of what the provider charged."""
        return abs(self.drift_nanousd) * 100 > percent * self.theirs_nanousd


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Both accounts of a provider."""

    rows: tuple[Drift, ...]
    total: Drift
    missing_days: tuple[str, ...]
    """Days between the first and the last invoice on which we spent, without an invoice."""
    pruned_days: tuple[str, ...]
    """Days with an invoice that are not compared, because rows of ours were pruned."""


def accounts(path: Path, provider: str) -> tuple[list[Ours], int, list[str]]:
    """What we counted for a provider by day and target; up to when rows were pruned; all providers.

    Raises `LedgerUnavailable`.
    """
    with reading(path) as db:
        db.execute("BEGIN")
        rows = db.execute(
            "SELECT date(started_at, 'unixepoch') AS day, target, sum(cost_nanousd), "
            "sum(iif(estimated, cost_nanousd, 0)), count(*) FROM spend WHERE provider = ? "
            "GROUP BY day, target ORDER BY day, target",
            (provider,),
        ).fetchall()
        (pruned_until,) = db.execute("SELECT before FROM retention").fetchone()
        known = db.execute("SELECT DISTINCT provider FROM attempts ORDER BY provider").fetchall()
    ours = [
        Ours(day=day, target=target, cost_nanousd=cost, estimated_nanousd=about, attempts=count)
        for day, target, cost, about, count in rows
    ]
    return ours, pruned_until, [name for (name,) in known]


def compare(
    ours: Sequence[Ours], theirs: Iterable[InvoiceLine], *, pruned_until: int = 0
) -> Comparison:
    """Both accounts side by side, in the order of days and targets. Pure.

    `pruned_until` (Unix seconds): rows of ours that are older may be gone.
    """
    lines = list(theirs)
    first_whole_day = "" if pruned_until <= 0 else _first_whole_day(pruned_until)
    invoiced = {line.day for line in lines}
    compared = {day for day in invoiced if day >= first_whole_day}
    modelless = {line.day for line in lines if not line.model}
    targets = {row.target for row in ours}
    sums: dict[tuple[str, str], list[int]] = {}

    def add(day: str, target: str, *amounts: int) -> None:
        known = sums.setdefault((day, ALL_TARGETS if day in modelless else target), [0, 0, 0])
        for place, amount in enumerate(amounts):
            known[place] += amount

    for row in ours:
        if row.day in compared:
            add(row.day, row.target, row.cost_nanousd, 0, row.estimated_nanousd)
    for line in lines:
        if line.day in compared:
            target = match(line.model, targets) or line.model
            add(line.day, target, 0, line.cost_nanousd, 0)
    rows = tuple(_drift(day, target, *amounts) for (day, target), amounts in sorted(sums.items()))
    spent_days = {row.day for row in ours if row.cost_nanousd}
    between = {day for day in spent_days if min(invoiced) <= day <= max(invoiced)} if lines else ()
    return Comparison(
        rows=rows,
        total=_drift(
            "",
            ALL_TARGETS,
            sum(row.ours_nanousd for row in rows),
            sum(row.theirs_nanousd for row in rows),
            sum(row.estimated_nanousd for row in rows),
        ),
        missing_days=tuple(sorted(set(between) - invoiced)),
        pruned_days=tuple(sorted(invoiced - compared)),
    )


def _drift(day: str, target: str, ours: int, theirs: int, estimated: int) -> Drift:
    return Drift(
        day=day,
        target=target,
        ours_nanousd=ours,
        theirs_nanousd=theirs,
        estimated_nanousd=estimated,
    )


def _first_whole_day(pruned_until: int) -> str:
    """The first day (UTC) of which nothing can have been pruned."""
    return datetime.fromtimestamp(pruned_until + 86_399, UTC).date().isoformat()


# `gpt-4o-2024-08-06`, `claude-sonnet-4-20250514`: invoices name the snapshot that an alias served.
_SNAPSHOT = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|20\d{6})\Z")


def match(model: str, targets: Collection[str]) -> str | None:
    """The target of a provider that an invoice's model is; None where it is none, or unclear."""
    names = {target: target.partition("/")[2] for target in targets}
    exact = [target for target, name in names.items() if name == model]
    if exact:
        return exact[0]
    alias = _SNAPSHOT.sub("", model)
    close = [target for target, name in names.items() if _SNAPSHOT.sub("", name) == alias]
    if len(close) > 1:
        # Several snapshots of one model are targets: only the bare name can stand for others.
        close = [target for target in close if names[target] == alias]
    return close[0] if len(close) == 1 else None
