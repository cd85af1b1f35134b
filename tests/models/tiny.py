"""Tiny models, the same wherever they are made, for whoever writes them in some format.

A llama with one layer. Its vocabulary is the 256 bytes, three control tokens, and what a test adds.
One dimension of its states is a constant that no layer writes to, so that a column of the output
matrix is a bias for each token: llama has no other.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = 2
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 2048
SIZE = 64
WIDE = 32
HEADS = 2

Matrix = list[list[float]]


@dataclass(frozen=True, slots=True)
class Tiny:
    """A model; its layer's matrices by their names in llama.cpp, whose order of rows they have."""

    tokens: Sequence[str]
    embeddings: Matrix
    outputs: Matrix
    layer: Mapping[str, Matrix]


def canned(pieces: Sequence[bytes]) -> Tiny:
    """A model that answers any prompt with these tokens, which must be different, at any heat.

    What follows depends on nothing but the last token: the layer adds nothing to its embedding.
    """
    assert len(set(pieces)) == len(pieces), "a token has but one successor"
    tokens, numbers = _vocabulary(pieces)
    chain = [*(numbers[_text(piece)] for piece in pieces), END]
    codes = _codes(len(chain))
    embeddings = [[0.0, *codes[0]] for _ in tokens]
    outputs = [[0.0] * SIZE for _ in tokens]
    for place, token in enumerate(chain):
        if token != END:
            embeddings[token] = [0.0, *codes[place + 1]]
        outputs[token] = [0.0, *(12 * number for number in codes[place])]
    return Tiny(tokens, embeddings, outputs, _layer(None))


def babbling(seed: int = 1) -> Tiny:
    """A model that says printable nonsense, and comes to an end sooner or later."""
    source = random.Random(seed)
    tokens, _ = _vocabulary()
    embeddings = [[1.0, *_row(source, SIZE - 1, 1.7)] for _ in tokens]
    outputs = [[_bias(number), *_row(source, SIZE - 1, 0.6)] for number in range(len(tokens))]
    return Tiny(tokens, embeddings, outputs, _layer(source))


def _bias(token: int) -> float:
    if token == END:
        return 0.5
    return 0.0 if 32 <= token - len(CONTROLS) < 127 else -40.0


def _vocabulary(pieces: Sequence[bytes] = ()) -> tuple[list[str], dict[str, int]]:
    tokens = [*CONTROLS, *(_text(bytes([byte])) for byte in range(256))]
    tokens += [text for piece in pieces if (text := _text(piece)) not in tokens]
    return tokens, {token: number for number, token in enumerate(tokens)}


def _text(piece: bytes) -> str:
    """Bytes in the printable characters that stand for them in GPT-2's vocabulary."""
    return "".join(_STAND_INS[byte] for byte in piece)


def _stand_ins() -> list[str]:
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


_STAND_INS = _stand_ins()


def _codes(count: int) -> Matrix:
    """Directions that are far from each other."""
    source = random.Random(7)
    found: Matrix = []
    while len(found) < count:
        row = _row(source, SIZE - 1, 1.0)
        length = math.sqrt(math.fsum(number * number for number in row))
        row = [number / length for number in row]
        if all(_product(row, other) < 0.5 for other in found):
            found.append(row)
    return found


def _product(one: list[float], other: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def _row(source: random.Random, length: int, scale: float) -> list[float]:
    # Nothing but what is exact everywhere: no logarithm, no cosine, no plain sum.
    return [(source.random() * 2 - 1) * scale for _ in range(length)]


def _layer(source: random.Random | None) -> dict[str, Matrix]:
    """The matrices of the one layer; without a source of numbers it adds nothing."""
    shapes = {
        **{f"attn_{name}": (SIZE, SIZE) for name in ("q", "k", "v", "output")},
        **{f"ffn_{name}": (WIDE, SIZE) for name in ("gate", "up")},
        "ffn_down": (SIZE, WIDE),
    }
    layer = {}
    for name, (rows, columns) in shapes.items():
        scale = 1.7 / math.sqrt(columns) if source else 0.0
        layer[name] = [_row(source or random.Random(0), columns, scale) for _ in range(rows)]
        if name in ("attn_output", "ffn_down"):
            layer[name][0] = [0.0] * columns
    return layer
