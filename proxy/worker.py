"""One worker process: the ASGI application, its adapters and its line to the ledger."""

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
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import uvicorn

from adapters.base import Adapter
from proxy.accounts import make_adapter
from proxy.addresses import parse_network
from proxy.admin.app import PREFIXES as ADMIN_PREFIXES
from proxy.admin.app import AdminApi
from proxy.admin.books import Books
from proxy.admin.models import ModelsApi
from proxy.alerts import Alerts, Receiver
from proxy.app import App, Endpoint, health_routes
from proxy.auth import Auth
from proxy.clock import SystemClock
from proxy.config import Alerts as AlertSettings
from proxy.config import Config
from proxy.count_tokens import CountTokens
from proxy.data_folder import DataFolder
from proxy.engine import Engine
from proxy.entries import Entries
from proxy.explain import Explain
from proxy.figures import Figures
from proxy.guard.admission import Admission
from proxy.guard.protocol import GuardedProtocol, Patience, watch
from proxy.http import Exchange
from proxy.inference import Inference
from proxy.inventory import Inventory
from proxy.ledger.client import LedgerClient
from proxy.ledger.protocol import AlertsDelivered
from proxy.local_room import LocalRoom
from proxy.model_host import metrics as host_metrics
from proxy.model_host.client import HostClient
from proxy.model_host.hosted import HostPlan
from proxy.models import Models
from proxy.own_key import OwnKey
from proxy.recommending import Recommend
from proxy.response_store import ResponseStore
from proxy.responses import PREFIX as RESPONSES_PREFIX
from proxy.responses import Responses
from proxy.routing import Router
from proxy.swaps.asking import ask
from proxy.swaps.moves import Moves
from proxy.swaps.preparing import Preparations
from proxy.targets import CurrentTable
from proxy.telemetry import Metrics, RequestLog, exposition, reserve_space
from proxy.webhooks import Webhook, signing_key
from proxy.wire import (
    chat,
    completions,
    embeddings,
    images,
    moderations,
    rerank,
    speech,
    transcriptions,
)
from proxy.wire.messages import request as messages

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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every worker of one server needs; made once, before the workers are forked."""

    config: Config
    table: CurrentTable
    data: DataFolder
    secret: bytes = field(repr=False)
    admin_token: str = field(repr=False)
    allow_anonymous: bool
    host: HostPlan | None
    """What local models there are, if any."""
    by_keys: Mapping[str, str]
    """By provider, the environment's variable that brought it."""


def run(plan: Plan, number: int, listener: socket.socket, ready: int, lifeline: int) -> None:
    """Serve until SIGTERM, or until the supervisor is gone; then finish what is in flight.

    A byte is written to `ready` when requests are accepted. `lifeline` is the read end of a pipe
    that only the supervisor holds open.
    """
    # What exists now lives as long as the process: the collector need never look at it again,
    # and its pages stay shared with the supervisor.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(plan, number, listener, ready, lifeline))


