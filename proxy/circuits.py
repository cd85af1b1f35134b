"""Which targets are left out for their failures, and when they are tried again.

A circuit for each target and each key of its provider: a pure state machine that is told how
attempts end, and asked who may be tried.

    in       every attempt goes; failures in a row, or too large a share of them, put it out
    out      nobody goes there while a choice is left, for longer after each time
    on trial its time is over: one attempt at a time goes; a payload brings it back in, a failure
             puts it out again

Besides, a circuit rests for as long as a provider asks for that (429 with `Retry-After`). Each
worker has its own circuits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from policies.base import Candidate, Rejection
from proxy.clock import Clock
from proxy.config import Circuit as Rules

Verdict = Literal["answered", "failed", "nothing"]
"""What an attempt says of its target; nothing, where it was not its doing how it ended."""
State = Literal["in", "out", "trial", "resting", "silent"]

# Of the time that failures are counted in: what is older goes one part at a time.
_PARTS = 10
# Circuits of targets behind `provider/*` that are kept while they are in.
_MOST_KEPT = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How a circuit stands."""

    state: State
    back_in_s: float = 0.0
    """When it is tried again, as far as is known."""
    times: int = 0
    """How often in a row it was put out."""
    problem: str = ""


IN = Standing(state="in")


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A circuit was put out, or came back in."""

    target: str
    key: int
    is_out: bool
    standing: Standing


class Trial:
    """One attempt, as its circuit sees it."""

    __slots__ = ("_circuit", "_era", "_is_over")

    def __init__(self, circuit: _Circuit) -> None:
        self._circuit = circuit
        self._era = circuit.era
        self._is_over = False

    def answers(self) -> None:
        """The first payload is here: a target on trial has passed."""
        if self._circuit.is_out and self._era == self._circuit.era:
            self._circuit.come_in()

    def end(self, verdict: Verdict, problem: str = "") -> None:
        """The attempt is over. What is said after the first time is not heard."""
        if self._is_over:
            return
        self._is_over = True
        circuit = self._circuit
        was_on_trial = circuit.trial is self
        if was_on_trial:
            circuit.trial = None
        if self._era != circuit.era:  # what was begun before it was put out says nothing of now
            return
        if verdict == "answered":
            circuit.answered()
        elif verdict == "failed" and (was_on_trial or not circuit.is_out):
            circuit.failed(problem)


class Circuits:
    """The circuits of all targets. One per worker."""

    def __init__(
        self,
        rules: Rules,
        clock: Clock,
        on_change: Callable[[Change], object] = lambda change: None,
    ) -> None:
        """`on_change` is told at once, and must not wait."""
        self._rules = rules
        self._keys: Mapping[str, Sequence[int]] = {}
        self._clock = clock
        self._on_change = on_change
        self._kept: dict[tuple[str, int], _Circuit] = {}
        self._silent: dict[str, str] = {}
        self.troubled: dict[tuple[str, int], _Circuit] = {}
        """Those that are not in, and some that were not a moment ago."""

    @property
    def all_in(self) -> bool:
        """Whether there is nothing to leave out."""
        return not self.troubled and not self._silent

    def follow(
        self,
        rules: Rules,
        keys: Mapping[str, Sequence[int]],
        stays: Callable[[str], bool] = lambda target: True,
    ) -> None:
        """Go by other figures; `keys` are the numbers of those of providers that have several.

        What is known of a target that does not stay what it was is forgotten.
        """
        self._rules, self._keys = rules, keys
        for circuit in list(self._kept.values()):
            circuit.follow(rules)
            if not (circuit.is_calm or stays(circuit.name[0])):
                circuit.forget()
                del self._kept[circuit.name]
                self.troubled.pop(circuit.name, None)

    def begin(self, target: str, key: int = 0) -> Trial:
        """An attempt is about to be made; its `end` must follow.

        Of a circuit whose time is over it is the trial, unless that is under way.
        """
        circuit = self._of(target, key)
        trial = Trial(circuit)
        if circuit.is_out and circuit.trial is None and self._clock.monotonic() >= circuit.until:
            circuit.trial = trial
        return trial

    def rest(self, target: str, seconds: float, key: int = 0, problem: str = "") -> None:
        """A provider asks to be left alone for so long; at most the longest time out is."""
        circuit = self._of(target, key)
        rest_s = min(seconds, self._rules.longest_s)
        circuit.rests_until = max(circuit.rests_until, self._clock.monotonic() + rest_s)
        circuit.rest_problem = problem
        self.troubled[target, key] = circuit

    def hear(self, provider: str, problem: str) -> None:
        """Whether a provider answers at all, by whoever asks it regularly; "" for one that does."""
        if problem:
            self._silent[provider] = problem
        else:
            self._silent.pop(provider, None)

    def standing(self, target: str, key: int = 0) -> Standing:
        """How a circuit stands now."""
        problem = self._silent.get(target.partition("/")[0])
        if problem is not None:
            return Standing(state="silent", problem=problem)
        circuit = self.troubled.get((target, key))
        if circuit is None:
            return IN
        now = self._clock.monotonic()
        if not circuit.is_out and circuit.rests_until <= now:
            del self.troubled[target, key]
            return IN
        return circuit.standing(now)

    def of_target(self, target: str) -> Standing:
        """How a target stands: as well as the best of its keys."""
        return min(self._standings(target), key=_badness)

    def is_open(self, target: str, key: int | None = None) -> bool:
        """Whether a target, or one of its keys, is to be left out while there is another.

        A target is where each of its keys is.
        """
        if self.all_in:
            return False
        standings = self._standings(target) if key is None else [self.standing(target, key)]
        return all(map(_is_left_out, standings))

    def narrow(
        self, candidates: Sequence[Candidate]
    ) -> tuple[tuple[Candidate, ...], tuple[Rejection, ...], bool]:
        """The candidates that are not left out, why the others are, and whether none is good.

        Where all are out, the one that would be the first to be tried again is not left out.
        """
        left_out = [c for c in candidates if self.is_open(c.name)]
        is_last = len(left_out) == len(candidates)
        if is_last and candidates:
            left_out.remove(min(left_out, key=lambda c: _badness(self.of_target(c.name))))
        names = {candidate.name for candidate in left_out}
        kept = tuple(c for c in candidates if c.name not in names)
        rejections = tuple(_rejection(c.name, self.of_target(c.name)) for c in left_out)
        return kept, rejections, is_last

    def _standings(self, target: str) -> list[Standing]:
        keys = self._keys.get(target.partition("/")[0], (0,)) if self._keys else (0,)
        return [self.standing(target, key) for key in keys]

    def _of(self, target: str, key: int) -> _Circuit:
        circuit = self._kept.get((target, key))
        if circuit is None:
            if len(self._kept) >= _MOST_KEPT:
                calm = (name for name in self._kept if name not in self.troubled)
                self._kept.pop(next(calm, ("", 0)), None)
            circuit = _Circuit(self._rules, self._clock, self._changed, (target, key))
            self._kept[target, key] = circuit
        return circuit

    def _changed(self, circuit: _Circuit) -> None:
        standing = circuit.standing(self._clock.monotonic())
        if standing.state == "in":
            self.troubled.pop(circuit.name, None)
        else:
            self.troubled[circuit.name] = circuit
        target, key = circuit.name
        self._on_change(Change(target=target, key=key, is_out=circuit.is_out, standing=standing))


class _Circuit:
    """One target by one key. Times are those of the monotonic clock."""

    __slots__ = (
        "_back_at", "_clock", "_counts", "_on_change", "_rules", "era", "failures", "is_out",
        "name", "problem", "rest_problem", "rests_until", "times", "trial", "until",
    )  # fmt: skip

    def __init__(
        self,
        rules: Rules,
        clock: Clock,
        on_change: Callable[[_Circuit], object],
        name: tuple[str, int],
    ) -> None:
        self._rules = rules
        self._clock = clock
        self._on_change = on_change
        self._counts = _Counts(rules.window_s)
        self._back_at = 0.0
        self.name = name
        self.is_out = False
        self.era = 0
        """How often it was put out."""
        self.failures = 0
        """In a row."""
        self.times = 0
        """How often it was put out without having been in for long meanwhile."""
        self.until = self.rests_until = 0.0
        self.problem = self.rest_problem = ""
        self.trial: Trial | None = None

    def follow(self, rules: Rules) -> None:
        """Go by other figures."""
        if rules.window_s != self._rules.window_s:
            self._counts = _Counts(rules.window_s)
        self._rules = rules

    @property
    def is_calm(self) -> bool:
        """Whether there is hardly anything to forget."""
        return not (self.failures or self.times or self.rests_until)

    def forget(self) -> None:
        """Be as it was at first: what was begun before says nothing of it."""
        self.era += 1
        self.rests_until = 0.0
        if self.is_out:
            self.come_in()

    def answered(self) -> None:
        """An attempt went well."""
        if self.is_out:
            self.come_in()
        self.failures = 0
        self._counts.add(self._clock.monotonic(), failed=False)

    def failed(self, problem: str) -> None:
        """An attempt went wrong, and it is the target's fault."""
        now, rules = self._clock.monotonic(), self._rules
        self.failures += 1
        self._counts.add(now, failed=True)
        if self.is_out:
            self._go_out(now, problem)
            return
        answered, failed = self._counts.sums(now)
        seen = answered + failed
        is_many = seen >= rules.least_requests and failed * 100 > seen * rules.percent
        if self.failures >= rules.failures or is_many:
            self._go_out(now, f"{failed} of {seen} requests failed, the last: {problem}")

    def come_in(self) -> None:
        """Take part again."""
        self.is_out = False
        self._back_at = self._clock.monotonic()
        self.failures = 0
        self._counts.clear()
        self._on_change(self)

    def _go_out(self, now: float, problem: str) -> None:
        rules = self._rules
        if not self.is_out:  # a longer time in makes up for times out
            self.times = max(0, self.times - int((now - self._back_at) / rules.out_s))
        self.times += 1
        self.era += 1
        self.is_out, self.trial = True, None
        self.until = now + min(self.times * rules.out_s, rules.longest_s)
        self.problem = problem
        self._on_change(self)

    def standing(self, now: float) -> Standing:
        """How it stands."""
        if self.rests_until > now and (not self.is_out or self.rests_until > self.until):
            state: State = "resting"
        elif self.is_out:
            state = "out" if now < self.until or self.trial is not None else "trial"
        else:
            return IN
        return Standing(
            state=state,
            back_in_s=max(0.0, max(self.rests_until, self.until if self.is_out else 0.0) - now),
            times=self.times,
            problem=self.rest_problem if state == "resting" else self.problem,
        )


