"""OpenAI's messages -> Anthropic's system prompt, and turns of the user and the assistant.

Sources: Anthropic's API reference, "Create a Message"; "Tool use", "Vision", "PDF support",
"Thinking" and "Mid-conversation system messages" in its documentation.
"""

from __future__ import annotations

import base64
import binascii
import re
from itertools import zip_longest
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from adapters.base import Unsupported
from adapters.wire import loose_json
from adapters.wire.anthropic_models import Model
from adapters.wire.losses import Losses, invalid

Block = dict[str, Any]
Turn = dict[str, Any]

_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_PDF = "application/pdf"
_PDF_IN_BASE64 = "JVBERi"
_NOT_IN_AN_ID = re.compile(r"[^a-zA-Z0-9_-]")
# What `reasoning_details` of Anthropic's models are called, where they say whose they are.
_OWN_FORMAT = "anthropic"


class _Url(msgspec.Struct):
    url: str
    detail: str | None = None


class _File(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _Url | str | None = None
    file: _File | None = None
    cache_control: Block | None = None


class _Function(msgspec.Struct):
    name: str
    arguments: str | Block | None = None


class _Call(msgspec.Struct):
    id: str
    function: _Function | None = None


class _Detail(msgspec.Struct):
    """An entry of `reasoning_details`, as OpenRouter documents them."""

    type: str
    text: str | None = None
    signature: str | None = None
    data: str | None = None
    format: str | None = None
    index: int | None = None


class _Thought(msgspec.Struct):
    """An entry of `thinking_blocks`, as LiteLLM has them: Anthropic's own blocks."""

    type: str
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class Message(msgspec.Struct):
    """A message of a chat completion request, with the extensions of `adapters.base`."""

    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    function_call: _Function | None = None
    audio: Any = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    reasoning_details: list[_Detail] | None = None
    thinking_blocks: list[_Thought] | None = None
    cache_control: Block | None = None


def turns_of(
    messages: list[Message], model: Model, losses: Losses
) -> tuple[list[Block], list[Turn]]:
    """The system prompt, and turns that alternate (but for system messages among them)."""
    writer = _Writer(losses)
    for index, message in enumerate(messages):
        writer.write(message, f"messages[{index}]")
    turns = _with_system_in_place(writer.turns, model, losses)
    if not turns:
        if not writer.system:
            raise invalid("messages", "there is nothing in them to answer")
        losses.tell("messages[0].role")
        return [], [{"role": "user", "content": writer.system}]
    for turn in turns:
        if turn["role"] == "user":
            turn["content"].sort(key=_results_first)
    _fit_ends(turns, model, f"messages[{len(messages) - 1}].role", losses)
    if not turns:
        raise invalid("messages", "there is nothing in them to answer")
    return writer.system, turns


class _Writer:
    """Writes one message after the other."""

    def __init__(self, losses: Losses) -> None:
        self._losses = losses
        self._function_calls = 0
        self.system: list[Block] = []
        self.turns: list[Turn] = []

    def write(self, message: Message, path: str) -> None:
        if message.name and message.role != "function":
            self._losses.tell(f"{path}.name")
        match message.role:
            case "user":
                self._add("user", self._content(message, path), message)
            case "assistant":
                self._add("assistant", self._answer(message, path), message)
            case "tool" | "function":
                self._add("user", [self._result(message, path)], message)
            case "system" | "developer" if not self.turns:
                self.system += _cached(self._content(message, path), message)
            case "system" | "developer":
                self._add("system", self._content(message, path), message, path=path)
            case _:
                raise invalid(f"{path}.role", f"{message.role!r} is no role")

    def _add(self, role: str, blocks: list[Block], message: Message, *, path: str = "") -> None:
        if not blocks:
            return
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["content"] += _cached(blocks, message)
        else:
            self.turns.append({"role": role, "content": _cached(blocks, message), "path": path})

    def _content(self, message: Message, path: str) -> list[Block]:
        content = message.content
        if content is None:
            return []
        if isinstance(content, str):
            return _text(content)
        blocks: list[Block] = []
        for index, part in enumerate(content):
            written = self._part(part, f"{path}.content[{index}]")
            if part.cache_control and written:
                written[-1]["cache_control"] = part.cache_control
            blocks += written
        return blocks

    def _part(self, part: _Part, path: str) -> list[Block]:
        match part.type:
            case "text":
                return _text(part.text)
            case "refusal":
                return _text(part.refusal)
            case "image_url":
                image = _Url(part.image_url) if isinstance(part.image_url, str) else part.image_url
                if image is None:
                    raise invalid(f"{path}.image_url", "there is no image")
                if image.detail not in (None, "auto"):
                    self._losses.tell(f"{path}.image_url.detail")
                return self._media(image.url, f"{path}.image_url.url", "image")
            case "file":
                return self._file(part.file or _File(), f"{path}.file")
            case kind:
                self._losses.refuse(f"{path}.type", f"Claude takes no {kind!r}")
                return []

    def _file(self, file: _File, path: str) -> list[Block]:
        if file.file_data is not None:
            data = file.file_data
            if data.startswith(_PDF_IN_BASE64):
                data = f"data:{_PDF};base64,{data}"
            blocks = self._media(data, f"{path}.file_data", "document")
            for block in blocks:
                if file.filename and block["type"] == "document":
                    block["title"] = file.filename
            return blocks
        if file.file_id is None:
            raise invalid(path, "there is neither `file_data` nor `file_id`")
        if not file.file_id.startswith("file_"):
            self._losses.refuse(f"{path}.file_id", "the file is not at Anthropic")
            return []
        return [{"type": "document", "source": {"type": "file", "file_id": file.file_id}}]

    def _media(self, url: str, path: str, kind: str) -> list[Block]:
        """A block for what a URL is of: `kind`, unless a data URL says otherwise."""
        if url.startswith(("https://", "http://")):
            return [{"type": kind, "source": {"type": "url", "url": url}}]
        media_type, data = _read_data_url(url, path)
        if media_type in _IMAGES:
            kind = "image"
        elif media_type == _PDF:
            kind = "document"
        elif media_type.startswith("text/"):
            return [{"type": "document", "source": _plain_text(data, path)}]
        else:
            self._losses.refuse(path, f"Claude takes no {media_type!r}")
            return []
        return [
            {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}}
        ]

    def _result(self, message: Message, path: str) -> Block:
        if message.role == "function":
            call_id = _function_call_id(self._function_calls)
        elif message.tool_call_id:
            call_id = _tool_id(message.tool_call_id)
        else:
            raise invalid(f"{path}.tool_call_id", "a result belongs to a call")
        result: Block = {"type": "tool_result", "tool_use_id": call_id}
        if content := self._content(message, path):
            # Only the result as a whole can be marked for the cache.
            marks = [block.pop("cache_control", None) for block in content]
            result["content"] = content
            if mark := next(filter(None, reversed(marks)), None):
                result["cache_control"] = mark
        return result

    def _answer(self, message: Message, path: str) -> list[Block]:
        if message.audio is not None:
            self._losses.refuse(f"{path}.audio", "Claude does not speak")
        blocks = self._content(message, path) + _text(message.refusal)
        for index, call in enumerate(message.tool_calls or ()):
            if call.function is None:
                self._losses.refuse(f"{path}.tool_calls[{index}]", "Claude calls functions only")
                continue
            at = f"{path}.tool_calls[{index}].function"
            blocks.append(self._tool_use(_tool_id(call.id), call.function, at))
        if message.function_call is not None:
            self._function_calls += 1
            call_id = _function_call_id(self._function_calls)
            blocks.append(self._tool_use(call_id, message.function_call, f"{path}.function_call"))
        return _merged(blocks, self._thoughts(message, path))

    def _tool_use(self, call_id: str, function: _Function, path: str) -> Block:
        arguments = function.arguments
        if isinstance(arguments, str):
            arguments = _read_arguments(arguments)
            if arguments is None:
                self._losses.tell(f"{path}.arguments")
                arguments = {"arguments": function.arguments}
        return {"type": "tool_use", "id": call_id, "name": function.name, "input": arguments or {}}

    def _thoughts(self, message: Message, path: str) -> list[tuple[int, Block]]:
        """What the model thought, each with its place among the blocks: first, if not told.

        Only what Anthropic signed or encrypted goes back, unchanged; all else is left out.
        """
        if message.reasoning_details:
            return self._details(message, path)
        thoughts: list[tuple[int, Block]] = []
        for entry in message.thinking_blocks or ():
            if entry.type == "redacted_thinking" and entry.data:
                thoughts.append((len(thoughts), _redacted(entry.data)))
            elif entry.type == "thinking" and entry.signature:
                thoughts.append((len(thoughts), _thinking(entry.thinking, entry.signature)))
            else:
                self._losses.tell(f"{path}.thinking_blocks")
        if not thoughts:
            for name in ("reasoning_content", "reasoning"):
                if getattr(message, name):
                    self._losses.tell(f"{path}.{name}")
        return thoughts

    def _details(self, message: Message, path: str) -> list[tuple[int, Block]]:
        details = message.reasoning_details or []
        # In a stream the text came apart from the signature; whose it is shows where there is one.
        bare = [d for d in details if d.type == "reasoning.text" and d.text is None]
        loose = (message.reasoning_content or message.reasoning) if len(bare) == 1 else None
        thoughts: list[tuple[int, Block]] = []
        for detail in details:
            block = None
            if detail.format is None or detail.format.startswith(_OWN_FORMAT):
                if detail.type == "reasoning.encrypted" and detail.data:
                    block = _redacted(detail.data)
                elif detail.type == "reasoning.text" and detail.signature:
                    text = loose if detail.text is None else detail.text
                    block = _thinking(text, detail.signature)
            if block is None:
                self._losses.tell(f"{path}.reasoning_details")
                continue
            place = len(thoughts) if detail.index is None else max(detail.index, len(thoughts))
            thoughts.append((place, block))
        return thoughts


