"""From a request to a decision: what policies are told, and what they answer.

The same code decides live, when it is asked what it would do, and by itself on the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import chain
from operator import attrgetter
from typing import Protocol

import msgspec

from policies.analysis import analyse
from policies.base import (
    NO_PROMPT,
    Analysis,
    Candidate,
    Choice,
    Denial,
    Prompt,
    Question,
    Rejection,
    Route,
)
from policies.constraints import (
    DENSEST_BYTES_PER_TOKEN,
    ESTIMATE_BYTES_PER_TOKEN,
    NO_CONSTRAINTS,
    Constraints,
    Fitting,
    barred,
    constrained,
    eligible,
    preferred_first,
)
from policies.rules import Circumstances, Rule
from policies.strategies import Cascade, Consensus, Strategy
from policies.weights import Weights
from proxy.auth import Caller
from proxy.causes import Cause
from proxy.circuits import Circuits
from proxy.clock import Clock
from proxy.config import ColdStart
from proxy.errors import InvalidRequest, UnknownModel
from proxy.targets import Target, TargetTable, VirtualModel
from proxy.wire.dialect import Asks
from proxy.wishes import NO_WISHES, WEIGHTS_HEADER, Wishes

# In C: a route may have hundreds of targets.
_target = attrgetter("target")
_name = attrgetter("name")
_target_and_reason = attrgetter("target", "reason")
_target_and_code = attrgetter("target", "code")


class Decision(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A decision with all that it was made by."""

    model: str
    """The virtual model that was asked for; "" where a target was named."""
    question: Question
    candidates: tuple[Candidate, ...]
    outcome: Route | Denial
    revision: int
    cold_start: ColdStart = "wait"
    rules: tuple[str, ...] = ()
    """The names of the rules that held."""
    is_last_resort: bool = False
    """Whether all of its targets should be left alone, and one is tried all the same."""
    others: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Of targets that came by another virtual model than the one that was asked for: that one."""
    fallbacks: Mapping[Cause, tuple[Choice, ...]] = msgspec.field(default_factory=dict)
    """Where the request goes on that failed of a cause: what is left of the model's `fallbacks`."""

    def model_of(self, target: str) -> str:
        """The virtual model by which a target came, whose budgets pay for it."""
        return self.others.get(target, self.model)

    @property
    def id(self) -> str:
        """The same for the same question and outcome, whoever asks and in whichever process."""
        # Not a `cached_property`, which takes a lock.
        known: str | None = self.__dict__.get("id")
        return known or self.__dict__.setdefault("id", self._digest())

    def _digest(self) -> str:
        question, outcome = self.question, self.outcome
        chosen = outcome.choices if isinstance(outcome, Route) else ()
        said = (
            f"{self.revision}\n{self.model}\n{question.input_tokens}\n{question.output_tokens}\n"
            f"{question.analysis}\n{question.weights}\n{question.budget_left}",
            *chain.from_iterable(map(_target_and_reason, chosen)),
            *chain.from_iterable(map(_target_and_code, outcome.rejections)),
        )
        return blake2b("\n".join(said).encode("utf-8", "replace"), digest_size=8).hexdigest()


class Shows(Protocol):
    """What is known of targets besides what is declared: what was measured, by a worker or ever."""

    def candidate(self, target: Target) -> Candidate:
        """The target as policies see it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What policies may be told of a request that was recorded, in place of its own words."""

    prompt: Prompt
    analysis: Analysis
    conversation: int | None
    turn: int


