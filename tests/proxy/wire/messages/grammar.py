"""A Messages stream as its official clients put it together, every rule of its grammar checked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

_PIECES = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "input_json_delta": ("tool_use", "partial_json"),
    "signature_delta": ("thinking", "signature"),
}


@dataclass(kw_only=True)
class Read:
    """What a stream said; `error` is the event that ended one which broke."""

    message: dict[str, Any] = field(default_factory=dict)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    delta: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        return self.said("text", "text")

    @property
    def thinking(self) -> str:
        return self.said("thinking", "thinking")

    @property
    def calls(self) -> list[tuple[str, str, str]]:
        """Id, name and arguments of each tool call."""
        found = [block for block in self.blocks if block["type"] == "tool_use"]
        return [(block["id"], block["name"], block["partial_json"]) for block in found]

    def said(self, kind: str, member: str) -> str:
        return "".join(block[member] for block in self.blocks if block["type"] == kind)


def split(events: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream, whose form is checked byte by byte."""
    *written, nothing = events.split(b"\n\n")
    assert nothing == b""
    found = []
    for event in written:
        name, data = event.decode().split("\n")
        assert name.startswith("event: ") and data.startswith("data: ")
        payload = json.loads(data[6:], parse_constant=lambda constant: 1 / 0)
        assert payload["type"] == name[7:]
        found.append((name[7:], payload))
    return found


def read(events: bytes, *, is_whole: bool = True) -> Read:
    """What the events say; they must be a stream from its first event to its last."""
    seen = Read()
    stage = "begin"
    is_open = False
    for name, payload in split(events):
        if name == "ping":
            continue
        if name == "error":
            assert not is_whole and payload["error"].keys() >= {"type", "message"}
            seen.error = payload["error"]
            stage = "end"
            continue
        match stage, name:
            case "begin", "message_start":
                seen.message = payload["message"]
                assert seen.message["content"] == [] and seen.message["stop_reason"] is None
                assert seen.message["role"] == "assistant" and seen.message["type"] == "message"
                assert seen.message["usage"]["output_tokens"] >= 0
                stage = "blocks"
            case "blocks", "content_block_start":
                assert not is_open and payload["index"] == len(seen.blocks)
                seen.blocks.append(_opened(payload["content_block"]))
                is_open = True
            case "blocks", "content_block_delta":
                assert is_open and payload["index"] == len(seen.blocks) - 1
                _continue(seen.blocks[-1], payload["delta"])
            case "blocks", "content_block_stop":
                assert is_open and payload["index"] == len(seen.blocks) - 1
                is_open = False
            case "blocks", "message_delta":
                assert not is_open
                assert payload["delta"]["stop_reason"]
                assert payload["usage"]["output_tokens"] >= 0
                seen.delta = payload
                stage = "delta"
            case "delta", "message_stop":
                stage = "end"
            case _:
                raise AssertionError(f"{name} while in {stage}")
    assert not is_whole or stage == "end"
    return seen


def _opened(block: dict[str, Any]) -> dict[str, Any]:
    match block["type"]:
        case "text":
            assert block["text"] == ""
        case "thinking":
            assert block["thinking"] == "" and block["signature"] == ""
        case "tool_use":
            assert block["id"] and isinstance(block["name"], str) and block["input"] == {}
            return {**block, "partial_json": ""}
        case "redacted_thinking":
            assert block["data"]
        case kind:
            raise AssertionError(f"a block of type {kind}")
    return dict(block)


def _continue(block: dict[str, Any], delta: dict[str, Any]) -> None:
    kind, member = _PIECES[delta["type"]]
    assert block["type"] == kind
    assert delta.keys() == {"type", member}
    if member != "signature":
        assert not block.get("signature"), "text behind its signature"
    block[member] += delta[member]
