"""The load generator's process, seen from the one that measures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from benchmarks.load import Order, Report
from benchmarks.peer import Peer, peer


class Generator:
    """Gives orders to the load generator."""

    def __init__(self, process: Peer) -> None:
        self._process = process

    def prepare(self, order: Order) -> None:
        """Open the connections and warm them up. Raises `RuntimeError`."""
        self._process.say(msgspec.json.encode(order))
        self._heard()

    def run(self) -> Report:
        """Carry out what was prepared; the connections stay open. Raises `RuntimeError`."""
        self._process.say(b"go")
        return msgspec.json.decode(self._heard(), type=Report)

    def close(self) -> None:
        """Close the connections."""
        self._process.say(b"close")

    def _heard(self) -> bytes:
        line = self._process.heard()
        said = msgspec.json.decode(line)
        if "error" in said:
            raise RuntimeError(said["error"])
        return line


@contextlib.contextmanager
def generator() -> Iterator[Generator]:
    """A load generator, as long as the context lasts."""
    with peer("benchmarks.load") as process:
        yield Generator(process)
