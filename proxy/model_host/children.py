"""A local model's process: its start, its health, its end.

It is told on its command line what to serve, says `ready PORT` on its standard output when it
does, and ends when its standard input does, which only this process holds open. It leads a
process group of its own, and nothing of that outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import adapters
from adapters.base import AdapterError, Deadlines
from adapters.http.transport import open_transport
from adapters.leases import KEY_VARIABLE
from proxy.model_host import memory

_READY = re.compile(rb"ready ([0-9]{1,5})\b")
# How long a process that is told to end may take.
_GRACE_S = 5.0
_HEALTH = Deadlines(connect_s=5.0, first_byte_s=5.0, idle_s=5.0)
# What a program that runs a model has no business with.
_NOT_FOR_CHILDREN = re.compile(r"key|token|secret|passw|credential|^tollway_", re.IGNORECASE)
_LAST_WORDS = 20
# How long its last words may take to come; what it started may hold the way open.
_LAST_WORDS_S = 1.0

_log = logging.getLogger("tollway")


class ChildFailed(Exception):
    """The process did not come to serve; in one line why."""


class Child:
    """A process that serves a model at `url`, to whoever has its `key`."""

    def __init__(
        self,
        process: Process,
        url: str,
        key: str,
        last_words: Sequence[str],
        listening: asyncio.Task[None],
    ) -> None:
        self._process = process
        self._last_words = last_words
        self._listening = listening
        self.url = url
        self.key = key

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        return self._process.pid

    @property
    def resident_bytes(self) -> int:
        """What the process and its own children have in memory."""
        return memory.resident_bytes(self.pid)

    async def ended(self) -> str:
        """Wait for its end, and tell how it came."""
        code = await self._process.wait()
        if code <= 0:
            return _cause(code)
        await asyncio.wait([self._listening], timeout=_LAST_WORDS_S)
        return ": ".join([_cause(code), *list(self._last_words)[-1:]])

    async def is_well(self) -> bool:
        """Whether it answers, within seconds."""
        transport = open_transport(self.url, headers={})
        try:
            response = await transport.get("/health", {}, _HEALTH)
            response.close()
        except AdapterError:
            return False
        finally:
            await transport.aclose()
        return response.status < 500

    def kill(self) -> None:
        """End it at once."""
        _signal_group(self.pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def running(
    arguments: Sequence[str], environ: Mapping[str, str], *, load_timeout_s: float
) -> AsyncIterator[Child]:
    """A child that serves, from here to the end of the block, if it does not end by itself.

    `arguments` follow `python -P -m`. Raises `ChildFailed`. Cancelled while it loads, or left, it
    is told to end, and is gone afterwards.
    """
    key = secrets.token_urlsafe(32)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        *arguments,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=_child_environ(environ) | {KEY_VARIABLE: key},
        start_new_session=True,
    )
    last_words: deque[str] = deque(maxlen=_LAST_WORDS)
    listening = asyncio.create_task(_listen(process, last_words))
    try:
        try:
            async with asyncio.timeout(load_timeout_s):
                port = await _ready(process)
        except TimeoutError:
            raise ChildFailed(f"it was not loaded within {load_timeout_s:g} s") from None
        if port is None:
            cause = _cause(await process.wait())
            _signal_group(process.pid, signal.SIGKILL)  # what lives on would keep us listening
            await listening
            raise ChildFailed(last_words[-1] if last_words else cause)
        speaking = asyncio.create_task(_read_out(process))
        try:
            yield Child(process, f"http://127.0.0.1:{port}", key, last_words, listening)
        finally:
            speaking.cancel()
    finally:
        try:
            await _end(process)
        finally:
            listening.cancel()
            if process.returncode and last_words:
                _log.debug("last words of %s: %s", arguments, "\n".join(last_words))


def _child_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without secrets, in which our own modules are found wherever they lie."""
    kept = {name: text for name, text in environ.items() if not _NOT_FOR_CHILDREN.search(name)}
    ours = os.fspath(Path(adapters.__file__).parents[1])
    paths = [ours, *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


async def _ready(process: Process) -> int | None:
    """The port that it serves at; None where its output ends before."""
    assert process.stdout is not None
    while True:
        line = await _line(process.stdout)
        if not line:
            return None
        if found := _READY.match(line):
            return int(found[1])


async def _read_out(process: Process) -> None:
    """Whatever else it writes must not fill the pipe."""
    assert process.stdout is not None
    while await _line(process.stdout):
        pass


async def _listen(process: Process, last_words: deque[str]) -> None:
    assert process.stderr is not None
    while line := await _line(process.stderr):
        text = line.decode(errors="replace").strip()
        if text:
            last_words.append(text[:500])


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line; of one that is too long a beginning, or nothing but its end."""
    try:
        return await stream.readline()
    except ValueError:
        return b"\n"


async def _end(process: Process) -> None:
    """Tell the process to end, see to it, and leave nothing of its group."""
    try:
        if process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            _signal(process.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_S):
                    await process.wait()
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        await process.wait()


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _signal_group(pid: int, number: int) -> None:
    # A group that only has processes which ended already belongs to nobody: PermissionError there.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _cause(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    if code == -signal.SIGKILL:
        return "its process was killed (SIGKILL), as the system does when memory runs out"
    return f"its process was ended by {signal.Signals(-code).name}"
