"""What would have become of the requests that were written down, under another configuration.

Each is put to the real router as it was asked then: with its caller, its wishes, the moment and
what was left of its budget. What it then cost is the ledger's word; what it would cost is that
answer's tokens at the other target's price. Nothing is sent, and nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from policies.base import Candidate, Denial, Prompt, Route
from policies.registry import BUILT_IN
from policies.strategies import Hedge
from proxy import pricing
from proxy.asked import Asked
from proxy.circuits import Circuits
from proxy.clock import Clock
from proxy.config import Circuit
from proxy.downgrades import PPM_PER_PERCENT, tier_at
from proxy.errors import ApiError
from proxy.ledger.answers import Done
from proxy.ledger.protocol import MILLION
from proxy.routing import Decision, Router, Shows, or_else
from proxy.targets import Target, TargetTable, VirtualModel
from proxy.wishes import NO_WISHES, Wishes

Why = Literal[
    "swapped",  # a swap had moved its model
    "no such model",  # in the configuration in question
    "prompt not kept",  # and a policy of the operator's own reads prompts
    "no answer then",  # as far as the ledger still knows
    "refused now",  # no target would take it
    "asked otherwise",  # an ensemble did or would: how many attempts it had made, nobody knows
    "no price",  # of the target it would go to, or none by tokens
]
"""Why a request counts in no comparison of costs."""

MOST_CHANGES = 1_000
"""Of the decisions that changed, so many are listed; all are counted."""

_ENSEMBLES = frozenset({"race", "cascade", "consensus"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What answered a request, and what all its attempts cost together."""

    attempt: Done
    cost_nanousd: int


@dataclass(frozen=True, slots=True)
class Change:
    """A decision that would be another one. Costs are nano-USD."""

    request_id: str
    model: str
    task: str
    then: str
    now: str
    cost_then: int
    cost_now: int | None
    reason: str
    """Why it would go where it goes."""


@dataclass(kw_only=True, slots=True)
class Side:
    """What became of the requests that are compared: then, or under the configuration in question.

    Sums are over `requests`, but for those of which a figure is not known: each has its count.
    """

    requests: Counter[str] = field(default_factory=Counter)
    """By target."""
    cost_nanousd: Counter[str] = field(default_factory=Counter)
    """By target."""
    quality: float = 0.0
    with_quality: int = 0
    latency_ms: float = 0.0
    with_latency: int = 0

    def count(self, target: str, cost: int, candidate: Candidate | None, asked: Asked) -> None:
        """Add a request that goes to a target."""
        self.requests[target] += 1
        self.cost_nanousd[target] += cost
        if candidate is None or asked.analysis is None:
            return
        quality = candidate.quality_of(asked.analysis.task)
        if quality is not None:
            self.quality += quality
            self.with_quality += 1
        if candidate.latency_ms is not None:
            self.latency_ms += candidate.latency_ms
            self.with_latency += 1

    @property
    def total_nanousd(self) -> int:
        """The cost of all."""
        return sum(self.cost_nanousd.values())

    @property
    def mean_quality(self) -> float | None:
        """From 0 to 1; None where nothing is known of any target."""
        return self.quality / self.with_quality if self.with_quality else None

    @property
    def mean_latency_ms(self) -> float | None:
        """To the first token; None where nothing is known of any target."""
        return self.latency_ms / self.with_latency if self.with_latency else None


@dataclass(kw_only=True, slots=True)
class Report:
    """What came of a replay."""

    asked: int = 0
    """Requests that were written down."""
    compared: int = 0
    """Those that got an answer then, and would be sent somewhere at a known price now."""
    changed: int = 0
    """Those of all replayed whose first target is another."""
    same_decisions: int = 0
    """Those whose decision is the same to the last digit of its id."""
    left_out: Counter[Why] = field(default_factory=Counter)
    then: Side = field(default_factory=Side)
    now: Side = field(default_factory=Side)
    changes: list[Change] = field(default_factory=list)


