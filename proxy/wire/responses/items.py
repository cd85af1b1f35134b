"""Input items -> the messages of a chat.

What the model said in one turn (reasoning, messages, calls) becomes one assistant message, and the
outputs of its calls follow it at once, wherever they stand: chat providers insist on both.

Source: OpenAI's API reference, "Create a model response", and its guide "Migrate to the Responses
API".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from proxy.errors import InvalidRequest
from proxy.wire import body as wire_body
from proxy.wire.responses import reasoning
from proxy.wire.responses.losses import Losses
from proxy.wire.responses.tools import Tools, chat_name

Message = dict[str, Any]
Value = TypeVar("Value")

# Calls of tools that the provider itself ran: what came of them is in the messages after them.
_PROVIDERS_OWN = frozenset(
    {
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "mcp_list_tools",
        "mcp_call",
    }
)
_TEXTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
# A chat has no `original` size of an image: its `high` is the nearest.
_DETAILS = {"low": "low", "high": "high", "original": "high"}
_ABSENT = msgspec.Raw(b"null")


class _Kind(msgspec.Struct):
    type: str | None = None
    role: str | None = None


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    filename: str | None = None
    input_audio: msgspec.Raw = _ABSENT
    cache_control: msgspec.Raw = _ABSENT


_Content = str | list[_Part]


class _Message(msgspec.Struct):
    role: str
    content: _Content | None = None


class _FunctionCall(msgspec.Struct):
    call_id: str
    name: str
    arguments: str = ""
    namespace: str | None = None


class _CustomCall(msgspec.Struct):
    call_id: str
    name: str
    input: str = ""
    namespace: str | None = None


class _Output(msgspec.Struct):
    call_id: str
    output: _Content | None = None


class _SearchCall(msgspec.Struct):
    call_id: str
    arguments: msgspec.Raw = _ABSENT


class _SearchOutput(msgspec.Struct):
    call_id: str
    tools: msgspec.Raw = _ABSENT


class _AdditionalTools(msgspec.Struct):
    tools: msgspec.Raw = _ABSENT


class _Reasoning(msgspec.Struct):
    summary: list[_Part] | None = None
    content: list[_Part] | None = None
    encrypted_content: str | None = None


_kind = msgspec.json.Decoder(_Kind)
_message = msgspec.json.Decoder(_Message)
_function_call = msgspec.json.Decoder(_FunctionCall)
_custom_call = msgspec.json.Decoder(_CustomCall)
_output = msgspec.json.Decoder(_Output)
_search_call = msgspec.json.Decoder(_SearchCall)
_search_output = msgspec.json.Decoder(_SearchOutput)
_additional_tools = msgspec.json.Decoder(_AdditionalTools)
_reasoning = msgspec.json.Decoder(_Reasoning)


@dataclass(slots=True)
class _Turn:
    """What the model said at a stretch, and the outputs of what it called."""

    content: list[Message] = field(default_factory=list)
    calls: list[Message] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    details: list[reasoning.Entry] = field(default_factory=list)
    outputs: list[Message] = field(default_factory=list)

    def messages(self) -> list[Message]:
        message: Message = {
            "role": "assistant",
            "content": _joined(self.content, only=True) or None,
        }
        if self.thoughts:
            message["reasoning_content"] = "\n\n".join(self.thoughts)
        if self.details:
            message["reasoning_details"] = self.details
        if self.calls:
            message["tool_calls"] = self.calls
        elif message["content"] is None:
            if len(message) == 2:
                return self.outputs
            message["content"] = ""  # it only thought: some servers insist on a text
        return [message, *self.outputs]


class Conversation:
    """The messages of a chat, one input item after the other."""

    def __init__(self, tools: Tools, losses: Losses) -> None:
        self._tools = tools
        self._losses = losses
        self._said: list[Message | _Turn] = []
        self._open: _Turn | None = None
        self._turns: dict[str, _Turn] = {}
        self._calls: dict[str, Message] = {}
        self._extra: dict[str, Any] = {}
        self._read: dict[str, Callable[[msgspec.Raw, str], None]] = {
            "message": self._add_message,
            "function_call": self._add_function_call,
            "function_call_output": self._add_output,
            "custom_tool_call": self._add_custom_call,
            "custom_tool_call_output": self._add_output,
            "tool_search_call": self._add_search,
            "tool_search_output": self._add_found,
            "additional_tools": self._add_tools,
            "reasoning": self._add_reasoning,
        }

    def messages(self) -> list[Message]:
        """The messages so far; system messages at the beginning are one, as templates have it."""
        found: list[Message] = []
        for said in self._said:
            found += said.messages() if isinstance(said, _Turn) else [said]
        heads = 0
        while heads < len(found) and found[heads]["role"] == "system":
            heads += 1
        texts = [message["content"] for message in found[:heads]]
        if heads > 1 and all(isinstance(text, str) for text in texts):
            return [{"role": "system", "content": "\n\n".join(texts)}, *found[heads:]]
        return found

    def instruct(self, text: str) -> None:
        """Put instructions, which stand before every item."""
        self._said.append({"role": "system", "content": text})

    def add_items(
        self, items: Sequence[msgspec.Raw], path: Callable[[int], str]
    ) -> Mapping[int, str]:
        """Read items; `path` names one by its number. Raises `InvalidRequest`.

        Those that no provider of Responses could read are given back, by number and path.
        """
        foreign: dict[int, str] = {}
        for index, raw in enumerate(items):
            where = path(index)
            kind = decoded(_kind, raw, where)
            name = kind.type or ("message" if kind.role else "")
            read = self._read.get(name)
            if read is not None:
                if name == "reasoning" and self._is_foreign(raw, where):
                    foreign[index] = where
                read(raw, where)
            elif name in _PROVIDERS_OWN:
                self._losses.tell(where)
            else:
                # It may hold images, or stand for what only its maker has.
                why = f"items of type {name[:100]!r} cannot be carried over a chat"
                self._losses.refuse(f"{where}.type", why, costs=True)
        return foreign

    # --- what the user says ----------------------------------------------------------------

    def _add_message(self, raw: msgspec.Raw, path: str) -> None:
        message = decoded(_message, raw, path)
        content = self._parts(message.content, f"{path}.content")
        if message.role == "assistant":
            self._turn().content += content
            return
        # Few models know the developer by this name.
        role = "system" if message.role == "developer" else message.role
        if role not in ("user", "system"):
            raise InvalidRequest(
                f"invalid value for '{path}.role': {role[:100]!r}", param=f"{path}.role"
            )
        self._open = None
        self._said.append({"role": role, "content": _joined(content, only=role == "system")})

    def _add_output(self, raw: msgspec.Raw, path: str) -> None:
        item = decoded(_output, raw, path)
        content = _joined(self._parts(item.output, f"{path}.output"), only=True)
        self._answer(item.call_id, content)

    def _add_found(self, raw: msgspec.Raw, path: str) -> None:
        """The tools that a search found: the model may call them from now on."""
        item = decoded(_search_output, raw, path)
        self._tools.add(item.tools, f"{path}.tools", self._losses)
        self._answer(item.call_id, bytes(item.tools).decode())

    def _add_tools(self, raw: msgspec.Raw, path: str) -> None:
        item = decoded(_additional_tools, raw, path)
        self._tools.add(item.tools, f"{path}.tools", self._losses)

    def _answer(self, call_id: str, content: str | list[Message]) -> None:
        """Put the output of a call where it belongs."""
        message = {"role": "tool", "tool_call_id": call_id, "content": content or ""}
        turn = self._turns.get(call_id)
        if turn is None:
            self._said.append(message)
        else:
            turn.outputs.append(message)
        self._open = None

    # --- what the model said ---------------------------------------------------------------

    def _add_function_call(self, raw: msgspec.Raw, path: str) -> None:
        item = decoded(_function_call, raw, path)
        self._add_call(item.call_id, item.name, item.namespace, item.arguments or "{}")

    def _add_custom_call(self, raw: msgspec.Raw, path: str) -> None:
        item = decoded(_custom_call, raw, path)
        arguments = msgspec.json.encode({"input": item.input}).decode()
        self._add_call(item.call_id, item.name, item.namespace, arguments)

    def _add_search(self, raw: msgspec.Raw, path: str) -> None:
        item = decoded(_search_call, raw, path)
        self._add_call(item.call_id, "tool_search", None, bytes(item.arguments).decode())

    def _add_call(self, call_id: str, name: str, namespace: str | None, arguments: str) -> None:
        function = {"name": chat_name(name, namespace), "arguments": arguments}
        call: Message = {"id": call_id, "type": "function", "function": function}
        if call_id in self._extra:
            call["extra_content"] = self._extra[call_id]
        turn = self._turn()
        turn.calls.append(call)
        self._calls[call_id], self._turns[call_id] = call, turn

    def _add_reasoning(self, raw: msgspec.Raw, path: str) -> None:
        item = decoded(_reasoning, raw, path)
        sealed = item.encrypted_content
        entries = reasoning.unseal(sealed) if sealed else None
        if sealed and entries is None:
            self._losses.tell(f"{path}.encrypted_content")
        turn = self._turn()
        entries = entries or []
        for entry in entries:
            if entry.get("type") == reasoning.CALL:
                self._take_extra(entry)
        entries = [entry for entry in entries if entry.get("type") != reasoning.CALL]
        parts = item.content or item.summary or []
        text = reasoning.text_of(entries) or "\n\n".join(part.text for part in parts if part.text)
        if text:
            turn.thoughts.append(text)
        if reasoning.has_secret(entries):
            turn.details += entries

    def _take_extra(self, entry: reasoning.Entry) -> None:
        """What belongs to a call, which may stand before or behind."""
        call_id, extra = entry.get("id"), entry.get("extra_content")
        if not isinstance(call_id, str) or not isinstance(extra, dict):
            return
        self._extra[call_id] = extra
        if call_id in self._calls:
            self._calls[call_id]["extra_content"] = extra

    def _is_foreign(self, raw: msgspec.Raw, path: str) -> bool:
        """Whether only we can read it, or nobody without having kept it."""
        item = decoded(_reasoning, raw, path)
        if item.encrypted_content:
            return reasoning.is_ours(item.encrypted_content)
        return not item.content

    def _turn(self) -> _Turn:
        """The turn under way: one message, as it was in a chat."""
        if self._open is None:
            self._open = _Turn()
            self._said.append(self._open)
        return self._open

    # --- content ---------------------------------------------------------------------------

    def _parts(self, content: _Content | None, path: str) -> list[Message]:
        if content is None:
            return []
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        found = []
        for index, part in enumerate(content):
            said = self._part(part, f"{path}[{index}]")
            if said is not None:
                if part.cache_control is not _ABSENT:
                    said["cache_control"] = part.cache_control
                found.append(said)
        return found

    def _part(self, part: _Part, path: str) -> Message | None:
        if part.type in _TEXTS:
            return {"type": "text", "text": part.text}
        if part.type == "refusal":
            return {"type": "refusal", "refusal": part.refusal}
        if part.type in ("input_image", "computer_screenshot") and part.image_url:
            image: Message = {"url": part.image_url}
            if part.detail in _DETAILS:
                image["detail"] = _DETAILS[part.detail]
            return {"type": "image_url", "image_url": image}
        if part.type == "input_audio":
            return {"type": "input_audio", "input_audio": part.input_audio}
        if part.type == "input_file" and (part.file_data or part.file_id):
            named = {
                "file_data": part.file_data,
                "file_id": part.file_id,
                "filename": part.filename,
            }
            return {"type": "file", "file": {k: v for k, v in named.items() if v}}
        lost = "file_url" if part.file_url else "file_id" if part.file_id else "type"
        self._losses.refuse(f"{path}.{lost}", costs=True)
        return None


def _joined(parts: list[Message], *, only: bool = False) -> str | list[Message]:
    """Content as plain as it can be said; with `only`, several texts are one as well."""
    plain = all(part.keys() == {"type", "text"} for part in parts)
    if plain and (only or len(parts) < 2):
        return "\n\n".join(part["text"] for part in parts)
    return parts


def decoded(decoder: msgspec.json.Decoder[Value], raw: msgspec.Raw, path: str) -> Value:
    """An item; raises `InvalidRequest` that names the member."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise wire_body.invalid(error, path) from None
    except RecursionError:
        raise InvalidRequest(f"{path!r} is nested too deeply", param=path) from None
