"""When a second attempt is made of a request that its target keeps waiting, and whether it may."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from policies.base import Choice
from policies.strategies import Hedge
from proxy.attempts import Job
from proxy.ensembles.allowance import Allowance
from proxy.ensembles.asking import Respond, TryEach
from proxy.ensembles.branches import Branch
from proxy.ensembles.plan import most_nanousd
from proxy.ensembles.race import Hedged, hedge
from proxy.figures import Figures

Allowances = dict[tuple[str, float], Allowance]
"""By virtual model and its share."""


class Hedging:
    """Hedges requests, within the allowance of their virtual model. One per worker and revision."""

    def __init__(self, figures: Figures, try_each: TryEach, allowances: Allowances) -> None:
        """`allowances` are added to."""
        self._figures = figures
        self._try_each = try_each
        self._allowances = allowances

    async def ask(
        self, job: Job, choices: Sequence[Choice], strategy: Hedge, respond: Respond
    ) -> None:
        """Answer the client; raises `ApiError`."""
        name = job.decision.model
        allowance = self._allowances.get((name, strategy.share))
        if allowance is None:
            allowance = self._allowances[name, strategy.share] = Allowance(strategy.share)
        allowance.came()
        extras = _Extras(allowance)
        hedged = Hedged(
            after_s=self._delay_s(job, choices[0], strategy),
            may_begin=partial(extras.may_begin, job),
        )
        try:
            await hedge(job, choices, hedged, self._try_each, respond)
        finally:
            extras.end(job)

    def _delay_s(self, job: Job, choice: Choice, strategy: Hedge) -> float:
        target = job.table.target(choice.target)
        assert target is not None
        known = self._figures.p95_s(target, stream=job.request.stream)
        return max(strategy.floor_s, strategy.start_s if known is None else known)


class _Extras:
    """What the hedging of one request may cost, and did."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._most_nanousd: int | None = None

    def may_begin(self, job: Job, first: Branch, second: Choice) -> bool:
        """Whether the second attempt is allowed: either of the two may be the one too many."""
        target = job.table.target(second.target)
        if target is None or first.job.last is None:
            return False
        most = max(first.job.last.hold_nanousd, most_nanousd(job.request, target))
        if not self._allowance.begin(most):
            return False
        self._most_nanousd = most
        return True

    def end(self, job: Job) -> None:
        """Count what the request has cost; without an answer, one of the two was none too many."""
        shared = job.shared
        total, most = shared.cost_nanousd + shared.uncertain_nanousd, self._most_nanousd
        if most is None:
            self._allowance.spend(shared.cost_nanousd)
            return
        answered = job.last.settlement if job.last is not None else None
        extra = min(most, total) if answered is None else total - answered.cost_nanousd
        self._allowance.end(most, extra)
        self._allowance.spend(max(0, shared.cost_nanousd - extra))
