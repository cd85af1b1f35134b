"""Numbered revisions of the configuration, on their way from the supervisor to its children.

The text of a file goes to each child over a pair of sockets of its own, once the supervisor has
found it to be good. The child makes of it what the supervisor made, by the same code in the same
environment, and answers when it serves by it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from proxy.errors import StartError

# A worker takes a tenth of a second; on a machine that is busy, longer.
ANSWER_S = 20.0
_LONGEST_BYTES = 256 << 20
_READ_BYTES = 1 << 16

# Below the one that shows warnings only: what is served is worth a line.
log = logging.getLogger("tollway.reload")


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """The text of a configuration; 0 is what a server was started with."""

    number: int
    name: str
    """The file's."""
    text: str


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """A child serves by a revision; or not, for a problem."""

    number: int
    problem: str = ""


_encode = msgspec.json.Encoder().encode
_decode_revision = msgspec.json.Decoder(Revision).decode
_decode_applied = msgspec.json.Decoder(Applied).decode


class Line:
    """The supervisor's end: one child is told, and heard. Both block."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._heard = b""

    def close(self) -> None:
        """Tell no more."""
        self._end.close()

    def tell(self, revision: Revision, until: float) -> None:
        """Send a revision; raises `OSError`, also where the child does not read by then."""
        self._end.settimeout(_left_s(until))
        self._end.sendall(_encode(revision) + b"\n")

    def hear(self, number: int, until: float) -> Applied:
        """The answer to a revision; raises `OSError`, also where there is none by then."""
        while True:
            answer, end, rest = self._heard.partition(b"\n")
            if not end:
                self._end.settimeout(_left_s(until))
                data = self._end.recv(_READ_BYTES)
                if not data:
                    raise ConnectionResetError("the child has ended")
                self._heard += data
                continue
            self._heard = rest
            applied = _decode_applied(answer)
            if applied.number == number:  # not one that came too late
                return applied


def _left_s(until: float) -> float:
    return max(0.001, until - time.monotonic())


def tell_all(lines: Mapping[str, Line], revision: Revision) -> list[str]:
    """Tell every child and wait until all serve by it; what did not go well, in lines.

    Who ends meanwhile is started again with the new revision, and no problem.
    """
    until = time.monotonic() + ANSWER_S
    problems, told = [], []
    for name, line in lines.items():
        try:
            line.tell(revision, until)
            told.append((name, line))
        except TimeoutError:
            problems.append(f"the {name} does not listen; restart it")
        except OSError:
            continue
    for name, line in told:
        try:
            problem = line.hear(revision.number, until).problem
        except TimeoutError:
            problem = f"did not take it over within {ANSWER_S:.0f} s; it may yet"
        except OSError:
            continue
        if problem:
            problems.append(f"the {name}: {problem}")
    return problems


async def follow(end: socket.socket, apply: Callable[[Revision], Awaitable[None]]) -> None:
    """Take over what the supervisor tells, until it is gone; `apply` may raise `StartError`."""
    reader, writer = await asyncio.open_connection(sock=end, limit=_LONGEST_BYTES)
    try:
        while told := await reader.readline():
            revision = _decode_revision(told)
            problem = ""
            try:
                await apply(revision)
            except StartError as error:
                problem = str(error)
            except Exception:  # the revision before goes on to be served
                log.exception("revision %d cannot be served", revision.number)
                problem = "something went wrong; the log says what"
            else:
                log.info("revision %d of %s is served", revision.number, revision.name)
            writer.write(_encode(Applied(number=revision.number, problem=problem)) + b"\n")
            await writer.drain()
    finally:
        writer.close()
