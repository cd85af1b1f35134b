"""`POST /v1/responses`: what is asked, as a chat and as itself.

Source: OpenAI's API reference, "Create a model response".
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from adapters.base import AdapterError, Endpoint
from policies.base import Capability
from proxy.errors import InvalidRequest
from proxy.wire import answers, chat, chunks
from proxy.wire.as_chat import AsChat
from proxy.wire.body import Body
from proxy.wire.dialect import Facts, Identity, Sent, Stream, Upstream, Whole
from proxy.wire.responses import native
from proxy.wire.responses.items import Conversation
from proxy.wire.responses.losses import Losses
from proxy.wire.responses.response import Frame, echo, response_id
from proxy.wire.responses.tools import Tools
from proxy.wire.responses.writer import Writer
from proxy.wire.surrogates import encode
from proxy.wire.tags import Change
from proxy.wire.tags import read as read_tags

# Members that are read here, and those that change nothing of the answer.
_READ = frozenset(
    {
        "background",
        "conversation",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "model",
        "parallel_tool_calls",
        "previous_response_id",
        "reasoning",
        "service_tier",
        "store",
        "stream",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "truncation",
        "user",
    }
)
_HINTS = frozenset(
    {
        "client_metadata",
        "image",
        "max_tool_calls",  # of the provider's own tools
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "stream_options",
    }
)
_UNBOUNDED = frozenset({"prompt", "context_management", *chat.UNBOUNDED})
_LOGPROBS = "message.output_text.logprobs"
_SEALED = "reasoning.encrypted_content"
_ABSENT = msgspec.Raw(b"null")
_FALSE = msgspec.Raw(b"false")
_NOTHING = (b"null", b"false", b"[]")
_NOTHING_REFERRED: Mapping[int, msgspec.Raw] = MappingProxyType({})


class _Format(msgspec.Struct):
    type: str = "text"
    name: str | None = None
    description: str | None = None
    schema: msgspec.Raw = _ABSENT
    strict: bool | None = None


class _Text(msgspec.Struct):
    format: _Format | None = None
    verbosity: str | None = None


class _Reasoning(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    mode: str | None = None


class _Fields(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    input: str | list[msgspec.Raw] = ""
    instructions: msgspec.Raw = _ABSENT
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    conversation: msgspec.Raw = _ABSENT
    previous_response_id: str | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1, le=chat.MAX_OUTPUT_TOKENS)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    reasoning: _Reasoning | None = None
    text: _Text | None = None
    truncation: str | None = None
    service_tier: str | None = None
    user: str | None = None


_fields = msgspec.json.Decoder(_Fields)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_reference = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(slots=True)
class Result:
    """What becomes of a request: its response as the client gets it, once that is whole."""

    response: bytes | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request as it was sent, before what it refers to is known.

    `clean` are its members and `items` its input, both without lone surrogates.
    """

    body: Body
    fields: _Fields
    clean: Mapping[str, msgspec.Raw]
    items: Sequence[msgspec.Raw]

    @property
    def previous(self) -> str | None:
        """The response that this one continues."""
        return self.fields.previous_response_id

    @property
    def stores(self) -> bool:
        """Whether the response is to be kept."""
        return self.fields.store is not False

    def references(self) -> dict[int, str]:
        """The items that stand for earlier ones: their numbers, and the ids of those."""
        found: dict[int, str] = {}
        for index, item in enumerate(self.items):
            if b"item_reference" not in bytes(item) and b'"id"' not in bytes(item):
                continue
            if (referred := _referred(item)) is not None:
                found[index] = referred
        return found

    def resolved(
        self,
        history: Sequence[msgspec.Raw] = (),
        referred: Mapping[int, msgspec.Raw] = _NOTHING_REFERRED,
        *,
        keeps: bool = True,
    ) -> ResponsesRequest:
        """The request with what it refers to. Raises `InvalidRequest`.

        `keeps` says that what is to be kept can be.
        """
        items = [referred.get(n, item) for n, item in enumerate(self.items)]
        request = _request(self, history, items, is_changed=bool(history or referred))
        return request if keeps else replace(request, echo={**request.echo, "store": _FALSE})


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponsesRequest(AsChat):
    """A request for a response: the chat it is, and the body for those who speak Responses.

    `items` are the input that is its own, with what it refers to in its place; `input_surplus`
    bounds the tokens that the chat lacks of what the native body says.
    """

    body: Body
    items: Sequence[msgspec.Raw]
    native: Change
    chat: chat.ChatRequest
    losses: Losses
    tools: Tools
    echo: Mapping[str, msgspec.Raw]
    summarises: bool
    max_output_tokens: int | None
    unbounded: str | None
    input_surplus: int
    foreign: tuple[str, ...] = ()
    """The paths of items that only we can read."""
    tags: tuple[str, ...] = ()
    result: Result = field(default_factory=Result)

    endpoint: Endpoint = "responses"
    capability: Capability = "chat"

    @property
    def input_tokens(self) -> int:
        """See `proxy.wire.dialect.Request`."""
        return self.chat.input_tokens

    @property
    def reasons(self) -> bool:
        """See `proxy.wire.dialect.Request`."""
        return self.chat.reasons or not _is_nothing(self.body.members.get("reasoning", _ABSENT))

    @property
    def user(self) -> str | None:
        """See `proxy.wire.dialect.Request`."""
        return self.chat.user

    def input_bound(self, image_tokens: int) -> int:
        """An upper bound of the input in tokens, whichever way it is sent."""
        return self.chat.input_bound(image_tokens) + self.input_surplus

    def upstream(self, target: Upstream) -> Sent:
        """As it is where the target speaks Responses, otherwise as a chat."""
        if "responses" in target.speaks:
            return self._as_itself(target)
        dropped = self.losses.check(drop=target.drop_params)
        # The maximum stands in the one field that this target knows.
        clamp = self.max_output_tokens if target.clamp is None else target.clamp
        sent = self.chat.upstream(msgspec.structs.replace(target, clamp=clamp))
        return msgspec.structs.replace(sent, dropped=(*dropped, *sent.dropped))

    def _as_itself(self, target: Upstream) -> Sent:
        changes = {**self.native, "model": msgspec.json.encode(target.model)}
        changes |= self.body.lacking(target.defaults)
        if target.clamp is not None:
            changes["max_output_tokens"] = b"%d" % target.clamp
        elif target.default_max is not None and self.max_output_tokens is None:
            changes["max_output_tokens"] = b"%d" % target.default_max
        return Sent(endpoint="responses", body=self.body.join(changes), dropped=self.foreign)

    def read_whole(
        self, sent: Endpoint, body: bytes, identity: Identity, *, reads_cost: bool
    ) -> tuple[Facts, Whole | None]:
        """The response, by its provider or made of a chat's answer; None where it is no use."""
        if sent == "responses":
            facts, response = native.read_whole(body, self.echo, identity, reads_cost=reads_cost)
            self.result.response = response
        else:
            facts = answers.read_chat(body, reads_cost=reads_cost)
            self._write_whole(body, identity)
            response = self.result.response
        return facts, None if response is None else Whole(body=response)

    def read_stream(self, sent: Endpoint, identity: Identity, *, reads_cost: bool) -> Stream:
        """The events of a response, by its provider or made of a chat's."""
        if sent == "responses":
            return native.Stream(self.echo, identity, reads_cost=reads_cost, on_end=self._keep)
        return self._translated(identity, reads_cost=reads_cost)

    def _keep(self, response: bytes) -> None:
        self.result.response = response

    def _translated(self, identity: Identity, *, reads_cost: bool) -> chunks.Stream:
        frame = Frame(
            id=response_id(identity.request_id),
            created=identity.created,
            model=identity.model,
            echo=self.echo,
        )
        writer = Writer(
            frame,
            called=self.tools.called,
            summarises=self.summarises,
            now=time.time,
            on_end=self._keep,
        )
        return chunks.Stream(
            wants_usage=True, identity=identity, reads_cost=reads_cost, writer=writer
        )

    def _write_whole(self, body: bytes, identity: Identity) -> None:
        """Write a chat's whole answer as a response: it is a stream of one event."""
        stream = self._translated(identity, reads_cost=False)
        try:
            stream.feed(answers.as_chunk(body))
        except AdapterError:
            return
        stream.end()


