from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.alerts import (
    AT_ONCE,
    FIRST_DELAY_S,
    GIVE_UP_AFTER_S,
    LEAST_TRIES,
    MAX_DELAY_S,
    Alerts,
    Receiver,
    body_of,
    message_id,
)
from proxy.ledger.errors import LedgerUnavailable
from proxy.ledger.protocol import Alert, BudgetSettings, BudgetState
from proxy.tallies import Family, Number
from proxy.telemetry import Metrics
from proxy.webhooks import NotTaken

NOW = 1_773_144_000
REFUSED = NotTaken("it answered with status 500")


def an_alert(number: int = 1, **changes: Any) -> Alert:
    told: dict[str, Any] = {
        "alert_id": number,
        "kind": "overrun",
        "raised_at": NOW,
        "subject": "up/m1",
        "text": "up/m1 billed too much",
        "amount_nanousd": 1_500,
        **changes,
    }
    return Alert(**told)


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = float(NOW)
        self.slept: list[float] = []

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@dataclass
class Post:
    """Takes the place of a webhook: a real one is in test_webhooks and in the end-to-end tests."""

    answer: Callable[[int], NotTaken | None] = lambda tries: None
    host: str = "h"
    bodies: list[tuple[str, bytes, int]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    arrived: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    open_now: int = 0
    most_open: int = 0

    async def post(self, message_id: str, body: bytes, now: int) -> None:
        self.bodies.append((message_id, body, now))
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        self.arrived.release()
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.open_now -= 1
        problem = self.answer(len(self.bodies))
        if problem is not None:
            raise problem

    async def aclose(self) -> None:
        self.host = "closed"


def _by_label(family: Family[Number]) -> dict[str, float]:
    return {label: number.cell[0] for (label,), number in family.known.items()}


class Desk:
    """An `Alerts` that runs, and the ledger's end of it."""

    def __init__(self, *receivers: Receiver, chance: float = 0.5) -> None:
        self.time = Time()
        self.metrics = Metrics()
        self.alerts = Alerts(
            receivers, self.metrics, clock=self.time, sleep=self.time.sleep, chance=lambda: chance
        )
        self.acknowledged: list[int] = []
        self.failures: list[LedgerUnavailable] = []
        self._changed = asyncio.Event()

    async def acknowledge(self, ids: tuple[int, ...]) -> None:
        if self.failures:
            raise self.failures.pop()
        self.acknowledged += ids
        self._changed.set()

    async def until_acknowledged(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.acknowledged) < count:
                self._changed.clear()
                await self._changed.wait()

    def counts(self) -> dict[str, float]:
        return _by_label(self.metrics.alert_deliveries)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Desk]:
        task = asyncio.create_task(self.alerts.run(self.acknowledge))
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()


def receiver(post: Post, **settings: Any) -> Receiver:
    return Receiver(name="alerts.webhooks[0]", webhook=post, **settings)  # type: ignore[arg-type] # its two methods are all that is used


async def deliver(desk: Desk, *alerts: Alert) -> None:
    async with desk.running():
        for alert in alerts:
            desk.alerts.put(alert)
        await desk.until_acknowledged(len(alerts))


# --- what is sent ------------------------------------------------------------------------------


def test_a_budget_alert_in_full() -> None:
    settings = BudgetSettings(limit_nanousd=10**10, window="day", name="all")
    budget = BudgetState(
        budget_id=3,
        scope="global",
        settings=settings,
        managed="config",
        spent_nanousd=8_000_000_001,
        held_nanousd=5,
        overrun_nanousd=0,
        starts_at=NOW - 43_200,
        opens_at=NOW + 43_200,
        created_at=NOW - 86_400,
    )
    text = "global has spent 80 % of its day budget"
    alert = an_alert(
        7,
        kind="budget",
        subject="global",
        text=text,
        percent=80,
        amount_nanousd=8_000_000_001,
        budget=budget,
    )
    sent = body_of(alert, "standard")
    assert b'"amount_usd":8.000000001' in sent
    told = json.loads(sent)
    shown = told.pop("budget")
    assert told == {
        "type": "budget.threshold",
        "id": "alert_7_1773144000",
        "raised_at": "2026-03-10T12:00:00+00:00",
        "subject": "global",
        "text": text,
        "percent": 80,
        "amount_usd": 8.000000001,
    }
    assert (shown["id"], shown["limit_usd"], shown["remaining_usd"]) == (3, 10.0, 1.999999994)


