"""What this worker has measured of each target, and the candidates that policies see by it.

Figures replace what is declared of a target as they come in, and fade with time, so that one which
was left alone for its failures is tried again. Each worker has its own; what callers say of answers
(`proxy.quality`) is the ledger's, the same for all workers, and does not fade.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

from policies.base import Candidate
from proxy.clock import Clock
from proxy.ledger.protocol import MILLION, Outcome, Quality
from proxy.local_room import LocalRoom
from proxy.pricing import Usage
from proxy.quality import Judged, estimated
from proxy.spreads import Attempted, Recent
from proxy.targets import Target

HALF_LIFE_S = 120.0
"""After so long without a further attempt, what was measured counts half."""

PRIOR_ATTEMPTS = 5.0
"""What is declared counts as this many attempts at first, and half of that after as many."""

ASSUMED_RELIABILITY = 0.95
"""Where none is declared: a first failure is not yet a target that always fails."""

# Of each further attempt, what was measured before keeps this much of its weight.
_KEPT = 0.95
# Below this weight there is no figure.
_LEAST_WEIGHT = 0.05
# Attempts that end within so long are of one age: it is less than a thousandth of the half-life.
_FADE_S = 0.1
# A candidate is made anew after this long, though nothing was measured: its figures fade.
_FRESH_S = 1.0

# What a provider answers to a request that is itself at fault.
_FAULTS_OF_THE_REQUEST = frozenset({400, 409, 413, 415, 422})
# Targets behind `provider/*` that something is kept of; what is configured is hardly as much.
_MOST_KEPT = 1_000
# A percentile is that of so many attempts at most, and of so many at least.
_LATEST = 200
_FEWEST = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What attempts at a target have shown of it. Times are Unix seconds; None is not known."""

    tokens_per_second: float | None = None
    """Of streams, from the first payload on."""
    first_token_s: float | None = None
    answered_at: float | None = None
    failed_at: float | None = None
    failures: int = 0
    """In a row, as of the last attempt."""
    problem: str = ""
    """What the last failure was, while nothing was answered since."""


UNKNOWN = Measured()


