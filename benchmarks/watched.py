"""`tollway` with the turns of its workers' event loops timed.

Each worker keeps the longest turn since somebody last wrote a zero there in a file that is named
by its number: nanoseconds of CPU of the loop's thread, then nanoseconds of time. A turn is what
other connections wait for: all that became ready at once, whatever it was. The loop never rests
here, so that a turn has no waiting in it.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import sys
import time
from pathlib import Path

from proxy import worker
from proxy.cli import main


class Watched:
    """Where the longest turn of a worker's loop is kept."""

    def __init__(self, file: Path) -> None:
        if not file.exists():
            file.write_bytes(bytes(16))
        with file.open("r+b") as opened:
            self._longest = memoryview(mmap.mmap(opened.fileno(), 16)).cast("Q")

    @property
    def cpu_ns(self) -> int:
        """CPU of the loop's thread."""
        return self._longest[0]

    @property
    def time_ns(self) -> int:
        """Time, in which others may have had the machine."""
        return self._longest[1]

    def forget(self) -> None:
        """From now on."""
        self._longest[0] = self._longest[1] = 0

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Time the turns of a loop."""
        longest = self._longest
        cpu_ns, time_ns = time.thread_time_ns(), time.perf_counter_ns()

        def turn() -> None:
            nonlocal cpu_ns, time_ns
            cpu_before, time_before = cpu_ns, time_ns
            cpu_ns, time_ns = time.thread_time_ns(), time.perf_counter_ns()
            longest[0] = max(longest[0], cpu_ns - cpu_before)
            longest[1] = max(longest[1], time_ns - time_before)
            loop.call_soon(turn)

        loop.call_soon(turn)


def _main() -> None:
    folder = Path(sys.argv.pop(1))
    make = worker.new_event_loop

    def new_event_loop() -> asyncio.AbstractEventLoop:
        loop = make()
        Watched(folder / str(os.getpid())).watch(loop)
        return loop

    worker.new_event_loop = new_event_loop
    main()


if __name__ == "__main__":
    _main()
