"""When connections are looked at; the rest is in `tests/e2e/test_guard.py`, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

from proxy.guard.admission import Admission
from proxy.guard.protocol import Patience, watch
from proxy.worker import new_event_loop

PATIENCE = Patience(head_s=0.04, body_s=1, reader_s=1, keep_alive_s=1)


def test_what_came_while_the_process_stood_still_is_read_before_anybody_is_given_up() -> None:
    seen: list[str] = []
    looked = asyncio.Event()

    class Connection:
        def check(self, now: float) -> None:
            seen.append("check")
            looked.set()

    async def stand_still() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            loop = asyncio.get_running_loop()
            arrived = asyncio.Event()
            looked.clear()

            def read() -> None:
                seen.append("data")
                loop.remove_reader(ours)
                arrived.set()

            loop.add_reader(ours, read)
            watching = asyncio.create_task(
                watch([Connection()], Admission(most=1, queue=0, queue_s=1), PATIENCE)
            )
            await looked.wait()
            seen.clear()
            looked.clear()
            time.sleep(0.2)  # noqa: ASYNC251 - the process stands still
            theirs.send(b"x")
            await arrived.wait()
            await looked.wait()
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(stand_still())
    assert seen[0] == "data"
