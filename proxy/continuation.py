"""A stream that broke, and the targets that may go on with it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from adapters.base import Answer
from policies.base import Route
from proxy.errors import ApiError
from proxy.pricing import Usage
from proxy.targets import Target, TargetTable
from proxy.wire import chunks
from proxy.wire.continuing import Resumed, Transcript, continued
from proxy.wire.dialect import Request, Stream

REASON = "continuation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """A stream that broke after a part of it had left.

    `said` is all that has left, by those before it too, and `said_tokens` what that took; `taken`
    is what this one took. `failure` is what the client is told if nobody goes on with it.
    """

    target: str
    stream: chunks.Stream
    said: str
    said_tokens: int
    taken: Usage
    failure: ApiError

    def resumed(self, answer: Answer, target: Target) -> tuple[Answer, chunks.Stream, bytes]:
        """The answer of a target that goes on, what reads it, and the event that says so."""
        stream = self.stream.resumed(self.taken, reads_cost=target.reports_cost)
        note = {"continued": {"from": self.target, "by": target.name}}
        return Resumed(answer, self.said), stream, stream.mark(note)


class Passage:
    """The way of one answer to its client, over as many targets as it takes."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.transcript = Transcript()
        self.broken: Broken | None = None
        """The stream that is to be gone on with."""
        self.before: Broken | None = None
        """The one that the present target goes on with."""

    def breaks(self, target: Target, stream: Stream, taken: Usage, failure: ApiError) -> bool:
        """Remember a stream that broke, if what has left of it can be gone on with."""
        said = self.transcript.text()
        if not said or not isinstance(stream, chunks.Stream):
            return False
        before = 0 if self.before is None else self.before.said_tokens
        self.broken = Broken(
            target=target.name,
            stream=stream,
            said=said,
            said_tokens=before + taken.output_tokens,
            taken=taken,
            failure=failure,
        )
        return True

    def take_up(self) -> Broken:
        """The stream that broke last, which the next target goes on with."""
        assert self.broken is not None
        self.before, self.broken = self.broken, None
        return self.before

    def request_after(self, broken: Broken) -> Request | None:
        """What the next target is asked; None where no output is left."""
        return continued(self._request, broken.said, broken.said_tokens)


def rest_of(route: Route, broken: str, table: TargetTable) -> Route | None:
    """The targets after the one that broke that can go on with an answer; None without any."""
    names = [choice.target for choice in route.choices]
    rest = route.choices[names.index(broken) + 1 :] if broken in names else route.choices
    able = tuple(
        msgspec.structs.replace(choice, reason=REASON)
        for choice in rest
        if (target := table.target(choice.target)) is not None and target.prefill is not None
    )
    return msgspec.structs.replace(route, choices=able) if able else None