def read(raw: bytes) -> Asked:
    """Read a request body; raises `InvalidRequest`."""
    body = Body.parse(raw)
    fields = body.decode(_fields)
    if fields.background:
        raise InvalidRequest("responses are not made in the background here", param="background")
    if not _is_nothing(fields.conversation):
        raise InvalidRequest(
            "conversations are not kept here; use 'previous_response_id'", param="conversation"
        )
    return Asked(
        body=body,
        fields=fields,
        clean=_members.decode(body.text),
        items=_items(fields),
    )


def _items(fields: _Fields) -> Sequence[msgspec.Raw]:
    """The input as items, as they were sent but for lone surrogates."""
    if isinstance(fields.input, str):
        if not fields.input:
            return ()
        part = {"type": "input_text", "text": fields.input}
        return (msgspec.Raw(encode({"type": "message", "role": "user", "content": [part]})),)
    return fields.input


def _referred(item: msgspec.Raw) -> str | None:
    """The id of the item that this one stands for, if it does."""
    try:
        members = _reference.decode(item)
        kind = msgspec.json.decode(members.get("type", _ABSENT))
        if kind != "item_reference" and not (kind is None and members.keys() <= {"id", "type"}):
            return None
        return msgspec.json.decode(members.get("id", _ABSENT), type=str)
    except (msgspec.DecodeError, RecursionError):
        return None


