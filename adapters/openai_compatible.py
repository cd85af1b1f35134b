"""`openai_compatible`: OpenAI, and every server that speaks its dialect at some base URL."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from adapters.base import (
    AdapterError,
    Answer,
    BadRequest,
    Call,
    ConnectionLost,
    ContentRefused,
    ContextExceeded,
    Deadlines,
    MalformedAnswer,
    ModelNotFound,
    Overloaded,
    RateLimited,
    UpstreamAuth,
    UpstreamError,
)
from adapters.sse import EventDecoder, NamedPayload
from adapters.transport import Response, Transport, open_transport

MAX_ANSWER_BYTES = 64 << 20
MAX_ERROR_BYTES = 1 << 20

_PATHS = {"chat": "/chat/completions", "embeddings": "/embeddings"}
_DONE = b"[DONE]"
# Below this many bytes a payload may be blank, or the end mark with blanks around it.
_SHORTEST_CHUNK = 32
# What clients act on; nothing else of an error's headers leaves the adapter.
_ERROR_HEADERS = ("retry-after", "x-should-retry", "x-ratelimit-")
# How long the end of the body may trail behind `[DONE]` before the connection is given up.
_TRAILER_S = 0.25
# How long the body of an error may take behind its status, which says the most of it.
_ERROR_BODY_S = 5.0
_LONGEST_MESSAGE = 2000

# What servers call the same thing in their error messages.
_CONTEXT = re.compile(
    r"context[ _](length|window|size)|maximum number of tokens|too many tokens"
    r"|prompt is too long|reduce the length",
    re.IGNORECASE,
)
_CONTENT = re.compile(r"content[ _](filter|policy|management)|moderation|flagged", re.IGNORECASE)
_MODEL = re.compile(r"model|deployment", re.IGNORECASE)
_LIMIT_CODES = ("rate_limit_exceeded", "insufficient_quota")
# The operator's headers that hold a secret, by their names.
_SECRET_NAME = re.compile(r"auth|key|token|secret|cookie|pass", re.IGNORECASE)
# Anything shorter guards nothing, and stands in ordinary text.
_SHORTEST_SECRET = 8


class OpenAICompatible:
    """One base URL with one key."""

    demonstration = False

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        http2: bool = False,
        ca_bundle: Path | None = None,
    ) -> None:
        """Raises `ValueError` for a URL, key or header that HTTP cannot carry."""
        own = {name.lower(): value for name, value in (headers or {}).items()}
        constant = {"content-type": "application/json", "user-agent": "tollway"}
        if api_key:
            constant["authorization"] = f"Bearer {api_key}"
        constant |= own
        self._secrets = _secrets(constant)
        self._transport: Transport = open_transport(
            base_url, headers=constant, proxy=proxy, http2=http2, ca_bundle=ca_bundle
        )

    def open(self, call: Call) -> _Opened:
        """Dispatch a call; see `adapters.base.Adapter`."""
        return _Opened(self, self._transport, call)

    async def models(self) -> Sequence[str]:
        """The ids that `GET /models` lists."""
        response = await self._transport.get("/models", {}, Deadlines())
        try:
            if response.status != 200:
                raise await self.error(response)
            body = await response.read_all(MAX_ANSWER_BYTES)
        finally:
            response.close()
        try:
            listed = _models.decode(body)
        except (ValueError, RecursionError):
            raise MalformedAnswer(
                "the provider's list of models is not what it should be"
            ) from None
        models = listed if isinstance(listed, list) else listed.data
        return tuple(model.id for model in models or ())

    async def aclose(self) -> None:
        """Close idle connections."""
        await self._transport.aclose()

    async def error(self, response: Response) -> UpstreamError:
        """The error that an answer with an error status stands for."""
        said = _read_error(self._without_secrets(await _error_body(response)))
        status = response.status
        kind = error_family(status, said.message, said.code)
        message = said.message or f"the provider answered with HTTP status {status}"
        if kind is UpstreamAuth:
            message = "the provider refused the credentials that are configured for it"
        headers = {
            name: value
            for name, value in response.headers.items()
            if name.startswith(_ERROR_HEADERS)
        }
        return kind(
            message,
            status=status,
            type=said.type,
            code=said.code,
            param=said.param,
            headers=headers,
        )

    def redact(self, answer: bytes) -> bytes:
        """A provider's error may quote what it was sent, our own credentials too.

        Only errors are looked at: in an answer, `lm-studio` may be a word and not the key.
        """
        return self._without_secrets(answer) if b'"error"' in answer else answer

    def _without_secrets(self, answer: bytes) -> bytes:
        for secret in self._secrets:
            if secret in answer:
                answer = answer.replace(secret, b"[redacted]")
        return answer


def _secrets(headers: Mapping[str, str]) -> list[bytes]:
    """What no answer may quote: the longest first, and `Bearer sk-...` without its first word."""
    values = [value for name, value in headers.items() if _SECRET_NAME.search(name)]
    words = {word for value in values for word in (value, value.rpartition(" ")[2])}
    found = [word.encode() for word in words if len(word) >= _SHORTEST_SECRET]
    return sorted(found, key=len, reverse=True)


class _Model(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_Model] | None = None


_models = msgspec.json.Decoder(_ModelList | list[_Model])


class _Opened:
    """One call, from its dispatch to the end of its answer."""

    def __init__(self, adapter: OpenAICompatible, transport: Transport, call: Call) -> None:
        self._adapter = adapter
        self._transport = transport
        self._call = call
        self._response: Response | None = None
        self._answer: _StreamAnswer | None = None

    async def __aenter__(self) -> Answer:
        call = self._call
        response = await self._transport.post(
            _PATHS[call.endpoint], call.headers, call.body, call.deadlines
        )
        self._response = response
        try:
            if not 200 <= response.status < 300:
                raise await self._adapter.error(response)
            if not call.stream:
                return _WholeAnswer(self._adapter, response)
            await _check_is_stream(self._adapter, response)
        except BaseException:
            response.close()
            raise
        self._answer = _StreamAnswer(self._adapter, response)
        return self._answer

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._response is not None
        try:
            if error is None and self._answer is not None and self._answer.is_done:
                await _read_trailer(self._response)
        finally:
            self._response.close()


class _WholeAnswer:
    def __init__(self, adapter: OpenAICompatible, response: Response) -> None:
        self._adapter = adapter
        self._response = response

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def body(self) -> bytes:
        return self._adapter.redact(await self._response.read_all(MAX_ANSWER_BYTES))

    async def payloads(self) -> Sequence[bytes]:
        raise AssertionError("this call did not ask for a stream")


class _StreamAnswer:
    def __init__(self, adapter: OpenAICompatible, response: Response) -> None:
        self._adapter = adapter
        self._response = response
        self._decoder = EventDecoder()
        self._is_ended = False
        self.is_done = False
        """Whether `[DONE]` was seen."""

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def body(self) -> bytes:
        raise AssertionError("this call asked for a stream")

    async def payloads(self) -> Sequence[bytes]:
        while not self.is_done:
            if self._is_ended:
                raise ConnectionLost("the provider's stream ended without its end mark")
            chunk = await self._response.read()
            payloads = self._decoder.feed(chunk) if chunk else self._rest()
            if payloads and (ready := self._usable(payloads)):
                return ready
        return ()

    def _rest(self) -> list[bytes]:
        """The body has ended; its last event may lack the blank line after it."""
        self._is_ended = True
        pending = self._decoder.finish()
        return [] if pending is None else [pending]

    def _usable(self, payloads: list[bytes]) -> Sequence[bytes]:
        """The payloads before the end mark, without those that say nothing."""
        ready: list[bytes] = []
        for payload in payloads:
            if isinstance(payload, NamedPayload):
                payload = _unnamed(payload)
            if len(payload) < _SHORTEST_CHUNK:
                payload = payload.strip()
            if payload == _DONE:
                self.is_done = True
                break
            if payload:
                ready.append(self._adapter.redact(payload))
        return ready


def _unnamed(payload: NamedPayload) -> bytes:
    """The payload of an event with a name: OpenAI's dialect has none, but servers send some."""
    if payload.event == b"ping":
        return b""
    if payload.event != b"error":
        return payload
    said = _read_error(payload)
    text = said.message or payload.decode(errors="replace")
    error = {"message": text, "type": said.type, "param": said.param, "code": said.code}
    return msgspec.json.encode({"error": error})


