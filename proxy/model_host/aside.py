"""Work that may block for good, as on a disk that no longer answers, beside an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

T = TypeVar("T")


async def aside(work: Callable[[], T], *, limit_s: float) -> T:
    """What `work` returns, from a thread of its own, or raises.

    `TimeoutError` after `limit_s`: the thread is left to itself then, and the end of the process
    does not wait for it, as it would for one of a pool.
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
    async with asyncio.timeout(limit_s):
        return await result
