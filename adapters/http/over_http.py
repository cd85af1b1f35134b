"""What every adapter over HTTP does alike: dispatch, errors, framing, redaction, closing.

An adapter says how a call becomes a request (`prepare`), how its answer is read (`Reader`) and what
an error status stands for (`error_of`).
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from types import TracebackType
from typing import Protocol, Required, TypedDict, Unpack

import msgspec

from adapters.base import (
    AdapterError,
    Answer,
    Call,
    ConnectionLost,
    Deadlines,
    Endpoint,
    MalformedAnswer,
    Overloaded,
    UpstreamError,
)
from adapters.http.transport import Response, Transport, open_transport
from adapters.silence import silent
from adapters.wire.failures import error_family, read_error, upstream_error
from adapters.wire.sse import EventDecoder

MAX_ANSWER_BYTES = 64 << 20
MAX_ERROR_BYTES = 1 << 20

EVENT_STREAM = frozenset(
    {"", "text/event-stream", "application/octet-stream", "text/plain"},
)
"""The content types that servers send event streams with; most of them wrongly."""

# How long the end of the body may trail behind the end mark before the connection is given up.
_TRAILER_S = 0.25
# How long the body of an error may take behind its status, which says the most of it.
_ERROR_BODY_S = 5.0
# The headers that hold a secret, by their names; and of the operator's, those that hold none.
_SECRET_NAME = re.compile(r"auth|key|token|secret|cookie|pass", re.IGNORECASE)
_PLAIN_NAME = re.compile(r"agent|accept|version|beta|referer|title", re.IGNORECASE)
# Anything shorter guards nothing, and stands in ordinary text.
_SHORTEST_SECRET = 8
# Credentials that are renewed, of which so many are remembered.
_MOST_PASSING = 32


class Decoder(Protocol):
    """Cuts the bytes of a streamed body into payloads, however they were split."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads that these bytes complete. Raises `MalformedAnswer`."""

    def finish(self) -> bytes | None:
        """The body has ended: the payload that was under way, or None."""


class Reader(Protocol):
    """Brings the answer to one call into the dialect of its endpoint. Made anew for each call."""

    @property
    def stream_types(self) -> Set[str]:
        """The content types a stream may have."""

    @property
    def is_done(self) -> bool:
        """Whether the provider's end mark was seen."""

    @property
    def is_whole(self) -> bool:
        """Whether a body that ends here is a whole answer, end mark or not."""

    def decoder(self) -> Decoder:
        """What cuts a streamed body into the provider's payloads."""

    def read_payloads(self, payloads: list[bytes]) -> Sequence[bytes]:
        """What the provider's payloads stand for: none, or more than came in.

        Raises `UpstreamError` for an error among them where the dialect has another shape for it;
        an error in the shape of the endpoint's dialect may go on as a payload.
        """

    def read_body(self, body: bytes) -> bytes:
        """The whole answer. Raises `MalformedAnswer`, and `UpstreamError` for an error in it."""


