"""The wiring: the one file that knows every part of a worker.

The inference endpoints are answered straight from an exact-path table; Starlette serves the rest.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from starlette.applications import Starlette

from proxy.errors import ApiError, Internal, NotFound, WrongMethod, stopping
from proxy.http import REFUSAL, ClientGone, Exchange, Receive, Scope, Send
from proxy.models import ANTHROPIC_VERSION, Models
from proxy.models import PREFIX as MODEL_PREFIX
from proxy.telemetry import Metrics
from proxy.turns import Turns
from proxy.wire.messages.failures import ANTHROPIC_FAILURES

Endpoint = Callable[[Exchange], Awaitable[None]]

_log = logging.getLogger("tollway")


class App:
    """Dispatches requests, and turns what they raise into error bodies."""

    def __init__(
        self,
        *,
        routes: Mapping[str, Mapping[str, Endpoint]],
        models: Models,
        prefixes: Mapping[str, Mapping[str, Endpoint]],
        rest: Starlette,
        rest_prefixes: tuple[str, ...],
        metrics: Metrics,
    ) -> None:
        self._routes = routes
        self._prefixes = {MODEL_PREFIX: {"GET": models.retrieve}, **prefixes}
        self._rest = rest
        self._rest_prefixes = rest_prefixes
        self._metrics = metrics
        self._turns = Turns()
        self._open = metrics.open_requests
        self._counted: dict[tuple[str, int], Callable[[], None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        refusal: ApiError | None = scope.get(REFUSAL)
        if refusal is None and path.startswith(self._rest_prefixes):
            await self._rest(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        exchange.turns = self._turns
        if is_anthropic(exchange, path):
            exchange.failures = ANTHROPIC_FAILURES
            exchange.reply_headers.append((b"request-id", exchange.request_id.encode()))
        await self._answer(exchange, path, refusal)

    async def _answer(self, exchange: Exchange, path: str, refusal: ApiError | None) -> None:
        self._open.inc()
        try:
            if refusal is not None:
                await exchange.refuse(refusal)  # raised, it and what it refers to were a cycle
            else:
                await self._find(path, exchange.scope["method"])(exchange)
        except ApiError as error:
            await exchange.refuse(error)
        except ClientGone:
            return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            if task.uncancel():
                raise
            if not exchange.is_gone:
                await exchange.refuse(stopping())
        except Exception:
            _log.exception("request %s failed", exchange.request_id)
            await exchange.refuse(Internal("something went wrong here; the log says what"))
        finally:
            self._open.dec()
            # What it holds, the body too, is let go of now, not when cycles are looked for.
            on_end, exchange.on_end, exchange.before_end = exchange.on_end, None, None
            if on_end is not None:
                on_end()
            if exchange.is_large:  # of races, say, cycles are left, and they are looked for rarely
                asyncio.get_running_loop().call_soon(gc.collect, 1)
            self._count(path if path in self._routes else "other", exchange.status)

    def _find(self, path: str, method: str) -> Endpoint:
        methods = self._routes.get(path)
        if methods is None:
            within = (p for p in self._prefixes if path.startswith(p) and len(path) > len(p))
            methods = self._prefixes.get(next(within, ""))
        if methods is None:
            raise NotFound(f"there is no {method} {path[:200]!r} here")
        endpoint = methods.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            allowed = ", ".join(methods)
            raise WrongMethod(
                f"{path[:200]!r} answers {allowed}, not {method[:20]!r}", headers={"allow": allowed}
            )
        return endpoint

    def _count(self, endpoint: str, status: int) -> None:
        count = self._counted.get((endpoint, status))
        if count is None:
            counter = self._metrics.requests.labels(endpoint, str(status or "gone"))
            count = self._counted[endpoint, status] = counter.inc
        count()


def is_anthropic(exchange: Exchange, path: str) -> bool:
    """Whether a client of Anthropic's asks, whatever for."""
    return path.startswith("/v1/messages") or (
        path.startswith("/v1/models") and ANTHROPIC_VERSION in exchange.headers
    )


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def health_routes(is_ready: Callable[[], str]) -> Mapping[str, Mapping[str, Endpoint]]:
    """`/healthz`: the process lives. `/readyz`: it can take requests; `is_ready` says why not."""

    async def healthz(exchange: Exchange) -> None:
        await exchange.reply(200, b'{"status":"ok"}')

    async def readyz(exchange: Exchange) -> None:
        problem = is_ready()
        body = msgspec.json.encode({"status": problem or "ok"})
        await exchange.reply(503 if problem else 200, body)

    return {"/healthz": {"GET": healthz}, "/readyz": {"GET": readyz}}
