"""The messages of a Messages request -> those of a chat.

Source: Anthropic's API reference, "Create a Message". How chat says what OpenAI's reference has no
member for is told in `adapters.base`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from proxy.errors import InvalidRequest
from proxy.wire import body as wire_body
from proxy.wire.messages import call_ids, reasoning

Members = dict[str, Any]

NULL = msgspec.Raw(b"null")


class _Source(msgspec.Struct):
    type: str
    media_type: str = ""
    data: str = ""
    url: str = ""
    content: str | list[msgspec.Raw] = ""


class _Citations(msgspec.Struct):
    enabled: bool | None = None


class _Block(msgspec.Struct, tag_field="type"):
    cache_control: msgspec.Raw = NULL


class Text(_Block, tag="text", kw_only=True):
    """A block of text."""

    text: str


class _Image(_Block, tag="image", kw_only=True):
    source: _Source
    transformations: msgspec.Raw = NULL


class _Document(_Block, tag="document", kw_only=True):
    source: _Source
    title: str | None = None
    context: str | None = None
    citations: _Citations | None = None


class _SearchResult(_Block, tag="search_result", kw_only=True):
    source: str
    title: str
    content: list[Text]
    citations: _Citations | None = None


class _Thinking(_Block, tag="thinking", kw_only=True):
    thinking: str
    signature: str | None = None


class _RedactedThinking(_Block, tag="redacted_thinking", kw_only=True):
    data: str


class _ToolUse(_Block, tag="tool_use", kw_only=True):
    id: str
    name: str
    input: msgspec.Raw


class _ToolResult(_Block, tag="tool_result", kw_only=True):
    tool_use_id: str
    content: str | list[msgspec.Raw] | None = None
    is_error: bool | None = None


Block = (
    Text
    | _Image
    | _Document
    | _SearchResult
    | _Thinking
    | _RedactedThinking
    | _ToolUse
    | _ToolResult
)


class _Kind(msgspec.Struct):
    type: str


class Message(msgspec.Struct):
    """A message; its blocks are read one by one."""

    role: Literal["user", "assistant", "system"]
    content: str | list[msgspec.Raw]


_block: msgspec.json.Decoder[Block] = msgspec.json.Decoder(Block)
_kind = msgspec.json.Decoder(_Kind)

_KINDS = frozenset(
    {
        "text",
        "image",
        "document",
        "search_result",
        "thinking",
        "redacted_thinking",
        "tool_use",
        "tool_result",
    }
)
# Where the text of a failed tool says so itself, it says it early.
_ERROR_WITHIN = 200


@dataclass(slots=True)
class Losses:
    """What of a request no chat can say.

    `lost` are the paths of what chat has no place for, `spared` of what it does without.
    `unbounded` names what has no bounded cost where it is sent as it is, `media_bytes` is the size
    of images and files in the request, and `added_tokens` bounds what only Anthropic's own tools
    add to it. `unsigned` says that there is thinking without a signature, which Anthropic's models
    refuse.
    """

    lost: list[str] = field(default_factory=list)
    spared: list[str] = field(default_factory=list)
    unbounded: str | None = None
    media_bytes: int = 0
    added_tokens: int = 0
    unsigned: bool = False


def chat_messages(
    system: str | list[Text] | None, messages: Sequence[Message], losses: Losses
) -> list[Members]:
    """The messages; raises `InvalidRequest`."""
    written: list[Members] = []
    if system:
        content = system if isinstance(system, str) else _joined([_text(b) for b in system])
        written.append({"role": "system", "content": content})
    for index, message in enumerate(messages):
        written += _written(message, f"messages[{index}]", losses)
    return written


def _written(message: Message, path: str, losses: Losses) -> list[Members]:
    content = message.content
    if isinstance(content, str):
        return [{"role": message.role, "content": content}]
    blocks = _Blocks(losses)
    for index, raw in enumerate(content):
        blocks.add(raw, index, f"{path}.content[{index}]", message.role)
    if message.role == "assistant":
        return [blocks.as_assistant()]
    return blocks.as_asking(message.role)


class _Blocks:
    """The blocks of one message, sorted by where a chat has them."""

    def __init__(self, losses: Losses) -> None:
        self._losses = losses
        self._parts: list[Members] = []
        self._results: list[Members] = []
        self._moved: list[Members] = []
        self._calls: list[Members] = []
        self._thoughts: list[str] = []
        self._details: list[Members] = []
        self._cache_control = NULL

    def add(self, raw: msgspec.Raw, index: int, path: str, role: str) -> None:
        block = self._decode(raw, path)
        match block:
            case None:
                return
            case _ToolUse() | _Thinking() | _RedactedThinking() if role != "assistant":
                raise _misplaced(block, path, role)
            case _ToolResult() if role != "user":
                raise _misplaced(block, path, role)
            case _ToolUse():
                self._call(block, path)
            case _Thinking():
                self._think(block, index)
            case _RedactedThinking():
                entry = {"type": "reasoning.encrypted", "data": block.data, "index": index}
                self._details.append(entry)
            case _ToolResult():
                self._result(block, path)
            case _:
                self._parts += self._shown(block, path)

    def as_assistant(self) -> Members:
        """The message of an assistant: its words, what it thought, what it calls."""
        plain = all(part.keys() == {"type", "text"} for part in self._parts)
        words = "".join(part["text"] for part in self._parts) if plain else self._parts
        message: Members = {"role": "assistant", "content": words or None}
        if self._thoughts:
            message["reasoning_content"] = "".join(self._thoughts)
        if self._details:
            message["reasoning_details"] = self._details
        if self._calls:
            message["tool_calls"] = self._calls
        elif not words:
            message["content"] = ""
        return cached(message, self._cache_control)

    def as_asking(self, role: str) -> list[Members]:
        """The results of tools, one message each, and then what the user says."""
        parts = self._moved + self._parts
        if self._results and not parts:
            return self._results
        return [*self._results, {"role": role, "content": _joined(parts)}]

    def _decode(self, raw: msgspec.Raw, path: str) -> Block | None:
        """A block; None for a kind that only Anthropic's own models understand."""
        try:
            return _block.decode(raw)
        except msgspec.ValidationError as error:
            try:
                kind = _kind.decode(raw).type
            except msgspec.ValidationError as no_block:
                raise wire_body.invalid(no_block, path) from None
            if kind in _KINDS:
                raise wire_body.invalid(error, path) from None
        self._losses.lost.append(path)
        if kind != "tool_reference":
            self._losses.unbounded = path
        return None

    def _think(self, block: _Thinking, index: int) -> None:
        """What was thought goes along in any case; unsigned, it is no more than its text."""
        self._thoughts.append(block.thinking)
        if block.signature and block.signature != reasoning.UNSIGNED:
            entry = {"text": block.thinking, "signature": block.signature, "index": index}
            self._details.append({"type": "reasoning.text", **entry})
        else:
            self._losses.unsigned = True

    def _call(self, block: _ToolUse, path: str) -> None:
        arguments = bytes(block.input)
        if not arguments.startswith(b"{"):
            raise InvalidRequest(
                f"invalid value for '{path}.input': expected an object", param=f"{path}.input"
            )
        function = {"name": block.name, "arguments": arguments.decode()}
        call: Members = {
            "id": call_ids.without_signature(block.id),
            "type": "function",
            "function": function,
        }
        if (extra := call_ids.extra_content(block.id)) is not None:
            call["extra_content"] = extra
        self._calls.append(call)
        self._cache_control = block.cache_control

    def _result(self, block: _ToolResult, path: str) -> None:
        """A result as text; what is none of it follows as the user's, with a line whose it is."""
        if isinstance(block.content, list):
            text = self._result_text(block.content, f"{path}.content", block.tool_use_id)
        else:
            text = block.content or ""
        if block.is_error and "error" not in text[:_ERROR_WITHIN].lower():
            text = f"Error: {text}"
        call_id = call_ids.without_signature(block.tool_use_id)
        message = {"role": "tool", "tool_call_id": call_id, "content": text}
        self._results.append(cached(message, block.cache_control))

    def _result_text(self, content: list[msgspec.Raw], path: str, call_id: str) -> str:
        texts: list[str] = []
        others: list[Members] = []
        for index, raw in enumerate(content):
            block = self._decode(raw, f"{path}[{index}]")
            if isinstance(block, _Thinking | _RedactedThinking | _ToolUse | _ToolResult):
                raise _misplaced(block, f"{path}[{index}]", "tool_result")
            for part in () if block is None else self._shown(block, f"{path}[{index}]"):
                if part["type"] == "text":
                    texts.append(part["text"])
                else:
                    others.append(part)
        if others:
            texts = texts or ["What this tool returned follows in the next message."]
            line = f"What the tool call {call_ids.without_signature(call_id)} returned:"
            self._moved += [{"type": "text", "text": line}, *others]
        return "\n".join(texts)

    def _shown(
        self, block: Text | _Image | _Document | _SearchResult, path: str
    ) -> Sequence[Members]:
        """The parts of a message that a block stands for."""
        match block:
            case Text():
                return (_text(block),)
            case _Image():
                if bytes(block.transformations) not in (b"null", b"{}"):
                    self._losses.spared.append(f"{path}.transformations")
                return self._image(block, path)
            case _Document():
                return self._document(block, path)
            case _SearchResult():
                self._check_citations(block.citations, path)
                found = "\n".join(each.text for each in block.content)
                text = f"<search_result>\n{_titled(block.title, block.source)}{found}\n"
                part = {"type": "text", "text": f"{text}</search_result>"}
                return (cached(part, block.cache_control),)

    def _image(self, block: _Image, path: str) -> Sequence[Members]:
        url = self._url(block.source, f"{path}.source")
        if url is None:
            return ()
        part = {"type": "image_url", "image_url": {"url": url}}
        return (cached(part, block.cache_control),)

    def _document(self, block: _Document, path: str) -> Sequence[Members]:
        """A file as a file, and text as text between the tags that Anthropic advises for it."""
        self._check_citations(block.citations, path)
        source = block.source
        head = _titled(block.title, block.context)
        if source.type in ("base64", "url"):
            url = self._url(source, f"{path}.source")
            name = block.title or "document.pdf"
            part = {"type": "file", "file": {"filename": name, "file_data": url}}
            about = [{"type": "text", "text": block.context}] if block.context else []
            self._losses.unbounded = f"{path}.source"
            return (*about, cached(part, block.cache_control))
        if source.type == "text":
            inner: list[Members] = [{"type": "text", "text": source.data}]
        elif source.type == "content":
            inner = self._inner(source.content, f"{path}.source.content")
        else:
            self._lose_file(f"{path}.source")
            return ()
        return _tagged("document", head, inner, block.cache_control)

    def _inner(self, content: str | list[msgspec.Raw], path: str) -> list[Members]:
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        parts: list[Members] = []
        for index, raw in enumerate(content):
            block = self._decode(raw, f"{path}[{index}]")
            if isinstance(block, Text | _Image):
                parts += self._shown(block, f"{path}[{index}]")
            elif block is not None:
                raise _misplaced(block, f"{path}[{index}]", "document")
        return parts

    def _url(self, source: _Source, path: str) -> str | None:
        """Where an image or a file is, or what it is; None for one that Anthropic keeps."""
        match source.type:
            case "base64" if source.data and source.media_type:
                self._losses.media_bytes += len(source.data)
                return f"data:{source.media_type};base64,{source.data}"
            case "url" if source.url:
                return source.url
            case "base64" | "url":
                raise InvalidRequest(f"invalid value for {path!r}: it is incomplete", param=path)
            case _:
                self._lose_file(path)
                return None

    def _lose_file(self, path: str) -> None:
        self._losses.lost.append(path)
        self._losses.unbounded = path

    def _check_citations(self, citations: _Citations | None, path: str) -> None:
        if citations is not None and citations.enabled:
            self._losses.lost.append(f"{path}.citations")


