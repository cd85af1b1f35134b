"""The contract of a decision: what is asked + a snapshot of the targets -> a route or a denial.

A policy is a pure function. It has no clock, does no I/O, logs nothing and keeps nothing between
calls, so that the same question gets the same answer when it is asked dry, live or in a replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Capability = Literal[
    "chat",
    "embeddings",
    "tools",
    "vision",
    "audio",
    "files",
    "json_schema",
    "logprobs",
    "n",
    "rerank",
    "moderations",
    "images",
    "transcriptions",
    "speech",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """Pieces of a prompt, a few thousand characters at most, however long it is.

    `text` is what was said last by the user, `opening` what was said first.
    """

    text: str
    opening: str = ""


NO_PROMPT = Prompt(text="")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a request asks of a target.

    `input_tokens` is the routing estimate (UTF-8 bytes / 4), never used for money;
    `output_tokens` the maximum the client set, if it set one. `prompt` is there where the policy
    reads it.
    """

    needs: frozenset[Capability]
    input_tokens: int
    output_tokens: int | None = None
    prompt: Prompt = NO_PROMPT


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A target as a policy sees it. Prices are nano-USD per million tokens; None is unknown.

    `fee_nanousd` is what a request costs besides tokens: one that asks for a single image or
    search, a minute of sound or a thousand characters.
    """

    name: str
    capabilities: frozenset[Capability]
    context_length: int | None
    input_nanousd: int | None
    output_nanousd: int | None
    vector_space: str | None = None
    demonstration: bool = False
    fee_nanousd: int = 0

    def cost_nanousd(self, question: Question) -> int | None:
        """Expected price of the question here, rounded up; None where no price is known."""
        if self.input_nanousd is None or self.output_nanousd is None:
            return None
        expected_output = question.output_tokens
        if expected_output is None:
            expected_output = DEFAULT_EXPECTED_OUTPUT
        total = question.input_tokens * self.input_nanousd + expected_output * self.output_nanousd
        return -(-total // 1_000_000) + self.fee_nanousd


# Chat answers average a few hundred tokens; only the ratio to the input matters for an ordering.
DEFAULT_EXPECTED_OUTPUT = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A target on a route, and why it stands where it stands."""

    target: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A target that was left out, and why. `code` is a stable word for logs and tests."""

    target: str
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Where a request goes: at least one target, in the order to try them, and who was left out."""

    policy: str
    choices: tuple[Choice, ...]
    rejections: tuple[Rejection, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Denial:
    """No target may take the request; the rejections say why, target by target."""

    rejections: tuple[Rejection, ...]


class Policy(Protocol):
    """Orders the candidates that passed every hard constraint."""

    @property
    def name(self) -> str:
        """The policy's name in `router.yaml` and in the ledger."""

    def decide(self, question: Question, candidates: Sequence[Candidate]) -> tuple[Choice, ...]:
        """The candidates to try, in order. `candidates` is not empty and in configuration order."""
