"""`balanced`: the load spread over equals, and a conversation kept where its prompt is cached."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Annotated, Literal

import msgspec

from policies.base import Candidate, Choice, Question, Sense

Method = Literal["round_robin", "weighted", "least_busy", "latency", "cost", "region"]

# A target that nothing is known of is as slow as the slowest here, until it has answered.
_UNKNOWN_MS = 2_000.0


class BalancedOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `router.yaml` may say of a balanced choice."""

    by: Method = "latency"
    shares: dict[str, Annotated[float, msgspec.Meta(gt=0, le=1_000_000)]] = {}
    """For `weighted`: how much each target gets; 1 for one that is not named."""
    regions: list[str] = []
    """For `region`: in order of preference."""
    sticky: bool = False
    """Whether all requests of a conversation go to one target while that works."""

    def __post_init__(self) -> None:
        """Raise ValueError for what belongs to another method."""
        if self.shares and self.by != "weighted":
            raise ValueError("'shares' are for 'by: weighted'")
        if bool(self.regions) != (self.by == "region"):
            raise ValueError("'regions' are what 'by: region' needs, and no other has")


class Balanced:
    """Takes turns and draws lots by what the question brings, so that it is repeatable."""

    name = "balanced"
    Options = BalancedOptions

    def __init__(self, options: BalancedOptions) -> None:
        self._options = options
        self.reads: frozenset[Sense] = frozenset(
            {"conversation", "live"} if options.sticky else {"live"}
        )

    @property
    def targets(self) -> tuple[str, ...]:
        """Those that its options name."""
        return tuple(self._options.shares)

    def decide(self, question: Question, candidates: Sequence[Candidate]) -> tuple[Choice, ...]:
        """The candidates, the one whose turn it is first."""
        options = self._options
        if options.sticky and question.conversation is not None:
            # The shares are kept on average: each conversation draws its own lot, for good.
            ordered = _by_lot(question.conversation, candidates, options.shares)
            why = "by conversation"
        else:
            ordered = _METHODS[options.by](options, question, candidates)
            why = f"by {options.by.replace('_', ' ')}"
        return tuple(Choice(target=candidate.name, reason=why) for candidate in ordered)


_Ordered = Sequence[Candidate]


def _round_robin(options: BalancedOptions, question: Question, candidates: _Ordered) -> _Ordered:
    first = question.turn % len(candidates)
    return [*candidates[first:], *candidates[:first]]


def _weighted(options: BalancedOptions, question: Question, candidates: _Ordered) -> _Ordered:
    return _by_lot(question.turn, candidates, options.shares)


def _least_busy(options: BalancedOptions, question: Question, candidates: _Ordered) -> _Ordered:
    """Equals take turns: else an idle server's requests would all go to the first."""
    turned = _round_robin(options, question, candidates)
    return sorted(turned, key=lambda candidate: candidate.in_flight)


def _latency(options: BalancedOptions, question: Question, candidates: _Ordered) -> _Ordered:
    """The better of two by lot: who is best at a moment is not run down by all at once."""
    drawn = _by_lot(question.turn, candidates, {})
    return [*sorted(drawn[:2], key=_expected_ms), *sorted(drawn[2:], key=_expected_ms)]


def _expected_ms(candidate: Candidate) -> float:
    """What a request may wait here behind those that are there already."""
    latency_ms = _UNKNOWN_MS if candidate.latency_ms is None else candidate.latency_ms
    return latency_ms * (candidate.in_flight + 1)


def _cost(options: BalancedOptions, question: Question, candidates: _Ordered) -> _Ordered:
    """The cheapest; of equally cheap ones whose turn it is."""

    def cost(candidate: Candidate) -> float:
        expected = candidate.cost_nanousd(question)
        return math.inf if expected is None else expected

    return sorted(_round_robin(options, question, candidates), key=cost)


def _region(options: BalancedOptions, question: Question, candidates: _Ordered) -> _Ordered:
    places = {region: place for place, region in enumerate(options.regions)}
    return sorted(
        _round_robin(options, question, candidates),
        key=lambda candidate: places.get(candidate.region or "", len(places)),
    )


_METHODS: Mapping[Method, Callable[[BalancedOptions, Question, _Ordered], _Ordered]] = {
    "round_robin": _round_robin,
    "weighted": _weighted,
    "least_busy": _least_busy,
    "latency": _latency,
    "cost": _cost,
    "region": _region,
}


def _by_lot(seed: int, candidates: _Ordered, shares: Mapping[str, float]) -> _Ordered:
    """In an order that is random by the seed, in which each comes first as often as its share.

    Weighted rendezvous hashing: where a candidate goes or comes, the order of the others stays.
    """
    key_bytes = (seed % 2**64).to_bytes(8, "little")

    def key(candidate: Candidate) -> float:
        lot = blake2b(candidate.name.encode(), key=key_bytes, digest_size=8)
        uniform = (int.from_bytes(lot.digest(), "little") + 0.5) / 2**64
        return math.log(uniform) / shares.get(candidate.name, 1.0)

    return sorted(candidates, key=key, reverse=True)
