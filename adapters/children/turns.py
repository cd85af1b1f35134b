"""One thread that owns a model, and the requests that take turns on it."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


class Abandoned(Exception):
    """Whoever asked is gone: the turn ends where it is."""


# Pieces that come faster are handed on together: to wake the loop and to write to a socket take
# longer than a small model takes for a token.
_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


class _Turn:
    """A request's place in the queue; `post` and `end` are called from the model's thread only."""

    def __init__(self, work: Callable[[], Iterable[bytes]]) -> None:
        self.work = work
        self.is_abandoned = False
        self._loop = asyncio.get_running_loop()
        self._posted: deque[bytes] = deque()
        self._end: _End | None = None
        self._is_awake = asyncio.Event()
        self._is_told = False
        """Whether the loop will look at what is posted without being told again."""

    def post(self, piece: bytes) -> None:
        self._posted.append(piece)
        if not self._is_told:
            self._wake()

    def end(self, error: BaseException | None = None) -> None:
        self._end = _End(error)
        self._wake()

    def _wake(self) -> None:
        self._is_told = True
        if not self.is_abandoned:
            self._loop.call_soon_threadsafe(self._is_awake.set)

    async def pieces(self) -> AsyncIterator[bytes]:
        while True:
            await self._is_awake.wait()
            self._is_awake.clear()
            pieces = list(self._taken())
            if pieces:
                yield b"".join(pieces)
            if self._end is not None and not self._posted:
                if self._end.error is not None:
                    raise self._end.error
                return
            if pieces:
                self._loop.call_later(_PAUSE_S, self._is_awake.set)
                continue
            self._is_told = False
            if self._posted:  # before it could see that
                self._is_awake.set()

    def _taken(self) -> Iterator[bytes]:
        while self._posted:
            yield self._posted.popleft()


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
        """The pieces that `work` gives when its turn has come, some of them joined.

        Leaving abandons it.

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
            turn.end()
        except Abandoned:
            pass
        except Exception as error:  # it is for whoever reads the pieces
            turn.end(error)
