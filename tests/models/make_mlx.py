"""Tiny models as Hugging Face and mlx-lm lay them out, the same byte for byte everywhere.

They say what those of `make_gguf` say. Source: "Format" in the documentation of safetensors.
"""

from __future__ import annotations

import json
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.models import tiny
from tests.models.tiny import CONTEXT, CONTROLS, END, HEADS, SIZE, TEMPLATE, WIDE, Matrix, Tiny

_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def canned(
    folder: Path, pieces: Sequence[bytes], *, template: str = TEMPLATE, context: int = CONTEXT
) -> Path:
    """See `tiny.canned`."""
    return _write(folder, tiny.canned(pieces), template, context)


def babbling(
    folder: Path, *, seed: int = 1, template: str = TEMPLATE, context: int = CONTEXT
) -> Path:
    """See `tiny.babbling`."""
    return _write(folder, tiny.babbling(seed), template, context)


def _write(folder: Path, model: Tiny, template: str, context: int) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(_safetensors(_tensors(model)))
    files: Mapping[str, Mapping[str, Any]] = {
        "config.json": _config(len(model.tokens), context),
        "tokenizer.json": _tokenizer(model.tokens),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": CONTROLS[END],
            "model_max_length": context,
            "chat_template": template,
            "clean_up_tokenization_spaces": False,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1))
    return folder


def _config(vocabulary: int, context: int) -> Mapping[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": SIZE,
        "intermediate_size": WIDE,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": context,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "eos_token_id": END,
        "torch_dtype": "float32",
    }


def _tensors(model: Tiny) -> Mapping[str, Matrix]:
    ones = [[1.0] * SIZE]
    layer = {
        f"model.layers.0.{_NAMES[name]}.weight": _rotated(matrix)
        if name in ("attn_q", "attn_k")
        else matrix
        for name, matrix in model.layer.items()
    }
    return {
        "model.embed_tokens.weight": model.embeddings,
        "model.norm.weight": ones,
        "lm_head.weight": model.outputs,
        "model.layers.0.input_layernorm.weight": ones,
        "model.layers.0.post_attention_layernorm.weight": ones,
        **layer,
    }


def _rotated(matrix: Matrix) -> Matrix:
    """llama.cpp turns neighbouring rows of a head against each other, these its two halves."""
    wide = SIZE // HEADS
    order = [*range(0, wide, 2), *range(1, wide, 2)]
    return [matrix[head * wide + row] for head in range(HEADS) for row in order]


def _safetensors(tensors: Mapping[str, Matrix]) -> bytes:
    head: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    data = b""
    for name, matrix in tensors.items():
        rows, columns = len(matrix), len(matrix[0])
        numbers = array("f", [number for row in matrix for number in row])
        if sys.byteorder == "big":
            numbers.byteswap()
        begin, data = len(data), data + numbers.tobytes()
        head[name] = {
            "dtype": "F32",
            "shape": [columns] if rows == 1 else [rows, columns],
            "data_offsets": [begin, len(data)],
        }
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def _tokenizer(tokens: Sequence[str]) -> Mapping[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": text, **flags, "special": True}
            for number, text in enumerate(CONTROLS)
        ],
        "normalizer": None,
        "pre_tokenizer": {**bytewise, "use_regex": False},
        "post_processor": None,
        "decoder": {**bytewise, "use_regex": False},
        "model": {
            "type": "BPE",
            "vocab": {text: number for number, text in enumerate(tokens)},
            "merges": [],
        },
    }
