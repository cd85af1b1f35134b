"""A cascade: a target's whole answer is checked, and the next one asked where it does not pass."""

from __future__ import annotations

from collections.abc import Sequence

from policies.base import Choice
from policies.strategies import Cascade
from proxy.attempts import Job
from proxy.ensembles.asking import Asking
from proxy.ensembles.checking import Checking
from proxy.ensembles.failures import ends_all, last_word
from proxy.ensembles.judge import passes
from proxy.ensembles.said import Said, shown
from proxy.ensembles.whole import LOGPROBS, Kept, ask
from proxy.errors import ApiError
from proxy.swaps.core import Check


async def climb(
    asking: Asking, checking: Checking, job: Job, choices: Sequence[Choice], cascade: Cascade
) -> Kept:
    """The first answer that passes, else the last there is. Raises `ApiError` where there is none.

    That of the last target is not checked: nobody is left to give a better one.
    """
    kept: Kept | None = None
    failures: list[ApiError] = []
    for choice in choices:
        is_last = choice is choices[-1]
        adds = cascade.confidence is not None and not is_last and _may_add_logprobs(job, choice)
        try:
            kept = await ask(asking, job, [choice], added=LOGPROBS if adds else None)
        except ApiError as error:
            failures.append(error)
            if ends_all(error, job.caller):
                break
            continue
        if is_last or await _is_good(asking, checking, job, kept, cascade):
            break
    if kept is None:
        raise last_word(failures)
    return kept


def _may_add_logprobs(job: Job, choice: Choice) -> bool:
    """Whether a target tells them, and the client does not ask for them itself."""
    target = job.table.target(choice.target)
    tells = target is not None and "logprobs" in target.capabilities
    return tells and "logprobs" not in job.request.needs


async def _is_good(
    asking: Asking, checking: Checking, job: Job, kept: Kept, cascade: Cascade
) -> bool:
    """Whether an answer passes; what costs nothing is looked at first."""
    if not all(said.is_whole and _is_sure(said, cascade.confidence) for said in kept.said):
        return False
    if cascade.regex or cascade.json or cascade.schema is not None:
        check = Check(
            prompt="cascade",
            matches=cascade.regex,
            json=cascade.json,
            json_schema=cascade.schema,
        )
        for said in kept.said:
            # A call is checked by whoever is called.
            if not said.calls and await checking.problem(check, said.text) is not None:
                return False
    return cascade.judge is None or await passes(asking, job, cascade.judge, shown(kept.said))


def _is_sure(said: Said, least: float | None) -> bool:
    return least is None or (said.confidence is not None and said.confidence >= least)
