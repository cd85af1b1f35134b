"""Counters, gauges and histograms that every process counts for itself, and any one shows for all.

A number is eight bytes of a file that is mapped into memory. To count is to add to them: other
processes see it at once, and nothing of it is lost with the process, however that ends. The files
are those of prometheus-client's multiprocess mode, which merges them. What it counts with itself
takes a lock and asks for the process's number each time, and costs a request ten times as much.

A file, named by kind and process, begins with how many of its bytes are used (int32, padded to
eight). Of each number it has the length of its key (int32), the key (JSON: family, name, labels,
help; spaces up to a multiple of eight), its value, and a time that is not used (a double each).
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Literal, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from proxy.errors import StartError

_Each = TypeVar("_Each")

_INT = struct.Struct("i")
_HEAD_BYTES = 8
_VALUE_AND_TIME_BYTES = 16
# What a file has at first, where nothing is reserved, and what one that is full gets in addition.
_MORE_BYTES = 64 << 10
_KINDS = ("counter", "gauge_livesum", "gauge_livemin", "histogram")


class Number:
    """A counter or a gauge. What counts it often may add to `cell[0]` itself."""

    __slots__ = ("cell",)

    def __init__(self, cell: memoryview[float]) -> None:
        self.cell = cell

    def inc(self, amount: float = 1.0) -> None:
        """Add to it."""
        self.cell[0] += amount

    def dec(self) -> None:
        """Take one from it."""
        self.cell[0] -= 1.0

    def set(self, value: float) -> None:
        """Put this in its place."""
        self.cell[0] = value


class Distribution:
    """A histogram: how many amounts were within each bound and above the one before."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(
        self,
        bounds: Sequence[float],
        counts: Sequence[memoryview[float]],
        total: memoryview[float],
    ) -> None:
        self._bounds = bounds
        self._counts = counts
        self._sum = total

    def observe(self, amount: float) -> None:
        """Count one more."""
        self._counts[bisect_left(self._bounds, amount)][0] += 1.0
        self._sum[0] += amount


class Family(Generic[_Each]):
    """The same number of several things, told apart by labels."""

    def __init__(self, names: tuple[str, ...], make: Callable[[dict[str, str]], _Each]) -> None:
        self._names = names
        self._make = make
        self.known: dict[tuple[str, ...], _Each] = {}
        """By labels, those that there are."""

    def labels(self, *values: str) -> _Each:
        """That of one of them; there is no other with the same labels."""
        known = self.known.get(values)
        if known is None:
            known = self._make(dict(zip(self._names, values, strict=True)))
            self.known[values] = known
        return known


class Tallies:
    """What this process counts."""

    def __init__(self, folder: Path | None, *, reserve_bytes: int = _MORE_BYTES) -> None:
        """Take the room for what is to be counted; without a folder nobody else sees it.

        On a disk that is full by then, memory without a place of its own on it would end the
        process (SIGBUS) in the middle of its requests. Raises `StartError`.
        """
        self.names: dict[str, tuple[str, ...]] = {}
        """Of the families, with those of their labels."""
        self._files: dict[str, _File] = {}
        if folder is None:
            return
        try:
            for kind in _KINDS:
                path = folder / f"{kind}_{os.getpid()}.db"
                self._files[kind] = _File(path, reserve_bytes)
        except OSError as error:
            raise StartError(
                f"{folder}: cannot be written ({error.strerror}); make room, or choose another "
                "folder"
            ) from None

    def counter(self, name: str, text: str, *labels: str) -> Family[Number]:
        """Numbers that grow; their name ends with `_total`."""
        return self._numbers("counter", name.removesuffix("_total"), name, text, labels)

    def gauge(
        self, name: str, text: str, *labels: str, merged: Literal["sum", "min"]
    ) -> Family[Number]:
        """Numbers that go up and down, of the processes that are alive."""
        return self._numbers(f"gauge_live{merged}", name, name, text, labels)

    def histogram(
        self, name: str, text: str, *labels: str, bounds: Sequence[float]
    ) -> Family[Distribution]:
        """Amounts, counted by the bounds that they are within."""
        self.names[name] = labels

        def make(of: dict[str, str]) -> Distribution:
            counts = [
                self._cell("histogram", name, f"{name}_bucket", of | {"le": str(bound)}, text)
                for bound in (*bounds, math.inf)
            ]
            total = self._cell("histogram", name, f"{name}_sum", of, text)
            return Distribution(bounds, counts, total)

        return Family(labels, make)

    def _numbers(
        self, kind: str, family: str, name: str, text: str, labels: tuple[str, ...]
    ) -> Family[Number]:
        self.names[name] = labels
        return Family(labels, lambda of: Number(self._cell(kind, family, name, of, text)))

    def _cell(self, kind: str, *key: object) -> memoryview[float]:
        file = self._files.get(kind)
        return _unseen() if file is None else file.cell(key)


class _File:
    """Numbers of one kind."""

    def __init__(self, path: Path, reserve_bytes: int) -> None:
        self._path = path
        path.touch()
        self._memory = self._grown(reserve_bytes)
        # A process that had this number before may have counted: ours come after its numbers.
        self._used: int = _INT.unpack_from(self._memory)[0] or _HEAD_BYTES

    def cell(self, key: tuple[object, ...]) -> memoryview[float]:
        """One more number, 0. What has the same key is added up."""
        encoded = json.dumps(key, sort_keys=True).encode()
        padding = b" " * (8 - (len(encoded) + _INT.size) % 8)
        entry = _INT.pack(len(encoded)) + encoded + padding
        value_at = self._used + len(entry)
        end = value_at + _VALUE_AND_TIME_BYTES
        if end > len(self._memory):
            try:
                self._memory = self._grown(_MORE_BYTES)
            except OSError:  # better a number that nobody sees than a request that fails for it
                return _unseen()
        self._memory[self._used : value_at] = entry
        # Last of all: whoever reads meanwhile sees all of it, or nothing.
        self._memory[: _INT.size] = _INT.pack(end)
        self._used = end
        return memoryview(self._memory)[value_at : value_at + 8].cast("d")

    def _grown(self, more_bytes: int) -> mmap.mmap:
        """The file with more zeros at its end. Numbers in what was mapped before stay in it."""
        # Where somebody has removed it, it is not made anew: that would lack what ours begins with.
        with self._path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(bytes(more_bytes))
            file.flush()
            return mmap.mmap(file.fileno(), file.tell())


def _unseen() -> memoryview[float]:
    """A number of this process alone."""
    return memoryview(bytearray(8)).cast("d")


def exposition(folder: Path) -> tuple[bytes, str]:
    """All processes' numbers merged, and the content type of that text. Reads files: may block."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call] # prometheus-client is partly typed
    return generate_latest(registry), CONTENT_TYPE_LATEST


def ended(folder: Path, pid: int) -> None:
    """A process is no more: what it had counted stays, its gauges go."""
    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call] # prometheus-client is partly typed
