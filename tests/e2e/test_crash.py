"""kill -9 of workers and of the ledger under load, judged by the provider's own invoice.

Clients ask for JSON and streams, leave a fifth of them in the middle, and fall back from targets
that fail, while workers and the ledger are killed again and again. Afterwards:

- every request that reached the provider has its row,
- the books balance, and no key's invoice is above its budget,
- what the provider bills is what the ledger says to the nano-dollar, but for rows that say of
  themselves that they are estimates, and those are within what was held for them.

`TOLLWAY_KILLS` says how often each of the two is killed (`make chaos`: 100), and
`TOLLWAY_CHAOS_REPORT` where the figures are written to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil

from proxy.ledger.audit import audit
from tests.e2e.invoicing import PRICE, Bill, Provider
from tests.e2e.tollway import Tollway, serving
from tests.waiting import until

KILLS = int(os.environ.get("TOLLWAY_KILLS", "6"))
WORKERS = 3
CLIENTS = 16
MAX_TOKENS = 60
SHARE_LEFT = 0.2

# Dollars for each key: one that is spent in the first seconds, one on the way, one that is never.
LIMITS = {"small": 0.0004, "middle": 0.0003 * KILLS, "large": 1_000}
SHARES = (1, 3, 3)
ANSWERS_BETWEEN_KILLS = 20


def configured(provider: Provider, dead_port: int) -> dict[str, Any]:
    url = provider.base_url
    target = {
        "price": PRICE,
        "context_length": 10_000,
        "max_output_tokens": 1_000,
    }
    names = ("bills/whole", "stops/meter", "stops/flaky", "dead/whole")
    return {
        "server": {"workers": WORKERS, "access_log": False},
        "providers": {
            # It bills an answer to its end even if nobody reads it: it is heard out.
            "bills": {"base_url": url, "api_key": "sk-a", "meterable": False},
            # It stops with the connection: streams hold slices, and what was cut is an estimate.
            "stops": {"base_url": url, "api_key": "sk-b", "meterable": True},
            "dead": {"base_url": f"http://127.0.0.1:{dead_port}/v1", "api_key": "sk-c"},
        },
        "targets": [{"target": name, **target} for name in names],
        "models": {
            "auto": {"targets": ["stops/flaky", "bills/whole"]},
            "metered": {"targets": ["stops/flaky", "stops/meter"]},
            "fallback": {"targets": ["dead/whole", "bills/whole"]},
        },
    }


@dataclass
class Load:
    """Clients that go on asking until they are stopped, and what they were told."""

    url: str
    keys: dict[str, str]
    answered: list[str] = field(default_factory=list)
    """The `user`s whose answer arrived whole."""
    told: Counter[str] = field(default_factory=Counter)
    is_over: bool = False
    _numbers: int = 0
    _chance: random.Random = field(default_factory=lambda: random.Random(os.getpid()))

    async def run(self, meanwhile: Callable[[], None]) -> None:
        """Keep up the load as long as `meanwhile` takes, in threads of its own."""
        limits = httpx2.Limits(max_connections=2 * CLIENTS)
        async with (
            httpx2.AsyncClient(timeout=60, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(CLIENTS):
                group.create_task(self._go_on(client))
            try:
                await asyncio.to_thread(meanwhile)
            finally:
                self.is_over = True

    async def _go_on(self, client: httpx2.AsyncClient) -> None:
        while not self.is_over:
            self._numbers += 1
            (key,) = self._chance.choices(list(self.keys), SHARES)
            user = f"{key}-{self._numbers}"
            asking = asyncio.create_task(self._ask(client, key, user))
            if self._chance.random() < SHARE_LEFT:
                await asyncio.wait([asking], timeout=self._chance.random() * 0.1)
                asking.cancel()
            try:
                outcome = await asking
            except asyncio.CancelledError:
                outcome = "left"
            except httpx2.TransportError as error:
                outcome = type(error).__name__
            self.told[outcome] += 1
            if outcome in ("429", "503", "ConnectError"):
                await asyncio.sleep(0.05)

    async def _ask(self, client: httpx2.AsyncClient, key: str, user: str) -> str:
        body = {
            "model": self._chance.choice(("auto", "metered", "fallback")),
            "messages": [{"role": "user", "content": "Say something, word by word. " * 3}],
            "max_tokens": MAX_TOKENS,
            "stream": self._chance.random() < 0.6,
            "user": user,
        }
        headers = {"authorization": f"Bearer {self.keys[key]}"}
        url = f"{self.url}/v1/chat/completions"
        reply = await client.post(url, json=body, headers=headers)
        if reply.status_code != 200:
            self.told[f"{key} {reply.status_code}"] += 1
            return str(reply.status_code)
        if body["stream"] and "[DONE]" not in reply.text:
            return "cut"
        self.answered.append(user)
        return "answered"


class Killer:
    """Kills the ledger and workers, each when there is a successor that has done some work."""

    def __init__(self, tollway: Tollway, load: Load) -> None:
        self._tollway = tollway
        self._load = load
        self._answered: Counter[str] = Counter()
        self._chance = random.Random(os.getpid() + 1)
        self._workers: set[int] = set()
        self.kills: Counter[str] = Counter()

    def kill_everybody(self) -> None:
        while self.kills["ledger"] < KILLS or self.kills["worker"] < KILLS:
            time.sleep(self._chance.random() * 0.4)
            assert self._tollway.is_running, self._tollway.log()
            ledger, workers = self._look()
            # After a ledger's early death its supervisor waits for some seconds before it starts
            # another. Meanwhile workers die as well.
            if ledger is not None and self._is_due("ledger"):
                self._kill("ledger", ledger)
            if len(workers) > 1 and self._is_due("worker"):
                self._kill("worker", self._chance.choice(workers))
        until(self._is_whole)

    def _is_due(self, what: str) -> bool:
        answered = len(self._load.answered) - self._answered[what]
        return self.kills[what] < KILLS and answered >= ANSWERS_BETWEEN_KILLS

    def _kill(self, what: str, victim: psutil.Process) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
            victim.wait(10)
            self.kills[what] += 1
            self._answered[what] = len(self._load.answered)

    def _look(self) -> tuple[psutil.Process | None, list[psutil.Process]]:
        """The ledger, if there is one, and the children that are known to be workers."""
        children = {child.pid: child for child in self._tollway.children()}
        owner = (self._tollway.data / "ledger.lock").read_text().strip()
        ledger = children.pop(int(owner), None) if owner else None
        if ledger is not None:
            self._workers = set(children)
        return ledger, [child for pid, child in children.items() if pid in self._workers]

    def _is_whole(self) -> bool:
        ledger, workers = self._look()
        return ledger is not None and len(workers) == WORKERS and self._is_ready()

    def _is_ready(self) -> bool:
        try:
            return self._tollway.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False


Group = tuple[str, str]
"""A request's `user` and the model that was asked at the provider."""