def parse(raw: bytes, headers: Mapping[bytes, bytes] | None = None) -> ResponsesRequest:
    """Read a request that refers to nothing; raises `InvalidRequest`."""
    return read(raw).resolved()


def _request(
    asked: Asked, history: Sequence[msgspec.Raw], items: Sequence[msgspec.Raw], *, is_changed: bool
) -> ResponsesRequest:
    fields, losses = asked.fields, Losses()
    _check_members(asked, losses)
    tools = Tools()
    tools.add(asked.clean.get("tools", _ABSENT), "tools", losses)
    conversation = Conversation(tools, losses)
    if instructions := _instructions(fields, losses):
        conversation.instruct(instructions)
    foreign_before = conversation.add_items(history, lambda _: "previous_response_id")
    foreign = conversation.add_items(items, "input[{}]".format)
    tools.choose(asked.clean.get("tool_choice", _ABSENT), losses)
    chat_request = chat.parse(_chat_body(asked, tools, conversation, losses))
    kept = [
        *(item for n, item in enumerate(history) if n not in foreign_before),
        *(item for n, item in enumerate(items) if n not in foreign),
    ]
    named, withheld = read_tags(asked.body)
    native_body: Change = {**withheld, "store": b"false", "previous_response_id": None}
    if is_changed or foreign or foreign_before:
        native_body["input"] = b"[%b]" % b",".join(map(bytes, kept))
    if (include := _include(asked)) is not None:
        native_body["include"] = include
    return ResponsesRequest(
        body=asked.body,
        items=items,
        native=native_body,
        chat=chat_request,
        losses=losses,
        tools=tools,
        echo=echo(asked.body.members),
        summarises=_summarises(fields),
        max_output_tokens=fields.max_output_tokens,
        unbounded=losses.unbounded or chat_request.unbounded,
        input_surplus=_surplus(asked, native_body, chat_request),
        foreign=(*foreign_before.values(), *foreign.values()),
        tags=named,
    )


