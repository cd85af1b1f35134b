"""`tollway serve`: binds the sockets, starts ledger, model host and workers; restarts what dies,
and has them serve by another configuration when it is told to.

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
from pathlib import Path
from types import FrameType
from typing import Protocol

from proxy import tallies, worker
from proxy.assembly import Plan
from proxy.config import Server
from proxy.errors import StartError
from proxy.ledger import daemon
from proxy.ledger.errors import LedgerError
from proxy.ledger.folder import OwnSocket
from proxy.model_host import hosted
from proxy.model_host.daemon import run_host
from proxy.model_host.protocol import SOCKET
from proxy.reloading import SOCKET as OWN_SOCKET
from proxy.reloading import FileWatch, Outcome, Wanted, answer_next
from proxy.revisions import Line, Revision, log, tell_all
from proxy.worker import say_ready

# A child that dies sooner than this after its start is restarted with growing delays.
_STABLE_S = 10.0
_MAX_DELAY_S = 5.0
_READY_S = 30.0
# A ledger that cannot end its last commit by then loses nothing that was acknowledged, and a local
# model ends with the model host.
_LAST_STOP_S = 10.0
# What the kernel keeps of a reply that its client does not read; Linux takes twice that.
_UNSENT_BYTES = 128 << 10
# How often a configuration is looked at that is to be read again by itself.
_LOOK_S = 1.0

_log = logging.getLogger("tollway")


class Source(Protocol):
    """Where the configuration comes from."""

    @property
    def path(self) -> Path:
        """The file that would be read now."""

    def read(self, number: int) -> Revision:
        """The file as it is now; raises `StartError`."""

    def plan(self, revision: Revision, before: Plan) -> Plan:
        """What a revision means; raises `StartError`."""

    def check(self, plan: Plan) -> None:
        """Find out what else could be wrong with a plan; raises `StartError`."""

    def apply(self, plan: Plan) -> None:
        """Tell the ledger what it is to keep to; raises `LedgerError`."""


@dataclass
class Child:
    """A child process to be kept alive."""

    name: str
    start: Callable[[int, socket.socket], None]
    """Runs in the child; is given the file descriptor to write to when it is ready, and its end of
    the line."""
    line: Line | None = None
    """Where it is told of revisions, while it lives."""
    pid: int = 0
    started_at: float = 0.0
    failures: int = 0
    restart_at: float = field(default=0.0)

    def fork(self) -> int:
        """Start the process; returns the read end of its ready pipe."""
        ready_read, ready_write = os.pipe()
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(ready_read)
            ours.close()
            _become(partial(self.start, ready_write, theirs), ready_write)
        os.close(ready_write)
        theirs.close()
        self.pid = pid
        self.line = Line(ours)
        self.started_at = time.monotonic()
        return ready_read

    def died(self) -> None:
        """Note a death and decide when to start again."""
        self.pid = 0
        if self.line is not None:
            self.line.close()
            self.line = None
        lived_s = time.monotonic() - self.started_at
        self.failures = 0 if lived_s > _STABLE_S else self.failures + 1
        delay_s = 0.0 if self.failures <= 1 else min(_MAX_DELAY_S, 0.1 * 2**self.failures)
        self.restart_at = time.monotonic() + delay_s


class Supervisor:
    """Keeps one ledger, its workers and what they need running until it is told to stop."""

    def __init__(self, plan: Plan, listener: socket.socket, source: Source) -> None:
        self._plan = plan
        self._listener = listener
        self._source = source
        self._file = FileWatch(lambda: source.path)
        self._own_socket: OwnSocket | None = None
        self._lifeline_read, self._lifeline_write = os.pipe()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._stop_signals = 0
        self._is_told_to_reload = False
        # Closing the terminal that a server was started in ends it, unless that was not to be.
        was_told_to_stay = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._ends_with_terminal = _has_terminal() and not was_told_to_stay
        # From now on, that nobody who tells it to reload as it starts ends it.
        signal.signal(signal.SIGHUP, self._on_signal)
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
        self._own_socket = OwnSocket.listen(self._plan.data.path, OWN_SOCKET)

    def start_host(self) -> None:
        """Start the model host, if there are local models; the ledger's lock is ours by now."""
        self._add_host(self._plan)
        if self._host is not None:
            _await_ready(self._host)

    def _add_host(self, plan: Plan) -> None:
        """Have a model host from now on, if there is something for it to do.

        The socket is ours, so that whoever connects while a host is started anew waits for it.
        """
        if plan.host is not None and self._host is None:
            self._host_socket = OwnSocket.listen(self._plan.data.path, SOCKET)
            self._host = Child("model host", self._run_host)

    def start_workers(self) -> None:
        """Start the workers and wait until they accept requests; raises `StartError`."""
        for child in self._workers:
            _await_ready(child)

    def run(self) -> None:
        """Keep the children alive until SIGTERM or SIGINT, then stop; SIGHUP has them reload."""
        assert self._own_socket is not None
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            asking = selector.register(self._own_socket.socket, selectors.EVENT_READ)
            while not self._stop_signals:
                self._reap()
                self._restart()
                if self._is_told_to_reload or (self._is_watching and self._file.look()):
                    self._is_told_to_reload = False
                    self._answer(Wanted())
                ready = [key for key, _ in selector.select(self._next_look_s())]
                _drain(self._wake_read)
                if asking in ready:
                    answer_next(self._own_socket.socket, self._answer)
        self.stop()

    def stop(self) -> None:
        """Drain the workers, then end all else. A second signal ends them at once."""
        self._is_stopping = True
        # New callers are refused at once instead of waiting for workers that accept no more.
        self._listener.close()
        seen = self._stop_signals
        _signal(self._workers, signal.SIGTERM)
        give_up_at = time.monotonic() + _stop_s(self._plan.config.server)
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
        for own in (self._host_socket, self._own_socket):
            if own is not None:
                own.close()

    # --- another configuration --------------------------------------------------------------

    def _answer(self, wanted: Wanted) -> Outcome:
        """Reload, or say what would become of it; never raises, and what fails changes nothing."""
        try:
            outcome = self._reload(is_dry=wanted.is_dry)
        except (StartError, LedgerError) as error:
            path, problem = str(self._source.path), str(error)
            named = problem if problem.startswith(path) else f"{path}: {problem}"
            outcome = self._outcome(refusal=named)
        except Exception:  # the children serve on by what they have
            _log.exception("the configuration could not be read again")
            outcome = self._outcome(refusal="something went wrong; the log says what")
        if wanted.is_dry:
            return outcome
        if outcome.refusal:
            _log.error(
                "not reloaded: %s; revision %d is served on", outcome.refusal, outcome.revision
            )
        for problem in outcome.problems:
            _log.error("revision %d: %s", outcome.revision, problem)
        if outcome.needs_restart:
            _log.warning("these need a restart: %s", ", ".join(outcome.needs_restart))
        return outcome

    def _reload(self, *, is_dry: bool) -> Outcome:
        if not is_dry:
            self._file.note()
        revision = self._source.read(self._plan.revision + 1)
        plan = self._source.plan(revision, self._plan)
        self._source.check(plan)
        if is_dry:
            return self._outcome(needs_restart=plan.needs_restart)
        self._add_host(plan)  # it will be started like one that has ended
        # Before the workers, and the last that may refuse: none grants what new budgets forbid.
        self._source.apply(plan)
        self._plan = plan
        log.info("revision %d of %s is handed out", revision.number, revision.name)
        told = {child.name: child.line for child in self._followers if child.line is not None}
        problems = tell_all(told, revision)
        return self._outcome(needs_restart=plan.needs_restart, problems=tuple(problems))

    def _outcome(
        self,
        *,
        refusal: str = "",
        needs_restart: tuple[str, ...] = (),
        problems: tuple[str, ...] = (),
    ) -> Outcome:
        return Outcome(
            revision=self._plan.revision,
            source=self._plan.config.source,
            refusal=refusal,
            needs_restart=needs_restart,
            problems=problems,
        )

    @property
    def _is_watching(self) -> bool:
        return self._plan.config.server.reload == "auto"

    # --- children ---------------------------------------------------------------------------

    @property
    def _followers(self) -> list[Child]:
        """Those that follow the configuration; the ledger is told of it in another way."""
        return [child for child in self._children if child is not self._ledger]

    @property
    def _children(self) -> list[Child]:
        host = [] if self._host is None else [self._host]
        return [self._ledger, *host, *self._workers]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop_signals += 1
        elif number == signal.SIGHUP:
            if self._ends_with_terminal and not _has_terminal():
                self._stop_signals += 1
            else:
                self._is_told_to_reload = True

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
                tallies.ended(self._plan.metrics, pid)
            child.died()

    def _restart(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if not child.pid and now >= child.restart_at:
                os.close(child.fork())

    def _next_look_s(self) -> float | None:
        waits_s = [max(0.0, c.restart_at - time.monotonic()) for c in self._children if not c.pid]
        if self._is_watching:
            waits_s.append(_LOOK_S)
        return min(waits_s, default=None)

    def _run_ledger(self, ready: int, line: socket.socket) -> None:
        line.close()
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

    def _run_host(self, ready: int, line: socket.socket) -> None:
        assert self._host_socket is not None
        host_socket, self._host_socket = self._host_socket, None
        self._close_parents_ends()
        self._listener.close()
        # The terminal's SIGINT: the workers need the models while they drain.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        run_host(
            self._plan.host or hosted.idle(self._plan.config),
            host_socket.socket,
            ready=lambda: say_ready(ready),
            lifeline=self._lifeline_read,
            loop_factory=worker.new_event_loop,
            line=line,
            revise=self._revise_host,
        )

    def _revise_host(self, revision: Revision) -> hosted.HostPlan:
        """In the model host; raises `StartError`."""
        self._plan = self._plan.revise(revision, self._plan)
        return self._plan.host or hosted.idle(self._plan.config)

    def _run_worker(self, number: int, ready: int, line: socket.socket) -> None:
        self._close_parents_ends()
        worker.run(self._plan, number, self._listener, ready, self._lifeline_read, line)

    def _close_parents_ends(self) -> None:
        os.close(self._lifeline_write)
        os.close(self._wake_read)
        os.close(self._wake_write)
        for own in (self._host_socket, self._own_socket):
            if own is not None:
                own.socket.close()
        for child in self._children:
            if child.line is not None:
                child.line.close()


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


def _stop_s(server: Server) -> float:
    return server.unready_s + server.drain_s + 5.0


def _has_terminal() -> bool:
    """Whether this process belongs to a terminal, which it does not once that was closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _become(start: Callable[[], None], ready: int) -> None:
    """The rest of a child's life. Its exit status is 0 only where it ended as it should."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # A closing terminal sends it to all of us; what it means is the supervisor's to say.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        start()
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