def _text(block: Text) -> Members:
    return cached({"type": "text", "text": block.text}, block.cache_control)


def cached(member: Members, cache_control: msgspec.Raw) -> Members:
    """A message, part or tool with its marker, if it has one."""
    if cache_control is not NULL and bytes(cache_control) != b"null":
        member["cache_control"] = cache_control
    return member


def _joined(parts: list[Members]) -> str | list[Members]:
    """Parts as they are; a text alone without its wrapping, which every server understands."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        text: str = parts[0]["text"]
        return text
    return parts


def _titled(title: str | None, context: str | None) -> str:
    lines = (("title", title), ("context", context))
    return "".join(f"<{name}>{text}</{name}>\n" for name, text in lines if text)


def _tagged(tag: str, head: str, inner: list[Members], cache_control: msgspec.Raw) -> list[Members]:
    """Parts between two tags, which are parts of their own only around what is no text."""
    if all(part["type"] == "text" for part in inner):
        text = "\n".join(part["text"] for part in inner)
        part = {"type": "text", "text": f"<{tag}>\n{head}{text}\n</{tag}>"}
        return [cached(part, cache_control)]
    opening = {"type": "text", "text": f"<{tag}>\n{head}"}
    closing = {"type": "text", "text": f"</{tag}>"}
    return [opening, *inner, cached(closing, cache_control)]


def _misplaced(block: Block, path: str, role: str) -> InvalidRequest:
    kind = block.__struct_config__.tag
    return InvalidRequest(f"{path}: a {role} cannot hold a block of type {kind!r}", param=path)
