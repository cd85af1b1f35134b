"""`POST /v1/messages/count_tokens`: the provider's own count where it has one, else an estimate.

Nothing is generated and nothing billed. A provider that is asked is asked under our account all the
same, so that it counts for the caller's limits, and has a row at no cost; who has no budget left
gets the estimate. The header `x-tollway-token-count` says which of the two it is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from adapters.base import AdapterError, BadRequest, Call, MalformedAnswer, UpstreamError
from policies.base import Denial
from proxy import tokens
from proxy.accounts import Account
from proxy.attempts import ORPHAN_DEADLINE_S
from proxy.attribution import scopes_of
from proxy.auth import Auth, Caller
from proxy.clock import Clock
from proxy.engine import Engine
from proxy.errors import EndpointForbidden, from_upstream
from proxy.http import Exchange
from proxy.ledger.client import LedgerClient
from proxy.ledger.errors import BudgetRefused, LedgerUnavailable
from proxy.ledger.protocol import Attempt, Outcome, Settlement, Usage
from proxy.refusals import refused_money
from proxy.targets import Target
from proxy.wire.dialect import Upstream
from proxy.wire.messages.request import MessagesRequest, parse_prompt

TOKEN_COUNT = b"x-tollway-token-count"
# Of an image of about a megapixel, which is what larger ones are made into (Anthropic, "Vision").
_IMAGE_TOKENS = 1_600
# Counting takes a tenth of a second for this much.
_MOST_COUNTED_BYTES = 512 << 10

_OK: Outcome = "ok"
_GONE: Outcome = "client_gone"
_FAILED: Outcome = "upstream_error"
_BROKEN: Outcome = "broken"


class _Count(msgspec.Struct):
    input_tokens: int


_count = msgspec.json.Decoder(_Count)


class CountTokens:
    """The endpoint."""

    def __init__(
        self,
        *,
        auth: Auth,
        engine: Engine,
        accounts: Mapping[str, Account],
        ledger: LedgerClient,
        clock: Clock,
        max_body: int,
    ) -> None:
        self._auth = auth
        self._engine = engine
        self._accounts = accounts
        self._ledger = ledger
        self._clock = clock
        self._max_body = max_body

    async def post(self, exchange: Exchange) -> None:
        """Answer one request."""
        caller = self._auth.identify(exchange)
        request = parse_prompt(await exchange.read_body(self._max_body), exchange.headers)
        if not (caller.may_use("count_tokens") or caller.may_use("messages")):
            raise EndpointForbidden("this API key may not use the endpoint 'count_tokens'")
        target = self._target(caller, exchange, request)
        counted = None
        if target is not None and "count_tokens" in target.speaks:
            counted = await self._ask(exchange, caller, request, target)
        word = b"estimate" if counted is None else b"exact"
        if counted is None:
            counted = await _estimated(request, target)
        body = msgspec.json.encode({"input_tokens": counted})
        await exchange.reply(200, body, [(TOKEN_COUNT, word)])

    def _target(
        self, caller: Caller, exchange: Exchange, request: MessagesRequest
    ) -> Target | None:
        """The first target that would answer; None where none could, which is no reason here."""
        engine = self._engine
        found, _ = engine.aim(request.model, caller, exchange, request, is_dry=False)
        route = engine.router.decide(found, request).outcome
        return None if isinstance(route, Denial) else engine.table.target(route.choices[0].target)

    async def _ask(
        self, exchange: Exchange, caller: Caller, request: MessagesRequest, target: Target
    ) -> int | None:
        """The provider's count; None where it gives none, or is not to be asked."""
        attempt = await self._admit(exchange, caller, request, target)
        if attempt is None:
            return None
        began, outcome, status, problem = time.perf_counter(), _GONE, 0, ""
        try:
            counted = await self._count(request, target)
            outcome, status = _OK, 200
        except AdapterError as error:
            outcome = _FAILED if isinstance(error, UpstreamError) else _BROKEN
            status = error.status if isinstance(error, UpstreamError) else 0
            problem = error.message
            if isinstance(error, BadRequest):
                raise from_upstream(error, target.name) from None
            return None
        finally:
            self._ledger.settle(
                Settlement(
                    attempt=attempt,
                    outcome=outcome,
                    cost_nanousd=0,
                    usage=Usage(),
                    estimated=False,
                    status=status,
                    first_token_us=None,
                    total_us=int((time.perf_counter() - began) * 1e6),
                    error=problem[:500],
                )
            )
        return counted

    async def _admit(
        self, exchange: Exchange, caller: Caller, request: MessagesRequest, target: Target
    ) -> int | None:
        """The number of an attempt that holds nothing; None where no budget or target has room.

        Raises the refusal of a key that is revoked, or asks too much.
        """
        scopes = scopes_of(caller, exchange, request.user, request.tags)
        attempt = Attempt(
            attempt=self._ledger.new_attempt_id(),
            request_id=exchange.request_id,
            number=1,
            endpoint="count_tokens",
            key_id=caller.key_id,
            virtual_model="" if request.model == target.name else request.model,
            target=target.name,
            provider=target.provider,
            policy="",
            route_reason="",
            scopes=(*scopes, *target.scopes),
            hold_nanousd=0,
            floor_nanousd=0,
            deadline=int(self._clock.time()) + ORPHAN_DEADLINE_S,
            revision=self._engine.table.revision,
        )
        try:
            await self._ledger.reserve(attempt, may_wait=False)
        except BudgetRefused as error:
            refused = error.refused
            is_callers = refused.rate is not None and not refused.rate.is_of_target
            if is_callers or refused.reason == "key_revoked":
                raise refused_money(refused, target, unbounded=None, clock=self._clock) from None
            return None
        except LedgerUnavailable:
            return None
        return attempt.attempt

    async def _count(self, request: MessagesRequest, target: Target) -> int:
        sent = request.upstream(Upstream(model=target.model, speaks=frozenset({"messages"})))
        call = Call(
            endpoint="count_tokens",
            model=target.model,
            body=sent.body,
            stream=False,
            deadlines=target.deadlines,
            headers=sent.headers,
        )
        async with self._accounts[target.provider].adapter.open(call) as answer:
            return _read(await answer.body())


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
