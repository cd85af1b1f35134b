"""The ledger process: one thread that owns the file and answers on a Unix socket.

Group commit needs no queue and no second thread. Whatever frames arrive while one batch is being
written wait in the kernel, and are the next batch:

- a frame that somebody waits for is committed, with all that was read with it, at the end of the
  loop's turn;
- settlements and heartbeats wait for such a frame to ride along with, for at most 20 ms.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import os
import signal
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec

from proxy.clock import Clock, SystemClock
from proxy.ledger.core import AdvanceSwaps, CloseSession, Ledger, ReleaseExpired, Step
from proxy.ledger.folder import LedgerLock, OwnSocket, ledger_file
from proxy.ledger.frames import MalformedFrame, frames, op_reader
from proxy.ledger.protocol import (
    MAX_FRAME_BYTES,
    GroupChanged,
    Hello,
    KeyChanged,
    Op,
    Outvote,
    Progress,
    Refused,
    Reply,
    Reserve,
    Reserved,
    Settle,
    Settled,
    Welcome,
)
from proxy.ledger.store import Synchronous
from proxy.ledger.waiting import Waiting, WaitingRoom

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """How long the ledger waits for what, in seconds."""

    settle_s: float = 0.02
    """How long a settlement waits for a reserve to be committed with."""
    park_s: float = 2.0
    """How long a reserve waits for money that is only held."""
    resume_s: float = 5.0
    """How long after a start the open holds of a worker wait for it to come back."""
    tick_s: float = 1.0
    """How often expired remainders and abandoned sessions are looked for."""
    last_workers_s: float = 10.0
    """How long the ledger outlives its supervisor for workers that are still connected."""
    flush_s: float = 1.0
    """How long last answers may take to leave on a stop."""
    lock_s: float = 1.0
    """How long a start waits for a command that owns the ledger for a moment."""


def run_ledger(
    data_dir: Path,
    *,
    synchronous: Synchronous = "FULL",
    ready: Callable[[], None] = lambda: None,
    lifeline: int | None = None,
    timings: Timings | None = None,
    clock: Clock | None = None,
) -> None:
    """Own and serve the ledger in `data_dir` until SIGTERM. Call it in a process of its own.

    `ready` is called once, when the socket accepts connections. `lifeline` is the read end of a
    pipe whose other end the supervisor holds: after the supervisor's death, SIGKILL included, the
    ledger serves the workers that are still connected, for at most `last_workers_s`. With a
    lifeline SIGINT is ignored, since a terminal sends it to workers and ledger alike.

    Raises `LedgerStartError` with one line for the user, and whatever ended the service early.
    """
    timings = timings or Timings()
    lock = LedgerLock.acquire(data_dir, wait_s=timings.lock_s)
    try:
        ledger = Ledger.open(ledger_file(data_dir), synchronous=synchronous)
        try:
            listening = OwnSocket.listen(data_dir)
            try:
                with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                    runner.run(
                        _serve(
                            _Daemon(ledger, clock or SystemClock(), timings),
                            listening,
                            ready,
                            lifeline,
                        )
                    )
            finally:
                listening.close()
        finally:
            ledger.close()
    finally:
        lock.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.new_event_loop
    uvloop = importlib.import_module("uvloop")
    return cast(Callable[[], asyncio.AbstractEventLoop], uvloop.new_event_loop)


async def _serve(
    daemon: _Daemon, listening: OwnSocket, ready: Callable[[], None], lifeline: int | None
) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: _Connection(daemon), sock=listening.socket)
    loop.add_signal_handler(signal.SIGTERM, daemon.stop)
    if lifeline is None:
        loop.add_signal_handler(signal.SIGINT, daemon.stop)
    else:
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        loop.add_reader(lifeline, _read_lifeline, loop, lifeline, daemon)
    daemon.start(loop)
    ready()
    try:
        await daemon.stopped
    finally:
        server.close()
        await daemon.finish()


def _read_lifeline(loop: asyncio.AbstractEventLoop, lifeline: int, daemon: _Daemon) -> None:
    if not os.read(lifeline, 64):
        loop.remove_reader(lifeline)
        daemon.outlive_supervisor()


_PATIENT: frozenset[type] = frozenset({Settle, Progress, Outvote})
"""Ops that nobody waits for: they are written with the next that somebody does."""


class _Connection(asyncio.Protocol):
    """One client. Turns bytes into frames of ops and replies into bytes."""

    def __init__(self, daemon: _Daemon) -> None:
        self._daemon = daemon
        self._reader = op_reader()
        self._encode = msgspec.msgpack.Encoder().encode
        self._transport: asyncio.WriteTransport | None = None
        self.has_greeted = False
        self.is_welcome = False
        self.session = 0

    @property
    def is_open(self) -> bool:
        """Whether replies still reach anybody."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register with the daemon."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.set_write_buffer_limits(high=MAX_FRAME_BYTES)
        self._daemon.connected(self)

    def data_received(self, data: bytes) -> None:
        """Hand complete frames on; drop a client that does not speak the protocol."""
        if self._transport is None:
            return
        try:
            arrived = self._reader.feed(data)
            for ops in arrived:
                for op in ops:
                    if (type(op) is Hello) == self.has_greeted:
                        raise MalformedFrame("a connection opens with one Hello, and has no other")
                    self.has_greeted = True
        except MalformedFrame as error:
            _log.error("closed a connection: %s", error)
            self.abort()
            return
        for ops in arrived:
            self._daemon.received(self, ops)

    def pause_writing(self) -> None:
        """Drop a client that does not read what it is sent; its worker is stuck."""
        _log.error("closed a connection: it does not read its replies")
        self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Let the daemon settle what the client left behind."""
        self._transport = None
        self._daemon.disconnected(self)

    def send(self, replies: Sequence[Reply]) -> None:
        """Write the replies as one frame, if the client is still there."""
        if self._transport is not None:
            self._transport.write(frames(list(map(self._encode, replies))))

    def close(self) -> None:
        """Close once everything written has left."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once; what was read later is ignored."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None


