"""Credentials that age: fetched in a thread, which may block, and renewed in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
State = Literal["fresh", "ageing", "stale"]


class Renewed(Generic[T]):
    """One value and how to have a newer one; one fetch at a time, whoever waits for it.

    A value that is ageing is still given out while its successor is fetched. What `fetch` raises
    is raised to those who have no other value.
    """

    def __init__(self, fetch: Callable[[], T], state_of: Callable[[T], State]) -> None:
        self._fetch = fetch
        self._state_of = state_of
        self._value: T | None = None
        self._state: State = "stale"
        self._fetching: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The value; waits only where there is none that is good."""
        if self._fetching is None:
            # Not asked while a fetch is under way: it may change what the state is told from.
            self._state = "stale" if self._value is None else self._state_of(self._value)
            if self._value is not None and self._state == "fresh":
                return self._value
            self._fetching = asyncio.create_task(asyncio.to_thread(self._fetch))
            self._fetching.add_done_callback(self._take)
        if self._value is not None and self._state == "ageing":
            return self._value
        # Whoever leaves while waiting does not take the value from the others.
        return await asyncio.shield(self._fetching)

    @property
    def is_fetching(self) -> bool:
        """Whether a newer value is on its way."""
        return self._fetching is not None

    def _take(self, fetched: asyncio.Task[T]) -> None:
        self._fetching = None
        if not fetched.cancelled() and fetched.exception() is None:
            self._value = fetched.result()

    async def aclose(self) -> None:
        """Let go of a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
