"""BERT encoders in numpy, against one that is written down a number at a time."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.adapters.children.child import MINILM, Child, running
from tests.adapters.children.child import start as start_child

for name in ("numpy", "safetensors", "tokenizers"):
    pytest.importorskip(name, reason=f"{name} is not installed")

# It needs them.
from tests.models.make_bert import CLS, CONFIG, SEP, VOCABULARY, bert  # noqa: E402

Vector = list[float]


class Reference:
    """One text, one token, one head after the other, in Python's own numbers."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        self._weights = {name: matrix.tolist() for name, matrix in weights.items()}

    def states(self, tokens: list[int]) -> list[Vector]:
        weights = self._weights
        kind = weights["embeddings.token_type_embeddings.weight"][0]
        states = [
            self._normed(
                _sum(
                    weights["embeddings.word_embeddings.weight"][token],
                    weights["embeddings.position_embeddings.weight"][place],
                    kind,
                ),
                "embeddings",
            )
            for place, token in enumerate(tokens)
        ]
        for number in range(CONFIG["num_hidden_layers"]):
            states = self._layer(states, f"encoder.layer.{number}")
        return states

    def _layer(self, states: list[Vector], name: str) -> list[Vector]:
        query, key, value = (
            [self._dense(state, f"{name}.attention.self.{which}") for state in states]
            for which in ("query", "key", "value")
        )
        size = CONFIG["hidden_size"] // CONFIG["num_attention_heads"]
        made = []
        for place, state in enumerate(states):
            attended: Vector = []
            for start in range(0, CONFIG["hidden_size"], size):
                part = slice(start, start + size)
                scores = [_dot(query[place][part], k[part]) / math.sqrt(size) for k in key]
                shares = [math.exp(score) for score in scores]
                for column in range(start, start + size):
                    total = sum(s * v[column] for s, v in zip(shares, value, strict=True))
                    attended.append(total / sum(shares))
            added = _sum(state, self._dense(attended, f"{name}.attention.output.dense"))
            inner = self._normed(added, f"{name}.attention.output")
            wide = [
                x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
                for x in self._dense(inner, f"{name}.intermediate.dense")
            ]
            added = _sum(inner, self._dense(wide, f"{name}.output.dense"))
            made.append(self._normed(added, f"{name}.output"))
        return made

    def _dense(self, state: Vector, name: str) -> Vector:
        rows = zip(self._weights[f"{name}.weight"], self._weights[f"{name}.bias"], strict=True)
        return [_dot(row, state) + bias for row, bias in rows]

    def _normed(self, state: Vector, name: str) -> Vector:
        mean = sum(state) / len(state)
        variance = sum((x - mean) ** 2 for x in state) / len(state)
        scale = self._weights[f"{name}.LayerNorm.weight"]
        shift = self._weights[f"{name}.LayerNorm.bias"]
        return [
            (x - mean) / math.sqrt(variance + CONFIG["layer_norm_eps"]) * factor + offset
            for x, factor, offset in zip(state, scale, shift, strict=True)
        ]


def _dot(one: Vector, other: Vector) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def _sum(*vectors: Vector) -> Vector:
    return [sum(column) for column in zip(*vectors, strict=True)]


def _unit(vector: Vector) -> Vector:
    length = math.sqrt(_dot(vector, vector))
    return [x / length for x in vector]


def _mean(states: list[Vector]) -> Vector:
    return _unit(_sum(*states))


def _tokens(*words: str) -> list[int]:
    return [CLS, *(VOCABULARY[word] for word in words), SEP]


