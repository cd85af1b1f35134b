"""An answer is held against its check in another process where that might never end.

A regular expression may go on for ever, and nothing else runs in a process of Python meanwhile.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import msgspec

from proxy.model_host.aside import aside
from proxy.swaps.checks import Answered, problem_of
from proxy.swaps.core import Check

LIMIT_S = 10.0


async def judged(check: Check, answered: Answered, *, limit_s: float = LIMIT_S) -> str | None:
    """Why an answer does not pass; None where it does. Takes little more than `limit_s`."""
    if answered.problem or not (check.matches or check.json_schema is not None):
        return problem_of(check, answered)
    apart = partial(_apart, check, answered, limit_s)
    return await aside(apart, limit_s=2 * limit_s)


def _apart(check: Check, answered: Answered, limit_s: float) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 # our own module
            [sys.executable, "-P", "-m", __name__],
            input=msgspec.msgpack.encode((check, answered)),
            stdout=subprocess.PIPE,
            timeout=limit_s,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return f"whether the answer fits could not be told within {limit_s:g} s"
    return msgspec.msgpack.decode(done.stdout, type=str | None)


def _main() -> None:
    said = sys.stdin.buffer.read()
    check, answered = msgspec.msgpack.decode(said, type=tuple[Check, Answered])
    sys.stdout.buffer.write(msgspec.msgpack.encode(problem_of(check, answered)))


if __name__ == "__main__":
    _main()
