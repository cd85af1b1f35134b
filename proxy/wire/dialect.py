"""What the engine needs to know of the dialect that a client speaks, and nothing of how it does it.

A request (`Request`) says what it asks for and how it goes upstream: as it is where the target
speaks its dialect, otherwise as a chat. It also reads what comes back, whole (`read_whole`) or as a
stream (`Stream`), and writes it in the client's dialect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, Protocol

import msgspec

from adapters.base import AdapterError, Endpoint, Prefill
from policies.base import Capability, Prompt
from proxy.errors import ApiError
from proxy.pricing import Units, Usage
from proxy.wire.preferences import Preferences
from proxy.wire.usage import ReportedCost


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """What a request has to know of its target, and what money makes of it.

    `default_max` is given where the output must be bounded: it is the maximum of a request that
    sets none; `clamp` takes the place of whatever it sets. `ask_usage` says that the provider
    understands `stream_options`. With `drop_params`, what cannot be carried is left out and told.
    `defaults` are members, as JSON, for a chat that lacks them. `prefill` is how it is asked to go
    on with an answer that was begun; None where it cannot be.
    """

    model: str
    speaks: Set[Endpoint] = frozenset({"chat", "embeddings"})
    max_tokens_field: str = "max_tokens"
    default_max: int | None = None
    ask_usage: bool = True
    clamp: int | None = None
    drop_params: bool = False
    defaults: Mapping[str, bytes] = msgspec.field(default_factory=dict)
    prefill: Prefill | None = None


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it goes to one target: in its own dialect, or as a chat.

    `dropped` are the paths of what could not be carried.
    """

    endpoint: Endpoint
    body: bytes
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    content_type: str = "application/json"
    dropped: Sequence[str] = ()


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer is called where the provider does not say: its number, model and time."""

    request_id: str
    model: str
    created: int


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer says of itself; `usage` is None where it reports none.

    `output_bytes` stands for the generated text where its tokens must be estimated. `cost` is
    read only where it is asked for.
    """

    usage: Usage | None
    output_bytes: int
    service_tier: str | None = None
    cost: ReportedCost | None = None


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer as the client gets it."""

    body: bytes
    content_type: bytes = b"application/json"


class Stream(Protocol):
    """One upstream stream on its way to the client: what was seen so far, and what to write."""

    @property
    def usage(self) -> Usage | None:
        """What the provider says it took, as far as it has said so."""

    @property
    def cost(self) -> ReportedCost | None:
        """What the provider says it cost, where that is asked for."""

    @property
    def service_tier(self) -> str | None:
        """The service tier the provider names."""

    @property
    def output_bytes(self) -> int:
        """Bytes of text, reasoning and tool arguments seen so far."""

    @property
    def output_events(self) -> int:
        """In so many events."""

    @property
    def has_payload(self) -> bool:
        """True once something was written that an answer consists of."""

    @property
    def is_finished(self) -> bool:
        """The answer is whole, but for its end mark."""

    def feed_all(self, payloads: Sequence[bytes]) -> tuple[bytes, AdapterError | None]:
        """What the client gets for some payloads, and the failure that cut them short, if any."""

    def end(self) -> bytes:
        """The last events of a stream that ended as it should."""

    def cap(self, reason: dict[str, Any], usage: Usage) -> bytes:
        """The last events of a stream that was cut because a budget had no more for it.

        It ends as if its maximum were reached; `reason` stands beside that as `tollway`.
        """

    def fail(self, error: ApiError) -> bytes:
        """The last event of a stream that broke: never one that looks like an end."""


class Asks(Protocol):
    """What routing has to know of a request: one that is made, or one that was recorded.

    `input_tokens` is routing's estimate, never used for money; `max_output_tokens` is None where
    the client sets none and 0 where there is no output to bound.
    """

    @property
    def capability(self) -> Capability:
        """What a target must be able to do above all."""

    @property
    def stream(self) -> bool: ...  # noqa: D102
    @property
    def needs(self) -> frozenset[Capability]: ...  # noqa: D102
    @property
    def input_tokens(self) -> int: ...  # noqa: D102
    @property
    def max_output_tokens(self) -> int | None: ...  # noqa: D102

    def texts(self) -> tuple[list[str], int]:
        """Texts whose tokens may be counted, and how much of the bound they are uncounted."""

    def prompt(self) -> Prompt:
        """Pieces of what is said, for policies that read it."""


class Request(Asks, Protocol):
    """What a client asks for: what money and targets need besides.

    `endpoint` is the one that was called. `unbounded` names the parameter, if any, whose cost has
    no upper bound that we could hold.
    """

    @property
    def endpoint(self) -> Endpoint: ...  # noqa: D102
    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def n(self) -> int: ...  # noqa: D102
    @property
    def images(self) -> int: ...  # noqa: D102
    @property
    def units(self) -> Units:
        """The most there can be of what is billed by the piece; `NO_UNITS` for most requests."""

    @property
    def unbounded(self) -> str | None: ...  # noqa: D102
    @property
    def reasons(self) -> bool:
        """Whether it asks for reasoning, of which some models show less than they bill."""

    @property
    def service_tier(self) -> str | None: ...  # noqa: D102
    @property
    def user(self) -> str | None: ...  # noqa: D102
    @property
    def tags(self) -> tuple[str, ...]: ...  # noqa: D102

    def unbounded_at(self, speaks: Set[Endpoint]) -> str | None:
        """The same for a target that `speaks` these: what it is never told costs nothing there."""

    def input_bound(self, image_tokens: int) -> int:
        """An upper bound of the input in tokens, where one image is at most `image_tokens`."""

    def preferences(self) -> tuple[Preferences, Request] | None:
        """How its body says that it wants to be routed, and the request without that.

        None where it says nothing; raises `InvalidRequest`.
        """

    def upstream(self, target: Upstream) -> Sent:
        """What goes to a target. Raises `adapters.base.Unsupported`."""

    def read_whole(
        self, sent: Endpoint, body: bytes, identity: Identity, *, reads_cost: bool
    ) -> tuple[Facts, Whole | None]:
        """What a whole answer, in the dialect it was `sent` in, says; and what the client gets.

        The latter is None where the answer is no use, though it may be billed. Raises
        `MalformedAnswer`, or `UpstreamError` for an error in it.
        """

    def read_stream(self, sent: Endpoint, identity: Identity, *, reads_cost: bool) -> Stream:
        """What reads a stream in the dialect that the request was `sent` in."""


class Failures(Protocol):
    """How a dialect tells that something went wrong."""

    @property
    def keepalive(self) -> bytes:
        """What keeps a silent stream open, and every client skips."""

    def status(self, error: ApiError) -> int:
        """The HTTP status."""

    def body(self, error: ApiError, request_id: str) -> bytes:
        """The body of an answer with an error status."""

    def event(self, error: ApiError, request_id: str) -> bytes:
        """The event that ends a stream of which nothing but `keepalive` was sent."""


class OpenAIFailures:
    """OpenAI's: `{"error": {"message", "type", "param", "code"}}`, and the same in a stream."""

    keepalive = b": keepalive\n\n"

    def status(self, error: ApiError) -> int:
        """See `Failures`."""
        return error.status

    def body(self, error: ApiError, request_id: str) -> bytes:
        """See `Failures`."""
        return error.body()

    def event(self, error: ApiError, request_id: str) -> bytes:
        """See `Failures`."""
        return b"data: %b\n\n" % error.body()


OPENAI_FAILURES = OpenAIFailures()
