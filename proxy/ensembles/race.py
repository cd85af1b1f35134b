"""Races and hedges: the first payload wins, or the first answer of those that come in one piece."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from policies.base import Choice
from proxy.attempts import Job
from proxy.ensembles.asking import Respond, TryEach
from proxy.ensembles.branches import Branch, Branches
from proxy.ensembles.failures import ends_all


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """When which target is asked.

    `at_once` run at the same time from the beginning: where one fails the next takes its place.
    Up to `later` more begin `after_s` one after the other, while nobody has answered.
    """

    at_once: int
    later: int = 0
    after_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Hedged:
    """One target, and a second attempt `after_s` later: at the next target, or at the same one.

    `may_begin` is asked for leave to make it.
    """

    after_s: float
    may_begin: Callable[[Branch, Choice], bool]


async def race(
    job: Job, choices: Sequence[Choice], pace: Pace, try_each: TryEach, respond: Respond
) -> None:
    """Answer the client by whoever is first. Raises `ApiError` where nobody is.

    When it returns or raises, every attempt is settled.
    """
    waiting = deque(choices)
    later = pace.later
    async with Branches(job, try_each, respond) as branches:
        while _fill(branches, waiting, pace.at_once):
            ended = await branches.ended(pace.after_s if later and waiting else None)
            if branches.winner is not None or _is_over(job, ended):
                waiting.clear()
            elif not ended:
                later -= 1
                branches.begin(waiting.popleft())
    branches.raise_failure()


async def hedge(
    job: Job, choices: Sequence[Choice], hedged: Hedged, try_each: TryEach, respond: Respond
) -> None:
    """Answer the client by the first target, or by a second attempt. Raises like `race`."""
    waiting = deque(choices)
    after_s: float | None = hedged.after_s
    async with Branches(job, try_each, respond) as branches:
        while _fill(branches, waiting, 1):
            ended = await branches.ended(after_s)
            if branches.winner is not None or _is_over(job, ended):
                waiting.clear()
                after_s = None
            elif not ended:
                after_s = None
                first = branches.running[0]
                choice = waiting[0] if waiting else first.choice
                second = msgspec.structs.replace(choice, reason="hedge")
                if hedged.may_begin(first, second):
                    branches.begin(second)
                    waiting = deque(each for each in waiting if each.target != second.target)
    branches.raise_failure()


def _fill(branches: Branches, waiting: deque[Choice], places: int) -> bool:
    """Begin at what waits while there are places; False where nothing runs, and all is over."""
    while waiting and len(branches.running) < places:
        branches.begin(waiting.popleft())
    return bool(branches.running)


def _is_over(job: Job, ended: Sequence[Branch]) -> bool:
    """Whether no other target can help."""
    return any(ends_all(branch.error, job.caller) for branch in ended)
