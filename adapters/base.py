"""The contract between Tollway and a provider: what is asked, what comes back, what can go wrong.

Each endpoint has one JSON dialect, which its requests and answers are in, whatever the provider
speaks: OpenAI's, but for `messages` and `count_tokens`, which are Anthropic's, and `rerank`, which
is Cohere's (version 2). Every adapter takes `chat` or `embeddings`, or both: OpenAI's chat
completions are the lingua franca. One whose provider speaks another of the dialects takes that
endpoint too (`speaks`), so that nothing is lost by translating there and back.

Chat goes beyond OpenAI's reference where many servers and clients agree on how:

- `reasoning_content` (a message's, or a delta's) is the text of what the model thought;
- `reasoning_details` (a list, as OpenRouter documents it) holds what must go back unchanged with
  it: `{"type": "reasoning.text", "text", "signature"}`, `{"type": "reasoning.encrypted", "data"}`.
  A message has the whole of it; in a stream the text comes as `reasoning_content` alone, and an
  entry with the signature when its text is complete;
- `tool_calls[].extra_content.google.thought_signature` is Gemini's;
- `cache_control` on a content part, a message or a tool is Anthropic's marker;
- `usage.prompt_tokens_details` has `cached_tokens` and `cache_write_tokens`, both parts of
  `prompt_tokens`; `usage.cache_creation.ephemeral_1h_input_tokens` is the part of the latter that
  is kept for an hour.

    AdapterError                 something went wrong upstream; the attempt failed
    |- Unsupported               the provider has no such parameter; nothing was sent
    |- Unavailable               it cannot be asked now, and we know why; nothing was sent
    |  |- NotLoaded              the model is being loaded, and the call was not to wait for it
    |- ConnectFailed             no connection; nothing was sent, nothing can be billed
    |- ConnectionLost            the connection broke before the answer was whole
    |- UpstreamTimeout           a deadline passed (connect, first byte, between bytes ...)
    |- MalformedAnswer           the answer was not what its protocol promises
    |- UpstreamError             the provider answered with an error
       |- BadRequest             the request itself is at fault (any other 4xx)
       |  |- ContextExceeded     it does not fit into the model's context
       |  |- ContentRefused      the provider's content policy refused it
       |- ModelNotFound          the provider does not have this model
       |- UpstreamAuth           the provider refused *our* credentials
       |- RateLimited            the provider asks us to slow down, or our quota is spent
       |- Overloaded             the provider is overloaded or failing (5xx)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

Endpoint = Literal[
    "chat",
    "messages",
    "count_tokens",
    "responses",
    "completions",
    "embeddings",
    "rerank",
    "moderations",
    "images",
    "transcriptions",
    "speech",
]
"""What is asked for, and the dialect it is asked in."""


Prefill = Literal["plain", "prefix", "partial", "continue"]
"""How a provider is asked to go on with a text that the last message, the assistant's, begins.

`plain`: by that message alone; `prefix` and `partial`: by a member of that name in it;
`continue`: by `continue_final_message` beside the messages, and no `add_generation_prompt`.
"""


class AdapterError(Exception):
    """An attempt failed.

    `dispatched` says whether bytes of the request may have reached the provider, and so whether
    it may bill; `retry_elsewhere` whether another target could do better.
    """

    dispatched: bool = True
    retry_elsewhere: bool = True

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Unsupported(AdapterError):
    """The request has a parameter that cannot be carried to this provider; `param` names it."""

    dispatched = False

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param


class Unavailable(AdapterError):
    """The model cannot be asked now, and the message says why; in `retry_s` it may be, if known."""

    dispatched = False

    def __init__(self, message: str, *, retry_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class NotLoaded(Unavailable):
    """The model is being loaded for calls to come; this one was not to wait for it."""


class ConnectFailed(AdapterError):
    """No connection could be made (refused, unresolved, TLS failed)."""

    dispatched = False


class ConnectionLost(AdapterError):
    """The connection broke before the answer was whole.

    `stale` marks a kept-alive connection which the server closed before it answered one byte:
    most likely it never read the request.
    """

    def __init__(self, message: str, *, stale: bool = False) -> None:
        super().__init__(message)
        self.stale = stale


class UpstreamTimeout(AdapterError):
    """A deadline passed; `phase` names which.

    The first three are those of adapters. Whoever calls them has those to the first token of a
    stream, of the `whole` attempt, and of the `request`, after which there is no time for another.
    """

    def __init__(
        self,
        message: str,
        *,
        phase: Literal["connect", "first_byte", "idle", "first_token", "whole", "request"],
    ) -> None:
        super().__init__(message)
        self.phase = phase
        self.dispatched = phase != "connect"
        self.retry_elsewhere = phase != "request"


class MalformedAnswer(AdapterError):
    """The answer broke its protocol: bad framing, bad JSON, a redirect, a body without bound."""


class UpstreamError(AdapterError):
    """The provider answered with an error status.

    `status` is the provider's HTTP status; `type`, `code`, `param` come from its error body where
    it had them. `headers` holds only what clients act on: `retry-after*`, `x-should-retry`,
    `x-ratelimit-*`. Never credentials.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str | None = None,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.code = code
        self.param = param
        self.headers: Mapping[str, str] = headers or {}