class _Frame(msgspec.Struct, frozen=True, eq=False):
    """Steps that are applied together: of a connection, or our own; `waited` is one tried again."""

    steps: Sequence[Step]
    connection: _Connection | None = None
    waited: Waiting[_Connection] | None = None


class _Daemon:
    """Gathers frames into batches, and knows who is connected and who waits."""

    def __init__(self, ledger: Ledger, clock: Clock, timings: Timings) -> None:
        self._ledger = ledger
        self._clock = clock
        self._timings = timings
        self._connections: set[_Connection] = set()
        self._owners: dict[int, _Connection] = {}
        self._room: WaitingRoom[_Connection] = WaitingRoom()
        self._batch: list[_Frame] = []
        self._commit_soon: asyncio.Handle | None = None
        self._commit_later: asyncio.TimerHandle | None = None
        self._has_lost_supervisor = False
        self._has_failed = False
        self._is_stopping = False
        self._is_checkpointed = True
        self._committed_since_tick = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to keep time."""
        self._loop = loop
        self.stopped: asyncio.Future[None] = loop.create_future()
        self._all_closed: asyncio.Future[None] = loop.create_future()
        self._resume_until = loop.time() + self._timings.resume_s
        loop.call_later(self._timings.tick_s, self._tick)

    # --- connections ----------------------------------------------------------------------------

    def connected(self, connection: _Connection) -> None:
        """A client came."""
        self._connections.add(connection)

    def received(self, connection: _Connection, ops: Sequence[Op]) -> None:
        """A client sent a frame."""
        if not ops:
            return
        first = ops[0]
        if type(first) is Hello and first.session:
            self._take_over(first.session)
        self._batch.append(_Frame(ops, connection))
        if self._commit_soon is None:  # else this frame is committed with those before it
            self._schedule(is_urgent=not _PATIENT.issuperset(map(type, ops)))

    def _take_over(self, session: int) -> None:
        """A worker is back: what it sent on an older connection and we have not read is void.

        Else a reserve that it has given up on, and settled, could still be read and admitted.
        """
        older = self._owners.pop(session, None)
        if older is not None:
            older.session = 0
            self._room.leave(older)
            older.abort()

    def disconnected(self, connection: _Connection) -> None:
        """A client is gone: a worker leaves orphans."""
        self._connections.discard(connection)
        self._room.leave(connection)
        if connection.session and not self._is_stopping:
            del self._owners[connection.session]
            self._own_step(CloseSession(connection.session))
        if self._is_stopping and not self._connections and not self._all_closed.done():
            self._all_closed.set_result(None)
        self._stop_if_alone()

    # --- batches --------------------------------------------------------------------------------

    def _own_step(self, step: CloseSession | ReleaseExpired | AdvanceSwaps) -> None:
        self._batch.append(_Frame((step,)))
        self._schedule(is_urgent=True)

    def _schedule(self, *, is_urgent: bool) -> None:
        if self._commit_soon is not None:
            return
        if is_urgent:
            self._commit_soon = self._loop.call_soon(self._commit)
        elif self._commit_later is None:
            self._commit_later = self._loop.call_later(self._timings.settle_s, self._commit)

    def _commit(self) -> None:
        """Apply the batch and answer it. Blocks on the disk, on purpose.

        A thread would cost each request two more wake-ups, and could not do anything useful
        meanwhile: the next batch gathers in the kernel's socket buffers by itself.
        """
        for handle in (self._commit_soon, self._commit_later):
            if handle is not None:
                handle.cancel()
        self._commit_soon = self._commit_later = None
        batch, self._batch = self._batch, []
        try:
            answers = self._ledger.apply([frame.steps for frame in batch], self._clock.time())
            self._answer(batch, answers)
            if self._room.is_used:
                self._retry(self._room.admit(self._ledger.left_nanousd))
        except Exception as error:
            # Not of the disk, so a fault of ours: what was committed is in the file, and a fresh
            # process that reads it is safer than this one.
            self._fail(error)
            raise
        self._is_checkpointed = False
        self._committed_since_tick = True

    def _answer(self, batch: list[_Frame], answers: list[list[Reply | None]]) -> None:
        outgoing: dict[_Connection, list[Reply]] = {}
        for frame, replies in zip(batch, answers, strict=True):
            connection = frame.connection
            if connection is None:
                continue
            sent = outgoing.setdefault(connection, [])
            for step, reply in zip(frame.steps, replies, strict=True):
                if type(reply) is Reserved or type(reply) is Settled:  # nearly all there are
                    sent.append(reply)
                    continue
                if (
                    type(reply) is Refused
                    and reply.held
                    and isinstance(step, Reserve)  # what streams already cannot be made to wait
                    and self._waits(frame, step, reply)
                ):
                    continue
                if type(reply) is Welcome:
                    self._welcome(connection, reply)
                elif type(reply) is KeyChanged or type(reply) is GroupChanged:
                    self._push(msgspec.structs.replace(reply, seq=0), outgoing, asker=connection)
                elif type(step) is Hello:
                    connection.abort()  # it could not be opened; the client will try again
                if reply is not None:
                    sent.append(reply)
        for news in self._ledger.take_news():
            self._push(news, outgoing)
        for connection, sent in outgoing.items():
            if sent:
                connection.send(sent)

    def _welcome(self, connection: _Connection, welcome: Welcome) -> None:
        connection.is_welcome = True
        if not welcome.session:
            return
        if not connection.is_open:
            self._own_step(CloseSession(welcome.session))
            return
        self._take_over(welcome.session)  # in case both greeted in this batch
        connection.session = welcome.session
        self._owners[welcome.session] = connection

    def _push(
        self,
        reply: Reply,
        outgoing: dict[_Connection, list[Reply]],
        *,
        asker: _Connection | None = None,
    ) -> None:
        """Tell everyone else, and after the `Welcome` those who are welcomed in this batch."""
        for connection in self._connections:
            if connection.is_welcome and connection is not asker:
                outgoing.setdefault(connection, []).append(reply)

    # --- waiting for held money -----------------------------------------------------------------

    def _waits(self, frame: _Frame, step: Reserve, refused: Refused) -> bool:
        """Let a refused reserve wait, if it may still; nothing of it is on the disk meanwhile."""
        connection, waiting = frame.connection, frame.waited
        assert connection is not None
        assert refused.budget is not None
        if self._is_stopping or not step.may_wait or (waiting is not None and waiting.is_over):
            return False
        if not connection.is_open:
            return True  # nobody waits for the answer
        if waiting is None:
            waiting = Waiting(
                client=connection,
                reserve=Reserve(step.seq, step.attempt),  # its settlement is done
                budget_id=refused.budget.budget_id,
                needed_nanousd=refused.needed_nanousd,
            )
            self._loop.call_later(self._timings.park_s, self._time_up, waiting)
        waiting.budget_id = refused.budget.budget_id
        waiting.needed_nanousd = refused.needed_nanousd
        self._room.add(waiting)
        return True

    def _time_up(self, waiting: Waiting[_Connection]) -> None:
        waiting.is_over = True
        if self._room.remove(waiting):
            self._retry([waiting])

    def _retry(self, admitted: list[Waiting[_Connection]]) -> None:
        for waiting in admitted:
            self._batch.append(_Frame((waiting.reserve,), waiting.client, waiting))
        if admitted:
            self._schedule(is_urgent=True)

    # --- time -----------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._loop.call_later(self._timings.tick_s, self._tick)
        if self._ledger.is_stale:
            self._commit()  # what was lost from memory may be what is due now
        if self._ledger.has_expired(self._clock.time()):
            self._own_step(ReleaseExpired())
        if self._ledger.has_due_swaps(self._clock.time()):
            self._own_step(AdvanceSwaps())
        # Of workers that did not come back, and those a failing disk kept us from closing.
        if self._loop.time() >= self._resume_until:
            for session in self._ledger.open_sessions() - self._owners.keys():
                self._own_step(CloseSession(session))
        if not self._committed_since_tick and not self._is_checkpointed:
            self._checkpoint()
        self._committed_since_tick = False

    def _checkpoint(self) -> None:
        self._is_checkpointed = True
        try:
            self._ledger.checkpoint()
        except sqlite3.Error as error:
            _log.warning("no checkpoint: %s", error)

    # --- the end --------------------------------------------------------------------------------

    def outlive_supervisor(self) -> None:
        """The supervisor is dead: serve its last workers, not for long."""
        self._has_lost_supervisor = True
        self._loop.call_later(self._timings.last_workers_s, self.stop)
        self._stop_if_alone()

    def _stop_if_alone(self) -> None:
        if self._has_lost_supervisor and not self._owners:
            self.stop()

    def stop(self) -> None:
        """End the service."""
        if not self.stopped.done():
            self.stopped.set_result(None)

    def _fail(self, error: Exception) -> None:
        self._has_failed = True
        if not self.stopped.done():
            self.stopped.set_exception(error)

    async def finish(self) -> None:
        """Answer what was read, commit it, and close the connections.

        What workers left open stays open: they resume their sessions at the next ledger.
        """
        self._is_stopping = True
        self._retry(self._room.empty())
        if self._batch and not self._has_failed:
            self._commit()
        for connection in list(self._connections):
            connection.close()
        if self._connections:
            await asyncio.wait([self._all_closed], timeout=self._timings.flush_s)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)  # lets the aborted ones close
