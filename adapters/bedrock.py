"""`bedrock`: Amazon Bedrock, signed with AWS credentials or with one of its API keys.

Anthropic's models are invoked in their own dialect, and so are those that make embeddings; all
others, and those whose names do not tell, go through Converse.

Sources: Amazon Bedrock's API reference, "InvokeModel", "InvokeModelWithResponseStream",
"CountTokens" and "Converse"; its user guide, "Anthropic Claude Messages API" and "Use an Amazon
Bedrock API key".
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from adapters.base import (
    BadRequest,
    Call,
    ContextExceeded,
    Endpoint,
    MalformedAnswer,
    ModelNotFound,
    Overloaded,
    RateLimited,
    UpstreamAuth,
    UpstreamError,
)
from adapters.http.over_http import Decoder, Dispatch, EventReader, HttpAdapter
from adapters.wire import aws_failures, loose_json
from adapters.wire.anthropic_answer import ChatReader, MessagesReader
from adapters.wire.anthropic_elsewhere import betas_of, is_claude, members_of
from adapters.wire.aws_event_stream import CONTENT_TYPE, EventStreamDecoder, FailedPayload
from adapters.wire.bedrock_embeddings import EmbeddingsReader, embeds, to_embed
from adapters.wire.converse_answer import ConverseReader
from adapters.wire.converse_request import converse_request
from adapters.wire.losses import invalid
from adapters.wire.sse import NamedPayload

if TYPE_CHECKING:
    from adapters.http.aws_signing import Signer

VERSION = "bedrock-2023-05-31"

_CLAUDE: Set[Endpoint] = frozenset({"chat", "messages", "count_tokens"})
_VECTORS: Set[Endpoint] = frozenset({"embeddings"})
_OTHERS: Set[Endpoint] = frozenset({"chat"})
# Tokens are counted for a model, not for the regions that its requests may be sent to.
_REGIONS = re.compile(r"^(us|us-gov|eu|apac|jp|au|ca|global)\.(?=anthropic\.)")
# What Anthropic calls our families of errors, in its streams.
_ANTHROPIC_TYPES: Mapping[type[UpstreamError], str] = {
    BadRequest: "invalid_request_error",
    ContextExceeded: "invalid_request_error",
    ModelNotFound: "not_found_error",
    Overloaded: "overloaded_error",
    RateLimited: "rate_limit_error",
    UpstreamAuth: "permission_error",
}


def speaks(model: str) -> Set[Endpoint]:
    """The endpoints that a model can be asked at."""
    if is_claude(model):
        return _CLAUDE
    return _VECTORS if embeds(model) else _OTHERS


class Bedrock(HttpAdapter):
    """One region, and one way to be let in."""

    speaks = _CLAUDE | _VECTORS | _OTHERS

    def __init__(
        self,
        *,
        region: str,
        profile: str | None = None,
        base_url: str = "",
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        http2: bool = False,
        ca_bundle: Path | None = None,
    ) -> None:
        """Without a key, and unless a profile is named, `AWS_BEARER_TOKEN_BEDROCK` is looked at.

        Raises `ValueError` for what HTTP cannot carry and for a profile that is not there, and
        `ImportError` where requests must be signed and botocore is missing.
        """
        given = {name.lower(): value for name, value in (headers or {}).items()}
        if api_key is None and profile is None:
            api_key = os.environ.get("AWS_BEARER_TOKEN_BEDROCK")
        self._betas = given.pop("anthropic-beta", "")
        self.url = (base_url or f"https://bedrock-runtime.{region}.amazonaws.com").rstrip("/")
        self._signer = None if api_key else _signer(region, profile)
        constant = {"authorization": f"Bearer {api_key}"} if api_key else {}
        super().__init__(
            base_url=self.url,
            headers={**constant, **given},
            proxy=proxy,
            http2=http2,
            ca_bundle=ca_bundle,
        )

    async def prepare(self, call: Call) -> Dispatch:
        """See `HttpAdapter`; raises `UpstreamAuth` where there are no credentials."""
        dispatch = self._translated(call)
        if self._signer is None:
            return dispatch
        headers = await self._signer.headers(
            self.url + dispatch.path, dispatch.body, call.content_type
        )
        self.guard(headers)
        return msgspec.structs.replace(dispatch, headers={**dispatch.headers, **headers})

    def _translated(self, call: Call) -> Dispatch:
        if call.endpoint not in speaks(call.model):
            raise invalid("model", f"Amazon Bedrock does not have {call.model!r} for this")
        if call.endpoint == "embeddings":
            return _embed(call)
        if not is_claude(call.model):
            return _converse(call)
        members, dropped = members_of(call)
        members = {"anthropic_version": VERSION, **members}
        if betas := betas_of(call, self._betas):
            members.setdefault("anthropic_beta", betas)
        if call.endpoint == "count_tokens":
            return _count(call, members)
        path = _path(call.model, "invoke-with-response-stream" if call.stream else "invoke")
        reader = ChatReader(call.model) if call.endpoint == "chat" else MessagesReader()
        return Dispatch(
            path=path, body=loose_json.encode(members), reader=_Framed(reader), dropped=dropped
        )

    def error_of(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        """The error that an answer with an error status stands for."""
        return aws_failures.error_of(status, headers, body)

    async def models(self) -> Sequence[str]:
        """None: what there is only another service of Amazon's lists, at another address."""
        return ()

    async def aclose(self) -> None:
        """Close idle connections, and let go of keys that are being fetched."""
        if self._signer is not None:
            await self._signer.aclose()
        await super().aclose()


