"""Tiny models as GGUF files, the same byte for byte wherever they are made."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path

from tests.models import tiny
from tests.models.tiny import CONTEXT, CONTROLS, END, HEADS, SIZE, TEMPLATE, WIDE, Matrix, Tiny

_ALIGNMENT = 32
_U32, _F32, _BOOL, _STRING, _ARRAY, _I32 = 4, 6, 7, 8, 9, 5


def canned(
    path: Path, pieces: Sequence[bytes], *, template: str = TEMPLATE, context: int = CONTEXT
) -> Path:
    """See `tiny.canned`."""
    return _write(path, tiny.canned(pieces), template, context)


def babbling(
    path: Path, *, seed: int = 1, template: str = TEMPLATE, context: int = CONTEXT
) -> Path:
    """See `tiny.babbling`."""
    return _write(path, tiny.babbling(seed), template, context)


def _write(path: Path, model: Tiny, template: str, context: int) -> Path:
    ones = [1.0] * SIZE
    tensors: dict[str, Matrix | list[float]] = {
        "token_embd.weight": model.embeddings,
        "output_norm.weight": ones,
        "output.weight": model.outputs,
        "blk.0.attn_norm.weight": ones,
        "blk.0.ffn_norm.weight": ones,
        **{f"blk.0.{name}.weight": matrix for name, matrix in model.layer.items()},
    }
    kinds = [3 if token in CONTROLS else 1 for token in model.tokens]
    facts: dict[str, tuple[int, bytes]] = {
        "general.architecture": (_STRING, _string("llama")),
        "general.name": (_STRING, _string(path.stem)),
        "llama.context_length": (_U32, struct.pack("<I", context)),
        "llama.embedding_length": (_U32, struct.pack("<I", SIZE)),
        "llama.block_count": (_U32, struct.pack("<I", 1)),
        "llama.feed_forward_length": (_U32, struct.pack("<I", WIDE)),
        "llama.attention.head_count": (_U32, struct.pack("<I", HEADS)),
        "llama.attention.layer_norm_rms_epsilon": (_F32, struct.pack("<f", 1e-5)),
        "llama.rope.dimension_count": (_U32, struct.pack("<I", SIZE // HEADS)),
        "llama.vocab_size": (_U32, struct.pack("<I", len(model.tokens))),
        "tokenizer.ggml.model": (_STRING, _string("gpt2")),
        "tokenizer.ggml.pre": (_STRING, _string("gpt-2")),
        "tokenizer.ggml.tokens": (_ARRAY, _list(_STRING, [_string(t) for t in model.tokens])),
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
