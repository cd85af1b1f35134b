"""Messages that were made a chat, and Messages again by Anthropic's adapter, mean the same."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.wire.anthropic_answer import ChatReader
from adapters.wire.anthropic_request import to_messages
from tests.proxy.wire.messages.asked import IDENTITY, request, sent
from tests.proxy.wire.messages.grammar import read
from tests.proxy.wire.messages.test_native import START, STOP
from tests.proxy.wire.messages.test_writer import stream
from tests.proxy.wire.streams import encode

Block = dict[str, Any]

_texts = st.text(min_size=1, max_size=8).filter(lambda text: not text.isspace())
_marks: st.SearchStrategy[Block] = st.sampled_from(
    [{}, {}, {"cache_control": {"type": "ephemeral"}}]
)
_images: st.SearchStrategy[Block] = st.sampled_from(
    [
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"},
        },
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
    ]
)
_objects = st.dictionaries(
    _texts, st.integers() | _texts | st.lists(st.booleans(), max_size=2), max_size=3
)


@st.composite
def _said(draw: st.DrawFn) -> list[Block]:
    """What a user says: texts and images."""
    return draw(
        st.lists(
            st.builds(lambda text, mark: {"type": "text", "text": text, **mark}, _texts, _marks)
            | _images,
            min_size=1,
            max_size=3,
        )
    )


@st.composite
def _conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Users and assistants in turn; every call is answered in the turn after it."""
    messages = [{"role": "user", "content": draw(_said())}]
    number = 0
    for _ in range(draw(st.integers(0, 3))):
        blocks: list[Block] = []
        for _ in range(draw(st.integers(0, 2))):
            thinking = {"type": "thinking", "thinking": draw(_texts), "signature": "s+/="}
            redacted = {"type": "redacted_thinking", "data": "d+/="}
            blocks.append(draw(st.sampled_from([thinking, redacted])))
        calls = []
        for _ in range(draw(st.integers(0, 2))):
            number += 1
            calls.append(
                {
                    "type": "tool_use",
                    "id": f"toolu_{number}",
                    "name": draw(st.sampled_from(["f", "g"])),
                    "input": draw(_objects),
                }
            )
        if not calls or draw(st.booleans()):
            blocks.append({"type": "text", "text": draw(_texts)})
        messages.append({"role": "assistant", "content": blocks + calls})
        results = [
            {"type": "tool_result", "tool_use_id": use["id"], "content": draw(_texts)}
            for use in calls
        ]
        rest = draw(_said()) if not results or draw(st.booleans()) else []
        messages.append({"role": "user", "content": results + rest})
    return messages


def _meaning(messages: list[dict[str, Any]]) -> list[tuple[str, list[Block]]]:
    return [
        (message["role"], [_plain(block) for block in message["content"]]) for message in messages
    ]


def _plain(block: Block) -> Block:
    """A block without what there are two ways to say."""
    if block["type"] != "tool_result":
        return block
    content = block["content"]
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    return {**block, "content": content}


_many = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@_many
@given(_conversations(), st.lists(_texts, max_size=2))
def test_requests(messages: list[dict[str, Any]], system: list[str]) -> None:
    blocks = [{"type": "text", "text": text} for text in system]
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in ("f", "g")]
    asked = request(messages=messages, system=blocks, tools=tools)
    translated = to_messages(sent(asked).body, model="claude-sonnet-4-5")
    assert translated.dropped == []
    members = translated.members
    assert _meaning(members["messages"]) == _meaning(messages)
    assert members.get("system", []) == blocks
    assert members["tools"] == tools
    assert members["max_tokens"] == 100


def _numbered(blocks: list[Block]) -> list[Block]:
    """Calls with ids of their own."""
    return [
        {**block, "id": f"toolu_{number}"} if block["type"] == "tool_use" else block
        for number, block in enumerate(blocks)
    ]


_answers = st.lists(
    st.builds(lambda t: {"type": "thinking", "thinking": t, "signature": "s+/="}, _texts)
    | st.just({"type": "redacted_thinking", "data": "d+/="})
    | st.builds(lambda t: {"type": "text", "text": t}, _texts)
    | st.builds(lambda o: {"type": "tool_use", "id": "", "name": "f", "input": o}, _objects),
    min_size=1,
    max_size=4,
).map(_numbered)


def _joined(blocks: list[Block]) -> list[Block]:
    """Blocks as a chat has them: texts in one, calls last; thinking keeps its place before both."""
    thoughts = [block for block in blocks if block["type"].endswith("thinking")]
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    calls = [block for block in blocks if block["type"] == "tool_use"]
    return [*thoughts, *([{"type": "text", "text": text}] if text else []), *calls]


@_many
@given(_answers)
def test_whole_answers(blocks: list[Block]) -> None:
    answer = {**START["message"], "content": blocks, "stop_reason": "end_turn"}
    body = ChatReader("claude").read_body(encode(answer))
    facts, whole = request().read_whole("chat", body, IDENTITY, reads_cost=False)
    assert whole is not None
    told = json.loads(whole.body)
    assert _joined(told["content"]) == _joined(blocks)
    assert facts.usage is not None
    assert (
        told["usage"].items()
        >= {
            "input_tokens": 10,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 30,
        }.items()
    )


@_many
@given(_answers)
def test_streams(blocks: list[Block]) -> None:
    events: list[Any] = [START]
    for index, block in enumerate(blocks):
        events += _streamed(index, block)
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    events += [{"type": "message_delta", "delta": end, "usage": {"output_tokens": 7}}, STOP]
    relay = stream()
    written, failure = relay.feed_all(
        ChatReader("claude").read_payloads([encode(event) for event in events])
    )
    assert failure is None
    seen = read(written + relay.end())
    for block in seen.blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block.pop("partial_json"))
    assert _joined(seen.blocks) == _joined(blocks)
    assert [b for b in seen.blocks if b["type"].endswith("thinking")] == [
        b for b in blocks if b["type"].endswith("thinking")
    ]
    assert seen.delta["usage"]["cache_read_input_tokens"] == 100


def _streamed(index: int, block: Block) -> list[dict[str, Any]]:
    empty = {"text": "", "thinking": "", "signature": "", "input": {}}
    opened = {name: empty.get(name, value) for name, value in block.items()}
    kinds = {"text": "text_delta", "thinking": "thinking_delta", "signature": "signature_delta"}
    deltas = [{"type": kinds[n], n: block[n]} for n in kinds if n in block]
    if "input" in block:
        deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
    return [
        {"type": "content_block_start", "index": index, "content_block": opened},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]
