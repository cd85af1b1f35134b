"""Whole answers: which are taken for one, and what they say they took."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import AdapterError, MalformedAnswer, UpstreamError
from proxy.pricing import Usage
from proxy.wire.answers import read_chat, read_embeddings
from proxy.wire.usage import ReportedCost

MESSAGE = {"role": "assistant", "content": "Hello"}


def chat_answer(**fields: Any) -> bytes:
    choice = {"index": 0, "message": MESSAGE, "finish_reason": "stop"}
    return json.dumps({"id": "1", "choices": [choice], **fields}).encode()


def test_usage_and_size_of_a_chat_answer() -> None:
    facts = read_chat(chat_answer(usage={"prompt_tokens": 3, "completion_tokens": 2}))
    assert facts.usage == Usage(input_tokens=3, output_tokens=2)
    assert 5 <= facts.output_bytes < 50


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "cost": 0.25}


def test_a_cost_is_read_only_where_the_providers_word_counts() -> None:
    body = chat_answer(usage=USAGE)
    assert read_chat(body).cost is None
    assert read_chat(body, reads_cost=True).cost == ReportedCost(nanousd=250_000_000)
    assert read_chat(chat_answer(), reads_cost=True).cost is None
    vectors = b'{"data":[{}],"usage":{"prompt_tokens":3,"total_tokens":3,"cost":1e-8}}'
    assert read_embeddings(vectors)[0].cost is None
    facts, _ = read_embeddings(vectors, reads_cost=True)
    assert facts.cost == ReportedCost(nanousd=10)


def test_the_service_tier_of_an_answer() -> None:
    assert read_chat(chat_answer(service_tier="flex", usage=USAGE)).service_tier == "flex"
    assert read_chat(chat_answer(service_tier={"odd": 1})).service_tier is None


def test_lone_surrogates_do_not_hide_the_cost() -> None:
    body = chat_answer(usage=USAGE).replace(b"Hello", b"\\ud83d")
    assert read_chat(body, reads_cost=True).cost == ReportedCost(nanousd=250_000_000)


@pytest.mark.parametrize(
    "fields",
    [{}, {"usage": None}, {"usage": {}}, {"usage": "none"}, {"error": None}, {"error": {}}],
)
def test_an_answer_without_usage_is_one(fields: dict[str, Any]) -> None:
    assert read_chat(chat_answer(**fields)).usage is None


def test_usage_of_an_embeddings_answer() -> None:
    body = b'{"data":[{"index":0,"embedding":[1.0]}],"usage":{"prompt_tokens":3,"total_tokens":3}}'
    assert read_embeddings(body)[0].usage == Usage(input_tokens=3, output_tokens=0)
    assert read_embeddings(b'{"data":[{}]}')[0].usage is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Bad gateway",
        b"<html></html>",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"choices":null}',
        b'{"choices":[]}',
        b'{"choices":{}}',
        b'{"choices":[null]}',
        b'{"choices":[{}]}',
        b'{"choices":[{"message":null}]}',
        b'{"choices":[{"text":"Hello"}]}',
        b'{"choices":[{"message":{"content":NaN}}]}',
        b'{"choices":[{"message":{"content":"\xff"}}]}',
        b'\xef\xbb\xbf{"choices":[{"message":{}}]}',
        b'{"choices":[{"message":{"content":%b}}]}' % (b"[" * 100_000),
        chat_answer()[:-1],
    ],
)
def test_what_is_no_chat_answer_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        read_chat(body)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"data":null}', b'{"data":[]}', b'{"data":[1]}'])
def test_what_is_no_embeddings_answer_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        read_embeddings(body)


@pytest.mark.parametrize(
    ("error", "message", "kind", "code"),
    [
        ({"message": "No", "type": "t", "code": "c"}, "No", "t", "c"),
        ({"message": "No", "code": 429}, "No", None, "429"),
        ("No", "No", None, None),
        ({"code": None, "detail": 1}, "the provider reported an error in its answer", None, None),
        ({"message": "\ud83d"}, "\ufffd", None, None),
        ({"message": "x" * 9_999}, "x" * 2_000, None, None),
    ],
)
@pytest.mark.parametrize("read", [read_chat, read_embeddings])
def test_an_error_in_an_answer_is_raised_in_its_words(
    read: Any, error: object, message: str, kind: str | None, code: str | None
) -> None:
    with pytest.raises(UpstreamError) as caught:
        read(json.dumps({"error": error}).encode())
    assert (caught.value.message, caught.value.type, caught.value.code) == (message, kind, code)
    assert caught.value.status == 200
    assert caught.value.retry_elsewhere


def test_lone_surrogates_in_an_answer_are_taken() -> None:
    message = rb'{"choices":[{"message":{"content":"\ud83d"}}],'
    body = message + b'"usage":{"prompt_tokens":3,"completion_tokens":2}}'
    assert read_chat(body).usage == Usage(input_tokens=3, output_tokens=2)


@given(st.binary(max_size=40))
def test_no_bytes_raise_anything_but_an_adapter_error(body: bytes) -> None:
    for read in (read_chat, read_embeddings):
        try:
            read(body)
        except AdapterError:
            continue
