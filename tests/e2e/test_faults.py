"""The disk under the ledger fails while requests come in: nothing is dispatched that is not on it.

Requests are refused in under a second, which is the time limit of the clients here, what is under
way is finished, and service is back without help once the disk is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from proxy.ledger.audit import audit
from tests.e2e.tollway import Tollway, provider, serving
from tests.e2e.upstream import Call, Line, Upstream, chunk, usage_chunk

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="breaks disks as Linux does")

COST = 11 * 1_000 + 7 * 2_000  # nano-USD of one answer of our upstream
LOCK_S = float(os.environ.get("TOLLWAY_LOCK_S", "3"))
"""How long a stranger locks the file; `make chaos`: 30."""
DISK_BYTES = 16 << 20
Fault = Callable[[Tollway], AbstractContextManager[None]]


@contextlib.contextmanager
def a_file_that_cannot_grow(tollway: Tollway) -> Iterator[None]:
    """Every write of the ledger fails (EFBIG, an I/O error to SQLite): works everywhere."""
    pid, (_, unlimited) = tollway.ledger().pid, resource.getrlimit(resource.RLIMIT_FSIZE)
    # What the server has printed goes into a file as well, and is shorter than this.
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, unlimited))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))


def failing_calls(names: str) -> Fault:
    """These system calls of the ledger fail with EIO."""

    @contextlib.contextmanager
    def fault(tollway: Tollway) -> Iterator[None]:
        strace = shutil.which("strace")
        if strace is None:
            pytest.skip("there is no strace here")
        command = [strace, "-p", str(tollway.ledger().pid), "-o", "/dev/null"]
        command += ["-e", f"trace={names}", "-e", f"inject={names}:error=EIO"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracing:
            assert tracing.stderr is not None
            said = tracing.stderr.readline()
            if "attached" not in said:
                pytest.skip(f"strace may not attach here: {said}")
            try:
                yield
            finally:
                tracing.terminate()

    return fault


@contextlib.contextmanager
def a_full_disk(tollway: Tollway) -> Iterator[None]:
    """No space is left (ENOSPC) beside the ledger."""
    filler = tollway.data / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    assert shutil.disk_usage(tollway.data).free < 4096
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def a_lock_of_a_stranger(tollway: Tollway) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(tollway.data / "ledger.db", timeout=10)) as stranger:
        stranger.isolation_level = None
        stranger.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            stranger.execute("ROLLBACK")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with a data folder in it that is a disk of its own."""
    data = tmp_path / "data"
    data.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(data)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(data)], check=True)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(a_file_that_cannot_grow, id="writes-fail"),
        pytest.param(failing_calls("pwrite64"), id="EIO-on-write"),
        pytest.param(failing_calls("fdatasync"), id="EIO-on-sync"),
    ],
)
def test_an_io_error(upstream: Upstream, tmp_path: Path, fault: Fault) -> None:
    with serving(tmp_path, config(upstream)) as tollway:
        go_through(tollway, upstream, fault)


def test_a_full_disk(upstream: Upstream, small_disk: Path) -> None:
    with serving(small_disk, config(upstream)) as tollway:
        go_through(tollway, upstream, a_full_disk)


def test_what_is_counted_has_its_place_on_the_disk(upstream: Upstream, tmp_path: Path) -> None:
    # A full disk must not end a worker that counts something for the first time.
    with serving(tmp_path, config(upstream)) as tollway:
        for _ in range(20):
            assert ask(tollway) == 200
        files = list((tollway.data / "metrics").glob("*/*.db"))
        assert {file.stem.rpartition("_")[2] for file in files} == {
            str(worker.pid) for worker in tollway.workers()
        }
        for file in files:
            assert file.stat().st_blocks * 512 >= file.stat().st_size > 0, file


def test_a_lock_of_a_stranger(upstream: Upstream, tmp_path: Path) -> None:
    with serving(tmp_path, config(upstream)) as tollway:
        go_through(tollway, upstream, a_lock_of_a_stranger, lasts_s=LOCK_S)


def config(upstream: Upstream) -> dict[str, Any]:
    made = provider(upstream.base_url, "m1", "held")
    made["server"]["workers"] = 2
    return made


def go_through(tollway: Tollway, upstream: Upstream, fault: Fault, *, lasts_s: float = 0.0) -> None:
    """Break the disk, mend it, and compare what the provider saw with what is on record."""
    release = asyncio.Event()

    async def hold(call: Call, line: Line) -> None:
        await line.start_stream()
        await line.event(chunk({"role": "assistant", "content": "Hello"}))
        await asyncio.wait_for(release.wait(), 120)
        await line.event(chunk({}, "stop"))
        await line.event(usage_chunk())
        await line.end_stream()

    upstream.scripts["held"] = hold
    assert ask(tollway) == 200
    with UnderWay(tollway) as under_way:
        upstream.wait_for_calls(2)
        with fault(tollway):
            # What is still admitted, because the log has room, is on record all the same.
            answered = count_until(lambda: ask(tollway) == 503)
            until = time.monotonic() + lasts_s
            refused = 0
            while refused < 5 or time.monotonic() < until:
                assert ask(tollway) == 503
                refused += 1
            upstream.in_loop(release.set)
            assert "[DONE]" in under_way.text()
            assert len(upstream.calls) == 2 + answered
        count_until(lambda: ask(tollway) == 200)
        assert ask(tollway) == 200
    rows = tollway.rows(len(upstream.calls))
    ok = [row["cost_nanousd"] for row in rows if row["outcome"] == "ok"]
    assert ok == [COST] * len(upstream.calls)
    assert {row["outcome"] for row in rows} <= {"ok", "not_dispatched"}
    assert sum(row["held_nanousd"] for row in rows) == 0
    assert audit(tollway.data / "ledger.db") == []


class UnderWay:
    """A stream that began before the fault."""

    def __init__(self, tollway: Tollway) -> None:
        self._tollway = tollway
        self._text = ""
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> UnderWay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)

    def _run(self) -> None:
        self._text = self._tollway.chat("up/held", stream=True).text

    def text(self) -> str:
        """All of it, once it has ended."""
        self._thread.join(30)
        return self._text


def ask(tollway: Tollway) -> int:
    """The status of a request, which has to be there within a second."""
    body = {"model": "up/m1", "messages": [{"role": "user", "content": "Hello"}]}
    reply = httpx2.post(f"{tollway.url}/v1/chat/completions", json=body, timeout=1)
    assert reply.status_code in (200, 503), reply.text
    if reply.status_code == 503:
        assert reply.json()["error"]["code"] == "ledger_unavailable"
    return reply.status_code


def count_until(is_so: Callable[[], bool]) -> int:
    """How often it was not so before it was."""
    deadline = time.monotonic() + 30
    count = 0
    while not is_so():
        assert time.monotonic() < deadline
        count += 1
    return count