def _with_system_in_place(turns: list[Turn], model: Model, losses: Losses) -> list[Turn]:
    """Join turns of one role; a system message where it may stand, else as the user's words."""
    joined: list[Turn] = []
    for turn, following in zip_longest(turns, turns[1:]):
        role = turn["role"]
        if role == "system":
            role = _place_of_system(joined, following, model)
            if role == "user":
                losses.tell(f"{turn['path']}.role")
        if joined and joined[-1]["role"] == role:
            joined[-1]["content"] += turn["content"]
        else:
            joined.append({"role": role, "content": turn["content"]})
    return joined


def _place_of_system(before: list[Turn], following: Turn | None, model: Model) -> str:
    """It may follow the user's turn, and end the conversation or precede the assistant's."""
    follows_user = before[-1]["role"] == "user"
    precedes_answer = following is None or following["role"] == "assistant"
    return "system" if model.hears_system and follows_user and precedes_answer else "user"


def _fit_ends(turns: list[Turn], model: Model, last: str, losses: Losses) -> None:
    if turns[0]["role"] == "assistant":
        losses.refuse("messages[0].role", "a conversation with Claude begins with the user")
        del turns[0]
    if not turns or turns[-1]["role"] != "assistant":
        return
    if not model.prefills:
        raise Unsupported("this model continues no answer begun for it", param=last)
    # Anthropic refuses white space at the end of what it is to continue.
    final = turns[-1]["content"][-1]
    if final["type"] == "text":
        final["text"] = final["text"].rstrip()


