"""An OpenAI chat request -> Amazon Bedrock's `Converse`: JSON to JSON alone.

Source: Amazon Bedrock's API reference, "Converse", "ContentBlock" and "ToolConfiguration"; the
Amazon Nova user guide, "Extended thinking", and "OpenAI models" for how hard they think.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from adapters.base import Call
from adapters.wire import chat_request, loose_json
from adapters.wire.chat_request import ChatRequest, File, Message, Part, data_url
from adapters.wire.losses import Losses, invalid

Json = dict[str, Any]

_CARRIED = frozenset(
    {
        *("messages", "tools", "tool_choice", "functions", "function_call", "response_format"),
        *("max_tokens", "max_completion_tokens", "stop", "temperature", "top_p", "service_tier"),
        *("reasoning_effort", "reasoning", "include_reasoning"),
        *("additionalModelRequestFields", "guardrailConfig", "performanceConfig"),
    }
)
_INSTRUCTIONS = frozenset({"system", "developer"})
_TIERS = frozenset({"priority", "flex", "reserved"})
_IMAGES = frozenset({"png", "jpeg", "gif", "webp"})
_VIDEOS: Mapping[str, str] = {
    "x-matroska": "mkv",
    "quicktime": "mov",
    "mp4": "mp4",
    "webm": "webm",
    "x-flv": "flv",
    "mpeg": "mpeg",
    "x-ms-wmv": "wmv",
    "3gpp": "three_gp",
}
_DOCUMENTS: Mapping[str, str] = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_EFFORTS: Mapping[str, str] = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
# Names of documents and ids of calls have few characters to them.
_not_in_names = re.compile(r"[^0-9A-Za-z()\[\]-]+").sub
_not_in_ids = re.compile(r"[^0-9A-Za-z_.:-]").sub
# Whose signatures Bedrock gives, as `reasoning_details` name them where they do.
_SIGNERS = ("anthropic", "amazon", "bedrock")
_LONGEST_NAME, _LONGEST_ID = 200, 64


class _Schema(msgspec.Struct):
    name: str | None = None


class _Format(msgspec.Struct):
    json_schema: _Schema | None = None


class _Own(msgspec.Struct):
    """Bedrock's own members, by their own names, and what else is not read by all adapters."""

    response_format: _Format | None = None
    additionalModelRequestFields: Json | None = None  # noqa: N815 # as Bedrock spells it
    guardrailConfig: Json | None = None  # noqa: N815
    performanceConfig: Json | None = None  # noqa: N815


_own = msgspec.json.Decoder(_Own)


@dataclass(frozen=True, slots=True)
class Translated:
    """A request in Converse's dialect, and what it could not say."""

    body: bytes
    dropped: Sequence[str]


@chat_request.bounded
def converse_request(call: Call) -> Translated:
    """The body of `Converse` and `ConverseStream`; raises `Unsupported` and `BadRequest`."""
    losses = chat_request.without_others(call, _CARRIED, "Converse")
    asked = chat_request.read(call.body)
    own = chat_request.decode(_own, call.body)
    conversation = _Conversation(losses)
    conversation.add(asked.messages)
    fields = {
        **_reasoning(asked, call.model, losses),
        **(own.additionalModelRequestFields or {}),
    }
    body: Json = {
        "system": conversation.system,
        "messages": conversation.turns,
        "inferenceConfig": _inference(asked),
        "toolConfig": _tools(asked, conversation, losses),
        "outputConfig": _output(asked, own, losses),
        "serviceTier": _tier(asked, losses),
        "additionalModelRequestFields": fields,
        "guardrailConfig": own.guardrailConfig,
        "performanceConfig": own.performanceConfig,
    }
    body = {name: value for name, value in body.items() if value}
    return Translated(loose_json.encode(body), tuple(losses.dropped))


# --- messages -------------------------------------------------------------------------------------


