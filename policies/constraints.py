"""Hard constraints: who may be asked at all, before any policy has a say."""

from __future__ import annotations

from collections.abc import Sequence

from policies.base import Candidate, Question, Rejection

# The densest text we know of packs about nine bytes into a token; below that, a prompt which
# seems too long by the estimate may still fit.
DENSEST_BYTES_PER_TOKEN = 9
ESTIMATE_BYTES_PER_TOKEN = 4


def eligible(
    question: Question,
    candidates: Sequence[Candidate],
    *,
    real_targets: bool,
    vector_space: str | None = None,
) -> tuple[tuple[Candidate, ...], tuple[Rejection, ...]]:
    """The candidates that can answer the question, and why each other one cannot.

    `real_targets` says that the configuration has targets other than demonstrations.
    `vector_space` pins embeddings: vectors of different models must never be mixed. Where the
    estimate says that nothing fits into any context, the longest that might fit stays: the
    estimate is twice the truth for some languages, and the provider counts exactly.
    """
    accepted: list[Candidate] = []
    refused: list[tuple[Candidate, Rejection]] = []
    for candidate in candidates:
        rejection = _refuse(question, candidate, vector_space=vector_space, real=real_targets)
        if rejection is None:
            accepted.append(candidate)
        else:
            refused.append((candidate, rejection))
    doubtful = [c for c, r in refused if r.code == "context_length" and _might_fit(question, c)]
    if doubtful and not accepted:
        accepted = [max(doubtful, key=lambda candidate: candidate.context_length or 0)]
    return tuple(accepted), tuple(r for c, r in refused if c not in accepted)


def _refuse(
    question: Question, candidate: Candidate, *, vector_space: str | None, real: bool
) -> Rejection | None:
    if candidate.demonstration and real:
        return Rejection(
            target=candidate.name,
            code="demonstration",
            reason="a demonstration is never chosen where a real target is configured",
        )
    missing = question.needs - candidate.capabilities
    if missing:
        return Rejection(
            target=candidate.name,
            code="capability",
            reason=f"cannot do {', '.join(sorted(missing))}",
        )
    if vector_space is not None and candidate.vector_space != vector_space:
        return Rejection(
            target=candidate.name,
            code="vector_space",
            reason=f"its vectors are of {candidate.vector_space!r}, not of {vector_space!r}",
        )
    needed = question.input_tokens + (question.output_tokens or 0)
    if candidate.context_length is not None and needed > candidate.context_length:
        return Rejection(
            target=candidate.name,
            code="context_length",
            reason=f"about {needed} tokens do not fit into {candidate.context_length}",
        )
    return None


def _might_fit(question: Question, candidate: Candidate) -> bool:
    assert candidate.context_length is not None
    fewest = question.input_tokens * ESTIMATE_BYTES_PER_TOKEN // DENSEST_BYTES_PER_TOKEN
    return fewest + (question.output_tokens or 0) <= candidate.context_length