async def _serve(
    plan: Plan, number: int, listener: socket.socket, ready: int, lifeline: int
) -> None:
    server_settings = plan.config.server
    most_targets = len(plan.table().targets) + (FOUND_LATER if plan.host is not None else 0)
    reserve_space(most_targets)
    metrics = Metrics(most_targets=most_targets)
    # One for the whole server: an alert is sent once, not by every worker.
    alerts = make_alerts(plan.config.alerts, metrics) if number == 0 else None
    ledger = LedgerClient(
        plan.data.path, name=f"worker-{number}", on_alert=alerts.put if alerts else None
    )
    await ledger.connect()
    delivering = (
        asyncio.create_task(alerts.run(lambda ids: ledger.call(AlertsDelivered(0, ids))))
        if alerts
        else None
    )
    host = HostClient(plan.data.path)
    adapters: dict[str, Adapter] = {}
    finder = _Finder(plan.table, adapters, host)
    finder.make_adapters()
    watching = asyncio.create_task(host.watch(finder.find)) if plan.host is not None else None
    log = RequestLog(on=server_settings.access_log)
    store = make_store(plan)
    moves = Moves(ledger, plan.secret)
    clock = SystemClock()
    room = LocalRoom() if plan.host is not None else None
    figures = Figures(clock, room)
    measuring = (
        asyncio.create_task(room.watch(host.look, plan.config.host.health_s)) if room else None
    )
    engine = Engine(
        router=Router(table=plan.table, figures=figures, secret=plan.secret, clock=clock),
        figures=figures,
        adapters=adapters,
        ledger=ledger,
        moves=moves,
        metrics=metrics,
        log=log,
        clock=clock,
        first_payload_s=server_settings.first_payload_s,
        hear_out_s=server_settings.hear_out_s,
    )
    preparations = Preparations(
        ledger=ledger,
        moves=moves,
        table=plan.table,
        models=host,
        clock=clock,
        ask=partial(ask, engine),
    )
    if number == 0:
        preparations.start()
    tidying = (
        asyncio.create_task(store.tidy_always(_warn_of_store))
        if store is not None and number == 0
        else None
    )
    patience = Patience(
        head_s=server_settings.head_s,
        body_s=server_settings.body_s,
        reader_s=server_settings.reader_s,
        keep_alive_s=server_settings.keep_alive_s,
    )
    admission = Admission(
        most=server_settings.max_concurrent,
        queue=server_settings.queue,
        queue_s=server_settings.queue_s,
    )
    server = _Server(
        uvicorn.Config(
            build_app(plan, ledger, host, adapters, engine, figures, moves, metrics, store),
            http=partial(GuardedProtocol, patience, admission),  # type: ignore[arg-type] # uvicorn only calls it
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=math.ceil(server_settings.drain_s),
        ),
        ready,
    )
    connections = server.server_state.connections
    sweeping = asyncio.create_task(watch(connections, admission, patience, server_settings.queue_s))
    loop = asyncio.get_running_loop()

    def supervisor_gone() -> None:
        loop.remove_reader(lifeline)
        server.should_exit = True

    loop.add_reader(lifeline, supervisor_gone)
    try:
        await server.serve(sockets=[listener])
    finally:
        await server.end_tasks()
        await preparations.aclose()
        log.flush()
        for task in (sweeping, delivering, tidying, watching, measuring):
            if task is not None:
                task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SETTLEMENTS_S):
                await ledger.drained()
        await ledger.aclose()
        for adapter in adapters.values():
            await adapter.aclose()
        await host.aclose()
        if alerts is not None:
            await alerts.aclose()
        if store is not None:
            store.close()


class _Finder:
    """Brings what the model host finds into the target table, and makes the adapters for it.

    Requests that are under way keep the targets that they have, and adapters stay where providers
    go: they may come back.
    """

    def __init__(self, table: CurrentTable, adapters: dict[str, Adapter], host: HostClient) -> None:
        self._table = table
        self._adapters = adapters
        self._host = host

    def make_adapters(self) -> None:
        """An adapter for each provider that has none yet; raises `StartError`."""
        for name, provider in self._table().providers.items():
            if name not in self._adapters:
                self._adapters[name] = make_adapter(name, provider, self._host)

    def find(self, inventory: Inventory) -> None:
        """Take over what was found; never raises."""
        try:
            if self._table.find(inventory):
                self.make_adapters()
        except Exception:  # what was found before goes on to be served
            _logger.exception("what was found on this machine cannot be served")