class Router:
    """Decides by the table and the figures of the moment. One per worker."""

    def __init__(
        self,
        *,
        table: Callable[[], TargetTable],
        figures: Shows,
        circuits: Circuits,
        secret: bytes,
        clock: Clock,
    ) -> None:
        self._table = table
        self._circuits = circuits
        self._clock = clock
        self._figures = figures
        self._secret = secret
        self._turn = 0

    @property
    def table(self) -> TargetTable:
        """The target table of this moment."""
        return self._table()

    def find(self, caller: Caller, name: str) -> Target | VirtualModel:
        """What a name stands for; raises `UnknownModel`."""
        found = self._table().find(name)
        if found is None or not caller.may_name(name):
            raise UnknownModel(
                f"the model {name[:100]!r} does not exist or this key may not use it",
                param="model",
            )
        return found

    def take_turn(self) -> None:
        """A request is on its way: the next one is another's turn."""
        self._turn += 1

    def decide(
        self,
        found: Target | VirtualModel,
        request: Asks,
        wishes: Wishes = NO_WISHES,
        *,
        caller_id: str = "",
        scopes: tuple[str, ...] = (),
        budget_left: float | None = None,
        at: float | None = None,
        told: Told | None = None,
    ) -> Decision:
        """The decision on a request; `at` is in Unix seconds, now if it is not given.

        What policies are told of a request that was recorded is `told`.

        Raises `InvalidRequest` for wishes that nothing here heeds.
        """
        if isinstance(found, Target):
            return self._named(found, request, wishes)
        _refuse_idle_weights(found, wishes)
        prompt, analysis = self._read(found, request, told)
        model = found
        rules: tuple[Rule, ...] = ()
        if found.rules:
            circumstances = Circumstances(
                scopes=scopes,
                input_tokens=request.input_tokens,
                analysis=analysis,
                budget_left=budget_left,
                at=self._clock.time() if at is None else at,
            )
            rules = tuple(rule for rule in found.rules if rule.when.holds(circumstances))
            places = (found.in_place[rule.name] for rule in rules if rule.name in found.in_place)
            model = next(places, found)
        weights, constraints = None, found.own_constraints
        if rules or wishes is not NO_WISHES:
            weights = _weights(found, wishes, rules)
            constraints = _constraints(found, wishes, rules)
        question = Question(
            needs=request.needs,
            input_tokens=request.input_tokens,
            output_tokens=request.max_output_tokens,
            fewest_tokens=_fewest_tokens(request, model.longest_context),
            stream=request.stream,
            prompt=prompt,
            analysis=analysis,
            weights=weights,
            budget_left=budget_left,
            conversation=(
                conversation_of(self._secret, caller_id, prompt)
                if told is None
                else told.conversation
            ),
            turn=self._turn if told is None else told.turn,
        )
        table = self._table()
        real_targets = table.has_real_targets
        vector_space = model.vector_space if request.capability == "embeddings" else None
        fitting = partial(
            eligible,
            question,
            real_targets=real_targets,
            vector_space=vector_space,
            constraints=constraints,
        )
        if constraints or "live" in found.reads:
            candidates = tuple(map(self._figures.candidate, model.targets))
            accepted, rejections = fitting(candidates)
        else:
            candidates = model.candidates
            accepted, rejections = model.screen.eligible(
                question, real_targets=real_targets, vector_space=vector_space
            )
        is_last_resort = False
        if not self._circuits.all_in:
            accepted, left_out, is_last_resort = self._circuits.narrow(accepted)
            rejections = (*rejections, *left_out)
        if constraints and model.strategy is not None:
            rejections = (*rejections, *self._kept_out(model.strategy, question, constraints))
        outcome = _ordered(model, question, accepted, rejections, constraints, wishes)
        fallbacks: Mapping[Cause, tuple[Choice, ...]] = {}
        if model.fallbacks and wishes.allows_fallbacks:
            fallbacks, more = self._fallbacks(model, fitting)
            outcome = _instead(outcome, model, fallbacks)
            candidates = (*candidates, *(c for c in more if c not in candidates))
        return Decision(
            model=found.name,
            question=question,
            candidates=candidates,
            outcome=outcome,
            revision=table.revision,
            cold_start=found.cold_start,
            is_last_resort=is_last_resort,
            rules=tuple(map(_name, rules)),
            fallbacks=fallbacks,
        )

    def _fallbacks(
        self, model: VirtualModel, fitting: Callable[[Sequence[Candidate]], Fitting]
    ) -> tuple[Mapping[Cause, tuple[Choice, ...]], Sequence[Candidate]]:
        """The targets of each chain that can and may answer, and all of them together."""
        chains: dict[Cause, tuple[Choice, ...]] = {}
        found: dict[str, Candidate] = {}
        for cause, targets in model.fallbacks.items():
            accepted, _ = fitting(tuple(map(self._figures.candidate, targets)))
            reason = f"the fallback for {cause}"
            chains[cause] = tuple(Choice(target=c.name, reason=reason) for c in accepted)
            found.update((candidate.name, candidate) for candidate in accepted)
        return chains, tuple(found.values())

    def _read(
        self, found: VirtualModel, request: Asks, told: Told | None
    ) -> tuple[Prompt, Analysis | None]:
        """As much of a request as the policy and the rules of a model read."""
        if not found.reads_prompts:
            return NO_PROMPT, None
        if told is not None:
            return told.prompt, told.analysis if "prompt" in found.reads else None
        prompt = request.prompt()
        if "prompt" not in found.reads:
            return prompt, None
        return prompt, analyse(
            prompt,
            needs=request.needs,
            input_tokens=request.input_tokens,
            output_tokens=request.max_output_tokens,
            stream=request.stream,
        )

    def _kept_out(
        self, strategy: Strategy, question: Question, constraints: tuple[Constraints, ...]
    ) -> tuple[Rejection, ...]:
        """Why a judge may not be shown what is asked and answered; nothing where it may."""
        judge = strategy.judge if isinstance(strategy, Cascade | Consensus) else None
        target = None if judge is None else self.table.target(judge.target)
        if target is None:
            return ()
        found = barred(question, target.candidate, constraints)
        return () if found is None else (found,)

    def _named(self, target: Target, request: Asks, wishes: Wishes) -> Decision:
        """Only what kind of model it is is checked, and what the caller wishes.

        What else it can do its provider knows best. Raises `InvalidRequest`.
        """
        if wishes.weights is not None:
            raise InvalidRequest(
                f"{WEIGHTS_HEADER.decode()}: {target.name!r} is a target, and leaves no choice; "
                "leave the header out",
                param=WEIGHTS_HEADER.decode(),
            )
        outcome: Route | Denial = target.route_for(request.capability)
        question = Question(
            needs=frozenset({request.capability}),
            input_tokens=request.input_tokens,
            output_tokens=request.max_output_tokens,
        )
        candidates: tuple[Candidate, ...] = (target.candidate,)
        if wishes.constraints:
            candidates = (self._figures.candidate(target),)
            _, rejections = constrained(question, candidates, wishes.constraints)
            if rejections:
                outcome = Denial(rejections=tuple(rejections))
        return Decision(
            model="",
            question=question,
            candidates=candidates,
            outcome=outcome,
            revision=self.table.revision,
        )


