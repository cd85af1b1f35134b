"""The items of a response while they are written, each with the events that tell of it.

Source: OpenAI's API reference, "Streaming events" of the Responses API.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from proxy.wire.responses import reasoning
from proxy.wire.responses.response import event, raw
from proxy.wire.responses.tools import Called
from proxy.wire.surrogates import encode

Members = dict[str, Any]
_NOTHING = msgspec.Raw(b'""')
Tell = Callable[[bytes], bytes]
"""The event for a piece of text, given as JSON between two quotes."""


class Script:
    """The events of one response in their order, and the items so far.

    The first two numbers belong to the events that every response begins with.
    """

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._events: list[bytes] = []
        self.number = 2
        self.output: list[msgspec.Raw] = []
        self.has_begun = False

    def say(self, kind: str, members: bytes) -> None:
        """Write an event with the next number."""
        name = kind.encode()
        payload = b'{"type":"%b","sequence_number":%d,%b}' % (name, self.number, members)
        self.number += 1
        self._events.append(event(name, payload))

    def deltas(self, kind: str, members: bytes, pieces: list[bytes]) -> Tell:
        """What writes events that differ in their `delta` alone, and keeps it as a piece."""
        name = kind.encode()
        head = b'event: %b\ndata: {"type":"%b",%b,"delta":"' % (name, name, members)

        def tell(text: bytes) -> bytes:
            pieces.append(text)
            number = self.number
            self.number = number + 1
            return b'%b%b","sequence_number":%d}\n\n' % (head, text, number)

        return tell

    def put(self, events: bytes) -> None:
        """Write an event that is ready."""
        self._events.append(events)

    def taken(self) -> bytes:
        """What was written since the last time."""
        events = b"".join(self._events)
        self._events.clear()
        return events

    def new_id(self, kind: str) -> str:
        """The id of the next item."""
        return f"{kind}_{self._suffix}{len(self.output):02x}"

    def add(self, item: Members) -> int:
        """Announce an item; its place."""
        place = len(self.output)
        self.output.append(msgspec.Raw(msgspec.json.encode(item)))
        self._tell_item("response.output_item.added", place)
        return place

    def finish(self, place: int, item: Members) -> None:
        """Tell that an item is whole."""
        self.output[place] = msgspec.Raw(msgspec.json.encode(item))
        self._tell_item("response.output_item.done", place)

    def _tell_item(self, kind: str, place: int) -> None:
        self.say(kind, b'"output_index":%d,"item":%b' % (place, bytes(self.output[place])))


class Message:
    """What the model says to the user: text, or that it refuses."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._id = script.new_id("msg")
        self._place = script.add(self._item("in_progress", []))
        self._content: list[Members] = []
        self._kind = ""
        self._pieces: list[bytes] = []
        self._logprobs: list[Members] = []
        self._annotations: list[Members] = []
        self.tell: Tell = bytes

    def say(self, kind: str, text: str, logprobs: object = None) -> None:
        """A piece of a part of this kind: `output_text` or `refusal`."""
        self._turn_to(kind)
        told = logprobs.get("content") if isinstance(logprobs, dict) else None
        if kind == "output_text" and isinstance(told, list) and told:
            self._say_with_logprobs(text, [_logprob(entry) for entry in told])
        else:
            self._script.put(self.tell(encode(text)[1:-1]))

    def annotate(self, annotation: Members) -> None:
        """What a text refers to, as a chat says it: `{"type": t, t: {...}}`."""
        self._turn_to("output_text")
        kind = str(annotation.get("type"))
        inner = annotation.get(kind)
        said = {"type": kind, **inner} if isinstance(inner, dict) else annotation
        number = len(self._annotations)
        self._annotations.append(said)
        members = b'%b,"annotation_index":%d,"annotation":%b'
        self._script.say(
            "response.output_text.annotation.added", members % (self._where, number, encode(said))
        )

    def close(self, status: str) -> None:
        """The message is whole, or nothing more comes of it."""
        self._close_part()
        self._script.finish(self._place, self._item(status, self._content))

    def _item(self, status: str, content: list[Members]) -> Members:
        head = {"id": self._id, "type": "message", "status": status}
        return {**head, "role": "assistant", "content": content}

    @property
    def _where(self) -> bytes:
        return b'"item_id":"%b","output_index":%d,"content_index":%d' % (
            self._id.encode(),
            self._place,
            len(self._content),
        )

    def _part(self, text: msgspec.Raw) -> Members:
        if self._kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {
            "type": "output_text",
            "text": text,
            "annotations": raw(self._annotations),
            "logprobs": raw(self._logprobs),
        }

    def _turn_to(self, kind: str) -> None:
        """Begin a part of this kind, unless it is under way."""
        if self._kind == kind:
            return
        self._close_part()
        self._kind = kind
        self._pieces, self._logprobs, self._annotations = [], [], []
        where = self._where
        empty = msgspec.json.encode(self._part(joined(())))
        self._script.say("response.content_part.added", b'%b,"part":%b' % (where, empty))
        members = where + b',"logprobs":[]' if kind == "output_text" else where
        self.tell = self._script.deltas(f"response.{kind}.delta", members, self._pieces)

    def _say_with_logprobs(self, text: str, logprobs: list[Members]) -> None:
        self._logprobs += logprobs
        escaped = encode(text)
        self._pieces.append(escaped[1:-1])
        members = b'%b,"delta":%b,"logprobs":%b' % (self._where, escaped, encode(logprobs))
        self._script.say("response.output_text.delta", members)

    def _close_part(self) -> None:
        if not self._kind:
            return
        where, text = self._where, joined(self._pieces)
        if self._kind == "refusal":
            self._script.say("response.refusal.done", b'%b,"refusal":%b' % (where, bytes(text)))
        else:
            members = b'%b,"text":%b,"logprobs":%b'
            said = members % (where, bytes(text), encode(self._logprobs))
            self._script.say("response.output_text.done", said)
        part = self._part(text)
        members = b'%b,"part":%b' % (where, msgspec.json.encode(part))
        self._script.say("response.content_part.done", members)
        self._content.append(part)
        self._kind = ""


