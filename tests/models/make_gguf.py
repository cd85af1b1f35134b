"""Tiny GGUF files, the same byte for byte wherever they are made: `canned` and `babbling`.

A llama with one layer. Its vocabulary is the 256 bytes, three control tokens, and what a test adds.
One dimension of its states is a constant that no layer writes to, so that a column of the output
matrix is a bias for each token: llama has no other.
"""

from __future__ import annotations

import math
import random
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = 2
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SIZE = 64
_WIDE = 32
_HEADS = 2
_ALIGNMENT = 32
_U32, _F32, _BOOL, _STRING, _ARRAY, _I32 = 4, 6, 7, 8, 9, 5

Matrix = list[list[float]]


def canned(
    path: Path, pieces: Sequence[bytes], *, template: str = TEMPLATE, context: int = 2048
) -> Path:
    """A model that answers any prompt with these tokens, which must be different, at any heat.

    What follows depends on nothing but the last token: the layer adds nothing to its embedding.
    """
    assert len(set(pieces)) == len(pieces), "a token has but one successor"
    tokens, numbers = _vocabulary(pieces)
    chain = [*(numbers[_text(piece)] for piece in pieces), END]
    codes = _codes(len(chain))
    embeddings = [[0.0, *codes[0]] for _ in tokens]
    outputs = [[0.0] * _SIZE for _ in tokens]
    for place, token in enumerate(chain):
        if token != END:
            embeddings[token] = [0.0, *codes[place + 1]]
        outputs[token] = [0.0, *(12 * number for number in codes[place])]
    return _write(path, tokens, embeddings, outputs, _layer(None), template, context)


def babbling(path: Path, *, seed: int = 1, template: str = TEMPLATE, context: int = 2048) -> Path:
    """A model that says printable nonsense, and comes to an end sooner or later."""
    source = random.Random(seed)
    tokens, _ = _vocabulary()
    embeddings = [[1.0, *_row(source, _SIZE - 1, 1.7)] for _ in tokens]
    outputs = [[_bias(number), *_row(source, _SIZE - 1, 0.6)] for number in range(len(tokens))]
    return _write(path, tokens, embeddings, outputs, _layer(source), template, context)


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
        row = _row(source, _SIZE - 1, 1.0)
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
        **{f"attn_{name}": (_SIZE, _SIZE) for name in ("q", "k", "v", "output")},
        **{f"ffn_{name}": (_WIDE, _SIZE) for name in ("gate", "up")},
        "ffn_down": (_SIZE, _WIDE),
    }
    layer = {}
    for name, (rows, columns) in shapes.items():
        scale = 1.7 / math.sqrt(columns) if source else 0.0
        layer[name] = [_row(source or random.Random(0), columns, scale) for _ in range(rows)]
        if name in ("attn_output", "ffn_down"):
            layer[name][0] = [0.0] * columns
    return layer


def _write(
    path: Path,
    tokens: Sequence[str],
    embeddings: Matrix,
    outputs: Matrix,
    layer: Mapping[str, Matrix],
    template: str,
    context: int,
) -> Path:
    ones = [1.0] * _SIZE
    tensors: dict[str, Matrix | list[float]] = {
        "token_embd.weight": embeddings,
        "output_norm.weight": ones,
        "output.weight": outputs,
        "blk.0.attn_norm.weight": ones,
        "blk.0.ffn_norm.weight": ones,
        **{f"blk.0.{name}.weight": matrix for name, matrix in layer.items()},
    }
    kinds = [3 if token in CONTROLS else 1 for token in tokens]
    facts: dict[str, tuple[int, bytes]] = {
        "general.architecture": (_STRING, _string("llama")),
        "general.name": (_STRING, _string(path.stem)),
        "llama.context_length": (_U32, struct.pack("<I", context)),
        "llama.embedding_length": (_U32, struct.pack("<I", _SIZE)),
        "llama.block_count": (_U32, struct.pack("<I", 1)),
        "llama.feed_forward_length": (_U32, struct.pack("<I", _WIDE)),
        "llama.attention.head_count": (_U32, struct.pack("<I", _HEADS)),
        "llama.attention.layer_norm_rms_epsilon": (_F32, struct.pack("<f", 1e-5)),
        "llama.rope.dimension_count": (_U32, struct.pack("<I", _SIZE // _HEADS)),
        "llama.vocab_size": (_U32, struct.pack("<I", len(tokens))),
        "tokenizer.ggml.model": (_STRING, _string("gpt2")),
        "tokenizer.ggml.pre": (_STRING, _string("gpt-2")),
        "tokenizer.ggml.tokens": (_ARRAY, _list(_STRING, [_string(t) for t in tokens])),
        "tokenizer.ggml.token_type": (_ARRAY, _list(_I32, [struct.pack("<i", k) for k in kinds])),
        "tokenizer.ggml.merges": (_ARRAY, _list(_STRING, [_string("t h")])),
        "tokenizer.ggml.bos_token_id": (_U32, struct.pack("<I", 0)),
        "tokenizer.ggml.eos_token_id": (_U32, struct.pack("<I", END)),
        "tokenizer.ggml.add_bos_token": (_BOOL, b"\0"),
        "tokenizer.chat_template": (_STRING, _string(template)),
    }
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts))
    for name, (kind, value) in facts.items():
        head += _string(name) + struct.pack("<I", kind) + value
    data = b""
    for name, tensor in tensors.items():
        flat, shape = _flat(tensor)
        head += _string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", 0, len(data))
        data += _padded(flat)
    path.write_bytes(_padded(head) + data)
    return path


def _flat(tensor: Matrix | list[float]) -> tuple[bytes, tuple[int, ...]]:
    """32-bit numbers, and the shape with the fastest dimension first."""
    numbers, shape = array("f"), []
    for row in tensor:
        numbers.extend(row if isinstance(row, list) else [row])
    first = tensor[0]
    shape = [len(first), len(tensor)] if isinstance(first, list) else [len(tensor)]
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes(), tuple(shape)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _list(kind: int, values: Sequence[bytes]) -> bytes:
    return struct.pack("<IQ", kind, len(values)) + b"".join(values)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