class Dispatch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call as this provider is asked: what is posted, and how what comes back is read.

    `path` continues the base URL; `headers` come in addition to the adapter's constant ones.
    """

    path: str
    body: bytes
    reader: Reader
    headers: Mapping[str, str] = {}
    dropped: Sequence[str] = ()


class Account(TypedDict, total=False):
    """Where a provider is, as whom it is asked, and the way there.

    `headers` are sent with every request, and stand before what an adapter sends of itself.
    """

    base_url: Required[str]
    api_key: str | None
    headers: Mapping[str, str] | None
    proxy: str | None
    http2: bool
    ca_bundle: Path | None


class HttpAdapter(ABC):
    """A provider at one base URL."""

    demonstration = False
    speaks: Set[Endpoint]

    def __init__(self, **account: Unpack[Account]) -> None:
        """Raises `ValueError` for a URL, key or header that HTTP cannot carry."""
        api_key = account.get("api_key")
        own = {name.lower(): value for name, value in (account.get("headers") or {}).items()}
        own.pop("content-type", None)  # each call has its own
        constant = {
            "user-agent": "tollway",
            **(self.credentials(api_key) if api_key else {}),
            **own,
        }
        hidden = {name: value for name, value in own.items() if not _PLAIN_NAME.search(name)}
        self._secrets = _secrets([*_hidden(constant), *hidden.values()])
        self._passing_secrets: list[bytes] = []
        self._signs = _signs(self._secrets)
        self._transport: Transport = open_transport(
            account["base_url"],
            headers=constant,
            proxy=account.get("proxy"),
            http2=account.get("http2", False),
            ca_bundle=account.get("ca_bundle"),
        )

    def credentials(self, api_key: str) -> Mapping[str, str]:
        """The header that carries a key."""
        return {"authorization": f"Bearer {api_key}"}

    @abstractmethod
    async def prepare(self, call: Call) -> Dispatch:
        """The request of a call; raises `Unsupported` and `BadRequest` for what has none."""

    @abstractmethod
    async def models(self) -> Sequence[str]:
        """See `adapters.base.Adapter`."""

    def error_of(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        """The error that an answer with an error status stands for."""
        said = read_error(body)
        return upstream_error(
            error_family(status, said.message, said.code, said.type), status, said, headers
        )

    def open(self, call: Call) -> _HttpAnswer:
        """Dispatch a call; see `adapters.base.Adapter`."""
        return _HttpAnswer(self, self._transport, call)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> bytes:
        """What is there: for lists of models and the like."""
        response = await self._transport.get(path, headers or {}, Deadlines())
        try:
            await self.check(response)
            return await response.read_all(MAX_ANSWER_BYTES)
        finally:
            response.close()

    def guard(self, headers: Mapping[str, str]) -> None:
        """Credentials that are renewed: never quoted, like the constant ones.

        Nor are those before them: calls that had these may still be under way.
        """
        known = dict.fromkeys((*_secrets(_hidden(headers)), *self._passing_secrets))
        self._passing_secrets = list(known)[:_MOST_PASSING]
        self._signs = _signs([*self._secrets, *self._passing_secrets])

    async def check(self, response: Response) -> None:
        """Raise the error that an answer with an error status stands for."""
        if not 200 <= response.status < 300:
            body = self._without_secrets(await _error_body(response))
            raise self.redacted(self.error_of(response.status, response.headers, body))

    def redact(self, answer: bytes) -> bytes:
        """A provider's error may quote what it was sent, our own credentials too.

        Only errors are looked at: in an answer, `lm-studio` may be a word and not the key.
        """
        # One key is looked for first: what is long is found sooner than what is short.
        if len(self._signs) < 2 and not self._is_quoted(answer):
            return answer
        return self._without_secrets(answer) if b'"error"' in answer else answer

    def redact_all(self, payloads: Sequence[bytes]) -> Sequence[bytes]:
        """The same for the payloads of a stream."""
        if b'"error"' in b"".join(payloads):
            return [self.redact(payload) for payload in payloads]
        return payloads

    def redacted(self, error: UpstreamError) -> UpstreamError:
        """The error without our credentials, which JSON may have spelled in another way."""
        for name in ("message", "type", "code", "param"):
            said = getattr(error, name)
            if said is not None:
                clean = self._without_secrets(said.encode("utf-8", "surrogatepass"))
                setattr(error, name, clean.decode("utf-8", "replace"))
        error.headers = self.redacted_headers(error.headers)
        error.args = (error.message,)
        return error

    def redacted_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The headers of an answer, some of which go on to the client."""
        said = "\n".join(headers.values()).encode("utf-8", "surrogateescape")
        if not self._is_quoted(said):
            return headers
        clean = self._without_secrets(said)
        values = clean.decode("utf-8", "surrogateescape").split("\n")
        return dict(zip(headers, values, strict=True))

    def _is_quoted(self, answer: bytes) -> bool:
        """Whether one of our secrets stands there."""
        return any(map(answer.__contains__, self._signs))

    def _without_secrets(self, answer: bytes) -> bytes:
        for secret in (*self._secrets, *self._passing_secrets):
            if secret in answer:
                answer = answer.replace(secret, b"[redacted]")
        return answer

    async def aclose(self) -> None:
        """Close idle connections."""
        await self._transport.aclose()


def _hidden(headers: Mapping[str, str]) -> list[str]:
    return [value for name, value in headers.items() if _SECRET_NAME.search(name)]


def _secrets(values: Iterable[str]) -> list[bytes]:
    """What no answer may quote: the longest first, and `Bearer sk-...` without its first word."""
    words = {word for value in values for word in (value, value.rpartition(" ")[2])}
    found = [word.encode() for word in words if len(word) >= _SHORTEST_SECRET]
    return sorted(found, key=len, reverse=True)


def _signs(secrets: Sequence[bytes]) -> Sequence[bytes]:
    """Those without which none of the others can stand anywhere: the last words, mostly."""
    known = set(secrets)
    return [s for s in secrets if (last := s.rpartition(b" ")[2]) == s or last not in known]


