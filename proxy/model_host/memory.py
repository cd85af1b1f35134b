"""Bytes of memory, as the operating system counts them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_PROC = Path("/proc")
# Of a container: version 2 of control groups, and version 1.
_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def installed_bytes() -> int:
    """What the machine has, or the container may use of it. On Apple Silicon the GPU shares it."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([installed, *filter(None, map(_number_in, _LIMITS))])


def available_bytes() -> int | None:
    """What could be had now without swapping; None where the system does not say."""
    try:
        lines = (_PROC / "meminfo").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["MemAvailable"].split()[0]) << 10 if "MemAvailable" in fields else None


def resident_bytes(group: int) -> int:
    """What the processes of a process group have in memory together; 0 where there are none."""
    if not (_PROC / "self" / "stat").exists():
        return _resident_by_ps(group)
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


def _resident_by_ps(group: int) -> int:
    """Where there is no /proc, as on macOS."""
    listed = subprocess.run(
        ["/bin/ps", "-A", "-o", "pgid=,rss="], capture_output=True, text=True, check=False
    )
    rows = (line.split() for line in listed.stdout.splitlines())
    return sum(int(rss) for pgid, rss in rows if int(pgid) == group) << 10


def _number_in(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