def conversation_of(secret: bytes, caller_id: str, prompt: Prompt) -> int | None:
    """What a conversation begins with, and whose it is, as a number that nobody can choose.

    Keyed, so that no caller can make conversations that all go to one target.
    """
    if not prompt.opening:
        return None
    opening = f"{caller_id}\n{prompt.system}\n{prompt.opening}".encode("utf-8", "replace")
    return int.from_bytes(blake2b(opening, key=secret[:64], digest_size=8).digest())


def _refuse_idle_weights(found: VirtualModel, wishes: Wishes) -> None:
    if wishes.weights is not None and "weights" not in found.policy.reads:
        raise InvalidRequest(
            f"{WEIGHTS_HEADER.decode()}: the policy {found.policy.name!r} of {found.name!r} "
            "takes no weights; leave the header out",
            param=WEIGHTS_HEADER.decode(),
        )


def _weights(found: VirtualModel, wishes: Wishes, rules: Iterable[Rule]) -> Weights | None:
    """The request's own, or those of the first rule that has any for a policy that takes them."""
    if wishes.weights is not None or "weights" not in found.policy.reads:
        return wishes.weights
    return next((rule.weights for rule in rules if rule.weights is not None), None)


def _constraints(
    found: VirtualModel, wishes: Wishes, rules: Iterable[Rule]
) -> tuple[Constraints, ...]:
    """Those of the model, of the rules and of the request: all of them hold."""
    said = (found.constraints, *(rule.constraints for rule in rules), *wishes.constraints)
    return tuple(each for each in said if each is not NO_CONSTRAINTS)


