"""What was spent: `/admin/v1/spend`, `attempts`, `alerts` and `corrections`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, get_args

import msgspec

from proxy.admin.books import Books
from proxy.admin.budgets import Budget, shown_budget
from proxy.admin.operations import MAX_ID, Operation, operation
from proxy.admin.shapes import Amount, Body, Shown, Usd, iso, nanousd, usd
from proxy.errors import InvalidRequest
from proxy.ledger import reports
from proxy.ledger.protocol import Alert, Correct, Done
from proxy.moments import parse_moment


class SpendQuery(Body, frozen=True, kw_only=True):
    """What to sum up, and how."""

    group_by: str = "day,target"
    """Dimensions, separated by commas."""
    since: str | None = None
    """A date, a moment, or `7d` or `12h` ago; from the beginning if left out."""
    until: str | None = None
    timezone: str = "UTC"
    """Whose days and hours."""
    key: str | None = None
    """Of a key alone, by its id; so for what follows."""
    team: str | None = None
    organisation: str | None = None
    user: str | None = None
    tag: str | None = None
    virtual_model: str | None = None
    model: str | None = None
    target: str | None = None
    provider: str | None = None
    endpoint: str | None = None
    outcome: str | None = None

    def where(self) -> dict[reports.Dimension, str]:
        """What restricts the attempts."""
        given = {name: getattr(self, name, None) for name in get_args(reports.Dimension)}
        return {name: value for name, value in given.items() if value is not None}


class AttemptsQuery(Body, frozen=True, kw_only=True):
    """How many attempts."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100


class AlertsQuery(Body, frozen=True, kw_only=True):
    """How many alerts."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 100


class Correction(Body, frozen=True, kw_only=True):
    """`POST /admin/v1/corrections`: what a settled attempt really cost."""

    attempt: Annotated[int, msgspec.Meta(ge=1, le=MAX_ID)]
    cost_usd: Amount
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class Corrected(Shown, frozen=True, kw_only=True):
    """The correction is on record, and every balance moved."""

    attempt: int
    cost_usd: Usd


class SpendList(Shown, frozen=True, kw_only=True):
    """A row for each group: its dimensions by name, then requests, attempts, tokens and USD."""

    data: list[dict[str, Any]]


class AttemptList(Shown, frozen=True, kw_only=True):
    """Attempts, the last first."""

    data: list[dict[str, Any]]


class ShownAlert(Shown, frozen=True, kw_only=True):
    """Something an operator should know."""

    id: int
    kind: str
    raised_at: str | None
    subject: str
    text: str
    percent: int
    amount_usd: Usd
    budget: Budget | None
    delivered_at: str | None
    """When it had reached its receivers; null until then."""


class AlertList(Shown, frozen=True, kw_only=True):
    """Alerts, the last first."""

    data: list[ShownAlert]


class SpendApi:
    """The operations on what was spent."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def operations(self) -> list[Operation]:
        """All of them."""
        return [
            operation("GET", "/admin/v1/spend", self.list_spend, tag="spend"),
            operation("GET", "/admin/v1/attempts", self.list_attempts, tag="spend"),
            operation("GET", "/admin/v1/alerts", self.list_alerts, tag="spend"),
            operation("POST", "/admin/v1/corrections", self.correct, tag="spend", status=201),
        ]

    async def list_spend(self, query: SpendQuery) -> SpendList:
        """What was spent, by any dimensions, between two moments."""
        groups = _dimensions(query.group_by)
        since, until = _moment(query.since, "since"), _moment(query.until, "until")
        try:
            rows = await self._books.report(
                reports.spend,
                self._books.database,
                since=since or 0,
                until=until,
                group_by=groups,
                where=query.where(),
                timezone=query.timezone,
            )
        except ValueError as error:
            raise InvalidRequest(str(error), param="timezone") from None
        return SpendList(data=[_shown_row(row, groups) for row in rows])

    async def list_attempts(self, query: AttemptsQuery) -> AttemptList:
        """The attempts that began last, with what each cost."""
        rows = await self._books.report(reports.attempts, self._books.database, query.limit)
        return AttemptList(data=[_shown_row(row) for row in rows])

    async def list_alerts(self, query: AlertsQuery) -> AlertList:
        """The alerts that were raised last."""
        rows = await self._books.report(reports.last_alerts, self._books.database, query.limit)
        return AlertList(data=[self._shown_alert(*row) for row in rows])

    async def correct(self, body: Correction) -> Corrected:
        """Say what an attempt really cost, e.g. from the provider's invoice."""
        cost = nanousd(body.cost_usd, "cost_usd")
        await self._books.call(Correct(0, body.attempt, cost, body.reason), Done)
        return Corrected(attempt=body.attempt, cost_usd=usd(cost))

    def _shown_alert(self, alert: Alert, delivered_at: int | None) -> ShownAlert:
        now = self._books.clock.time()
        return ShownAlert(
            id=alert.alert_id,
            kind=alert.kind,
            raised_at=iso(alert.raised_at),
            subject=alert.subject,
            text=alert.text,
            percent=alert.percent,
            amount_usd=usd(alert.amount_nanousd),
            budget=None if alert.budget is None else shown_budget(alert.budget, now),
            delivered_at=iso(delivered_at),
        )


def _shown_row(
    row: reports.SpendRow | reports.AttemptRow, groups: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A report's row: its amounts in USD, its moments as text."""
    shown: dict[str, Any] = {}
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if field.name == "group":
            shown.update(zip(groups, value, strict=True))
        elif field.name.endswith("_nanousd"):
            shown[field.name.removesuffix("_nanousd") + "_usd"] = usd(value)
        elif field.name.endswith("_at"):
            shown[field.name] = iso(value)
        else:
            shown[field.name] = value
    return shown


def _dimensions(text: str) -> tuple[reports.Dimension, ...]:
    try:
        return msgspec.convert(text.split(",") if text else [], tuple[reports.Dimension, ...])
    except msgspec.ValidationError:
        known = ", ".join(get_args(reports.Dimension))
        raise InvalidRequest(
            f"cannot group by {text[:100]!r}; known: {known}", param="group_by"
        ) from None


def _moment(text: str | None, param: str) -> int | None:
    try:
        return parse_moment(text)
    except ValueError as error:
        raise InvalidRequest(str(error), param=param) from None