class _Counts:
    """Answers and failures of the last seconds."""

    __slots__ = ("_answered", "_failed", "_part", "_part_s")

    def __init__(self, window_s: float) -> None:
        self._part_s = window_s / _PARTS
        self._part = 0
        self._answered = [0] * _PARTS
        self._failed = [0] * _PARTS

    def add(self, now: float, *, failed: bool) -> None:
        """Count one."""
        part = int(now / self._part_s)
        if part != self._part:
            self._move(part)
        counts = self._failed if failed else self._answered
        counts[part % _PARTS] += 1

    def sums(self, now: float) -> tuple[int, int]:
        """How many answers there were, and how many failures."""
        self._move(int(now / self._part_s))
        return sum(self._answered), sum(self._failed)

    def clear(self) -> None:
        """Forget all of them."""
        self._answered = [0] * _PARTS
        self._failed = [0] * _PARTS

    def _move(self, part: int) -> None:
        for gone in range(max(self._part + 1, part - _PARTS + 1), part + 1):
            self._answered[gone % _PARTS] = self._failed[gone % _PARTS] = 0
        self._part = part


def _badness(standing: Standing) -> tuple[bool, float, int]:
    """What is tried first of targets and keys that should be left alone is the least."""
    soon_s = math.inf if standing.state == "silent" else standing.back_in_s
    return _is_left_out(standing), soon_s, standing.times


def _is_left_out(standing: Standing) -> bool:
    return standing.state not in ("in", "trial")


def _rejection(target: str, standing: Standing) -> Rejection:
    seconds = f"{standing.back_in_s:.0f} s"
    match standing.state:
        case "silent":
            code, reason = "silent", f"its provider does not answer: {standing.problem}"
        case "resting":
            code, reason = "resting", f"left alone for {seconds} more: {standing.problem}"
        case _ if standing.back_in_s > 0:
            code, reason = "circuit", f"left out for {seconds} more: {standing.problem}"
        case _:
            code, reason = "circuit", f"another request is trying it again: {standing.problem}"
    return Rejection(target=target, code=code, reason=reason)
