"""How many steps of Python's interpreter a worker takes for a request, whatever the machine.

What is written in C counts as the call of it alone, and what waits in other processes not at all.
So it is no measure of speed; but code that was put in the way of every request shows in it at once,
on a machine that is busy with other things too.
"""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.subjects import (
    Tollway,
    create_key,
    free_port,
    serve,
    upstream,
    wait_for_answer,
    write_config,
)
from benchmarks.workloads import Workload, all_workloads

_ROUNDS = 4
_REQUESTS = 10
_QUIET_S = 0.05
_MOST_WAITS = 100


def steps(folder: Path, names: Sequence[str]) -> Mapping[str, int]:
    """The worker's steps per request, by workload: those of the round that took the fewest.

    What a worker does from time to time is not the request's, and only ever adds to it.
    """
    with upstream() as provider:
        config = write_config(folder, provider.port, access_log=False)
        data = folder / "data"
        key = create_key(config, data)
        return steps_of(config, data, key, [all_workloads()[name] for name in names])


def steps_of(
    config: Path,
    data: Path,
    key: str,
    workloads: Sequence[Workload],
    *,
    roles: Sequence[str] = ("worker",),
) -> Mapping[str, int]:
    """The same of a server with this configuration, of the processes that have these roles."""
    folder = config.parent
    counts = folder / "counts"
    counts.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.counted", str(counts)]
    port = free_port()
    with serve(data, port, folder / "output", config=config, command=command) as process:
        wait_for_answer(process, port, key)
        subject = Tollway(name="counted", port=port, pid=process.pid, key=key, data=data)
        found = [counts / str(pid) for pid, role in subject.roles().items() if role in roles]
        return {workload.model: _fewest(subject, workload, found) for workload in workloads}


def _fewest(subject: Tollway, workload: Workload, counts: Sequence[Path]) -> int:
    """Rounds of one request after the other, all over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", subject.port)
    headers = {"content-type": "application/json", "authorization": f"Bearer {subject.key}"}

    def ask() -> None:
        for _ in range(_REQUESTS):
            connection.request("POST", workload.path, workload.body, headers)
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise RuntimeError(f"{workload.model}: {response.status} {answer[:2000]!r}")

    ask()  # what is made once
    taken = []
    for _ in range(_ROUNDS):
        before = _at_rest(counts)
        ask()
        taken.append((_at_rest(counts) - before) // _REQUESTS)
    connection.close()
    return min(taken)


def _at_rest(counts: Sequence[Path]) -> int:
    """The sum of the counts once it stands still: settlements come after answers."""
    seen = -1
    for _ in range(_MOST_WAITS):
        before = seen
        seen = sum(int.from_bytes(count.read_bytes(), sys.byteorder) for count in counts)
        if seen == before:
            break
        time.sleep(_QUIET_S)
    return seen
