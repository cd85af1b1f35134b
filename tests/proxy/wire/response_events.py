"""Streams of response events, and the grammar that clients of OpenAI's hold them to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]

_PARTS = {
    "output_text": ("response.output_text", "text", "text"),
    "refusal": ("response.refusal", "refusal", "refusal"),
    "reasoning_text": ("response.reasoning_text", "text", "text"),
    "summary_text": ("response.reasoning_summary_text", "text", "text"),
}
_CALLS = {
    "function_call": ("response.function_call_arguments", "arguments"),
    "custom_tool_call": ("response.custom_tool_call_input", "input"),
}


def merged(text: str) -> str:
    """Text whose surrogates are pairs where they meet, as clients have it that join JSON."""
    whole: str = json.loads(json.dumps(text))
    return whole


def decoded(stream: bytes) -> list[Event]:
    """The events, whose framing is checked byte by byte."""
    *written, nothing = stream.split(b"\n\n")
    assert nothing == b""
    events = []
    for event in written:
        name, data = event.split(b"\n")
        assert name.startswith(b"event: ") and data.startswith(b"data: {")
        events.append(json.loads(data[6:]))
        assert events[-1]["type"].encode() == name[7:]
    return events


@dataclass
class Item:
    """An item as its events tell of it."""

    item: Event
    parts: dict[tuple[str, int], Event] = field(default_factory=dict)
    done_parts: list[Event] = field(default_factory=list)
    text: str = ""
    is_said: bool = False
    is_done: bool = False


@dataclass
class Told:
    """What a whole stream tells: its items in order, and the response at its end."""

    items: list[Item]
    response: Event
    kinds: list[str]

    def texts(self, kind: str) -> str:
        """The text of all parts of a kind."""
        parts = [part for item in self.items for part in item.done_parts]
        return "".join(part[_PARTS[kind][2]] for part in parts if part["type"] == kind)

    def of(self, kind: str) -> list[Event]:
        """The items of a type."""
        return [item.item for item in self.items if item.item["type"] == kind]


def told(stream: bytes) -> Told:
    """What a client makes of a stream; fails where it breaks the grammar."""
    events = decoded(stream)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    first, last = events[0]["response"], events[-1]
    assert last["type"] in ("response.completed", "response.incomplete")
    assert first["status"] == "in_progress" and first["output"] == []
    items: list[Item] = []
    for event in events[2:-1]:
        _take(items, event)
    assert all(item.is_done for item in items)
    response = last["response"]
    assert response["id"] == first["id"] == events[1]["response"]["id"]
    assert response["status"] == last["type"].removeprefix("response.")
    assert response["output"] == [item.item for item in items]
    ids = [item["id"] for item in response["output"]]
    assert len(set(ids)) == len(ids)
    return Told(items=items, response=response, kinds=kinds)


def _take(items: list[Item], event: Event) -> None:
    kind, place = event["type"], event["output_index"]
    if kind == "response.output_item.added":
        assert place == len(items)
        assert event["item"]["status"] == "in_progress"
        items.append(Item(event["item"]))
        return
    item = items[place]
    assert not item.is_done, "nothing is said of an item that is done"
    if kind == "response.output_item.done":
        _finish(item, event["item"])
        return
    assert event["item_id"] == item.item["id"]
    if "content_index" in event or "summary_index" in event:
        _take_part(item, event)
    else:
        _take_call(item, event)


def _finish(item: Item, done: Event) -> None:
    assert done["id"] == item.item["id"] and done["type"] == item.item["type"]
    assert done["status"] in ("completed", "incomplete")
    assert len(item.parts) == len(item.done_parts), "every part is closed"
    if done["type"] == "message":
        assert done["content"] == item.done_parts
    if done["type"] == "reasoning":
        assert [*done["summary"], *done.get("content", [])] == item.done_parts
    if done["type"] in _CALLS:
        assert item.is_said
        assert done[_CALLS[done["type"]][1]] == merged(item.text)
        assert (done["call_id"], done["name"]) == (item.item["call_id"], item.item["name"])
    item.item, item.is_done = done, True


def _take_part(item: Item, event: Event) -> None:
    index = "summary_index" if "summary_index" in event else "content_index"
    key = (index, event[index])
    kind = event["type"]
    if kind in ("response.content_part.added", "response.reasoning_summary_part.added"):
        assert key == (index, len(item.done_parts)), "one part after the other"
        item.parts[key] = {"part": event["part"], "text": "", "said": False}
        return
    part = item.parts[key]
    stem, done_member, member = _PARTS[part["part"]["type"]]
    if kind == f"{stem}.delta":
        assert not part["said"]
        part["text"] += event["delta"]
    elif kind == f"{stem}.done":
        assert event[done_member] == merged(part["text"])
        part["said"] = True
    elif kind in ("response.content_part.done", "response.reasoning_summary_part.done"):
        assert part["said"] and event["part"][member] == merged(part["text"])
        item.done_parts.append(event["part"])
    else:
        assert kind == "response.output_text.annotation.added", kind


def _take_call(item: Item, event: Event) -> None:
    stem, member = _CALLS[item.item["type"]]
    assert not item.is_said
    if event["type"] == f"{stem}.delta":
        item.text += event["delta"]
    else:
        assert event["type"] == f"{stem}.done"
        assert event[member] == merged(item.text)
        item.is_said = True
