"""What `local` needs of whoever decides which local models are loaded."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Lessor(Protocol):
    """Whoever knows where a local model is served, and keeps it there for as long as it is used."""

    def lease(self, model: str, *, waits: bool) -> AbstractAsyncContextManager[str]:
        """The address at which `provider/model` is served, for the length of the block.

        Entering waits while the model loads, or others use it; raises `Unavailable`. Where it
        `waits` for no load it raises `NotLoaded`, and the model is loaded all the same.
        """