class Reasoning:
    """What the model thought, and what of it has to go back unchanged."""

    def __init__(self, script: Script, *, summarises: bool) -> None:
        self._script = script
        self._summarises = summarises
        self._id = script.new_id("rs")
        head = {"id": self._id, "type": "reasoning", "status": "in_progress", "summary": []}
        self._place = script.add(head)
        self._pieces: list[bytes] = []
        self._entries: list[reasoning.Entry] = []
        self._told = 0
        """Pieces whose text is in an entry."""
        self.tell: Tell = bytes

    def say(self, text: str) -> None:
        """A piece of the thought."""
        if not self._pieces:
            self._begin()
        self._script.put(self.tell(encode(text)[1:-1]))

    def remember(self, entry: reasoning.Entry) -> None:
        """An entry of `reasoning_details`: whole, a piece of one, or the signature alone."""
        text = reasoning.TEXTS.get(str(entry.get("type")))
        if text is None:
            self._entries.append(entry)
            return
        last = self._entries[-1] if self._entries else {}
        same = all(last.get(name) == entry.get(name) for name in ("type", "index"))
        if same and not last.get("signature"):
            whole = f"{last.get(text) or ''}{entry.get(text) or ''}"
            self._entries[-1] = {**last, **entry, text: whole}
        else:
            self._entries.append({**entry, text: entry.get(text) or self._untold()})
        self._told = len(self._pieces)

    def close(self, status: str) -> None:
        """The thought is complete, or nothing more comes of it."""
        if rest := self._untold():
            self._entries.append({"type": "reasoning.text", "text": rest})
        item: Members = {
            "id": self._id,
            "type": "reasoning",
            "status": status,
            "summary": [],
            "encrypted_content": reasoning.seal(self._entries),
        }
        if self._pieces:
            part = self._finish()
            item["summary" if self._summarises else "content"] = [part]
        self._script.finish(self._place, item)

    def _untold(self) -> str:
        """What no entry has the text of."""
        return unescaped(self._pieces[self._told :])

    @property
    def _where(self) -> bytes:
        index = b"summary_index" if self._summarises else b"content_index"
        return b'"item_id":"%b","output_index":%d,"%b":0' % (self._id.encode(), self._place, index)

    @property
    def _kinds(self) -> tuple[str, str, str]:
        """What its part is called, and the stems of the events for the part and for its text."""
        if self._summarises:
            return (
                "summary_text",
                "response.reasoning_summary_part",
                "response.reasoning_summary_text",
            )
        return "reasoning_text", "response.content_part", "response.reasoning_text"

    def _begin(self) -> None:
        kind, part, text = self._kinds
        members = b'%b,"part":{"type":"%b","text":""}' % (self._where, kind.encode())
        self._script.say(f"{part}.added", members)
        self.tell = self._script.deltas(f"{text}.delta", self._where, self._pieces)

    def _finish(self) -> Members:
        kind, part, text = self._kinds
        whole = joined(self._pieces)
        said: Members = {"type": kind, "text": whole}
        self._script.say(f"{text}.done", b'%b,"text":%b' % (self._where, bytes(whole)))
        members = b'%b,"part":%b' % (self._where, msgspec.json.encode(said))
        self._script.say(f"{part}.done", members)
        return said


