"""`POST /v1/embeddings`."""

from __future__ import annotations

from proxy.auth import Auth
from proxy.engine import Engine
from proxy.http import Exchange
from proxy.wire import embeddings


class Embeddings:
    """Parses, asks the engine, and lets it answer."""

    def __init__(self, *, auth: Auth, engine: Engine, max_body: int) -> None:
        self._auth = auth
        self._engine = engine
        self._max_body = max_body

    async def post(self, exchange: Exchange) -> None:
        """Answer one request; raises `ApiError` while nothing of the reply has left."""
        caller = self._auth.identify(exchange)
        request = embeddings.parse(await exchange.read_body(self._max_body))
        await self._engine.serve(exchange, caller, request)
