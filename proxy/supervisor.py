"""`tollway serve`: binds the sockets, starts ledger, model host and workers; restarts what dies.

Children are forked, so that everything is imported once and its memory is shared. The supervisor
itself runs no event loop and no thread, which is what makes forking safe at any time.

A pipe that only the supervisor holds open is every child's lifeline: when it is gone, however it
went, workers finish what they have in flight and end, and then the ledger does.
The model host does too, and its own children with it.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from proxy import worker
from proxy.errors import StartError
from proxy.ledger import daemon
from proxy.ledger.errors import LedgerError
from proxy.ledger.folder import OwnSocket
from proxy.model_host.daemon import run_host
from proxy.model_host.hosted import HostPlan
from proxy.model_host.protocol import SOCKET
from proxy.worker import Plan, say_ready

# A child that dies sooner than this after its start is restarted with growing delays.
_STABLE_S = 10.0
_MAX_DELAY_S = 5.0
_READY_S = 30.0
# A ledger that cannot end its last commit by then loses nothing that was acknowledged, and a local
# model ends with the model host.
_LAST_STOP_S = 10.0
# What the kernel keeps of a reply that its client does not read; Linux takes twice that.
_UNSENT_BYTES = 128 << 10

_log = logging.getLogger("tollway")


@dataclass
class Child:
    """A child process to be kept alive."""

    name: str
    start: Callable[[int], None]
    """Runs in the child; is given the file descriptor to write to when it is ready."""
    pid: int = 0
    started_at: float = 0.0
    failures: int = 0
    restart_at: float = field(default=0.0)

    def fork(self) -> int:
        """Start the process; returns the read end of its ready pipe."""
        ready_read, ready_write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(ready_read)
            _become(self.start, ready_write)
        os.close(ready_write)
        self.pid = pid
        self.started_at = time.monotonic()
        return ready_read

    def died(self) -> None:
        """Note a death and decide when to start again."""
        self.pid = 0
        lived_s = time.monotonic() - self.started_at
        self.failures = 0 if lived_s > _STABLE_S else self.failures + 1
        delay_s = 0.0 if self.failures <= 1 else min(_MAX_DELAY_S, 0.1 * 2**self.failures)
        self.restart_at = time.monotonic() + delay_s


class Supervisor:
    """Keeps one ledger, its workers and what they need running until it is told to stop."""

    def __init__(self, plan: Plan, listener: socket.socket) -> None:
        self._plan = plan
        self._listener = listener
        self._lifeline_read, self._lifeline_write = os.pipe()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._stop_signals = 0
        self._is_stopping = False
        self._ledger = Child("ledger", self._run_ledger)
        self._host: Child | None = None
        self._host_socket: OwnSocket | None = None
        self._workers = [
            Child(f"worker {n}", partial(self._run_worker, n))
            for n in range(plan.config.server.workers)
        ]

    def start_ledger(self) -> None:
        """Start the ledger and wait until it serves; raises `StartError` with its reason."""
        _await_ready(self._ledger)

    def start_host(self) -> None:
        """Start the model host, if there are local models; the ledger's lock is ours by now.

        The socket is ours, so that whoever connects while a host is started anew waits for it.
        """
        if self._plan.host is None:
            return
        self._host_socket = OwnSocket.listen(self._plan.data.path, SOCKET)
        self._host = Child("model host", partial(self._run_host, self._plan.host))
        _await_ready(self._host)

    def start_workers(self) -> None:
        """Start the workers and wait until they accept requests; raises `StartError`."""
        for child in self._workers:
            _await_ready(child)

    def run(self) -> None:
        """Keep the children alive until SIGTERM, SIGINT or SIGHUP, then stop."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            while not self._stop_signals:
                self._reap()
                self._restart()
                selector.select(self._next_restart_s())
                _drain(self._wake_read)
        self.stop()

    def stop(self) -> None:
        """Drain the workers, then end all else. A second signal ends them at once."""
        self._is_stopping = True
        # New callers are refused at once instead of waiting for workers that accept no more.
        self._listener.close()
        seen = self._stop_signals
        _signal(self._workers, signal.SIGTERM)
        give_up_at = time.monotonic() + self._plan.config.server.drain_s + 5.0
        while any(child.pid for child in self._workers):
            self._reap()
            if self._stop_signals > seen or time.monotonic() > give_up_at:
                _signal(self._workers, signal.SIGKILL)
            time.sleep(0.02)
        # The ledger and the model host, which do not need each other.
        _signal(self._children, signal.SIGTERM)
        give_up_at = time.monotonic() + _LAST_STOP_S
        while any(child.pid for child in self._children):
            self._reap()
            if time.monotonic() > give_up_at:
                _signal(self._children, signal.SIGKILL)
            time.sleep(0.02)
        if self._host_socket is not None:
            self._host_socket.close()

    @property
    def _children(self) -> list[Child]:
        host = [] if self._host is None else [self._host]
        return [self._ledger, *host, *self._workers]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._stop_signals += 1

    def _reap(self) -> None:
        for child in self._children:
            if not child.pid:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid == 0:
                continue
            if not self._is_stopping:
                _log.warning("the %s ended (%s); starting it again", child.name, _cause(status))
            if child in self._workers:
                mark_process_dead(pid)  # type: ignore[no-untyped-call] # prometheus-client is partly typed
            child.died()

    def _restart(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if not child.pid and now >= child.restart_at:
                os.close(child.fork())

    def _next_restart_s(self) -> float | None:
        waiting = [c.restart_at for c in self._children if not c.pid]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _run_ledger(self, ready: int) -> None:
        self._close_parents_ends()
        self._listener.close()
        # The terminal sends SIGINT to all of us: the workers need the ledger while they drain.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        daemon.run_ledger(
            self._plan.data.path,
            synchronous=self._plan.config.server.synchronous,
            ready=lambda: say_ready(ready),
            lifeline=self._lifeline_read,
        )

    def _run_host(self, plan: HostPlan, ready: int) -> None:
        assert self._host_socket is not None
        host_socket, self._host_socket = self._host_socket, None
        self._close_parents_ends()
        self._listener.close()
        # The terminal's SIGINT: the workers need the models while they drain.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        run_host(
            plan,
            host_socket.socket,
            ready=lambda: say_ready(ready),
            lifeline=self._lifeline_read,
            loop_factory=worker.new_event_loop,
        )

    def _run_worker(self, number: int, ready: int) -> None:
        self._close_parents_ends()
        worker.run(self._plan, number, self._listener, ready, self._lifeline_read)

    def _close_parents_ends(self) -> None:
        os.close(self._lifeline_write)
        os.close(self._wake_read)
        os.close(self._wake_write)
        if self._host_socket is not None:
            self._host_socket.socket.close()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; raises `StartError` where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it. Left to itself the kernel keeps megabytes for each slow reader.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNSENT_BYTES)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise StartError(
            f"{host}:{port}: cannot listen there ({error.strerror}); "
            "stop what uses the port, or choose another with --port"
        ) from None
    listener.setblocking(False)
    return listener


def _become(start: Callable[[int], None], ready: int) -> None:
    """The rest of a child's life. Its exit status is 0 only where it ended as it should."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # A closing terminal sends it to all of us; what it means is the supervisor's to say.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        start(ready)
        status = 0
    except (StartError, LedgerError) as error:
        if not _report(ready, str(error)):
            _log.error("%s", error)
    except BaseException:
        traceback.print_exc()
    finally:
        # Whatever fails here, a child must never go on in its parent's code.
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _report(ready: int, message: str) -> bool:
    """Tell whoever waits for the start why there is none; False where nobody does."""
    try:
        os.write(ready, message.encode())
    except OSError:
        return False
    return True


def _await_ready(child: Child) -> None:
    """Fork a child and wait for its `.`; anything else it writes is why it cannot start."""
    descriptor = child.fork()
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            if not selector.select(_READY_S):
                raise StartError(f"the {child.name} did not start within {_READY_S:.0f} s")
        said = os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
    if said != b".":
        raise StartError(said.decode(errors="replace") or f"the {child.name} ended at its start")


def _signal(children: list[Child], number: int) -> None:
    for child in children:
        if child.pid:
            os.kill(child.pid, number)


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        return


def _cause(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
