"""One worker process: from its fork to its last settlement, revision after revision."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FrameType
from typing import NoReturn

import uvicorn

from proxy import revisions
from proxy.accounts import Account
from proxy.alerts import Alerts, Receiver
from proxy.assembly import Parts, Plan, make_serving, make_store
from proxy.baselines import Baselines
from proxy.circuits import Circuits
from proxy.clock import SystemClock
from proxy.config import Alerts as AlertSettings
from proxy.config import Server
from proxy.ejections import Ejections
from proxy.ensembles.ensembles import Lasting
from proxy.figures import Figures
from proxy.gates import Gates
from proxy.guard.admission import Admission
from proxy.guard.protocol import GuardedProtocol, Patience, watch
from proxy.health import HealthChecks
from proxy.inventory import Inventory
from proxy.ledger.client import LedgerClient
from proxy.ledger.protocol import AlertsDelivered, RaiseAlert
from proxy.local_room import LocalRoom
from proxy.model_host.client import HostClient
from proxy.request_recorder import RequestRecorder
from proxy.request_store import RequestStore
from proxy.response_store import ResponseStore
from proxy.revisions import Revision, follow
from proxy.serving import Current
from proxy.swaps.asking import ask
from proxy.swaps.moves import Moves
from proxy.swaps.preparing import Preparations
from proxy.telemetry import Metrics, RequestLog
from proxy.webhooks import Webhook, signing_key

_YOUNG_OBJECTS = 10_000
_logger = logging.getLogger("tollway")

try:
    import uvloop

    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
except ImportError:  # no uvloop on this platform; asyncio's own loop serves too
    new_event_loop = asyncio.new_event_loop


# As many models that are found later are counted each by itself.
FOUND_LATER = 32

# How long a stopping worker waits for its last requests to end, and for the ledger to have it all.
LAST_SETTLEMENTS_S = 5.0


def run(
    plan: Plan,
    number: int,
    listener: socket.socket,
    ready: int,
    lifeline: int,
    line: socket.socket,
) -> None:
    """Serve until SIGTERM, or until the supervisor is gone; then finish what is in flight.

    A byte is written to `ready` when requests are accepted. `lifeline` is the read end of a pipe
    that only the supervisor holds open; over `line` it tells of other revisions.
    """
    look_less_often()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(plan, number, listener, ready, lifeline, line))


def look_less_often() -> None:
    """Have Python's collector of cycles take less of this process's time."""
    # A request makes some hundreds of objects, and cycles only where it failed or raced: at 700 the
    # collector would look at them after every second one, for a twentieth of the worker's time.
    gc.set_threshold(_YOUNG_OBJECTS)


async def _serve(
    plan: Plan,
    number: int,
    listener: socket.socket,
    ready: int,
    lifeline: int,
    line: socket.socket,
) -> None:
    server_settings = plan.config.server
    most_targets = len(plan.table().targets) + FOUND_LATER
    metrics = Metrics(plan.metrics, most_targets=most_targets)
    metrics.revision.set(plan.revision)
    # One for the whole server: an alert is sent once, not by every worker.
    alerts = Alerts(receivers(plan.config.alerts), metrics) if number == 0 else None
    ledger = LedgerClient(
        plan.data.path, name=f"worker-{number}", on_alert=alerts.put if alerts else None
    )
    await ledger.connect()
    delivering = (
        asyncio.create_task(alerts.run(lambda ids: ledger.call(AlertsDelivered(0, ids))))
        if alerts
        else None
    )
    clock = SystemClock()
    room = LocalRoom()
    figures = Figures(clock, room)
    host = HostClient(plan.data.path)
    ejections = Ejections(table=lambda: current.table(), metrics=metrics, models=host)
    parts = Parts(
        number=number,
        ledger=ledger,
        host=host,
        moves=Moves(ledger, plan.secret),
        figures=figures,
        room=room,
        baselines=Baselines(plan.config.alerts, figures),
        circuits=Circuits(plan.config.circuit, clock, ejections),
        gates=Gates({}, metrics, clock),
        ensembles=Lasting(),
        recorder=RequestRecorder(
            RequestStore(plan.data.path), plan.config.logging, plan.secret, clock
        ),
        metrics=metrics,
        log=RequestLog(on=server_settings.access_log),
        clock=clock,
        patience=make_patience(server_settings),
        admission=Admission(
            most=server_settings.max_concurrent,
            queue=server_settings.queue,
            queue_s=server_settings.queue_s,
        ),
    )
    comparing = asyncio.create_task(
        parts.baselines.run(lambda it: ledger.call(RaiseAlert(0, it.kind, it.target, it.text)))
    )
    ledger.watch_quality(figures.judge)
    current = Current(make_serving(plan, parts, make_store(plan)))
    preparations = Preparations(
        ledger=ledger,
        moves=parts.moves,
        table=current.table,
        models=parts.host,
        clock=clock,
        ask=lambda swap, check, target: ask(current.serving.engine, swap, check, target),
    )
    if number == 0:
        preparations.start()
    forgetting = asyncio.create_task(parts.recorder.tidy_always()) if number == 0 else None
    server = _Server(
        uvicorn.Config(
            current,
            http=partial(GuardedProtocol, parts.patience, parts.admission),  # type: ignore[arg-type] # uvicorn only calls it
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=math.ceil(server_settings.drain_s),
        ),
        ready,
        parts.admission,
    )
    server.unready_s = server_settings.unready_s
    connections = server.server_state.connections
    sweeping = asyncio.create_task(watch(connections, parts.admission, parts.patience))
    loop = asyncio.get_running_loop()

    def supervisor_gone() -> None:
        loop.remove_reader(lifeline)
        server.should_exit = True

    loop.add_reader(lifeline, supervisor_gone)
    taking_over = _Revisions(plan, parts, current, alerts, server)
    taking_over.go_on()
    following = asyncio.create_task(follow(line, taking_over.apply))
    try:
        await server.serve(sockets=[listener])
    finally:
        following.cancel()
        await server.end_tasks()
        await preparations.aclose()
        parts.log.flush()
        taking_over.close()
        for task in (sweeping, delivering, comparing, forgetting):
            if task is not None:
                task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SETTLEMENTS_S):
                await ledger.drained()
        await ledger.aclose()
        await current.aclose()
        await parts.ensembles.aclose()
        await parts.host.aclose()
        if alerts is not None:
            await alerts.aclose()
        parts.recorder.close()


class _Revisions:
    """Takes over the revisions that the supervisor tells of."""

    def __init__(
        self,
        plan: Plan,
        parts: Parts,
        current: Current,
        alerts: Alerts | None,
        server: _Server,
    ) -> None:
        """`alerts` are those of the one worker that does what is done once for the server."""
        self._plan = plan
        self._parts = parts
        self._current = current
        self._alerts = alerts
        self._server = server
        self._watching: asyncio.Task[NoReturn] | None = None
        self._measuring: asyncio.Task[NoReturn] | None = None
        self._checks = HealthChecks(parts.circuits)
        self._accounts: Mapping[str, Account] = {}
        """Those of the revision that the circuits know."""
        self._tidying: tuple[ResponseStore, asyncio.Task[None]] | None = None

    async def apply(self, revision: Revision) -> None:
        """Serve by a revision; where this raises, the one before is served. Raises `StartError`."""
        before, serving = self._plan, self._current.serving
        found = serving.table.inventory
        plan = await asyncio.to_thread(before.revise, revision, before)
        is_same_store = _store_settings(plan) == _store_settings(before)
        store = serving.store if is_same_store else make_store(plan)
        changed = make_serving(plan, self._parts, store, serving.accounts)
        if serving.table.inventory is not found:  # it has come meanwhile
            changed.find(serving.table.inventory)
        self._plan = plan
        self._current.replace(changed)
        server = plan.config.server
        self._parts.patience.follow(make_patience(server))
        self._parts.admission.resize(
            most=server.max_concurrent, queue=server.queue, queue_s=server.queue_s
        )
        self._server.config.timeout_graceful_shutdown = math.ceil(server.drain_s)
        self._server.unready_s = server.unready_s
        self._parts.log.is_on = server.access_log
        self._parts.metrics.revision.set(plan.revision)
        self._parts.baselines.follow(plan.config.alerts)
        self._parts.recorder.follow(plan.config.logging)
        self.go_on()
        if self._alerts is not None and plan.config.alerts != before.config.alerts:
            await self._alerts.send_to(receivers(plan.config.alerts))

    def go_on(self) -> None:
        """Begin and end what is done beside requests, as the plan has it."""
        self._look_after_targets()
        if self._plan.host is not None and self._watching is None:
            host, every_s = self._parts.host, self._plan.config.host.health_s
            self._watching = asyncio.create_task(host.watch(self._found))
            self._measuring = asyncio.create_task(self._parts.room.watch(host.look, every_s))
        store = self._current.serving.store
        if self._tidying is not None and self._tidying[0] is not store:
            self._tidying[1].cancel()
            self._tidying = None
        if self._tidying is None and store is not None and self._alerts is not None:
            self._tidying = store, asyncio.create_task(store.tidy_always(_warn_of_store))

    def _look_after_targets(self) -> None:
        providers = self._plan.config.providers
        adaptive = {name: each.adaptive for name, each in providers.items() if each.adaptive}
        self._parts.gates.follow(adaptive)
        keys = {
            name: range(1, len(each.api_keys) + 1)
            for name, each in providers.items()
            if len(each.api_keys) > 1
        }
        table, accounts = self._current.table(), self._current.serving.accounts.by_provider
        before, self._accounts = self._accounts, accounts

        def stays(target: str) -> bool:
            provider = target.partition("/")[0]
            is_same = accounts.get(provider) is before.get(provider)
            return is_same and table.target(target) is not None

        self._parts.circuits.follow(self._plan.config.circuit, keys, stays)
        asked = {name: each.health for name, each in providers.items() if each.health}
        asked = {name: health for name, health in asked.items() if name in accounts}
        self._checks.follow(asked, accounts)
        self._checks.look_at(self._current.serving.table.inventory)

    def _found(self, inventory: Inventory) -> None:
        self._current.find(inventory)
        self._look_after_targets()

    def close(self) -> None:
        """Begin nothing more."""
        self._checks.close()
        tidying = self._tidying and self._tidying[1]
        for task in (self._watching, self._measuring, tidying):
            if task is not None:
                task.cancel()


def say_ready(descriptor: int) -> None:
    """Tell the supervisor, once, that this process serves."""
    with contextlib.suppress(BrokenPipeError):  # nobody waits for a process that is restarted
        os.write(descriptor, b".")
    os.close(descriptor)


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it listens."""

    unready_s = 0.0
    """How long it goes on when it is told to stop, for others to notice that it will."""

    def __init__(self, config: uvicorn.Config, ready: int, admission: Admission) -> None:
        super().__init__(config)
        self._ready = ready
        self._admission = admission

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, once whoever asks had time to hear that this server is not ready any more."""
        if self._admission.is_leaving:  # the terminal and the supervisor may both say so
            return
        self._admission.is_leaving = True
        stop = partial(super().handle_exit, signal.SIGTERM, None)
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.call_later, self.unready_s, stop)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT, and do not raise them again when stopped.

        uvicorn would, and the process would end before its last settlements are acknowledged.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield

    async def end_tasks(self) -> None:
        """Wait for the requests that were cancelled because the drain took too long."""
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=LAST_SETTLEMENTS_S)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        say_ready(self._ready)


def _store_settings(plan: Plan) -> tuple[object, ...]:
    return plan.config.responses, plan.config.server.max_body_mb


def _warn_of_store(error: Exception) -> None:
    _logger.warning("old responses could not be removed: %s", error)


def make_patience(settings: Server) -> Patience:
    """How long clients may take."""
    return Patience(
        head_s=settings.head_s,
        body_s=settings.body_s,
        reader_s=settings.reader_s,
        keep_alive_s=settings.keep_alive_s,
    )


def receivers(settings: AlertSettings) -> list[Receiver]:
    """Who is sent the alerts of a server."""
    return [
        Receiver(
            name=f"alerts.webhooks[{i}]",
            webhook=Webhook(
                webhook.url, key=None if webhook.secret is None else signing_key(webhook.secret)
            ),
            kinds=webhook.kinds,
            format=webhook.format,
        )
        for i, webhook in enumerate(settings.webhooks)
    ]


def log_to_stderr() -> None:
    """Our own log from warnings on, one line each; the libraries' from errors on."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    revisions.log.setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of what clients send
