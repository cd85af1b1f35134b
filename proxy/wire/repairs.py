"""A whole chat answer put right where clients choke on it; one that is right is not touched.

What is put right is what `proxy.wire.chunks` puts right in a stream. Members and choices that are
as they should be keep their bytes; only what is wrong is written anew.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec

from adapters.base import AdapterError
from proxy.wire import chunks
from proxy.wire import usage as wire_usage
from proxy.wire.dialect import Identity
from proxy.wire.surrogates import encode, without_lone

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Members = dict[str, Any]

_KIND = "chat.completion"


class _Function(msgspec.Struct):
    name: str
    arguments: _Text


class _FunctionCall(msgspec.Struct, tag_field="type", tag="function"):
    id: _Text
    function: _Function


class _Custom(msgspec.Struct):
    name: str
    input: str


class _CustomCall(msgspec.Struct, tag_field="type", tag="custom"):
    id: _Text
    custom: _Custom


class _LogProbs(msgspec.Struct):
    content: msgspec.Raw
    refusal: msgspec.Raw


class _Message(msgspec.Struct):
    role: Literal["assistant"]
    content: msgspec.Raw
    tool_calls: list[_FunctionCall | _CustomCall] | None = None


class _Choice(msgspec.Struct):
    index: int
    message: _Message
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter", "function_call"]
    logprobs: _LogProbs | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Answer(msgspec.Struct):
    id: _Text
    object: Literal["chat.completion"]
    created: int
    model: _Text
    choices: list[_Choice]
    usage: _Usage | None = None


_answer = msgspec.json.Decoder(_Answer)
_choice = msgspec.json.Decoder(_Choice)
_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_items = msgspec.json.Decoder(list[msgspec.Raw])


def repaired(body: bytes, identity: Identity) -> bytes | None:
    """The answer as clients can read it: the same bytes where they can already.

    None where it says itself that it broke off. `body` was checked to have choices with messages
    (`proxy.wire.answers.read_chat`); `identity` fills in what the provider leaves out.
    """
    if _is_right(body):
        return body
    try:
        return _repair(_members(body), identity)
    except (AdapterError, RecursionError):
        return None


def _repair(members: _Members, identity: Identity) -> bytes:
    """Raises `UpstreamError` where a choice broke off."""
    members["choices"] = _repair_choices(members["choices"], identity)
    for name, fallback in chunks.fallbacks(identity).items():
        said = _value(members.get(name))
        if type(said) is not type(fallback) or not said:
            members[name] = fallback
    members["object"] = _KIND
    usage = _value(members.get("usage"))
    if usage is not None:
        members["usage"] = wire_usage.completed(usage) if isinstance(usage, dict) else None
    return encode(members)


def _is_right(body: bytes) -> bool:
    try:
        answer = _answer.decode(body)
    except msgspec.ValidationError:
        return False
    except msgspec.DecodeError:
        return body != (text := without_lone(body)) and _is_right(text)
    numbers = {choice.index for choice in answer.choices}
    return len(numbers) == len(answer.choices) and all(map(_is_consistent, answer.choices))


def _is_consistent(choice: _Choice) -> bool:
    """Whether its calls have each an id of its own, and it ends as if there were any."""
    calls = choice.message.tool_calls
    if not calls:
        return True
    return choice.finish_reason != "stop" and len({call.id for call in calls}) == len(calls)


def _members(body: bytes) -> _Members:
    """The members as they stand there, or as values: lone surrogates need Python's encoder."""
    if without_lone(body) != body:
        return dict(json.loads(body))
    return dict(_raw_members.decode(body))


def _value(said: object) -> Any:
    return json.loads(bytes(said)) if isinstance(said, msgspec.Raw) else said


def _repair_choices(said: msgspec.Raw | list[Any], identity: Identity) -> list[Any]:
    choices: list[Any] = list(_raw_items.decode(said) if isinstance(said, msgspec.Raw) else said)
    taken: set[int] = set()
    for position, choice in enumerate(choices):
        number = _number_of_right(choice)
        if number is None or number in taken:
            choices[position] = fixed = _value(choice)
            number = _repair_choice(fixed, position, taken, identity)
        taken.add(number)
    return choices


def _number_of_right(choice: object) -> int | None:
    """The index of a choice that may stay as it is; None where it may not."""
    if not isinstance(choice, msgspec.Raw):
        return None
    try:
        right = _choice.decode(choice)
    except msgspec.ValidationError:
        return None
    return right.index if _is_consistent(right) else None


def _repair_choice(choice: _Members, position: int, taken: set[int], identity: Identity) -> int:
    """Put a choice right, and return its index. Raises `UpstreamError` where it broke off."""
    number = choice.get("index")
    if type(number) is not int or number in taken:
        number = next(n for n in range(position, position + len(taken) + 1) if n not in taken)
        choice["index"] = number
    message = choice["message"]
    message["role"] = "assistant"
    message.setdefault("content", None)
    calls = message.get("tool_calls")
    if calls is not None:
        prefix = f"{chunks.call_prefix(identity)}_{number}_"
        message["tool_calls"] = calls = _repair_calls(calls, prefix)
        if not calls:
            del message["tool_calls"]
    reason = choice.get("finish_reason")
    said = reason if isinstance(reason, str) and reason else "stop"
    choice["finish_reason"] = chunks.finish_reason(said, has_calls=bool(calls))
    if isinstance(choice.get("logprobs"), dict):
        choice["logprobs"] = {"content": None, "refusal": None, **choice["logprobs"]}
    return number


def _repair_calls(said: object, prefix: str) -> list[_Members]:
    entries = said if isinstance(said, list) else ()
    calls = [dict(entry) for entry in entries if isinstance(entry, dict)]
    taken: set[str] = set()
    for position, call in enumerate(calls):
        if not isinstance(call.get("id"), str) or not call["id"] or call["id"] in taken:
            call["id"] = f"{prefix}{position}"
        taken.add(call["id"])
        kind = "custom" if isinstance(call.get("custom"), dict) else "function"
        call["type"] = kind
        function = call.get(kind)
        call[kind] = function = dict(function) if isinstance(function, dict) else {}
        function["name"] = function["name"] if isinstance(function.get("name"), str) else ""
        text = chunks.CALL_KINDS[kind]
        function[text] = chunks.as_text(function.get(text)) or ("{}" if kind == "function" else "")
    return calls
