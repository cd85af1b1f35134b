"""What answers say, and which say the same."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import MalformedAnswer
from proxy.ensembles.consensus import is_decided, majority
from proxy.ensembles.said import Said, key_of, read, without_logprobs


def _answer(*messages: dict[str, Any], **of_choices: Any) -> bytes:
    choices = [
        {"index": i, "message": message, "finish_reason": "stop", **of_choices}
        for i, message in enumerate(messages)
    ]
    return json.dumps({"choices": choices}).encode()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Four", " **four.**\n"),
        ('{"a": 1, "b": [1, 2]}', '{ "b":[1,2],"a":1 }'),
        ("the  answer\nis 4", "The answer is 4!"),
        ("42", '"42"'.strip('"')),
    ],
)
def test_what_says_the_same(one: str, other: str) -> None:
    assert Said(text=one).key == Said(text=other).key


@pytest.mark.parametrize(("one", "other"), [("4", "5"), ("[1, 2]", "[2, 1]"), ("yes", "yes no")])
def test_what_does_not(one: str, other: str) -> None:
    assert Said(text=one).key != Said(text=other).key


def test_calls_count_by_name_and_arguments() -> None:
    def call(name: str, arguments: object) -> dict[str, Any]:
        return {"tool_calls": [{"id": "x", "function": {"name": name, "arguments": arguments}}]}

    found = [
        key_of(read(_answer(message)))
        for message in (
            {"content": "Let me see.", **call("f", '{"a":1,"b":2}')},
            {"content": None, **call("f", '{ "b": 2, "a": 1 }')},
            call("f", '{"a":1}'),
            call("g", '{"a":1,"b":2}'),
            call("f", "not JSON"),
        )
    ]
    assert found[0] == found[1]
    assert len(set(found)) == 4


def test_replies_with_several_answers_agree_only_as_a_whole() -> None:
    one, two = {"content": "1"}, {"content": "2"}
    keys = [key_of(read(_answer(*said))) for said in ((one, two), (one, two), (one, one))]
    assert keys[0] == keys[1] != keys[2]


def test_confidence_is_the_mean_probability() -> None:
    tokens = [{"token": "a", "logprob": math.log(p)} for p in (0.9, 0.4)]
    (said,) = read(_answer({"content": "x"}, logprobs={"content": tokens}))
    assert said.confidence == pytest.approx(math.sqrt(0.36))
    assert read(_answer({"content": "x"}))[0].confidence is None
    assert read(_answer({"content": "x"}, logprobs={"content": []}))[0].confidence is None


def test_what_is_cut_short_or_refused_is_not_whole() -> None:
    assert read(_answer({"content": "x"}))[0].is_whole
    for body in (
        _answer({"content": " "}),
        _answer({"content": None}),
        _answer({"content": "x", "refusal": "no"}),
        _answer({"content": "x"}, finish_reason="length"),
        _answer({"content": "x"}, finish_reason="content_filter"),
    ):
        assert not read(body)[0].is_whole


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_what_is_no_answer_is_malformed(value: object) -> None:
    for body in (json.dumps(value), json.dumps({"choices": value})):
        try:
            assert read(body.encode()) == ()
        except MalformedAnswer:
            continue
        assert value == []


def test_lone_surrogates_are_survived() -> None:
    body = rb'{"choices": [{"message": {"content": "\ud83d", "tool_calls": [{"function": '
    body += rb'{"name": "\ud83d", "arguments": "\ud83d"}}]}, "logprobs": {"content": null}}]}'
    assert key_of(read(body))
    assert json.loads(without_logprobs(body))["choices"][0]["logprobs"] is None


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9))
def test_the_majority_is_the_first_of_the_most_frequent(words: list[str]) -> None:
    keys = [(word,) for word in words]
    chosen = majority(keys)
    counts = [words.count(word) for word in words]
    assert counts[chosen] == max(counts)
    assert chosen == min(i for i, count in enumerate(counts) if count == max(counts))


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), st.data())
def test_what_is_decided_stays_so_whatever_comes(words: list[str], data: st.DataObject) -> None:
    came = data.draw(st.integers(0, len(words)))
    keys = [(word,) for word in words]
    if is_decided(keys[:came], len(keys)):
        assert keys[majority(keys[:came])] == keys[majority(keys)]