class Figures:
    """The figures of all targets. One per worker."""

    def __init__(self, clock: Clock, room: LocalRoom | None = None) -> None:
        """`room` is what local models take, where that matters."""
        self._clock = clock
        self._room = room
        self._kept: dict[str, _Kept] = {}
        self._opinions: dict[str, _Opinion] = {}

    def candidate(self, target: Target) -> Candidate:
        """The target as policies see it now."""
        opinion = self._opinions.get(target.name)
        declared = target.candidate if opinion is None else opinion.candidate(target.candidate)
        kept = self._kept.get(target.name)
        if self._room is not None:
            declared = self._room.candidate(declared)
        if kept is None:
            return declared
        return kept.candidate(declared, self._clock.monotonic())

    def judge(self, quality: Quality) -> None:
        """Take over what callers say of a target's answers at a task, in all."""
        opinion = self._opinions.setdefault(quality.target, _Opinion())
        opinion.take(quality.task, Judged(quality.answers, quality.worth_ppm / MILLION))

    def of(self, target: Target) -> Measured:
        """What operators are shown of the target: what was measured last, however long ago."""
        kept = self._kept.get(target.name)
        return UNKNOWN if kept is None else kept.measured

    def recent(self, name: str) -> Recent:
        """How the latest attempts at a target went, and how they usually go."""
        kept = self._kept.get(name)
        return Recent() if kept is None else kept.attempted.recent(self._clock.monotonic())

    def measured_targets(self) -> tuple[str, ...]:
        """The names of those of which there are figures."""
        return tuple(self._kept)

    def p95_s(self, target: Target, *, stream: bool) -> float | None:
        """How long 95 of 100 take: streams to their first payload, others to their whole answer.

        None while there are too few to tell. An attempt that was given up for another one counts
        with the time until then, if that was longer than most take.
        """
        kept = self._kept.get(target.name)
        return None if kept is None else kept.waits[stream].p95_s

    def began(self, target: Target) -> None:
        """An attempt is on its way; `ended` must follow."""
        kept = self._kept.get(target.name) or self._first(target)
        kept.in_flight += 1

    def ended(
        self,
        target: Target,
        *,
        outcome: Outcome,
        status: int,
        usage: Usage,
        first_token_s: float | None,
        total_s: float,
        problem: str = "",
        is_at_fault: bool = True,
        stream: bool = False,
    ) -> float | None:
        """An attempt is over; `is_at_fault`: if it failed, then the target, as far as is known.

        `stream`: the answer came, or was to come, as it was generated. Says after how many
        milliseconds it began, if there was one.
        """
        kept = self._kept.get(target.name) or self._first(target)
        kept.in_flight -= 1
        now = self._clock.monotonic()
        kept.measure(now)
        if outcome in ("ok", "capped"):
            latency_ms = kept.answered(
                usage.output_tokens, first_token_s, total_s, now=self._clock.time()
            )
            kept.attempted.add(latency_ms, now)
            kept.waits[stream].add(total_s if first_token_s is None else first_token_s)
            return latency_ms
        if outcome == "cancelled":
            kept.waits[stream].add_at_least(total_s)
        elif is_at_fault and outcome != "client_gone" and status not in _FAULTS_OF_THE_REQUEST:
            kept.failed(problem, now=self._clock.time())
            kept.attempted.add(None, now)
        return None

    def _first(self, target: Target) -> _Kept:
        if len(self._kept) >= _MOST_KEPT:
            # One that has requests open stays: else the end of them would be counted alone.
            idle = (name for name, each in self._kept.items() if not each.in_flight)
            self._kept.pop(next(idle, ""), None)
        kept = self._kept[target.name] = _Kept(self._clock.monotonic())
        return kept


class _Opinion:
    """What callers say of one target."""

    def __init__(self) -> None:
        self._judged: dict[str, Judged] = {}
        # As it was last shown, of the table of that moment.
        self._declared: Candidate | None = None
        self._shown: Candidate | None = None

    def take(self, task: str, judged: Judged) -> None:
        """Put this in the place of what was known of a task."""
        self._judged[task] = judged
        self._shown = None

    def candidate(self, declared: Candidate) -> Candidate:
        """The candidate with what callers say and what is declared together."""
        if self._shown is None or self._declared is not declared:
            self._declared = declared
            self._shown = replace(declared, quality=estimated(declared.quality, self._judged))
        return self._shown


class _Average:
    """A mean in which what is newer counts more."""

    __slots__ = ("_seen", "_sum", "_weight")

    def __init__(self) -> None:
        self._sum = self._weight = self._seen = 0.0

    def fade(self, share: float) -> None:
        """Keep this share of what was measured."""
        self._sum *= share
        self._weight *= share
        self._seen *= share

    def add(self, amount: float) -> None:
        """Count one more."""
        self._sum = self._sum * _KEPT + amount
        self._weight = self._weight * _KEPT + 1.0
        self._seen += 1.0

    def estimate(self, prior: float | None) -> float | None:
        """The mean, into which what is declared counts the less the more was measured."""
        if prior is None:
            return self._sum / self._weight if self._weight > _LEAST_WEIGHT else None
        declared: float = PRIOR_ATTEMPTS * 0.5 ** (self._seen / PRIOR_ATTEMPTS)
        return (declared * prior + self._sum) / (declared + self._weight)

    @property
    def mean(self) -> float | None:
        """The mean of what was measured, even where it hardly counts any more."""
        return self._sum / self._weight if self._weight > 0.0 and self._sum > 0.0 else None

    @property
    def is_known(self) -> bool:
        """Whether anything was measured that still counts."""
        return self._weight > _LEAST_WEIGHT


