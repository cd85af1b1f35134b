"""`POST /v1/recommend`: which targets suit a task, by its description, and why.

The real analysis, constraints and weighted score decide, over all targets that the caller may get
at; nothing is sent anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, get_args

import msgspec

from adapters.base import Endpoint
from policies.base import Candidate, Capability, Choice, Denial, Question
from policies.constraints import NO_CONSTRAINTS, Constraints, constrained
from policies.weighted import Reserve, Weighted, WeightedOptions
from policies.weights import Weights
from proxy import wishes as wish_list
from proxy.auth import Auth, Caller
from proxy.errors import EndpointForbidden, InvalidRequest
from proxy.explain import MOST_INPUT_TOKENS, shown_choice
from proxy.http import Exchange
from proxy.routing import Decision, Router
from proxy.targets import Target, TargetTable, VirtualModel
from proxy.wire import chat
from proxy.wire.body import Body
from proxy.wishes import NO_WISHES, Wishes

DEFAULT_INPUT_TOKENS = 1_000
"""Of a request of the task, where the description does not say."""

_ENDPOINTS = frozenset(get_args(Endpoint))
# A recommendation is for all that is to come, so that no budget of the day has a part in it.
_POLICY = Weighted(WeightedOptions(reserve=Reserve(simple=0, medium=0, complex=0, very_complex=0)))
_NOT_FOUND = 0.0
# Breaks no limit that depends on the request: what is left depends on the target.
_SMALL = Question(needs=frozenset(), input_tokens=0, output_tokens=0)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for: the task in the words of a user, and what a target must be."""

    task: Annotated[str, msgspec.Meta(min_length=1, max_length=100_000)]
    constraints: Constraints = NO_CONSTRAINTS
    weights: Weights | None = None
    input_tokens: Annotated[int, msgspec.Meta(ge=0, le=MOST_INPUT_TOKENS)] = DEFAULT_INPUT_TOKENS
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=MOST_INPUT_TOKENS)] | None = None
    stream: bool = False

    @property
    def needs(self) -> frozenset[Capability]:
        """What a target must be able to do: a chat, unless another kind of work is required."""
        required = self.constraints.required_capabilities
        return required if required & _ENDPOINTS else required | {"chat"}


_asked = msgspec.json.Decoder(Asked)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Best:
    """The best of the candidates by each figure."""

    cost_nanousd: float
    latency_ms: float
    quality: float
    of: int


class Recommend:
    """Answers by the tables and figures of this worker."""

    def __init__(self, *, auth: Auth, router: Router, max_body: int) -> None:
        self._auth = auth
        self._router = router
        self._max_body = max_body

    async def post(self, exchange: Exchange) -> None:
        """Rank the targets; raises `ApiError`."""
        caller = self._auth.identify(exchange)
        asked = parse(await exchange.read_body(self._max_body))
        wishes = wish_list.read(exchange.headers)
        shown = recommended(self._router, caller, asked, wishes)
        await exchange.reply(200, msgspec.json.encode(shown))


def parse(raw: bytes) -> Asked:
    """Read a body; raises `InvalidRequest`."""
    body = Body.parse(raw)
    known = Asked.__struct_fields__
    for name in body.members:
        if name not in known:
            raise InvalidRequest(
                f"{name[:100]!r} has no meaning here; there are {', '.join(known)}", param=name
            )
    return body.decode(_asked)


def recommended(
    router: Router, caller: Caller, asked: Asked, wishes: Wishes = NO_WISHES
) -> dict[str, Any]:
    """The targets that suit, best first, and why each other one does not.

    `wishes` are those of the headers; weights of the body go before theirs. Of what the caller may
    not ask for by any name nothing is said. Raises `EndpointForbidden` and, for wishes that
    cannot be, `InvalidRequest`.
    """
    needed = next(iter(sorted(asked.needs & _ENDPOINTS)), "chat")
    if not caller.may_use(needed):
        raise EndpointForbidden(f"this API key may not use the endpoint {needed!r}")
    names = reachable(router.table, caller)
    decision = _decided(router, [target for target, _ in names], asked, wishes)
    by_target = {target.name: known for target, known in names}
    shown: dict[str, Any] = {
        "object": "recommendation",
        "task": decision.question.analysis and decision.question.analysis.task,
        "analysis": decision.question.analysis and asdict(decision.question.analysis),
        "needs": sorted(asked.needs),
        "input_tokens": asked.input_tokens,
        "expected_output_tokens": decision.question.expected_output,
        "choices": [],
        "rejections": [
            {"target": each.target, "code": each.code, "reason": each.reason}
            for each in decision.outcome.rejections
        ],
    }
    if not isinstance(decision.outcome, Denial):
        shown["choices"] = _choices(decision, decision.outcome.choices, by_target)
    return shown


