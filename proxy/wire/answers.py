"""A whole upstream answer: is it one, and what did it take? Its bytes are passed on untouched."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from adapters.base import MalformedAnswer
from proxy.wire import failures
from proxy.wire import usage as wire_usage
from proxy.wire.dialect import Facts
from proxy.wire.surrogates import encode, without_lone


class Answer(msgspec.Struct):
    """What every answer may have, and ours look at."""

    usage: Any = None
    service_tier: Any = None
    error: Any = None


class _Choice(msgspec.Struct):
    message: dict[str, msgspec.Raw]


class _ChatAnswer(Answer):
    choices: list[_Choice] | None = None


class Vector(msgspec.Struct):
    """An item of an embeddings answer."""

    index: msgspec.Raw = msgspec.Raw(b"")
    embedding: msgspec.Raw = msgspec.Raw(b"null")


class _EmbeddingsAnswer(Answer):
    data: list[Vector] | None = None


class _FullChoice(msgspec.Struct):
    message: dict[str, Any]
    logprobs: Any = None
    finish_reason: Any = None


class _Completion(msgspec.Struct):
    choices: list[_FullChoice]
    id: Any = None
    created: Any = None
    model: Any = None
    usage: Any = None
    service_tier: Any = None


_chat = msgspec.json.Decoder(_ChatAnswer)
_embeddings = msgspec.json.Decoder(_EmbeddingsAnswer)

Kind = TypeVar("Kind", bound=Answer)


def read_chat(body: bytes, *, reads_cost: bool = False) -> Facts:
    """Check a chat completion; raises `MalformedAnswer`, or `UpstreamError` for an error in it.

    `reads_cost` says that this provider's own word of the cost counts.
    """
    answer = read(body, _chat)
    if not answer.choices:
        raise MalformedAnswer("the provider's answer has no choices")
    output = sum([len(b"".join(choice.message.values())) for choice in answer.choices])
    return _facts(answer, body, output_bytes=output, reads_cost=reads_cost)


def read_embeddings(body: bytes, *, reads_cost: bool = False) -> tuple[Facts, list[Vector]]:
    """Check an embeddings answer, and its vectors unread; raises like `read_chat`."""
    answer = read(body, _embeddings)
    if not answer.data:
        raise MalformedAnswer("the provider's answer has no embeddings")
    return _facts(answer, body, output_bytes=0, reads_cost=reads_cost), answer.data


def as_chunk(body: bytes) -> bytes:
    """A chat completion as the one chunk of a stream; raises `MalformedAnswer`.

    What writes streams in another dialect so writes whole answers too.
    """
    try:
        answer = msgspec.convert(json.loads(body), _Completion)
    except (ValueError, RecursionError):
        raise MalformedAnswer("the provider's answer is not the JSON it should be") from None
    choices = [
        {
            "index": index,
            "delta": _as_delta(choice.message),
            "logprobs": choice.logprobs,
            "finish_reason": choice.finish_reason or "stop",
        }
        for index, choice in enumerate(answer.choices)
    ]
    return encode(
        {
            "id": answer.id,
            "created": answer.created,
            "model": answer.model,
            "choices": choices,
            "usage": answer.usage,
            "service_tier": answer.service_tier,
        }
    )


def _as_delta(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its calls numbered, as those of a stream are."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    numbered = [
        {**call, "index": index} if isinstance(call, dict) else call
        for index, call in enumerate(calls)
    ]
    return {**message, "tool_calls": numbered}


def _facts(answer: Answer, body: bytes, *, output_bytes: int, reads_cost: bool) -> Facts:
    return Facts(
        usage=wire_usage.reported(answer.usage),
        output_bytes=output_bytes,
        service_tier=wire_usage.service_tier(answer.service_tier, answer.usage),
        cost=wire_usage.reported_cost(body) if reads_cost else None,
    )


def read(body: bytes, decoder: msgspec.json.Decoder[Kind]) -> Kind:
    """The answer; raises `MalformedAnswer`, or `UpstreamError` for an error in it."""
    try:
        if not body.isascii():
            body.decode()  # what is skipped over is not checked by the decoder
        answer = _decode(body, decoder)
    except (ValueError, RecursionError):
        raise MalformedAnswer("the provider's answer is not the JSON it should be") from None
    if answer.error:
        raise failures.reported(answer.error)
    return answer


def _decode(body: bytes, decoder: msgspec.json.Decoder[Kind]) -> Kind:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return decoder.decode(without_lone(body))