class _Conversation:
    """The messages as turns of the user and the model, and all instructions before them."""

    def __init__(self, losses: Losses) -> None:
        self._losses = losses
        self._documents = 0
        self.system: list[Json] = []
        self.turns: list[Json] = []
        self.has_calls = False

    def add(self, messages: Iterable[Message]) -> None:
        for index, message in enumerate(messages):
            path = f"messages[{index}]"
            if message.name and message.role not in ("tool", "function"):
                self._losses.tell(f"{path}.name")
            if message.role in _INSTRUCTIONS:
                if self.turns:
                    self._losses.tell(f"{path}.role")  # it is told as if it had come first
                self.system += self._blocks(message, path, only_text=True)
            elif message.role == "user":
                self._turn("user", self._blocks(message, path))
            elif message.role == "assistant":
                self._turn("assistant", self._answer(message, path))
            elif message.role in ("tool", "function"):
                self._turn("user", [self._result(message, path)])
            else:
                raise invalid(f"{path}.role", f"there is no role {message.role!r}")

    def _turn(self, role: Literal["user", "assistant"], blocks: list[Json]) -> None:
        if not blocks:
            return
        if not self.turns or self.turns[-1]["role"] != role:
            self.turns.append({"role": role, "content": []})
        self.turns[-1]["content"] += blocks

    def _blocks(self, message: Message, path: str, *, only_text: bool = False) -> list[Json]:
        found = []
        for place, part in enumerate(message.parts()):
            where = f"{path}.content[{place}]"
            if part.detail() not in (None, "auto"):
                self._losses.tell(f"{where}.image_url.detail")
            if part.type in ("text", "refusal"):
                # Bedrock refuses blank text.
                if (text := part.text if part.type == "text" else part.refusal) and text.strip():
                    found.append({"text": text})
            elif only_text:
                self._losses.refuse(where, "instructions are text")
            elif (made := self._media(part)) is not None:
                found.append(made)
            else:
                self._losses.refuse(where, "it is of no kind that Bedrock takes as data")
        return found

    def _media(self, part: Part) -> Json | None:
        """An image, a video, a sound or a document; None for what Bedrock would have to fetch."""
        if part.type == "input_audio" and part.input_audio is not None:
            source = {"bytes": part.input_audio.data}
            return {"audio": {"format": part.input_audio.format, "source": source}}
        if part.type == "file" and part.file is not None:
            return self._document(part.file)
        if (
            part.type not in ("image_url", "video_url")
            or (data := data_url(part.url() or "")) is None
        ):
            return None
        kind, _, name = data[0].partition("/")
        source = {"bytes": data[1]}
        if kind == "image" and name.replace("jpg", "jpeg") in _IMAGES:
            return {"image": {"format": name.replace("jpg", "jpeg"), "source": source}}
        if kind == "video" and name in _VIDEOS:
            return {"video": {"format": _VIDEOS[name], "source": source}}
        return None

    def _document(self, file: File) -> Json | None:
        data = data_url(file.file_data or "")
        if data is None or data[0] not in _DOCUMENTS:
            return None
        self._documents += 1
        stem = _not_in_names(" ", (file.filename or "").rpartition(".")[0]).strip()
        # No two documents may have one name.
        name = f"{stem[: _LONGEST_NAME - 8]} {self._documents}" if stem else f"{self._documents}"
        source = {"bytes": data[1]}
        return {"document": {"format": _DOCUMENTS[data[0]], "name": name, "source": source}}

    def _answer(self, message: Message, path: str) -> list[Json]:
        if message.audio is not None:
            self._losses.refuse(f"{path}.audio", "it is told as text what was said before")
        if message.images:
            self._losses.refuse(f"{path}.images", "its models are shown no images of their own")
        blocks = self._thoughts(message, path) + self._blocks(message, path)
        if message.refusal and message.refusal.strip():
            blocks.append({"text": message.refusal})
        for place, made in enumerate(message.calls()):
            if made.function is None:
                self._losses.refuse(f"{path}.tool_calls[{place}]", "only functions are called")
                continue
            where = f"{path}.tool_calls[{place}].function.arguments"
            arguments = chat_request.arguments(made.function.arguments, where, self._losses)
            self.has_calls = True
            use = {"toolUseId": _id(made.id), "name": made.function.name, "input": arguments}
            blocks.append({"toolUse": use})
        return blocks

    def _thoughts(self, message: Message, path: str) -> list[Json]:
        """What was thought goes back only where it is signed."""
        blocks: list[Json] = []
        details = message.reasoning_details or []
        # In a stream the text came apart from the signature; whose it is shows where there is one.
        bare = [d for d in details if d.type == "reasoning.text" and d.text is None]
        loose = (message.reasoning_content or message.reasoning) if len(bare) == 1 else None
        for detail in details:
            if detail.format is not None and not detail.format.startswith(_SIGNERS):
                self._losses.tell(f"{path}.reasoning_details")
            elif detail.type == "reasoning.encrypted" and detail.data:
                blocks.append({"reasoningContent": {"redactedContent": detail.data}})
            elif detail.type == "reasoning.text" and detail.signature:
                text = (loose if detail.text is None else detail.text) or ""
                thought = {"text": text, "signature": detail.signature}
                blocks.append({"reasoningContent": {"reasoningText": thought}})
        if not blocks and (message.reasoning_content or message.reasoning):
            self._losses.tell(f"{path}.reasoning_content")
        return blocks

    def _result(self, message: Message, path: str) -> Json:
        self.has_calls = True
        content = self._blocks(message, path) or [{"text": "(nothing)"}]
        given = _id(message.tool_call_id or message.name or "")
        return {"toolResult": {"toolUseId": given, "content": content}}


