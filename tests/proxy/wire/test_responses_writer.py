"""Chat streams as the events of a response, and chat answers as responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.responses import Response

from adapters.base import AdapterError
from proxy.errors import UpstreamDown
from proxy.pricing import Usage
from proxy.wire.dialect import Identity, Stream
from proxy.wire.dialect import Upstream as UpstreamTarget
from proxy.wire.responses import reasoning
from proxy.wire.responses.request import ResponsesRequest, parse
from tests.proxy.wire.response_events import Told, decoded, merged, told
from tests.proxy.wire.streams import (
    HEAD,
    ROLE,
    STOP,
    USAGE_CHUNK,
    call,
    chunk,
    encode,
    entry,
    say,
)
from tests.proxy.wire.test_chunks_properties import Upstream, upstreams

IDENTITY = Identity(request_id="req_0123456789abcdef", model="fallback", created=1234567890)
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}
CUSTOM = {"type": "custom", "name": "patch"}


def asked(**members: Any) -> ResponsesRequest:
    return parse(json.dumps({"model": "m", "input": "hi", "stream": True, **members}).encode())


def relayed(*chunks: object, request: ResponsesRequest | None = None) -> tuple[bytes, Stream]:
    """What a client gets for the chunks of a chat."""
    stream = (request or asked()).read_stream("chat", IDENTITY, reads_cost=False)
    payloads = [one if isinstance(one, bytes) else encode(one) for one in chunks]
    events, failure = stream.feed_all(payloads)
    if failure is not None:
        raise failure
    assert stream.is_finished
    return events + stream.end(), stream


def written(*chunks: object, **members: Any) -> Told:
    return told(relayed(*chunks, request=asked(**members))[0])


def test_text_is_one_message() -> None:
    found = written(ROLE, say("Hello"), say(" there"), say(" 👋"), STOP, USAGE_CHUNK)
    (message,) = found.response["output"]
    assert message["content"] == [
        {"type": "output_text", "text": "Hello there 👋", "annotations": [], "logprobs": []}
    ]
    assert found.kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert found.response["usage"]["input_tokens"] == 3
    assert found.response["usage"]["total_tokens"] == 5
    assert found.response["id"] == "resp_0123456789abcdef"
    Response.model_validate(found.response)


def test_nothing_is_sent_before_something_is_said() -> None:
    stream = asked().read_stream("chat", IDENTITY, reads_cost=False)
    assert stream.feed_all([encode(ROLE)]) == (b"", None)
    assert not stream.has_payload


def test_a_thought_is_an_item_before_the_text() -> None:
    thought = [chunk({"reasoning_content": piece}) for piece in ("Let ", "me ", "see.")]
    found = written(*thought, say("Yes"), STOP)
    item, message = found.response["output"]
    assert item["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert item["summary"] == []
    assert reasoning.unseal(item["encrypted_content"]) == [
        {"type": "reasoning.text", "text": "Let me see."}
    ]
    assert message["type"] == "message"
    Response.model_validate(found.response)


def test_a_thought_is_the_summary_where_one_is_asked_for() -> None:
    thought = [chunk({"reasoning": piece}) for piece in ("Let ", "me ", "see.")]
    found = written(*thought, say("Yes"), STOP, reasoning={"summary": "auto"})
    item = found.response["output"][0]
    assert item["summary"] == [{"type": "summary_text", "text": "Let me see."}]
    assert "content" not in item
    assert found.kinds.count("response.reasoning_summary_text.delta") == 3
    Response.model_validate(found.response)


def test_signatures_are_sealed_with_the_text_they_sign() -> None:
    def signed(signature: str) -> object:
        return chunk({"reasoning_details": [{"type": "reasoning.text", "signature": signature}]})

    found = written(
        chunk({"reasoning_content": "One"}),
        signed("s1"),
        chunk({"reasoning_content": "Two"}),
        chunk({"reasoning_content": " three"}),
        signed("s2"),
        chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}),
        say("Yes"),
        STOP,
    )
    item = found.response["output"][0]
    assert reasoning.unseal(item["encrypted_content"]) == [
        {"type": "reasoning.text", "text": "One", "signature": "s1"},
        {"type": "reasoning.text", "text": "Two three", "signature": "s2"},
        {"type": "reasoning.encrypted", "data": "x"},
    ]


def test_details_that_come_in_pieces_are_put_together() -> None:
    def piece(text: str, **more: str) -> object:
        details = [{"type": "reasoning.text", "text": text, **more}]
        return chunk({"reasoning": text, "reasoning_details": details})

    found = written(piece("a"), piece("b"), piece("", signature="s"), say("x"), STOP)
    assert reasoning.unseal(found.response["output"][0]["encrypted_content"]) == [
        {"type": "reasoning.text", "text": "ab", "signature": "s"}
    ]


def test_what_belongs_to_a_call_is_sealed_before_it() -> None:
    extra = {"google": {"thought_signature": "sig"}}
    found = written(
        call(entry(0, "c1", "f", "{}", extra_content=extra), finish="tool_calls"), tools=[FUNCTION]
    )
    item, function_call = found.response["output"]
    assert reasoning.unseal(item["encrypted_content"]) == [
        {"type": "tool_call", "id": "c1", "extra_content": extra}
    ]
    assert function_call["call_id"] == "c1"


def test_parallel_calls() -> None:
    found = written(
        call(entry(0, "c1", "f", "")),
        call(entry(0, arguments='{"a":')),
        call(entry(0, arguments="1}")),
        call(entry(1, "c2", "f", "")),
        call(entry(1, arguments='{"b":2}')),
        chunk({}, "stop"),
        tools=[FUNCTION],
    )
    assert [(c["call_id"], c["arguments"]) for c in found.of("function_call")] == [
        ("c1", '{"a":1}'),
        ("c2", '{"b":2}'),
    ]
    Response.model_validate(found.response)


def test_a_call_without_arguments_has_an_empty_object() -> None:
    found = written(call(entry(0, "c1", "f")), chunk({}, "tool_calls"))
    assert found.of("function_call")[0]["arguments"] == "{}"


def test_a_wrapped_input_is_unwrapped() -> None:
    found = written(
        call(entry(0, "c1", "patch", "")),
        call(entry(0, arguments='{"input": "*** Begin\\n')),
        call(entry(0, arguments='+\\"x\\" 👋"}')),
        chunk({}, "tool_calls"),
        tools=[CUSTOM],
    )
    (item,) = found.of("custom_tool_call")
    assert item["input"] == '*** Begin\n+"x" 👋'
    assert item["name"] == "patch"
    Response.model_validate(found.response)


def test_a_custom_tool_called_otherwise_gets_what_was_said() -> None:
    found = written(call(entry(0, "c1", "patch", "not json"), finish="tool_calls"), tools=[CUSTOM])
    assert found.of("custom_tool_call")[0]["input"] == "not json"


def test_free_calls_come_piece_by_piece() -> None:
    found = written(
        call({"index": 0, "id": "c", "type": "custom", "custom": {"name": "patch", "input": ""}}),
        call({"index": 0, "custom": {"input": "a"}}),
        call({"index": 0, "custom": {"input": "b"}}),
        chunk({}, "tool_calls"),
        tools=[CUSTOM],
    )
    assert found.of("custom_tool_call")[0]["input"] == "ab"
    assert found.kinds.count("response.custom_tool_call_input.delta") == 2


def test_calls_of_a_namespace_and_searches_for_tools_get_their_names_back() -> None:
    found = written(
        call(entry(0, "c1", "ns__g", "{}")),
        call(entry(1, "c2", "tool_search", '{"query":"x"}'), finish="tool_calls"),
        tools=[
            {
                "type": "namespace",
                "name": "ns",
                "description": "",
                "tools": [{"type": "function", "name": "g"}],
            },
            {"type": "tool_search", "execution": "client", "parameters": {}},
        ],
    )
    named, search = found.response["output"]
    assert (named["namespace"], named["name"]) == ("ns", "g")
    assert search["type"] == "tool_search_call"
    assert search["arguments"] == {"query": "x"}
    assert search["execution"] == "client"
    Response.model_validate(found.response)


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_a_cut_answer_is_incomplete(finish: str, reason: str) -> None:
    found = written(say("Once"), chunk({}, finish))
    assert found.response["status"] == "incomplete"
    assert found.response["incomplete_details"] == {"reason": reason}
    assert found.response["output"][0]["status"] == "incomplete"


def test_refusals_logprobs_and_annotations() -> None:
    logprobs = {"content": [{"token": "Hi", "logprob": -0.5, "bytes": None, "top_logprobs": []}]}
    citation = {"url": "http://x", "title": "X", "start_index": 0, "end_index": 2}
    first = chunk({"content": "Hi"})
    first["choices"][0]["logprobs"] = logprobs
    found = written(
        first,
        chunk({"annotations": [{"type": "url_citation", "url_citation": citation}]}),
        chunk({"refusal": "No"}),
        chunk({"refusal": "pe"}),
        STOP,
    )
    text, refusal = found.response["output"][0]["content"]
    assert text["logprobs"][0]["token"] == "Hi"
    assert text["annotations"] == [{"type": "url_citation", **citation}]
    assert refusal == {"type": "refusal", "refusal": "Nope"}
    Response.model_validate(found.response)


def test_a_broken_stream_fails_and_never_completes() -> None:
    stream = asked().read_stream("chat", IDENTITY, reads_cost=False)
    events, _ = stream.feed_all([encode(say("One"))])
    kinds = [event["type"] for event in decoded(events + stream.fail(UpstreamDown("gone")))]
    assert kinds[-2:] == ["response.failed", "error"]
    assert "response.completed" not in kinds
    failed, error = decoded(stream.fail(UpstreamDown("gone")))
    assert failed["response"]["error"] == {"code": "upstream_error", "message": "gone"}
    assert error["error"]["message"] == "gone"


def test_a_capped_stream_is_incomplete_and_says_why() -> None:
    request = asked()
    stream = request.read_stream("chat", IDENTITY, reads_cost=False)
    events, _ = stream.feed_all([encode(say("One")), encode(say(" two"))])
    found = told(events + stream.cap({"budget": "b"}, Usage(input_tokens=1, output_tokens=2)))
    assert found.response["status"] == "incomplete"
    assert found.response["tollway"] == {"budget": "b"}
    assert found.texts("output_text") == "One two"
    assert request.result.response is not None


def test_the_result_is_what_the_client_got() -> None:
    request = asked()
    events, _ = relayed(say("One"), STOP, request=request)
    assert request.result.response is not None
    assert json.loads(request.result.response) == decoded(events)[-1]["response"]


def test_lone_surrogates_meet() -> None:
    found = written(
        b'{"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}',
        b'{"choices":[{"index":0,"delta":{"content":"\\udc4b"}}]}',
        b'{"choices":[{"index":0,"delta":{"content":" \\ud83d"}}]}',
        STOP,
    )
    assert found.texts("output_text") == "👋 \ud83d"


def test_the_response_repeats_the_request() -> None:
    members = {
        "instructions": "Be brief",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "tools": [FUNCTION],
        "store": None,
    }
    found = written(say("x"), STOP, **members)
    for name in ("instructions", "metadata", "temperature", "tools"):
        assert found.response[name] == members[name]
    assert found.response["store"] is True


def test_a_whole_answer_is_a_response() -> None:
    message = {
        "role": "assistant",
        "content": "Hi",
        "reasoning_content": "Hm",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        ],
    }
    body = {
        **HEAD,
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    request = asked(tools=[FUNCTION])
    facts, whole = request.read_whole("chat", encode(body), IDENTITY, reads_cost=False)
    assert whole is not None and facts.usage is not None
    response = json.loads(whole.body)
    kinds = [item["type"] for item in response["output"]]
    assert kinds == ["reasoning", "message", "function_call", "function_call"]
    assert response["usage"]["output_tokens"] == 2
    assert Response.model_validate(response).output_text == "Hi"


def test_a_whole_answer_in_parts_is_put_together() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = {**HEAD, "choices": [{"message": {"content": content}}]}
    _, whole = asked().read_whole("chat", encode(body), IDENTITY, reads_cost=False)
    assert whole is not None
    assert Response.model_validate(json.loads(whole.body)).output_text == "ab"


def test_a_useless_answer_is_billed_all_the_same() -> None:
    body = {**HEAD, "choices": [{"message": {"tool_calls": [7]}}], "usage": USAGE_CHUNK["usage"]}
    facts, whole = asked().read_whole("chat", encode(body), IDENTITY, reads_cost=False)
    assert whole is None
    assert facts.usage is not None


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(sent=upstreams(), learns=st.booleans(), summarises=st.booleans())
def test_any_stream_keeps_its_texts_and_the_grammar(
    sent: Upstream, learns: bool, summarises: bool
) -> None:
    members = {"reasoning": {"summary": "auto"}} if summarises else {}
    try:
        events, _ = relayed(*sent.payloads, request=asked(tools=[FUNCTION], **members))
    except AdapterError:
        return  # the canonical stream breaks just so: tested there
    found = told(events)
    kinds = "summary_text" if summarises else "reasoning_text"
    assert found.texts("output_text") == merged(sent.texts.get((0, "content"), ""))
    assert found.texts(kinds) == merged(sent.texts.get((0, "reasoning_content"), ""))
    calls = [(c["name"], c["arguments"]) for c in found.of("function_call")]
    assert calls == [(name, merged(text) or "{}") for name, text in sent.calls.get(0, [])]
    assert (found.response["usage"] is not None) == sent.has_usage


_words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
_details = st.lists(
    st.fixed_dictionaries({"type": st.just("reasoning.text"), "text": _words, "signature": _words}),
    max_size=2,
)


@given(
    content=st.none() | _words,
    thought=st.none() | _words,
    details=_details,
    arguments=st.lists(_words, max_size=2),
)
def test_what_came_out_goes_back_as_it_was(
    content: str | None,
    thought: str | None,
    details: list[dict[str, str]],
    arguments: list[str],
) -> None:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if details:
        message["reasoning_details"] = details
        thought = "\n\n".join(entry["text"] for entry in details)
    if thought:
        message["reasoning_content"] = thought
    if arguments:
        message["tool_calls"] = [
            {"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": said}}
            for n, said in enumerate(arguments)
        ]
    if not (content or thought or arguments):
        return
    body = encode({**HEAD, "choices": [{"message": message}]})
    _, whole = asked(tools=[FUNCTION]).read_whole("chat", body, IDENTITY, reads_cost=False)
    assert whole is not None
    items = json.loads(whole.body)["output"]
    sent = asked(input=items, tools=[FUNCTION]).upstream(UpstreamTarget(model="up"))
    (back,) = json.loads(sent.body)["messages"]
    assert back == {**message, "content": content or (None if arguments else "")}