class BadRequest(UpstreamError):
    """The provider says the request itself is at fault; another target would say the same."""

    retry_elsewhere = False


class ContextExceeded(BadRequest):
    """The request does not fit into the model's context."""


class ContentRefused(BadRequest):
    """The provider's content policy refused the request."""


class ModelNotFound(UpstreamError):
    """The provider does not have this model."""


class UpstreamAuth(UpstreamError):
    """The provider refused the credentials that the operator configured."""


class RateLimited(UpstreamError):
    """The provider asks us to slow down, or the operator's quota there is spent."""


class Overloaded(UpstreamError):
    """The provider is overloaded, down or failing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deadlines:
    """Seconds an attempt may take: to connect, to the first answer byte, between bytes.

    `silent_s` is how long a stream may bring bytes and say nothing: comments, pings.
    """

    connect_s: float = 10.0
    first_byte_s: float = 120.0
    idle_s: float = 60.0
    silent_s: float = 300.0


class Call(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One dispatch: what an adapter needs to know to open it.

    `body` is a complete request in the endpoint's dialect whose `model` is already the provider's
    own name for the model: JSON in UTF-8, unless `content_type` says otherwise. `stream` tells
    which kind of answer it asks for. `headers` are the client's own for this provider (such as
    `anthropic-beta`). `default_max_tokens` is for a provider that must be told a maximum and a
    request that sets none. With `drop_params` a parameter that cannot be carried is left out and
    named in `Answer.dropped`; without it the adapter raises `Unsupported`. `waits` tells whether it
    waits for a model that has to be loaded, or fails with `NotLoaded`. `context_length` is the one
    that the operator wants a model to have which can have several; None leaves it to the adapter. A
    `fresh` one goes over a connection that was not used before, as far as the adapter has a say.
    """

    endpoint: Endpoint
    model: str
    body: bytes
    stream: bool
    deadlines: Deadlines
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    content_type: str = "application/json"
    default_max_tokens: int | None = None
    drop_params: bool = False
    waits: bool = True
    context_length: int | None = None
    fresh: bool = False


class Answer(Protocol):
    """What a provider sends back for one `Call`, status 2xx.

    Exactly one of the three readers is used: `payloads` of a call that streams, `pieces` of one
    for speech, otherwise `body`. All raise `AdapterError`s only.
    """

    @property
    def headers(self) -> Mapping[str, str]:
        """The provider's reply headers, names in lower case."""

    @property
    def dropped(self) -> Sequence[str]:
        """The paths of what the provider was not told, such as `logit_bias`."""

    async def body(self) -> bytes:
        """The whole answer of a call that does not stream."""

    async def payloads(self) -> Sequence[bytes]:
        """The next complete payloads of a stream, as many as are at hand; at least one.

        Each is the JSON of one event of the endpoint's dialect, without a provider's end mark.
        Empty exactly once, after that mark (OpenAI's `[DONE]`, or what the dialect has in its
        place). A stream that ends without its mark raises `ConnectionLost`.
        """

    async def pieces(self) -> bytes:
        """The next bytes of an answer that is no text, as they come; empty at its end."""


class Adapter(Protocol):
    """A provider: opens calls and closes what it opened.

    The context manager that `open` returns closes the upstream when it is left, at once and
    without waiting for the provider, even while the task is being cancelled.
    """

    @property
    def demonstration(self) -> bool:
        """True where answers are made up: never chosen while a real target is configured."""

    @property
    def speaks(self) -> Set[Endpoint]:
        """The endpoints whose calls it takes."""

    def open(self, call: Call) -> AbstractAsyncContextManager[Answer]:
        """Dispatch the call. Entering raises an `AdapterError` unless the provider said 2xx."""

    async def models(self) -> Sequence[str]:
        """The model names the provider lists; raises `AdapterError`."""

    async def aclose(self) -> None:
        """Close idle connections."""
