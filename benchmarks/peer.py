"""A module of the benchmarks in a process of its own, which is told lines and answers in lines."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.subjects import ROOT


class Peer:
    """The process, seen from the one that measures."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._args = process.args
        self._stdin = process.stdin
        self._stdout = process.stdout

    def say(self, line: bytes) -> None:
        """Tell it something, in bytes without a line break."""
        self._stdin.write(line + b"\n")
        self._stdin.flush()

    def heard(self) -> bytes:
        """Wait for its next line. Raises `RuntimeError` where it has ended."""
        line = self._stdout.readline()
        if not line:
            raise RuntimeError(f"{self._args!r} ended")
        return line


@contextlib.contextmanager
def peer(module: str, *arguments: str) -> Iterator[Peer]:
    """`python -m module`, as long as the context lasts."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield Peer(process)
        finally:
            process.kill()
