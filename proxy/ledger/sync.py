"""The ledger for the command line: through the running daemon, or directly where none runs."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec

from proxy.clock import Clock, SystemClock
from proxy.ledger.core import Ledger
from proxy.ledger.errors import LedgerLocked, LedgerRefusal, LedgerUnavailable
from proxy.ledger.folder import LedgerLock, ledger_file, socket_path
from proxy.ledger.frames import MalformedFrame, frames, reply_reader
from proxy.ledger.protocol import (
    AdminOp,
    AdminReply,
    Budgets,
    BudgetState,
    Failed,
    GroupRecord,
    HardScope,
    Hello,
    KeyRecord,
    ListBudgets,
    Op,
    Reply,
    Welcome,
)
from proxy.swaps.core import Swap

_SEQ = 1
_READ_BYTES = 1 << 16
_RETRY_S = 0.05

Exchange = Callable[[Op], Reply]


class SyncLedger:
    """Blocking access to a ledger, one op at a time. Close it, or use it as a context manager."""

    def __init__(self, exchange: Exchange, close: Callable[[], None], *, is_served: bool) -> None:
        """`is_served` says whether it goes through the ledger of a running server."""
        self._exchange = exchange
        self._close = close
        self.is_served = is_served

    def call(self, op: AdminOp) -> AdminReply:
        """Carry out an op. Raises `LedgerRefusal` or `LedgerUnavailable`."""
        reply = self._exchange(op)
        if isinstance(reply, Failed):
            if reply.code == "unavailable":
                raise LedgerUnavailable(reply.message)
            raise LedgerRefusal(reply.code, reply.message)
        if not isinstance(reply, AdminReply):
            raise LedgerUnavailable(f"the ledger gave no answer to {type(op).__name__}")
        return reply

    def keys(self) -> tuple[KeyRecord, ...]:
        """Every key, revoked ones too. Raises `LedgerUnavailable`."""
        return self._welcome().keys

    def swaps(self) -> tuple[Swap, ...]:
        """Every swap that is open or in force. Raises `LedgerUnavailable`."""
        return self._welcome().swaps

    def groups(self) -> tuple[GroupRecord, ...]:
        """Every team and organisation, deleted ones too. Raises `LedgerUnavailable`."""
        return self._welcome().groups

    def _welcome(self) -> Welcome:
        reply = self._exchange(Hello("client", "command line"))
        if not isinstance(reply, Welcome):
            raise LedgerUnavailable("the ledger could not list its keys")
        return reply

    def budgets(self) -> tuple[BudgetState, ...]:
        """Every budget with the balance of its open window. Raises `LedgerUnavailable`."""
        reply = self.call(ListBudgets(0))
        assert isinstance(reply, Budgets)
        return reply.budgets

    def close(self) -> None:
        """Give the ledger up."""
        self._close()

    def __enter__(self) -> SyncLedger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_ledger(
    data_dir: Path, *, wait_s: float = 2.0, timeout_s: float = 5.0, clock: Clock | None = None
) -> SyncLedger:
    """Open the ledger of a data folder, whoever owns it. Blocks.

    Waits up to `wait_s` for an owner that is just starting or stopping, and up to `timeout_s` for
    each answer. Raises `LedgerStartError` where the file cannot be opened, `LedgerLocked` where
    its owner does not answer.
    """
    until = time.monotonic() + wait_s
    while True:
        # The lock comes first: an address without an owner may be that of a copied folder.
        try:
            lock = LedgerLock.acquire(data_dir)
        except LedgerLocked:
            line = _Line(data_dir, timeout_s)
            if line.is_answered():
                return SyncLedger(line.exchange, lambda: None, is_served=True)
            if time.monotonic() >= until:
                raise
            time.sleep(_RETRY_S)
        else:
            return _direct(data_dir, lock, clock or SystemClock())


def _direct(data_dir: Path, lock: LedgerLock, clock: Clock) -> SyncLedger:
    try:
        ledger = Ledger.open(ledger_file(data_dir))
    except BaseException:
        lock.close()
        raise

    def exchange(op: Op) -> Reply:
        ((reply,),) = ledger.apply([[op]], clock.time())
        assert reply is not None  # heartbeats alone have none
        return reply

    def close() -> None:
        try:
            ledger.close()
        finally:
            lock.close()

    return SyncLedger(exchange, close, is_served=False)


class _Line:
    """A blocking connection to the daemon; one for each op, which is short."""

    def __init__(self, data_dir: Path, timeout_s: float) -> None:
        self._data_dir = data_dir
        self._timeout_s = timeout_s
        self._encode = msgspec.msgpack.Encoder().encode

    def is_answered(self) -> bool:
        """Whether somebody listens."""
        try:
            self._connect().close()
        except OSError:
            return False
        return True

    def _connect(self) -> socket.socket:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            line.settimeout(self._timeout_s)
            line.connect(socket_path(self._data_dir))
        except BaseException:
            line.close()
            raise
        return line

    def exchange(self, op: Op) -> Reply:
        """Send one op and wait for its answer, whichever other replies come."""
        hello = Hello("client", "command line")
        try:
            with self._connect() as line:
                ops = [hello] if isinstance(op, Hello) else [hello, _numbered(op)]
                line.sendall(frames([*map(self._encode, ops)]))
                return self._answer(line, isinstance(op, Hello))
        except (OSError, MalformedFrame) as error:
            raise LedgerUnavailable(f"the ledger does not answer: {error}") from error

    def _answer(self, line: socket.socket, to_hello: bool) -> Reply:
        reader = reply_reader()
        while data := line.recv(_READ_BYTES):
            for replies in reader.feed(data):
                for reply in replies:
                    if isinstance(reply, Welcome) == to_hello and _is_answer(reply):
                        return reply
        raise LedgerUnavailable("the ledger closed the connection")


def _numbered(op: Op) -> Op:
    return msgspec.structs.replace(op, seq=_SEQ)


def _is_answer(reply: Reply) -> bool:
    return isinstance(reply, Welcome) or (not isinstance(reply, HardScope) and reply.seq == _SEQ)
