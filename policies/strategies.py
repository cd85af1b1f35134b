"""How the targets of a route are asked, where it is not one after the other.

A policy that has a `strategy` says so with these; whoever asks the targets carries it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

_Words = Annotated[str, msgspec.Meta(min_length=1, max_length=20_000)]


class Judge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that is asked about answers, at the caller's expense."""

    target: str
    prompt: _Words = "The answer is correct, complete and does what was asked."
    """What an answer must be; of several, what the best one is the most."""
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 256
    """What it may say, thoughts included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """So many targets at the same time; the first payload, or the first whole answer, wins.

    With a stagger each begins so many seconds after the one before it. One that fails gives its
    place to the next.
    """

    targets: int
    stagger_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Hedge:
    """The first target alone, and a second one where the first is slower than it mostly is.

    The delay is the first target's own p95, `start_s` before that is known, and never below
    `floor_s`. At most `share` of the requests and of their cost goes into second attempts.
    """

    share: float
    start_s: float
    floor_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Cascade:
    """One target after the other, until a whole answer passes what it is checked for.

    An answer that is empty, refused or cut short does not pass. That of the last target is taken
    as it is.
    """

    regex: str = ""
    json: bool = False
    schema: dict[str, Any] | None = None
    confidence: float | None = None
    """The least mean probability of an answer's tokens, by its log probabilities."""
    judge: Judge | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Consensus:
    """So many targets at the same time; the answer that most of them give, or a judge's choice."""

    targets: int
    judge: Judge | None = None


Strategy = Race | Hedge | Cascade | Consensus


def named(judge: Judge | None) -> Sequence[str]:
    """The targets that a judge needs, for a policy's `targets`."""
    return () if judge is None else (judge.target,)
