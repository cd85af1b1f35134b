"""Steps that take milliseconds, such as reading a body of megabytes, one after the other.

What becomes ready together runs in one turn of the event loop, and everything else waits for all of
it: ten large bodies at once would keep a worker from its other clients for a tenth of a second.
"""

from __future__ import annotations

import asyncio

LARGE_BYTES = 512 << 10
"""From here on the steps of a body take turns: that of the shortest takes about 0.1 ms then."""


class Turns:
    """One large step in a turn of the loop. One per revision of a worker."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def next(self) -> None:
        """Wait until it is our turn: until the next `await` nobody else has a large step."""
        async with self._lock:
            await asyncio.sleep(0)
