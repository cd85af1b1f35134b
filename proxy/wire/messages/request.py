"""`POST /v1/messages`: a request of Anthropic's dialect, as it is or as the chat it stands for.

Source: Anthropic's API reference, "Create a Message".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from adapters.base import Endpoint, Unsupported
from policies.base import Capability
from proxy.errors import InvalidRequest
from proxy.wire import answers, chat, chunks
from proxy.wire.as_chat import AsChat
from proxy.wire.body import Body
from proxy.wire.chat import ChatRequest
from proxy.wire.dialect import Facts, Identity, Sent, Stream, Upstream, Whole
from proxy.wire.messages import from_chat, native, reasoning
from proxy.wire.messages.to_chat import translate
from proxy.wire.messages.writer import MessageWriter
from proxy.wire.surrogates import without_lone
from proxy.wire.tags import Change
from proxy.wire.tags import read as read_tags

# What a client says to Anthropic, and to nobody else, outside of the body.
_PASSED_HEADERS = (b"anthropic-version", b"anthropic-beta")

_UNSIGNED = msgspec.json.encode(reasoning.UNSIGNED)

_message_list = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_blocks: msgspec.json.Decoder[str | list[dict[str, msgspec.Raw]]] = msgspec.json.Decoder(
    str | list[dict[str, msgspec.Raw]]
)


class _ClaudeCode(msgspec.Struct):
    account_uuid: str | None = None
    device_id: str | None = None


_claude_code = msgspec.json.Decoder(_ClaudeCode)


@dataclass(frozen=True, kw_only=True, slots=True)
class MessagesRequest(AsChat):
    """A request: its body, the chat it stands for, and what of it no chat can say.

    `text_bytes` is the size of the body without images and files, `added_tokens` bounds what only
    Anthropic's own tools add. `unsigned` says that a model of Anthropic's refuses it as it is.
    """

    body: Body
    chat: ChatRequest
    max_output_tokens: int | None
    text_bytes: int
    added_tokens: int
    unbounded: str | None
    user: str | None
    lost: tuple[str, ...]
    spared: tuple[str, ...]
    unsigned: bool
    thinks: bool
    endpoint: Endpoint = "messages"
    capability: Capability = "chat"
    headers: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    withheld: Change = field(default_factory=dict)
    stop_sequences: frozenset[str] = frozenset()

    @property
    def input_tokens(self) -> int:
        """Routing's estimate of the input."""
        return self.text_bytes // 4

    @property
    def reasons(self) -> bool:
        """Whether it asks for thoughts: also without an effort, which is all that chat can say."""
        return self.chat.reasons or self.thinks

    def input_bound(self, image_tokens: int) -> int:
        """An upper bound of the input in tokens, in whichever of the two dialects it is sent."""
        longer = max(0, self.text_bytes - self.chat.text_bytes)
        return self.chat.input_bound(image_tokens) + longer + self.added_tokens

    def upstream(self, target: Upstream) -> Sent:
        """The body with `model` changed where the target speaks this dialect, else the chat."""
        return self._as_is(target) if self.endpoint in target.speaks else self._as_chat(target)

    def _as_is(self, target: Upstream) -> Sent:
        changes = {"model": msgspec.json.encode(target.model), **self.withheld}
        changes |= self.body.lacking(target.defaults)
        if target.clamp is not None:
            changes["max_tokens"] = b"%d" % target.clamp
        dropped: tuple[str, ...] = ()
        if self.unsigned:
            changes["messages"] = _without_unsigned(self.body.members["messages"])
            dropped = ("messages.thinking",)
        return Sent(
            endpoint=self.endpoint,
            body=self.body.join(changes),
            headers=self.headers,
            dropped=dropped,
        )

    def _as_chat(self, target: Upstream) -> Sent:
        if self.lost and not target.drop_params:
            raise Unsupported(f"it has nothing like {self.lost[0]!r}", param=self.lost[0])
        # The maximum is written under the name that the target knows.
        maximum = self.chat.max_output_tokens if target.clamp is None else target.clamp
        sent = self.chat.upstream(msgspec.structs.replace(target, clamp=maximum))
        return msgspec.structs.replace(sent, dropped=(*self.lost, *self.spared))

    def read_whole(
        self, sent: Endpoint, body: bytes, identity: Identity, *, reads_cost: bool
    ) -> tuple[Facts, Whole | None]:
        """The message as it came, or the one that a chat completion stands for."""
        if sent == self.endpoint:
            return native.read(body, reads_cost=reads_cost), Whole(body=body)
        facts = answers.read_chat(body, reads_cost=reads_cost)
        message = from_chat.message(body, facts, identity, self)
        return facts, None if message is None else Whole(body=message)

    def read_stream(self, sent: Endpoint, identity: Identity, *, reads_cost: bool) -> Stream:
        """The events as they come, or those that the chunks of a chat stand for."""
        if sent == self.endpoint:
            return native.MessageStream(identity, reads_cost=reads_cost)
        return chunks.Stream(
            wants_usage=True,
            identity=identity,
            reads_cost=reads_cost,
            writer=MessageWriter(identity, self.input_tokens, self.stop_sequences),
        )


