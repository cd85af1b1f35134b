"""Writes down what is asked, where the operator wants that: off the way of the requests.

A request costs its own worker the reading of its prompt, which most policies do anyway; what it is
taken to be, and the writing, happen in a thread, a batch at a time. What was not written when a
process is killed is lost: a second of it at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from concurrent.futures import ThreadPoolExecutor

from policies.base import Analysis, Prompt
from proxy.asked import Asked, asked
from proxy.clock import Clock
from proxy.config import Logging
from proxy.request_store import RequestStore
from proxy.routing import Decision, conversation_of
from proxy.swaps.core import Swap
from proxy.wire.dialect import Request
from proxy.wishes import Wishes

_DAY_S = 86_400
_EVERY_S = 1.0
_TIDY_EVERY_S = 600.0
# More than these are not kept waiting for a disk that does not come along.
_MOST_WAITING = 10_000

_logger = logging.getLogger("tollway")


class RequestRecorder:
    """Keeps what is asked, as `settings` say. One per worker."""

    def __init__(self, store: RequestStore, settings: Logging, secret: bytes, clock: Clock) -> None:
        self._store = store
        self._settings = settings
        self._secret = secret
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="requests")
        self._waiting: list[tuple[Asked, Prompt, Analysis | None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._has_failed = False

    def follow(self, settings: Logging) -> None:
        """Go by other settings."""
        self._settings = settings

    def add(
        self,
        decision: Decision,
        request: Request,
        *,
        request_id: str,
        key_id: str,
        scopes: tuple[str, ...],
        wishes: Wishes,
        tier: str,
        swap: Swap | None,
    ) -> None:
        """Write a decision on a request down, some time soon; one that named a target is none."""
        if not decision.model or len(self._waiting) >= _MOST_WAITING:
            return
        prompt = decision.question.prompt
        if not prompt.turns:
            prompt = request.prompt()
        question = asked(
            decision,
            request_id=request_id,
            at=self._clock.time(),
            key_id=key_id,
            scopes=scopes,
            capability=request.capability,
            prompt=prompt,
            conversation=conversation_of(self._secret, key_id, prompt),
            wishes=wishes,
            tier=tier,
            swap=None if swap is None else swap.swap_id,
        )
        self._waiting.append((question, prompt, decision.question.analysis))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._write)

    def _write(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, []
        self._thread.submit(self._put, waiting)

    async def tidy(self) -> None:
        """Forget what is too old.

        Also where nothing is written any more: what was promised holds of what is there.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._tidy)

    async def tidy_always(self) -> None:
        """Tidy now and then; for one worker of a server."""
        while True:
            await self.tidy()
            await asyncio.sleep(_TIDY_EVERY_S)

    def close(self) -> None:
        """Write what waits, and close the file. May block for as long as the disk takes."""
        if self._timer is not None:
            self._timer.cancel()
        if self._waiting:
            self._write()
        self._thread.shutdown()
        self._store.close()

    # --- in the thread ---------------------------------------------------------------------

    def _put(self, waiting: list[tuple[Asked, Prompt, Analysis | None]]) -> None:
        keeps = self._settings.prompts
        try:
            self._store.put(
                [
                    (question.completed(prompt, analysis), prompt if keeps else None)
                    for question, prompt, analysis in waiting
                ]
            )
            self._has_failed = False
        except Exception as error:  # the end of the thread's work: nobody else hears of it
            if not self._has_failed:  # once for a trouble, not for each batch that it spoils
                _logger.warning("requests are not written down: %s", error)
            self._has_failed = True

    def _tidy(self) -> None:
        before = self._clock.time() - self._settings.days * _DAY_S
        with contextlib.suppress(sqlite3.Error):  # next time
            while self._store.exists and self._store.tidy(before):
                pass