@pytest.mark.parametrize("kind", ["overrun", "unpriced", "drift"])
def test_other_kinds_name_no_budget(kind: str) -> None:
    told = json.loads(body_of(an_alert(kind=kind, amount_nanousd=-5), "standard"))
    assert (told["type"], told["percent"], told["budget"]) == (kind, None, None)
    assert told["amount_usd"] == -0.000000005


def test_slack_gets_a_text_in_which_nothing_is_a_mention() -> None:
    told = json.loads(body_of(an_alert(text="user:<!channel> & co has spent"), "slack"))
    assert told == {"text": "Tollway: user:&lt;!channel&gt; &amp; co has spent"}


def test_the_log_line_stays_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tollway"):
        asyncio.run(deliver(Desk(), an_alert(text="user:a\nb — ü has spent\x1b[31m")))
    assert [r.getMessage() for r in caplog.records] == [r"alert: user:a\nb — ü has spent\x1b[31m"]


# --- when it is sent ---------------------------------------------------------------------------


def test_an_alert_is_logged_counted_and_acknowledged_where_nobody_wants_it() -> None:
    desk = Desk()
    asyncio.run(deliver(desk, an_alert(1), an_alert(2, kind="budget"), an_alert(3)))
    assert sorted(desk.acknowledged) == [1, 2, 3]
    assert _by_label(desk.metrics.alerts) == {"overrun": 2, "budget": 1}
    assert desk.counts() == {}


def test_an_alert_is_sent_once_however_often_it_is_told() -> None:
    async def scenario() -> None:
        post = Post(gate=asyncio.Event())
        assert post.gate is not None
        desk = Desk(receiver(post))
        async with desk.running():
            desk.alerts.put(an_alert())
            desk.alerts.put(an_alert())
            await post.arrived.acquire()
            desk.alerts.put(an_alert())
            post.gate.set()
            await desk.until_acknowledged(1)
        assert len(post.bodies) == 1
        assert desk.acknowledged == [1]
        assert desk.counts() == {"delivered": 1}

    asyncio.run(scenario())


def test_an_alert_that_could_not_be_acknowledged_is_not_sent_again() -> None:
    async def scenario() -> None:
        post = Post()
        desk = Desk(receiver(post))
        desk.failures = [LedgerUnavailable("away"), LedgerUnavailable("away")]
        async with desk.running():
            desk.alerts.put(an_alert())
            while desk.failures:
                # A ledger that starts anew lists it again.
                desk.alerts.put(an_alert())
                await asyncio.sleep(0)
            await desk.until_acknowledged(1)
        assert len(post.bodies) == 1

    asyncio.run(scenario())


def test_a_failed_try_is_repeated_with_the_same_id_and_a_new_time() -> None:
    post = Post(lambda tries: REFUSED if tries < 3 else None)
    desk = Desk(receiver(post))
    asyncio.run(deliver(desk, an_alert()))
    assert desk.time.slept == [FIRST_DELAY_S, 3 * FIRST_DELAY_S]
    ids, bodies, times = zip(*post.bodies, strict=True)
    assert set(ids) == {message_id(an_alert())}
    assert len(set(bodies)) == 1
    assert times == (NOW, NOW + 5, NOW + 20)
    assert desk.counts() == {"failed": 2, "delivered": 1}


def test_tries_go_on_for_about_a_day_and_then_end(caplog: pytest.LogCaptureFixture) -> None:
    post = Post(lambda tries: REFUSED)
    desk = Desk(receiver(post))
    with caplog.at_level(logging.WARNING, "tollway"):
        asyncio.run(deliver(desk, an_alert()))
    assert desk.time.slept == sorted(desk.time.slept)
    assert max(desk.time.slept) == MAX_DELAY_S
    assert 0.7 * GIVE_UP_AFTER_S < sum(desk.time.slept) <= GIVE_UP_AFTER_S
    assert len(post.bodies) == len(desk.time.slept) + 1
    assert desk.counts() == {"failed": len(desk.time.slept), "given_up": 1}
    levels = Counter(r.levelname for r in caplog.records)
    assert levels == {"WARNING": 2, "ERROR": 1}
    assert "alerts.webhooks[0] (h)" in caplog.records[-1].getMessage()