def _id(given: str) -> str:
    return _not_in_ids("_", given)[:_LONGEST_ID]


# --- everything else ------------------------------------------------------------------------------


def _inference(asked: ChatRequest) -> Json:
    config = {
        "maxTokens": asked.most_tokens,
        "temperature": asked.temperature,
        "topP": asked.top_p,
        "stopSequences": asked.stops() or None,
    }
    return {name: value for name, value in config.items() if value is not None}


def _tools(asked: ChatRequest, conversation: _Conversation, losses: Losses) -> Json | None:
    for place, given in enumerate(asked.tools or ()):
        if given.type != "function":
            losses.refuse(f"tools[{place}].type", "it calls functions only")
    tools = []
    for declared in asked.declarations():
        schema = dict(declared.parameters or {"properties": {}})
        schema["type"] = schema.get("type") or "object"
        tool: Json = {"name": declared.name, "inputSchema": {"json": schema}}
        if declared.description:
            tool["description"] = declared.description
        if declared.strict:
            tool["strict"] = True
        tools.append({"toolSpec": tool})
    if not tools:
        return None
    mode, names = asked.choice()
    if mode == "none":
        if not conversation.has_calls:
            return None
        losses.refuse("tool_choice", "calls cannot be forbidden once there were some")
    choice: Json | None = {"any": {}} if mode == "required" else None
    if mode == "required" and len(names) == 1:
        choice = {"tool": {"name": names[0]}}
    elif names:
        losses.refuse("tool_choice", "it calls any tool, or one that is named")
    return {"tools": tools, **({"toolChoice": choice} if choice else {})}


def _output(asked: ChatRequest, own: _Own, losses: Losses) -> Json | None:
    wanted = asked.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type != "json_schema":
        losses.refuse("response_format", "it writes JSON by a schema only")
        return None
    if wanted.json_schema is None or wanted.json_schema.schema is None:
        raise invalid("response_format.json_schema.schema", "there is none")
    schema: Json = {"schema": loose_json.encode(wanted.json_schema.schema).decode()}
    named = own.response_format.json_schema if own.response_format else None
    if named is not None and named.name:
        schema["name"] = named.name
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}


def _tier(asked: ChatRequest, losses: Losses) -> Json | None:
    tier = asked.service_tier
    if tier in (None, "auto", "default"):
        return None
    if tier not in _TIERS:
        losses.refuse("service_tier", "Amazon Bedrock has no such service tier")
        return None
    return {"type": tier}


def _reasoning(asked: ChatRequest, model: str, losses: Losses) -> Json:
    """How hard to think: Converse has no word for it that is the same for all models."""
    reasoning = asked.reasoning
    param = "reasoning" if reasoning else "reasoning_effort"
    effort: str | None = asked.reasoning_effort
    if reasoning is not None:
        effort = reasoning.effort or effort
        if reasoning.enabled is False:
            effort = "none"
        elif effort is None and (reasoning.enabled or reasoning.max_tokens):
            effort = "medium"
        if reasoning.max_tokens:
            losses.tell("reasoning.max_tokens")  # only told by the nearest effort
    if effort is None:
        return {}
    if "openai." in model and effort != "none":
        return {"reasoning_effort": _EFFORTS[effort]}
    if "nova-2" in model:
        if effort == "none":
            return {"reasoningConfig": {"type": "disabled"}}
        return {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": _EFFORTS[effort]}}
    if effort != "none" or "openai." in model:
        losses.refuse(param, f"{model!r} is not known to think so")
    return {}
