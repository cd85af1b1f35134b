"""Five times as many requests as the server can answer: how many does it answer still?

`goodput` is what it answers a second beside what it answers when nobody is turned away.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.crowd import Order, Report
from benchmarks.measure import Bench
from benchmarks.peer import Peer, peer
from benchmarks.results import percentile
from benchmarks.subjects import Tollway, tollway
from benchmarks.workloads import Workload, overload_workloads

TIMES_TOO_MANY = 5
TURNS, TURN_S = 3, 4.0
QUICK_S = 1.0
# Settlements ride the next commit or a timer of 20 ms; they belong to the requests before them.
_SETTLED_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """How many a server answers at the same time, and lets wait."""

    most: int
    queue: int

    def settings(self) -> Mapping[str, int]:
        """As the configuration has it, under `server`."""
        return {"max_concurrent": self.most, "queue": self.queue}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Who asks what of whom.

    Callers of `model` arrive `TIMES_TOO_MANY` times as often as they are answered; with
    `comes_back` there are `TIMES_TOO_MANY` times as many as are answered at the same time, who ask
    again when they have their answer, or are turned away.
    """

    model: str
    room: Room
    comes_back: str = ""
    """`at once` or `when told`, where the same callers ask again."""
    keeps_connections: bool = True

    @property
    def title(self) -> str:
        """For people."""
        who = f"come back {self.comes_back}" if self.comes_back else "arrive"
        return f"{self.model}, {who}, {'kept' if self.keeps_connections else 'new'} connections"


# Of a provider that takes 50 ms: it, and not the machine, decides how many are answered. A queue of
# half a second, so that most are turned away as soon as they come.
_SLOTS = Room(most=10, queue=100)
# Of an instant provider: the machine decides. With the default queue nobody would be turned away.
_SHORT_QUEUE = Room(most=32, queue=32)

CASES = (
    Case(model="slow", room=_SLOTS),
    Case(model="slow", room=_SLOTS, keeps_connections=False),
    Case(model="slow-100k", room=_SLOTS),
    Case(model="slow-100k", room=_SLOTS, keeps_connections=False),
    Case(model="instant", room=_SHORT_QUEUE, comes_back="when told"),
    Case(model="instant", room=_SHORT_QUEUE, comes_back="at once"),
    Case(model="instant", room=_SHORT_QUEUE, comes_back="at once", keeps_connections=False),
)

_BY_TURN = (
    *("peak_per_s", "answered_per_s", "refused_per_s"),
    *("goodput", "answer_cpu_ms", "refusal_cpu_us"),
)


@dataclass(kw_only=True)
class Overload:
    """What came of a case; a value per turn, latencies of all turns."""

    case: Case
    peak_per_s: list[float] = field(default_factory=list)
    answered_per_s: list[float] = field(default_factory=list)
    refused_per_s: list[float] = field(default_factory=list)
    goodput: list[float] = field(default_factory=list)
    answer_cpu_ms: list[float] = field(default_factory=list)
    """Of an answer at the peak, by all processes of the server."""
    refusal_cpu_us: list[float] = field(default_factory=list)
    """What the server took beyond its answers, by the refusals."""
    answered_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)

    def add(
        self, peak: Report, peak_cpu_ns: int, over: Report, over_cpu_ns: int, seconds: float
    ) -> None:
        """One more turn, of so many seconds at the peak and again with too many."""
        answer_cpu_ns = peak_cpu_ns / max(1, len(peak.answered_ms))
        refused = len(over.refused_ms)
        beyond_ns = over_cpu_ns - answer_cpu_ns * len(over.answered_ms)
        self.peak_per_s.append(peak.answered / seconds)
        self.answered_per_s.append(over.answered / seconds)
        self.refused_per_s.append(refused / seconds)
        self.goodput.append(over.answered / max(1, peak.answered))
        self.answer_cpu_ms.append(answer_cpu_ns / 1e6)
        self.refusal_cpu_us.append(beyond_ns / max(1, refused) / 1e3)
        self.answered_ms += over.answered_ms
        self.refused_ms += over.refused_ms
        for report in (peak, over):
            for what, count in report.others.items():
                self.others[what] = self.others.get(what, 0) + count

    def as_json(self) -> dict[str, Any]:
        """The medians and percentiles; `others` is what was neither an answer nor a refusal."""
        case = self.case
        return {
            "model": case.model,
            "comes_back": case.comes_back,
            "keeps_connections": case.keeps_connections,
            **case.room.settings(),
            **{name: round(statistics.median(getattr(self, name)), 4) for name in _BY_TURN},
            "answered_ms": _percentiles(self.answered_ms),
            "refused_ms": _percentiles(self.refused_ms),
            "others": self.others,
        }