def say_ready(descriptor: int) -> None:
    """Tell the supervisor, once, that this process serves."""
    with contextlib.suppress(BrokenPipeError):  # nobody waits for a process that is restarted
        os.write(descriptor, b".")
    os.close(descriptor)


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it listens."""

    def __init__(self, config: uvicorn.Config, ready: int) -> None:
        super().__init__(config)
        self._ready = ready

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


def build_app(
    plan: Plan,
    ledger: LedgerClient,
    host: HostClient,
    adapters: Mapping[str, Adapter],
    engine: Engine,
    figures: Figures,
    moves: Moves,
    metrics: Metrics,
    store: ResponseStore | None,
) -> App:
    """Put the parts together."""
    server = plan.config.server
    table = plan.table
    auth = Auth(
        secret=plan.secret,
        keys=lambda: ledger.keys,
        groups=lambda: ledger.groups,
        allow_anonymous=plan.allow_anonymous,
        clock=SystemClock(),
        hosts=frozenset(server.hosts),
        trusted_proxies=tuple(map(parse_network, server.trusted_proxies)),
    )
    books = Books(
        ledger=ledger,
        database=plan.data.path / "ledger.db",
        secret=plan.secret,
        table=table,
        providers=adapters,
        clock=SystemClock(),
    )
    models_api = ModelsApi(host if plan.host is not None else None)
    admin = AdminApi(books, models_api, moves, token=plan.admin_token)
    own_key = OwnKey(auth=auth, books=books)
    began_at = time.time()
    entries = Entries(
        tables=table,
        figures=figures,
        host=host if plan.host is not None else None,
        by_keys=plan.by_keys,
        configured_at=began_at,
    )
    models = Models(auth=auth, table=table, moves=moves, entries=entries, created=int(began_at))

    async def show_metrics(exchange: Exchange) -> None:
        if not server.open_metrics:
            admin.check_token(exchange.header(b"authorization"))
        text, kind = await asyncio.to_thread(exposition)
        if plan.host is not None:
            with contextlib.suppress(OSError):  # it is being started again
                text += host_metrics.exposition(await host.look())
        await exchange.reply(200, text, content_type=kind.encode())

    def problem() -> str:
        return "" if ledger.is_connected else "the ledger cannot be reached"

    max_body = server.max_body_mb << 20
    responses = Responses(auth=auth, engine=engine, store=store, max_body=max_body)
    counts = CountTokens(
        auth=auth,
        engine=engine,
        adapters=adapters,
        ledger=ledger,
        clock=SystemClock(),
        max_body=max_body,
    )
    routes: dict[str, Mapping[str, Endpoint]] = {
        **inference_routes(auth, engine, responses, max_body=max_body),
        "/v1/messages/count_tokens": {"POST": counts.post},
        "/v1/route": {"POST": Explain(auth=auth, engine=engine, max_body=max_body).post},
        "/v1/recommend": {
            "POST": Recommend(auth=auth, router=engine.router, max_body=max_body).post
        },
        "/v1/models": {"GET": models.list},
        "/api/v1/key": {"GET": own_key.show},
        "/metrics": {"GET": show_metrics},
        **health_routes(problem),
    }
    return App(
        routes=routes,
        models=models,
        prefixes={
            RESPONSES_PREFIX: {
                "GET": responses.show,
                "DELETE": responses.delete,
                "POST": responses.cancel,
            }
        },
        rest=admin.application(),
        rest_prefixes=ADMIN_PREFIXES,
        metrics=metrics,
    )


def inference_routes(
    auth: Auth, engine: Engine, responses: Responses, *, max_body: int
) -> dict[str, Mapping[str, Endpoint]]:
    """The endpoints that cost money: what is asked of them is held, settled and written down."""
    inference = partial(Inference, auth=auth, engine=engine, max_body=max_body)
    ranked = inference(rerank.parse)
    return {
        "/v1/chat/completions": {"POST": inference(chat.parse).post},
        "/v1/messages": {"POST": inference(messages.parse).post},
        "/v1/responses": {"POST": responses.create},
        "/v1/completions": {"POST": inference(completions.parse).post},
        "/v1/embeddings": {"POST": inference(embeddings.parse).post},
        "/v1/moderations": {"POST": inference(moderations.parse).post},
        "/v1/images/generations": {"POST": inference(images.parse).post},
        "/v1/audio/transcriptions": {"POST": inference(transcriptions.parse).post},
        "/v1/audio/speech": {"POST": inference(speech.parse).post},
        "/v1/rerank": {"POST": ranked.post},
        "/v2/rerank": {"POST": ranked.post},
    }


def make_store(plan: Plan) -> ResponseStore | None:
    """What keeps responses, if anything is to be kept."""
    settings = plan.config.responses
    if not settings.store:
        return None
    return ResponseStore(
        plan.data.path,
        days=settings.days,
        total_bytes=settings.total_mb << 20,
        largest_bytes=settings.largest_mb << 20,
        chain_bytes=plan.config.server.max_body_mb << 20,
        clock=SystemClock(),
    )


def _warn_of_store(error: Exception) -> None:
    _logger.warning("old responses could not be removed: %s", error)


def make_alerts(settings: AlertSettings, metrics: Metrics) -> Alerts:
    """What delivers the alerts of a server to the configured webhooks."""
    receivers = [
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
    return Alerts(receivers, metrics)


def log_to_stderr() -> None:
    """Our own log from warnings on, one line each; the libraries' from errors on."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of what clients send
