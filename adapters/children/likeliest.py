"""The likeliest of all tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from adapters.children.generating import Likely


def likeliest(logprobs: Any, count: int, text_of: Callable[[int], bytes]) -> list[Likely]:
    """So many tokens by their probabilities, the most probable first."""
    if count == 0:
        return []
    found = np.argpartition(logprobs, -count)[-count:]
    ordered = found[np.argsort(-logprobs[found])].tolist()
    return [Likely(text_of(token), float(logprobs[token])) for token in ordered]
