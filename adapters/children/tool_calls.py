"""Calls of functions in what a model says: the forms of those it must make, and how to read calls.

Sources: the chat templates of Hermes and Qwen (`<tool_call>`), Mistral (`[TOOL_CALLS]`) and
Llama 3 (bare JSON) as their model cards have them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

import msgspec

from adapters.children.generating import Form
from adapters.children.stops import overlap
from adapters.wire.chat_request import Declaration, json_object

Delta = dict[str, Any]

_OPENING, _CLOSING = "<tool_call>", "</tool_call>"
_LIST = "[TOOL_CALLS]"
_PYTHON = "<|python_tag|>"
# A model without any schema for its arguments may say any object.
_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def declared(functions: Sequence[Declaration]) -> list[dict[str, Any]]:
    """Functions as templates want them."""
    return [{"type": "function", "function": _plain(function)} for function in functions]


def _plain(function: Declaration) -> dict[str, Any]:
    parameters = function.parameters or {"type": "object", "properties": {}}
    described = {"description": function.description} if function.description else {}
    return {"name": function.name, **described, "parameters": parameters}


def told(functions: Sequence[Declaration]) -> str:
    """The functions in words, for a template that has no place for them."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in declared(functions))
    call = f'{_OPENING}\n{{"name": "<its name>", "arguments": {{<its arguments>}}}}\n{_CLOSING}'
    return f"You may call these functions:\n{lines}\n\nTo call one, answer only with:\n{call}"


class Forced:
    """One call that a grammar forces: `{"name": ..., "arguments": ...}`, tagged where known."""

    def __init__(self, functions: Sequence[Declaration], template: str) -> None:
        self._functions = functions
        is_tagged = _OPENING in template
        before = f"{_OPENING}\n" if is_tagged else ""
        self._openings = {
            f'{before}{{"name": {_quoted(function.name)}, "arguments": ': function.name
            for function in functions
        }
        self._closing = f"}}\n{_CLOSING}" if is_tagged else "}"
        self._text = ""
        self._is_open = False

    def forms(self) -> list[Form]:
        """What such a call looks like, for each function."""
        return [
            Form(before=opening, schema=function.parameters or _ANY_OBJECT, after=self._closing)
            for function, opening in zip(self._functions, self._openings, strict=True)
        ]

    def feed(self, text: str) -> Iterator[Delta]:
        """The call as far as it is known; its arguments as they come."""
        self._text += text
        if not self._is_open:
            for opening, name in self._openings.items():
                if self._text.startswith(opening):
                    self._text = self._text[len(opening) :]
                    self._is_open = True
                    yield _begun(0, name, "")
                    break
            else:
                return
        # The last characters may be those that close the call.
        sure = len(self._text) - len(self._closing)
        if sure > 0:
            yield _continued(0, self._text[:sure])
            self._text = self._text[sure:]

    def end(self) -> Iterator[Delta]:
        """What is left of the arguments when the model has ended, or was cut off."""
        rest = self._text.removesuffix(self._closing)
        if rest == self._text and (closed := overlap(rest, self._closing)) > 1:
            rest = rest[:-closed]
        if self._is_open and rest:
            yield _continued(0, rest)

    @property
    def has_called(self) -> bool:
        """Whether there is a call."""
        return self._is_open


class Free:
    """Calls that a model may make in the way it was taught; all else it says is text."""

    def __init__(self, functions: Sequence[Declaration]) -> None:
        self._names = frozenset(function.name for function in functions)
        self._text = ""
        self._is_first = True
        self._calls = 0

    @property
    def has_called(self) -> bool:
        """Whether there is a call."""
        return self._calls > 0

    def feed(self, text: str) -> Iterator[Delta]:
        """The text that is sure to be one, and the calls that are whole."""
        self._text += text
        while True:
            if self._is_first and (not self._text.strip() or self._text.lstrip().startswith("{")):
                return  # a bare call, perhaps: the end will tell
            starts = [at for mark in _MARKS if (at := self._text.find(mark)) >= 0]
            if not starts:
                doubtful = max(overlap(self._text, mark) for mark in _MARKS)
                yield from self._say(len(self._text) - doubtful)
                return
            yield from self._say(min(starts))
            self._is_first = False
            end = self._text.find(_CLOSING)
            if not self._text.startswith(_OPENING) or end < 0:
                return
            whole, self._text = self._text[:end], self._text[end + len(_CLOSING) :]
            yield from self._read(whole, whole + _CLOSING)

    def end(self) -> Iterator[Delta]:
        """What is left when the model has ended."""
        if self._text:
            yield from self._read(self._text, self._text)
            self._text = ""

    def _say(self, length: int) -> Iterator[Delta]:
        said, self._text = self._text[:length], self._text[length:]
        if said and not (self._calls and said.isspace()):
            self._is_first = False
            yield {"content": said}

    def _read(self, text: str, otherwise: str) -> Iterator[Delta]:
        calls = self._calls_in(text)
        if not calls:
            yield {"content": otherwise}
        for name, arguments in calls:
            yield _begun(self._calls, name, arguments)
            self._calls += 1

    def _calls_in(self, text: str) -> list[tuple[str, str]]:
        stripped = text.strip()
        for mark in _MARKS:
            stripped = stripped.removeprefix(mark)
        found = _json_list(stripped)
        calls = [call for entry in found if (call := self._call_in(entry))]
        return calls if len(calls) == len(found) else []

    def _call_in(self, entry: object) -> tuple[str, str] | None:
        if not isinstance(entry, dict) or entry.get("name") not in self._names:
            return None
        arguments = entry.get("arguments", entry.get("parameters", {}))
        if isinstance(arguments, str):
            arguments = json_object(arguments)
        if not isinstance(arguments, dict):
            return None
        return str(entry["name"]), json.dumps(arguments, ensure_ascii=False)


_MARKS = (_OPENING, _LIST, _PYTHON)


def _json_list(text: str) -> list[Any]:
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return []
    return value if isinstance(value, list) else [value]


def _begun(index: int, name: str, arguments: str) -> Delta:
    function = {"name": name, "arguments": arguments}
    call = {"index": index, "id": f"call_{uuid4().hex[:24]}", "type": "function"}
    return {"tool_calls": [{**call, "function": function}]}


def _continued(index: int, arguments: str) -> Delta:
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
