"""How llama.cpp draws the next token: masks and penalties first, then what cuts the unlikely off.

Source: `llama.h` of llama.cpp, "Sampling API", and what its own programs do with a grammar.
"""

from __future__ import annotations

import ctypes
import math
import secrets
from collections.abc import Iterator
from typing import Any

import llama_cpp
import numpy as np

from adapters.children.generating import Sampling

# What llama.cpp's own programs draw with where nobody says otherwise.
_TEMPERATURE, _TOP_K, _TOP_P, _MIN_P = 0.8, 40, 0.95, 0.05
_PENALISED_TOKENS = 64
_COLDEST = 1e-4  # below it the numbers overflow, and the likeliest token is drawn anyway
_ANY_SEED = 0xFFFFFFFF  # llama.cpp takes it for "any"


class Drawing:
    """Draws the tokens of one answer; to be closed.

    To ask a grammar about every token there is takes many times as long as to draw one: a token is
    drawn without it, and again with it only where the grammar does not allow that one.
    """

    def __init__(self, context: Any, vocab: Any, vocabulary: int, sampling: Sampling) -> None:
        """Raises `ValueError` for a grammar that llama.cpp does not take."""
        self._context = context
        self._vocabulary = vocabulary
        self._grammar = _grammar(vocab, sampling.grammar)
        self._chain = llama_cpp.llama_sampler_chain_init(
            llama_cpp.llama_sampler_chain_default_params()
        )
        for sampler in _samplers(vocabulary, sampling):
            llama_cpp.llama_sampler_chain_add(self._chain, sampler)

    def close(self) -> None:
        """Free what llama.cpp holds for it."""
        llama_cpp.llama_sampler_free(self._chain)
        if self._grammar is not None:
            llama_cpp.llama_sampler_free(self._grammar)

    def draw(self) -> int:
        """The token to follow what the model has just read; it counts as said."""
        if self._grammar is None:
            plain: int = llama_cpp.llama_sampler_sample(self._chain, self._context, -1)
            return plain
        drawn = self._draw(self._all())
        if not self._is_allowed(drawn):
            drawn = self._draw(self._allowed())
        llama_cpp.llama_sampler_accept(self._chain, drawn)
        llama_cpp.llama_sampler_accept(self._grammar, drawn)
        return drawn

    def _draw(self, candidates: Any) -> int:
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(candidates))
        drawn: int = candidates.data[candidates.selected].id
        return drawn

    def _is_allowed(self, token: int) -> bool:
        one = _candidates(np.array([(token, 1.0, 0.0)], dtype=_CANDIDATE))
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(one))
        return not math.isinf(one.data[0].logit)

    def _allowed(self) -> Any:
        candidates = self._all()
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(candidates))
        if not np.isfinite(candidates.array["logit"]).any():
            raise RuntimeError("the model has no token that the schema allows here")
        return candidates

    def _all(self) -> Any:
        logits = llama_cpp.llama_get_logits_ith(self._context, -1)
        array: Any = np.zeros(self._vocabulary, dtype=_CANDIDATE)
        array["id"] = np.arange(self._vocabulary, dtype=np.int32)
        array["logit"] = np.ctypeslib.as_array(logits, shape=(self._vocabulary,))
        return _candidates(array)


_CANDIDATE = [("id", np.int32), ("logit", np.float32), ("p", np.float32)]


def _candidates(array: Any) -> Any:
    data = array.ctypes.data_as(llama_cpp.llama_token_data_p)
    candidates = llama_cpp.llama_token_data_array(
        data=data, size=len(array), selected=-1, sorted=False
    )
    candidates.array = array  # it only points there: the numbers must live as long as it
    return candidates


def _grammar(vocab: Any, grammar: str | None) -> Any:
    if grammar is None:
        return None
    text = grammar.encode("utf-8", errors="replace")
    sampler = llama_cpp.llama_sampler_init_grammar(vocab, text, b"root")
    if not sampler:
        raise ValueError("llama.cpp does not take the grammar of this schema")
    return sampler


def _samplers(vocabulary: int, sampling: Sampling) -> Iterator[Any]:
    if sampling.logit_bias:
        pairs = [
            llama_cpp.llama_logit_bias(token=token, bias=bias)
            for token, bias in sampling.logit_bias.items()
        ]
        biases = (llama_cpp.llama_logit_bias * len(pairs))(*pairs)
        yield llama_cpp.llama_sampler_init_logit_bias(vocabulary, len(pairs), biases)
    yield llama_cpp.llama_sampler_init_penalties(
        vocabulary,
        _PENALISED_TOKENS,
        sampling.repetition_penalty,
        sampling.frequency_penalty,
        sampling.presence_penalty,
    )
    temperature = _or(sampling.temperature, _TEMPERATURE)
    if temperature < _COLDEST:
        yield llama_cpp.llama_sampler_init_greedy()
        return
    top_k = min(_or(sampling.top_k, _TOP_K), vocabulary)
    yield llama_cpp.llama_sampler_init_top_k(max(top_k, 0))
    yield llama_cpp.llama_sampler_init_top_p(_or(sampling.top_p, _TOP_P), 1)
    yield llama_cpp.llama_sampler_init_min_p(_or(sampling.min_p, _MIN_P), 1)
    yield llama_cpp.llama_sampler_init_temp(temperature)
    seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
    yield llama_cpp.llama_sampler_init_dist(seed % _ANY_SEED)


def _or(given: Any, otherwise: Any) -> Any:
    return otherwise if given is None else given
