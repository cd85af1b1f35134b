"""`POST /v1/messages/count_tokens`: the provider's own count where it has one, else an estimate.

Nothing is generated and nothing billed, so nothing is held or written down. The header
`x-tollway-token-count` says which of the two it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from adapters.base import Adapter, AdapterError, BadRequest, Call, MalformedAnswer
from policies.base import Denial
from proxy import tokens
from proxy.auth import Auth, Caller
from proxy.engine import Engine
from proxy.errors import EndpointForbidden, from_upstream
from proxy.http import Exchange
from proxy.targets import Target
from proxy.wire.dialect import Upstream
from proxy.wire.messages.request import MessagesRequest, parse_prompt

TOKEN_COUNT = b"x-tollway-token-count"
# Of an image of about a megapixel, which is what larger ones are made into (Anthropic, "Vision").
_IMAGE_TOKENS = 1_600
# Counting takes a tenth of a second for this much.
_MOST_COUNTED_BYTES = 512 << 10


class _Count(msgspec.Struct):
    input_tokens: int


_count = msgspec.json.Decoder(_Count)


class CountTokens:
    """The endpoint."""

    def __init__(
        self, *, auth: Auth, engine: Engine, adapters: Mapping[str, Adapter], max_body: int
    ) -> None:
        self._auth = auth
        self._engine = engine
        self._adapters = adapters
        self._max_body = max_body

    async def post(self, exchange: Exchange) -> None:
        """Answer one request."""
        caller = self._auth.identify(exchange)
        request = parse_prompt(await exchange.read_body(self._max_body), exchange.headers)
        if not (caller.may_use("count_tokens") or caller.may_use("messages")):
            raise EndpointForbidden("this API key may not use the endpoint 'count_tokens'")
        target = self._target(caller, request)
        counted = await self._ask(request, target)
        word = b"estimate" if counted is None else b"exact"
        if counted is None:
            counted = await _estimated(request, target)
        body = msgspec.json.encode({"input_tokens": counted})
        await exchange.reply(200, body, [(TOKEN_COUNT, word)])

    def _target(self, caller: Caller, request: MessagesRequest) -> Target | None:
        """The first target that would answer; None where none could, which is no reason here."""
        engine = self._engine
        _, route = engine.decide(engine.find(caller, request), request)
        return None if isinstance(route, Denial) else engine.table.target(route.choices[0].target)

    async def _ask(self, request: MessagesRequest, target: Target | None) -> int | None:
        """The provider's count; None where it has none to give."""
        if target is None or "count_tokens" not in target.speaks:
            return None
        sent = request.upstream(Upstream(model=target.model, speaks=frozenset({"messages"})))
        call = Call(
            endpoint="count_tokens",
            model=target.model,
            body=sent.body,
            stream=False,
            deadlines=target.deadlines,
            headers=sent.headers,
        )
        try:
            async with self._adapters[target.provider].open(call) as answer:
                return _read(await answer.body())
        except BadRequest as error:
            raise from_upstream(error, target.name) from None
        except AdapterError:
            return None


def _read(body: bytes) -> int:
    try:
        return _count.decode(body).input_tokens
    except (msgspec.DecodeError, RecursionError):
        raise MalformedAnswer("the provider's count is none") from None


async def _estimated(request: MessagesRequest, target: Target | None) -> int:
    """A quarter of the bytes; of texts that can be counted their tokens."""
    estimate = request.input_tokens + request.images * _IMAGE_TOKENS
    if target is None or not tokens.is_countable(target.model):
        return max(1, estimate)
    texts, size = request.texts()
    if size > _MOST_COUNTED_BYTES:
        return max(1, estimate)
    counted = await tokens.count(target.model, texts)
    return max(1, estimate if counted is None else estimate - size // 4 + counted)
