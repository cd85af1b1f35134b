"""Hard constraints: who may be asked at all, before any policy has a say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import msgspec

from policies.base import Candidate, Capability, Choice, Question, Rejection

# The densest text we know of packs about nine bytes into a token; below that, a prompt which
# seems too long by the estimate may still fit.
DENSEST_BYTES_PER_TOKEN = 9
ESTIMATE_BYTES_PER_TOKEN = 4

_Amount = Annotated[float, msgspec.Meta(gt=0)]
_Megabytes = Annotated[int, msgspec.Meta(ge=1)]


class ResourceLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a local model may take of this machine, and must leave for others."""

    memory_mb: _Megabytes | None = None
    gpu_memory_mb: _Megabytes | None = None
    """Of GPUs with memory of their own."""
    free_memory_mb: _Megabytes | None = None
    """What is left at least, once it is loaded, of what local models may take together."""
    free_gpu_memory_mb: _Megabytes | None = None


NO_LIMITS = ResourceLimits()


class Constraints(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a target must be, for a virtual model, a caller or a request; all that are said hold.

    Where latency or reliability are neither declared nor measured a target passes: they are
    forecasts. A price, a region or a promise that is not known does not.
    """

    max_latency_ms: _Amount | None = None
    """To the first token."""
    max_cost_per_request: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """USD, for the input and the client's maximum of output, or what is expected of it."""
    max_input_price: Annotated[float, msgspec.Meta(ge=0)] | None = None
    max_output_price: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """USD per million tokens."""
    min_reliability: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    preferred_backend: str | None = None
    """What runs on it comes first, however it scores. It is a wish: no target is left out."""
    required_capabilities: frozenset[Capability] = frozenset()
    models: frozenset[str] | None = None
    """Only these; as the others below by name, with `*` for any part of it."""
    excluded_models: frozenset[str] = frozenset()
    regions: frozenset[str] | None = None
    """Where data may go."""
    zero_retention: bool = False
    """Only where nothing of a request is kept."""
    resource_limits: ResourceLimits = NO_LIMITS


NO_CONSTRAINTS = Constraints()

Fitting = tuple[tuple[Candidate, ...], tuple[Rejection, ...]]
"""Those that can and may answer a question, and why each other one does not."""
_Alike = tuple[frozenset[Capability], bool, str | None]


def eligible(
    question: Question,
    candidates: Sequence[Candidate],
    *,
    real_targets: bool,
    vector_space: str | None = None,
    constraints: Sequence[Constraints] = (),
) -> Fitting:
    """The candidates that can and may answer the question, and why each other one does not.

    `real_targets` says that the configuration has targets other than demonstrations.
    `vector_space` pins embeddings: vectors of different models must never be mixed. Where the
    estimate says that nothing fits into any context, the longest that might fit stays: the
    estimate is twice the truth for some languages, and the provider counts exactly. Then all of
    the `constraints` hold of those that are left: one more never adds a candidate.
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
    rejections = [r for c, r in refused if c not in accepted]
    if constraints:
        accepted, unmet = constrained(question, accepted, constraints)
        if unmet:
            order = {candidate.name: place for place, candidate in enumerate(candidates)}
            rejections = sorted((*rejections, *unmet), key=lambda each: order[each.target])
    return tuple(accepted), tuple(rejections)


class Screen:
    """Candidates that stay as they are, and what was found of them for questions alike.

    The needs of a question leave the same candidates whatever its length, as long as it fits into
    the shortest of their contexts.
    """

    def __init__(self, candidates: tuple[Candidate, ...]) -> None:
        self.candidates = candidates
        # By all that `_refuse` goes by but the length; there are few sets of needs.
        self._found: dict[_Alike, tuple[float, Fitting]] = {}

    def eligible(
        self, question: Question, *, real_targets: bool, vector_space: str | None = None
    ) -> Fitting:
        """See `eligible`."""
        alike = question.needs, real_targets, vector_space
        shortest, fitting = self._found.get(alike) or self._look(alike)
        if question.input_tokens + (question.output_tokens or 0) <= shortest:
            return fitting
        return eligible(
            question, self.candidates, real_targets=real_targets, vector_space=vector_space
        )

    def _look(self, alike: _Alike) -> tuple[float, Fitting]:
        needs, real_targets, vector_space = alike
        fitting = eligible(
            Question(needs=needs, input_tokens=0),
            self.candidates,
            real_targets=real_targets,
            vector_space=vector_space,
        )
        lengths = (candidate.context_length for candidate in fitting[0])
        shortest = min((length for length in lengths if length is not None), default=math.inf)
        self._found[alike] = shortest, fitting
        return shortest, fitting


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
    fewest = question.fewest_tokens
    if fewest is None:
        fewest = question.input_tokens * ESTIMATE_BYTES_PER_TOKEN // DENSEST_BYTES_PER_TOKEN
    return fewest + (question.output_tokens or 0) <= candidate.context_length


def constrained(
    question: Question, candidates: Sequence[Candidate], constraints: Sequence[Constraints]
) -> tuple[list[Candidate], list[Rejection]]:
    """Those that meet all of the constraints, and why each other one does not."""
    accepted: list[Candidate] = []
    rejections: list[Rejection] = []
    for candidate in candidates:
        found = next(filter(None, (_broken(question, candidate, c) for c in constraints)), None)
        if found is None:
            accepted.append(candidate)
        else:
            code, reason = found
            rejections.append(Rejection(target=candidate.name, code=code, reason=reason))
    return accepted, rejections


def preferred_first(
    choices: tuple[Choice, ...],
    candidates: Sequence[Candidate],
    constraints: Iterable[Constraints],
) -> tuple[Choice, ...]:
    """The choices with those on a preferred backend first; the last preference counts most."""
    for each in constraints:
        if each.preferred_backend is not None:
            liked = {c.name for c in candidates if c.backend == each.preferred_backend}
            choices = tuple(sorted(choices, key=lambda choice: choice.target not in liked))
    return choices


def _broken(
    question: Question, candidate: Candidate, constraints: Constraints
) -> tuple[str, str] | None:
    """The code and the words for the first constraint that a candidate breaks."""
    return next(filter(None, (rule(question, candidate, constraints) for rule in _RULES)), None)


def _too_slow(q: Question, candidate: Candidate, limits: Constraints) -> tuple[str, str] | None:
    most, latency_ms = limits.max_latency_ms, candidate.latency_ms
    if most is None or latency_ms is None or latency_ms <= most:
        return None
    return "latency", f"about {latency_ms:.0f} ms to the first token are over {most:g} ms"


def _too_dear(q: Question, candidate: Candidate, limits: Constraints) -> tuple[str, str] | None:
    most = limits.max_cost_per_request
    if most is not None:
        cost = candidate.cost_nanousd(q)
        if cost is None:
            return "cost", "no price is known, and the cost of a request is limited"
        if cost > most * 1e9:
            return "cost", f"expected cost ${cost / 1e9:.6f} is over ${most:g}"
    for what, limit, price in (
        ("input", limits.max_input_price, candidate.input_nanousd),
        ("output", limits.max_output_price, candidate.output_nanousd),
    ):
        if limit is not None and (price is None or price > limit * 1e9):
            known = "not known" if price is None else f"${price / 1e9:g}"
            return "price", f"its price of {what} is {known}, and limited to ${limit:g}"
    return None


def _too_unreliable(
    q: Question, candidate: Candidate, limits: Constraints
) -> tuple[str, str] | None:
    least, share = limits.min_reliability, candidate.reliability
    if least is None or share is None or share >= least:
        return None
    return "reliability", f"its reliability of {share:.4f} is under {least:g}"


def _cannot(q: Question, candidate: Candidate, limits: Constraints) -> tuple[str, str] | None:
    missing = limits.required_capabilities - candidate.capabilities
    return ("capability", f"cannot do {', '.join(sorted(missing))}") if missing else None


def _not_wanted(q: Question, candidate: Candidate, limits: Constraints) -> tuple[str, str] | None:
    if is_named(candidate.name, limits.excluded_models):
        return "excluded", "it is excluded"
    if limits.models is not None and not is_named(candidate.name, limits.models):
        return "excluded", "it is none of those that are asked for"
    return None


def _elsewhere(q: Question, candidate: Candidate, limits: Constraints) -> tuple[str, str] | None:
    if limits.regions is not None and candidate.region not in limits.regions:
        where = "a region that is not known" if candidate.region is None else candidate.region
        return "region", f"it is in {where}, not in {', '.join(sorted(limits.regions))}"
    if limits.zero_retention and not candidate.zero_retention:
        return "retention", "it is not known to keep nothing of a request"
    return None


def _too_large(q: Question, candidate: Candidate, limits: Constraints) -> tuple[str, str] | None:
    said = limits.resource_limits
    if said is NO_LIMITS:
        return None
    for takes, most, left, least, kind in (
        (candidate.memory_mb, said.memory_mb, candidate.left_memory_mb, said.free_memory_mb, ""),
        (
            candidate.gpu_memory_mb,
            said.gpu_memory_mb,
            candidate.left_gpu_memory_mb,
            said.free_gpu_memory_mb,
            " of GPU memory",
        ),
    ):
        if most is not None and takes is not None and takes > most:
            return "memory", f"it takes {takes} MB{kind}, over {most}"
        if least is not None and left is not None and left < least:
            return "memory", f"it would leave {left} MB{kind}, under {least}"
    return None


_RULES: tuple[Callable[[Question, Candidate, Constraints], tuple[str, str] | None], ...] = (
    _not_wanted, _cannot, _elsewhere, _too_dear, _too_slow, _too_unreliable, _too_large,
)  # fmt: skip


# Who may be shown a request at all, whatever for.
_OF_DATA = (_not_wanted, _elsewhere)
OF_DATA = frozenset({"excluded", "region", "retention"})
"""The codes of what keeps a request from a target that is not to answer it, but to see it."""


def barred(
    question: Question, candidate: Candidate, constraints: Iterable[Constraints]
) -> Rejection | None:
    """Why a target may not be shown a request; None where it may."""
    for limits in constraints:
        for rule in _OF_DATA:
            found = rule(question, candidate, limits)
            if found is not None:
                return Rejection(target=candidate.name, code=found[0], reason=found[1])
    return None


def is_named(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns is for `provider/model`, for the provider, or for the model."""
    provider, _, model = name.partition("/")
    return any(matches(known, pattern) for pattern in patterns for known in (name, provider, model))


def matches(name: str, pattern: str) -> bool:
    """Whether a name is the pattern, in which `*` stands for anything.

    Not `fnmatch`, which compiles and keeps whatever it is given, and reads `?` and `[` as well:
    callers bring patterns of their own, and seconds of a compiler's time would be in them.
    """
    first, *others = pattern.split("*")
    if not others:
        return name == pattern
    *middle, last = others
    at, end = len(first), len(name) - len(last)
    if at > end or not name.startswith(first) or not name.endswith(last):
        return False
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