class _HttpAnswer:
    """One call, from its dispatch to the end of its answer."""

    __slots__ = (
        "_adapter",
        "_call",
        "_decoder",
        "_is_ended",
        "_reader",
        "_response",
        "_silent_s",
        "_transport",
        "dropped",
    )

    _response: Response
    _reader: Reader
    _decoder: Decoder | None
    dropped: Sequence[str]

    def __init__(self, adapter: HttpAdapter, transport: Transport, call: Call) -> None:
        self._adapter = adapter
        self._transport = transport
        self._call = call
        self._silent_s = call.deadlines.silent_s
        self._is_ended = False

    async def __aenter__(self) -> Answer:
        call = self._call
        adapter = self._adapter
        dispatch = await adapter.prepare(call)
        headers = {"content-type": call.content_type, **dispatch.headers}
        response = await self._transport.post(
            dispatch.path, headers, dispatch.body, call.deadlines, fresh=call.fresh
        )
        reader = dispatch.reader
        try:
            if not 200 <= response.status < 300:
                await adapter.check(response)
            if call.stream:
                await _check_is_stream(adapter, response, reader.stream_types)
        except BaseException:
            response.close()
            raise
        self._response = response
        self._reader = reader
        self._decoder = reader.decoder() if call.stream else None
        self.dropped = dispatch.dropped
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        response = self._response
        try:
            if error is None and self._reader.is_done and not response.is_whole:
                await _read_trailer(response)
        finally:
            response.close()

    @property
    def headers(self) -> Mapping[str, str]:
        return self._adapter.redacted_headers(self._response.headers)

    async def body(self) -> bytes:
        assert not self._call.stream, "this call asked for a stream"
        answer = self._adapter.redact(await self._response.read_all(MAX_ANSWER_BYTES))
        try:
            return self._reader.read_body(answer)
        except UpstreamError as error:
            raise self._adapter.redacted(error) from None

    async def pieces(self) -> bytes:
        return await self._response.read()

    async def payloads(self) -> Sequence[bytes]:
        assert self._decoder is not None, "this call did not ask for a stream"
        reader = self._reader
        silent_since: float | None = None
        while not reader.is_done:
            if self._is_ended:
                if reader.is_whole:
                    return ()
                raise ConnectionLost("the provider's stream ended without its end mark")
            chunk = await self._response.read()
            payloads = self._decoder.feed(chunk) if chunk else self._rest(self._decoder)
            try:
                ready = reader.read_payloads(payloads) if payloads else ()
            except UpstreamError as error:
                raise self._adapter.redacted(error) from None
            if ready:
                return self._adapter.redact_all(ready)
            silent_since = silent(silent_since, self._silent_s)
        return ()

    def _rest(self, decoder: Decoder) -> list[bytes]:
        """The body has ended; its last event may lack the blank line after it."""
        self._is_ended = True
        pending = decoder.finish()
        return [] if pending is None else [pending]


class EventReader:
    """The plainest reader: server-sent events and whole answers go on as they came.

    `is_end` of a subclass tells which payload ends the stream, where `[DONE]` does not.
    """

    stream_types: Set[str] = EVENT_STREAM

    def __init__(self) -> None:
        self.is_done = False

    @property
    def is_whole(self) -> bool:
        """Whether a body that ends here is a whole answer."""
        return self.is_done

    def decoder(self) -> Decoder:
        """What cuts a streamed body into the provider's payloads."""
        return EventDecoder()

    def read_payloads(self, payloads: list[bytes]) -> Sequence[bytes]:
        """See `Reader`."""
        return payloads

    def read_body(self, body: bytes) -> bytes:
        """See `Reader`."""
        return body


async def _check_is_stream(adapter: HttpAdapter, response: Response, kinds: Set[str]) -> None:
    """Refuse an answer that is no event stream, such as an error page with status 200."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in kinds:
        return
    if kind == "application/json":
        body = adapter.redact(await response.read_all(MAX_ANSWER_BYTES))
        said = read_error(body)
        if said.message:
            raise adapter.redacted(
                Overloaded(said.message, status=200, type=said.type, code=said.code)
            )
    raise MalformedAnswer(f"the provider answered a stream request with {kind[:100]!r}")


async def _error_body(response: Response) -> bytes:
    """The body of an error, as far as it comes: the status stands whatever becomes of it."""
    try:
        async with asyncio.timeout(_ERROR_BODY_S):
            return await response.read_all(MAX_ERROR_BYTES)
    except (TimeoutError, AdapterError):
        return b""


async def _read_trailer(response: Response) -> None:
    """Read the end of the body, which keeps the connection for the next request."""
    try:
        async with asyncio.timeout(_TRAILER_S):
            while await response.read():
                pass
    except (TimeoutError, AdapterError):
        return  # the answer was whole; only the connection is not used again
