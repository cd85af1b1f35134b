"""Bytes of memory of NVIDIA's GPUs, as `nvidia-smi` counts them; all of them are one.

Source: `nvidia-smi --help-query-gpu` and `--help-query-compute-apps`. Numbers are in MiB, and
`[N/A]` where the driver does not tell. All functions run a program, and may block for seconds.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

_PROGRAM = "nvidia-smi"
_PATIENCE_S = 5.0


def installed_bytes() -> int:
    """What the GPUs have that have memory of their own; 0 where there are none."""
    return sum(total for (total,) in _rows("--query-gpu=memory.total")) << 20


def available_bytes() -> int | None:
    """What of it is free; None where that is not known."""
    free = [megabytes for (megabytes,) in _rows("--query-gpu=memory.free")]
    return sum(free) << 20 if free else None


def used_bytes() -> dict[int, int]:
    """What the processes of each process group take together.

    In a container the process numbers may be the machine's, which are nobody's here.
    """
    used: dict[int, int] = {}
    for pid, megabytes in _rows("--query-compute-apps=pid,used_memory"):
        try:
            group = os.getpgid(pid)
        except ProcessLookupError:
            continue
        used[group] = used.get(group, 0) + (megabytes << 20)
    return used


def _rows(query: str) -> Iterator[tuple[int, ...]]:
    """The rows of a table that consist of numbers."""
    command = [_PROGRAM, query, "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(  # noqa: S603 # the driver's own program, with words of ours
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return
    for line in told.stdout.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if all(field.isdecimal() for field in fields):
            yield tuple(map(int, fields))
