"""Bytes of memory, as the operating system counts them.

On Apple Silicon the GPU takes its memory out of the same, and what a process holds for it (Metal's
buffers) is a part of the process's footprint, but not of its resident pages.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

_IS_MACOS = sys.platform == "darwin"
_PROC = Path("/proc")
# Of a container: version 2 of control groups, and version 1.
_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
# What `vm_stat` of macOS calls pages that can be had without swapping.
_FREE_PAGES = ("free", "inactive", "speculative", "purgeable")
_PAGE_SIZE = re.compile(r"page size of ([0-9]+) bytes")
_PAGES = re.compile(r"^Pages ([a-z]+): +([0-9]+)\.$", re.MULTILINE)


def installed_bytes() -> int:
    """What the machine has, or the container may use of it."""
    if _IS_MACOS:
        return int(_output("/usr/sbin/sysctl", "-n", "hw.memsize"))
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([installed, *filter(None, map(_number_in, _LIMITS))])


def available_bytes() -> int | None:
    """What could be had now without swapping; None where the system does not say."""
    if _IS_MACOS:
        return free_in_vm_stat(_output("/usr/bin/vm_stat"))
    try:
        lines = (_PROC / "meminfo").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["MemAvailable"].split()[0]) << 10 if "MemAvailable" in fields else None


def free_in_vm_stat(text: str) -> int | None:
    """What of the memory is free, by the table that `vm_stat` prints; None if it is no such."""
    page = _PAGE_SIZE.search(text)
    pages = {name: int(count) for name, count in _PAGES.findall(text)}
    if page is None or "free" not in pages:
        return None
    return int(page[1]) * sum(pages.get(name, 0) for name in _FREE_PAGES)


def resident_bytes(group: int) -> int:
    """What the processes of a process group have in memory together; 0 where there are none."""
    if not (_PROC / "self" / "stat").exists():
        return _bytes_by_ps(group)
    pages = 0
    for folder in _PROC.iterdir():
        if folder.name.isdecimal():
            pages += _pages(folder, group)
    return pages * os.sysconf("SC_PAGE_SIZE")


def _pages(process: Path, group: int) -> int:
    try:
        # Behind the name, which may have blanks and brackets: state, parent, process group ...
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it ended
        return 0
    return int(fields[21]) if int(fields[2]) == group else 0


def _bytes_by_ps(group: int) -> int:
    """Where there is no /proc, as on macOS."""
    listed = _output("/bin/ps", "-A", "-o", "pid=,pgid=,rss=")
    rows = (map(int, line.split()) for line in listed.splitlines())
    return sum(_footprint(pid) or rss << 10 for pid, pgid, rss in rows if pgid == group)


def _footprint(pid: int) -> int:
    """What macOS counts as a process's own, the GPU's buffers included; 0 where it does not tell.

    Source: `libproc.h` and `sys/resource.h` of macOS, `proc_pid_rusage` and `rusage_info_v0`.
    """
    if not _IS_MACOS:
        return 0
    usage = _Usage()
    library = ctypes.CDLL("/usr/lib/libproc.dylib")
    if library.proc_pid_rusage(pid, 0, ctypes.byref(usage)):
        return 0
    return int(usage.phys_footprint)


class _Usage(ctypes.Structure):
    """`rusage_info_v0`."""

    _fields_ = (
        ("uuid", ctypes.c_uint8 * 16),
        ("user_time", ctypes.c_uint64),
        ("system_time", ctypes.c_uint64),
        ("pkg_idle_wkups", ctypes.c_uint64),
        ("interrupt_wkups", ctypes.c_uint64),
        ("pageins", ctypes.c_uint64),
        ("wired_size", ctypes.c_uint64),
        ("resident_size", ctypes.c_uint64),
        ("phys_footprint", ctypes.c_uint64),
        ("proc_start_abstime", ctypes.c_uint64),
        ("proc_exit_abstime", ctypes.c_uint64),
    )


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603


def _number_in(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
