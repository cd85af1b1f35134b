"""Alerts on their way to people: a line in the log, a count, and a message to each webhook.

The ledger raises an alert once and lists it until it hears that it was delivered. In every server
one worker has an `Alerts`, which is told of each, and repeats what a webhook does not take. A
worker that starts is told anew of all that is not delivered. So an alert arrives at least once,
under the same id each time.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import msgspec

from proxy.admin.budgets import Budget, shown_budget
from proxy.admin.shapes import Shown, Usd, iso, usd
from proxy.clock import Clock, SystemClock
from proxy.ledger.errors import LedgerError
from proxy.ledger.protocol import Alert, AlertKind
from proxy.telemetry import Metrics
from proxy.webhooks import NotTaken, Webhook

Format = Literal["standard", "slack"]

FIRST_DELAY_S = 5.0
MAX_DELAY_S = 6 * 3_600.0
"""Between tries: three times as long after each, up to this; a fifth more or less at random."""
GIVE_UP_AFTER_S = 86_400
LEAST_TRIES = 6
"""An alert is given up a day after it was raised, but only after this many tries in a process."""
AT_ONCE = 4
"""Tries under way to one webhook."""

_ACKNOWLEDGE_AGAIN_S = 1.0

_log = logging.getLogger("tollway")

Acknowledge = Callable[[tuple[int, ...]], Awaitable[object]]
"""Tells the ledger which alerts are delivered; raises `LedgerError`."""


@dataclass(frozen=True, kw_only=True)
class Receiver:
    """A webhook and what it wants to hear of, in which form."""

    name: str
    """Where it stands in router.yaml."""
    webhook: Webhook
    kinds: Collection[AlertKind] = get_args(AlertKind)
    format: Format = "standard"
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))


class Message(Shown, frozen=True, kw_only=True):
    """The body of a message in the format `standard`."""

    type: Literal["budget.threshold", "overrun", "unpriced", "drift", "swap", "errors", "latency"]
    id: str
    raised_at: str | None
    subject: str
    text: str
    percent: int | None
    amount_usd: Usd
    budget: Budget | None


class Alerts:
    """Announces and delivers what it is told of, while `run` runs."""

    def __init__(
        self,
        receivers: Sequence[Receiver],
        metrics: Metrics,
        *,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`sleep` takes seconds; `chance` returns from 0 to 1."""
        self._receivers = receivers
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self._chance = chance
        self._told: asyncio.Queue[Alert] = asyncio.Queue()
        # From when we are told of an alert until the ledger has confirmed that it was delivered.
        self._known: set[int] = set()
        self._under_way: dict[int, tuple[Alert, asyncio.Task[None]]] = {}
        self._delivered: set[int] = set()
        self._has_delivered = asyncio.Event()

    def put(self, alert: Alert) -> None:
        """Take note of an alert, once however often it is told. Never waits."""
        if alert.alert_id not in self._known:
            self._known.add(alert.alert_id)
            self._metrics.alerts.labels(alert.kind).inc()
            _log.warning("alert: %s", _in_one_line(alert.text))
            self._told.put_nowait(alert)

    async def run(self, acknowledge: Acknowledge) -> None:
        """Deliver until cancelled. What is under way then is told to the next worker."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_acknowledging(acknowledge))
                while True:
                    alert = await self._told.get()
                    task = group.create_task(self._deliver(alert))
                    self._under_way[alert.alert_id] = alert, task
        except Exception:
            _log.exception("alerts are not delivered any more")
            raise

    async def send_to(self, receivers: Sequence[Receiver]) -> None:
        """Send to these from now on, what is under way too; who had it may get it once more."""
        before, self._receivers = self._receivers, receivers
        under_way, self._under_way = self._under_way, {}
        for _, task in under_way.values():
            task.cancel()
        await asyncio.gather(*(task for _, task in under_way.values()), return_exceptions=True)
        for alert, _ in under_way.values():
            self._told.put_nowait(alert)
        for receiver in before:
            await receiver.webhook.aclose()

    async def aclose(self) -> None:
        """Close the webhooks' connections."""
        for receiver in self._receivers:
            await receiver.webhook.aclose()

    async def _deliver(self, alert: Alert) -> None:
        interested = [r for r in self._receivers if alert.kind in r.kinds]
        await asyncio.gather(*(self._send(alert, receiver) for receiver in interested))
        del self._under_way[alert.alert_id]
        self._delivered.add(alert.alert_id)
        self._has_delivered.set()

    async def _send(self, alert: Alert, receiver: Receiver) -> None:
        """Send until it is taken or there is no point in it any more."""
        number, body = message_id(alert), body_of(alert, receiver.format)
        where = f"{receiver.name} ({receiver.webhook.host})"
        deliveries = self._metrics.alert_deliveries
        for tries in itertools.count(1):
            try:
                async with receiver.turns:
                    await receiver.webhook.post(number, body, int(self._clock.time()))
            except NotTaken as problem:
                delay_s = self._delay_s(tries, problem)
                late = self._clock.time() + delay_s > alert.raised_at + GIVE_UP_AFTER_S
                if problem.is_final or (late and tries >= LEAST_TRIES):
                    deliveries.labels("given_up").inc()
                    _log.error(
                        "%s: %s was given up after %d tries: %s", where, number, tries, problem
                    )
                    return
                deliveries.labels("failed").inc()
                if tries == 1:
                    _log.warning("%s: %s will be sent again: %s", where, number, problem)
                await self._sleep(delay_s)
            else:
                deliveries.labels("delivered").inc()
                return

    def _delay_s(self, tries: int, problem: NotTaken) -> float:
        delay_s = min(FIRST_DELAY_S * 3.0 ** min(tries - 1, 20), MAX_DELAY_S)
        asked_s = min(problem.retry_after_s or 0.0, MAX_DELAY_S)
        return max(delay_s * (0.8 + 0.4 * self._chance()), asked_s)

    async def _keep_acknowledging(self, acknowledge: Acknowledge) -> None:
        while True:
            await self._has_delivered.wait()
            self._has_delivered.clear()
            delivered = tuple(self._delivered)
            try:
                await acknowledge(delivered)
            except LedgerError:
                await self._sleep(_ACKNOWLEDGE_AGAIN_S)
                self._has_delivered.set()
            else:
                self._delivered.difference_update(delivered)
                self._known.difference_update(delivered)


def message_id(alert: Alert) -> str:
    """The same for every delivery of an alert, and another for that of another server."""
    return f"alert_{alert.alert_id}_{alert.raised_at}"


def body_of(alert: Alert, format: Format) -> bytes:
    """The message about an alert. The same bytes each time."""
    if format == "slack":
        return msgspec.json.encode({"text": f"Tollway: {_for_slack(alert.text)}"})
    budget = alert.budget
    return msgspec.json.encode(
        Message(
            type="budget.threshold" if alert.kind == "budget" else alert.kind,
            id=message_id(alert),
            raised_at=iso(alert.raised_at),
            subject=alert.subject,
            text=alert.text,
            percent=alert.percent if alert.kind == "budget" else None,
            amount_usd=usd(alert.amount_nanousd),
            budget=None if budget is None else shown_budget(budget, alert.raised_at),
        )
    )


def _for_slack(text: str) -> str:
    # A budget's scope can hold what an end user calls itself, which must not become a mention.
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _in_one_line(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