class Replay:
    """Puts what was asked to a configuration, a request at a time; `report` is what came of it."""

    def __init__(
        self,
        table: TargetTable,
        shows: Shows,
        clock: Clock,
        *,
        served: TargetTable,
    ) -> None:
        """`served` is the table of the configuration as it is: prices are compared with its."""
        self._table = table
        self._served = served
        self._shows = shows
        self._router = Router(
            table=lambda: table,
            figures=shows,
            circuits=Circuits(Circuit(), clock),
            secret=b"",
            clock=clock,
        )
        self.report = Report()

    def add(self, asked: Asked, prompt: Prompt | None, answer: Answer | None) -> None:
        """Ask one request again; with its prompt and its answer, as far as they are known."""
        report = self.report
        report.asked += 1
        decision = self._decided(asked, prompt)
        if not isinstance(decision, Decision):
            report.left_out[decision] += 1
            return
        report.same_decisions += decision.id == asked.decision
        if isinstance(decision.outcome, Denial):
            report.changed += bool(asked.target)
            report.left_out["refused now"] += 1
            return
        choice = decision.outcome.choices[0]
        has_changed = choice.target != asked.target
        report.changed += has_changed
        if answer is None:
            report.left_out["no answer then"] += 1
            return
        if self._is_asked_otherwise(asked, decision.outcome, has_changed=has_changed):
            report.left_out["asked otherwise"] += 1
            return
        # The same route would have ended as it did; how another would have, nobody knows.
        target = choice.target if has_changed else answer.attempt.target
        cost = self._cost(target, answer, has_changed=has_changed)
        if has_changed and len(report.changes) < MOST_CHANGES:
            report.changes.append(
                Change(
                    request_id=asked.request_id,
                    model=asked.model,
                    task="" if asked.analysis is None else asked.analysis.task,
                    then=asked.target,
                    now=target,
                    cost_then=answer.cost_nanousd,
                    cost_now=cost,
                    reason=choice.reason,
                )
            )
        if cost is None:
            report.left_out["no price"] += 1
            return
        report.compared += 1
        before = self._candidate(answer.attempt.target)
        report.then.count(answer.attempt.target, answer.cost_nanousd, before, asked)
        report.now.count(target, cost, self._candidate(target), asked)

    def _decided(self, asked: Asked, prompt: Prompt | None) -> Decision | Why:
        """As the engine decides; or why that cannot be."""
        if asked.swap is not None:
            return "swapped"
        found = self._table.models.get(asked.model)
        if found is None:
            return "no such model"
        if prompt is None and _reads_words(found):
            return "prompt not kept"
        unweighed = replace(asked.wishes, weights=None)
        try:
            decision = self._decided_on(found, asked, asked.wishes, prompt)
            for name in asked.wishes.models:
                other = self._table.find(name)
                if other is not None:
                    fallback = self._decided_on(other, asked, unweighed, prompt)
                    decision = or_else(decision, fallback)
        except ApiError:
            return "refused now"
        return decision

    def _decided_on(
        self, found: Target | VirtualModel, asked: Asked, wishes: Wishes, prompt: Prompt | None
    ) -> Decision:
        decide = partial(
            self._router.decide,
            request=asked,
            scopes=asked.scopes,
            at=asked.at,
            told=asked.told(prompt),
        )
        if isinstance(found, Target):
            return decide(found, wishes=wishes)
        if "budget" in found.reads:
            decide = partial(decide, budget_left=asked.budget_left)
        tier = tier_at(found.downgrades, _spent_ppm(asked), 0)
        if tier is None:
            return decide(found, wishes=wishes)
        decision = decide(tier.model, wishes=wishes)
        if isinstance(decision.outcome, Denial):
            unwished = decide(tier.model, wishes=NO_WISHES)
            if isinstance(unwished.outcome, Denial):
                return decide(found, wishes=wishes)
        return decision

    def _is_asked_otherwise(self, asked: Asked, now: Route, *, has_changed: bool) -> bool:
        """Whether the attempts of then tell nothing of how many there would be."""
        served = self._served.models.get(asked.model)
        then = None
        if served is not None and served.policy.name == asked.policy:
            then = served.strategy
        elif asked.policy in _ENSEMBLES:
            return True
        then, would = (None if isinstance(s, Hedge) else s for s in (then, now.strategy))
        return then != would or (would is not None and has_changed)

    def _cost(self, target: str, answer: Answer, *, has_changed: bool) -> int | None:
        """What a request would cost at a target; None where no price says."""
        now = _priced(self._table.target(target), answer)
        if has_changed:
            return now
        # What tokens do not tell of it (sound, searches, a provider's own word) was paid then too.
        before = _priced(self._served.target(target), answer)
        return answer.cost_nanousd + (0 if now is None or before is None else now - before)

    def _candidate(self, name: str) -> Candidate | None:
        target = self._table.target(name) or self._served.target(name)
        return None if target is None else self._shows.candidate(target)


def _reads_words(found: VirtualModel) -> bool:
    """Whether a policy may look at the words themselves: no policy of ours does."""
    policies = [found.policy, *(tier.model.policy for tier in found.downgrades)]
    ours = tuple(BUILT_IN.values())
    return any("prompt" in each.reads and not isinstance(each, ours) for each in policies)


def _spent_ppm(asked: Asked) -> int:
    """How much of a budget was spent, as far as it is known: the tier says so, or what was left."""
    by_tier = int(asked.tier.removesuffix("%") or 0) * PPM_PER_PERCENT
    return max(
        by_tier, 0 if asked.budget_left is None else round((1 - asked.budget_left) * MILLION)
    )


def _priced(target: Target | None, answer: Answer) -> int | None:
    """The tokens of an answer at a target's price; None where that is not told by tokens."""
    if target is None or target.price is None or target.price.charges_units:
        return None
    return pricing.cost_nanousd(target.price, answer.attempt.usage)


def answers_of(attempts: Iterable[Done]) -> dict[str, Answer]:
    """By request, what answered it and what all its attempts cost; those that got no answer not."""
    costs: Counter[str] = Counter()
    answered: dict[str, Done] = {}
    for attempt in attempts:
        costs[attempt.request_id] += attempt.cost_nanousd
        if attempt.is_answer:
            answered[attempt.request_id] = attempt
    return {name: Answer(attempt, costs[name]) for name, attempt in answered.items()}
