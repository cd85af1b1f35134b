"""A Messages request -> the chat request that means the same, and what has no place in one.

Source: Anthropic's API reference, "Create a Message".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from proxy.errors import InvalidRequest
from proxy.wire import body as wire_body
from proxy.wire.body import Body
from proxy.wire.chat import MAX_OUTPUT_TOKENS, UNBOUNDED, may_compact
from proxy.wire.messages.blocks import NULL, Losses, Members, Message, Text, cached, chat_messages


class _Kind(msgspec.Struct):
    type: str


class _Tool(msgspec.Struct):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = NULL
    strict: bool | None = None
    cache_control: msgspec.Raw = NULL
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None
    input_examples: msgspec.Raw = NULL


class _ToolChoice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class _ThinkingConfig(msgspec.Struct):
    type: str
    budget_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _Format(msgspec.Struct):
    type: Literal["json_schema"]
    schema: dict[str, msgspec.Raw]


class _OutputConfig(msgspec.Struct, forbid_unknown_fields=True):
    effort: str | None = None
    format: _Format | None = None


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class Fields(msgspec.Struct):
    """The members of a request that chat has a place for."""

    model: Annotated[str, msgspec.Meta(min_length=1)]
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=MAX_OUTPUT_TOKENS)] | None = None
    system: str | list[Text] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _ThinkingConfig | None = None
    output_config: msgspec.Raw = NULL
    output_format: _Format | None = None
    metadata: _Metadata | None = None
    service_tier: str | None = None


_fields = msgspec.json.Decoder(Fields)
_kind = msgspec.json.Decoder(_Kind)
_tool = msgspec.json.Decoder(_Tool)
_output_config: msgspec.json.Decoder[_OutputConfig | None] = msgspec.json.Decoder(
    _OutputConfig | None
)

# Members that change nothing of the answer, or that `Fields` does not have because they are ours.
_HINTS = frozenset({"cache_control", "betas", "anthropic_version", "anthropic_beta"})
# Members without which the request means the same: what they do is done to save, or to tell.
_SPARED = frozenset({"context_management", "diagnostics", "fallbacks", "fallback_credit_token"})
# Kinds of tools that a client runs itself, but whose description only Anthropic's models know.
# "Tool use" counts 245 to 700 tokens for one.
_DESCRIBED = ("bash_", "text_editor_", "memory_")
_DESCRIBED_TOKENS = 2048
# Members whose cost no length of the request bounds: what servers fetch and run, other models,
# prices several times as high. OpenRouter's go with this dialect, too.
_UNBOUNDED = ("container", "mcp_servers", "inference_geo", "fallbacks", "compaction", *UNBOUNDED)
# OpenAI refuses a longer `user`; Claude Code sends about 150 characters.
_LONGEST_USER = 64
# The least budget of thinking tokens that each effort stands for; LiteLLM draws the same lines.
_EFFORTS = ((10_000, "high"), (5_000, "medium"), (0, "low"))


@dataclass(slots=True)
class Translation:
    """The members of a request, and of the chat that it stands for, but for its `losses`."""

    fields: Fields
    chat: Members
    losses: Losses = field(default_factory=Losses)


def translate(body: Body) -> Translation:
    """The chat of a request; raises `InvalidRequest`."""
    fields = body.decode(_fields)
    translation = Translation(fields=fields, chat={"model": fields.model})
    messages = chat_messages(fields.system, fields.messages, translation.losses)
    translation.chat["messages"] = messages
    _add_plain(translation, body)
    _add_tools(translation)
    _add_output(translation)
    _note_the_rest(translation, body)
    return translation


def _add_plain(translation: Translation, body: Body) -> None:
    """What is called the same, or nearly so."""
    fields, chat = translation.fields, translation.chat
    if fields.max_tokens == 0:  # warms the prompt cache, and answers nothing
        translation.losses.lost.append("max_tokens")
    if fields.max_tokens is not None:
        chat["max_tokens"] = max(1, fields.max_tokens)
    for name in ("temperature", "top_p", "top_k"):
        if getattr(fields, name) is not None:
            chat[name] = body.members[name]
    if fields.stop_sequences:
        chat["stop"] = fields.stop_sequences
    if fields.stream:
        chat["stream"] = True
    user = fields.metadata.user_id if fields.metadata is not None else None
    if user and len(user) <= _LONGEST_USER:
        chat["user"] = user
    if fields.service_tier not in (None, "auto"):
        standard = fields.service_tier == "standard_only"
        chat["service_tier"] = "default" if standard else fields.service_tier


def _add_tools(translation: Translation) -> None:
    fields, chat = translation.fields, translation.chat
    tools: list[Members] = []
    for index, raw in enumerate(fields.tools or ()):
        tool = _read_tool(raw, f"tools[{index}]", translation)
        if tool is not None:
            tools.append(tool)
    if tools:
        chat["tools"] = tools
    choice = fields.tool_choice
    if choice is None or not tools:
        return
    if choice.type == "tool":
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        chat["tool_choice"] = "required" if choice.type == "any" else choice.type
    if choice.disable_parallel_tool_use:
        chat["parallel_tool_calls"] = False


def _read_tool(raw: msgspec.Raw, path: str, translation: Translation) -> Members | None:
    """A function that the client runs; None for a tool that is Anthropic's."""
    try:
        tool = _tool.decode(raw)
    except msgspec.ValidationError as error:
        try:
            kind = _kind.decode(raw).type  # a set of tools has no name
        except msgspec.ValidationError:
            kind = "custom"
        if kind == "custom":
            raise wire_body.invalid(error, path) from None
        translation.losses.lost.append(path)
        translation.losses.unbounded = path
        return None
    if tool.type not in (None, "custom"):
        translation.losses.lost.append(path)
        if tool.type.startswith(_DESCRIBED):
            translation.losses.added_tokens += _DESCRIBED_TOKENS
        else:
            translation.losses.unbounded = path
        return None
    if not bytes(tool.input_schema).startswith(b"{"):
        param = f"{path}.input_schema"
        raise InvalidRequest(f"invalid value for {param!r}: expected an object", param=param)
    if tool.allowed_callers and tool.allowed_callers != ["direct"]:
        translation.losses.lost.append(f"{path}.allowed_callers")
    if bytes(tool.input_examples) not in (b"null", b"[]"):
        translation.losses.lost.append(f"{path}.input_examples")
    if tool.defer_loading:
        translation.losses.spared.append(f"{path}.defer_loading")
    function: Members = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.input_schema
    if tool.strict is not None:
        function["strict"] = tool.strict
    return cached({"type": "function", "function": function}, tool.cache_control)