def reachable(table: TargetTable, caller: Caller) -> list[tuple[Target, list[str]]]:
    """The targets that a caller may get at, each with the names by which it may ask for it."""
    names: dict[str, list[str]] = {name: [name] for name in table.targets}
    for alias, name in table.aliases.items():
        names.get(name, []).append(alias)
    for model in table.models.values():
        for target in model.targets:
            if not constrained(_SMALL, (target.candidate,), (model.constraints,))[1]:
                names.setdefault(target.name, []).append(model.name)
    found: list[tuple[Target, list[str]]] = []
    for name, target in table.targets.items():
        allowed = [each for each in dict.fromkeys(names[name]) if caller.may_name(each)]
        if allowed:
            found.append((target, allowed))
    return found


def _decided(router: Router, targets: Sequence[Target], asked: Asked, wishes: Wishes) -> Decision:
    """As the engine would decide, had these targets one virtual model."""
    model = VirtualModel(
        name="",
        description="",
        policy=_POLICY,
        targets=tuple(targets),
        constraints=asked.constraints,
    )
    body: dict[str, Any] = {
        "model": "recommended",
        "messages": [{"role": "user", "content": asked.task}],
        "stream": asked.stream,
    }
    if asked.max_tokens is not None:
        body["max_tokens"] = asked.max_tokens
    request = msgspec.structs.replace(
        chat.parse(msgspec.json.encode(body)),
        needs=asked.needs,
        text_bytes=4 * asked.input_tokens,
    )
    weights = wishes.weights if asked.weights is None else asked.weights
    return router.decide(model, request, replace(wishes, weights=weights))


def _choices(
    decision: Decision, choices: Sequence[Choice], names: dict[str, list[str]]
) -> list[dict[str, Any]]:
    question = decision.question
    candidates = {candidate.name: candidate for candidate in decision.candidates}
    chosen = [candidates[choice.target] for choice in choices]
    best = _best(question, chosen)
    return [
        {
            **shown_choice(choice, candidate, question),
            "reasons": list(_reasons(question, candidate, best)),
            "ask_for": names[choice.target],
        }
        for choice, candidate in zip(choices, chosen, strict=True)
    ]


def _best(question: Question, candidates: Sequence[Candidate]) -> _Best:
    costs = [candidate.cost_nanousd(question) for candidate in candidates]
    return _Best(
        cost_nanousd=min((cost for cost in costs if cost is not None), default=_NOT_FOUND),
        latency_ms=min((c.latency_ms for c in candidates if c.latency_ms), default=_NOT_FOUND),
        quality=max((_quality(question, c) or _NOT_FOUND for c in candidates), default=_NOT_FOUND),
        of=len(candidates),
    )


def _quality(question: Question, candidate: Candidate) -> float | None:
    assert question.analysis is not None
    return candidate.quality_of(question.analysis.task)


def _reasons(question: Question, candidate: Candidate, best: _Best) -> Iterable[str]:
    """What speaks for it and against it, in words, a line each."""
    assert question.analysis is not None
    task, domain = question.analysis.task, question.analysis.domain
    made_for = sorted(candidate.specialisations & {task, domain})
    if made_for:
        yield f"made for {', '.join(made_for)}"
    quality, cost = _quality(question, candidate), candidate.cost_nanousd(question)
    if quality is None:
        yield "its quality is not declared"
    else:
        first = f", the best of {best.of}" if quality == best.quality and best.of > 1 else ""
        what = f"for {task}" if task in candidate.quality else "in general"
        yield f"quality {quality:g} {what}{first}"
    if cost is None:
        yield "its price is not known"
    else:
        first = f", the cheapest of {best.of}" if cost == best.cost_nanousd and best.of > 1 else ""
        yield f"about ${cost / 1e9:.6f} a request{first}"
    if candidate.latency_ms is None:
        yield "its latency is neither declared nor measured"
    else:
        is_first = candidate.latency_ms == best.latency_ms and best.of > 1
        first = f", the fastest of {best.of}" if is_first else ""
        yield f"{candidate.latency_ms:.0f} ms to the first token{first}"
    if candidate.reliability is not None:
        yield f"{candidate.reliability:.1%} of its attempts do not fail"
