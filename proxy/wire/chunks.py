r"""One upstream chat stream -> the canonical stream that every client can read.

Most events of a stream differ only in the piece of text they carry. From the first such event we
learn its template (the bytes before and after that text) and pass the following ones on as the
bytes they came in, all that arrived together in one step; an event that fits no template is
decoded, repaired and written anew.

What "canonical" means (OpenAI's reference for the chat completion chunk object, and what its SDKs
choke on):

- one `id` and one `created` for the whole stream, `object` always `chat.completion.chunk`;
- `role` once, in the first delta of each choice;
- one finish reason per choice, out of OpenAI's five;
- tool calls numbered 0, 1, 2 ... per choice; `id`, `type`, `name` in the first delta of a call
  only; `arguments` always a string, and `{}` for a call without any;
- usage in one chunk of its own without choices, last, and only if the client asked for it;
- no chunk that says nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

import msgspec

from adapters.base import AdapterError, MalformedAnswer
from proxy.errors import ApiError
from proxy.pricing import Usage
from proxy.wire import failures
from proxy.wire import usage as wire_usage
from proxy.wire.dialect import Identity
from proxy.wire.surrogates import encode as _encode

Chunk = dict[str, Any]

DONE = b"data: [DONE]\n\n"

FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
# What other servers say for OpenAI's reasons; any other word is their "stop" (`eos`, `end_turn`).
_FINISH_ALIASES = {
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",
    "content_filtered": "content_filter",
    "refusal": "content_filter",
    "safety": "content_filter",
    "recitation": "content_filter",
    "sensitive": "content_filter",
}
# What they say where the answer broke off: no end that a client may take for one.
_FAILED = frozenset(
    {"error", "abort", "aborted", "cancelled", "network_error", "insufficient_system_resource"}
)
# Deltas whose one string is what changes from event to event.
_TEXT_FIELDS = ("content", "reasoning_content", "reasoning", "refusal")
# A kind of tool call -> its member that holds what the model says, piece by piece.
CALL_KINDS = {"function": "arguments", "custom": "input"}
_CALL_MEMBERS = frozenset({"index", "id", "type", *CALL_KINDS})
_MAX_TEMPLATES = 8
# So many events are written in one step at most.
_MOST_ALIKE = 32

_STRING = rb'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+'
_string_rest = re.compile(rb'%b(?=")' % _STRING).match
_is_string = re.compile(_STRING).fullmatch
# In ASCII, not empty, with nothing escaped.
_is_plain = re.compile(rb"[ !#-\[\]-\x7f]+").fullmatch
_OPENINGS = {
    name: re.compile(rb'"%b"\s*:\s*"' % name.encode())
    for name in (*_TEXT_FIELDS, *CALL_KINDS.values(), "obfuscation")
}
# Stand in for the changing strings while a template is made.
_SIGN = "\u2261"
_TEXT_MARK = f"{_SIGN}text{_SIGN}"
_PADDING_MARK = f"{_SIGN}padding{_SIGN}"


def fallbacks(identity: Identity) -> Chunk:
    """What stands for the members of an answer's identity that its provider leaves out."""
    return {
        "id": f"chatcmpl-{identity.request_id}",
        "created": identity.created,
        "model": identity.model,
    }


def call_prefix(identity: Identity) -> str:
    """What the ids of tool calls begin with that have none of their own."""
    return f"call_{identity.request_id[-12:]}"


def finish_reason(said: str, *, has_calls: bool) -> str:
    """One reason out of OpenAI's; raises `UpstreamError` where the answer broke off."""
    reason = said.lower()
    if reason in _FAILED:
        raise failures.reported(f"the provider broke its answer off: {reason!r}")
    if reason not in FINISH_REASONS:
        reason = _FINISH_ALIASES.get(reason, "stop")
    return "tool_calls" if has_calls and reason == "stop" else reason


def event(payload: bytes) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % payload


