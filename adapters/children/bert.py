"""BERT encoders in numpy: sentences to vectors, as sentence-transformers does it.

Sources: the model cards of the files read here ("config.json" of BERT in transformers;
"modules.json", "sentence_bert_config.json" and "1_Pooling/config.json" of sentence-transformers).
The error function is formula 7.1.26 of Abramowitz and Stegun, exact to 2e-7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from adapters.children.turns import ModelThread

T = TypeVar("T")

# Texts of much the same length are computed together, so many tokens at once.
_BATCH_TOKENS = 2048
_KNOWN_MODULES = frozenset({"Transformer", "Pooling", "Normalize"})


class _Config(msgspec.Struct):
    """`config.json`."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    vocab_size: int
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    model_type: str = "bert"
    position_embedding_type: str = "absolute"


class _Sentences(msgspec.Struct):
    """`sentence_bert_config.json`."""

    max_seq_length: int | None = None
    do_lower_case: bool = False


class _Pooling(msgspec.Struct):
    """`1_Pooling/config.json`: the way by its name, or a switch for each way."""

    pooling_mode: str | None = None
    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False

    def way(self) -> str:
        switches = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
        others = ("weightedmean_tokens", "lasttoken")
        on = [name for name in (*switches, *others) if getattr(self, f"pooling_mode_{name}")]
        return self.pooling_mode or "+".join(on).replace("_tokens", "").replace("_token", "")


class _Module(msgspec.Struct):
    """An entry of `modules.json`."""

    type: str


