"""How a request is asked whose route has a strategy."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import assert_never

import msgspec

from policies.base import Route
from policies.strategies import Cascade, Consensus, Hedge, Race, Strategy
from proxy.attempts import Job
from proxy.ensembles.asking import Asking, Respond
from proxy.ensembles.cascade import climb
from proxy.ensembles.checking import Checking
from proxy.ensembles.consensus import agree
from proxy.ensembles.failures import ends_all, last_word
from proxy.ensembles.hedging import Allowances, Hedging
from proxy.ensembles.race import Pace, race
from proxy.ensembles.whole import deliver
from proxy.errors import ApiError
from proxy.figures import Figures
from proxy.relay import StreamReply

WEIGHED = frozenset({"chat", "messages", "responses"})
"""The endpoints whose answers can be checked and compared: chats, in any of their dialects."""


@dataclass(frozen=True, slots=True)
class Lasting:
    """What ensembles keep while revisions of the configuration come and go. One per worker."""

    checking: Checking = field(default_factory=Checking)
    allowances: Allowances = field(default_factory=dict)

    async def aclose(self) -> None:
        """There are no requests any more."""
        await self.checking.aclose()


class Ensembles:
    """Carries strategies out. One per worker and revision."""

    def __init__(self, asking: Asking, figures: Figures, lasting: Lasting) -> None:
        self._asking = asking
        self._checking = lasting.checking
        self._hedging = Hedging(figures, asking.try_each, lasting.allowances)

    async def ask(
        self,
        job: Job,
        route: Route,
        strategy: Strategy,
        respond: Respond,
        reply: StreamReply | None,
    ) -> None:
        """Answer the client by `respond`, or by a whole answer; as a stream if there is a `reply`.

        Raises `ApiError`. When it returns or raises, every attempt is settled.
        """
        failures: list[ApiError] = []
        for is_spare, group in groupby(route.choices, lambda each: each.target in route.spare):
            part = msgspec.structs.replace(route, choices=tuple(group))
            try:
                if is_spare:
                    job.is_weighed = False
                    await self._asking.try_each(job, part, respond)
                else:
                    await self._ask(job, part, strategy, respond, reply)
                return
            except ApiError as error:
                failures.append(error)
                if _has_begun(job, reply) or ends_all(error, job.caller):
                    break
        raise last_word(failures)

    async def _ask(
        self,
        job: Job,
        route: Route,
        strategy: Strategy,
        respond: Respond,
        reply: StreamReply | None,
    ) -> None:
        asking, choices = self._asking, route.choices
        match strategy:
            case Race():
                staggers = strategy.stagger_s > 0
                pace = Pace(
                    at_once=1 if staggers else strategy.targets,
                    later=strategy.targets - 1 if staggers else 0,
                    after_s=strategy.stagger_s,
                )
                await race(job, choices, pace, asking.try_each, respond)
            case Hedge():
                await self._hedging.ask(job, choices, strategy, respond)
            case Cascade() | Consensus() if job.request.endpoint not in WEIGHED:
                await asking.try_each(job, route, respond)
            case Cascade():
                kept = await climb(asking, self._checking, job, choices, strategy)
                await deliver(asking, job, kept, reply)
            case Consensus():
                kept = await agree(asking, job, choices, strategy)
                await deliver(asking, job, kept, reply)
            case _:
                assert_never(strategy)


def _has_begun(job: Job, reply: StreamReply | None) -> bool:
    """Whether the client has some of an answer, so that no other can take its place."""
    return job.exchange.started if reply is None else reply.has_payload
