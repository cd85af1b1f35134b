"""What a local text model does for those who speak for it: the contract of an engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are drawn; None stands for what the model's runtime does by itself.

    `grammar` is one of the engine's, that the text must follow. With `top_logprobs` each token
    tells its probability and that of so many others. `shows_control` gives control tokens as text,
    which some models begin a tool call with.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    grammar: str | None = None
    top_logprobs: int | None = None
    shows_control: bool = False


@dataclass(frozen=True, slots=True)
class Likely:
    """A token that could have been drawn, and the natural logarithm of its probability."""

    text: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was drawn: its bytes, which may be a part of a character."""

    text: bytes
    logprob: float | None = None
    others: Sequence[Likely] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """A text that may be said: JSON of a schema, between two fixed texts."""

    before: str = ""
    schema: Mapping[str, Any]
    after: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's tokens; with `is_thinking` it ends in the middle of what the model thinks."""

    tokens: Sequence[int]
    is_thinking: bool = False


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""For models that come without a template: the format that most small ones were taught."""


class Engine(Protocol):
    """A model; used in one thread only.

    `read` and `generate` raise `turns.Abandoned` when nobody waits for them any more.
    """

    @property
    def context(self) -> int:
        """How many tokens a prompt and its answer may have together."""

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""

    @property
    def template(self) -> str:
        """The source of the template that messages are put into."""

    def render(self, messages: Sequence[Mapping[str, Any]], /, **variables: Any) -> Prompt:
        """The prompt for messages; raises `ValueError` where the template refuses them."""

    def grammar_of(self, forms: Sequence[Form]) -> str:
        """The grammar of texts in one of these forms; raises `ValueError` where there is none."""

    def read(self, prompt: Sequence[int]) -> int:
        """Take in a prompt; how many of its tokens were known from the last one."""

    def generate(self, sampling: Sampling) -> Iterator[Token]:
        """What follows the prompt, until the model ends; raises `ValueError` for its grammar."""
