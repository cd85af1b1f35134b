"""A real ledger in a real process of its own, to talk to, to stop and to kill."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import msgspec

from proxy.ledger.folder import ledger_file, socket_path
from proxy.ledger.frames import frames, reply_reader
from proxy.ledger.protocol import AlertRaised, HardScope, Hello, Op, Reply, Welcome

ROOT = Path(__file__).parents[3]

_SCRIPT = """
import json, sys
from pathlib import Path
from proxy.ledger.daemon import Timings, run_ledger
from proxy.ledger.errors import LedgerStartError

data_dir, timings, lifeline = json.loads(sys.argv[1])
try:
    run_ledger(
        Path(data_dir),
        ready=lambda: print("ready", flush=True),
        lifeline=lifeline,
        timings=Timings(**timings),
    )
except LedgerStartError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


class LedgerProcess:
    """Runs `run_ledger` on a data folder; a context manager that leaves no process behind."""

    def __init__(self, data_dir: Path, *, lifeline: int | None = None, **timings: float) -> None:
        self.data_dir = data_dir
        self._lifeline = lifeline
        self._timings = {"lock_s": 0.0, **timings}
        self._process: subprocess.Popen[str] | None = None

    @property
    def file(self) -> Path:
        return ledger_file(self.data_dir)

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def start(self) -> LedgerProcess:
        """Start it and wait until it accepts connections."""
        if self._process is None:
            self.launch()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line != "ready\n":
            raise AssertionError(f"the ledger did not start: {self.failure()}")
        return self

    def launch(self) -> None:
        arguments = json.dumps([str(self.data_dir), self._timings, self._lifeline])
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=() if self._lifeline is None else (self._lifeline,),
        )

    def failure(self) -> str:
        """What it said when it refused to start."""
        _, said = self.process.communicate(timeout=10)
        return said

    def restart(self) -> LedgerProcess:
        """Start it again after it has ended by itself."""
        self.failure()
        self._process = None
        return self.start()

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to end, and wait; its exit status."""
        return self._end(signal.SIGTERM)

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self.process, None
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=10)
        return process.returncode

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Keep it from running for a while."""
        self.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            if self._process is not None:
                self.send_signal(signal.SIGCONT)

    def __enter__(self) -> LedgerProcess:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self.kill()


class Line:
    """A bare connection that says exactly what it is told to."""

    def __init__(self, data_dir: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(10)
        self._socket.connect(socket_path(data_dir))
        self._reader = reply_reader()
        self._arrived: list[Reply] = []

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send(self, *ops: Op) -> None:
        self.send_bytes(frames(list(map(msgspec.msgpack.encode, ops))))

    def receive(self) -> Reply | None:
        """The next reply that is not news for all; None where the ledger closed the connection."""
        while True:
            reply = self.receive_news()
            if not isinstance(reply, HardScope | AlertRaised):
                return reply

    def receive_news(self) -> Reply | None:
        """The next reply of any kind."""
        while not self._arrived:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._arrived += [reply for replies in self._reader.feed(data) for reply in replies]
        return self._arrived.pop(0)

    def ask(self, *ops: Op) -> Reply | None:
        self.send(*ops)
        return self.receive()

    def hello(self, session: int = 0) -> int:
        welcome = self.ask(Hello("worker", "w", session))
        assert isinstance(welcome, Welcome)
        return welcome.session

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
