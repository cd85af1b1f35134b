"""Vectors of texts by MLX: the mean of a model's last states, or the last of them.

Source: `1_Pooling/config.json` of sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from adapters.children import mlx_model
from adapters.children.turns import ModelThread

# As with llama.cpp.
_CONTEXT = 2048


class _Pooling(msgspec.Struct):
    """Models whose vector is the state of the last token say so; those of the CLS token cannot."""

    pooling_mode_lasttoken: bool = False
    pooling_mode_mean_tokens: bool = False


class MlxVectors:
    """A language model that makes vectors of texts; see `vectors.Encoder`."""

    def __init__(self, folder: Path, thread: ModelThread, *, context: int | None) -> None:
        """To be made in the model's thread. Raises `OSError` and `ValueError` as `load` does."""
        self._thread = thread
        loaded = mlx_model.load(folder)
        self._network, self._tokenizer = loaded.network, loaded.tokenizer
        self._body = _body(loaded.network)
        self._takes_last = _takes_last(folder / "1_Pooling" / "config.json")
        self.context = mlx_model.context_of(loaded.config, context, _CONTEXT)
        self.vocabulary = int(self._network(mx.array([[0]])).shape[-1])
        self.dimensions = int(self._body(mx.array([[0]])).shape[-1])
        self._before, self._after = _frame(self._tokenizer)

    def memory(self) -> Mapping[str, int]:
        """Bytes held; may be asked in any thread."""
        return mlx_model.memory()

    def tokens_of(self, text: str) -> list[int]:
        """See `vectors.Encoder`."""
        return mlx_model.tokens_of(self._tokenizer, text, special=True)

    def framed(self, tokens: list[int]) -> list[int]:
        """See `vectors.Encoder`."""
        return [*self._before, *tokens, *self._after]

    def shortened(self, tokens: list[int]) -> list[int]:
        """See `vectors.Encoder`."""
        return [*tokens[: self.context - len(self._after)], *self._after]

    def encode(self, texts: Sequence[list[int]]) -> Iterator[list[float]]:
        """See `vectors.Encoder`."""
        for tokens in texts:
            yield self._vector(tokens)

    def _vector(self, tokens: list[int]) -> list[float]:
        states = make_prompt_cache(self._network)
        pooled = mx.zeros(self.dimensions)

        def step(part: Any) -> None:
            nonlocal pooled
            made = self._body(part, cache=states)[0].astype(mx.float32)
            pooled = made[-1] if self._takes_last else pooled + made.sum(axis=0)
            mx.eval(pooled)

        mlx_model.in_steps(tokens, step, self._thread)
        vector = np.array(pooled)
        length = float(np.linalg.norm(vector))
        unit: list[float] = (vector / length if length else vector).tolist()
        return unit


def _body(network: Any) -> Any:
    """What gives the states that the likelihoods of tokens are computed from."""
    body = getattr(getattr(network, "language_model", network), "model", None)
    if body is None:
        raise ValueError("this model gives no states that a vector could be made of")
    return body


def _takes_last(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        pooling = msgspec.json.decode(path.read_bytes(), type=_Pooling)
    except msgspec.DecodeError as error:
        raise ValueError(f"{str(path)!r} is not what it should be: {error}") from None
    if pooling.pooling_mode_lasttoken == pooling.pooling_mode_mean_tokens:
        raise ValueError(f"{str(path)!r} asks for another vector than the mean or the last state")
    return pooling.pooling_mode_lasttoken


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that begin and end every text."""
    alone = mlx_model.tokens_of(tokenizer, "x", special=False)
    whole = mlx_model.tokens_of(tokenizer, "x", special=True)
    start = whole.index(alone[0])
    return whole[:start], whole[start + len(alone) :]
