"""The admin API over a real ledger process, asked without a socket in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from proxy import catalog, config_file
from proxy.admin.app import AdminApi
from proxy.admin.books import Books
from proxy.admin.models import ModelsApi
from proxy.admin.reload import ReloadApi
from proxy.admin.targets import TargetsApi
from proxy.circuits import Circuits
from proxy.clock import SystemClock
from proxy.config import Circuit
from proxy.figures import Figures
from proxy.gates import Gates
from proxy.ledger.client import LedgerClient
from proxy.ledger.protocol import AdminOp, AdminReply, Settlement, Usage
from proxy.price_book import PriceBook
from proxy.reloading import Outcome, Wanted
from proxy.swaps.moves import Moves
from proxy.target_table import build_table
from proxy.targets import Target
from proxy.telemetry import Metrics
from proxy.yaml_file import YamlFile
from tests.proxy.ledger.making import an_attempt
from tests.proxy.ledger.process import LedgerProcess

TOKEN = "the-admin-token-of-the-tests"
SECRET = b"s" * 32

CONFIG = """\
providers:
  up: {base_url: "http://up/v1"}
targets:
  - {target: up/m1, price: {input: 1, output: 2}}
  - {target: up/m2, price: free}
models:
  auto: {targets: [up/m1]}
"""


class Desk:
    """Where an operator asks."""

    def __init__(self, data: Path, runner: asyncio.Runner) -> None:
        built = config_file.build(YamlFile.parse(CONFIG, "router.yaml"), {})
        table = build_table(built, catalog.load(), PriceBook.load(), today=date(2026, 11, 20))
        self._runner = runner
        self.ledger = LedgerClient(data, name="desk")
        self.books = Books(
            ledger=self.ledger,
            database=data / "ledger.db",
            secret=SECRET,
            table=lambda: table,
            providers=frozenset(built.providers),
            clock=SystemClock(),
        )
        self.figures = Figures(SystemClock())
        self.circuits = Circuits(Circuit(), SystemClock())
        self.targets = TargetsApi(
            table=lambda: table,
            figures=self.figures,
            circuits=self.circuits,
            gates=Gates({}, Metrics(), SystemClock()),
            worker=0,
        )
        self.app = AdminApi(
            self.books,
            ModelsApi(None),
            self.targets,
            Moves(self.ledger, SECRET),
            nothing_to_reload(),
            token=TOKEN,
        ).application()
        self._table = table
        self.run(self.ledger.connect())

    def target(self, name: str) -> Target:
        found = self._table.target(name)
        assert found is not None
        return found

    def close(self) -> None:
        self.run(self.ledger.aclose())

    def ask(
        self, method: str, path: str, body: object = None, *, token: str | None = TOKEN
    ) -> httpx2.Response:
        return self.run(self._ask(method, path, body, token))

    def get(self, path: str) -> Any:
        return self._good(self.ask("GET", path))

    def post(self, path: str, body: object = None) -> Any:
        return self._good(self.ask("POST", path, body))

    def patch(self, path: str, body: object) -> Any:
        return self._good(self.ask("PATCH", path, body))

    def delete(self, path: str) -> Any:
        return self._good(self.ask("DELETE", path))

    def refusal(self, method: str, path: str, body: object = None) -> tuple[int, str | None, str]:
        """Status, `param` and message of a request that must not be carried out."""
        reply = self.ask(method, path, body)
        error = reply.json()["error"]
        return reply.status_code, error["param"], error["message"]

    def call(self, op: AdminOp) -> AdminReply:
        return self.run(self.ledger.call(op))

    def spend(self, key_id: str, cost: int, *, hold: int | None = None, scopes: str = "") -> int:
        """One attempt made with a key, settled; its number."""
        return self.run(self._spend(key_id, cost, cost if hold is None else hold, scopes))

    async def _spend(self, key_id: str, cost: int, hold: int, scopes: str) -> int:
        attempt = msgspec.structs.replace(
            an_attempt(self.ledger.new_attempt_id(), hold, deadline=int(time.time()) + 600),
            key_id=key_id,
            target="up/m1",
            provider="up",
            scopes=("global", *scopes.split(), f"key:{key_id}"),
        )
        await self.ledger.reserve(attempt)
        self.ledger.settle(
            Settlement(
                attempt=attempt.attempt,
                outcome="ok",
                cost_nanousd=cost,
                usage=Usage(input=11, output=7),
                estimated=False,
                status=200,
                first_token_us=1_000,
                total_us=2_000,
            )
        )
        await self.ledger.drained()
        return attempt.attempt

    async def _ask(
        self, method: str, path: str, body: object, token: str | None
    ) -> httpx2.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        transport = httpx2.ASGITransport(app=self.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://desk") as client:
            return await client.request(method, path, json=body, headers=headers)

    def _good(self, reply: httpx2.Response) -> Any:
        assert reply.status_code < 300, reply.text
        return reply.json()

    def run(self, coroutine: Any) -> Any:
        async def limited() -> Any:
            async with asyncio.timeout(30):
                return await coroutine

        return self._runner.run(limited())


@contextmanager
def opened(data: Path) -> Iterator[Desk]:
    """A desk over a ledger of its own."""
    with LedgerProcess(data, tick_s=0.05), asyncio.Runner() as runner:
        desk = Desk(data, runner)
        try:
            yield desk
        finally:
            desk.close()


def nothing_to_reload() -> ReloadApi:
    """A configuration that is always as it was."""
    served = Outcome(revision=0, source="router.yaml")

    async def reload(wanted: Wanted) -> Outcome:
        return served

    return ReloadApi(served, reload)
