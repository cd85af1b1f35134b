"""The model host's figures, as policies see them."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from policies.base import Candidate
from proxy.local_room import LocalRoom
from proxy.model_host.protocol import Shown
from tests.proxy.swaps.test_preparing import a_model, a_view

DECLARED = Candidate(
    name="local/a",
    capabilities=frozenset({"chat"}),
    context_length=None,
    input_nanousd=0,
    output_nanousd=0,
    memory_mb=70,
)


def _view(*, is_there: bool, size: int = 50 << 20) -> Shown:
    model = msgspec.structs.replace(
        a_model("local/a", 0), state="loaded" if is_there else "absent", bytes=size
    )
    taken = size if is_there else 0
    return msgspec.structs.replace(a_view([model], 200), taken_bytes=taken)


def test_what_is_measured_takes_the_place_of_what_is_declared() -> None:
    room = LocalRoom()
    assert room.candidate(DECLARED) is DECLARED
    room.see(_view(is_there=False))
    seen = room.candidate(DECLARED)
    assert (seen.memory_mb, seen.left_memory_mb) == (50, 150)
    assert room.candidate(DECLARED) is seen
    room.see(_view(is_there=True))  # it is among what is taken already
    assert room.candidate(DECLARED).left_memory_mb == 150
    room.see(_view(is_there=False, size=(300 << 20) + 1))
    seen = room.candidate(DECLARED)
    assert (seen.memory_mb, seen.left_memory_mb) == (301, 0)
    room.see(None)
    assert room.candidate(DECLARED) is DECLARED


def test_a_host_that_is_gone_is_asked_again() -> None:
    room = LocalRoom()

    async def scenario() -> list[int | None]:
        views = asyncio.Queue[Shown | None]()
        asked = asyncio.Queue[None]()

        async def look() -> Shown:
            asked.put_nowait(None)
            view = await views.get()
            if view is None:
                raise OSError("no host")
            return view

        watching = asyncio.create_task(room.watch(look, 0.001))
        found = []
        await asked.get()
        for view in (_view(is_there=True), None, _view(is_there=False)):
            views.put_nowait(view)
            await asked.get()
            found.append(room.candidate(DECLARED).left_memory_mb)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        return found

    assert asyncio.run(scenario()) == [150, None, 150]