TEXTS = {
    "the cats sat on a mat.": ("the", "cat", "##s", "sat", "on", "a", "mat", "."),
    "dog": ("dog",),
    "The dog": ("[UNK]", "dog"),
    "a, a": ("a", ",", "a"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bert")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(bert(folder, sentences={"max_seq_length": 12, "do_lower_case": False}))


@pytest.fixture(scope="module")
def tiny(folder: Path, reference: Reference) -> Iterator[Child]:
    with running(MINILM, folder) as child:
        yield child


def vectors(child: Child, given: Any, **asked: Any) -> list[Vector]:
    data = child.post("embeddings", input=given, **asked)["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    return [entry["embedding"] for entry in data]


def test_tells_what_it_can_do(tiny: Child) -> None:
    assert tiny.about == {"dimensions": 12, "context": 12, "chat": False, "embeddings": True}


def test_vectors_are_those_of_the_model(tiny: Child, reference: Reference) -> None:
    together = vectors(tiny, list(TEXTS))
    for words, vector in zip(TEXTS.values(), together, strict=True):
        assert vector == pytest.approx(_mean(reference.states(_tokens(*words))), abs=2e-6)
    for text, vector in zip(TEXTS, together, strict=True):
        assert vectors(tiny, text)[0] == pytest.approx(vector, abs=1e-6)


def test_what_is_read_is_counted(tiny: Child) -> None:
    usage = tiny.post("embeddings", input=list(TEXTS))["usage"]
    tokens = sum(len(words) + 2 for words in TEXTS.values())
    assert usage == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_tokens_instead_of_a_text(tiny: Child) -> None:
    dog, cat = VOCABULARY["dog"], VOCABULARY["cat"]
    assert vectors(tiny, [dog]) == vectors(tiny, "dog")
    assert vectors(tiny, [[dog], [cat, dog]]) == vectors(tiny, ["dog", "cat dog"])


def test_many_texts_of_many_lengths(tiny: Child) -> None:
    texts = [" ".join(["cat"] * (1 + number % 10)) for number in range(1000)]
    alone = {text: vectors(tiny, text)[0] for text in texts[:10]}
    for text, vector in zip(texts, vectors(tiny, texts), strict=True):
        assert vector == pytest.approx(alone[text], abs=1e-6)


def test_numbers_in_base64(tiny: Child) -> None:
    (plain,) = vectors(tiny, "dog")
    packed = tiny.post("embeddings", input="dog", encoding_format="base64", dimensions=12)
    data = base64.b64decode(packed["data"][0]["embedding"])
    assert list(struct.unpack("<12f", data)) == plain


def test_the_openai_client_is_content(tiny: Child) -> None:
    with OpenAI(base_url=f"{tiny.url}/v1", api_key="none") as client:
        made = client.embeddings.create(model="tiny", input="dog")
        assert made.data[0].embedding == vectors(tiny, "dog")[0]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"input": "dog " * 11}, "input"),
        ({"input": []}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": ["dog", ""]}, "input"),
        ({"input": [999]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": "dog", "dimensions": 5}, "dimensions"),
        ({}, None),
    ],
)
def test_what_cannot_be_done(tiny: Child, asked: dict[str, Any], param: str | None) -> None:
    status, error = tiny.refusal("embeddings", **asked)
    assert status == 400
    assert param is None or error["param"].startswith(param)


def test_a_long_text_is_cut_where_that_is_asked_for(tiny: Child) -> None:
    long = vectors(tiny, "dog " * 30, truncate=True)
    assert long == vectors(tiny, "dog " * 10)


def test_a_lone_surrogate_is_some_character(tiny: Child) -> None:
    answer = tiny.client.post("/v1/embeddings", content=b'{"input": "dog \\ud83d"}')
    assert answer.status_code == 200


WAYS = {
    "cls": ({"pooling_mode": "cls"}, lambda states: _unit(states[0])),
    "cls by its switch": ({"pooling_mode_cls_token": True}, lambda states: _unit(states[0])),
    "max": (
        {"pooling_mode_max_tokens": True},
        lambda states: _unit([max(column) for column in zip(*states, strict=True)]),
    ),
    "mean": ({"pooling_mode_mean_tokens": True, "word_embedding_dimension": 12}, _mean),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_of_pooling(tmp_path: Path, way: str) -> None:
    pooling, pool = WAYS[way]
    reference = Reference(bert(tmp_path, pooling=pooling))
    with running(MINILM, tmp_path) as child:
        short, _ = vectors(child, ["dog", "the cat sat on a mat"])
        assert short == pytest.approx(pool(reference.states(_tokens("dog"))), abs=2e-6)


def test_lower_case_where_the_model_wants_it(tmp_path: Path) -> None:
    bert(tmp_path, sentences={"do_lower_case": True})
    with running(MINILM, tmp_path, "--context", "8") as child:
        assert child.about["context"] == 8
        assert vectors(child, "THE Dog") == vectors(child, "the dog")


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"config": {"model_type": "roberta"}}, "roberta"),
        ({"config": {"hidden_act": "swish"}}, "swish"),
        ({"config": {"hidden_size": "many"}}, "config.json"),
        ({"pooling": {"pooling_mode_lasttoken": True}}, "lasttoken"),
        ({"modules": ("Transformer", "Pooling", "Dense")}, "Dense"),
    ],
)
def test_other_models_are_refused_at_the_start(
    tmp_path: Path, told: dict[str, Any], why: str
) -> None:
    bert(tmp_path, **told)
    assert why in _last_words(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_files_that_are_missing_or_broken(tmp_path: Path, name: str) -> None:
    bert(tmp_path)
    (tmp_path / name).write_bytes(b"{")
    assert name in _last_words(tmp_path)
    (tmp_path / name).unlink()
    assert name in _last_words(tmp_path)


def _last_words(folder: Path) -> str:
    with start_child(MINILM, "--model", str(folder), "--name", "x") as process:
        assert process.stdout and process.stderr
        assert process.stdout.read() == ""
        *_, last = process.stderr.read().splitlines()
    assert process.returncode == 1 and last.startswith("cannot serve: ")
    return last