class Bert:
    """A model's directory; see `vectors.Encoder`."""

    def __init__(self, folder: Path, thread: ModelThread, *, context: int | None) -> None:
        """Raises `OSError` for files that are not there, `ValueError` for a model of other kind."""
        self._thread = thread
        config = _read(folder / "config.json", _Config)
        if config.model_type != "bert" or config.position_embedding_type != "absolute":
            raise ValueError(f"{str(folder)!r} holds a {config.model_type!r}, no plain BERT")
        modules = _read_if_there(folder / "modules.json", list[_Module], [])
        for module in modules:
            if module.type.rpartition(".")[2] not in _KNOWN_MODULES:
                raise ValueError(f"the module {module.type!r} of {str(folder)!r} is not known here")
        sentences = _read_if_there(folder / "sentence_bert_config.json", _Sentences, _Sentences())
        mean = _Pooling(pooling_mode="mean")
        pooling = _read_if_there(folder / "1_Pooling" / "config.json", _Pooling, mean)
        self._pool = _named(_POOLINGS, pooling.way(), "way of pooling")
        self._activate = _named(_ACTIVATIONS, config.hidden_act, "activation")
        self._config = config
        self._is_lower = sentences.do_lower_case
        lengths = (config.max_position_embeddings, sentences.max_seq_length, context)
        self.context = min(length for length in lengths if length)
        self.dimensions = config.hidden_size
        self.vocabulary = config.vocab_size
        self._weights = _weights(folder / "model.safetensors")
        self._tokenizer = _tokenizer(folder / "tokenizer.json")
        around: list[int] = self._tokenizer.encode("").ids
        self._before, self._after = around[:1], around[1:]

    def tokens_of(self, text: str) -> list[int]:
        """See `vectors.Encoder`."""
        text = text.encode("utf-8", errors="replace").decode()
        tokens: list[int] = self._tokenizer.encode(text.lower() if self._is_lower else text).ids
        return tokens

    def framed(self, tokens: list[int]) -> list[int]:
        """See `vectors.Encoder`."""
        return [*self._before, *tokens, *self._after]

    def shortened(self, tokens: list[int]) -> list[int]:
        """See `vectors.Encoder`."""
        return [*tokens[: self.context - len(self._after)], *self._after]

    def encode(self, texts: Sequence[list[int]]) -> Iterator[list[float]]:
        """See `vectors.Encoder`."""
        vectors: list[list[float]] = [[]] * len(texts)
        for batch in _batches(texts):
            made = self._vectors([texts[number] for number in batch])
            for number, vector in zip(batch, made, strict=True):
                vectors[number] = vector
        return iter(vectors)

    def _vectors(self, texts: Sequence[list[int]]) -> list[list[float]]:
        longest = max(map(len, texts))
        ids: Any = np.zeros((len(texts), longest), np.int64)
        mask: Any = np.zeros((len(texts), longest), np.float32)
        for row, tokens in enumerate(texts):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        vectors = self._pool(self._hidden(ids, mask), mask)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        made: list[list[float]] = (vectors / np.maximum(lengths, 1e-12)).tolist()
        return made

    def _hidden(self, ids: Any, mask: Any) -> Any:
        """The last layer's state of each token."""
        weights = self._weights
        states = (
            weights["embeddings.word_embeddings.weight"][ids]
            + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        states = self._normed(states, "embeddings.LayerNorm")
        hidden_from = ((1 - mask) * np.float32(-1e9))[:, None, None, :]
        for number in range(self._config.num_hidden_layers):
            self._thread.check()
            states = self._layer(states, hidden_from, f"encoder.layer.{number}")
        return states

    def _layer(self, states: Any, hidden_from: Any, name: str) -> Any:
        attended = self._attended(states, hidden_from, f"{name}.attention.self")
        added = states + self._linear(attended, f"{name}.attention.output.dense")
        states = self._normed(added, f"{name}.attention.output.LayerNorm")
        wide = self._activate(self._linear(states, f"{name}.intermediate.dense"))
        added = states + self._linear(wide, f"{name}.output.dense")
        return self._normed(added, f"{name}.output.LayerNorm")

    def _attended(self, states: Any, hidden_from: Any, name: str) -> Any:
        heads = self._config.num_attention_heads
        texts, length, size = states.shape

        def split(which: str) -> Any:
            made = self._linear(states, f"{name}.{which}")
            return made.reshape(texts, length, heads, size // heads).transpose(0, 2, 1, 3)

        query, key, value = split("query"), split("key"), split("value")
        scores = query @ key.transpose(0, 1, 3, 2) * np.float32(1 / math.sqrt(size // heads))
        scores += hidden_from
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        return (scores @ value).transpose(0, 2, 1, 3).reshape(texts, length, size)

    def _linear(self, states: Any, name: str) -> Any:
        # One product of two matrices, not one for each text.
        made = states.reshape(-1, states.shape[-1]) @ self._weights[f"{name}.weight"]
        made += self._weights[f"{name}.bias"]
        return made.reshape(*states.shape[:-1], -1)

    def _normed(self, states: Any, name: str) -> Any:
        centred = states - states.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        centred /= np.sqrt(variance + np.float32(self._config.layer_norm_eps))
        return centred * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def _batches(texts: Sequence[list[int]]) -> Iterator[list[int]]:
    """The numbers of texts, those of similar length together."""
    batch: list[int] = []
    for number in sorted(range(len(texts)), key=lambda number: len(texts[number])):
        if batch and (len(batch) + 1) * len(texts[number]) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _gelu(x: Any) -> Any:
    return x * np.float32(0.5) * (1 + _erf(x * np.float32(1 / math.sqrt(2))))


def _erf(x: Any) -> Any:
    t = 1 / (1 + np.float32(0.3275911) * np.abs(x))
    series = np.float32(1.061405429) * t
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(factor)) * t
    return np.sign(x) * (1 - series * np.exp(-np.square(x)))


def _gelu_tanh(x: Any) -> Any:
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
    return x * np.float32(0.5) * (1 + np.tanh(inner))


_ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": lambda x: np.maximum(x, 0),
}


def _mean(states: Any, mask: Any) -> Any:
    return (states * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)


_POOLINGS: Mapping[str, Callable[[Any, Any], Any]] = {
    "mean": _mean,
    "mean_sqrt_len": _mean,  # it differs in length, and every vector is made 1 long
    "cls": lambda states, mask: states[:, 0],
    "max": lambda states, mask: np.where(mask[:, :, None] > 0, states, -np.inf).max(axis=1),
}


def _named(known: Mapping[str, T], name: str, what: str) -> T:
    if name not in known:
        raise ValueError(f"{name!r} is no {what} known here ({', '.join(known)})")
    return known[name]


def _read(path: Path, type: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=type)
    except msgspec.DecodeError as error:
        raise ValueError(f"{str(path)!r} is not what it should be: {error}") from None


def _read_if_there(path: Path, type: type[T], otherwise: T) -> T:
    return _read(path, type) if path.exists() else otherwise


def _weights(path: Path) -> Mapping[str, Any]:
    """The matrices by name; those of linear layers as numpy multiplies them fastest."""
    try:
        loaded = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from None
    weights = {}
    for name, matrix in loaded.items():
        matrix = matrix.astype(np.float32, copy=False)
        if name.endswith(".weight") and ".layer." in name and matrix.ndim == 2:
            matrix = np.ascontiguousarray(matrix.T)
        weights[name.removeprefix("bert.")] = matrix
    return weights


def _tokenizer(path: Path) -> Any:
    path.stat()  # its own error for a file that is not there says nothing
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # it raises nothing narrower
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
