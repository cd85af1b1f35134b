"""Whole answers that are looked at before anything of them leaves.

They are asked for as chats in one piece, whatever dialect the client speaks and whether it wants a
stream: the one that is taken is written for it then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from adapters.base import AdapterError, Answer
from policies.base import Choice, Route
from proxy.attempts import Job, Tried
from proxy.ensembles import said
from proxy.ensembles.asking import Asking
from proxy.ensembles.said import Said
from proxy.errors import from_upstream
from proxy.relay import StreamReply
from proxy.wire import answers
from proxy.wire.dialect import Request, Sent

LOGPROBS: Mapping[str, bytes] = {"logprobs": b"true"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """An answer that is settled and has not left: a chat completion, and what it says."""

    job: Job
    tried: Tried
    body: bytes
    said: tuple[Said, ...]


async def take(asking: Asking, job: Job, tried: Tried, sent: Sent, answer: Answer) -> Kept:
    """Settle an answer and keep it. Raises `AdapterError` for one that is no use."""
    body = await answer.body()
    asking.take_whole(job, tried, sent, body)
    return Kept(job=job, tried=tried, body=body, said=said.read(body))


async def ask(
    asking: Asking,
    job: Job,
    choices: Sequence[Choice],
    *,
    request: Request | None = None,
    added: Mapping[str, bytes] | None = None,
) -> Kept:
    """The whole answer of the first target that gives one: to the job's request, or to another.

    Its attempts are the job's. Raises `ApiError` where none answers.
    """
    own = msgspec.structs.replace(
        job,
        request=request or job.request,
        is_weighed=True,
        added=added or {},
        last=None,
        unsent=None,
        cold=[],
    )
    kept: list[Kept] = []

    async def respond(job: Job, tried: Tried, sent: Sent, answer: Answer) -> None:
        kept.append(await take(asking, job, tried, sent, answer))

    try:
        await asking.try_each(own, Route(policy=job.route.policy, choices=tuple(choices)), respond)
    finally:
        if request is None:
            job.take_over(own)
    return kept[-1]


async def deliver(asking: Asking, job: Job, kept: Kept, reply: StreamReply | None) -> None:
    """Answer the client, by a stream where there is a `reply`. Raises `ApiError`."""
    job.take_over(kept.job)
    body = said.without_logprobs(kept.body) if kept.job.added else kept.body
    identity = asking.identity(job, kept.tried)
    if reply is None:
        _, whole = job.request.read_whole("chat", body, identity, reads_cost=False)
        assert whole is not None  # it was read before
        await job.exchange.reply(200, whole.body, asking.headers(job), whole.content_type)
        return
    stream = job.request.read_stream("chat", identity, reads_cost=False)
    try:
        events, failure = stream.feed_all([answers.as_chunk(body)])
    except AdapterError as error:
        events, failure = b"", error
    if failure is not None:
        raise from_upstream(failure, kept.tried.target.name)
    await reply.send(events)
    await reply.finish(stream.end())
