"""A model's directory, loaded by mlx-lm, and how long texts are read by it.

Sources: mlx-lm's `utils.load` and `generate.generate_step`; MLX's documentation, "Metal" and
"Lazy Evaluation".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
from mlx.utils import tree_flatten
from mlx_lm.utils import maybe_set_recommended_wired_limit

from adapters.children.turns import ModelThread

# Nothing can stop what is being computed: a text is read in steps of about so long.
_STEP_S = 0.04
_SHORTEST_STEP, _LONGEST_STEP = 32, 2048
# What was freed is kept for later up to here, and counts as this process's all the while.
_FREED_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can be computed with; in the thread that loaded it only."""

    network: Any
    tokenizer: Any
    config: Mapping[str, Any]
    nbytes: int


def load(folder: Path) -> Loaded:
    """Raises `OSError` for files that are not there, `ValueError` for what is no model."""
    (folder / "config.json").stat()  # mlx-lm would look on a hub for what is no directory
    mx.set_cache_limit(_FREED_BYTES)
    if mx.metal.is_available():
        maybe_set_recommended_wired_limit()  # else the system may page a large model out
    try:
        network, tokenizer, config = mlx_lm.load(str(folder), return_config=True)
    except OSError:
        raise
    except Exception as error:  # what a file lacks comes as KeyError, TypeError and more
        raise ValueError(f"mlx-lm does not load {str(folder)!r}: {error!r}") from None
    nbytes = sum(array.nbytes for _, array in tree_flatten(network.parameters()))
    return Loaded(network, tokenizer, config, nbytes)


def context_of(config: Mapping[str, Any], asked: int | None, most: int) -> int:
    """How many tokens are read at most: as many as asked for, else those trained, within reason."""
    text = config.get("text_config") or config
    return asked or min(text.get("max_position_embeddings") or most, most)


def tokens_of(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    """A text's tokens, with those that begin and end a text if `special`."""
    whole = text.encode("utf-8", errors="replace").decode()
    tokens: list[int] = tokenizer.encode(whole, add_special_tokens=special)
    return tokens


def in_steps(tokens: list[int], step: Callable[[Any], None], thread: ModelThread) -> None:
    """Have `step` compute so many tokens at a time as take a moment; raises `turns.Abandoned`."""
    size, start = _SHORTEST_STEP, 0
    while start < len(tokens):
        thread.check()
        begun_s = time.monotonic()
        step(mx.array(tokens[start : start + size])[None])
        start += size
        size = _next_size(size, time.monotonic() - begun_s)


def _next_size(size: int, took_s: float) -> int:
    if took_s > _STEP_S:
        return max(size // 2, _SHORTEST_STEP)
    return min(size * 2, _LONGEST_STEP) if took_s < _STEP_S / 2 else size


def memory() -> Mapping[str, int]:
    """Bytes of what MLX holds, on Apple Silicon in buffers that `ps` does not count."""
    return {
        "active_bytes": mx.get_active_memory(),
        "freed_bytes": mx.get_cache_memory(),
        "peak_bytes": mx.get_peak_memory(),
    }
