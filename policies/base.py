"""The contract of a decision: what is asked + a snapshot of the targets -> a route or a denial.

A policy is a pure function. It has no clock, does no I/O, draws no lots, logs nothing and keeps
nothing between calls, so that the same question gets the same answer when it is asked dry, live or
in a replay. What it needs besides comes with the question or with the candidates: it says which of
that it reads, and a policy that reads nothing costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from policies.strategies import Strategy
from policies.weights import Weights

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

Task = Literal[
    "chat",
    "coding",
    "reasoning",
    "extraction",
    "summarisation",
    "translation",
    "creative",
    "vision",
    "speech",
    "embedding",
]
"""What kind of work a request is; `reasoning` is mathematics too, `chat` whatever else."""

Complexity = Literal["simple", "medium", "complex", "very_complex"]

Domain = Literal[
    "general",
    "software",
    "mathematics",
    "science",
    "medicine",
    "law",
    "finance",
    "history",
    "business",
]

Modality = Literal["text", "image", "audio", "file"]

Latency = Literal["low", "normal", "high"]

Sense = Literal["prompt", "conversation", "budget", "live", "weights"]
"""What a policy may read: the `Prompt` with its `Analysis`, which conversation it belongs to, the
share of the budget that is left, measured figures of the candidates, the weights that a caller asks
for."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is kept of a text to judge its difficulty by: no word of it."""

    shape: tuple[float, ...]
    """What `policies.prompt_features.NAMES` name, each from 0 to 1."""
    words: float
    """What its words together say, by the weights that are shipped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """Pieces of a prompt, a few thousand characters at most, however long it is.

    `text` is what was said last by the user, `opening` what was said first, `system` the
    instructions; `turns` counts the messages. Of a request that is asked about again the texts may
    be gone, and `readings` of `text` and `opening` stand for them.
    """

    text: str
    opening: str = ""
    system: str = ""
    turns: int = 1
    readings: tuple[Reading, ...] = ()


NO_PROMPT = Prompt(text="", turns=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """What a request is taken to be (see `policies.analysis`)."""

    task: Task
    complexity: Complexity
    domain: Domain
    language: str
    """ISO 639-1, or "und" where there is too little to tell."""
    modality: Modality
    output_tokens: int
    """How long the answer will be, about."""
    latency_sensitivity: Latency


class Question(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a request asks of a target.

    `input_tokens` is the routing estimate (UTF-8 bytes / 4), never used for money; `fewest_tokens`
    is what the input cannot be shorter than, where that was looked at; `output_tokens` the maximum
    the client set, if it set one. What follows them is there where the policy reads it.
    """

    needs: frozenset[Capability]
    input_tokens: int
    output_tokens: int | None = None
    fewest_tokens: int | None = None
    stream: bool = False
    prompt: Prompt = NO_PROMPT
    analysis: Analysis | None = None
    weights: Weights | None = None
    """The caller's own, which go before those of the configuration."""
    budget_left: float | None = None
    """Of the caller's hard budget that is nearest its limit: 0 to 1; None where there is none."""
    conversation: int | None = None
    """The same for all requests of one conversation; None for what is none."""
    turn: int = 0
    """Counts the questions: what draws lots and takes turns goes by it."""

    @property
    def expected_output(self) -> int:
        """How many tokens of output to reckon with: the client's maximum goes before any guess."""
        if self.output_tokens is not None:
            return self.output_tokens
        return DEFAULT_EXPECTED_OUTPUT if self.analysis is None else self.analysis.output_tokens


# Chat answers average a few hundred tokens; only the ratio to the input matters for an ordering.
DEFAULT_EXPECTED_OUTPUT = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A target as a policy sees it. Prices are nano-USD per million tokens; None is unknown.

    `fee_nanousd` is what a request costs besides tokens: one that asks for a single image or
    search, a minute of sound or a thousand characters. `latency_ms` (to the first token) and
    `reliability` (0 to 1) are declared, or measured where the policy reads live figures;
    `in_flight` counts the requests that this worker has open there. `quality` is declared, by task
    or `general`, from 0 to 1.
    """

    name: str
    capabilities: frozenset[Capability]
    context_length: int | None
    input_nanousd: int | None
    output_nanousd: int | None
    vector_space: str | None = None
    demonstration: bool = False
    fee_nanousd: int = 0
    backend: str = ""
    """What runs it: the backend of a local model, else the name of its provider."""
    region: str | None = None
    zero_retention: bool = False
    memory_mb: int | None = None
    """What a local model takes; 0 for what runs elsewhere."""
    gpu_memory_mb: int | None = 0
    """Of GPUs with memory of their own, likewise."""
    left_memory_mb: int | None = None
    left_gpu_memory_mb: int | None = None
    """Of what local models may take, what is left once it is loaded; None for what runs elsewhere,
    and where nobody measured it."""
    quality: Mapping[str, float] = field(default_factory=dict, hash=False)
    specialisations: frozenset[str] = frozenset()
    """The tasks and domains that it is made for."""
    latency_ms: float | None = None
    tokens_per_second: float | None = None
    reliability: float | None = None
    in_flight: int = 0

    def cost_nanousd(self, question: Question) -> int | None:
        """Expected price of the question here, rounded up; None where no price is known."""
        return self.price_nanousd(question.input_tokens, question.expected_output)

    def price_nanousd(self, input_tokens: int, output_tokens: int) -> int | None:
        """The price of so many tokens here, rounded up; None where none is known."""
        if self.input_nanousd is None or self.output_nanousd is None:
            return None
        total = input_tokens * self.input_nanousd + output_tokens * self.output_nanousd
        return -(-total // 1_000_000) + self.fee_nanousd

    def quality_of(self, task: Task) -> float | None:
        """How good it is at a task: as declared for that, in general, or on average."""
        known = self.quality.get(task, self.quality.get("general"))
        if known is None and self.quality:
            return sum(self.quality.values()) / len(self.quality)
        return known


class Choice(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A target on a route, and why it stands where it stands.

    `score` is what it was ordered by, where that is one number, and `scores` its criteria.
    """

    target: str
    reason: str
    score: float | None = None
    scores: Mapping[str, float] | None = None


class Rejection(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A target that was left out, and why. `code` is a stable word for logs and tests."""

    target: str
    code: str
    reason: str


class Route(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a request goes: at least one target, in the order to try them, and who was left out."""

    policy: str
    choices: tuple[Choice, ...]
    rejections: tuple[Rejection, ...] = ()
    strategy: Strategy | None = None
    """How they are asked; None: one after the other, until one answers."""
    spare: frozenset[str] = frozenset()
    """Of the targets, those that no strategy is for: they stand in where it finds no answer."""


class Denial(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """No target may take the request; the rejections say why, target by target."""

    rejections: tuple[Rejection, ...]


class Policy(Protocol):
    """Orders the candidates that passed every hard constraint.

    A class with options has their type, a `msgspec.Struct`, as its `Options`, and is made with a
    value of it (see `policies.registry`); one without is made with nothing. Where its options name
    targets it has them as `targets`, which are checked with the configuration. One whose targets
    are not to be asked one after the other says how as its `strategy` (see `policies.strategies`).
    """

    @property
    def name(self) -> str:
        """The policy's name in `router.yaml` and in the ledger."""

    @property
    def reads(self) -> frozenset[Sense]:
        """What it needs to be told besides tokens, capabilities and prices."""

    def decide(self, question: Question, candidates: Sequence[Candidate]) -> tuple[Choice, ...]:
        """The candidates to try, in order. `candidates` is not empty and in configuration order."""
