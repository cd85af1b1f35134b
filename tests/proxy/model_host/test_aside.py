"""Work in threads that nobody waits for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from proxy.model_host.aside import Background, aside

PATIENCE_S = 20.0


def test_what_it_returns_and_raises_is_handed_on() -> None:
    async def scene() -> None:
        assert await aside(lambda: 5, limit_s=PATIENCE_S) == 5
        with pytest.raises(ZeroDivisionError):
            await aside(lambda: 1 // 0, limit_s=PATIENCE_S)

    asyncio.run(scene())


def test_what_takes_too_long_is_left_to_itself() -> None:
    may_end = threading.Event()

    async def scene() -> None:
        with pytest.raises(TimeoutError):
            await aside(may_end.wait, limit_s=0.05)
        may_end.set()
        assert await aside(lambda: 5, limit_s=PATIENCE_S) == 5

    asyncio.run(scene())


def test_a_process_ends_without_it() -> None:
    program = (
        "import asyncio, threading\n"
        "from proxy.model_host.aside import aside\n"
        "async def main():\n"
        "    try:\n"
        "        await aside(threading.Event().wait, limit_s=0.05)\n"
        "    except TimeoutError:\n"
        "        print('left', flush=True)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=PATIENCE_S, check=True
    )
    assert done.stdout == b"left\n"


def test_a_folder_that_hangs_holds_nobody_up() -> None:
    stuck = threading.Event()

    async def scene() -> None:
        background: Background[int] = Background()
        assert await background.run(lambda: 1, 10) == 1
        assert await background.run(lambda: stuck.wait(30) and 2, 0.05) is None
        assert await background.run(lambda: 3, 10) is None  # the first one still hangs
        stuck.set()
        assert background._running is not None
        await background._running
        assert await background.run(lambda: 4, 10) == 4
        with pytest.raises(ZeroDivisionError):
            await background.run(lambda: 1 // 0, 10)

    asyncio.run(scene())


def test_a_result_is_that_of_the_work_that_was_asked_for() -> None:
    """Though something else is begun between the end of the work and the asker's next step."""

    async def scenario() -> None:
        background: Background[str] = Background()
        gate = threading.Event()
        first = asyncio.create_task(background.run(lambda: str(gate.wait(30)), 30))
        await asyncio.sleep(0)
        ended = background._running
        assert ended is not None
        second = background.run(lambda: "second", 30)
        is_begun = asyncio.Event()

        def begin_second(_: object) -> None:
            second.send(None)
            is_begun.set()

        await asyncio.sleep(0)  # the asker waits, and so hears of it before us
        ended.add_done_callback(begin_second)
        gate.set()
        await is_begun.wait()
        assert await first == "True"
        second.close()

    asyncio.run(scenario())
