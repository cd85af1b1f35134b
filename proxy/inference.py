"""The inference endpoints: who asks, what is asked, and then the engine's answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from proxy.auth import Auth
from proxy.engine import Engine
from proxy.errors import EndpointForbidden
from proxy.http import Exchange
from proxy.wire.dialect import Request

Parse = Callable[[bytes, Mapping[bytes, bytes]], Request]
"""Reads a body and its headers (names in lower case); raises `InvalidRequest`."""


class Inference:
    """One endpoint, which differs from the others by how its body is parsed."""

    def __init__(self, parse: Parse, *, auth: Auth, engine: Engine, max_body: int) -> None:
        self._parse = parse
        self._auth = auth
        self._engine = engine
        self._max_body = max_body

    async def post(self, exchange: Exchange) -> None:
        """Answer one request; raises `ApiError` while nothing of the reply has left."""
        caller = self._auth.identify(exchange)
        request = self._parse(await exchange.read_body(self._max_body), exchange.headers)
        if not caller.may_use(request.endpoint):
            raise EndpointForbidden(f"this API key may not use the endpoint {request.endpoint!r}")
        if exchange.is_large:
            await exchange.turn()
        await self._engine.serve(exchange, caller, request)
