"""What a request of another dialect has of the chat that it stands for."""

from __future__ import annotations

from collections.abc import Set

from adapters.base import Endpoint
from policies.base import Capability, Prompt
from proxy.pricing import Units
from proxy.wire.chat import ChatRequest


class AsChat:
    """The members of `proxy.wire.dialect.Request` that are those of the `chat`."""

    __slots__ = ()
    chat: ChatRequest
    endpoint: Endpoint
    unbounded: str | None

    @property
    def model(self) -> str:
        """The model asked for."""
        return self.chat.model

    @property
    def stream(self) -> bool:
        """Whether the answer is to come as it is generated."""
        return self.chat.stream

    @property
    def needs(self) -> frozenset[Capability]:
        """What a target must be able to do."""
        return self.chat.needs

    @property
    def n(self) -> int:
        """How many answers there may be."""
        return self.chat.n

    @property
    def images(self) -> int:
        """The images in it."""
        return self.chat.images

    @property
    def units(self) -> Units:
        """What is billed by the piece."""
        return self.chat.units

    @property
    def service_tier(self) -> str | None:
        """The service tier asked for, as chat names it."""
        return self.chat.service_tier

    def unbounded_at(self, speaks: Set[Endpoint]) -> str | None:
        """What a chat cannot say is left out of it, and costs nothing."""
        return self.unbounded if self.endpoint in speaks else self.chat.unbounded

    def texts(self) -> tuple[list[str], int]:
        """The texts of the chat: who can count is asked in its dialect."""
        return self.chat.texts()

    def prompt(self) -> Prompt:
        """What the chat says."""
        return self.chat.prompt()

    def preferences(self) -> None:
        """None: OpenRouter has them for chats."""