def parse(raw: bytes, headers: Mapping[bytes, bytes] | None = None) -> MessagesRequest:
    """Read a request body; raises `InvalidRequest`."""
    request = parse_prompt(raw, headers)
    if request.max_output_tokens is None:
        raise InvalidRequest("missing required parameter: 'max_tokens'", param="max_tokens")
    return request


def parse_prompt(raw: bytes, headers: Mapping[bytes, bytes] | None = None) -> MessagesRequest:
    """Read a body that may lack a maximum, as those whose tokens are counted do."""
    body = Body.parse(raw)
    told = translate(body)
    fields, losses = told.fields, told.losses
    tags, withheld = read_tags(body)
    asked = chat.parse(msgspec.json.encode(told.chat))
    return MessagesRequest(
        body=body,
        chat=asked,
        # A chat generates at least one.
        max_output_tokens=None if fields.max_tokens is None else max(1, fields.max_tokens),
        text_bytes=len(raw) - losses.media_bytes,
        added_tokens=losses.added_tokens,
        unbounded=losses.unbounded or asked.unbounded,
        user=end_user(fields.metadata.user_id) if fields.metadata is not None else None,
        lost=tuple(losses.lost),
        spared=tuple(losses.spared),
        unsigned=losses.unsigned,
        thinks=fields.thinking is not None and fields.thinking.type != "disabled",
        headers=_passed(headers or {}),
        tags=tags,
        withheld=withheld,
        stop_sequences=frozenset(fields.stop_sequences or ()),
    )


def end_user(user_id: str | None) -> str | None:
    """Whom a `user_id` stands for: Claude Code's names its session too, which is nobody."""
    if not user_id or not user_id.startswith("{"):
        return (user_id or "").partition("_session_")[0] or None
    try:
        told = _claude_code.decode(user_id)
    except msgspec.DecodeError:
        return user_id
    return told.account_uuid or told.device_id or user_id


def _passed(headers: Mapping[bytes, bytes]) -> Mapping[str, str]:
    return {
        name.decode(): headers[name].decode("latin-1")
        for name in _PASSED_HEADERS
        if name in headers
    }


def _without_unsigned(messages: msgspec.Raw) -> bytes:
    """The messages without thinking that nobody signed, as translated answers have it."""
    kept: list[dict[str, msgspec.Raw]] = []
    for message in _message_list.decode(without_lone(bytes(messages))):
        content = _blocks.decode(message["content"])
        if isinstance(content, list):
            signed = [block for block in content if not _is_unsigned(block)]
            if not signed and content:
                continue
            message["content"] = msgspec.Raw(msgspec.json.encode(signed))
        kept.append(message)
    return msgspec.json.encode(kept)


def _is_unsigned(block: dict[str, msgspec.Raw]) -> bool:
    if bytes(block.get("type", b"")) != b'"thinking"':
        return False
    return bytes(block.get("signature", b"null")) in (b"null", b'""', _UNSIGNED)
