"""A text said by two targets: what may be said so, and how the two parts are joined."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Prefill, Unsupported
from proxy.wire import chat
from proxy.wire.continuing import (
    LEAST_REPEATED,
    MOST_BYTES,
    Resumed,
    Seam,
    Transcript,
    continued,
    may_continue,
)
from proxy.wire.dialect import Upstream

USER = {"role": "user", "content": "Hi"}


def request(**fields: Any) -> chat.ChatRequest:
    body = {"model": "m", "messages": [USER], "stream": True, **fields}
    return chat.parse(json.dumps(body).encode())


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"id": "1", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, True),
        ({"response_format": {"type": "text"}}, True),
        ({"response_format": {"type": "json_object"}}, False),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, False),
        ({"n": 2}, False),
        ({"logprobs": True}, False),
        ({"reasoning_effort": "low"}, False),
        ({"modalities": ["text", "audio"]}, False),
        ({"messages": [USER, {"role": "assistant", "content": "I"}]}, False),
    ],
)
def test_what_may_be_said_by_two(fields: dict[str, Any], expected: bool) -> None:
    assert may_continue(request(**fields)) is expected


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([], ""),
        ([{"role": "assistant", "content": ""}], ""),
        ([{"role": "assistant", "content": "One"}, {"content": " two "}], "One two "),
        ([{"reasoning_content": "Hm"}], ""),
        ([{"reasoning_content": "Hm"}, {"content": "One"}], "One"),
        ([{"content": "One"}, {"tool_calls": [{"index": 0}]}], ""),
        ([{"content": "One"}, {"function_call": {"name": "f"}}], ""),
        ([{"content": "One"}, {"refusal": "No"}], ""),
        ([{"content": "One"}, {"audio": {"data": "x"}}], ""),
        ([{"content": " \n"}], ""),
        ([{"content": "\ud83d"}], ""),
        ([{"content": "\ud83d"}, {"content": "\udc4b"}], ""),
        ([{"content": "x" * MOST_BYTES}], ""),
    ],
)
def test_what_has_left_so_far(events: list[Any], text: str) -> None:
    transcript = Transcript()
    for delta in events:
        transcript.add(event(chunk(delta)))
    assert transcript.text() == text


def test_what_is_finished_or_has_other_choices_is_not_gone_on_with() -> None:
    for last in (chunk({}, "stop"), chunk({"content": "x"}, index=1)):
        transcript = Transcript()
        transcript.add(event(chunk({"content": "One"})) + event(last))
        assert transcript.text() == ""


@pytest.mark.parametrize(
    ("how", "message", "beside"),
    [
        ("plain", {}, {}),
        ("prefix", {"prefix": True}, {}),
        ("partial", {"partial": True}, {}),
        ("continue", {}, {"continue_final_message": True, "add_generation_prompt": False}),
    ],
)
def test_each_provider_is_asked_in_its_own_way(
    how: Prefill, message: dict[str, bool], beside: dict[str, bool]
) -> None:
    asked = request(max_tokens=100, temperature=0.5)
    more = continued(asked, "One “two” \n", 30)
    assert more is not None
    sent = json.loads(more.upstream(Upstream(model="x", prefill=how)).body)
    begun = {"role": "assistant", "content": "One “two”", **message}
    assert sent["messages"] == [USER, begun]
    assert sent["max_tokens"] == 70
    assert sent["temperature"] == 0.5
    assert {name: sent.get(name) for name in beside} == beside
    assert more.max_output_tokens == 70
    assert more.input_bound(0) >= asked.input_bound(0) + len("One “two”".encode())


def test_who_cannot_go_on_is_not_asked() -> None:
    more = continued(request(), "One", 1)
    assert more is not None
    with pytest.raises(Unsupported):
        more.upstream(Upstream(model="x"))


def test_what_has_reached_its_maximum_is_not_gone_on_with() -> None:
    assert continued(request(max_completion_tokens=30), "One", 30) is None
    more = continued(request(max_completion_tokens=30), "One", 29)
    assert more is not None
    sent = json.loads(more.upstream(Upstream(model="x", prefill="plain")).body)
    assert sent["max_completion_tokens"] == 1
    assert "max_tokens" not in sent


SAID = "It was the best of times, it was the worst of times, "


@pytest.mark.parametrize(
    ("next_text", "new"),
    [
        ("it was the age", "it was the age"),  # shorter than a repetition
        (" it was the age", "it was the age"),  # the white space that it was not told of
        (SAID + "it was the age", "it was the age"),
        (SAID.rstrip() + " it was the age", "it was the age"),
        (SAID.rstrip() + "\nit was the age", "\nit was the age"),
        ("it was the worst of times, it was the age", "it was the age"),
        ("of times", "of times"),
        ("", ""),
        (SAID, ""),
        (SAID[:30], ""),  # broke off in the middle of repeating
        ("the worst of times", ""),
        ("It", "It"),
        ("It rained", "It rained"),
    ],
)
def test_what_was_said_is_not_said_twice(next_text: str, new: str) -> None:
    assert joined(SAID, [next_text]) == new
    assert joined(SAID, list(next_text)) == new


def joined(said: str, pieces: list[str]) -> str:
    seam = Seam(said)
    text = ""
    for piece in pieces:
        text += piece if seam.is_closed else seam.join(piece)
    return text if seam.is_closed else text + seam.close()


words = st.text(st.sampled_from("ab \n"), max_size=60)


@given(words, st.integers(0, 60), words, st.lists(st.integers(0, 120), max_size=6))
def test_however_it_is_cut_the_longest_repetition_is_left_out(
    said: str, begin: int, new: str, cuts: list[int]
) -> None:
    text = said[begin:] + new
    blank = said[len(said.rstrip()) :]
    ends = {said[i:] for i in range(len(said) - LEAST_REPEATED + 1)}
    ends |= {blank[i:] for i in range(len(blank))} | {said, said.rstrip()}
    repeated = max((end for end in ends if text.startswith(end)), key=len, default="")
    expected = text[len(repeated) :]
    is_within = len(text) >= LEAST_REPEATED and any(end.startswith(text) for end in ends)
    if not repeated and is_within:
        expected = ""
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    assert joined(said, pieces) == expected


class Scripted:
    """An answer whose payloads come as they are written down."""

    headers: Mapping[str, str] = {}
    dropped: Sequence[str] = ()

    def __init__(self, batches: list[list[bytes]]) -> None:
        self._batches = batches

    async def body(self) -> bytes:
        raise AssertionError

    async def pieces(self) -> bytes:
        raise AssertionError

    async def payloads(self) -> Sequence[bytes]:
        return self._batches.pop(0) if self._batches else ()


def payloads_of(said: str, *batches: list[object]) -> list[Any]:
    async def read() -> list[bytes]:
        raw = [[p if isinstance(p, bytes) else json.dumps(p).encode() for p in b] for b in batches]
        answer = Resumed(Scripted(raw), said)
        found: list[bytes] = []
        while payloads := await answer.payloads():
            found += payloads
        return found

    return [p if not p.startswith(b"{") else json.loads(p) for p in asyncio.run(read())]


def texts_of(payloads: list[Any]) -> str:
    return "".join(p["choices"][0]["delta"].get("content") or "" for p in payloads if p["choices"])


def test_the_next_answer_begins_where_the_last_one_ended() -> None:
    found = payloads_of(
        SAID,
        [chunk({"role": "assistant", "content": ""})],
        [chunk({"content": SAID[:20]}), chunk({"content": SAID[20:-1]})],
        [chunk({"content": " it was"}), chunk({"content": " the age"})],
        [chunk({}, "stop")],
    )
    assert texts_of(found) == "it was the age"
    assert found[-1]["choices"][0]["finish_reason"] == "stop"


def test_what_was_held_back_leaves_before_the_end() -> None:
    found = payloads_of(SAID, [chunk({"content": "It"})], [chunk({}, "stop")])
    assert texts_of(found) == "It"
    assert found[-1]["choices"][0]["finish_reason"] == "stop"
    found = payloads_of(SAID, [chunk({"content": "It"}, "length")])
    assert texts_of(found) == "It"
    assert found[-1]["choices"][0]["finish_reason"] == "length"
    assert texts_of(payloads_of(SAID, [chunk({"content": "It"})])) == "It"


def test_what_is_no_text_passes() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 1}}
    odd = [b"{", b'{"choices":null}', b'{"choices":[{"delta":7}]}']
    assert payloads_of(SAID, [*odd[1:], usage]) == [*map(json.loads, odd[1:]), usage]
    call = chunk({"tool_calls": [{"index": 0}]})
    assert payloads_of(SAID, [call, chunk({}, "tool_calls")])[0] == call
