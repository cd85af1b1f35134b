"""What the OpenAI SDK makes of a translated answer, and sends back as it got it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from adapters.base import Call, Deadlines
from adapters.http.over_http import EventReader
from adapters.wire import anthropic_answer, gemini_answer
from adapters.wire.anthropic_request import to_messages
from adapters.wire.gemini_request import to_generate
from proxy.wire.chunks import Stream
from proxy.wire.dialect import Identity

Json = dict[str, Any]

QUESTION = {"role": "user", "content": "Hi"}


def streamed(reader: EventReader, events: list[Json]) -> Json:
    """The message that the SDK's helper puts together."""
    stream = Stream(wants_usage=True, identity=Identity(request_id="r" * 20, model="m", created=1))
    text = b"".join(
        stream.feed(payload)
        for event in events
        for payload in reader.read_payloads([json.dumps(event).encode()])
    )
    state: Any = ChatCompletionStreamState()
    for event in text.split(b"\n\n"):
        if event:
            chunk = json.loads(event.removeprefix(b"data: "))
            state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    return _message(state.get_final_completion())


def whole(reader: EventReader, answer: Json) -> Json:
    """The message of an answer in one piece."""
    body = json.loads(reader.read_body(json.dumps(answer).encode()))
    return _message(ChatCompletion.model_validate(body))


def _message(completion: ChatCompletion) -> Json:
    message = completion.choices[0].message
    found: Json = message.model_dump(mode="json", exclude_unset=True, exclude={"parsed"})
    return found


def asked_again(message: Json) -> bytes:
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "18"}
        for call in message["tool_calls"]
    ]
    body = {"model": "m", "messages": [QUESTION, message, *results]}
    return json.dumps(body).encode()


THOUGHT = {"type": "thinking", "thinking": "Let me", "signature": "SIG"}
HIDDEN = {"type": "redacted_thinking", "data": "DATA"}
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}}


def cited(url: str) -> Json:
    return {"type": "web_search_result_location", "url": url, "title": "T", "cited_text": "c"}


BLOCKS = [
    THOUGHT,
    HIDDEN,
    {"type": "text", "text": "One", "citations": [cited("https://a"), cited("https://b")]},
    {"type": "text", "text": "Two", "citations": [cited("https://c")]},
    USE,
]


def claude_events() -> list[Json]:
    events: list[Json] = [{"type": "message_start", "message": {"id": "m", "model": "claude"}}]
    for index, block in enumerate(BLOCKS):
        at = {"index": index}
        head = {**block, "thinking": "", "signature": "", "text": "", "input": {}}
        head.pop("citations", None)
        pieces: list[Json] = []
        if block["type"] == "thinking":
            pieces = [
                {"type": "thinking_delta", "thinking": block["thinking"]},
                {"type": "signature_delta", "signature": block["signature"]},
            ]
        elif block["type"] == "text":
            pieces = [{"type": "text_delta", "text": block["text"]}]
            pieces += [{"type": "citations_delta", "citation": c} for c in block["citations"]]
        elif block["type"] == "tool_use":
            pieces = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        events.append({"type": "content_block_start", **at, "content_block": head})
        events += [{"type": "content_block_delta", **at, "delta": piece} for piece in pieces]
        events.append({"type": "content_block_stop", **at})
    events.append({"type": "message_delta", "delta": {"stop_reason": "tool_use"}})
    return [*events, {"type": "message_stop"}]


@pytest.mark.parametrize("streams", [True, False])
def test_a_conversation_with_claude_goes_on_as_it_was(streams: bool) -> None:
    reader = anthropic_answer.ChatReader("claude")
    message = (
        streamed(reader, claude_events())
        if streams
        else whole(reader, {"content": BLOCKS, "stop_reason": "tool_use"})
    )
    assert [a["url_citation"]["url"] for a in message["annotations"]] == [
        "https://a",
        "https://b",
        "https://c",
    ]
    again = to_messages(asked_again(message), model="claude-sonnet-4-5")
    text = {"type": "text", "text": "OneTwo"}
    assert again.members["messages"][1]["content"] == [THOUGHT, HIDDEN, text, USE]
    assert again.dropped == []


PARTS: list[Json] = [
    {"text": "Let me", "thought": True, "thoughtSignature": "S1"},
    {"text": "Well"},
    {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
    {"inlineData": {"mimeType": "audio/L16", "data": "BBBB"}},
    {"text": "", "thoughtSignature": "S2"},
    {"inlineData": {"mimeType": "image/png", "data": "CCCC"}},
    {"inlineData": {"mimeType": "audio/L16", "data": "DDDD"}},
    {"functionCall": {"name": "f", "args": {"x": 1}, "id": "c1"}, "thoughtSignature": "S3"},
    {"functionCall": {"name": "g", "args": {}, "id": "c2"}},
]


def source(url: str) -> Json:
    return {"citationSources": [{"uri": url, "endIndex": 1}]}


@pytest.mark.parametrize("streams", [True, False])
def test_a_conversation_with_gemini_goes_on_as_it_was(streams: bool) -> None:
    reader = gemini_answer.ChatReader("gemini-3.5-pro")
    if streams:
        candidates: list[Json] = [{"content": {"parts": [part]}} for part in PARTS]
        candidates[1]["citationMetadata"] = source("https://a")
        candidates[2]["citationMetadata"] = source("https://b")
        candidates[-1]["finishReason"] = "STOP"
        message = streamed(reader, [{"candidates": [c]} for c in candidates])
        assert [a["url_citation"]["url"] for a in message["annotations"]] == [
            "https://a",
            "https://b",
        ]
    else:
        candidate = {"content": {"parts": PARTS}, "finishReason": "STOP"}
        message = whole(reader, {"candidates": [candidate]})
    assert [i["image_url"]["url"][-4:] for i in message["images"]] == ["AAAA", "CCCC"]
    assert message["audio"]["id"].count("audio_") == 1
    assert [d["data"] for d in message["reasoning_details"]] == ["S1", "S2"]
    del message["audio"]  # it is refused by name
    call = Call(
        endpoint="chat",
        model="gemini-3.5-pro",
        body=asked_again(message),
        stream=False,
        deadlines=Deadlines(),
    )
    again = to_generate(call)
    said = json.loads(again.body)["contents"][1]["parts"]
    assert said[-2] == {
        "functionCall": {"id": "c1", "name": "f", "args": {"x": 1}},
        "thoughtSignature": "S3",
    }
    assert said[-3]["thoughtSignature"] == "S2"
    assert again.dropped == ("messages[].reasoning_content",)