@dataclass
class Comparison:
    """The provider's invoice beside the ledger's rows."""

    bills: dict[Group, list[Bill]]
    rows: dict[Group, list[dict[str, Any]]]
    marked: list[dict[str, Any]] = field(default_factory=list)
    """What differs and says that it may: estimates, and orphans of dead workers."""

    @classmethod
    def of(cls, tollway: Tollway, provider: Provider) -> Comparison:
        bills, rows = defaultdict(list), defaultdict(list)
        for bill in provider.invoice():
            assert bill.is_final
            bills[bill.user, bill.model].append(bill)
        for row in tollway.query("SELECT * FROM spend"):
            (user,) = [s[5:] for s in json.loads(row["scopes"]) if s.startswith("user:")]
            if row["provider"] == "dead":
                assert (row["outcome"], row["cost_nanousd"]) in (
                    ("not_dispatched", 0),
                    # Its worker died, or its client left, before the connection was refused.
                    ("orphan", row["cost_nanousd"]),
                    ("client_gone", row["cost_nanousd"]),
                ), row
            else:
                rows[user, row["target"].partition("/")[2]].append(row)
        return cls(bills, rows)

    def check(self) -> None:
        lost = [group for group, bills in self.bills.items() if len(bills) > len(self.rows[group])]
        assert lost == []
        for group, rows in self.rows.items():
            billed = sum(bill.nanousd for bill in self.bills.get(group, ()))
            cost = sum(row["cost_nanousd"] for row in rows)
            is_marked = any(row["estimated"] or row["outcome"] == "orphan" for row in rows)
            if billed == cost:
                continue
            assert is_marked, (group, billed, rows)
            assert billed <= sum(row["hold_nanousd"] for row in rows), (group, billed, rows)
            self.marked.append(
                {
                    "outcome": rows[-1]["outcome"],
                    "target": rows[-1]["target"],
                    "billed": billed,
                    "cost": cost,
                    "held": sum(row["held_nanousd"] for row in rows),
                }
            )

    def billed(self, key: str) -> int:
        """What a key's requests are billed in all, in nano-USD."""
        return sum(
            bill.nanousd
            for (user, _), bills in self.bills.items()
            if user.startswith(f"{key}-")
            for bill in bills
        )


