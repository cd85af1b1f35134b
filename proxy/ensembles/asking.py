"""What ensembles need of the engine: one attempt after another, whole answers, reply headers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from adapters.base import Answer
from policies.base import Route
from proxy.attempts import Job, Tried
from proxy.http import HeaderList
from proxy.wire.dialect import Identity, Sent, Whole


class Respond(Protocol):
    """Takes an upstream answer and settles the attempt (see `proxy.engine.Responder`)."""

    async def __call__(self, job: Job, tried: Tried, sent: Sent, answer: Answer) -> None: ...  # noqa: D102


class TryEach(Protocol):
    """Asks the targets of a route one after the other; raises `ApiError` where none answers."""

    async def __call__(self, job: Job, route: Route, respond: Respond) -> None: ...  # noqa: D102


class TakeWhole(Protocol):
    """Settles a whole answer, and makes of it what the client gets; raises `AdapterError`."""

    def __call__(self, job: Job, tried: Tried, sent: Sent, body: bytes) -> Whole: ...  # noqa: D102


class Outvoted(Protocol):
    """Says that another answer was taken than those of these attempts; never waits."""

    def __call__(self, attempts: Iterable[int]) -> None: ...  # noqa: D102


class Identify(Protocol):
    """What an answer is called where its provider does not say."""

    def __call__(self, job: Job, tried: Tried) -> Identity: ...  # noqa: D102


class Headers(Protocol):
    """The reply's headers."""

    def __call__(self, job: Job) -> HeaderList: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """The engine, as far as an ensemble knows it."""

    try_each: TryEach
    take_whole: TakeWhole
    outvoted: Outvoted
    identity: Identify
    headers: Headers
