"""Several attempts of one request at the same time, of which one may answer the client.

Each branch is a task with a `Job` of its own: its own hold, its own settlement, its own row. Who is
beaten is cancelled, which closes its connection and settles it as `cancelled`. Nothing runs on when
`Branches` is left, whatever the reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from types import TracebackType

import msgspec

from policies.base import Choice, Route
from proxy.attempts import Job
from proxy.ensembles.asking import Respond, TryEach
from proxy.ensembles.failures import last_word
from proxy.errors import ApiError

_logger = logging.getLogger("tollway")

SETTLING_S = 0.05
"""For so long a whole answer waits for those that it has beaten, so that its cost is theirs too."""


class Branch:
    """One target of a request, asked beside others. What became of it is told once it has ended."""

    def __init__(self, branches: Branches, job: Job, choice: Choice) -> None:
        self._branches = branches
        self.choice = choice
        self.job = msgspec.structs.replace(
            job,
            claim=self.claim,
            last=None,
            unsent=None,
            cold=[],
        )
        self.error: ApiError | None = None
        """Why it did not answer."""
        self.task = asyncio.create_task(self._run())

    async def claim(self) -> None:
        """Be the one that answers the client; whoever comes later waits to be cancelled."""
        await self._branches.claimed_by(self)

    def cancel(self, *, is_beaten: bool) -> None:
        """Give it up; `is_beaten`: for another one, not because the client left."""
        self.job.is_beaten = is_beaten
        self.task.cancel()

    async def _run(self) -> None:
        try:
            await self._branches.ask(self)
        except ApiError as error:
            self.error = error


class Branches:
    """The attempts of a `job` that are made at the same time. Left, it has cancelled what runs."""

    def __init__(
        self, job: Job, try_each: TryEach, respond: Respond, *, first_wins: bool = True
    ) -> None:
        """`first_wins`: whoever answers first claims the reply, if it has not by then."""
        job.shared.entrance = asyncio.Lock()
        self._job = job
        self._first_wins = first_wins
        self._try_each = try_each
        self._respond = respond
        self._begun: list[Branch] = []
        self._running: list[Branch] = []
        self.winner: Branch | None = None
        """The one that answers the client."""

    async def __aenter__(self) -> Branches:
        """The branches, of which none has begun yet."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel what runs, and wait until it has ended and is settled."""
        for branch in self._running:
            branch.cancel(is_beaten=kind is None)
        if self._running:
            await asyncio.wait([branch.task for branch in self._running])
        for fault in filter(None, map(_fault, self._running)):
            _logger.error("an attempt beside another one failed", exc_info=fault)

    @property
    def running(self) -> Sequence[Branch]:
        """Those that have not ended, in the order in which they began."""
        return self._running

    def begin(self, choice: Choice) -> Branch:
        """Ask one more target.

        Beside others it does not wait for money that is held: they may be the ones that hold it.
        """
        branch = Branch(self, self._job, choice)
        branch.job.has_waited |= bool(self._running)
        self._begun.append(branch)
        self._running.append(branch)
        return branch

    async def ask(self, branch: Branch) -> None:
        """Ask the branch's target. Raises `ApiError` where it does not answer."""
        route = Route(policy=self._job.route.policy, choices=(branch.choice,))
        await self._try_each(branch.job, route, self._respond)
        if self._first_wins:  # of a stream that a budget cut at once nothing has left yet
            await self.claimed_by(branch)

    async def ended(self, within_s: float | None) -> Sequence[Branch]:
        """Those that have ended since, once there are any, or none after a time. One must run.

        Raises what no branch may raise: a fault of our own.
        """
        tasks = [branch.task for branch in self._running]
        await asyncio.wait(tasks, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        found = [branch for branch in self._running if branch.task.done()]
        self._running = [branch for branch in self._running if not branch.task.done()]
        faults = list(filter(None, map(_fault, found)))
        if faults:
            raise faults[0]
        return found

    async def claimed_by(self, branch: Branch) -> None:
        """Let the first that asks answer the client, and cancel the others; they wait for that."""
        if self.winner is None:
            self.winner = branch
            others = [each for each in self._running if each is not branch]
            for each in others:
                each.cancel(is_beaten=True)
            if others and not branch.job.request.stream:
                await asyncio.wait([each.task for each in others], timeout=SETTLING_S)
            self._take_over(branch)
        elif self.winner is not branch:
            await asyncio.get_running_loop().create_future()

    def raise_failure(self) -> None:
        """Raise what the client is to be told, unless it was answered."""
        if self.winner is None:
            errors = [branch.error for branch in self._begun if branch.error is not None]
            last = last_word(errors)
            self._take_over(next(branch for branch in self._begun if branch.error is last))
            raise last
        if self.winner.error is not None:
            raise self.winner.error

    def _take_over(self, branch: Branch) -> None:
        """Let the request have gone the way of this branch."""
        self._job.take_over(branch.job)


def _fault(branch: Branch) -> BaseException | None:
    """What ended a branch that no branch may end with."""
    return None if branch.task.cancelled() else branch.task.exception()
