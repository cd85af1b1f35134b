"""The day itself: requests are decided on, tried and settled in the order of a made-up clock."""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.fleet import assumptions
from benchmarks.fleet.assumptions import BASELINE, MODELS, STRONG, VIRTUAL_MODELS
from benchmarks.fleet.traffic import Asked, traffic
from benchmarks.results import percentile
from policies.base import Route
from proxy import config_file, pricing, serve
from proxy.auth import ANONYMOUS
from proxy.circuits import Circuits
from proxy.config import Circuit
from proxy.figures import Figures
from proxy.price_book import PriceBook
from proxy.pricing import Usage
from proxy.routing import Router
from proxy.targets import Target, TargetTable

_SEED = 20261121
_NOTHING = Usage(input_tokens=0, output_tokens=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What became of a day's requests by one virtual model; `saved` is of the baseline's."""

    model: str
    requests: int
    answered: float
    """The share of the requests."""
    attempts: float
    """For each request."""
    strong: float
    """The share of the answers that a strong model gave."""
    cost_usd_per_1000: float
    cost_saved: float
    first_token_ms: float
    """On average, as the next, failed attempts included."""
    first_token_p95_ms: float
    first_token_saved: float
    whole_ms: float
    whole_saved: float
    worth: float
    """Of the answers together, of what the baseline's would be if it never failed."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class _Clock:
    """Time as the day has it, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class _Providers:
    """Who is out when, the same for every policy; and what becomes of an attempt."""

    def __init__(self, names: list[str], until_s: float, seed: int) -> None:
        missing = (1 - assumptions.AVAILABILITY) / 2
        # Both may happen to an attempt, and together they leave the availability.
        self._single = 1 - assumptions.AVAILABILITY / (1 - missing)
        up_s = assumptions.OUTAGE_S * (1 - missing) / missing
        self._turns = {
            name: _turns(random.Random(f"{seed} {name}"), up_s, until_s)  # repeatable
            for name in names
        }
        self._lot = random.Random(seed)  # the same each time

    def failure_s(self, provider: str, at_s: float) -> float | None:
        """After how long an attempt at that time fails; None if it does not."""
        is_out = bisect_right(self._turns[provider], at_s) % 2 == 1
        if not is_out and self._lot.random() >= self._single:
            return None
        is_silent = self._lot.random() < assumptions.SILENT_SHARE
        return assumptions.SILENCE_S if is_silent else assumptions.ERROR_S

    def first_token_s(self, target: str) -> float:
        """How long the first token takes this time."""
        median = MODELS[target].first_token_ms / 1e3
        return self._lot.lognormvariate(math.log(median), assumptions.SCATTER)


def _turns(lot: random.Random, up_s: float, until_s: float) -> list[float]:
    """When a provider goes down, up again, down ..."""
    at_s = 0.0
    turns: list[float] = []
    while at_s < until_s:
        at_s += lot.expovariate(1 / (up_s if len(turns) % 2 == 0 else assumptions.OUTAGE_S))
        turns.append(at_s)
    return turns


@dataclass(slots=True)
class _Tally:
    answered: int = 0
    attempts: int = 0
    strong: int = 0
    cost_nanousd: int = 0
    worth: float = 0.0
    possible: float = 0.0


class _Day:
    """One virtual model's day."""

    def __init__(self, table: TargetTable, name: str, asked: list[Asked]) -> None:
        self._clock = _Clock()
        self._figures = Figures(self._clock)
        self._router = Router(
            table=lambda: table,
            figures=self._figures,
            circuits=Circuits(Circuit(), self._clock),
            secret=b"fleet",
            clock=self._clock,
        )
        self._table = table
        self._name = name
        self._asked = asked
        providers = list(dict.fromkeys(target.provider for target in table.targets.values()))
        self._providers = _Providers(providers, 2 * asked[-1].at_s + 3600, _SEED)
        self.tally = _Tally()
        self.first_token_s: list[float] = []
        self.whole_s: list[float] = []

    def run(self) -> None:
        """All requests, their attempts interleaved as time has them."""
        waiting: list[tuple[float, int, Iterator[float]]] = [
            (asked.at_s, number, self._request(asked)) for number, asked in enumerate(self._asked)
        ]
        heapq.heapify(waiting)
        while waiting:
            at_s, number, request = heapq.heappop(waiting)
            self._clock.now = at_s
            for took_s in request:
                heapq.heappush(waiting, (at_s + took_s, number, request))
                break

    def _request(self, asked: Asked) -> Iterator[float]:
        """One request: yields how long it has to wait for what it does next."""
        tally, began_s = self.tally, self._clock.now
        tally.possible += MODELS[STRONG[0]].worth[asked.level]
        decision = self._router.decide(self._router.find(ANONYMOUS, self._name), asked.request)
        assert isinstance(decision.outcome, Route)
        self._router.take_turn()
        for choice in decision.outcome.choices:
            target = self._table.targets[choice.target]
            tally.attempts += 1
            self._figures.began(target)
            failed_s = self._providers.failure_s(target.provider, self._clock.now)
            if failed_s is not None:
                yield failed_s
                self._failed(target, failed_s)
                continue
            first_s = self._providers.first_token_s(target.name)
            whole_s = first_s + asked.output_tokens / MODELS[target.name].tokens_per_second
            waited_s = self._clock.now - began_s
            yield whole_s
            self._answered(target, asked, first_s, whole_s)
            self.first_token_s.append(waited_s + first_s)
            self.whole_s.append(waited_s + whole_s)
            return

    def _failed(self, target: Target, took_s: float) -> None:
        self._figures.ended(
            target,
            outcome="upstream_error",
            status=503,
            usage=_NOTHING,
            first_token_s=None,
            total_s=took_s,
        )

    def _answered(self, target: Target, asked: Asked, first_s: float, whole_s: float) -> None:
        usage = Usage(input_tokens=asked.input_tokens, output_tokens=asked.output_tokens)
        self._figures.ended(
            target, outcome="ok", status=200, usage=usage, first_token_s=first_s, total_s=whole_s
        )
        assert target.price is not None
        self.tally.answered += 1
        self.tally.strong += target.name in STRONG
        self.tally.cost_nanousd += pricing.cost_nanousd(target.price, usage)
        self.tally.worth += MODELS[target.name].worth[asked.level]


def fleet(folder: Path, *, requests: int) -> list[Row]:
    """A day by each virtual model, all with the same requests and outages; the baseline first."""
    table = _table(folder)
    asked = list(traffic(requests, per_second=assumptions.REQUESTS_PER_S, seed=_SEED))
    days: dict[str, _Day] = {}
    for name in VIRTUAL_MODELS:
        days[name] = _Day(table, name, asked)
        days[name].run()
    return [_row(name, day, days[BASELINE]) for name, day in days.items()]


def _table(folder: Path) -> TargetTable:
    file = folder / "fleet.yaml"
    file.write_text(yaml.safe_dump(_plain(assumptions.configuration())))
    loaded = config_file.load(file, {})
    return serve.resolve(loaded, {}, PriceBook.load(), looks=False).tables()


def _plain(value: Any) -> Any:
    """As YAML has it: the same list may stand in several places."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _row(name: str, day: _Day, baseline: _Day) -> Row:
    tally = day.tally
    cost = tally.cost_nanousd / tally.answered
    first, whole = _mean(day.first_token_s), _mean(day.whole_s)
    strong = baseline.tally
    return Row(
        model=name,
        requests=len(day._asked),
        answered=tally.answered / len(day._asked),
        attempts=tally.attempts / len(day._asked),
        strong=tally.strong / tally.answered,
        cost_usd_per_1000=cost / 1e6,
        cost_saved=1 - cost / (strong.cost_nanousd / strong.answered),
        first_token_ms=first * 1e3,
        first_token_p95_ms=percentile(day.first_token_s, 95) * 1e3,
        first_token_saved=1 - first / _mean(baseline.first_token_s),
        whole_ms=whole * 1e3,
        whole_saved=1 - whole / _mean(baseline.whole_s),
        worth=tally.worth / tally.possible,
    )


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
