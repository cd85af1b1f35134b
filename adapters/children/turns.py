"""One thread that owns a model, and the requests that take turns on it."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


class Abandoned(Exception):
    """Whoever asked is gone: the turn ends where it is."""


class _Turn:
    """A request's place in the queue; `post` may be called from the model's thread only."""

    def __init__(self, work: Callable[[], Iterable[bytes]]) -> None:
        self.work = work
        self.is_abandoned = False
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()

    def post(self, piece: bytes | BaseException | None) -> None:
        if not self.is_abandoned:
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    async def pieces(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece


class ModelThread:
    """Runs one piece of work after the other, in the order they came.

    A native model used by two threads at once takes the whole process down: all that touches it
    is done here.
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[_Turn | Callable[[], None]] = queue.SimpleQueue()
        self._current: _Turn | None = None
        threading.Thread(target=self._take_turns, name="model", daemon=True).start()

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits for what is being worked at; may be asked in any thread."""
        current = self._current
        return current is not None and current.is_abandoned

    def check(self) -> None:
        """Raise `Abandoned` if nobody waits any more; long work does so every few milliseconds."""
        if self.is_abandoned:
            raise Abandoned

    def call(self, work: Callable[[], T]) -> T:
        """Do `work` in the thread and wait for it; some runtimes must load a model where it runs.

        What it raises is raised here.
        """
        done: Future[T] = Future()

        def errand() -> None:
            try:
                done.set_result(work())
            except BaseException as error:  # it is for whoever waits
                done.set_exception(error)

        self._waiting.put(errand)
        return done.result()

    @asynccontextmanager
    async def run(self, work: Callable[[], Iterable[bytes]]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The pieces that `work` gives when its turn has come; leaving abandons it.

        What it raises is raised where the pieces are read.
        """
        turn = _Turn(work)
        self._waiting.put(turn)
        try:
            yield turn.pieces()
        finally:
            turn.is_abandoned = True

    def _take_turns(self) -> None:
        while True:
            turn = self._waiting.get()
            if not isinstance(turn, _Turn):
                turn()
                continue
            self._current = turn
            if not turn.is_abandoned:
                self._take(turn)
            self._current = None

    def _take(self, turn: _Turn) -> None:
        try:
            for piece in turn.work():
                self.check()
                turn.post(piece)
            turn.post(None)
        except Abandoned:
            pass
        except Exception as error:  # it is for whoever reads the pieces
            turn.post(error)
