"""What the operating system says of processes: CPU time and memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_NS_PER_S = 1_000_000_000


def cpu_ns(pid: int) -> int:
    """CPU time of a process and of its children that have ended, user and system, in ns.

    The process' own time is read from its CPU clock, the kernel's exact form of what
    `/proc/<pid>/stat` rounds to ticks of 10 ms.
    """
    # clock_getcpuclockid(3) has no Python form; this is how Linux makes the id.
    own = time.clock_gettime_ns(~pid << 3 | 2)
    reaped_ticks = sum(int(field) for field in _stat_fields(pid)[13:15])
    return own + reaped_ticks * _NS_PER_S // _TICKS_PER_S


def descendants(pid: int) -> list[int]:
    """The process and everything below it that lives."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(_stat_fields(int(entry.name))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for known in found:
        found += parents.get(known, [])
    return found


class Others:
    """How much of the machine everybody else takes from now on."""

    def __init__(self) -> None:
        self._began_at = time.monotonic()
        self._busy_s = _busy_s()
        self._own_s = _own_s()

    def share(self) -> float:
        """The part of all cores' time, from 0 to 1, that neither idled nor was ours."""
        others_s = (_busy_s() - self._busy_s) - (_own_s() - self._own_s)
        cores = os.cpu_count() or 1
        return max(0.0, others_s / (time.monotonic() - self._began_at) / cores)


def _own_s() -> float:
    return sum(cpu_ns(pid) for pid in descendants(os.getpid())) / _NS_PER_S


def _busy_s() -> float:
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def has_open(pid: int, file_name: str) -> bool:
    """Whether the process has a file of this name open."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if link.readlink().name == file_name:
                return True
        except FileNotFoundError:
            continue
    return False


def memory_kib(pid: int) -> dict[str, int]:
    """Resident memory: `rss` counts shared pages in full, `pss` a fair share of them."""
    sizes = {"rss": 0, "pss": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.lower() in sizes:
            sizes[name.lower()] = int(rest.split()[0])
    return sizes


def forget_peak(pid: int) -> int:
    """Begin anew with what the process has now; returns that, in KiB."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_kib(pid)


def peak_kib(pid: int) -> int:
    """The most memory that the process has had since `forget_peak`."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(first_line_value(status, "VmHWM").split()[0])


def filesystem_of(path: Path) -> str:
    """The type of the filesystem that holds `path`."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if path.resolve().is_relative_to(mount) and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]


def first_line_value(lines: Iterable[str], name: str) -> str:
    """The value of the first `name: value` line."""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _stat_fields(pid: int) -> list[str]:
    """`/proc/<pid>/stat` from its third field on; the second may hold spaces and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
