"""MLX as an engine: one model, and what it has read, through mlx-lm.

Sources: mlx-lm's `generate.generate_step` and `models.cache`; transformers' documentation, "Chat
templates".
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jinja2
import llguidance.hf
import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import LRUPromptCache, make_prompt_cache, trim_prompt_cache
from transformers import PreTrainedTokenizerBase

from adapters.children import mlx_drawing, mlx_model, thinking
from adapters.children.generating import CHATML, Form, Prompt, Sampling, Token
from adapters.children.likeliest import likeliest
from adapters.children.turns import Abandoned, ModelThread

# A context takes its memory as it fills; what newer models were trained for is more than most
# machines have.
_CONTEXT = 8192
# Prompts are kept within a part of what the model itself takes, or in so much at least.
_KEPT_PART = 4
_KEPT_BYTES = 256 << 20
# A prompt is kept for one model, the only one there is.
_MODEL = "model"
# What transformers itself takes; all else is the template's.
_NOT_FOR_TEMPLATES = frozenset(
    inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
) - {"tools", "documents"}


class MlxEngine:
    """A loaded model; see `generating.Engine`."""

    def __init__(
        self, folder: Path, thread: ModelThread, *, context: int | None, kept_bytes: int | None
    ) -> None:
        """To be made in the model's thread. Raises `OSError` and `ValueError` as `load` does."""
        self._thread = thread
        loaded = mlx_model.load(folder)
        self._network, self._tokenizer = loaded.network, loaded.tokenizer
        self.context = mlx_model.context_of(loaded.config, context, _CONTEXT)
        self.vocabulary = int(self._network(mx.array([[0]])).shape[-1])
        self.template = _template(self._tokenizer)
        self._ends = frozenset(self._tokenizer.eos_token_ids)
        self._words = _words(self._tokenizer, self.vocabulary)
        self._is_trimmed = getattr(self._tokenizer.detokenizer, "trim_space", False)
        self._defaults = mlx_drawing.defaults(folder)
        if kept_bytes is None:
            kept_bytes = max(loaded.nbytes // _KEPT_PART, _KEPT_BYTES)
        self._kept = LRUPromptCache(max_bytes=kept_bytes)
        self._tokens: list[int] = []
        self._states: list[Any] = []

    def memory(self) -> Mapping[str, int]:
        """Bytes held; may be asked in any thread."""
        return {**mlx_model.memory(), "kept_prompts_bytes": self._kept.nbytes}

    def render(self, messages: Sequence[Mapping[str, Any]], /, **variables: Any) -> Prompt:
        """See `generating.Engine`."""
        if taken := _NOT_FOR_TEMPLATES & variables.keys():
            raise ValueError(f"{min(taken)!r} is no variable of a template")
        try:
            prompt: str = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, **variables
            )
        except (jinja2.TemplateError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"the model's template refuses them: {error}") from None
        tokens = mlx_model.tokens_of(self._tokenizer, prompt, special=False)
        return Prompt(tokens, thinking.is_begun(prompt))

    def grammar_of(self, forms: Sequence[Form]) -> str:
        """See `generating.Engine`; llguidance refuses the schemas that it cannot keep to."""
        grammar = mlx_drawing.grammar_of(forms)
        mlx_drawing.Grammar(self._words, self.vocabulary, grammar)
        return grammar

    def read(self, prompt: Sequence[int]) -> int:
        """See `generating.Engine`; of all prompts that are kept, the most similar one helps."""
        tokens = list(prompt)
        states, known = self._recall(tokens)

        def step(part: Any) -> None:
            self._network(part, cache=states)
            mx.eval([state.state for state in states])

        # The last token is read when the first is drawn.
        mlx_model.in_steps(tokens[known:-1], step, self._thread)
        self._tokens, self._states = tokens, states
        return known

    def _recall(self, prompt: list[int]) -> tuple[list[Any], int]:
        """The states after the beginning of a prompt, and how long that is."""
        states, rest = self._kept.fetch_nearest_cache(_MODEL, prompt)
        if states is not None and not rest:
            rest = prompt[-1:]
            if not trim_prompt_cache(states, 1):  # a recurrent model cannot go back
                states = None
        if states is None:
            return make_prompt_cache(self._network), 0
        return states, len(prompt) - len(rest)

    def generate(self, sampling: Sampling) -> Iterator[Token]:
        """See `generating.Engine`."""
        grammar = None
        if sampling.grammar is not None:
            grammar = mlx_drawing.Grammar(self._words, self.vocabulary, sampling.grammar)
        drawing = mlx_drawing.Drawing(sampling, self._defaults, self.vocabulary, grammar)
        return self._remembered(self._speak(drawing, sampling))

    def _remembered(self, said: Iterator[Token]) -> Iterator[Token]:
        """What is said, and keep it with its prompt, unless it failed half way through a token."""
        try:
            yield from said
        except (GeneratorExit, Abandoned):
            self._keep()
            raise
        self._keep()

    def _keep(self) -> None:
        self._kept.insert_cache(_MODEL, self._tokens, self._states)
        self._states = []

    def _speak(self, drawing: mlx_drawing.Drawing, sampling: Sampling) -> Iterator[Token]:
        steps = generate_step(
            mx.array(self._tokens[-1:]),
            self._network,
            stream=mx.default_stream(mx.default_device()),
            max_tokens=-1,
            sampler=drawing.sampler,
            logits_processors=drawing.processors,
            prompt_cache=self._states,
        )
        is_first = self._is_trimmed
        with closing(steps):
            for drawn, _ in steps:
                # Its states are computed already: the next token's are on their way.
                self._tokens.append(drawn)
                self._thread.check()
                if drawn in self._ends:
                    return
                token = self._token(drawn, drawing, sampling, is_first=is_first)
                is_first = False
                yield token

    def _token(
        self, drawn: int, drawing: mlx_drawing.Drawing, sampling: Sampling, *, is_first: bool
    ) -> Token:
        text = self._bytes(drawn, shows_control=sampling.shows_control)
        if is_first:  # its blank only tells it from the text before
            text = text.removeprefix(b" ")
        if sampling.top_logprobs is None:
            return Token(text)
        logprobs = drawing.logprobs()
        others = likeliest(logprobs, sampling.top_logprobs, self._shown)
        return Token(text, float(logprobs[drawn]), others)

    def _shown(self, token: int) -> bytes:
        return self._bytes(token, shows_control=True)

    def _bytes(self, token: int, *, shows_control: bool) -> bytes:
        if self._words.is_special_token(token) and not shows_control:
            return b""
        text: bytes = self._words.decode_bytes([token])
        return text


def _template(tokenizer: Any) -> str:
    if not tokenizer.has_chat_template:
        tokenizer.chat_template = CHATML
    # One that is a program shows nobody what it makes of messages.
    return tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""


def _words(tokenizer: Any, vocabulary: int) -> Any:
    """What each token stands for, byte by byte."""
    ends = sorted(tokenizer.eos_token_ids)
    # It wants the tokenizer that mlx-lm has wrapped.
    return llguidance.hf.from_tokenizer(tokenizer._tokenizer, n_vocab=vocabulary, eos_token=ends)