def _signer(region: str, profile: str | None) -> Signer:
    try:
        from adapters.http.aws_signing import Signer  # most installations do without botocore
    except ImportError as error:
        raise ImportError(f"{error}; install tollway[bedrock], or set 'api_key'") from None
    return Signer(region=region, profile=profile)


def _path(model: str, operation: str) -> str:
    return f"/model/{quote(model, safe='')}/{operation}"


def _converse(call: Call) -> Dispatch:
    translated = converse_request(call)
    return Dispatch(
        path=_path(call.model, "converse-stream" if call.stream else "converse"),
        body=translated.body,
        reader=ConverseReader(call.model),
        dropped=translated.dropped,
    )


def _embed(call: Call) -> Dispatch:
    body, dropped = to_embed(call)
    return Dispatch(
        path=_path(call.model, "invoke"),
        body=body,
        reader=EmbeddingsReader(call.model),
        dropped=dropped,
    )


# --- counting -------------------------------------------------------------------------------------


class _Thinking(msgspec.Struct):
    budget_tokens: int = 0


def _count(call: Call, members: dict[str, Any]) -> Dispatch:
    """The members as an invocation would have them, which must say a maximum."""
    thinking = members.get("thinking")
    try:
        budget = msgspec.json.decode(
            loose_json.encode(thinking or {}), type=_Thinking
        ).budget_tokens
    except msgspec.DecodeError:
        raise invalid("thinking", "it is no object") from None
    invocation = loose_json.encode({"max_tokens": budget + 1, **members})
    body = {"input": {"invokeModel": {"body": invocation}}}
    return Dispatch(
        path=_path(_REGIONS.sub("", call.model), "count-tokens"),
        body=msgspec.json.encode(body),
        reader=_Count(),
    )


class _Counted(msgspec.Struct, rename="camel"):
    input_tokens: int


_counted = msgspec.json.Decoder(_Counted)


class _Count(EventReader):
    """Brings a count into Anthropic's shape."""

    def read_body(self, body: bytes) -> bytes:
        try:
            return msgspec.json.encode({"input_tokens": _counted.decode(body).input_tokens})
        except (ValueError, RecursionError):
            raise MalformedAnswer("the provider's count of tokens is none") from None


# --- streams --------------------------------------------------------------------------------------


class _Chunk(msgspec.Struct):
    event: bytes = msgspec.field(name="bytes")


_chunk = msgspec.json.Decoder(_Chunk)


class _Framed(EventReader):
    """Anthropic's events, each wrapped in base64 within a message of Amazon's."""

    stream_types = frozenset({CONTENT_TYPE})

    def __init__(self, reader: EventReader) -> None:
        super().__init__()
        self._reader = reader
        self._has_said = False

    def decoder(self) -> Decoder:
        """See `Reader`."""
        return EventStreamDecoder()

    def read_payloads(self, payloads: list[bytes]) -> Sequence[bytes]:
        """Raises an error that comes before everything else; a later one is Anthropic's."""
        ready = self._reader.read_payloads([self._event(payload) for payload in payloads])
        self.is_done = self._reader.is_done
        return ready

    def _event(self, payload: bytes) -> bytes:
        if isinstance(payload, FailedPayload):
            error = aws_failures.error_in(payload)
            if not self._has_said:
                raise error
            return _as_anthropic(error)
        self._has_said = True
        try:
            return _chunk.decode(payload).event
        except (ValueError, RecursionError):
            raise MalformedAnswer("a stream message of the provider holds no event") from None

    def read_body(self, body: bytes) -> bytes:
        """See `Reader`."""
        return self._reader.read_body(body)


def _as_anthropic(error: UpstreamError) -> bytes:
    said = {"type": _ANTHROPIC_TYPES.get(type(error), "api_error"), "message": error.message}
    return NamedPayload(msgspec.json.encode({"type": "error", "error": said}), b"error")
