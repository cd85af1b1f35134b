"""kill -9 under load: what was acknowledged is on record, the books balance, no budget is exceeded.

Worker processes reserve and settle against budgets that are too small for them and keep journals
of what they were told. Every fraction of a second the ledger or a worker is killed and replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from proxy.ledger.audit import audit
from proxy.ledger.client import LedgerClient
from proxy.ledger.errors import BudgetRefused, LedgerUnavailable
from proxy.ledger.protocol import CreateBudget
from proxy.ledger.reports import attempts
from proxy.ledger.sync import open_ledger
from tests.proxy.ledger.making import a_budget, a_settlement, an_attempt
from tests.proxy.ledger.process import ROOT, LedgerProcess
from tests.waiting import until

ROUNDS = 12
WORKERS = 3
# One that is soon spent, one that is spent about halfway, one that never is, and all of them.
LIMITS = {"global": 800_000, "key:0": 150_000, "key:1": 300_000, "key:2": 9_000_000}


# --- a worker ----------------------------------------------------------------------------------


async def work(data_dir: Path, journal: TextIO) -> None:
    """Spend for ever; end on SIGTERM with every settlement acknowledged."""
    client = LedgerClient(data_dir, name="worker")
    await client.connect()
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    print("ready", file=journal, flush=True)
    await asyncio.gather(*(spend(client, journal, stopping) for _ in range(8)))
    await client.drained()
    print("drained", file=journal, flush=True)
    await client.aclose()


async def spend(client: LedgerClient, journal: TextIO, stopping: asyncio.Event) -> None:
    chance = random.Random()
    while not stopping.is_set():
        hold = chance.randrange(2_000)
        attempt = an_attempt(
            client.new_attempt_id(),
            hold,
            scopes=("global", f"key:{chance.randrange(3)}"),
            floor=hold // 4,
            deadline=2**40,
        )
        try:
            if chance.random() < 0.1:
                async with asyncio.timeout(chance.random() * 0.01):
                    await client.reserve(attempt)
            else:
                await client.reserve(attempt)
        except (BudgetRefused, LedgerUnavailable, TimeoutError):
            await asyncio.sleep(0.01)
            continue
        print("R", attempt.attempt, hold, file=journal, flush=True)
        await asyncio.sleep(chance.random() * 0.02)
        cost = chance.randrange(hold + 1)
        print("S", attempt.attempt, cost, file=journal, flush=True)
        client.settle(a_settlement(attempt.attempt, cost))


if __name__ == "__main__":
    with open(sys.argv[2], "w") as opened:
        asyncio.run(work(Path(sys.argv[1]), opened))


# --- the test ----------------------------------------------------------------------------------


@dataclass
class Journal:
    """What one worker was told. Only a worker that drained knows that its settlements arrived."""

    reserved: dict[int, int] = field(default_factory=dict)
    settled: dict[int, int] = field(default_factory=dict)
    drained: bool = False

    @classmethod
    def read(cls, path: Path) -> Journal:
        journal = cls()
        for line in path.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                break  # killed in the middle of it
            match line.split():
                case ["R", number, hold]:
                    journal.reserved[int(number)] = int(hold)
                case ["S", number, cost]:
                    journal.settled[int(number)] = int(cost)
                case ["drained"]:
                    journal.drained = True
        return journal


class Workers:
    def __init__(self, data_dir: Path, folder: Path) -> None:
        self._data_dir = data_dir
        self._folder = folder
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []
        self.journals: list[Path] = []

    def add(self) -> None:
        journal = self._folder / f"journal-{len(self.journals)}"
        journal.touch()
        self.journals.append(journal)
        module = "tests.proxy.ledger.test_ledger_crash"
        command = [sys.executable, "-m", module, str(self._data_dir), str(journal)]
        self._running.append((subprocess.Popen(command, cwd=ROOT), journal))

    def wait_ready(self) -> None:
        until(lambda: all(journal.stat().st_size for _, journal in self._running))

    def kill_one(self, chance: random.Random) -> None:
        victim, _ = self._running.pop(chance.randrange(len(self._running)))
        victim.kill()
        victim.wait(10)

    def stop(self) -> None:
        for process, _ in self._running:
            process.terminate()
        for process, _ in self._running:
            assert process.wait(20) == 0

    def kill(self) -> None:
        for process, _ in self._running:
            process.kill()
            process.wait(10)


def check_books(path: Path) -> None:
    """One consistent look while everything runs."""
    assert audit(path) == []


def check_limits(data_dir: Path) -> None:
    with open_ledger(data_dir) as ledger:
        for state in ledger.budgets():
            assert state.overrun_nanousd == 0
            assert state.spent_nanousd + state.held_nanousd <= LIMITS[state.scope]


def test_killing_everybody_all_the_time_loses_and_invents_nothing(tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("TOLLWAY_CRASH_SEED", "1")))
    ledger = LedgerProcess(tmp_path / "data", resume_s=1.0, tick_s=0.05)
    workers = Workers(ledger.data_dir, tmp_path)
    with contextlib.ExitStack() as stack:
        stack.enter_context(ledger)
        stack.callback(workers.kill)
        with open_ledger(ledger.data_dir) as opened:
            for scope, limit in LIMITS.items():
                opened.call(CreateBudget(0, scope, a_budget(limit, "lifetime")))
        for _ in range(WORKERS):
            workers.add()
        workers.wait_ready()

        for number in range(ROUNDS):
            deadline = time.monotonic() + 0.2 + chance.random() * 0.3
            while time.monotonic() < deadline:
                check_books(ledger.file)
            if number % 2:
                ledger.kill()
                check_books(ledger.file)
                ledger.start()
            else:
                workers.kill_one(chance)
                workers.add()
            check_limits(ledger.data_dir)

        workers.wait_ready()
        workers.stop()
        until(lambda: not any(row.outcome == "open" for row in attempts(ledger.file, 10**9)))
        check_limits(ledger.data_dir)
        assert ledger.stop() == 0

    check_books(ledger.file)
    recorded = {row.attempt: row for row in attempts(ledger.file, 10**9)}
    journals = [Journal.read(path) for path in workers.journals]
    assert sum(journal.drained for journal in journals) == WORKERS
    assert sum(len(journal.reserved) for journal in journals) > 500, json.dumps(
        [len(journal.reserved) for journal in journals]
    )
    for journal in journals:
        for number, hold in journal.reserved.items():
            assert recorded[number].hold_nanousd == hold
        if not journal.drained:
            continue
        for number, cost in journal.settled.items():
            assert (recorded[number].outcome, recorded[number].cost_nanousd) == ("ok", cost)
            assert recorded[number].held_nanousd == 0
        for number, row in recorded.items():
            if number >> 32 in {settled >> 32 for settled in journal.settled}:
                assert number in journal.settled or row.outcome == "not_dispatched", row
