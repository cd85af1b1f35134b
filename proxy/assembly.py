"""What a worker serves by, put together: the one place that knows every part."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from proxy.accounts import Account, Accounts
from proxy.addresses import parse_network
from proxy.admin.app import PREFIXES as ADMIN_PREFIXES
from proxy.admin.app import AdminApi
from proxy.admin.books import Books
from proxy.admin.models import ModelsApi
from proxy.admin.reload import ReloadApi
from proxy.admin.targets import TargetsApi
from proxy.app import App, Endpoint, health_routes
from proxy.auth import Auth
from proxy.baselines import Baselines
from proxy.circuits import Circuits
from proxy.clock import Clock, SystemClock
from proxy.config import FIXED, Config, Server
from proxy.count_tokens import CountTokens
from proxy.data_folder import DataFolder
from proxy.engine import Engine
from proxy.ensembles.ensembles import Lasting
from proxy.entries import Entries
from proxy.explain import Explain
from proxy.feedback import FeedbackApi
from proxy.figures import Figures
from proxy.gates import Gates
from proxy.guard.admission import Admission
from proxy.guard.protocol import Patience
from proxy.http import Exchange
from proxy.inference import Inference
from proxy.ledger.client import LedgerClient
from proxy.local_room import LocalRoom
from proxy.model_host import metrics as host_metrics
from proxy.model_host.client import HostClient
from proxy.model_host.hosted import HostPlan
from proxy.models import Models
from proxy.own_key import OwnKey
from proxy.priorities import Priorities
from proxy.recommending import Recommend
from proxy.reloading import Outcome, ask_soon
from proxy.request_recorder import RequestRecorder
from proxy.response_store import ResponseStore
from proxy.responses import PREFIX as RESPONSES_PREFIX
from proxy.responses import Responses
from proxy.revisions import Revision
from proxy.routing import Router
from proxy.serving import Serving
from proxy.swaps.moves import Moves
from proxy.tallies import exposition
from proxy.targets import CurrentTable
from proxy.telemetry import Metrics, RequestLog
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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every worker of one server needs; made once, before the workers are forked."""

    config: Config
    table: CurrentTable
    data: DataFolder
    metrics: Path
    """The folder that the workers count into."""
    secret: bytes = field(repr=False)
    admin_token: str = field(repr=False)
    allow_anonymous: bool
    host: HostPlan | None
    """What local models there are, if any."""
    by_keys: Mapping[str, str]
    """By provider, the environment's variable that brought it."""
    revise: Callable[[Revision, Plan], Plan]
    """What a revision of the configuration means in place of a plan; raises `StartError`."""
    wanted: Server
    """What the file says of the server, some of which takes effect with its next start."""
    revision: int = 0

    @property
    def needs_restart(self) -> tuple[str, ...]:
        """The settings that take effect with the next start, and are others now."""
        now = self.config.server
        changed = (name for name in FIXED if getattr(now, name) != getattr(self.wanted, name))
        return tuple(f"server.{name}" for name in changed)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a worker keeps while revisions of the configuration come and go."""

    number: int
    ledger: LedgerClient
    host: HostClient
    moves: Moves
    figures: Figures
    room: LocalRoom
    baselines: Baselines
    circuits: Circuits
    gates: Gates
    ensembles: Lasting
    recorder: RequestRecorder
    metrics: Metrics
    log: RequestLog
    clock: Clock
    patience: Patience
    admission: Admission


def make_serving(
    plan: Plan, parts: Parts, store: ResponseStore | None, before: Accounts | None = None
) -> Serving:
    """A revision that can be served; raises `StartError`. Its adapters may be those of `before`."""
    settings = plan.config.server
    accounts = Accounts(plan.table, parts.host, before, clock=parts.clock, workers=settings.workers)
    engine = Engine(
        router=Router(
            table=plan.table,
            figures=parts.figures,
            circuits=parts.circuits,
            secret=plan.secret,
            clock=parts.clock,
        ),
        figures=parts.figures,
        circuits=parts.circuits,
        gates=parts.gates,
        priorities=Priorities(plan.config.priorities),
        accounts=accounts.by_provider,
        ledger=parts.ledger,
        moves=parts.moves,
        metrics=parts.metrics,
        log=parts.log,
        clock=parts.clock,
        first_payload_s=settings.first_payload_s,
        hear_out_s=settings.hear_out_s,
        lasting=parts.ensembles,
        recorder=parts.recorder if plan.config.logging.requests else None,
    )
    app = build_app(plan, parts, accounts.by_provider, engine, store)
    return Serving(table=plan.table, accounts=accounts, engine=engine, app=app, store=store)


def build_app(
    plan: Plan,
    parts: Parts,
    accounts: Mapping[str, Account],
    engine: Engine,
    store: ResponseStore | None,
) -> App:
    """Put the parts together."""
    ledger, host, moves, clock = parts.ledger, parts.host, parts.moves, parts.clock
    server = plan.config.server
    table = plan.table
    auth = Auth(
        secret=plan.secret,
        keys=lambda: ledger.keys,
        groups=lambda: ledger.groups,
        allow_anonymous=plan.allow_anonymous,
        clock=clock,
        hosts=frozenset(server.hosts),
        trusted_proxies=tuple(map(parse_network, server.trusted_proxies)),
    )
    books = Books(
        ledger=ledger,
        database=plan.data.path / "ledger.db",
        secret=plan.secret,
        table=table,
        providers=accounts,
        clock=clock,
    )
    models_api = ModelsApi(host if plan.host is not None else None)
    served = Outcome(
        revision=plan.revision, source=plan.config.source, needs_restart=plan.needs_restart
    )
    targets_api = TargetsApi(
        table=table,
        figures=parts.figures,
        circuits=parts.circuits,
        gates=parts.gates,
        worker=parts.number,
    )
    reload_api = ReloadApi(served, partial(ask_soon, plan.data.path))
    admin = AdminApi(books, models_api, targets_api, moves, reload_api, token=plan.admin_token)
    own_key = OwnKey(auth=auth, books=books)
    began_at = time.time()
    entries = Entries(
        tables=table,
        figures=parts.figures,
        host=host if plan.host is not None else None,
        by_keys=plan.by_keys,
        configured_at=began_at,
    )
    models = Models(auth=auth, table=table, moves=moves, entries=entries, created=int(began_at))

    async def show_metrics(exchange: Exchange) -> None:
        if not server.open_metrics:
            admin.check_token(exchange.header(b"authorization"))
        text, kind = await asyncio.to_thread(exposition, plan.metrics)
        if plan.host is not None:
            with contextlib.suppress(OSError):  # it is being started again
                text += host_metrics.exposition(await host.look())
        await exchange.reply(200, text, content_type=kind.encode())

    def problem() -> str:
        if parts.admission.is_leaving:
            return "the server stops"
        return "" if ledger.is_connected else "the ledger cannot be reached"

    max_body = server.max_body_mb << 20
    responses = Responses(auth=auth, engine=engine, store=store, max_body=max_body)
    counts = CountTokens(
        auth=auth,
        engine=engine,
        accounts=accounts,
        ledger=ledger,
        clock=clock,
        max_body=max_body,
    )
    routes: dict[str, Mapping[str, Endpoint]] = {
        **inference_routes(auth, engine, responses, max_body=max_body),
        "/v1/messages/count_tokens": {"POST": counts.post},
        "/v1/route": {"POST": Explain(auth=auth, engine=engine, max_body=max_body).post},
        "/v1/feedback": {"POST": FeedbackApi(auth=auth, books=books).post},
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
        metrics=parts.metrics,
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
