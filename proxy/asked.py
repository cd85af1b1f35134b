"""What was asked, as policies saw it: all that it takes to ask them again, and not a word of it.

`Asked` is what is written down of a request. What was said in it stands apart (`Prompt`), and is
written down only where the operator wants that.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from policies.analysis import analyse
from policies.base import NO_PROMPT, Analysis, Capability, Denial, Prompt, Reading
from policies.constraints import ESTIMATE_BYTES_PER_TOKEN
from policies.difficulty import shipped
from proxy.routing import Decision, Told
from proxy.wishes import NO_WISHES, Wishes


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request to a virtual model, and what was decided."""

    request_id: str
    at: float
    """Unix seconds."""
    model: str
    """The virtual model that was asked for."""
    key_id: str
    scopes: tuple[str, ...]
    """Of the caller and of what the request said of itself."""
    capability: Capability
    needs: frozenset[Capability]
    input_tokens: int
    """By the estimate for routing."""
    fewest_tokens: int | None = None
    """What the input could not be shorter than, where that was looked at."""
    max_output_tokens: int | None = None
    stream: bool = False
    turns: int = 1
    conversation: int | None = None
    turn: int = 0
    wishes: Wishes = NO_WISHES
    budget_left: float | None = None
    """None where there was no hard budget, or nobody looked."""
    tier: str = ""
    """What a spent budget had brought the model down to."""
    swap: int | None = None
    """What had moved the model."""
    decision: str
    revision: int
    policy: str = ""
    target: str = ""
    """The first of the route; empty where the request was refused."""
    analysis: Analysis | None = None
    """With the readings there always, once it is written down."""
    readings: tuple[Reading, ...] = ()

    def completed(self, prompt: Prompt, analysis: Analysis | None) -> Asked:
        """With what its prompt is taken to be, and how it reads, whatever the policy has read."""
        if analysis is None:
            analysis = analyse(
                prompt,
                needs=self.needs,
                input_tokens=self.input_tokens,
                output_tokens=self.max_output_tokens,
                stream=self.stream,
            )
        readings = shipped().readings(prompt)
        return msgspec.structs.replace(self, analysis=analysis, readings=readings)

    def told(self, prompt: Prompt | None) -> Told:
        """What policies may be told of it; `prompt` is None where it was not kept."""
        assert self.analysis is not None
        said = NO_PROMPT if prompt is None else prompt
        return Told(
            prompt=replace(said, turns=self.turns, readings=self.readings),
            analysis=self.analysis,
            conversation=self.conversation,
            turn=self.turn,
        )

    # --- as the router sees a request ----------------------------------------------------------

    def texts(self) -> tuple[list[str], int]:
        """No text; what of its length is above the least that it can be."""
        above = 0 if self.fewest_tokens is None else self.input_tokens - self.fewest_tokens
        return [], above * ESTIMATE_BYTES_PER_TOKEN

    def prompt(self) -> Prompt:
        """Nothing: see `told`."""
        return NO_PROMPT


def asked(
    decision: Decision,
    *,
    request_id: str,
    at: float,
    key_id: str,
    scopes: tuple[str, ...],
    capability: Capability,
    prompt: Prompt,
    conversation: int | None,
    wishes: Wishes,
    tier: str,
    swap: int | None,
) -> Asked:
    """What is written down of a request that was just decided on."""
    question, outcome = decision.question, decision.outcome
    route = None if isinstance(outcome, Denial) else outcome
    return Asked(
        request_id=request_id,
        at=at,
        model=decision.model,
        key_id=key_id,
        scopes=scopes,
        capability=capability,
        needs=question.needs,
        input_tokens=question.input_tokens,
        fewest_tokens=question.fewest_tokens,
        max_output_tokens=question.output_tokens,
        stream=question.stream,
        turns=prompt.turns,
        conversation=conversation,
        turn=question.turn,
        wishes=wishes,
        budget_left=question.budget_left,
        tier=tier,
        swap=swap,
        decision=decision.id,
        revision=decision.revision,
        policy="" if route is None else route.policy,
        target="" if route is None else route.choices[0].target,
    )
