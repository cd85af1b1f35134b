"""How a running server is told to read its configuration again, and when it does so by itself.

The supervisor listens on a socket in the data folder: `tollway reload` asks there, and so does a
worker whom an operator asks over HTTP.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec

from proxy.ledger.folder import socket_path

SOCKET = "supervisor"
# Longer than all children together may take.
_ANSWER_S = 60.0
# Whoever connects has its question ready.
_QUESTION_S = 1.0
_READ_BYTES = 1 << 16

_Stamp = tuple[int, int, int, int]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the supervisor."""

    is_dry: bool = False
    """Only say what would become of it."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it."""

    revision: int
    """The one that is served now."""
    source: str
    """The file."""
    refusal: str = ""
    """Why the file is not served: in one line that names file, path and remedy."""
    needs_restart: tuple[str, ...] = ()
    """Settings that changed, and take effect when the server is started again."""
    problems: tuple[str, ...] = ()
    """What did not go as it should, though the revision is served."""


_encode = msgspec.json.Encoder().encode
_decode_wanted = msgspec.json.Decoder(Wanted).decode
_decode_outcome = msgspec.json.Decoder(Outcome).decode


def answer_next(listening: socket.socket, carry_out: Callable[[Wanted], Outcome]) -> None:
    """Answer one who waits at the supervisor's socket; blocks, though nobody could make it wait."""
    try:
        asking, _ = listening.accept()
    except OSError:  # they thought better of it
        return
    with asking:
        try:
            asking.settimeout(_QUESTION_S)
            wanted = _decode_wanted(asking.recv(_READ_BYTES))
        except (OSError, msgspec.DecodeError):
            return
        outcome = carry_out(wanted)
        try:
            asking.sendall(_encode(outcome))
        except OSError:  # they do not wait; the log says it all
            return


def ask(data_dir: Path, wanted: Wanted) -> Outcome:
    """Ask the supervisor of a data folder; blocks. Raises `OSError` where none answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(_ANSWER_S)
        line.connect(socket_path(data_dir, SOCKET))
        line.sendall(_encode(wanted))
        answer = b""
        while data := line.recv(_READ_BYTES):
            answer += data
    return _outcome(answer)


async def ask_soon(data_dir: Path, wanted: Wanted) -> Outcome:
    """As `ask`, without blocking."""
    async with asyncio.timeout(_ANSWER_S):
        reader, writer = await asyncio.open_unix_connection(socket_path(data_dir, SOCKET))
        try:
            writer.write(_encode(wanted))
            return _outcome(await reader.read(-1))
        finally:
            writer.close()


def _outcome(answer: bytes) -> Outcome:
    try:
        return _decode_outcome(answer)
    except msgspec.DecodeError:
        raise ConnectionResetError("the supervisor closed the connection") from None


class FileWatch:
    """Whether a file is another than the one that was read, by what the file system says of it."""

    def __init__(self, path: Callable[[], Path]) -> None:
        """`path` says which file would be read now."""
        self._path = path
        self.note()

    def note(self) -> None:
        """The file is about to be read: as it is now, it is no news."""
        self._read = self._seen = self._stamp()

    def look(self) -> bool:
        """Whether there is another file, and nobody writes it: two looks in a row saw the same."""
        stamp = self._stamp()
        is_still = stamp == self._seen
        self._seen = stamp
        return is_still and stamp is not None and stamp != self._read

    def _stamp(self) -> _Stamp | None:
        try:
            found = os.stat(self._path())
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