def overload(bench: Bench, *, quick: bool, cases: Sequence[Case] = CASES) -> list[Overload]:
    """Measure each case with a server of its own. Raises `RuntimeError`."""
    found = []
    with peer("benchmarks.crowd") as process:
        crowd = _Crowd(process)
        for number, case in enumerate(cases):
            bench.progress(f"overload: {case.title}")
            folder = bench.folder / f"overload-{number}"
            found.append(_measure(folder, bench.upstream_port, crowd, case, quick=quick))
    return found


def _measure(
    folder: Path, upstream_port: int, crowd: _Crowd, case: Case, *, quick: bool
) -> Overload:
    turns, seconds = (1, QUICK_S) if quick else (TURNS, TURN_S)
    found = Overload(case=case)
    workload = overload_workloads()[case.model]
    settings = case.room.settings()
    with tollway(
        folder,
        upstream_port,
        access_log=False,
        workloads={case.model: workload},
        server=settings,
    ) as subject:
        answered = 1  # the one that found it ready
        for _ in range(turns):
            peak, peak_cpu_ns = crowd.run(_peak(case, subject, workload, seconds), subject)
            per_s = peak.answered / seconds
            order = _too_many(case, subject, workload, seconds, per_s)
            over, over_cpu_ns = crowd.run(order, subject)
            found.add(peak, peak_cpu_ns, over, over_cpu_ns, seconds)
            answered += len(peak.answered_ms) + len(over.answered_ms)
        recorded = subject.recorded()["attempts"]
    if recorded != answered:
        raise RuntimeError(
            f"{answered} requests were answered, and the ledger has {recorded:g}: {case.title}"
        )
    return found


def _peak(case: Case, subject: Tollway, workload: Workload, seconds: float) -> Order:
    """Nobody is turned away: as many as are answered at the same time, or who wait besides."""
    return Order(
        port=subject.port,
        request=_request(subject, workload),
        seconds=seconds,
        callers=case.room.most * (1 if case.comes_back else 2),
        keeps_connections=case.keeps_connections,
    )


def _too_many(
    case: Case, subject: Tollway, workload: Workload, seconds: float, peak_per_s: float
) -> Order:
    return Order(
        port=subject.port,
        request=_request(subject, workload),
        seconds=seconds,
        per_s=0.0 if case.comes_back else TIMES_TOO_MANY * peak_per_s,
        callers=TIMES_TOO_MANY * case.room.most if case.comes_back else 0,
        keeps_connections=case.keeps_connections,
        heeds_retry_after=case.comes_back == "when told",
    )


def _request(subject: Tollway, workload: Workload) -> bytes:
    return workload.request(f"127.0.0.1:{subject.port}", subject.key)


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"p{share}": round(percentile(values, share), 3) for share in (50, 99)}


class _Crowd:
    """The process of the callers, seen from here."""

    def __init__(self, process: Peer) -> None:
        self._process = process

    def run(self, order: Order, subject: Tollway) -> tuple[Report, int]:
        """Carry out an order; returns the server's CPU time in ns, too. Raises `RuntimeError`."""
        before = sum(subject.cpu_ns().values())
        self._process.say(msgspec.json.encode(order))
        line = self._process.heard()
        time.sleep(_SETTLED_S)
        return msgspec.json.decode(line, type=Report), sum(subject.cpu_ns().values()) - before
