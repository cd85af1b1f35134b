"""A tiny BERT directory as sentence-transformers lays it out, its weights always the same.

Needs numpy, safetensors and tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ("the", "cat", "dog", "sat", "ran", "on", "a", "mat", "##s", "##ter", ",", ".")
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CLS, SEP = 2, 3
VOCABULARY = {token: number for number, token in enumerate((*SPECIALS, *WORDS))}
CONFIG: Mapping[str, Any] = {
    "model_type": "bert",
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
    "vocab_size": len(VOCABULARY),
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}
Weights = dict[str, Any]


def bert(
    folder: Path,
    *,
    config: Mapping[str, Any] = {},
    sentences: Mapping[str, Any] | None = None,
    pooling: Mapping[str, Any] | None = None,
    modules: tuple[str, ...] = ("Transformer", "Pooling", "Normalize"),
) -> Weights:
    """Write a model to a folder; its weights by name."""
    folder.mkdir(exist_ok=True)
    weights = _weights()
    save_file(weights, folder / "model.safetensors")
    _tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    entries = [{"type": f"sentence_transformers.models.{name}", "path": ""} for name in modules]
    (folder / "modules.json").write_text(json.dumps(entries))
    if sentences is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps(sentences))
    if pooling is not None:
        (folder / "1_Pooling").mkdir(exist_ok=True)
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return weights


def _weights() -> Weights:
    source = np.random.default_rng(11)
    size, wide = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(VOCABULARY), size),
        "embeddings.position_embeddings.weight": (CONFIG["max_position_embeddings"], size),
        "embeddings.token_type_embeddings.weight": (2, size),
        **_norm("embeddings", size),
        "pooler.dense.weight": (size, size),
    }
    for number in range(CONFIG["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        for name in ("query", "key", "value"):
            shapes |= _dense(f"{layer}.attention.self.{name}", size, size)
        shapes |= _dense(f"{layer}.attention.output.dense", size, size)
        shapes |= _norm(f"{layer}.attention.output", size)
        shapes |= _dense(f"{layer}.intermediate.dense", size, wide)
        shapes |= _dense(f"{layer}.output.dense", wide, size)
        shapes |= _norm(f"{layer}.output", size)
    return {
        name: (source.random(shape) * 2 - 1 + ("LayerNorm.weight" in name)).astype(np.float32)
        for name, shape in shapes.items()
    }


def _dense(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.LayerNorm.weight": (size,), f"{name}.LayerNorm.bias": (size,)}


def _tokenizer() -> Any:
    tokenizer = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    # Files in the wild come with both; neither may change what a text is.
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    return tokenizer
