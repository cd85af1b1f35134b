"""What the operating system lets the server and all its processes do."""

from __future__ import annotations

import ctypes
import resource

FILES_PER_STREAM = 2
"""The client's connection and the provider's."""
# Where no limit is set, macOS still has one that must be named.
_LESS_THAN_ALL = (1 << 20, 1 << 16, 10_240)
# By glibc's malloc.h: from how many bytes on a block has memory of its own.
_M_MMAP_THRESHOLD = -3
_OWN_MEMORY_BYTES = 1 << 20


def prepare() -> None:
    """Call it before anything is forked.

    Every stream takes two open files, and many systems begin with a thousand. A core dump would
    hold every key there is; who needs one raises the limit of the running process with `prlimit`.
    """
    _raise_files()
    _give_large_blocks_back()
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))


def shortage(max_concurrent: int) -> str | None:
    """A line for the operator where fewer files may be open than so many streams take."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY or files >= FILES_PER_STREAM * max_concurrent:
        return None
    return (
        f"a worker may have {files} files open, which is enough for {files // FILES_PER_STREAM} of "
        f"the {max_concurrent} streams of server.max_concurrent; raise the hard limit "
        "('ulimit -Hn', or LimitNOFILE= of a systemd unit), or lower the setting"
    )


def _give_large_blocks_back() -> None:
    """Have the C library return the memory of large bodies as soon as they are gone.

    By itself glibc keeps blocks of up to 32 MB once one was freed, between others in a heap that
    only shrinks at its end: each body then takes half as much again, and what many took stays.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's alone
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _OWN_MEMORY_BYTES)


def _raise_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (hard, *_LESS_THAN_ALL):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (ValueError, OSError):
            continue
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