def _check_members(asked: Asked, losses: Losses) -> None:
    """Note the members that no chat has."""
    fields = asked.fields
    for name, value in asked.clean.items():
        if name not in _READ and name not in _HINTS and not _is_nothing(value):
            losses.refuse(name, costs=name in _UNBOUNDED)
    if fields.truncation == "auto":
        losses.tell("truncation")
    if fields.reasoning and fields.reasoning.mode not in (None, "standard"):
        losses.refuse("reasoning.mode", costs=True)


def _instructions(fields: _Fields, losses: Losses) -> str:
    try:
        return msgspec.json.decode(fields.instructions, type=str | None) or ""
    except msgspec.ValidationError:
        losses.refuse("instructions", costs=True)
        return ""


def _summarises(fields: _Fields) -> bool:
    asked = fields.reasoning
    return asked is not None and bool(asked.summary or asked.generate_summary)


def _include(asked: Asked) -> bytes | None:
    """`include` with what keeps reasoning over turns, as the provider is to store nothing."""
    if not asked.stores or asked.fields.reasoning is None:
        return None
    included = asked.fields.include or []
    return None if _SEALED in included else msgspec.json.encode([*included, _SEALED])


def _chat_body(asked: Asked, tools: Tools, conversation: Conversation, losses: Losses) -> bytes:
    fields = asked.fields
    messages = conversation.messages()
    if not messages:
        if not losses.refused:
            raise InvalidRequest("missing required parameter: 'input'", param="input")
        messages = [{"role": "user", "content": ""}]  # it goes nowhere, but tells what it asks
    said: dict[str, Any] = {
        "model": fields.model,
        "messages": messages,
        "stream": fields.stream,
        "max_completion_tokens": fields.max_output_tokens,
        "temperature": fields.temperature,
        "top_p": fields.top_p,
        "service_tier": fields.service_tier,
        "user": fields.user,
    }
    if tools.chat:
        said["tools"] = tools.chat
        said["tool_choice"] = tools.choice
        if fields.parallel_tool_calls is False:
            said["parallel_tool_calls"] = False
    if fields.reasoning is not None:
        said["reasoning_effort"] = fields.reasoning.effort
    if fields.text is not None:
        said["verbosity"] = fields.text.verbosity
        said["response_format"] = _response_format(fields.text.format)
    if fields.top_logprobs or _LOGPROBS in (fields.include or ()):
        said["logprobs"] = True
        said["top_logprobs"] = fields.top_logprobs
    return msgspec.json.encode({name: value for name, value in said.items() if value is not None})


def _response_format(wanted: _Format | None) -> dict[str, Any] | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type != "json_schema":
        return {"type": wanted.type}
    schema = {
        "name": wanted.name,
        "description": wanted.description,
        "schema": None if wanted.schema is _ABSENT else wanted.schema,
        "strict": wanted.strict,
    }
    said = {name: value for name, value in schema.items() if value is not None}
    return {"type": "json_schema", "json_schema": said}


def _surplus(asked: Asked, changes: Change, chat_request: chat.ChatRequest) -> int:
    """Tokens of the native body beyond the chat's: what of it is not translated, or not allowed.

    Tools that are not allowed are told all the same.
    """
    texts = {**asked.body.members, **changes}
    native_bytes = sum(
        len(memoryview(text)) + len(name) + 4 for name, text in texts.items() if text is not None
    )
    surplus = max(0, native_bytes - len(chat_request.body.text))
    sent, told = (
        _size(members, "tools") for members in (asked.body.members, chat_request.body.members)
    )
    if sent > told:
        surplus += chat.PRINTED_TOKENS_PER_BYTE * (sent - told)
    return surplus if told or not sent else surplus + chat.TOOL_PROMPT_TOKENS


def _size(members: Mapping[str, msgspec.Raw], name: str) -> int:
    return len(memoryview(members[name])) if name in members else 0


def _is_nothing(value: msgspec.Raw) -> bool:
    return value is _ABSENT or (len(memoryview(value)) <= 5 and bytes(value) in _NOTHING)
