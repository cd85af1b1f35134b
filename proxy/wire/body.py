"""A request body as its top-level members, each still the bytes the client sent.

Only what routing needs is ever looked into; everything else is passed on unread. `join` writes
the members back in their order, so that what we priced is what the provider gets.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from proxy import steering
from proxy.errors import InvalidRequest
from proxy.wire.surrogates import without_lone

Struct = TypeVar("Struct")
Members = dict[str, msgspec.Raw]

# Of what a client sent, no more than this goes into a message.
_LONGEST_QUOTE = 200

# What routing and money go by. Servers in Go read a name in whatever case it is written, so that
# `N` would be priced as nothing and obeyed as `n`.
_NAMES = """
model models messages system input prompt suffix query documents instructions n best_of stream
max_tokens max_completion_tokens max_output_tokens stream_options service_tier speed tools functions
response_format text modalities thinking reasoning reasoning_effort web_search_options prediction
search_parameters enable_search plugins data_sources compound_custom cached_content google
extra_body previous_response_id store background conversation context_management container
mcp_servers inference_geo fallbacks compaction image images image_url mask svg size quality
output_format batch_size image_config
"""
_ONE_CASE = frozenset(_NAMES.split()) | steering.MEMBERS

# Of a large body, what is looked at or copied at a time.
_PIECE_BYTES = 64 << 10

_members = msgspec.json.Decoder(Members)

# The key of the next member with what stands around it, and the end of the object. Only text that
# has been parsed is looked at, so anything between members is white space.
_key = re.compile(rb'\s*[{,]\s*("[^"\\]*(?:\\.[^"\\]*)*")\s*:\s*').match
_end = re.compile(rb"\s*\{?\s*\}\s*").fullmatch


class Body(msgspec.Struct, eq=False, gc=False):
    """A parsed request body.

    `members` go upstream, as the client sent them. `text` is for typed decoders: the same, but
    that lone surrogates are replaced (see `proxy.wire.surrogates`).
    """

    text: bytes
    members: Members

    @classmethod
    def parse(cls, raw: bytes) -> Body:
        """Split a body; raises `InvalidRequest` unless it is one JSON object with unique keys."""
        if not raw.isascii():
            _check_utf8(raw)
        text, members = _split(raw)
        names = "".join(members)
        if not (names.islower() and names.isascii()):
            _check_case(members)
        steering.check_members(members)
        if text is raw and _is_plain(raw, members):
            return cls(text, members)
        return cls(text, _as_sent(raw, text, members))

    def decode(self, decoder: msgspec.json.Decoder[Struct]) -> Struct:
        """Read typed fields; raises `InvalidRequest` that names the parameter."""
        try:
            return decoder.decode(self.text)
        except msgspec.ValidationError as error:
            raise invalid(error) from None
        except RecursionError:
            raise _too_deep() from None

    def lacking(self, defaults: Mapping[str, bytes]) -> dict[str, bytes]:
        """Those of the members that are missing here, or null."""
        return {
            name: default
            for name, default in defaults.items()
            if bytes(self.members.get(name, b"null")) == b"null"
        }

    def join(self, changes: Mapping[str, bytes | None]) -> bytes:
        """The body with these JSON texts in place of members, or added; None leaves one out."""
        members = self.members.copy()
        for name, text in changes.items():
            if text is None:
                members.pop(name, None)
            else:
                members[name] = msgspec.Raw(text)
        return msgspec.json.encode(members)


def invalid(error: msgspec.ValidationError, within: str = "") -> InvalidRequest:
    """`Expected ..., got ... - at `$.a[0].b`` -> the same words, and `a[0].b` as the parameter.

    `within` is the path of what was decoded, if it was a part of the body.
    """
    message, _, path = str(error).partition(" - at `$")
    param = (within + path.rstrip("`")).lstrip(".")
    if "missing required field" in message:
        field = message.split("`")[1]
        param = f"{param}.{field}" if param else field
        return InvalidRequest(f"missing required parameter: {param!r}", param=param)
    problem = message[0].lower() + message[1:_LONGEST_QUOTE]
    return InvalidRequest(f"invalid value for {param!r}: {problem}", param=param)


def _split(raw: bytes) -> tuple[bytes, Members]:
    """The text that could be parsed (the body, but for lone surrogates), and its members."""
    try:
        try:
            return raw, _members.decode(raw)
        except msgspec.DecodeError:
            text = without_lone(raw)
            if text == raw:
                raise
            return text, _members.decode(text)
    except msgspec.ValidationError:
        raise InvalidRequest("the request body must be a JSON object") from None
    except msgspec.DecodeError as error:
        problem = str(error).removeprefix("JSON is ")
        raise InvalidRequest(f"the request body is not valid JSON: {problem}") from None
    except RecursionError:
        raise _too_deep() from None


def _check_case(members: Members) -> None:
    for name in members:
        lower = name.casefold()
        if not (name.islower() and name.isascii()) and lower in _ONE_CASE:
            raise InvalidRequest(f"the key {name!r} must be written {lower!r}", param=name)


def _is_plain(raw: bytes, members: Members) -> bool:
    """Whether a body is laid out as most are, so that no key stands in it twice.

    Without white space, as OpenAI's SDKs write it, or as Python's `json.dumps` does.
    """
    if len(raw) > _PIECE_BYTES:
        return False
    written = msgspec.json.encode(members)
    try:
        return written == raw or msgspec.json.format(written, indent=0) == raw
    except RecursionError:  # it gives up a level before the decoder does
        return False


def _as_sent(raw: bytes, text: bytes, members: Members) -> Members:
    """The members as they stand in `raw`, which differs from `text` by lone surrogates at most.

    Refuses a key that stands twice: a parser that takes the first and one that takes the last
    would price one request and send another. Where none does, the members stand in the text one
    after the other, and the last one is followed by the end.
    """
    sent: Members = {}
    end = 0
    for key, value in members.items():
        opening = _key(text, end)
        if opening is None or _name_in(opening) != key:
            raise _twice(opening, sent)
        begin = opening.end()
        if not _stands_at(begin, text, memoryview(value)):
            raise _twice(opening, sent)
        end = begin + len(memoryview(value))
        sent[key] = value if text is raw else msgspec.Raw(raw[begin:end])
    if not _end(text, end):
        raise _twice(_key(text, end), sent)
    return sent


def _stands_at(begin: int, text: bytes, value: memoryview) -> bool:
    """Whether the text has these bytes there; a large value is copied in pieces alone."""
    if len(value) <= _PIECE_BYTES:
        return text.startswith(bytes(value), begin)
    return all(
        text.startswith(bytes(value[at : at + _PIECE_BYTES]), begin + at)
        for at in range(0, len(value), _PIECE_BYTES)
    )


def _twice(opening: re.Match[bytes] | None, before: Members) -> InvalidRequest:
    """The refusal of the key found; where none is, the value of the last one goes on."""
    key = next(reversed(before)) if opening is None else _name_in(opening)
    key = key[:_LONGEST_QUOTE]
    return InvalidRequest(f"the request body has the key {key!r} twice", param=key)


def _name_in(opening: re.Match[bytes]) -> str:
    return msgspec.json.decode(opening[1], type=str)


def _too_deep() -> InvalidRequest:
    return InvalidRequest("the request body is nested too deeply")


def _check_utf8(raw: bytes) -> None:
    """In pieces: a text that is not Latin has up to four times the memory of its bytes."""
    view, begin = memoryview(raw), 0
    while begin < len(raw):
        piece = view[begin : begin + _PIECE_BYTES]
        try:
            # What is whole of it; a character that its end cuts belongs to the next one.
            _, size = codecs.utf_8_decode(piece, "strict", begin + len(piece) == len(raw))
        except UnicodeDecodeError as error:
            at = begin + error.start
            raise InvalidRequest(f"the request body is not valid UTF-8 (byte {at})") from None
        begin += size