class Writer(Protocol):
    """Writes a canonical stream in another dialect; one for each stream.

    A stream that has a writer always has its usage at the end, where the provider tells one.
    """

    def write(self, chunk: Chunk) -> bytes:
        """The events for a canonical chunk that says something."""

    def steady(self, chunk: Chunk) -> Callable[[bytes], bytes] | None:
        """What writes the further chunks that differ from this one, just written, in their text.

        The text is that of a delta's one string (`content`, `reasoning_content` …, or the
        arguments of its one tool call), given as JSON between two quotes. It may be used until
        the next `write`. None where each has to be written on its own.
        """

    def end(self, usage: Usage | None) -> bytes:
        """The last events; `usage` is the provider's word, where it has one."""

    def fail(self, error: ApiError) -> bytes:
        """The event that ends a stream which broke."""


class Stream:
    """The state of one stream: what was learned, seen and counted so far.

    `identity` fills in for an upstream that leaves it out. A stream that does not learn templates
    decodes every event; what comes out says the same. `reads_cost` says that this provider's own
    word of the cost counts. A `writer` writes it in another dialect.
    """

    def __init__(
        self,
        *,
        wants_usage: bool,
        identity: Identity,
        learns: bool = True,
        reads_cost: bool = False,
        writer: Writer | None = None,
    ) -> None:
        self._wants_usage = wants_usage
        self._writer = writer
        self._given = identity
        self._taken: tuple[Usage, ...] = ()
        self._identity: Chunk = {}
        self._fallbacks = fallbacks(identity)
        self._call_prefix = call_prefix(identity)
        self._templates: list[_Template] = []
        self._room = _MAX_TEMPLATES if learns else 0
        self._choices: dict[int, _ChoiceState] = {}
        self._usage_chunk: Chunk | None = None
        self._reads_cost = reads_cost
        self.usage: Usage | None = None
        self.cost: wire_usage.ReportedCost | None = None
        self.service_tier: str | None = None
        self.output_bytes = 0
        """Bytes of text, reasoning and tool arguments seen so far."""
        self.output_events = 0
        """In so many events."""
        self.has_payload = False
        """True once something was relayed that an answer consists of."""

    @property
    def is_finished(self) -> bool:
        """Every choice that began has its finish reason, and there is one."""
        return bool(self._choices) and all(c.finish for c in self._choices.values())

    def feed_all(self, payloads: Sequence[bytes]) -> tuple[bytes, AdapterError | None]:
        """What the client gets for some payloads, and the failure that cut them short, if any.

        What came before a failure is not lost with it, however the network grouped the two.
        """
        if len(payloads) == 1 and (alone := self._feed_alone(payloads[0])) is not None:
            return alone, None
        events: list[bytes] = []
        at = 0
        try:
            while at < len(payloads):
                for template in self._templates:
                    if changing := template.changing(payloads[at : at + _MOST_ALIKE]):
                        events.append(self._apply(template, changing))
                        at += len(changing)
                        break
                else:
                    events.append(self._feed_slowly(payloads[at]))
                    at += 1
        except AdapterError as error:
            return b"".join(events), error
        return b"".join(events), None

    def feed(self, payload: bytes) -> bytes:
        """What the client gets for one upstream payload: events, or nothing.

        Raises `MalformedAnswer` for what is no chunk, `UpstreamError` for an error in the stream.
        """
        events, failure = self.feed_all((payload,))
        if failure is not None:
            raise failure
        return events

    def end(self) -> bytes:
        """The last events of a stream that ended as it should: usage if asked for, `[DONE]`."""
        if self._writer is not None:
            return self._writer.end(self.usage)
        if not self._wants_usage or self._usage_chunk is None:
            return DONE
        self._set_identity(self._usage_chunk)
        if self._taken and self.usage is not None:
            self._usage_chunk["usage"] = wire_usage.shown(*self._taken, self.usage)
        return event(_encode(self._usage_chunk)) + DONE

    def fail(self, error: ApiError) -> bytes:
        """The event that ends a stream which broke."""
        return event(error.body()) if self._writer is None else self._writer.fail(error)

    def cap(self, reason: Chunk, usage: Usage) -> bytes:
        """The last events of a stream that was cut because a budget had no more for it.

        Each choice that is open ends with `length`; `reason` stands beside them as `tollway`.
        `usage` is ours: the provider's never came.
        """
        chunk: Chunk = {}
        self._set_identity(chunk)
        open_choices = [i for i, state in self._choices.items() if not state.finish] or [0]
        chunk["choices"] = [
            {"index": index, "delta": {}, "finish_reason": "length"} for index in open_choices
        ]
        chunk["tollway"] = reason
        if self._writer is not None:
            return self._writer.write(chunk) + self._writer.end(usage)
        events = event(_encode(chunk))
        if self._wants_usage:
            events += event(
                _encode({**chunk, "choices": [], "usage": wire_usage.shown(*self._taken, usage)})
            )
        return events + DONE

    def resumed(self, taken: Usage, *, reads_cost: bool) -> Stream:
        """What reads the answer of another target that goes on where this stream broke.

        To the client it is the same stream; what it counts is its own. `taken` is what this one
        took, which the usage at the end includes.
        """
        stream = Stream(
            wants_usage=self._wants_usage,
            identity=self._given,
            reads_cost=reads_cost,
            writer=self._writer,
        )
        stream._identity, stream._choices = self._identity, self._choices
        stream._taken = (*self._taken, taken)
        return stream

    def mark(self, note: Chunk) -> bytes:
        """An event that says nothing but `note`, as `tollway`, which clients skip."""
        chunk: Chunk = {}
        self._set_identity(chunk)
        chunk["choices"] = [{"index": 0, "delta": {}, "finish_reason": None}]
        if self._wants_usage:
            chunk["usage"] = None
        return event(_encode({**chunk, "tollway": note}))

    def _feed_alone(self, payload: bytes) -> bytes | None:
        """The event for a payload of the latest shape, with a plain text; None for any other.

        Most come alone: for them this says in half the time what the way for many says.
        """
        if not self._templates:
            return None
        template = self._templates[0]
        if not payload.startswith(template.prefix) or not payload.endswith(template.suffix):
            return None
        text = changing = payload[len(template.prefix) : -len(template.suffix)]
        if template.middle is not None:
            text, _, padding = changing.partition(template.middle)
            if not _is_plain(padding):
                return None
        if not _is_plain(text):
            return None
        self._room = _MAX_TEMPLATES
        self.output_events += 1
        self.output_bytes += len(text)
        if template.call is not None:
            template.call.pieces.append(text)
        return template.written([changing]) if template.write is None else template.write(text)

    def _apply(self, template: _Template, changing: list[bytes]) -> bytes:
        """The events for payloads of one shape."""
        self._room = _MAX_TEMPLATES
        texts = changing if template.middle is None else template.without_padding(changing)
        self.output_events += len(texts)
        said = b"".join(texts)
        if b"\\" in said:
            self.output_bytes += sum(_size(_unescaped(text)) for text in texts)
        else:
            self.output_bytes += len(said)
        if template.call is not None:
            template.call.pieces += texts
        if template.write is not None:
            return b"".join(map(template.write, texts))
        return template.written(changing)

    def _feed_slowly(self, payload: bytes) -> bytes:
        chunk = _decode(payload)
        original = _encode(chunk)
        _raise_error(chunk)
        self._take_identity(chunk)
        has_usage = self._take_usage(chunk)
        if has_usage and self._reads_cost:
            self.cost = wire_usage.reported_cost(payload) or self.cost
        choices = self._repair_choices(chunk.get("choices"))
        if not choices:
            return b""
        chunk["choices"] = choices
        self._set_identity(chunk)
        if self._writer is not None:
            return self._write(self._writer, payload, chunk, learns=not has_usage)
        encoded = _encode(chunk)
        passes = encoded == original and b"\n" not in payload and b"\r" not in payload
        if self._room and not has_usage:
            self._learn(payload, chunk, passes=passes)
        return event(payload if passes else encoded)

    def _write(self, writer: Writer, payload: bytes, chunk: Chunk, *, learns: bool) -> bytes:
        """What a writer makes of a chunk; its templates are good until the next one."""
        self._templates.clear()
        events = writer.write(chunk)
        if self._room and learns and self._changing_string(chunk) is not None:
            write = writer.steady(chunk)
            if write is not None:
                self._learn(payload, chunk, passes=False, write=write)
        return events

    def _take_identity(self, chunk: Chunk) -> None:
        """Learn the stream's identity, until the first chunk that leaves has settled it."""
        if len(self._identity) == len(self._fallbacks):
            return
        for name, fallback in self._fallbacks.items():
            if type(chunk.get(name)) is type(fallback) and chunk[name]:
                self._identity.setdefault(name, chunk[name])

    def _set_identity(self, chunk: Chunk) -> None:
        settled = self._identity
        if len(settled) < len(self._fallbacks):
            settled.update({**self._fallbacks, **settled})
        chunk["id"] = settled["id"]
        chunk["created"] = settled["created"]
        model = chunk.get("model")
        if type(model) is not str or not model:
            chunk["model"] = settled["model"]
        chunk["object"] = "chat.completion.chunk"

    def _take_usage(self, chunk: Chunk) -> bool:
        """Keep the usage, wherever this upstream puts it, the last one. Whether there was any."""
        found = chunk.get("usage")
        if found is None and isinstance(chunk.get("x_groq"), dict):
            found = chunk["x_groq"].get("usage")
        if found is not None or "service_tier" in chunk:
            tier = wire_usage.service_tier(chunk.get("service_tier"), found)
            self.service_tier = tier or self.service_tier
        if isinstance(found, dict):
            usage = wire_usage.reported(found)
            if usage is not None or self._usage_chunk is None:
                self.usage = usage
                self._usage_chunk = {**chunk, "choices": [], "usage": wire_usage.completed(found)}
        if self._wants_usage:
            chunk["usage"] = None
        else:
            chunk.pop("usage", None)
        return found is not None

    def _repair_choices(self, choices: object) -> list[Chunk]:
        """The choices of a chunk in canonical shape, without those that say nothing."""
        repaired: list[Chunk] = []
        for position, choice in enumerate(choices if isinstance(choices, list) else ()):
            if (says := self._repair_choice(choice, position)) is not None:
                repaired.append(says)
        return repaired

    def _repair_choice(self, choice: object, position: int) -> Chunk | None:
        if not isinstance(choice, dict):
            raise MalformedAnswer("the provider sent a choice that is no object")
        index = choice.get("index")
        if type(index) is not int:
            choice["index"] = index = position
        state = self._choices.get(index)
        if state is None:
            state = self._choices[index] = _ChoiceState(f"{self._call_prefix}_{index}_")
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            choice["delta"] = delta = {}
        state.repair_role(delta)
        if "tool_calls" in delta:
            self._repair_tool_calls(delta, state)
        state.repair_finish(choice, delta)
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict):
            logprobs.setdefault("content", None)
            logprobs.setdefault("refusal", None)
        self._count(choice, delta)
        says_something = delta or choice["finish_reason"] or logprobs
        return choice if says_something else None

    def _repair_tool_calls(self, delta: Chunk, state: _ChoiceState) -> None:
        known = len(state.calls)
        entries = delta["tool_calls"] if isinstance(delta["tool_calls"], list) else ()
        calls = [state.repair_call(entry) for entry in entries]
        if calls:
            delta["tool_calls"] = calls
        else:
            del delta["tool_calls"]
        if len(state.calls) > known:
            # What continued the call before, by a missing or repeated index, continues this one.
            self._templates.clear()

    def _count(self, choice: Chunk, delta: Chunk) -> None:
        for name, said in delta.items():
            if not said or name == "role":
                continue
            self.has_payload = True
            self.output_events += 1
            if name == "tool_calls":
                self.output_bytes += sum(_size_of_call(entry) for entry in said)
            else:
                self.output_bytes += _size(said)
        if choice["finish_reason"]:
            self.has_payload = True

    def _learn(
        self,
        payload: bytes,
        left: Chunk,
        *,
        passes: bool,
        write: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """Make a template of an event. `_room` bounds how many may prove useless in a row."""
        place = self._changing_string(left)
        if place is None or (place.call is not None and b'"name"' in payload):
            return  # a name may begin another call: that depends on what came before
        template = _Template.learn(payload, left, place, passes=passes, write=write)
        if template is not None:
            self._room -= 1
            self._templates.insert(0, template)
            del self._templates[_MAX_TEMPLATES:]

    def _changing_string(self, chunk: Chunk) -> _Place | None:
        """The only string that the next event may change; None where there may be more."""
        if len(chunk["choices"]) != 1:
            return None
        choice = chunk["choices"][0]
        delta = choice["delta"]
        if choice["finish_reason"] is not None or choice.get("logprobs") or "role" in delta:
            return None
        said = [name for name, value in delta.items() if value]
        if len(said) != 1:
            return None
        if said[0] in _TEXT_FIELDS and isinstance(delta[said[0]], str):
            return _Place(delta, said[0])
        if said[0] != "tool_calls" or len(delta["tool_calls"]) != 1:
            return None
        entry = delta["tool_calls"][0]
        call = self._choices[choice["index"]].calls[entry["index"]]
        text = CALL_KINDS[call.kind]
        if entry.keys() == {"index", call.kind} and entry[call.kind].keys() == {text}:
            return _Place(entry[call.kind], text, call) if entry[call.kind][text] else None
        return None


class _Call(msgspec.Struct):
    """A tool call as far as it has come; `pieces` are JSON text, as between two quotes."""

    number: int
    kind: str
    id: str
    name: str
    pieces: list[bytes] = []

    @property
    def is_empty(self) -> bool:
        return not any(self.pieces)

    @property
    def is_complete(self) -> bool:
        """Its arguments are a whole JSON object: what follows belongs to another call."""
        if not self.pieces or not self.pieces[-1].endswith(b"}"):
            return False
        text = b"".join(self.pieces)
        try:
            json.loads(_unescaped(text))
        except (ValueError, RecursionError):
            return False
        return True


class _ChoiceState(msgspec.Struct):
    call_prefix: str
    has_role: bool = False
    finish: str | None = None
    calls: list[_Call] = []
    by_id: dict[str, _Call] = {}
    by_index: dict[object, _Call] = {}
    """The last one with each of the upstream's own numbers."""

    def repair_role(self, delta: Chunk) -> None:
        """`role` stands in the first delta, and there only."""
        if self.has_role:
            delta.pop("role", None)
            return
        self.has_role = True
        if delta.get("role") != "assistant":
            rest = {key: value for key, value in delta.items() if key != "role"}
            delta.clear()
            delta.update({"role": "assistant", **rest})

    def repair_finish(self, choice: Chunk, delta: Chunk) -> None:
        """One reason, once; raises `UpstreamError` where the answer broke off."""
        reason = choice.get("finish_reason")
        choice["finish_reason"] = None
        if not isinstance(reason, str) or not reason or self.finish:
            return
        reason = finish_reason(reason, has_calls=bool(self.calls))
        self.finish = choice["finish_reason"] = reason
        self._complete_calls(delta)

    def _complete_calls(self, delta: Chunk) -> None:
        """Give `{}` to the functions that were called without any arguments."""
        empty = [call for call in self.calls if call.kind == "function" and call.is_empty]
        if not empty:
            return
        entries = list(delta.get("tool_calls", ()))
        told = {entry["index"]: entry for entry in reversed(entries)}
        for call in empty:
            if call.number not in told:
                entry = told[call.number] = {"index": call.number, "function": {}}
                entries.append(entry)
            told[call.number]["function"]["arguments"] = "{}"
        delta["tool_calls"] = sorted(entries, key=lambda entry: int(entry["index"]))

    def repair_call(self, entry: object) -> Chunk:
        """One entry of `delta.tool_calls`, numbered as OpenAI numbers them."""
        if not isinstance(entry, dict):
            raise MalformedAnswer("the provider sent a tool call that is no object")
        kind = "custom" if isinstance(entry.get("custom"), dict) else "function"
        said = entry.get(kind)
        said = dict(said) if isinstance(said, dict) else {}
        text = as_text(said.pop(CALL_KINDS[kind], None))
        name = said.pop("name", None)
        name = name if isinstance(name, str) else ""
        call = self._continued(entry, name)
        head: Chunk = {}
        if call is None:
            call = self._begin(entry, kind, name)
            head = {"id": call.id, "type": kind}
            said = {"name": name, **said}
        elif name and not call.name:
            call.name = said["name"] = name
        if text:
            call.pieces.append(_encode(text)[1:-1])
        rest = {k: v for k, v in entry.items() if k not in _CALL_MEMBERS}
        said = {**said, CALL_KINDS[call.kind]: text}
        return {"index": call.number, **head, call.kind: said, **rest}

    def _begin(self, entry: Chunk, kind: str, name: str) -> _Call:
        number = len(self.calls)
        given = entry.get("id")
        call = _Call(
            number=number,
            kind=kind,
            id=given if isinstance(given, str) and given else f"{self.call_prefix}{number}",
            name=name,
        )
        self.calls.append(call)
        self.by_id.setdefault(call.id, call)
        self.by_index[_number(entry)] = call
        return call

    def _continued(self, entry: Chunk, name: str) -> _Call | None:
        """The call that this entry continues; None where it begins one.

        A known id tells, else the upstream's index. A call begins with a name; where one comes
        with an index that is in use, it begins another call if it has a new id, is another name,
        or follows complete arguments.
        """
        given = entry.get("id")
        if given and isinstance(given, str) and given in self.by_id:
            return self.by_id[given]
        number = _number(entry)
        last = self.by_index.get(number)
        if self.calls and (number is None or (last is None and not given and not name)):
            last = self.calls[-1]
        if last is None:
            return None
        if name and last.name and (given or name != last.name or last.is_complete):
            return None
        return last


def _number(entry: Chunk) -> object:
    """The upstream's own number of a call, if it has one."""
    index = entry.get("index")
    return index if index is None or isinstance(index, int | float | str) else repr(index)


class _Template(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes around the one string that changes (and around the random padding, if any).

    `out_...` are what is written around it; `out_between` lies between two events' strings.
    `call` is the tool call that the string continues; `write` writes it in another dialect.
    """

    prefix: bytes
    middle: bytes | None
    suffix: bytes
    out_prefix: bytes
    out_middle: bytes
    out_between: bytes
    out_suffix: bytes
    call: _Call | None
    write: Callable[[bytes], bytes] | None

    def changing(self, payloads: Sequence[bytes]) -> list[bytes]:
        """What changes in the payloads, of as many from the first on as are known for this shape.

        That is JSON between two quotes: a text that is not empty; the middle and padding, if any.
        """
        prefix, suffix = self.prefix, self.suffix
        start, end = len(prefix), -len(suffix)
        changing: list[bytes] = []
        for payload in payloads:
            if not payload.startswith(prefix) or not payload.endswith(suffix):
                break
            if not (text := payload[start:end]):
                break
            changing.append(text)
        if not changing:
            return changing
        # What is between them, a space, neither ends an escape nor a character that was begun.
        strings = b" ".join(changing)
        is_padded = True
        if self.middle is not None:
            is_padded = all(each.find(self.middle) > 0 for each in changing)
            strings = strings.replace(self.middle, b" ", len(changing))
        if is_padded and _is_string(strings) and (strings.isascii() or _is_utf8(strings)):
            return changing
        return self.changing(payloads[: len(changing) // 2])

    def without_padding(self, changing: list[bytes]) -> list[bytes]:
        """The texts alone."""
        assert self.middle is not None
        return [each[: each.index(self.middle)] for each in changing]

    def written(self, changing: list[bytes]) -> bytes:
        """The events."""
        if self.middle is not None and self.middle != self.out_middle:
            changing = [each.replace(self.middle, self.out_middle) for each in changing]
        return self.out_prefix + self.out_between.join(changing) + self.out_suffix

    @classmethod
    def learn(
        cls,
        payload: bytes,
        left: Chunk,
        place: _Place,
        *,
        passes: bool,
        write: Callable[[bytes], bytes] | None = None,
    ) -> _Template | None:
        """The template of a payload that left as the chunk `left`, which is used up by this.

        None where the payload does not tell for sure which of its strings is the one at `place`.
        """
        found = _find_string(payload, place.name, place.holder[place.name])
        if found is None:
            return None
        start, end = found
        prefix, middle, suffix = payload[:start], None, payload[end:]
        if "obfuscation" in left:
            padding = _find_string(payload, "obfuscation", left["obfuscation"], end)
            if padding is None:
                return None
            middle, suffix = payload[end : padding[0]], payload[padding[1] :]
        written = (prefix, middle or b"", suffix) if passes or write else _around(left, place)
        if written is None:
            return None
        out_prefix, out_middle, out_suffix = written
        out_prefix, out_suffix = b"data: " + out_prefix, out_suffix + b"\n\n"
        return cls(
            prefix=prefix,
            middle=middle,
            suffix=suffix,
            out_prefix=out_prefix,
            out_middle=out_middle,
            out_between=out_suffix + out_prefix,
            out_suffix=out_suffix,
            call=place.call,
            write=write,
        )


class _Place(NamedTuple):
    """Where in a chunk the one string stands that the next event may change."""

    holder: Chunk
    name: str
    call: _Call | None = None


def _around(chunk: Chunk, place: _Place) -> tuple[bytes, bytes, bytes] | None:
    """What a chunk, used up by this, is written as before, between and after what changes in it.

    None where the provider's own text has our sign.
    """
    place.holder[place.name] = _TEXT_MARK
    has_padding = "obfuscation" in chunk
    if has_padding:
        chunk["obfuscation"] = _PADDING_MARK
    encoded = _encode(chunk)
    if encoded.count(_SIGN.encode()) != (4 if has_padding else 2):
        return None
    prefix, _, rest = encoded.partition(_TEXT_MARK.encode())
    if not has_padding:
        return prefix, b"", rest
    middle, _, suffix = rest.rpartition(_PADDING_MARK.encode())
    return prefix, middle, suffix


def _find_string(
    payload: bytes, name: str, value: object, start: int = 0
) -> tuple[int, int] | None:
    """Begin and end, between the quotes, of the value of the only key of this name.

    A quote inside a JSON string is always escaped, so that no text can look like the key.
    """
    found = list(_OPENINGS[name].finditer(payload, start))
    if len(found) != 1:
        return None
    begin = found[0].end()
    end = _string_end(payload, begin)
    is_value = end >= 0 and _unescaped(payload[begin:end]) == value
    return (begin, end) if is_value else None


def _unescaped(string: bytes) -> str:
    """The text of a JSON string, given without its quotes."""
    if b"\\" not in string:
        return string.decode()
    text: str = json.loads(b'"%b"' % string)
    return text


def _string_end(payload: bytes, start: int) -> int:
    """The place of the closing quote of the string that begins at `start`; -1 without one."""
    found = _string_rest(payload, start)
    return -1 if found is None else found.end()


def _decode(payload: bytes) -> Chunk:
    try:
        chunk = msgspec.json.decode(payload)
    except (ValueError, RecursionError):
        chunk = _decode_leniently(payload)
    if not isinstance(chunk, dict):
        raise MalformedAnswer("the provider sent an event that is no JSON object")
    return chunk


def _decode_leniently(payload: bytes) -> object:
    """The standard library accepts lone surrogates, which some upstreams really send."""
    try:
        value: object = json.loads(
            payload.decode(), parse_float=_finite, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        raise MalformedAnswer("the provider sent an event that is not valid JSON") from None
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is out of range")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _raise_error(chunk: Chunk) -> None:
    """Raise the error that a chunk reports, or is; an empty one is none, and goes."""
    error = chunk.pop("error", None)
    if not error and "error" in (chunk.get("object"), chunk.get("type")):
        error = chunk
    if error:
        raise failures.reported(error)


def as_text(value: object) -> str:
    """Arguments are text that holds JSON; some servers send the JSON itself."""
    if isinstance(value, str):
        return value
    return "" if value is None else _encode(value).decode()


def _size(said: object) -> int:
    return len(said.encode("utf-8", "replace") if isinstance(said, str) else _encode(said))


def _size_of_call(entry: Chunk) -> int:
    return sum(_size(entry[kind].get(CALL_KINDS[kind], "")) for kind in CALL_KINDS if kind in entry)


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
