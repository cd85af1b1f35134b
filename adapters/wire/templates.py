"""What an operator says of an endpoint that has a dialect of its own: a template, and places.

A template is a structure of YAML in which a text such as `{{model}}` stands for a value of the
request. A place in an answer is written `choices.0.text`; `*` is each item of a list, and a single
dot all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from typing import Any, Literal

import msgspec

from adapters.base import Endpoint

Where = tuple[str | int, ...]

PARAMETERS = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "presence_penalty"),
    *("frequency_penalty", "repetition_penalty", "logit_bias", "response_format", "user"),
    *("reasoning_effort", "metadata"),
)
"""The parameters of chat that stand for themselves."""

_CHAT_NAMES = frozenset(
    {"model", "messages", "prompt", "system", "last_user_message", "max_tokens", "stream"}
    | {*PARAMETERS}
)
_EMBEDDINGS_NAMES = frozenset({"model", "input", "inputs", "dimensions", "user"})
_MESSAGES = frozenset({"messages", "prompt", "last_user_message"})
_ABSENT = object()
_PATH = re.compile(r"/[!-\"$-~]*")


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ChatPlaces(_Strict, frozen=True):
    """Where an answer holds what."""

    text: str
    finish_reason: str | None = None
    input_tokens: str | None = None
    output_tokens: str | None = None


class StreamPlaces(ChatPlaces, frozen=True):
    """How an answer is streamed: in server-sent events or in lines, each a JSON value."""

    framing: Literal["sse", "lines"] = "sse"
    end: str | None = None
    """What stands in place of the last value; without it the end of the body is the end."""
    path: str | None = None
    """Where streams are asked for, if that is elsewhere."""


class ChatEndpoint(_Strict, frozen=True):
    """How chat is asked for. Without `stream` the whole answer is streamed as one piece."""

    path: str
    request: dict[str, Any]
    response: ChatPlaces
    stream: StreamPlaces | None = None


class VectorPlaces(_Strict, frozen=True):
    """Where an answer holds the vectors: a list of lists of numbers."""

    embeddings: str
    input_tokens: str | None = None


class EmbeddingsEndpoint(_Strict, frozen=True):
    """How vectors are asked for."""

    path: str
    request: dict[str, Any]
    response: VectorPlaces


class Endpoints(_Strict, frozen=True):
    """What a provider is asked for, and how."""

    chat: ChatEndpoint | None = None
    embeddings: EmbeddingsEndpoint | None = None

    @property
    def speaks(self) -> Set[Endpoint]:
        """Those that are there."""
        given: dict[Endpoint, object] = {"chat": self.chat, "embeddings": self.embeddings}
        return {name for name, endpoint in given.items() if endpoint is not None}

    def problems(self) -> Iterator[tuple[Where, str]]:
        """What is wrong, and where."""
        if not self.speaks:
            yield (), "needs 'chat' or 'embeddings'"
        if self.chat is not None:
            yield from _problems("chat", self.chat, _CHAT_NAMES)
            if names_in(self.chat.request).isdisjoint(_MESSAGES):
                yield (
                    ("chat", "request"),
                    "says nothing of what is asked; add {{messages}}, {{prompt}} or "
                    "{{last_user_message}}",
                )
        if self.embeddings is not None:
            yield from _problems("embeddings", self.embeddings, _EMBEDDINGS_NAMES)
            if not names_in(self.embeddings.request) & {"input", "inputs"}:
                yield ("embeddings", "request"), "says nothing of what is asked; add {{input}}"


def _problems(
    name: str, endpoint: ChatEndpoint | EmbeddingsEndpoint, names: Set[str]
) -> Iterator[tuple[Where, str]]:
    paths: dict[Where, str | None] = {(name, "path"): endpoint.path}
    places: dict[Where, Any] = {(name, "response"): endpoint.response}
    if isinstance(endpoint, ChatEndpoint) and endpoint.stream is not None:
        paths[name, "stream", "path"] = endpoint.stream.path
        places[name, "stream"] = endpoint.stream
    for where, path in paths.items():
        if path is not None and not _PATH.fullmatch(path):
            yield where, "must start with a slash and be %-encoded; it continues the base_url"
    for where, holder in places.items():
        for member in ("text", "finish_reason", "input_tokens", "output_tokens", "embeddings"):
            place = getattr(holder, member, None)
            if place is not None and place != "." and not all(place.split(".")):
                yield (*where, member), f"{place!r} is no place such as choices.0.text"
    for where, text in _texts((name, "request"), endpoint.request):
        placeholder = _placeholder(text)
        if placeholder is None and "{{" in text:
            yield where, "a {{placeholder}} stands alone in its text"
        elif placeholder is not None and placeholder not in names:
            known = ", ".join(sorted(names))
            yield where, f"unknown placeholder {placeholder!r}; known: {known}"


def _texts(where: Where, template: Any) -> Iterator[tuple[Where, str]]:
    if isinstance(template, str):
        yield where, template
    elif isinstance(template, dict | list):
        items = template.items() if isinstance(template, dict) else enumerate(template)
        for step, item in items:
            yield from _texts((*where, step), item)


def _placeholder(text: str) -> str | None:
    if text.startswith("{{") and text.endswith("}}") and "{{" not in text[2:]:
        return text[2:-2].strip()
    return None


def names_in(template: Any) -> frozenset[str]:
    """The values that a template asks for."""
    return frozenset(name for _, t in _texts((), template) if (name := _placeholder(t)) is not None)


def fill(template: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The template with values; without the members whose value is absent, or all of whose are."""
    filled = _filled(template, values)
    return filled if isinstance(filled, dict) else {}


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(template, str):
        name = _placeholder(template)
        return template if name is None else values.get(name, _ABSENT)
    if isinstance(template, dict):
        pairs = {name: _filled(item, values) for name, item in template.items()}
        kept: Any = {name: item for name, item in pairs.items() if item is not _ABSENT}
    elif isinstance(template, list):
        kept = [item for each in template if (item := _filled(each, values)) is not _ABSENT]
    else:
        return template
    return kept if kept or not template else _ABSENT


def found(value: Any, place: str) -> Any:
    """What stands at a place; None where nothing does."""
    steps = [] if place == "." else place.split(".")
    for i, step in enumerate(steps):
        if step == "*":
            rest = ".".join(steps[i + 1 :]) or "."
            return [found(item, rest) for item in value] if isinstance(value, list) else None
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict):
            value = value.get(step)
        else:
            return None
    return value
