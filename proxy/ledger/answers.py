"""What became of requests, and what callers said of the answers: read from the ledger's file.

Safe beside a running ledger (`reading`). Money is integer nano-USD, times are Unix seconds. What
was pruned is not here. Everything raises `LedgerUnavailable`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.ledger.protocol import JUDGE, MILLION, Metric, Quality
from proxy.ledger.reading import reading
from proxy.ledger.store import to_json
from proxy.pricing import Usage

_FOREVER = 2**62
_BATCH = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What a caller said of an answer; `worth` is from 0 to 1."""

    given_at: int
    request_id: str
    key_id: str
    metric: Metric
    worth: float
    virtual_model: str
    target: str
    task: str
    decision: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A settled attempt of a request that went through a virtual model. Times are in seconds."""

    request_id: str
    number: int
    reason: str
    target: str
    outcome: str
    status: int
    cost_nanousd: int
    usage: Usage
    first_token_s: float | None
    total_s: float
    is_outvoted: bool = False
    """Whether another answer to the same request was taken."""

    @property
    def is_answer(self) -> bool:
        """Whether the client got its answer, or as much of it as it waited for."""
        if self.is_outvoted or self.reason == JUDGE:
            return False
        return self.outcome in ("ok", "capped", "client_gone")


def last_feedback(path: Path, limit: int) -> list[Said]:
    """What was said last, the newest first."""
    with reading(path) as db:
        rows = db.execute(
            "SELECT f.given_at, f.request_id, a.key_id, f.metric, f.worth_ppm, a.virtual_model, "
            "a.target, a.task, a.decision "
            "FROM feedback AS f JOIN attempts AS a ON a.id = f.attempt "
            "ORDER BY f.given_at DESC, f.request_id, f.metric LIMIT ?",
            (limit,),
        ).fetchall()
    return [_said(row) for row in rows]


def quality(path: Path) -> list[Quality]:
    """What feedback says of each target at each task, in all."""
    with reading(path) as db:
        rows = db.execute(
            "SELECT target, task, answers, worth_ppm FROM quality ORDER BY target, task"
        ).fetchall()
    return [Quality(*row) for row in rows]


def worth_of_answers(path: Path, since: int) -> dict[str, tuple[str, float]]:
    """By request that began since then: the target that answered, and what that was worth."""
    with reading(path) as db:
        rows = db.execute(
            "SELECT a.request_id, a.target, avg(f.worth_ppm) "
            "FROM attempts AS a JOIN feedback AS f ON f.attempt = a.id "
            "WHERE a.started_at >= ? GROUP BY a.id",
            (since,),
        ).fetchall()
    return {request_id: (target, worth / MILLION) for request_id, target, worth in rows}


_COLUMNS = (
    "request_id, number, route_reason, target, outcome, status, cost_nanousd, input_tokens, "
    "cached_tokens, output_tokens, reasoning_tokens, cache_write_tokens, cache_write_1h_tokens, "
    "first_token_us, total_us, attempt IN (SELECT attempt FROM outvoted)"
)
"""The fields of `Done`."""


def done_for(path: Path, request_ids: Iterable[str]) -> list[Done]:
    """The settled attempts of these requests, in the order in which each made them."""
    with reading(path) as db:
        rows = db.execute(
            f"SELECT {_COLUMNS} FROM spend "  # noqa: S608 - a constant
            "WHERE request_id IN (SELECT value FROM json_each(?)) AND outcome <> 'open' "
            "ORDER BY request_id, number",
            (to_json(list(request_ids)),),
        ).fetchall()
    return [_done(row) for row in rows]


def done(path: Path, since: int, until: int | None) -> Iterator[Done]:
    """Settled attempts of virtual models that began in [since, until), in their order.

    They are read in batches, so that the ledger's log can shrink in between.
    """
    after: tuple[float, int] = (since, -1)
    while True:
        with reading(path) as db:
            rows = db.execute(
                f"SELECT started_at, attempt, {_COLUMNS} FROM spend "  # noqa: S608 - a constant
                "WHERE (started_at, attempt) > (?, ?) AND started_at < ? "
                "AND virtual_model <> '' AND outcome <> 'open' "
                "ORDER BY started_at, attempt LIMIT ?",
                (*after, _FOREVER if until is None else until, _BATCH),
            ).fetchall()
        yield from (_done(row[2:]) for row in rows)
        if len(rows) < _BATCH:
            return
        after = rows[-1][:2]


def _said(row: tuple[Any, ...]) -> Said:
    given_at, request_id, key_id, metric, worth_ppm, virtual_model, target, task, decision = row
    return Said(
        given_at=given_at,
        request_id=request_id,
        key_id=key_id,
        metric=metric,
        worth=worth_ppm / MILLION,
        virtual_model=virtual_model,
        target=target,
        task=task,
        decision=decision,
    )


def _done(row: tuple[Any, ...]) -> Done:
    request_id, number, reason, target, outcome, status, cost, *rest = row
    given, cached, output, reasoning, cache_write, cache_write_1h, *rest = rest
    first_token_us, total_us, is_outvoted = rest
    return Done(
        request_id=request_id,
        number=number,
        reason=reason,
        target=target,
        outcome=outcome,
        status=status,
        cost_nanousd=cost,
        usage=Usage(
            input_tokens=given,
            cached_tokens=cached,
            output_tokens=output,
            reasoning_tokens=reasoning,
            cache_write_tokens=cache_write,
            cache_write_1h_tokens=cache_write_1h,
        ),
        first_token_s=None if first_token_us is None else first_token_us / 1e6,
        total_s=total_us / 1e6,
        is_outvoted=bool(is_outvoted),
    )
