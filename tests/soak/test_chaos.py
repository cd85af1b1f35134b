"""For as long as `TOLLWAY_CHAOS_S` says, whatever can happen to processes and the ledger's file.

Under load, in any order: a worker, the model host or the ledger is killed; one of them stands still
for a moment and goes on, with a clock that has jumped; a stranger locks the ledger's file. Judged
as in `tests/e2e/test_crash.py`, by the provider's own invoice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path

import psutil

from proxy.ledger.audit import audit
from tests.e2e.invoicing import Provider
from tests.e2e.test_crash import (
    LIMITS,
    WORKERS,
    Comparison,
    Load,
    closed_port,
    configured,
    make_key,
    unsettled,
)
from tests.e2e.tollway import Tollway, serving
from tests.waiting import until

CHAOS_S = float(os.environ.get("TOLLWAY_CHAOS_S", "12"))
SEED = int(os.environ.get("TOLLWAY_SEED", "1"))
STILL_S = 1.5
LOCKED_S = 2.0


class Chaos:
    """One thing after the other, until the time is over; then everything is whole again."""

    def __init__(self, tollway: Tollway) -> None:
        self._tollway = tollway
        self._chance = random.Random(SEED)
        self.done: Counter[str] = Counter()

    def go_on(self) -> None:
        until_s = time.monotonic() + CHAOS_S
        faults = (self.kill_ledger, self.kill_another, self.stand_still, self.lock)
        while time.monotonic() < until_s:
            time.sleep(self._chance.random() * 2)
            assert self._tollway.is_running, self._tollway.log()
            fault = self._chance.choice(faults)
            with contextlib.suppress(psutil.NoSuchProcess):
                fault()
                self.done[fault.__name__] += 1
        until(self._is_whole)

    def kill_ledger(self) -> None:
        ledger = self._tollway.ledger()
        ledger.kill()
        ledger.wait(10)

    def kill_another(self) -> None:
        """A worker or the model host."""
        another = self._chance.choice(self._tollway.workers())
        another.kill()
        another.wait(10)

    def stand_still(self) -> None:
        process = self._chance.choice(self._tollway.children())
        process.send_signal(signal.SIGSTOP)
        time.sleep(STILL_S)
        process.send_signal(signal.SIGCONT)

    def lock(self) -> None:
        path = self._tollway.data / "ledger.db"
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as stranger:
            stranger.isolation_level = None
            stranger.execute("BEGIN EXCLUSIVE")
            time.sleep(LOCKED_S)
            stranger.execute("ROLLBACK")

    def _is_whole(self) -> bool:
        try:
            ready = self._tollway.get("/readyz").status_code == 200
        except OSError:
            return False
        # The ledger, the model host and the workers.
        return ready and len(self._tollway.children()) == WORKERS + 2


def test_whatever_happens_the_books_are_right(tmp_path: Path) -> None:
    with Provider() as provider, closed_port() as dead_port:
        config = configured(provider, dead_port)
        config["providers"]["nearby"] = {"adapter": "local", "folder": str(tmp_path / "models")}
        config["targets"].append({"target": "nearby/*"})
        with serving(tmp_path, config) as tollway:
            keys = {name: make_key(tollway, name) for name in LIMITS}
            load, chaos = Load(tollway.url, keys), Chaos(tollway)
            asyncio.run(load.run(chaos.go_on))
            until(lambda: not unsettled(tollway))
            compared = Comparison.of(tollway, provider)
            compared.check()
            assert audit(tollway.data / "ledger.db") == []
            for budget in tollway.admin("GET", "/budgets")["data"]:
                assert budget["overrun_usd"] == 0, budget
            for name, limit_usd in LIMITS.items():
                assert compared.billed(name) <= limit_usd * 1e9
            print(  # shown by `pytest -rP`
                f"{CHAOS_S:.0f} s: {dict(chaos.done)}; clients were told {dict(load.told)}; "
                f"{sum(map(len, compared.rows.values()))} attempts, of which "
                f"{len(compared.marked)} differ from the invoice and say that they may"
            )
