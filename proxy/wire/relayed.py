"""What the requests have in common that go on as they are, only to targets that speak them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import msgspec

from adapters.base import Endpoint, Unsupported
from policies.base import NO_PROMPT, Capability, Prompt
from proxy.pricing import NO_UNITS, Units
from proxy.wire.body import Body
from proxy.wire.dialect import Facts, Identity, Sent, Stream, Upstream, Whole

# What a model may add to what it is sent: an instruction of its own, special tokens.
PROMPT_TOKENS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Relayed(ABC):
    """A request, and what routing and money had to know of it.

    `text_bytes` bounds the tokens of its text, `images` are those it sends.
    """

    endpoint: Endpoint
    capability: Capability
    model: str
    text_bytes: int
    stream: bool = False
    max_output_tokens: int | None = 0
    n: int = 1
    images: int = 0
    units: Units = NO_UNITS
    unbounded: str | None = None
    reasons: bool = False
    service_tier: str | None = None
    user: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def needs(self) -> frozenset[Capability]:
        """What a target must be able to do."""
        return frozenset({self.capability})

    @property
    def input_tokens(self) -> int:
        """Routing's estimate of the input: a quarter of the bytes. Never used for money."""
        return self.text_bytes // 4

    def unbounded_at(self, speaks: Set[Endpoint]) -> str | None:
        """The same at every target."""
        return self.unbounded

    def input_bound(self, image_tokens: int) -> int:
        """An upper bound of the input in tokens, where one image is at most `image_tokens`."""
        return self.text_bytes + PROMPT_TOKENS + self.images * image_tokens

    def texts(self) -> tuple[list[str], int]:
        """None: these models' tokens are not counted here."""
        return [], 0

    def prompt(self) -> Prompt:
        """Nothing: what it is for is plain from the endpoint."""
        return NO_PROMPT

    def preferences(self) -> None:
        """None: OpenRouter has them for chats."""
        return

    def upstream(self, target: Upstream) -> Sent:
        """The request with `model` changed; raises `Unsupported` where the target lacks it."""
        if self.endpoint not in target.speaks:
            raise Unsupported(
                f"its provider's adapter has no endpoint for {self.endpoint}", param="model"
            )
        return self.sent(target.model)

    @abstractmethod
    def sent(self, model: str) -> Sent:
        """The request for the model with this name."""

    @abstractmethod
    def read_whole(
        self, sent: Endpoint, body: bytes, identity: Identity, *, reads_cost: bool
    ) -> tuple[Facts, Whole | None]:
        """See `proxy.wire.dialect.Request`."""

    def read_stream(self, sent: Endpoint, identity: Identity, *, reads_cost: bool) -> Stream:
        """See `proxy.wire.dialect.Request`."""
        raise AssertionError(f"{self.endpoint} are not streamed")


@dataclass(frozen=True, kw_only=True, slots=True)
class RelayedJson(Relayed):
    """One whose body is JSON. `withheld` are members that are ours, and what is left of them."""

    body: Body
    withheld: Mapping[str, bytes | None] = field(default_factory=dict)

    def sent(self, model: str) -> Sent:
        """The client's members with `model` changed."""
        changes = {"model": msgspec.json.encode(model), **self.withheld}
        return Sent(endpoint=self.endpoint, body=self.body.join(changes))


NOTHING = (b"null", b"false", b"[]", b'""')
"""Values of a parameter that ask for nothing."""


def named_in(body: Body, names: tuple[str, ...]) -> str | None:
    """The first of these parameters that a body asks for something with."""
    if body.members.keys().isdisjoint(names):  # nearly always, and at once
        return None
    present = (name for name in names if name in body.members)
    return next((name for name in present if bytes(body.members[name]) not in NOTHING), None)
