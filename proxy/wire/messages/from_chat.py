"""A whole chat completion -> the message that it stands for.

Source: Anthropic's API reference, "Create a Message", and its documentation on fine-grained tool
streaming, which tells how arguments are carried that are no JSON.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

import msgspec

from adapters.base import MalformedAnswer
from proxy.pricing import Usage
from proxy.wire import usage as wire_usage
from proxy.wire.dialect import Facts, Identity
from proxy.wire.messages import call_ids, reasoning
from proxy.wire.messages import usage as messages_usage
from proxy.wire.messages.writer import message_id, stopped_by, words
from proxy.wire.surrogates import without_lone

Members = dict[str, Any]


class Asked(Protocol):
    """What an answer needs to know of its request."""

    @property
    def input_tokens(self) -> int: ...  # noqa: D102
    @property
    def stop_sequences(self) -> frozenset[str]: ...  # noqa: D102


class _Function(msgspec.Struct):
    name: str
    arguments: Any = None


class _Call(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None
    extra_content: Any = None


class _Message(msgspec.Struct):
    content: Any = None
    refusal: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    stop_reason: Any = None
    native_finish_reason: Any = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: Any = None


_completion = msgspec.json.Decoder(_Completion)


def message(body: bytes, facts: Facts, identity: Identity, asked: Asked) -> bytes | None:
    """The message; None where the completion cannot be read as one."""
    try:
        answer = _completion.decode(without_lone(body) if b"\\ud" in body.lower() else body)
        choice = answer.choices[0]
        content = _content(choice.message, identity)
    except (ValueError, RecursionError, MalformedAnswer):
        return None
    reason, sequence = _stop(choice, asked)
    estimate = wire_usage.estimated(asked.input_tokens, facts.output_bytes)
    return msgspec.json.encode(
        {
            "id": message_id(identity),
            "type": "message",
            "role": "assistant",
            "model": answer.model if isinstance(answer.model, str) else identity.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": _usage(facts.usage or estimate, facts.service_tier),
        }
    )


def _content(said: _Message, identity: Identity) -> list[Members]:
    content: list[Members] = []
    for text in (words(said.content or ""), said.refusal or ""):
        if text:
            content.append({"type": "text", "text": text})
    for number, call in enumerate(said.tool_calls or ()):
        if call.function is None:
            raise MalformedAnswer("a tool call without a function")
        given = call.id or f"call_{identity.request_id[-12:]}_{number}"
        call_id = call_ids.with_signature({"id": given, "extra_content": call.extra_content})
        arguments = _object(call.function.arguments)
        content.append(
            {"type": "tool_use", "id": call_id, "name": call.function.name, "input": arguments}
        )
    for number, (place, block) in enumerate(_thoughts(said)):
        content.insert(number if place is None else max(place, number), block)
    return content


def _thoughts(said: _Message) -> list[tuple[int | None, Members]]:
    """What was thought: with signatures where it has some, otherwise its text alone."""
    found = list(reasoning.blocks(said.reasoning_details))
    text = words(said.reasoning_content or said.reasoning or "")
    if text and not any(block.get("thinking") for _, block in found):
        found.insert(0, (None, {"type": "thinking", "thinking": text, "signature": ""}))
    for _, block in found:
        if block["type"] == "thinking":
            block["signature"] = block["signature"] or reasoning.UNSIGNED
    return found


def _object(arguments: object) -> Members:
    """Arguments as the object they hold; a model does not always write one."""
    if isinstance(arguments, dict):
        return arguments
    text = arguments if isinstance(arguments, str) else ""
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": text}


def _stop(choice: _Choice, asked: Asked) -> tuple[str, str | None]:
    reason = choice.finish_reason
    if choice.message.tool_calls and reason in (None, "stop"):
        reason = "tool_calls"
    told = {
        "finish_reason": reason,
        "stop_reason": choice.stop_reason,
        "native_finish_reason": choice.native_finish_reason,
    }
    return stopped_by(told, asked.stop_sequences)


def _usage(usage: Usage, service_tier: str | None) -> Members:
    shown = messages_usage.shown(usage)
    if service_tier in ("standard", "priority", "batch"):
        shown["service_tier"] = service_tier
    return shown
