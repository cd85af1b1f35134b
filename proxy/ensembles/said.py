"""What a whole chat answer says, as far as it is compared and checked. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from adapters.base import MalformedAnswer
from proxy.wire.surrogates import encode

_AT_THE_ENDS = " \t\n\r.,;:!?\"'`*_"


class _Function(msgspec.Struct):
    name: str = ""
    arguments: Any = ""


class _Custom(msgspec.Struct):
    name: str = ""
    input: Any = ""


class _Call(msgspec.Struct):
    function: _Function | None = None
    custom: _Custom | None = None


class _Part(msgspec.Struct):
    text: str | None = None


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


class _Token(msgspec.Struct):
    logprob: float


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """One of the answers that a reply may have.

    `calls` are the names of the tools and their arguments, as canonical JSON where they are JSON.
    `confidence` is the geometric mean of its tokens' probabilities; None where they are not told.
    """

    text: str = ""
    calls: Sequence[tuple[str, str]] = ()
    refused: bool = False
    finish_reason: str = "stop"
    confidence: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it says anything, and to its end."""
        is_cut = self.refused or self.finish_reason in ("length", "content_filter")
        return not is_cut and bool(self.text.strip() or self.calls)

    @property
    def key(self) -> str:
        """The same for answers that say the same.

        Calls count by name and arguments, whatever is said beside them. JSON counts by its value;
        other text without regard to case, spaces, and marks at either end.
        """
        if self.calls:
            return json.dumps(self.calls)
        canonical = _canonical(self.text)
        if canonical is not None:
            return canonical
        return " ".join(self.text.casefold().split()).strip(_AT_THE_ENDS)


def read(body: bytes) -> tuple[Said, ...]:
    """The answers of a chat completion; raises `MalformedAnswer`."""
    try:
        answer = msgspec.convert(json.loads(body), _Answer)
    except (ValueError, RecursionError):
        raise MalformedAnswer("the provider's answer is not the JSON it should be") from None
    return tuple(map(_said, answer.choices))


def key_of(answers: Sequence[Said]) -> tuple[str, ...]:
    """The same for replies that say the same."""
    return tuple(said.key for said in answers)


def shown(answers: Sequence[Said]) -> str:
    """The answers in words, for a judge."""
    return "\n\n".join(
        "\n".join((*filter(None, [said.text]), *(f"{name}({given})" for name, given in said.calls)))
        for said in answers
    )


def without_logprobs(body: bytes) -> bytes:
    """The completion as it were if nobody had asked for its log probabilities."""
    answer = json.loads(body)
    for choice in answer["choices"]:
        choice["logprobs"] = None
    return encode(answer)


def _said(choice: _Choice) -> Said:
    message = choice.message
    calls: list[_Function | _Custom | None] = [
        call.function or call.custom for call in message.tool_calls or ()
    ]
    calls.append(message.function_call)
    tokens = (choice.logprobs.content or []) if choice.logprobs is not None else []
    return Said(
        text=_text(message.content),
        calls=tuple(_called(call) for call in calls if call is not None),
        refused=bool(message.refusal),
        finish_reason=choice.finish_reason or "stop",
        confidence=math.exp(sum(t.logprob for t in tokens) / len(tokens)) if tokens else None,
    )


def _text(content: str | list[_Part] | None) -> str:
    if isinstance(content, list):
        return "".join(part.text or "" for part in content)
    return content or ""


def _called(call: _Function | _Custom) -> tuple[str, str]:
    given = call.arguments if isinstance(call, _Function) else call.input
    text = given if isinstance(given, str) else json.dumps(given, sort_keys=True)
    return call.name, _canonical(text) or text.strip()


def _canonical(text: str) -> str | None:
    """JSON with its keys in order and no spaces; None where it is none."""
    try:
        return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return None
