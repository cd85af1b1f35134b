"""Work that may block for good, as on a disk that no longer answers, beside an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")


async def aside(work: Callable[[], T], *, limit_s: float) -> T:
    """What `work` returns or raises; `TimeoutError` after `limit_s`."""
    async with asyncio.timeout(limit_s):
        return await _begun(work)


class Background(Generic[T]):
    """One piece of work at a time: what never ends keeps one thread, however often it is begun."""

    def __init__(self) -> None:
        self._running: asyncio.Future[T] | None = None

    async def run(self, work: Callable[[], T], within_s: float) -> T | None:
        """Its result; None where it takes longer, or what began earlier still goes on."""
        if self._running is not None and not self._running.done():
            return None
        running = self._running = _begun(work)
        done, _ = await asyncio.wait([running], timeout=within_s)
        return running.result() if done else None  # another one may run by now


def _begun(work: Callable[[], T]) -> asyncio.Future[T]:
    """What `work` will return or raise, from a thread of its own.

    The end of the process does not wait for that thread, as it would for one of a pool.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            told = partial(result.set_result, work())
        except Exception as error:  # it is for whoever waits
            told = partial(result.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(lambda: None if result.done() else told())

    threading.Thread(target=run, name="aside", daemon=True).start()
    return result
