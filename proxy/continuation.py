"""A stream that broke, and the targets that may go on with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from adapters.base import Answer
from policies.base import Route
from proxy.errors import ApiError
from proxy.pricing import Usage
from proxy.targets import Target, TargetTable
from proxy.wire import chunks
from proxy.wire.continuing import Resumed

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


def rest_of(route: Route, broken: str, table: TargetTable) -> Route | None:
    """The targets after the one that broke that can go on with an answer; None without any."""
    names = [choice.target for choice in route.choices]
    rest = route.choices[names.index(broken) + 1 :] if broken in names else route.choices
    able = tuple(
        replace(choice, reason=REASON)
        for choice in rest
        if (target := table.target(choice.target)) is not None and target.prefill is not None
    )
    return replace(route, choices=able) if able else None