class _Waits:
    """The latest times that a target took to answer, in seconds."""

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=_LATEST)

    def add(self, wait_s: float) -> None:
        """Count one more."""
        self._latest.append(wait_s)

    def add_at_least(self, wait_s: float) -> None:
        """Count one that was given up: it says something only where it is in the slow tail."""
        known = self.p95_s
        if known is not None and wait_s >= known:
            self._latest.append(wait_s)

    @property
    def p95_s(self) -> float | None:
        """What 95 of 100 take at most; None while there are too few to tell."""
        count = len(self._latest)
        return sorted(self._latest)[math.ceil(0.95 * count) - 1] if count >= _FEWEST else None


class _Kept:
    """What was measured of one target."""

    def __init__(self, now: float) -> None:
        self._faded_at = now
        self.attempted = Attempted()
        self._latency_ms = _Average()
        self._tokens_per_second = _Average()
        self._success = _Average()
        self._answered_at: float | None = None
        self._failed_at: float | None = None
        self._failures = 0
        self._problem = ""
        # As it was last shown, of the table of that moment.
        self._declared: Candidate | None = None
        self._shown: Candidate | None = None
        self.in_flight = 0
        """Attempts that are on their way."""
        self.waits = {True: _Waits(), False: _Waits()}
        """Of streams, and of answers that come in one piece."""

    def measure(self, now: float) -> None:
        """Something is about to be added."""
        self._shown = None
        if now - self._faded_at > _FADE_S:
            self._fade(now)

    def _fade(self, now: float) -> None:
        """Let what was measured count less for its age."""
        share = 0.5 ** ((now - self._faded_at) / HALF_LIFE_S)
        for average in (self._latency_ms, self._tokens_per_second, self._success):
            average.fade(share)
        self._faded_at = now

    @property
    def measured(self) -> Measured:
        """See `Figures.of`."""
        latency_ms = self._latency_ms.mean
        return Measured(
            tokens_per_second=self._tokens_per_second.mean,
            first_token_s=None if latency_ms is None else latency_ms / 1e3,
            answered_at=self._answered_at,
            failed_at=self._failed_at,
            failures=self._failures,
            problem=self._problem,
        )

    def answered(
        self, output_tokens: int, first_token_s: float | None, total_s: float, *, now: float
    ) -> float:
        """Count an answer, and say after how many milliseconds it began.

        One that came whole began as long ago as it takes to say it.
        """
        self._answered_at, self._failures, self._problem = now, 0, ""
        self._success.add(1.0)
        if first_token_s is None:
            speed = self._tokens_per_second.estimate(None)
            first_token_s = max(0.0, total_s - output_tokens / speed) if speed else total_s
        elif output_tokens > 1 and total_s > first_token_s:
            self._tokens_per_second.add((output_tokens - 1) / (total_s - first_token_s))
        self._latency_ms.add(first_token_s * 1e3)
        return first_token_s * 1e3

    def failed(self, problem: str, *, now: float) -> None:
        """Count a failure."""
        self._failed_at, self._problem = now, problem[:200]
        self._failures += 1
        self._success.add(0.0)

    def candidate(self, declared: Candidate, now: float) -> Candidate:
        """The candidate with what was measured in the place of what is declared."""
        is_stale = now - self._faded_at > _FRESH_S
        if is_stale:
            self._fade(now)
        shown = self._shown
        if (
            is_stale
            or shown is None
            or shown.in_flight != self.in_flight
            or self._declared is not declared
        ):
            self._declared = declared
            reliability = declared.reliability
            if self._success.is_known:
                assumed = ASSUMED_RELIABILITY if reliability is None else reliability
                reliability = self._success.estimate(assumed)
            shown = self._shown = replace(
                declared,
                latency_ms=self._latency_ms.estimate(declared.latency_ms),
                tokens_per_second=self._tokens_per_second.estimate(declared.tokens_per_second),
                reliability=reliability,
                in_flight=self.in_flight,
            )
        return shown
