"""Which conversation a request is of, as far as that can be told from the request alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from proxy.auth import Caller
from proxy.http import Exchange
from proxy.wire.as_chat import AsChat
from proxy.wire.chat import ChatRequest
from proxy.wire.dialect import Request

CONVERSATION_HEADER = b"x-tollway-conversation"
_OWN_ID = "prompt_cache_key"
# What clients move from message to message as a conversation grows.
_MOVES = frozenset({"cache_control"})
# The ledger's numbers have 62 bits.
_MASK = 2**62 - 1


class _Message(msgspec.Struct):
    role: str
    content: msgspec.Raw = msgspec.Raw(b"null")


class _Messages(msgspec.Struct):
    messages: list[_Message]


_messages = msgspec.json.Decoder(_Messages)
_content: msgspec.json.Decoder[str | list[dict[str, msgspec.Raw]] | None] = msgspec.json.Decoder(
    str | list[dict[str, msgspec.Raw]] | None
)
_text = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation, by a keyed hash; `continues` where a model has answered in it before."""

    number: int
    continues: bool


def conversation_of(
    caller: Caller, exchange: Exchange, request: Request, secret: bytes
) -> Conversation | None:
    """The conversation of a request; None where it is of none, such as one for vectors.

    It is known by the id that the client gives it (a header, or `prompt_cache_key`), else by its
    messages up to the first of the user. Two that begin alike are one: only an id tells them apart.
    """
    chat = request.chat if isinstance(request, AsChat) else request
    if not isinstance(chat, ChatRequest):
        return None
    messages = chat.body.decode(_messages).messages
    digest = hashlib.blake2b(caller.key_id.encode() + b"\0", key=secret[:64], digest_size=8)
    named = exchange.headers.get(CONVERSATION_HEADER) or _own_id(request)
    if named:
        digest.update(b"id\0" + named)
    else:
        for part in _opening(messages):
            digest.update(b"%d\0" % len(part) + part)
    return Conversation(
        number=int.from_bytes(digest.digest(), "big") & _MASK,
        continues=any(message.role == "assistant" for message in messages),
    )


def _own_id(request: Request) -> bytes:
    """What the client calls the conversation in the body, in its own dialect."""
    body = getattr(request, "body", None)
    raw = body.members.get(_OWN_ID) if body is not None else None
    return b"" if raw is None or bytes(raw) == b"null" else bytes(raw)


def _opening(messages: list[_Message]) -> Iterator[bytes]:
    """The messages up to the first of the user, however their texts are cut into parts."""
    for message in messages:
        yield message.role.encode()
        yield from _parts(message.content)
        if message.role == "user":
            return


def _parts(raw: msgspec.Raw) -> Iterator[bytes]:
    try:
        content = _content.decode(raw)
    except msgspec.DecodeError:
        yield bytes(raw)
        return
    if content is None:
        return
    if isinstance(content, str):
        yield content.encode()
        return
    for part in content:
        for name, value in sorted(part.items()):
            if name == "text" and bytes(value).startswith(b'"'):
                yield _text.decode(value).encode()
            elif name not in _MOVES and (name, bytes(value)) != ("type", b'"text"'):
                yield name.encode()
                yield bytes(value)
