"""The load generator's process, seen from the one that measures."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import msgspec

from benchmarks.load import Order, Report
from benchmarks.subjects import ROOT


class Generator:
    """Gives orders to the load generator."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self._stdout = process.stdout

    def prepare(self, order: Order) -> None:
        """Open the connections and warm them up. Raises `RuntimeError`."""
        self._say(msgspec.json.encode(order))
        self._heard()

    def run(self) -> Report:
        """Carry out what was prepared; the connections stay open. Raises `RuntimeError`."""
        self._say(b"go")
        return msgspec.json.decode(self._heard(), type=Report)

    def close(self) -> None:
        """Close the connections."""
        self._say(b"close")

    def _say(self, line: bytes) -> None:
        self._stdin.write(line + b"\n")
        self._stdin.flush()

    def _heard(self) -> bytes:
        line = self._stdout.readline()
        if not line:
            raise RuntimeError("the load generator ended")
        said = msgspec.json.decode(line)
        if "error" in said:
            raise RuntimeError(said["error"])
        return line


@contextlib.contextmanager
def generator() -> Iterator[Generator]:
    """A load generator, as long as the context lasts."""
    command = [sys.executable, "-m", "benchmarks.load"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield Generator(process)
        finally:
            process.terminate()
