"""Endpoints with a dialect of their own, described by templates and places."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import base
from adapters.base import Call, Deadlines, Endpoint
from adapters.templated_http import TemplatedHttp
from adapters.wire.templated_answers import ChatReader, VectorReader
from adapters.wire.templates import ChatPlaces, Endpoints, StreamPlaces, VectorPlaces, fill, found
from tests.adapters.contract import EVENTS, event
from tests.adapters.servers import Peer, Request, ScriptedServer
from tests.adapters.wire import END, head, piece, whole

Json = dict[str, Any]
USER = {"role": "user", "content": "Hi"}
SAID = whole({"out": "Hello"})


def endpoints(
    request: Json,
    response: Json | None = None,
    stream: Json | None = None,
    *,
    name: str = "chat",
    path: str = "/g",
) -> Endpoints:
    place = {"text": "out"} if name == "chat" else {"embeddings": "out"}
    described: Json = {"path": path, "request": request, "response": response or place}
    if stream is not None:
        described["stream"] = stream
    return msgspec.convert({name: described}, Endpoints)


class Asked:
    """One exchange: the request as it arrived, what was dropped, and the answer."""

    def __init__(self, request: Request, dropped: Sequence[str], answer: list[Json]) -> None:
        self.line = request.line
        self.headers = request.headers
        self.body: Json = json.loads(request.body)
        self.dropped = dropped
        self.answer = answer


def ask(
    described: Endpoints,
    body: Json,
    *answer: bytes,
    endpoint: Endpoint = "chat",
    drop: bool = False,
) -> Asked:
    """Ask an endpoint that gives this answer."""
    seen: list[Request] = []
    stream = bool(body.get("stream"))
    call = Call(
        endpoint=endpoint,
        model="m",
        body=json.dumps({"model": "m", **body}).encode(),
        stream=stream,
        deadlines=Deadlines(),
        drop_params=drop,
    )

    def script(peer: Peer) -> None:
        seen.append(peer.read_request())
        for part in answer:
            peer.send(part)

    async def run(url: str) -> tuple[Sequence[str], list[Json]]:
        adapter = TemplatedHttp(base_url=f"{url}/v9", endpoints=described, api_key="sk-0123456789")
        try:
            async with asyncio.timeout(10), adapter.open(call) as opened:
                if not stream:
                    return opened.dropped, [json.loads(await opened.body())]
                came: list[Json] = []
                while payloads := await opened.payloads():
                    came += [json.loads(payload) for payload in payloads]
                return opened.dropped, came
        finally:
            await adapter.aclose()

    with ScriptedServer(script) as server:
        dropped, answered = asyncio.run(run(server.url))
    return Asked(seen[0], dropped, answered)


def refused(request: Json, body: Json) -> str:
    with pytest.raises(base.Unsupported) as caught:
        ask(endpoints(request), body)
    return caught.value.param


# --- requests -------------------------------------------------------------------------------------


def test_placeholders_become_values_and_absent_ones_vanish() -> None:
    template = {
        "model": "{{model}}",
        "messages": "{{ messages }}",
        "options": {"temperature": "{{temperature}}", "top_k": "{{top_k}}"},
        "limits": {"max": "{{max_tokens}}"},
        "stops": ["END", "{{stop}}"],
        "stream": "{{stream}}",
        "fixed": [1, None, {"a": True}, []],
    }
    asked = ask(endpoints(template), {"messages": [USER], "temperature": 0.5}, SAID)
    assert asked.line == "POST /v9/g HTTP/1.1"
    assert asked.headers["authorization"] == "Bearer sk-0123456789"
    assert asked.body == {
        "model": "m",
        "messages": [USER],
        "options": {"temperature": 0.5},
        "stops": ["END"],
        "stream": False,
        "fixed": [1, None, {"a": True}, []],
    }


def test_either_name_of_the_maximum_is_carried() -> None:
    template = {"p": "{{prompt}}", "max": "{{max_tokens}}"}
    for name in ("max_tokens", "max_completion_tokens"):
        assert ask(endpoints(template), {"messages": [USER], name: 7}, SAID).body["max"] == 7


def test_text_of_the_messages_by_who_said_it() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]},
        {"role": "assistant", "content": "C"},
        {"role": "user", "content": "D"},
    ]
    asked = ask(endpoints({"p": "{{prompt}}"}), {"messages": messages}, SAID)
    assert asked.body == {"p": "Be brief.\n\nAB\n\nC\n\nD"}
    template = {"p": "{{prompt}}", "s": "{{system}}", "last": "{{last_user_message}}"}
    asked = ask(endpoints(template), {"messages": messages}, SAID)
    assert asked.body == {"p": "AB\n\nC\n\nD", "s": "Be brief.", "last": "D"}


def test_values_are_never_taken_for_templates() -> None:
    asked = ask(
        endpoints({"p": "{{prompt}}"}), {"messages": [{**USER, "content": "{{model}}"}]}, SAID
    )
    assert asked.body == {"p": "{{model}}"}


@pytest.mark.parametrize(
    ("template", "body", "param"),
    [
        ({"p": "{{prompt}}"}, {"messages": [USER], "temperature": 1}, "temperature"),
        ({"p": "{{prompt}}"}, {"messages": [USER], "tools": [{"type": "function"}]}, "tools"),
        ({"p": "{{last_user_message}}"}, {"messages": [USER, USER]}, "messages"),
        (
            {"p": "{{last_user_message}}"},
            {"messages": [{"role": "system", "content": "a"}, USER]},
            "messages",
        ),
        (
            {"p": "{{prompt}}"},
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}]},
            "messages[0].content[0]",
        ),
        (
            {"p": "{{prompt}}"},
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": "u", "text": "x"}],
                    }
                ]
            },
            "messages[0].content[0]",
        ),
        (
            {"p": "{{prompt}}"},
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
                ]
            },
            "messages[0].tool_calls",
        ),
    ],
)
def test_what_a_template_has_no_place_for_is_refused_or_dropped(
    template: Json, body: Json, param: str
) -> None:
    assert refused(template, body) == param
    asked = ask(endpoints(template), body, SAID, drop=True)
    assert asked.dropped == [param]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_maximum_is_never_dropped_since_budgets_count_on_it(name: str) -> None:
    with pytest.raises(base.Unsupported) as caught:
        ask(endpoints({"p": "{{prompt}}"}), {"messages": [USER], name: 1}, SAID, drop=True)
    assert caught.value.param == "max_tokens"


def test_hints_are_left_out_without_a_word() -> None:
    body = {"messages": [USER], "user": "u", "n": 1, "stream_options": {}, "top_p": None}
    asked = ask(endpoints({"p": "{{prompt}}"}), body, SAID)
    assert asked.body == {"p": "Hi"}
    assert asked.dropped == []


# --- answers --------------------------------------------------------------------------------------


PLACES = {
    "text": "out.*.text",
    "finish_reason": "why",
    "input_tokens": "use.0",
    "output_tokens": "use.1",
}


def test_an_answer_is_read_at_its_places() -> None:
    answer = {"out": [{"text": "Hel"}, {"text": "lo"}], "why": "max_tokens", "use": [2, 3]}
    described = endpoints({"p": "{{prompt}}"}, PLACES)
    (body,) = ask(described, {"messages": [USER]}, whole(answer)).answer
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Hello"}
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


@pytest.mark.parametrize("use", [[2], [2, None], ["2", "3"], [True, False], [-1, 3], {}, None])
def test_half_a_usage_is_none(use: Any) -> None:
    answer = {"out": [{"text": "a"}], "use": use}
    (body,) = ask(
        endpoints({"p": "{{prompt}}"}, PLACES), {"messages": [USER]}, whole(answer)
    ).answer
    assert "usage" not in body


def test_a_whole_answer_is_streamed_as_one_piece() -> None:
    answer = {"out": [{"text": "Hello"}], "use": [2, 3]}
    described = endpoints({"p": "{{prompt}}", "s": "{{stream}}"}, PLACES)
    asked = ask(described, {"messages": [USER], "stream": True}, whole(answer))
    assert asked.body == {"p": "Hi", "s": False}
    deltas = [c["choices"][0] for c in asked.answer if c["choices"]]
    assert [(c["delta"], c["finish_reason"]) for c in deltas] == [
        ({"content": "Hello"}, None),
        ({}, "stop"),
    ]
    assert asked.answer[-1]["usage"]["total_tokens"] == 5


def test_events_up_to_the_end_mark() -> None:
    stream = {"text": "t", "end": "[DONE]", "finish_reason": "why", "path": "/s"}
    described = endpoints({"p": "{{prompt}}", "s": "{{stream}}"}, stream=stream)
    said = event({"t": "Hel"}) + event({"t": "lo"}) + event({"t": None, "why": "length"})
    asked = ask(
        described,
        {"messages": [USER], "stream": True},
        EVENTS,
        said,
        piece(b"data: [DONE]\n\n"),
        END,
    )
    assert asked.line == "POST /v9/s HTTP/1.1"
    assert asked.body == {"p": "Hi", "s": True}
    assert [c["choices"][0]["delta"] for c in asked.answer] == [
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert asked.answer[-1]["choices"][0]["finish_reason"] == "length"


def test_a_stream_without_its_end_mark_is_broken() -> None:
    described = endpoints({"p": "{{prompt}}"}, stream={"text": "t", "end": "[DONE]"})
    with pytest.raises(base.ConnectionLost):
        ask(described, {"messages": [USER], "stream": True}, EVENTS, event({"t": "Hel"}), END)


@pytest.mark.parametrize("said", [[], [{"t": "Hel"}]])
def test_the_end_of_the_body_is_no_end_of_nothing_or_of_half_an_answer(said: list[Json]) -> None:
    described = endpoints({"p": "{{prompt}}"}, stream={"text": "t", "finish_reason": "why"})
    body = {"messages": [USER], "stream": True}
    with pytest.raises(base.ConnectionLost):
        ask(described, body, EVENTS, *map(event, said), END)
    asked = ask(described, body, EVENTS, *map(event, [*said, {"t": "", "why": "end"}]), END)
    assert asked.answer[-1]["choices"][0]["finish_reason"] == "stop"


def test_an_error_that_ends_a_stream_is_told() -> None:
    described = endpoints({"p": "{{prompt}}"}, stream={"text": "t", "finish_reason": "why"})
    error = event({"error": {"message": "no", "type": None, "code": None}})
    asked = ask(described, {"messages": [USER], "stream": True}, EVENTS, error, END)
    assert asked.answer == [{"error": {"message": "no", "type": None, "code": None}}]


@given(cuts=st.lists(st.integers(0, 60), max_size=6), ends=st.booleans())
def test_lines_however_they_are_cut(cuts: list[int], ends: bool) -> None:
    body = '{"t":"Hé"}\n\r\n {"t":"l\u2028lo"}\r\n{"t":null}'.encode() + (b"\n" if ends else b"")
    reader = ChatReader("m", ChatPlaces(text="t"), StreamPlaces(text="t", framing="lines"))
    decoder = reader.decoder()
    bounds = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    came: list[bytes] = []
    for begin, end in itertools.pairwise(bounds):
        came += reader.read_payloads(decoder.feed(body[begin:end]))
    assert not reader.is_done
    last = decoder.finish()
    assert last is not None
    came += reader.read_payloads([last])
    assert reader.is_done
    texts = [json.loads(c)["choices"][0]["delta"].get("content", "") for c in came]
    assert "".join(texts) == "Hél\u2028lo"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"out":5}', b'{"out":[1]}', b"{}", b""])
def test_an_answer_without_its_text_is_malformed(stream: bool, answer: bytes) -> None:
    said = head(content_type="application/json", content_length=str(len(answer))) + answer
    with pytest.raises(base.MalformedAnswer):
        ask(endpoints({"p": "{{prompt}}"}), {"messages": [USER], "stream": stream}, said)


def test_an_error_with_status_200_is_passed_on_in_openais_shape() -> None:
    said = whole({"error": "out of memory"})
    (body,) = ask(endpoints({"p": "{{prompt}}"}), {"messages": [USER]}, said).answer
    assert body["error"]["message"] == "out of memory"


# --- vectors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_input", "answer", "vectors"),
    [
        ("a", {"out": [0.5, 1]}, [[0.5, 1.0]]),
        ("a", {"out": [[0.5, 1]]}, [[0.5, 1.0]]),
        (["a", "b"], {"out": [[1], [2]]}, [[1.0], [2.0]]),
    ],
)
def test_vectors_are_read_at_their_place(
    given_input: Any, answer: Json, vectors: list[list[float]]
) -> None:
    described = endpoints({"texts": "{{inputs}}", "raw": "{{input}}"}, name="embeddings")
    asked = ask(described, {"input": given_input}, whole(answer), endpoint="embeddings")
    listed = [given_input] if isinstance(given_input, str) else given_input
    assert asked.body == {"texts": listed, "raw": given_input}
    (body,) = asked.answer
    assert [(d["index"], d["embedding"]) for d in body["data"]] == list(enumerate(vectors))


@pytest.mark.parametrize("answer", [{"out": [[1]]}, {"out": [["a"], [1]]}, {"out": None}, {}, []])
def test_too_few_vectors_are_malformed(answer: Any) -> None:
    described = endpoints({"texts": "{{inputs}}"}, name="embeddings")
    with pytest.raises(base.MalformedAnswer):
        ask(described, {"input": ["a", "b"]}, whole(answer), endpoint="embeddings")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"input": [1, 2]}, base.Unsupported),
        ({"input": [[1], [2]]}, base.Unsupported),
        ({"input": "a", "dimensions": 5}, base.Unsupported),
        ({"input": 5}, base.BadRequest),
        ({}, base.BadRequest),
    ],
)
def test_what_cannot_be_embedded(body: Json, kind: type[base.AdapterError]) -> None:
    with pytest.raises(kind):
        ask(endpoints({"texts": "{{inputs}}"}, name="embeddings"), body, endpoint="embeddings")


# --- what an operator may write -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("described", "where", "problem"),
    [
        (Endpoints(), (), "chat"),
        (endpoints({"a": [{"b": "{{promt}}"}]}), ("chat", "request", "a", 0, "b"), "prompt"),
        (endpoints({"a": "Q: {{prompt}}"}), ("chat", "request", "a"), "alone"),
        (endpoints({"a": "{{model}}"}), ("chat", "request"), "{{prompt}}"),
        (endpoints({"a": "{{prompt}}"}, path="g"), ("chat", "path"), "slash"),
        (endpoints({"a": "{{prompt}}"}, path="/a b"), ("chat", "path"), "%-encoded"),
        (endpoints({"a": "{{prompt}}"}, {"text": "a..b"}), ("chat", "response", "text"), "a..b"),
        (endpoints({"a": "{{prompt}}"}, {"text": ""}), ("chat", "response", "text"), "place"),
        (
            endpoints({"a": "{{prompt}}"}, stream={"text": "a."}),
            ("chat", "stream", "text"),
            "choices.0.text",
        ),
        (endpoints({"a": "{{model}}"}, name="embeddings"), ("embeddings", "request"), "{{input}}"),
        (
            endpoints({"a": "{{input}}", "b": "{{prompt}}"}, name="embeddings"),
            ("embeddings", "request", "b"),
            "inputs",
        ),
    ],
)
def test_a_mistake_is_found_at_the_start(
    described: Endpoints, where: tuple[str | int, ...], problem: str
) -> None:
    found_at, text = next(described.problems())
    assert found_at == where
    assert problem in text
    with pytest.raises(ValueError, match="endpoints"):
        TemplatedHttp(base_url="http://h", endpoints=described)


def test_it_speaks_what_is_described() -> None:
    assert endpoints({"a": "{{prompt}}"}).speaks == {"chat"}
    assert endpoints({"a": "{{input}}"}, name="embeddings").speaks == {"embeddings"}


# --- any JSON -------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


@given(value=_JSON, place=st.lists(st.sampled_from(["a", "0", "*", "12", "²"]), min_size=1))
def test_any_place_in_any_answer(value: Any, place: list[str]) -> None:
    found(value, ".".join(place))


@given(value=_JSON)
def test_a_template_without_placeholders_is_the_body(value: Any) -> None:
    assert fill({"a": value, "b": 1}, {}) == {"a": value, "b": 1}


@given(value=_JSON)
def test_any_answer_is_read_or_malformed(value: Any) -> None:
    body = json.dumps({"out": value, "error": value}).encode()
    places = ChatPlaces(text="out", finish_reason="out", input_tokens="out", output_tokens="out")
    for reader in (
        ChatReader("m", places, None),
        VectorReader("m", VectorPlaces(embeddings="out"), 2),
    ):
        try:
            json.loads(reader.read_body(body))
        except base.MalformedAnswer:
            continue