async def _check_is_stream(adapter: OpenAICompatible, response: Response) -> None:
    """Refuse an answer that is no event stream, such as an error page with status 200."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("", "text/event-stream", "application/octet-stream", "text/plain"):
        return
    if kind == "application/json":
        said = _read_error(adapter.redact(await response.read_all(MAX_ANSWER_BYTES)))
        if said.message:
            raise Overloaded(said.message, status=200, type=said.type, code=said.code)
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


class _Said(msgspec.Struct):
    """An error body, read as far as it can be."""

    message: str = ""
    type: str | None = None
    code: str | None = None
    param: str | None = None


def _read_error(body: bytes) -> _Said:
    """`{"error": {...}}` and the shapes that are sent in its place; nothing of an HTML page."""
    try:
        value: Any = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return _Said()
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return _Said()
    error = value.get("error") or value
    if not isinstance(error, dict):
        return _Said(message=_text(error) or "")
    return _Said(
        message=_text(error.get("message") or error.get("detail")) or "",
        type=_text(error.get("type")),
        code=_text(error.get("code")),
        param=_text(error.get("param")),
    )


def _text(value: object) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text[:_LONGEST_MESSAGE]


def error_family(status: int, message: str, code: str | None) -> type[UpstreamError]:
    """Which of our errors an HTTP status and the words of an OpenAI-like error stand for."""
    if status in (402, 429) or code in _LIMIT_CODES:
        return RateLimited
    if status in (408, 498) or status >= 500:
        return Overloaded
    if status in (400, 413, 422) and (
        code == "context_length_exceeded" or _CONTEXT.search(message)
    ):
        return ContextExceeded
    if status in (400, 403, 422) and _CONTENT.search(f"{code} {message}"):
        return ContentRefused
    if code == "model_not_found" or (status == 404 and _MODEL.search(message)):
        return ModelNotFound
    if status in (401, 403):
        return UpstreamAuth
    return UpstreamError if status in (404, 405) else BadRequest
