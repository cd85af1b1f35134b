"""Answers are held against their checks in a process that is kept for it.

As in `proxy.swaps.judging`, because a regular expression may go on for ever; but here there is a
check for each request, and a process of Python takes a tenth of a second to begin. A check that
takes too long is killed with its process, and the next check begins a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from importlib import import_module
from typing import BinaryIO

import msgspec

from proxy.swaps.checks import Answered, problem_of
from proxy.swaps.core import Check

LIMIT_S = 2.0
"""For each answer; a process that is still to begin has `_START_S` more."""

_START_S = 10.0
_LENGTH_BYTES = 4


class Checking:
    """One child process, begun with the first check. One per worker; ends with it."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._child: Process | None = None
        self._turn = asyncio.Lock()

    async def problem(self, check: Check, text: str) -> str | None:
        """Why a text does not pass; None where it does."""
        said = msgspec.msgpack.encode((check, Answered(text=text)))
        async with self._turn:
            try:
                child = self._child or await self._begin()
                async with asyncio.timeout(self._limit_s):
                    answer = await _ask(child, said)
            except TimeoutError:
                self._end()
                return f"whether the answer fits could not be told within {self._limit_s:g} s"
            except (OSError, asyncio.IncompleteReadError):
                self._end()
                return "whether the answer fits could not be told: the checking process ended"
            except asyncio.CancelledError:
                self._end()  # its answer would be taken for that to the next check
                raise
        return msgspec.msgpack.decode(answer, type=str | None)

    async def _begin(self) -> Process:
        self._child = child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", __name__),
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,  # an interrupt at the terminal is for the server alone
        )
        async with asyncio.timeout(_START_S):
            await _read(child)
        return child

    async def aclose(self) -> None:
        """End the process, if one has begun."""
        child = self._child
        self._end()
        if child is not None:
            await child.wait()

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None and child.returncode is None:
            child.kill()


async def _ask(child: Process, said: bytes) -> bytes:
    assert child.stdin is not None
    child.stdin.write(_framed(said))
    await child.stdin.drain()
    return await _read(child)


async def _read(child: Process) -> bytes:
    assert child.stdout is not None
    length = int.from_bytes(await child.stdout.readexactly(_LENGTH_BYTES))
    return await child.stdout.readexactly(length)


def _framed(said: bytes) -> bytes:
    return len(said).to_bytes(_LENGTH_BYTES) + said


def _check_all(asked: BinaryIO, told: BinaryIO) -> None:
    """Answer check after check, until there are no more."""
    with contextlib.suppress(ImportError):  # an extra
        # Long to import: on a busy machine the first check would be out of time.
        import_module("proxy.swaps.schemas")
    told.write(_framed(b""))  # it is ready
    told.flush()
    while head := asked.read(_LENGTH_BYTES):
        said = asked.read(int.from_bytes(head))
        check, answered = msgspec.msgpack.decode(said, type=tuple[Check, Answered])
        told.write(_framed(msgspec.msgpack.encode(problem_of(check, answered))))
        told.flush()


if __name__ == "__main__":
    _check_all(sys.stdin.buffer, sys.stdout.buffer)
