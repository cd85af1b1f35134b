"""What the operating system lets the server and all its processes do."""

from __future__ import annotations

import resource


def prepare() -> None:
    """Call it before anything is forked.

    Every stream takes two open files, and many systems begin with a thousand. A core dump would
    hold every key there is; who needs one raises the limit of the running process with `prlimit`.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
