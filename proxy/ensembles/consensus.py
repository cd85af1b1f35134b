"""A consensus: several whole answers, and the one that most targets give, or that a judge picks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from adapters.base import Answer
from policies.base import Choice
from policies.strategies import Consensus
from proxy.attempts import Job, Tried
from proxy.ensembles.asking import Asking
from proxy.ensembles.branches import Branches
from proxy.ensembles.judge import pick
from proxy.ensembles.said import key_of, shown
from proxy.ensembles.whole import Kept, ask, take
from proxy.wire.dialect import Sent


async def agree(asking: Asking, job: Job, choices: Sequence[Choice], consensus: Consensus) -> Kept:
    """The answer that is agreed on. Raises `ApiError` where no target answers.

    Targets that fail are left out; where all that were asked do, the others are asked in turn.
    """
    asked, others = choices[: consensus.targets], choices[consensus.targets :]
    by_job: dict[int, Kept] = {}

    async def respond(job: Job, tried: Tried, sent: Sent, answer: Answer) -> None:
        by_job[id(job)] = await take(asking, job, tried, sent, answer)

    job.is_weighed = True
    async with Branches(job, asking.try_each, respond, first_wins=False) as branches:
        begun = [branches.begin(choice) for choice in asked]
        while branches.running:
            await branches.ended(None)
            if consensus.judge is None and is_decided(_keys(by_job.values()), len(asked)):
                break
    kept = [by_job[id(branch.job)] for branch in begun if id(branch.job) in by_job]
    if not kept and others:
        return await ask(asking, job, others)
    if not kept:
        branches.raise_failure()
    taken = kept[await _chosen(asking, job, kept, consensus)]
    if len(kept) > 1:
        asking.outvoted(each.tried.id for each in kept if each is not taken)
    return taken


async def _chosen(asking: Asking, job: Job, kept: Sequence[Kept], consensus: Consensus) -> int:
    """The place of the answer that is taken; a judge is not asked where all say the same."""
    keys = _keys(kept)
    if consensus.judge is not None and len(set(keys)) > 1:
        picked = await pick(asking, job, consensus.judge, [shown(each.said) for each in kept])
        if picked is not None:
            return picked
    return majority(keys)


def _keys(kept: Iterable[Kept]) -> list[tuple[str, ...]]:
    return [key_of(each.said) for each in kept]


def is_decided(keys: Sequence[tuple[str, ...]], asked: int) -> bool:
    """Whether no further answer, of so many in all, can bring another majority."""
    return any(2 * count > asked for count in Counter(keys).values())


def majority(keys: Sequence[tuple[str, ...]]) -> int:
    """The place of the answer that is there most often; of equals, the first there is."""
    (key, _), *_ = Counter(keys).most_common(1)
    return keys.index(key)