def _add_output(translation: Translation) -> None:
    """How hard to think, and the shape of what is said."""
    fields, chat = translation.fields, translation.chat
    config = _read_output_config(translation) or _OutputConfig()
    shape = config.format or fields.output_format
    if shape is not None:
        schema = {"name": "answer", "schema": shape.schema, "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    effort = config.effort
    thinking = fields.thinking
    if thinking is not None and thinking.type == "enabled":
        budget = thinking.budget_tokens or 0
        effort = effort or next(name for least, name in _EFFORTS if budget >= least)
    elif thinking is not None and thinking.type != "adaptive":
        # Chat's "none" is refused by every model that does not think, and by some that do.
        translation.losses.spared.append("thinking")
    if effort is not None:
        chat["reasoning_effort"] = effort


def _read_output_config(translation: Translation) -> _OutputConfig | None:
    raw = translation.fields.output_config
    try:
        return _output_config.decode(raw)
    except msgspec.ValidationError as error:
        if "unknown field" not in str(error):
            raise wire_body.invalid(error, "output_config") from None
    translation.losses.lost.append("output_config")
    known = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    kept = {name: known[name] for name in ("effort", "format") if name in known}
    return _output_config.decode(msgspec.json.encode(kept))


def _note_the_rest(translation: Translation, body: Body) -> None:
    """What a chat has no member for."""
    for name, value in body.members.items():
        if name in Fields.__struct_fields__ or name in _HINTS or _is_nothing(value):
            continue
        if name == "speed" and bytes(value) == b'"standard"':
            continue
        (translation.losses.spared if name in _SPARED else translation.losses.lost).append(name)
        compacts = name == "context_management" and may_compact(value)
        if name in _UNBOUNDED or compacts:
            translation.losses.unbounded = name


def _is_nothing(value: msgspec.Raw) -> bool:
    return len(memoryview(value)) <= 5 and bytes(value) in (b"null", b"[]", b"false")