class Call:
    """A call of a tool. It is announced when its name is known."""

    def __init__(self, script: Script, call_id: str) -> None:
        self.call_id = call_id
        self.is_open = False
        self._script = script
        self._pieces: list[bytes] = []
        self._head: Members = {}
        self._form = _FUNCTION
        self._is_whole = False
        """It is told in one piece: its text has to be taken out of the arguments."""
        self._tell: Tell | None = None

    def open(self, name: str, called: Called | None, *, is_free: bool) -> None:
        """Announce the call of a tool that is `called` so by the client.

        `is_free` says that the model called it with any text, and no JSON object.
        """
        self.is_open = True
        kind = "custom" if is_free else "function" if called is None else called.kind
        self._form = _FORMS[kind]
        self._is_whole = kind != "function" and not is_free
        self._id = self._script.new_id(self._form.prefix)
        self._head = {"id": self._id, "type": self._form.type, "call_id": raw(self.call_id)}
        if self._form is _SEARCH:
            self._head["execution"] = "client"
        else:
            self._head["name"] = raw(name if called is None else called.name)
        if called is not None and called.namespace is not None:
            self._head["namespace"] = called.namespace
        self._place = self._script.add(self._item("in_progress", self._form.empty))
        if not self._is_whole:
            pieces, self._pieces = self._pieces, []
            stem = f"response.{self._form.events}"
            self._tell = self._script.deltas(f"{stem}.delta", self._where, self._pieces)
            for piece in pieces:
                self.say(piece)

    def tell(self, text: bytes) -> bytes:
        """The event for a piece of its arguments, if they are told piece by piece."""
        if self._tell is not None:
            return self._tell(text)
        self._pieces.append(text)
        return b""

    def say(self, text: bytes) -> None:
        """Write a piece of its arguments."""
        self._script.put(self.tell(text))

    def close(self, status: str) -> None:
        """The call is whole, or nothing more comes of it."""
        form, text = self._form, joined(self._pieces)
        if self._is_whole:
            text = _input(text) if form is _CUSTOM else _arguments(text)
        if form.events:
            where, stem = self._where, f"response.{form.events}"
            if self._is_whole:
                self._script.say(f"{stem}.delta", b'%b,"delta":%b' % (where, bytes(text)))
            name = b',"name":%b' % bytes(self._head["name"]) if form is _FUNCTION else b""
            members = b'%b%b,"%b":%b' % (where, name, form.member.encode(), bytes(text))
            self._script.say(f"{stem}.done", members)
        self._script.finish(self._place, self._item(status, text))

    def _item(self, status: str, text: msgspec.Raw) -> Members:
        return {**self._head, "status": status, self._form.member: text}

    @property
    def _where(self) -> bytes:
        return b'"item_id":"%b","output_index":%d' % (self._id.encode(), self._place)


@dataclass(frozen=True, slots=True)
class _Form:
    """How a kind of call is told: its item, the member with what is said, and its events."""

    type: str
    prefix: str
    member: str
    events: str
    empty: msgspec.Raw


_FUNCTION = _Form("function_call", "fc", "arguments", "function_call_arguments", _NOTHING)
_CUSTOM = _Form("custom_tool_call", "ctc", "input", "custom_tool_call_input", _NOTHING)
_SEARCH = _Form("tool_search_call", "tsc", "arguments", "", msgspec.Raw(b"{}"))
_FORMS = {"function": _FUNCTION, "custom": _CUSTOM, "tool_search": _SEARCH}


def joined(pieces: list[bytes] | tuple[()]) -> msgspec.Raw:
    """Pieces as one JSON string."""
    return msgspec.Raw(b'"%b"' % b"".join(pieces))


def unescaped(pieces: list[bytes]) -> str:
    """Pieces as the text they are."""
    text: str = json.loads(bytes(joined(pieces)))
    return text


def _input(arguments: msgspec.Raw) -> msgspec.Raw:
    """The input that a custom tool's arguments hold; themselves where they are something else."""
    try:
        said = json.loads(json.loads(bytes(arguments)))
    except (ValueError, RecursionError):
        return arguments
    found = said.get("input") if isinstance(said, dict) else None
    return raw(found) if isinstance(found, str) else arguments


def _arguments(arguments: msgspec.Raw) -> msgspec.Raw:
    """Arguments as the object that they are the text of; the text where it is none."""
    try:
        said = json.loads(json.loads(bytes(arguments)))
    except (ValueError, RecursionError):
        return arguments
    return raw(said)


def _logprob(entry: object) -> Members:
    """A token's probability as a response has it: nothing is left out, nothing is null."""
    said = entry if isinstance(entry, dict) else {}
    top = said.get("top_logprobs")
    return {
        "token": said.get("token") or "",
        "logprob": said.get("logprob") or 0.0,
        "bytes": said.get("bytes") or [],
        "top_logprobs": [_logprob(one) for one in top] if isinstance(top, list) else [],
    }
