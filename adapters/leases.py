"""What `local` needs of whoever decides which local models are loaded."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

KEY_VARIABLE = "LLAMA_API_KEY"
"""Where a model's process finds the key that it asks for, ours and llama-server alike."""


@dataclass(frozen=True, slots=True)
class Served:
    """Where a model's process listens, and the key that it wants to see.

    The key keeps out the web pages of a browser on this machine, which reach loopback ports too.
    """

    url: str
    key: str = field(repr=False)
    backend: str = "llama_server"
    """What runs the model there, as `router.yaml` calls it."""


class Lessor(Protocol):
    """Whoever knows where a local model is served, and keeps it there for as long as it is used."""

    def lease(self, model: str, *, waits: bool) -> AbstractAsyncContextManager[Served]:
        """Where `provider/model` is served, for the length of the block.

        Entering waits while the model loads, or others use it; raises `Unavailable`. Where it
        `waits` for no load it raises `NotLoaded`, and the model is loaded all the same.
        """

    def spoke(self, model: str, tokens: int, seconds: float) -> None:
        """Tell that `provider/model` answered with so many tokens within so many seconds.

        Before the end of its lease.
        """