def test_an_old_alert_is_still_tried_a_few_times() -> None:
    post = Post(lambda tries: REFUSED)
    desk = Desk(receiver(post))
    asyncio.run(deliver(desk, an_alert(raised_at=NOW - 30 * 86_400)))
    assert len(post.bodies) == LEAST_TRIES


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.8), (1.0, 1.2)])
def test_delays_vary(chance: float, factor: float) -> None:
    desk = Desk(receiver(Post(lambda tries: REFUSED if tries == 1 else None)), chance=chance)
    asyncio.run(deliver(desk, an_alert()))
    assert desk.time.slept == [pytest.approx(factor * FIRST_DELAY_S)]


@pytest.mark.parametrize(
    ("asked_s", "waited_s"), [(1, FIRST_DELAY_S), (600, 600), (10**9, MAX_DELAY_S)]
)
def test_a_receiver_may_ask_for_more_time(asked_s: float, waited_s: float) -> None:
    problem = NotTaken("busy", retry_after_s=asked_s)
    desk = Desk(receiver(Post(lambda tries: problem if tries == 1 else None)))
    asyncio.run(deliver(desk, an_alert()))
    assert desk.time.slept == [waited_s]


def test_a_receiver_that_is_gone_is_asked_once() -> None:
    post = Post(lambda tries: NotTaken("status 410", is_final=True))
    desk = Desk(receiver(post))
    asyncio.run(deliver(desk, an_alert()))
    assert len(post.bodies) == 1
    assert desk.counts() == {"given_up": 1}


def test_receivers_are_independent_and_all_are_waited_for() -> None:
    async def scenario() -> None:
        slow, quick = Post(gate=asyncio.Event()), Post()
        assert slow.gate is not None
        desk = Desk(receiver(slow), receiver(quick))
        async with desk.running():
            desk.alerts.put(an_alert(1))
            await slow.arrived.acquire()
            await quick.arrived.acquire()
            assert desk.acknowledged == []
            slow.gate.set()
            await desk.until_acknowledged(1)
        assert len(slow.bodies) == len(quick.bodies) == 1

    asyncio.run(scenario())


def test_a_receiver_hears_only_of_what_it_wants() -> None:
    post = Post()
    desk = Desk(receiver(post, kinds=("drift",)))
    asyncio.run(deliver(desk, an_alert(1), an_alert(2, kind="drift")))
    assert [number for number, _, _ in post.bodies] == [message_id(an_alert(2))]


def test_only_some_tries_are_under_way_at_once() -> None:
    async def scenario() -> None:
        post = Post(gate=asyncio.Event())
        assert post.gate is not None
        desk = Desk(receiver(post))
        async with desk.running():
            for number in range(50):
                desk.alerts.put(an_alert(number))
            for _ in range(AT_ONCE):
                await post.arrived.acquire()
            post.gate.set()
            await desk.until_acknowledged(50)
        assert post.most_open == AT_ONCE
        assert len(post.bodies) == 50

    asyncio.run(scenario())


def test_closing_closes_the_webhooks() -> None:
    post = Post()
    asyncio.run(Desk(receiver(post)).alerts.aclose())
    assert post.host == "closed"


def test_other_receivers_get_what_those_before_did_not() -> None:
    before, after = Post(gate=asyncio.Event()), Post()
    desk = Desk(receiver(before))

    async def scenario() -> None:
        async with desk.running():
            desk.alerts.put(an_alert(1))
            await before.arrived.acquire()
            await desk.alerts.send_to([receiver(after)])
            await desk.until_acknowledged(1)
            desk.alerts.put(an_alert(2))
            await desk.until_acknowledged(2)

    asyncio.run(scenario())
    assert before.host == "closed"
    numbers = [number for number, _, _ in after.bodies]
    assert numbers == [message_id(an_alert(1)), message_id(an_alert(2))]
    assert desk.acknowledged == [1, 2]
