"""A socket between a client and its ledger that can lose the ledger's answers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from proxy.ledger.folder import address_file, socket_path


class Relay:
    """Listens in a data folder of its own. While `is_deaf`, what the ledger says gets lost."""

    def __init__(self, data_dir: Path, ledger_dir: Path) -> None:
        self.data_dir = data_dir
        self.is_deaf = False
        self._ledger_dir = ledger_dir
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Relay:
        self.data_dir.mkdir()
        path = self.data_dir.parent / "r.sock"
        self._server = await asyncio.start_unix_server(self._accept, path)
        address_file(self.data_dir).write_text(str(path))
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks)

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_ledger, to_ledger = await asyncio.open_unix_connection(socket_path(self._ledger_dir))
        self._writers += [writer, to_ledger]
        self._start(self._pass_on(reader, to_ledger, is_ledger=False))
        self._start(self._pass_on(from_ledger, writer, is_ledger=True))

    def _start(self, passing: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.create_task(passing))

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_ledger: bool
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                if not (is_ledger and self.is_deaf):
                    writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()
