"""A canonical chat stream as the events of a response.

Texts are kept and written as they came: JSON between two quotes, not taken apart.

Source: OpenAI's API reference, "Streaming events" of the Responses API.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from adapters.base import MalformedAnswer
from proxy.errors import ApiError
from proxy.pricing import Usage
from proxy.wire.responses import reasoning
from proxy.wire.responses import usage as responses_usage
from proxy.wire.responses.output import Call, Message, Reasoning, Script
from proxy.wire.responses.response import Frame, event, failed_events, raw
from proxy.wire.responses.tools import Called
from proxy.wire.surrogates import encode

Chunk = dict[str, Any]

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Writer:
    """Writes one stream; `on_end` gets the response that came of it, once it is whole.

    `called` tells the tools by their names in the chat. Where `summarises`, what the model thought
    is told as its summary, which is what clients show; otherwise as the text it is.
    """

    def __init__(
        self,
        frame: Frame,
        *,
        called: Mapping[str, Called],
        summarises: bool,
        now: Callable[[], float],
        on_end: Callable[[bytes], None],
    ) -> None:
        self._frame = frame
        self._called = called
        self._summarises = summarises
        self._now = now
        self._on_end = on_end
        self._script = Script(frame.id.removeprefix("resp_"))
        self._open: Message | Reasoning | None = None
        self._calls: dict[int, Call] = {}
        self._finish = ""
        self._said: dict[str, msgspec.Raw] = {}

    def write(self, chunk: Chunk) -> bytes:
        """The events for a canonical chunk."""
        self._frame.model = chunk["model"]
        if isinstance(chunk.get("service_tier"), str):
            self._said["service_tier"] = raw(chunk["service_tier"])
        if "tollway" in chunk:
            self._said["tollway"] = raw(chunk["tollway"])
        for choice in chunk["choices"]:
            if choice["index"] == 0:  # one answer is asked for; a response has no place for more
                self._write_choice(choice)
        events = self._script.taken()
        return self._beginning() + events if events else b""

    def steady(self, chunk: Chunk) -> Callable[[bytes], bytes] | None:
        """What writes further texts of the kind that the chunk has."""
        choice = chunk["choices"][0]
        if choice["index"] != 0:
            return None
        if entries := choice["delta"].get("tool_calls"):
            return self._calls[entries[0]["index"]].tell
        return None if self._open is None else self._open.tell

    def end(self, usage: Usage | None) -> bytes:
        """The last event, with the whole response."""
        self._close_all()
        reason = _INCOMPLETE.get(self._finish)
        status = "completed" if reason is None else "incomplete"
        response = self._frame.response(
            status,
            output=self._script.output,
            usage=responses_usage.shown(usage),
            completed_at=int(self._now()) if reason is None else None,
            incomplete_details=None if reason is None else {"reason": reason},
            **self._said,
        )
        self._script.say(f"response.{status}", b'"response":%b' % response)
        self._on_end(response)
        return self._beginning() + self._script.taken()

    def fail(self, error: ApiError) -> bytes:
        """The events that end a stream which broke."""
        events, script = self._beginning() + self._script.taken(), self._script
        return events + failed_events(self._frame, error, script.number, output=script.output)

    def _beginning(self) -> bytes:
        """The two events before all others, once."""
        if self._script.has_begun:
            return b""
        self._script.has_begun = True
        response = self._frame.response("in_progress")
        return b"".join(
            event(kind, b'{"type":"%b","sequence_number":%d,"response":%b}' % (kind, n, response))
            for n, kind in enumerate((b"response.created", b"response.in_progress"))
        )

    def _write_choice(self, choice: Chunk) -> None:
        delta = choice["delta"]
        if thought := _text(delta.get("reasoning_content") or delta.get("reasoning")):
            self._thinking().say(thought)
        for entry in _objects(delta.get("reasoning_details")):
            self._thinking().remember(entry)
        if text := _text(delta.get("content")):
            self._message().say("output_text", text, choice.get("logprobs"))
        if text := _text(delta.get("refusal")):
            self._message().say("refusal", text)
        for annotation in _objects(delta.get("annotations")):
            self._message().annotate(annotation)
        for entry in delta.get("tool_calls") or ():
            self._write_call(entry)
        if choice["finish_reason"]:
            self._finish = choice["finish_reason"]
            self._close_all()

    def _thinking(self) -> Reasoning:
        if not isinstance(self._open, Reasoning):
            self._close()
            self._open = Reasoning(self._script, summarises=self._summarises)
        return self._open

    def _message(self) -> Message:
        if not isinstance(self._open, Message):
            self._close()
            self._open = Message(self._script)
        return self._open

    def _write_call(self, entry: Chunk) -> None:
        """An entry of `tool_calls`. The calls stay open to the end: they may come in turns."""
        call = self._calls.get(entry["index"])
        is_custom = "custom" in entry
        said = entry["custom" if is_custom else "function"]
        text = said.get("input" if is_custom else "arguments")
        if call is None and "id" not in entry:
            if text:
                raise MalformedAnswer("the provider went back to a tool call that was complete")
            return
        if call is None:
            call = self._calls[entry["index"]] = Call(self._script, entry["id"])
        extra = entry.get("extra_content")
        if isinstance(extra, dict):
            kept = {"type": reasoning.CALL, "id": call.call_id, "extra_content": extra}
            self._thinking().remember(kept)
        if said.get("name") and not call.is_open:
            self._close()
            call.open(said["name"], self._called.get(said["name"]), is_free=is_custom)
        if text:
            call.say(encode(text)[1:-1])

    def _close(self) -> None:
        """Close the item that has just been written, if any."""
        closing, self._open = self._open, None
        if closing is not None:
            closing.close(self._status)

    def _close_all(self) -> None:
        self._close()
        for call in self._calls.values():
            if not call.is_open:
                call.open("", None, is_free=False)
            call.close(self._status)
        self._calls.clear()

    @property
    def _status(self) -> str:
        return "incomplete" if self._finish in _INCOMPLETE else "completed"


def _text(said: object) -> str:
    """Text, however it was said: some servers send content in parts."""
    if isinstance(said, str):
        return said
    return "".join(_text(part.get("text")) for part in _objects(said))


def _objects(listed: object) -> list[Chunk]:
    found = listed if isinstance(listed, list) else ()
    return [entry for entry in found if isinstance(entry, dict)]