def _ordered(
    model: VirtualModel,
    question: Question,
    accepted: tuple[Candidate, ...],
    rejections: tuple[Rejection, ...],
    constraints: tuple[Constraints, ...],
    wishes: Wishes,
) -> Route | Denial:
    """The candidates as the policy orders them, then as the constraints and the request prefer."""
    policy = model.policy
    if not accepted:
        return Denial(rejections=rejections)
    choices = policy.decide(question, accepted)
    if not choices or not set(map(_name, accepted)).issuperset(map(_target, choices)):
        raise RuntimeError(f"the policy {policy.name!r} chose none of its candidates, or others")
    if constraints:
        choices = preferred_first(choices, accepted, constraints)
        choices = wishes.ordered(choices, accepted, question)
        if not choices:
            return Denial(rejections=(*rejections, *map(_unwanted, accepted)))
    return Route(
        policy=policy.name, choices=choices, rejections=rejections, strategy=model.strategy
    )


def _instead(
    outcome: Route | Denial, model: VirtualModel, fallbacks: Mapping[Cause, tuple[Choice, ...]]
) -> Route | Denial:
    """What is too long for every target of a model begins with those that are for that."""
    longer = fallbacks.get("context_exceeded", ())
    if isinstance(outcome, Route) or not longer:
        return outcome
    if all(rejection.code != "context_length" for rejection in outcome.rejections):
        return outcome
    return Route(policy=model.policy.name, choices=longer, rejections=outcome.rejections)


def _unwanted(candidate: Candidate) -> Rejection:
    return Rejection(
        target=candidate.name, code="excluded", reason="it is not in the order that is asked for"
    )


def or_else(decision: Decision, other: Decision) -> Decision:
    """A decision with the targets of another one after its own; before a last resort."""
    first, then = decision.outcome, other.outcome
    if isinstance(then, Denial):
        return decision
    known = {candidate.name for candidate in decision.candidates}
    choices = () if isinstance(first, Denial) else first.choices
    chosen = {choice.target for choice in choices}
    added = tuple(choice for choice in then.choices if choice.target not in chosen)
    comes_first = decision.is_last_resort and not other.is_last_resort
    outcome = msgspec.structs.replace(
        then if isinstance(first, Denial) else first,
        choices=(*added, *choices) if comes_first else (*choices, *added),
        rejections=first.rejections,
        spare=then.spare if isinstance(first, Denial) else first.spare | {c.target for c in added},
    )
    others = {choice.target: other.model for choice in added} if other.model else {}
    candidates = (c for c in other.candidates if c.name not in known)
    return msgspec.structs.replace(
        decision,
        outcome=outcome,
        candidates=(*decision.candidates, *candidates),
        is_last_resort=decision.is_last_resort and other.is_last_resort,
        others={**others, **decision.others},
    )


def _fewest_tokens(request: Asks, longest_context: int | None) -> int | None:
    """What the input cannot be shorter than, where it matters: where no context seems long enough.

    Plain ASCII has about the four bytes a token that the estimate goes by, but for runs of
    spaces; other scripts have up to nine.
    """
    if (
        longest_context is None
        or request.input_tokens <= longest_context
        or request.capability != "chat"
    ):
        return None
    texts, too_many_bytes = request.texts()
    for text in texts:
        plain = len(text.encode("ascii", "ignore"))
        other = len(text.encode("utf-8", "replace")) - plain
        too_many_bytes -= plain - 2 * text.count("  ")
        too_many_bytes -= other * ESTIMATE_BYTES_PER_TOKEN // DENSEST_BYTES_PER_TOKEN
    return request.input_tokens - too_many_bytes // ESTIMATE_BYTES_PER_TOKEN
