"""`/spend/logs` and `/global/spend/report`: what was spent, in LiteLLM's shapes."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import msgspec

from proxy import auth
from proxy.admin.books import Books
from proxy.admin.operations import Operation, operation
from proxy.admin.shapes import Body, iso, usd
from proxy.errors import InvalidRequest
from proxy.ledger import reports

# LiteLLM's logs are read whole; ours are cut here, the newest first.
MOST_LOGS = 10_000

_GROUPS = {"team": "team", "customer": "user", "api_key": "key"}


class LogsQuery(Body, frozen=True, kw_only=True):
    """Which requests. With both dates and without `summarize=false`, sums by day."""

    api_key: str | None = None
    """A key or its id."""
    request_id: str | None = None
    start_date: str | None = None
    end_date: str | None = None
    """Included."""
    summarize: bool = True


class ReportQuery(Body, frozen=True, kw_only=True):
    """Which days, by what."""

    start_date: str | None = None
    """Thirty days ago if left out."""
    end_date: str | None = None
    """Included; today if left out."""
    group_by: Literal["team", "customer", "api_key"] = "team"
    api_key: str | None = None
    """A key or its id: only what it spent, by model."""


class LiteLlmSpend:
    """The operations on what was spent."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def operations(self) -> list[Operation]:
        """All of them."""
        return [
            operation("GET", "/spend/logs", self.spend_logs, tag="litellm"),
            operation("GET", "/global/spend/report", self.spend_report, tag="litellm"),
        ]

    async def spend_logs(self, query: LogsQuery) -> list[dict[str, Any]]:
        """Attempts one by one, the last first; or sums by day."""
        since, until = _days(query.start_date, query.end_date)
        key_id = None if query.api_key is None else self._key_id(query.api_key)
        if query.summarize and query.start_date and query.end_date and not query.request_id:
            return await self._by_day(since, until, key_id)
        rows = await self._books.report(reports.attempts, self._books.database, MOST_LOGS)
        return [
            _shown_log(row)
            for row in rows
            if since <= row.started_at < until
            and key_id in (None, row.key_id)
            and query.request_id in (None, row.request_id)
        ]

    async def spend_report(self, query: ReportQuery) -> list[dict[str, Any]]:
        """What was spent by day and team or customer, or by key, each by model."""
        today = datetime.fromtimestamp(self._books.clock.time(), UTC).date()
        since, until = _days(
            query.start_date or (today - timedelta(days=30)).isoformat(), query.end_date
        )
        if query.group_by == "api_key" or query.api_key is not None:
            return await self._by_key(since, until, query.api_key)
        return await self._by_day_and(query.group_by, since, until)

    async def _rows(self, since: int, until: int, *groups: str) -> list[reports.SpendRow]:
        return await self._books.report(
            reports.spend,
            self._books.database,
            since=since,
            until=until,
            group_by=msgspec.convert(groups, tuple[reports.Dimension, ...]),
        )

    async def _by_day(self, since: int, until: int, key_id: str | None) -> list[dict[str, Any]]:
        days: dict[str, dict[str, dict[str, int]]] = {}
        for row in await self._rows(since, until, "day", "key", "target"):
            day, key, target = row.group
            if key_id in (None, key):
                sums = days.setdefault(day, {"models": {}, "api_keys": {}})
                for kind, name in (("models", target), ("api_keys", key)):
                    sums[kind][name] = sums[kind].get(name, 0) + row.cost_nanousd
        return [
            {
                "startTime": day,
                "spend": usd(sum(sums["models"].values())),
                **{kind: {n: usd(c) for n, c in found.items()} for kind, found in sums.items()},
                "users": {},
            }
            for day, sums in days.items()
        ]

    async def _by_day_and(self, group: str, since: int, until: int) -> list[dict[str, Any]]:
        found: dict[str, dict[str, list[reports.SpendRow]]] = {}
        for row in await self._rows(since, until, "day", _GROUPS[group], "target", "key"):
            found.setdefault(row.group[0], {}).setdefault(row.group[1], []).append(row)
        many, name = ("teams", "team_name") if group == "team" else ("customers", "customer")
        return [
            {
                "group_by_day": f"{day}T00:00:00+00:00",
                many: [
                    {
                        name: self._name(group, who),
                        "total_spend": usd(sum(row.cost_nanousd for row in rows)),
                        "metadata": [
                            {
                                "model": row.group[2],
                                "spend": usd(row.cost_nanousd),
                                "total_tokens": row.input_tokens + row.output_tokens,
                                "api_key": row.group[3],
                            }
                            for row in rows
                        ],
                    }
                    for who, rows in groups.items()
                ],
            }
            for day, groups in found.items()
        ]

    async def _by_key(self, since: int, until: int, sent: str | None) -> list[dict[str, Any]]:
        key_id = None if sent is None else self._key_id(sent)
        found: dict[str, list[reports.SpendRow]] = {}
        for row in await self._rows(since, until, "key", "target"):
            if key_id in (None, row.group[0]):
                found.setdefault(row.group[0], []).append(row)
        return [
            {
                "api_key": key,
                **_total(rows),
                "model_details": [{"model": row.group[1], **_total([row])} for row in rows],
            }
            for key, rows in found.items()
        ]

    def _name(self, group: str, who: str) -> str:
        record = self._books.ledger.groups.get(who) if group == "team" else None
        if record is not None and record.settings.name:
            return record.settings.name
        return who or ("Unassigned Team" if group == "team" else "")

    def _key_id(self, sent: str) -> str:
        record = self._books.ledger.keys.get(auth.digest(sent, self._books.secret))
        return sent if record is None else record.key_id


def _total(rows: list[reports.SpendRow]) -> dict[str, Any]:
    return {
        "total_cost": usd(sum(row.cost_nanousd for row in rows)),
        "total_input_tokens": sum(row.input_tokens for row in rows),
        "total_output_tokens": sum(row.output_tokens for row in rows),
    }


def _shown_log(row: reports.AttemptRow) -> dict[str, Any]:
    """An attempt as LiteLLM's `LiteLLM_SpendLogs`."""
    return {
        "request_id": row.request_id,
        "api_key": row.key_id,
        "call_type": "aembedding" if row.endpoint == "embeddings" else "acompletion",
        "model": row.target,
        "model_group": row.virtual_model,
        "custom_llm_provider": row.provider,
        "spend": usd(row.cost_nanousd),
        "prompt_tokens": row.input_tokens,
        "completion_tokens": row.output_tokens,
        "total_tokens": row.input_tokens + row.output_tokens,
        "startTime": iso(row.started_at),
        "endTime": iso(row.started_at + row.total_us / 1e6),
        "completionStartTime": (
            None if row.first_token_us is None else iso(row.started_at + row.first_token_us / 1e6)
        ),
        "cache_hit": "False",
        "status": "success" if row.outcome == "ok" else "failure",
        "metadata": {
            "outcome": row.outcome,
            "attempt": row.attempt,
            "number": row.number,
            "estimated": row.estimated,
            "error": row.error,
        },
    }


def _days(start: str | None, end: str | None) -> tuple[int, int]:
    """From the first moment of one day to the last of another, UTC; raises `InvalidRequest`."""
    since = 0 if start is None else _midnight(start, "start_date")
    until = 2**62 if end is None else _midnight(end, "end_date") + 86_400
    return since, until


def _midnight(text: str, param: str) -> int:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"{param}: {text[:40]!r} is no date; write 2026-11-20", param=param
        ) from None
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
