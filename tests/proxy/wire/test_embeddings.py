"""Embeddings: what is refused, what is held, and vectors in the format that was asked for."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.wire import embeddings
from proxy.wire.answers import read_embeddings
from proxy.wire.dialect import Upstream
from proxy.wire.embeddings import ITEM_TOKENS, EmbeddingsRequest, Format, parse


def request(value: Any, **fields: Any) -> EmbeddingsRequest:
    return parse(json.dumps({"model": "m", "input": value, **fields}).encode())


def answer(*vectors: Any, **fields: Any) -> bytes:
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    return json.dumps({"object": "list", "data": data, **fields}, separators=(",", ":")).encode()


def convert(body: bytes, wanted: Format) -> bytes:
    return embeddings.convert(body, read_embeddings(body)[1], wanted)


def vectors(body: bytes) -> list[Any]:
    return [item["embedding"] for item in json.loads(body)["data"]]


@pytest.mark.parametrize(
    ("value", "items", "estimate", "bound"),
    [
        ("", 1, 0, 0),
        ("Hello", 1, 1, 5),
        ("中文", 1, 1, 6),
        ("\ud83d", 1, 0, 3),
        (["a", "bcde"], 2, 1, 5),
        ([1, 2, 3], 1, 3, 3),
        ([[1, 2], [3]], 2, 3, 3),
        (["x"] * 2048, 2048, 512, 2048),
        ([0] * 5000, 1, 5000, 5000),
    ],
)
def test_items_and_tokens_are_counted(value: Any, items: int, estimate: int, bound: int) -> None:
    asked = request(value)
    assert (asked.items, asked.input_tokens) == (items, estimate)
    assert asked.input_bound(50_000) == bound + ITEM_TOKENS * items


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": {}}, "input"),
        ({"input": 5}, "input"),
        ({"input": [1.5]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": ["a", [1]]}, "input"),
        ({"input": [["a"]]}, "input"),
        ({"input": [None]}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"encoding_format": 5}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "256"}, "dimensions"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(json.dumps({"model": "m", "input": "x", **fields}).encode())
    assert caught.value.param == param


def test_missing_fields_are_named() -> None:
    for raw, param in ((b'{"input":"x"}', "model"), (b'{"model":"m"}', "input")):
        with pytest.raises(InvalidRequest) as caught:
            parse(raw)
        assert caught.value.param == param


def test_only_the_model_changes_upstream() -> None:
    raw = rb'{"input":"\ud83d \u2028","dimensions":256,"model":"embed","user":"u","x":1.0}'
    body = parse(raw).upstream(Upstream(model="real", default_max=5)).body
    assert body == raw.replace(b'"embed"', b'"real"')


@pytest.mark.parametrize(("asked", "kept"), [({}, "float"), ({"encoding_format": None}, "float")])
def test_floats_are_the_default_format(asked: dict[str, Any], kept: str) -> None:
    assert request("x", **asked).encoding_format == kept


def test_known_vector_both_ways() -> None:
    floats, packed = [1.0, 2.0], "AACAPwAAAEA="
    assert vectors(convert(answer(floats), "base64")) == [packed]
    assert vectors(convert(answer(packed), "float")) == [floats]


@pytest.mark.parametrize(("vector", "wanted"), [([0.1, 1e-8], "float"), ("AACAPw==", "base64")])
def test_what_is_in_the_format_already_is_passed_on_untouched(vector: Any, wanted: Format) -> None:
    body = answer(vector, vector, usage={"prompt_tokens": 1.0})
    assert convert(body, wanted) is body


def test_everything_around_the_vectors_is_kept() -> None:
    body = answer([1.0], model="m", usage={"prompt_tokens": 3}, extra={"a": 1.0})
    converted = json.loads(convert(body, "base64"))
    expected = json.loads(body)
    expected["data"][0]["embedding"] = "AACAPw=="
    assert converted == expected


def test_mixed_formats_become_one() -> None:
    assert vectors(convert(answer([1.0], "AAAAQA=="), "float")) == [[1.0], [2.0]]


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)), min_size=1))
def test_conversion_there_and_back_is_lossless(given_vectors: list[list[float]]) -> None:
    as_base64 = convert(answer(*given_vectors), "base64")
    for vector, packed in zip(given_vectors, vectors(as_base64), strict=True):
        assert list(struct.unpack(f"<{len(vector)}f", base64.b64decode(packed))) == vector
    assert vectors(convert(as_base64, "float")) == given_vectors


def test_vectors_are_brought_into_the_order_of_their_indexes() -> None:
    body = b'{"data":[{"index":1,"embedding":[2]},{"index":0,"embedding":[1]}]}'
    assert vectors(convert(body, "float")) == [[1], [2]]


def test_missing_indexes_are_numbered_as_they_came() -> None:
    body = b'{"data":[{"embedding":[1]},{"embedding":[2]}]}'
    assert [item["index"] for item in json.loads(convert(body, "float"))["data"]] == [0, 1]


_NAN = base64.b64encode(struct.pack("<f", math.nan)).decode()


@pytest.mark.parametrize(
    "body",
    [
        b'{"data":[{}]}',
        b'{"data":[{"index":0,"embedding":null}]}',
        b'{"data":[{"index":0,"embedding":{}}]}',
        b'{"data":[{"index":0,"embedding":"AAA"}]}',
        b'{"data":[{"index":0,"embedding":"AAAA"}]}',
        b'{"data":[{"index":0,"embedding":"*AACAPw=="}]}',
        b'{"data":[{"index":0,"embedding":"%b"}]}' % _NAN.encode(),
        b'{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[2]}]}',
        b'{"data":[{"index":1,"embedding":[1]},{"index":2,"embedding":[2]}]}',
        b'{"data":[{"index":0,"embedding":[1]},{"embedding":[2]}]}',
    ],
)
def test_vectors_that_are_none_are_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        convert(body, "float")


@pytest.mark.parametrize("value", [b"1e39", b"1e999", b'"x"', b"null"])
def test_values_that_no_float32_holds_are_a_value_error(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        convert(b'{"data":[{"index":0,"embedding":[%b]}]}' % value, "base64")


def test_what_stands_before_each_item_is_in_the_bound() -> None:
    plain = request(["a", "b"]).input_bound(0)
    assert request(["a", "b"], instruction="x" * 1000).input_bound(0) >= plain + 2000
    assert request(["a", "b"], dimensions=256).input_bound(0) == plain


@pytest.mark.parametrize("name", ["messages", "images"])
def test_what_is_embedded_besides_has_no_bound(name: str) -> None:
    assert request("a", **{name: [{"url": "https://example.com/a.png"}]}).unbounded == name
    assert request("a", **{name: None}).unbounded is None