def test_nothing_is_lost_and_the_invoice_agrees_whoever_is_killed(tmp_path: Path) -> None:
    with (
        Provider() as provider,
        closed_port() as dead_port,
        serving(tmp_path, configured(provider, dead_port)) as tollway,
    ):
        keys = {name: make_key(tollway, name) for name in LIMITS}
        load = Load(tollway.url, keys)
        killer = Killer(tollway, load)
        began = time.monotonic()
        asyncio.run(load.run(killer.kill_everybody))
        took_s = time.monotonic() - began
        until(lambda: not unsettled(tollway))

        compared = Comparison.of(tollway, provider)
        compared.check()
        report(compared, load, killer, took_s)
        assert audit(tollway.data / "ledger.db") == []
        budgets = {b["name"]: b for b in tollway.admin("GET", "/budgets")["data"]}
        for name, limit_usd in LIMITS.items():
            budget, billed = budgets[name], compared.billed(name)
            assert budget["overrun_usd"] == 0
            assert budget["spent_usd"] + budget["held_usd"] <= limit_usd + 1e-9
            assert billed <= limit_usd * 1e9
        assert killer.kills == {"ledger": KILLS, "worker": KILLS}
        assert load.told["small 429"] > 0
        costs: Counter[str] = Counter()
        for (user, _), rows in compared.rows.items():
            costs[user] += sum(row["cost_nanousd"] for row in rows)
        assert [user for user in load.answered if not costs[user]] == []


def make_key(tollway: Tollway, name: str) -> str:
    budget = {"limit_usd": LIMITS[name], "window": "lifetime", "name": name}
    made: str = tollway.admin("POST", "/keys", {"name": name, "budgets": [budget]})["key"]
    return made


def unsettled(tollway: Tollway) -> int:
    (found,) = tollway.query(
        "SELECT count(*) AS n FROM attempts WHERE id NOT IN (SELECT attempt FROM settlements)"
    )
    count: int = found["n"]
    return count


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port on which every connection is refused, for as long as it is ours."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def report(compared: Comparison, load: Load, killer: Killer, took_s: float) -> None:
    """Say what happened, for whoever runs `make chaos`."""
    rows = [row for group in compared.rows.values() for row in group]
    figures = {
        "kills": dict(killer.kills),
        "seconds": round(took_s),
        "clients were told": dict(load.told),
        "attempts": len(rows),
        "outcomes": dict(Counter(row["outcome"] for row in rows)),
        "estimated": sum(row["estimated"] for row in rows),
        "differ": len(compared.marked),
        "marked": compared.marked,
        "billed": {name: compared.billed(name) / 1e9 for name in LIMITS},
        "limits": LIMITS,
    }
    where = os.environ.get("TOLLWAY_CHAOS_REPORT")
    if where:
        Path(where).write_text(json.dumps(figures, indent=2))
    print(json.dumps(figures, indent=2))
