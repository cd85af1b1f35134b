"""What a worker serves by: one revision of the configuration after the other.

A request stays with the revision that it came to, from its first byte to its last. What a revision
shares with the next, such as the adapter of a provider that did not change, stays open; the rest is
closed when its last request has ended.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from proxy.accounts import Account, Accounts
from proxy.app import App
from proxy.engine import Engine
from proxy.http import Receive, Scope, Send
from proxy.inventory import Inventory
from proxy.response_store import ResponseStore
from proxy.targets import CurrentTable, TargetTable

_log = logging.getLogger("tollway")


@dataclass(kw_only=True, eq=False)
class Serving:
    """One revision, as it is served."""

    table: CurrentTable
    accounts: Accounts
    engine: Engine
    app: App
    store: ResponseStore | None
    open_requests: int = field(default=0, init=False)

    def find(self, inventory: Inventory) -> None:
        """Take over what the model host finds; never raises.

        Requests that are under way keep the targets that they have.
        """
        try:
            if self.table.find(inventory):
                self.accounts.complete()
        except Exception:  # what was found before goes on to be served
            _log.exception("what was found on this machine cannot be served")


class Current:
    """The application of the newest revision."""

    def __init__(self, first: Serving) -> None:
        self.serving = first
        """The newest."""
        self._before: list[Serving] = []
        """Those that still have requests."""
        self._closing: set[asyncio.Task[None]] = set()

    def table(self) -> TargetTable:
        """The newest target table."""
        return self.serving.table()

    def find(self, inventory: Inventory) -> None:
        """Take over what the model host finds; never raises."""
        self.serving.find(inventory)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        serving = self.serving
        serving.open_requests += 1
        try:
            await serving.app(scope, receive, send)
        finally:
            serving.open_requests -= 1
            if serving is not self.serving and not serving.open_requests:
                self._end(serving)

    def replace(self, serving: Serving) -> None:
        """Serve by another revision from the next request on."""
        before, self.serving = self.serving, serving
        self._before.append(before)
        if not before.open_requests:
            self._end(before)

    async def aclose(self) -> None:
        """Close everything; there are no requests any more."""
        await asyncio.gather(*self._closing)
        remaining = [*self._before, self.serving]
        while remaining:
            await _close(remaining.pop(), kept=remaining)

    def _end(self, serving: Serving) -> None:
        self._before.remove(serving)
        closing = asyncio.create_task(_close(serving, kept=(*self._before, self.serving)))
        self._closing.add(closing)
        closing.add_done_callback(self._closed)

    def _closed(self, closing: asyncio.Task[None]) -> None:
        self._closing.discard(closing)
        # All of a revision refers to itself, and a worker looks for that rarely: some 10 ms, once.
        gc.collect()


async def _close(serving: Serving, *, kept: Sequence[Serving]) -> None:
    """Close what a revision has to itself."""
    shared: set[Account] = set()
    for other in kept:
        shared.update(other.accounts.by_provider.values())
    for account in serving.accounts.by_provider.values():
        if account not in shared:
            await account.aclose()
    if serving.store is not None and all(other.store is not serving.store for other in kept):
        serving.store.close()