def _merged(blocks: list[Block], thoughts: list[tuple[int, Block]]) -> list[Block]:
    """The blocks with each thought at its place among them, or behind them."""
    merged: list[Block] = []
    taken = 0
    for place, thought in thoughts:
        missing = min(max(0, place - len(merged)), len(blocks) - taken)
        merged += blocks[taken : taken + missing]
        taken += missing
        merged.append(thought)
    return merged + blocks[taken:]


def _results_first(block: Block) -> bool:
    return bool(block["type"] != "tool_result")


def _cached(blocks: list[Block], message: Message) -> list[Block]:
    """Blocks with the cache mark of their message on the last, as LiteLLM documents it."""
    if message.cache_control and blocks:
        blocks[-1].setdefault("cache_control", message.cache_control)
    return blocks


def _text(text: str | None) -> list[Block]:
    """A block of text; none for what is blank, which Anthropic refuses."""
    return [{"type": "text", "text": text}] if text and not text.isspace() else []


def _thinking(text: str | None, signature: str) -> Block:
    return {"type": "thinking", "thinking": text or "", "signature": signature}


def _redacted(data: str) -> Block:
    return {"type": "redacted_thinking", "data": data}


def _tool_id(call_id: str) -> str:
    """An id that Anthropic accepts; others' have dots and colons in them."""
    return _NOT_IN_AN_ID.sub("_", call_id)


def _function_call_id(number: int) -> str:
    """Calls in the old form have no ids: each is answered before the next."""
    return f"function_call_{number}"


def _read_arguments(text: str) -> Block | None:
    """The arguments of a call; None for what is no JSON object."""
    if not text or text.isspace():
        return {}
    try:
        value = loose_json.decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_data_url(url: str, path: str) -> tuple[str, str]:
    """The media type of a data URL, and its data in base64."""
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not comma:
        raise invalid(path, "neither a web address nor a data URL")
    media_type, *parameters = head.removeprefix("data:").lower().split(";")
    if "base64" not in parameters:
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    media_type = media_type.strip() or "text/plain"
    return ("image/jpeg" if media_type == "image/jpg" else media_type), data


def _plain_text(data: str, path: str) -> Block:
    try:
        text = base64.b64decode(data).decode()
    except (binascii.Error, ValueError):
        raise invalid(path, "no text in base64 and UTF-8") from None
    return {"type": "text", "media_type": "text/plain", "data": text}
