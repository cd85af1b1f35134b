"""What a month of requests would cost: the ledger's shares of targets, at the prices of today.

Money is integer nano-USD, rounded up; nothing here is a float. Where a virtual model has no history
it counts by the route that the configuration declares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy import pricing
from proxy.ledger import reports
from proxy.ledger.protocol import Outcome
from proxy.ledger.reports import SpendRow
from proxy.pricing import Price, Usage

DAYS = 30
"""Of a month."""

DECLARED_INPUT_PARTS = (3, 4)
"""Of the tokens of a request, those of its input, where no history says: three of four."""

# Attempts that ended so were billed nothing.
_UNBILLED: frozenset[Outcome] = frozenset({"upstream_error", "not_dispatched"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What is expected: of each request its `tokens`, of which `output_tokens` if that is known."""

    requests_per_day: int
    tokens: int
    output_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What a target had of the requests of a virtual model."""

    target: str
    attempts: int
    """Those that were billed."""
    usage: Usage
    """Of all of them together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What became of the requests of a virtual model."""

    requests: int
    taken: tuple[Taken, ...]

    @property
    def input_parts(self) -> tuple[int, int]:
        """How many of how many tokens were input; what is declared where there were none."""
        read = sum(taken.usage.input_tokens for taken in self.taken)
        written = sum(taken.usage.output_tokens for taken in self.taken)
        return (read, read + written) if read + written else DECLARED_INPUT_PARTS


NO_HISTORY = History(requests=0, taken=())


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What a target would take of a month, in nano-USD; None where it cannot be told, and why."""

    target: str
    attempts: int
    """So many of its attempts were billed in `of_requests` requests of the virtual model."""
    of_requests: int
    cost_nanousd: int | None
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A month of requests to one virtual model, or to a target.

    `is_measured` says that the parts are the ledger's; else they are the declared route's first.
    """

    model: str
    is_measured: bool
    history_requests: int
    requests: int
    input_tokens: int
    output_tokens: int
    """Of each request."""
    parts: tuple[Part, ...]

    @property
    def cost_nanousd(self) -> int:
        """What can be told of it."""
        return sum(part.cost_nanousd or 0 for part in self.parts)

    @property
    def is_whole(self) -> bool:
        """Whether all that it would cost is in it."""
        return bool(self.parts) and all(part.cost_nanousd is not None for part in self.parts)


def estimate(
    model: str,
    load: Load,
    history: History,
    prices: Mapping[str, Price | None],
    declared: Sequence[str],
) -> Estimate:
    """The month of one virtual model.

    `prices` has the targets that are configured, None for one without a known price; the first of
    the `declared` route counts where there is no history.
    """
    requests = load.requests_per_day * DAYS
    is_measured = bool(history.taken)
    read, written = _split(load, history)
    if is_measured:
        parts = [
            _part(taken, history.requests, requests, read, written, prices)
            for taken in history.taken
        ]
    else:
        nothing = Usage(input_tokens=0, output_tokens=0)
        parts = [
            _part(Taken(target=name, attempts=1, usage=nothing), 1, requests, read, written, prices)
            for name in declared[:1]
        ]
    return Estimate(
        model=model,
        is_measured=is_measured,
        history_requests=history.requests,
        requests=requests,
        input_tokens=read,
        output_tokens=written,
        parts=tuple(parts),
    )


def mixed_nanousd(estimates: Iterable[Estimate]) -> int | None:
    """The month if requests went to the models in the shares that they did so far.

    None where no request ever went to any of them.
    """
    known = [each for each in estimates if each.history_requests]
    total = sum(each.history_requests for each in known)
    if not total:
        return None
    return -(-sum(each.cost_nanousd * each.history_requests for each in known) // total)


def histories(path: Path, *, since: int = 0) -> dict[str, History]:
    """What became of the requests to each virtual model since a moment, in Unix seconds.

    Raises `LedgerUnavailable`.
    """
    rows = reports.spend(path, since=since, group_by=("virtual_model", "target", "outcome"))
    asked = reports.spend(path, since=since, group_by=("virtual_model",))
    billed: dict[tuple[str, str], list[SpendRow]] = {}
    for row in rows:
        model, target, outcome = row.group
        if outcome not in _UNBILLED and outcome != "open":
            billed.setdefault((model, target), []).append(row)
    return {
        row.group[0]: History(
            requests=row.requests,
            taken=tuple(
                _taken(target, found)
                for (model, target), found in billed.items()
                if model == row.group[0]
            ),
        )
        for row in asked
    }


def _taken(target: str, rows: Sequence[SpendRow]) -> Taken:
    return Taken(
        target=target,
        attempts=sum(row.attempts for row in rows),
        usage=Usage(
            input_tokens=sum(row.input_tokens for row in rows),
            output_tokens=sum(row.output_tokens for row in rows),
            cached_tokens=sum(row.cached_tokens for row in rows),
            cache_write_tokens=sum(row.cache_write_tokens for row in rows),
            cache_write_1h_tokens=sum(row.cache_write_1h_tokens for row in rows),
            reasoning_tokens=sum(row.reasoning_tokens for row in rows),
        ),
    )


def _split(load: Load, history: History) -> tuple[int, int]:
    """The tokens of a request: read and written."""
    if load.output_tokens is not None:
        return load.tokens - load.output_tokens, load.output_tokens
    part, whole = history.input_parts
    read = load.tokens * part // whole
    return read, load.tokens - read


def _part(
    taken: Taken,
    of_requests: int,
    requests: int,
    read: int,
    written: int,
    prices: Mapping[str, Price | None],
) -> Part:
    cost: int | None = None
    price = prices.get(taken.target)
    if taken.target not in prices:
        problem = "it is not configured any more"
    elif price is None:
        problem = "its price is not known"
    else:
        problem = ""
        each = pricing.cost_nanousd(price, _usage(taken.usage, read, written))
        cost = -(-requests * taken.attempts * each // of_requests)
    return Part(
        target=taken.target,
        attempts=taken.attempts,
        of_requests=of_requests,
        cost_nanousd=cost,
        problem=problem,
    )


def _usage(seen: Usage, read: int, written: int) -> Usage:
    """So many tokens, of the kinds that were seen: of the caches as much, and of reasoning."""
    whole, output = max(1, seen.input_tokens), max(1, seen.output_tokens)
    return Usage(
        input_tokens=read,
        output_tokens=written,
        cached_tokens=seen.cached_tokens * read // whole,
        cache_write_tokens=-(-seen.cache_write_tokens * read // whole),
        cache_write_1h_tokens=-(-seen.cache_write_1h_tokens * read // whole),
        reasoning_tokens=seen.reasoning_tokens * written // output,
    )
