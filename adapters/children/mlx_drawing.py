"""How MLX draws the next token: by mlx-lm's samplers, of what llguidance allows.

Sources: mlx-lm's `sample_utils`; llguidance's "Lark syntax" and its Python interface, `LLMatcher`.
"""

from __future__ import annotations

import json
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import numpy as np
from llguidance import LLMatcher
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from mlx_lm.sample_utils import make_logits_processors, make_sampler

from adapters.children.generating import Form, Sampling

_Process = Callable[[Any, Any], Any]

_COLDEST = 1e-4  # below it the numbers overflow, and the likeliest token is drawn anyway
_LEAST_SHARE = 1e-9  # mlx-lm takes 0 for "all", but it leaves the likeliest only
# Some models would go on with blanks for ever.
_BLANKS = r"( |\n{1,2}[ \t]{0,20})?"
_SEEDS = 1 << 63
_WHOLE = 1 << 30  # tokens: penalties count over the whole answer, as OpenAI's do


class Defaults(msgspec.Struct, frozen=True):
    """`generation_config.json`: how its makers want a model to draw; else as OpenAI does."""

    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None


def defaults(folder: Path) -> Defaults:
    """Those of a model; raises `ValueError` for a file that is damaged."""
    path = folder / "generation_config.json"
    if not path.exists():
        return Defaults()
    try:
        told = msgspec.json.decode(path.read_bytes(), type=Defaults)
    except msgspec.DecodeError as error:
        raise ValueError(f"{str(path)!r} is not what it should be: {error}") from None
    return Defaults(temperature=0) if told.do_sample is False else told


class Drawing:
    """What draws the tokens of one answer, as `generate_step` of mlx-lm wants it."""

    def __init__(
        self, sampling: Sampling, defaults: Defaults, vocabulary: int, grammar: Grammar | None
    ) -> None:
        self.sampler = _sampler(sampling, defaults, vocabulary)
        self.processors: list[_Process] = []
        self._logprobs: deque[Any] = deque()
        if sampling.top_logprobs is not None:
            self.processors.append(self._note)
        self.processors += map(_of_answer, _penalties(sampling))
        if grammar is not None:
            self.processors.append(_of_answer(grammar))
        mx.random.seed((secrets.randbits(63) if sampling.seed is None else sampling.seed) % _SEEDS)

    def _note(self, tokens: Any, logits: Any) -> Any:
        exact = logits[0].astype(mx.float32)
        self._logprobs.append(exact - mx.logsumexp(exact))
        return logits

    def logprobs(self) -> Any:
        """The model's own, of the token drawn next; to be asked for each, in turn."""
        return np.array(self._logprobs.popleft())


def _sampler(sampling: Sampling, defaults: Defaults, vocabulary: int) -> Callable[[Any], Any]:
    temperature = _first(sampling.temperature, defaults.temperature, 1.0)
    top_k = _first(sampling.top_k, defaults.top_k, 0)
    sampler: Callable[[Any], Any] = make_sampler(
        temp=temperature if temperature >= _COLDEST else 0,
        top_p=max(_first(sampling.top_p, defaults.top_p, 1.0), _LEAST_SHARE),
        min_p=_first(sampling.min_p, defaults.min_p, 0.0),
        top_k=top_k if 0 < top_k < vocabulary else 0,
    )
    return sampler


def _first(*given: Any) -> Any:
    return next(value for value in given if value is not None)


def _penalties(sampling: Sampling) -> Sequence[_Process]:
    made: list[_Process] = make_logits_processors(
        logit_bias=dict(sampling.logit_bias),
        repetition_penalty=sampling.repetition_penalty if sampling.repetition_penalty != 1 else 0,
        repetition_context_size=_WHOLE,
        presence_penalty=sampling.presence_penalty,
        presence_context_size=_WHOLE,
        frequency_penalty=sampling.frequency_penalty,
        frequency_context_size=_WHOLE,
    )
    return made


def _of_answer(process: _Process) -> _Process:
    """One that is told the answer's tokens alone; `generate_step` tells the prompt's last too."""
    return lambda tokens, logits: process(tokens[1:], logits)


class Grammar:
    """Leaves the tokens only that a grammar allows."""

    def __init__(self, tokenizer: Any, vocabulary: int, grammar: str) -> None:
        """Raises `ValueError` for what is no grammar, or allows nothing."""
        self._matcher = LLMatcher(tokenizer, grammar, log_level=0)
        self._check(ValueError)
        self._mask = allocate_token_bitmask(1, vocabulary)
        fill_next_token_bitmask(self._matcher, self._mask)
        self._check(ValueError)

    def __call__(self, tokens: Any, logits: Any) -> Any:
        """The logits of what may follow the answer's tokens."""
        if len(tokens):
            self._matcher.consume_token(tokens[-1].item())
            fill_next_token_bitmask(self._matcher, self._mask)
            self._check(RuntimeError)
        bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little")
        allowed = mx.array(bits[: logits.shape[-1]].astype(bool))
        return mx.where(allowed, logits, -mx.inf)

    def _check(self, kind: type[Exception]) -> None:
        if self._matcher.is_error():
            raise kind(" ".join(self._matcher.get_error().split()))


def grammar_of(forms: Sequence[Form]) -> str:
    """The texts of these forms, in Lark's notation."""
    choices, rules = [], []
    for number, form in enumerate(forms):
        parts = [_quoted(form.before), f"json{number}", _quoted(form.after)]
        choices.append(" ".join(filter(None, parts)))
        schema = {**form.schema, "x-guidance": {"whitespace_pattern": _BLANKS}}
        rules.append(f"json{number}: %json {json.dumps(schema)}")
    return "\n".join([f"start: {' | '.join(choices)}", *rules])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
