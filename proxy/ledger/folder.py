"""Where a ledger lives: its file, its lock and its socket in the data folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
import time
from pathlib import Path

from proxy.ledger.errors import LedgerLocked, LedgerUnwritable

# The kernel takes 108 bytes on Linux and 104 on macOS, with a NUL in them.
_MAX_SOCKET_PATH_BYTES = 100
_LOCK_POLL_S = 0.02


def ledger_file(data_dir: Path) -> Path:
    """The ledger's SQLite file."""
    return data_dir / "ledger.db"


def lock_file(data_dir: Path) -> Path:
    """Locked by the process that owns the ledger, whose id it contains. Never deleted."""
    return data_dir / "ledger.lock"


def address_file(data_dir: Path, name: str = "ledger") -> Path:
    """Contains the path of the socket, which need not be in the data folder."""
    return data_dir / f"{name}.address"


class LedgerLock:
    """Ownership of the ledger in a data folder, until closed or the process ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def acquire(cls, data_dir: Path, *, wait_s: float = 0.0) -> LedgerLock:
        """Take the lock; make the folder where there is none. Blocks for up to `wait_s`.

        Raises `LedgerLocked` where another process has it, else `LedgerUnwritable`.
        """
        path = lock_file(data_dir)
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerUnwritable(
                f"{path}: {error.strerror}; make the folder writable, or choose another data folder"
            ) from error
        try:
            _lock(fd, path, wait_s)
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            os.close(fd)
            raise LedgerUnwritable(f"{path}: {error.strerror}; check the disk") from error
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    def close(self) -> None:
        """Give the lock up."""
        os.close(self._fd)


def _lock(fd: int, path: Path, wait_s: float) -> None:
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise LedgerLocked(
                    f"{path}: another process (pid {owner}) owns this ledger; "
                    "stop it, or choose another data folder"
                ) from None
            time.sleep(_LOCK_POLL_S)
        else:
            return


class OwnSocket:
    """The listening socket of a process of which a data folder has one, such as the ledger."""

    def __init__(self, data_dir: Path, path: Path, address: Path, listening: socket.socket) -> None:
        self._data_dir = data_dir
        self._path = path
        self._address = address
        self.socket = listening

    @classmethod
    def listen(cls, data_dir: Path, name: str = "ledger") -> OwnSocket:
        """Listen, for this user only. The caller's server owns the lock. Raises `LedgerUnwritable`.

        The socket lies in the data folder, or in a private temporary folder where the path is
        too long for a socket or the file system has none.
        """
        data_dir = data_dir.resolve()
        socket_name = f"{name}.sock"
        path = data_dir / socket_name
        try:
            path.unlink(missing_ok=True)  # its owner is gone: we have the lock
            listening = _bound(path)
            if listening is None:
                path = Path(tempfile.mkdtemp(prefix="tollway-")) / socket_name
                listening = _bound(path)
            if listening is None:
                raise LedgerUnwritable(
                    f"{path}: no socket can be made there; set TMPDIR to a short path"
                )
            # A name alone stays true when the folder is moved.
            address = socket_name if path.parent == data_dir else os.fspath(path)
            _replace(address_file(data_dir, name), os.fsencode(address))
        except OSError as error:
            raise LedgerUnwritable(f"{path}: {error.strerror}; check the disk") from error
        return cls(data_dir, path, address_file(data_dir, name), listening)

    def close(self) -> None:
        """Stop listening and remove what was made, as far as it lets itself be removed."""
        self.socket.close()
        with contextlib.suppress(OSError):
            self._address.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)
            if self._path.parent != self._data_dir:
                self._path.parent.rmdir()


def socket_path(data_dir: Path, name: str = "ledger") -> str:
    """Where the ledger of a data folder listens, if one runs. Raises `OSError`."""
    data_dir = data_dir.resolve()
    return os.fspath(data_dir / os.fsdecode(address_file(data_dir, name).read_bytes()))


def _bound(path: Path) -> socket.socket | None:
    """A listening socket at `path`; None where there cannot be one."""
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        return None
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.setblocking(False)
    # The mode must be right from the first moment; this process has one thread.
    before = os.umask(0o177)
    try:
        listening.bind(os.fspath(path))
        listening.listen(128)
    except OSError:
        listening.close()
        return None
    finally:
        os.umask(before)
    return listening


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)
