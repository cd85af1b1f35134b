"""What Anthropic's messages become for who asked in OpenAI's dialect."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.base import AdapterError, MalformedAnswer, UpstreamError
from adapters.http.over_http import EventReader
from adapters.wire.anthropic_answer import ChatReader, MessagesReader
from adapters.wire.anthropic_request import to_messages
from tests.adapters.shapes import damaged
from tests.adapters.wire_anthropic import anthropic_events, anthropic_message

Json = dict[str, Any]

MODEL = "claude-opus-5-5"


def text(said: str, **more: Any) -> Json:
    return {"type": "text", "text": said, **more}


def tool_use(number: int = 1, **given: Any) -> Json:
    return {"type": "tool_use", "id": f"toolu_{number}", "name": "f", "input": given}


THINKING = {"type": "thinking", "thinking": "Hm, well", "signature": "sig"}
REDACTED = {"type": "redacted_thinking", "data": "xyz"}


def delta(index: int, kind: str, **said: Any) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **said}}


def events(*content: Json, stop: str = "end_turn") -> list[Json]:
    """As `anthropic_events`, with thoughts and citations in pieces too."""
    found: list[Json] = []
    for event in anthropic_events(anthropic_message(*content, stop=stop)):
        block = event.get("content_block", {})
        index = event.get("index", 0)
        if block.get("type") == "thinking":
            thought, signature = block["thinking"], block["signature"]
            found.append({**event, "content_block": {**block, "thinking": "", "signature": ""}})
            pieces = (thought[:4], thought[4:])
            found += (delta(index, "thinking_delta", thinking=p) for p in pieces)
            found.append(delta(index, "signature_delta", signature=signature))
        elif event["type"] == "content_block_stop" and content[index].get("citations"):
            cited = content[index]["citations"]
            found += (delta(index, "citations_delta", citation=c) for c in cited)
            found.append(event)
        elif block.get("citations"):
            found.append({**event, "content_block": {**block, "citations": []}})
        else:
            found.append(event)
    return found


def bytes_of(stream: list[Json]) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in stream
    )


def read(
    data: bytes, cuts: list[int] | None = None, reader: EventReader | None = None
) -> list[bytes]:
    """The payloads of a stream whose bytes came in the pieces between these places."""
    reader = reader or ChatReader(MODEL)
    decoder = reader.decoder()
    places = [0, *sorted(cuts or []), len(data)]
    found: list[bytes] = []
    for start, end in itertools.pairwise(places):
        found += reader.read_payloads(decoder.feed(data[start:end]))
    assert reader.is_done
    return found


def streamed(*content: Json, stop: str = "end_turn") -> list[Json]:
    return [json.loads(payload) for payload in read(bytes_of(events(*content, stop=stop)))]


def whole(*content: Json, stop: str = "end_turn", **more: Any) -> Json:
    body = json.dumps({**anthropic_message(*content, stop=stop), **more}).encode()
    completion: Json = json.loads(ChatReader(MODEL).read_body(body))
    return completion


def message(*content: Json, stop: str = "end_turn") -> Json:
    found: Json = whole(*content, stop=stop)["choices"][0]["message"]
    return found


def gathered(chunks: list[Json]) -> Json:
    """The message that a client puts together from a stream."""
    found: Json = {"role": None, "content": None, "refusal": None}
    for chunk in chunks:
        for choice in chunk["choices"]:
            for name, said in choice["delta"].items():
                if name == "tool_calls":
                    for entry in said:
                        calls = found.setdefault("tool_calls", [])
                        if entry["index"] == len(calls):
                            calls.append({k: v for k, v in entry.items() if k != "index"})
                        else:
                            function = calls[entry["index"]]["function"]
                            function["arguments"] += entry["function"]["arguments"]
                elif isinstance(said, list):
                    found[name] = found.get(name, []) + said
                else:
                    found[name] = (found.get(name) or "") + said
    return found


def deltas(chunks: list[Json]) -> list[Json]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


# --- text -----------------------------------------------------------------------------------------


def test_a_whole_answer() -> None:
    found = whole(text("Hello, "), text("you"))
    assert isinstance(found.pop("created"), int)
    assert found == {
        "id": "msg_1",
        "object": "chat.completion",
        "model": "model-x",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello, you", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 5,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        },
    }


def test_a_stream() -> None:
    chunks = streamed(text("Hello, you"))
    heads = {(c["id"], c["object"], c["model"], c["created"]) for c in chunks}
    assert len(heads) == 1
    assert heads.pop()[:3] == ("msg_1", "chat.completion.chunk", "model-x")
    assert deltas(chunks) == [
        {"role": "assistant", "content": ""},
        {"content": "Hello"},
        {"content": ", you"},
        {},
    ]
    finishes = [c["choices"][0]["finish_reason"] for c in chunks[:-1]]
    assert finishes == [None, None, None, "stop"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole(text("x"))["usage"]


def test_successive_texts_differ_in_nothing_else() -> None:
    payloads = read(bytes_of(events(text("abcdefghij"))))[1:3]
    assert payloads[0].replace(b"abcde", b"fghij") == payloads[1]


def test_a_stream_without_its_first_event_is_still_one_of_chunks() -> None:
    chunks = [json.loads(payload) for payload in read(bytes_of(events(text("Hello"))[1:]))]
    assert {chunk["model"] for chunk in chunks} == {MODEL}
    assert gathered(chunks)["content"] == "Hello"


def test_text_at_the_start_of_a_block_is_not_lost() -> None:
    stream = events(text(""))
    stream[2]["content_block"]["text"] = "He"
    stream.insert(3, delta(0, "text_delta", text="llo"))
    chunks = [json.loads(payload) for payload in read(bytes_of(stream))]
    assert gathered(chunks)["content"] == "Hello"


@pytest.mark.parametrize("kind", ["server_tool_use", "web_search_tool_result", "hologram"])
def test_blocks_that_chat_does_not_know_are_skipped(kind: str) -> None:
    unknown = {"type": kind, "id": "x", "name": "n", "content": [{"a": 1}], "input": {"q": 1}}
    assert message(unknown, text("Hi"))["content"] == "Hi"
    stream = events(unknown, text("Hi"))
    stream.insert(3, delta(0, "input_json_delta", partial_json='{"q":1}'))
    stream.insert(4, delta(0, "hologram_delta", light=1))
    stream.insert(1, {"type": "hologram"})
    found = gathered([json.loads(payload) for payload in read(bytes_of(stream))])
    assert found == {"role": "assistant", "content": "Hi", "refusal": None}


def test_surrogates_that_stand_alone_go_through() -> None:
    assert message(text("a\ud83d"))["content"] == "a\ud83d"
    assert gathered(streamed(text("1234\ud83d\udc4b")))["content"] == "1234\ud83d\udc4b"
    (call,) = gathered(streamed(tool_use(x="\ud83d")))["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"x": "\ud83d"}


# --- how it ended ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("boredom", "stop"),
    ],
)
def test_reasons_to_stop(stop: str, finish: str) -> None:
    assert whole(text("x"), stop=stop)["choices"][0]["finish_reason"] == finish
    assert streamed(text("x"), stop=stop)[-2]["choices"][0]["finish_reason"] == finish


def test_a_refusal_says_why() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "No recipes."}
    found = whole(stop="refusal", stop_details=details)["choices"][0]
    assert found["message"]["refusal"] == "No recipes."
    stream = events(stop="refusal")
    stream[-2]["delta"]["stop_details"] = details
    chunks = [json.loads(payload) for payload in read(bytes_of(stream))]
    assert gathered(chunks)["refusal"] == "No recipes."


def test_an_error_in_a_stream_is_in_openais_form() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    (payload,) = ChatReader(MODEL).read_payloads([json.dumps(error).encode()])
    assert json.loads(payload) == {
        "error": {
            "message": "Overloaded",
            "type": "overloaded_error",
            "param": None,
            "code": "overloaded_error",
        }
    }


def test_an_error_in_place_of_an_answer_is_raised() -> None:
    with pytest.raises(UpstreamError) as caught:
        ChatReader(MODEL).read_body(b'{"type":"error","error":{"type":"api_error","message":"no"}}')
    assert caught.value.message == "no"
    assert caught.value.type == "api_error"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"content":7}', b'{"content":[{"type":"text","text":null}]}', b"\xff"],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        ChatReader(MODEL).read_body(body)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[DONE]",
        b"{}",
        b'{"type":"content_block_delta","delta":7}',
        b'{"type":"content_block_delta","delta":{"type":"text_delta","text":7}}',
        b'{"type":"content_block_delta","delta":{"type":"text_delta","text":"\xff"}}',
        b'{"type":"content_block_delta","index":"0","delta":{"type":"text_delta"}}',
        b'{"type":"message_start","message":{"usage":{"input_tokens":"3"}}}',
    ],
)
def test_what_is_no_event_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        ChatReader(MODEL).read_payloads([payload])


# --- tools ----------------------------------------------------------------------------------------


def test_calls_are_numbered_from_nought_whatever_their_blocks() -> None:
    chunks = streamed(THINKING, text("Hm"), tool_use(1, x=1), tool_use(2), stop="tool_use")
    entries = [entry for d in deltas(chunks) for entry in d.get("tool_calls", ())]
    assert entries == [
        {
            "index": 0,
            "id": "toolu_1",
            "type": "function",
            "function": {"name": "f", "arguments": ""},
        },
        {"index": 0, "function": {"arguments": '{"x": 1}'}},
        {
            "index": 1,
            "id": "toolu_2",
            "type": "function",
            "function": {"name": "f", "arguments": ""},
        },
        {"index": 1, "function": {"arguments": "{}"}},
    ]


def test_calls_of_a_whole_answer() -> None:
    found = message(tool_use(1, x=1), tool_use(2), stop="tool_use")
    assert found["content"] is None
    assert [call["function"]["arguments"] for call in found["tool_calls"]] == ['{"x":1}', "{}"]


def test_a_call_without_any_piece_has_the_arguments_it_began_with() -> None:
    stream = events(tool_use(1, x=1))
    stream = [event for event in stream if event["type"] != "content_block_delta"]
    stream[2]["content_block"]["input"] = {"x": 1}
    found = gathered([json.loads(payload) for payload in read(bytes_of(stream))])
    assert found["tool_calls"][0]["function"]["arguments"] == '{"x":1}'


# --- thinking -------------------------------------------------------------------------------------


def test_thoughts_and_what_must_go_back_with_them() -> None:
    found = message(THINKING, REDACTED, text("A"))
    assert found["reasoning_content"] == "Hm, well"
    assert found["reasoning_details"] == [
        {"type": "reasoning.text", "text": "Hm, well", "signature": "sig", "index": 0},
        {"type": "reasoning.encrypted", "data": "xyz", "index": 1},
    ]
    assert "reasoning_content" not in message(text("A"))


def test_thoughts_in_a_stream_come_once_and_their_signature_after() -> None:
    said = deltas(streamed(THINKING, REDACTED, text("A")))
    assert said[1:5] == [
        {"reasoning_content": "Hm, "},
        {"reasoning_content": "well"},
        {"reasoning_details": [{"type": "reasoning.text", "signature": "sig", "index": 0}]},
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "xyz", "index": 1}]},
    ]


# --- citations ------------------------------------------------------------------------------------


def test_citations_with_an_address_are_annotations_of_their_text() -> None:
    cited = {
        "type": "web_search_result_location",
        "url": "https://x",
        "title": "X",
        "cited_text": "x!",
        "encrypted_index": "e",
    }
    page = {"type": "page_location", "document_index": 0, "cited_text": "y"}
    content = (text("Föö "), text("bar", citations=[cited, page]), text("!"))
    annotation = {
        "type": "url_citation",
        "url_citation": {
            "url": "https://x",
            "title": "X",
            "content": "x!",
            "start_index": 4,
            "end_index": 7,
        },
    }
    assert message(*content)["annotations"] == [annotation]
    assert gathered(streamed(*content))["annotations"] == [{"index": 0, **annotation}]


# --- usage ----------------------------------------------------------------------------------------


def test_the_prompt_includes_what_the_cache_held_and_took() -> None:
    found = whole(
        text("x"),
        usage={
            "input_tokens": 10,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 30,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
            "output_tokens": 7,
            "output_tokens_details": {"thinking_tokens": 4},
            "server_tool_use": {"web_search_requests": 1},
            "service_tier": "standard",
        },
    )
    assert found["usage"] == {
        "prompt_tokens": 140,
        "completion_tokens": 7,
        "total_tokens": 147,
        "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 4},
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        "server_tool_use": {"web_search_requests": 1},
    }
    assert found["service_tier"] == "default"


def test_later_counts_of_a_stream_replace_earlier_ones() -> None:
    stream = events(text("x"))
    stream[0]["message"]["usage"] = {
        "input_tokens": 10,
        "cache_read_input_tokens": 1,
        "cache_creation": {"ephemeral_1h_input_tokens": 2},
        "output_tokens": 1,
        "service_tier": "priority",
    }
    stream[-2]["usage"] = {
        "input_tokens": 20,
        "output_tokens": 7,
        "cache_read_input_tokens": None,
        "cache_creation_input_tokens": 2,
    }
    last = json.loads(read(bytes_of(stream))[-1])
    assert last["usage"]["prompt_tokens"] == 23
    assert last["usage"]["completion_tokens"] == 7
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 1, "cache_write_tokens": 2}
    assert last["usage"]["cache_creation"]["ephemeral_1h_input_tokens"] == 2
    assert last["service_tier"] == "priority"


# --- in Anthropic's dialect -----------------------------------------------------------------------


def test_anthropics_events_pass_as_they_came_but_for_pings() -> None:
    stream = events(THINKING, tool_use(1, x=1))
    found = read(bytes_of(stream), reader=MessagesReader())
    assert [json.loads(payload) for payload in found] == [e for e in stream if e["type"] != "ping"]


def test_events_of_any_shape_pass_but_not_without_a_type() -> None:
    odd = b'{"type":"content_block_delta","index":"x","delta":"\\ud83d"}'
    assert MessagesReader().read_payloads([odd]) == [odd]
    for payload in (b"{}", b"[]", b"nonsense"):
        with pytest.raises(MalformedAnswer):
            MessagesReader().read_payloads([payload])


def test_events_without_names_are_told_by_their_types() -> None:
    data = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events(text("x")))
    found = read(data, reader=MessagesReader())
    assert json.loads(found[-1]) == {"type": "message_stop"}
    assert all(json.loads(payload)["type"] != "ping" for payload in found)


# --- whatever the message -------------------------------------------------------------------------

words = st.text(alphabet='aé€"\\\n😀\ud83d', max_size=8)
blocks = st.one_of(
    words.map(text),
    st.builds(lambda said: {**THINKING, "thinking": said}, words),
    st.just(REDACTED),
    st.builds(
        lambda n, given: tool_use(n, **given),
        st.integers(1, 9),
        st.dictionaries(st.just("k"), words),
    ),
)
contents = st.lists(blocks, max_size=5)


def without_thoughts(found: Json) -> Json:
    """A stream has the text of thoughts apart, and the JSON of arguments as it was written."""
    found = {k: v for k, v in found.items() if k != "reasoning_details"}
    found["content"] = found["content"] or None
    for call in found.get("tool_calls", ()):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return found


@settings(deadline=None)
@given(contents)
def test_a_stream_says_what_the_whole_answer_says(content: list[Json]) -> None:
    found, expected = gathered(streamed(*content)), message(*content)
    signatures = [
        {k: v for k, v in d.items() if k != "text"} for d in expected.get("reasoning_details", [])
    ]
    assert found.get("reasoning_details", []) == signatures
    assert without_thoughts(found) == without_thoughts(expected)


@settings(deadline=None)
@given(contents, st.data())
def test_any_split_of_the_bytes_gives_the_same_payloads(
    content: list[Json], data: st.DataObject
) -> None:
    stream = bytes_of(events(*content))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))

    def payloads(cuts: list[int]) -> list[Json]:
        return [
            {k: v for k, v in json.loads(p).items() if k != "created"} for p in read(stream, cuts)
        ]

    assert payloads(cuts) == payloads([])


@settings(deadline=None)
@given(contents)
def test_an_answer_that_goes_back_is_what_it_was(content: list[Json]) -> None:
    """Thoughts at their places, all text in one block, calls in their order."""
    user = {"role": "user", "content": "Hi"}
    body = json.dumps({"messages": [user, message(*content), user]}).encode()
    found = to_messages(body, model=MODEL)
    assert found.dropped == []
    turns = found.members["messages"]
    back = turns[1]["content"] if len(turns) > 1 else []

    def those(kinds: tuple[str, ...], blocks: list[Json]) -> list[Json]:
        return [block for block in blocks if block["type"] in kinds]

    thoughts = ("thinking", "redacted_thinking")
    assert those(thoughts, back) == those(thoughts, content)
    assert those(("tool_use",), back) == those(("tool_use",), content)
    said = "".join(block["text"] for block in those(("text",), content))
    assert [block["text"] for block in those(("text",), back)] == ([said] if said.strip() else [])


@pytest.mark.parametrize(
    "content",
    [
        [THINKING, text("A"), tool_use(1), tool_use(2)],
        [THINKING, tool_use(1), REDACTED, tool_use(2)],
        [text("A"), THINKING, tool_use(1)],
    ],
)
def test_thoughts_between_other_blocks_go_back_between_them(content: list[Json]) -> None:
    results = [
        {"role": "tool", "tool_call_id": block["id"], "content": "r"}
        for block in content
        if block["type"] == "tool_use"
    ]
    messages = [{"role": "user", "content": "Hi"}, message(*content), *results]
    found = to_messages(json.dumps({"messages": messages}).encode(), model=MODEL)
    assert found.members["messages"][1]["content"] == content


def test_a_signature_in_a_thousand_pieces_is_put_together_at_once() -> None:
    reader = ChatReader("m")
    head = {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking"}}
    delta = {"type": "signature_delta", "signature": "x" * 1000}
    piece = {"type": "content_block_delta", "index": 0, "delta": delta}
    began = time.process_time()
    reader.read_payloads([json.dumps(head).encode()])
    reader.read_payloads([json.dumps(piece).encode()] * 10_000)
    (chunk,) = reader.read_payloads([b'{"type":"content_block_stop","index":0}'])
    assert time.process_time() - began < 1
    (detail,) = json.loads(chunk)["choices"][0]["delta"]["reasoning_details"]
    assert len(detail["signature"]) == 10_000_000


_MESSAGE = anthropic_message(
    {"type": "thinking", "thinking": "Hm", "signature": "s"},
    {"type": "text", "text": "Hé", "citations": [{"url": "u", "title": "t"}]},
    {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
)


@given(damaged(anthropic_events(_MESSAGE)), damaged(_MESSAGE))
def test_any_answer_is_read_or_an_error_of_ours(events: Any, message: Any) -> None:
    reader = ChatReader("m")
    for event in events if isinstance(events, list) else [events]:
        with contextlib.suppress(AdapterError):
            for payload in reader.read_payloads([json.dumps(event).encode()]):
                assert isinstance(json.loads(payload), dict)
    with contextlib.suppress(AdapterError):
        assert json.loads(ChatReader("m").read_body(json.dumps(message).encode()))["choices"]
