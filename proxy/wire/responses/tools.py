"""Tools and the choice among them, as a chat has them, and what their calls are called here.

A chat that any model takes has functions only. So a custom tool becomes a function with one text
called `input`, the functions of a namespace get its name before theirs, and a search for tools that
the client does itself is one more function.

Source: OpenAI's API reference, "Create a model response", and its guide "Function calling".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec

from proxy.errors import InvalidRequest
from proxy.wire import body as wire_body
from proxy.wire.responses.losses import Losses

Chunk = dict[str, Any]
Value = TypeVar("Value")

_SEPARATOR = "__"
_NO_PARAMETERS = msgspec.Raw(b'{"type":"object","properties":{}}')
_ABSENT = msgspec.Raw(b"null")


class _Format(msgspec.Struct):
    type: str = "text"
    syntax: str = ""
    definition: str = ""


class _Tool(msgspec.Struct):
    type: str
    name: str = ""
    description: str | None = None
    parameters: msgspec.Raw = _ABSENT
    strict: bool | None = None
    format: _Format | None = None
    tools: list[_Tool] = []
    execution: str | None = None
    cache_control: msgspec.Raw = _ABSENT


class _Choice(msgspec.Struct):
    type: str
    name: str = ""
    namespace: str | None = None
    mode: str = "auto"
    tools: list[_Choice] = []


Kind = Literal["function", "custom", "tool_search"]
_KINDS: Mapping[str, Kind] = {
    "function": "function",
    "custom": "custom",
    "tool_search": "tool_search",
}

_tools = msgspec.json.Decoder(list[_Tool] | None)
_choice = msgspec.json.Decoder(str | _Choice | None)


@dataclass(frozen=True, slots=True)
class Called:
    """A tool as the client knows it."""

    name: str
    namespace: str | None = None
    kind: Kind = "function"


def chat_name(name: str, namespace: str | None) -> str:
    """What a function is called in a chat."""
    return f"{namespace}{_SEPARATOR}{name}" if namespace else name


@dataclass(slots=True)
class Tools:
    """The tools of a request: `chat` has them for a chat, `called` by their names there."""

    chat: list[Chunk] = field(default_factory=list)
    called: dict[str, Called] = field(default_factory=dict)
    choice: str | Chunk | None = None

    def add(self, raw: msgspec.Raw, path: str, losses: Losses) -> None:
        """Read a list of tools; raises `InvalidRequest`."""
        for index, tool in enumerate(_decoded(_tools, raw, path) or ()):
            self._add(tool, f"{path}[{index}]", losses)

    def choose(self, raw: msgspec.Raw, losses: Losses) -> None:
        """Read `tool_choice`, when all tools are known; raises `InvalidRequest`."""
        choice = _decoded(_choice, raw, "tool_choice")
        if isinstance(choice, _Choice):
            self._choose(choice, losses)
        elif choice is not None and choice not in ("auto", "none", "required"):
            raise InvalidRequest(
                f"invalid value for 'tool_choice': {choice[:100]!r}", param="tool_choice"
            )
        elif self.chat:
            self.choice = choice

    def _add(self, tool: _Tool, path: str, losses: Losses, namespace: str | None = None) -> None:
        if tool.type == "namespace" and namespace is None:
            for index, inner in enumerate(tool.tools):
                self._add(inner, f"{path}.tools[{index}]", losses, tool.name)
            return
        kind = _KINDS.get(tool.type)
        if kind is None or (kind == "tool_search" and tool.execution != "client"):
            losses.refuse(
                f"{path}.type", f"only OpenAI runs tools of type {tool.type[:100]!r}", costs=True
            )
            return
        own_name = tool.name or (kind if kind == "tool_search" else "")
        if not own_name:
            raise InvalidRequest(f"missing required parameter: '{path}.name'", param=f"{path}.name")
        name = chat_name(own_name, namespace)
        if name in self.called:
            return  # found by a search, twice
        self.called[name] = Called(own_name, namespace, kind)
        function: Chunk = {"name": name}
        description = _described(tool) if kind == "custom" else tool.description
        if description:
            function["description"] = description
        function["parameters"] = _WRAPPED if kind == "custom" else _parameters(tool)
        if tool.strict is not None:
            function["strict"] = tool.strict
        entry: Chunk = {"type": "function", "function": function}
        if tool.cache_control is not _ABSENT:
            entry["cache_control"] = tool.cache_control
        self.chat.append(entry)

    def _choose(self, choice: _Choice, losses: Losses) -> None:
        if choice.type == "allowed_tools":
            allowed = {chat_name(tool.name, tool.namespace) for tool in choice.tools}
            self.chat = [tool for tool in self.chat if tool["function"]["name"] in allowed]
            self.choice = choice.mode if self.chat else None
        elif choice.type in ("function", "custom"):
            name = chat_name(choice.name, choice.namespace)
            self.choice = {"type": "function", "function": {"name": name}}
        else:
            losses.refuse("tool_choice", costs=True)


_WRAPPED: Chunk = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


def _described(tool: _Tool) -> str:
    """A custom tool's description, with the grammar that its input has to follow."""
    text = tool.description or ""
    if tool.format is None or not tool.format.definition:
        return text
    kind = tool.format.syntax or "grammar"
    return f"{text}\n\n`input` must match this {kind}:\n{tool.format.definition}".lstrip()


def _parameters(tool: _Tool) -> msgspec.Raw:
    return _NO_PARAMETERS if bytes(tool.parameters) == b"null" else tool.parameters


def _decoded(decoder: msgspec.json.Decoder[Value], raw: msgspec.Raw, path: str) -> Value:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise wire_body.invalid(error, path) from None
    except RecursionError:
        raise InvalidRequest(f"{path!r} is nested too deeply", param=path) from None
