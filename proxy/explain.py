"""`POST /v1/route`: what would become of a request, and why, without sending it anywhere."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec

from policies.base import Candidate, Choice, Denial, Question
from proxy import wishes as wish_list
from proxy.attribution import scopes_of
from proxy.auth import Auth
from proxy.engine import Engine
from proxy.ensembles import plan
from proxy.errors import EndpointForbidden, InvalidRequest
from proxy.http import Exchange
from proxy.refusals import denied
from proxy.reply_headers import DECISION_HEADER
from proxy.routing import Decision
from proxy.targets import TargetTable
from proxy.wire import chat, embeddings
from proxy.wire.body import Body
from proxy.wire.dialect import Request

MOST_INPUT_TOKENS = 100_000_000


class Explain:
    """Decides as the engine does, by the same tables and figures, and shows the decision."""

    def __init__(self, *, auth: Auth, engine: Engine, max_body: int) -> None:
        self._auth = auth
        self._engine = engine
        self._max_body = max_body

    async def post(self, exchange: Exchange) -> None:
        """Explain one request; raises `ApiError` as the request itself would before its route."""
        caller = self._auth.identify(exchange)
        request = parse(await exchange.read_body(self._max_body))
        if not caller.may_use(request.endpoint):
            raise EndpointForbidden(f"this API key may not use the endpoint {request.endpoint!r}")
        scopes = scopes_of(caller, exchange, request.user, request.tags)
        wishes = wish_list.read(exchange.headers)
        considered = await self._engine.consider(
            caller, exchange, request, scopes, wishes, is_dry=True
        )
        decision = considered.decision
        shown = explained(considered.request, decision, self._engine.table, considered.tier)
        shown["trimmed_messages"] = considered.trimmed
        if decision.question.budget_left is None:
            shown["budget_left"] = await self._engine.budget_left(decision.model, scopes)
        headers = [(DECISION_HEADER, decision.id.encode())]
        await exchange.reply(200, msgspec.json.encode(shown), headers)


def parse(raw: bytes) -> Request:
    """A chat, or embeddings where there is an `input`; raises `InvalidRequest`.

    With `input_tokens` it counts as so long, however long it is.
    """
    members = Body.parse(raw).members
    tokens = members.get("input_tokens")
    if "input" in members and "messages" not in members:
        if tokens is not None:
            raise InvalidRequest("'input_tokens' is for chats", param="input_tokens")
        return embeddings.parse(raw)
    request = chat.parse(raw)
    if tokens is None:
        return request
    try:
        count = msgspec.json.decode(tokens, type=int)
    except msgspec.DecodeError:
        count = -1
    if not 0 <= count <= MOST_INPUT_TOKENS:
        raise InvalidRequest(
            f"invalid value for 'input_tokens': expected 0 to {MOST_INPUT_TOKENS}",
            param="input_tokens",
        )
    return msgspec.structs.replace(request, text_bytes=4 * count)


def explained(
    request: Request, decision: Decision, table: TargetTable, tier: str = ""
) -> dict[str, Any]:
    """A decision as JSON has it. Money is in USD, times in milliseconds."""
    question, outcome, asked = decision.question, decision.outcome, request.model
    candidates = {candidate.name: candidate for candidate in decision.candidates}
    shown: dict[str, Any] = {
        "object": "route",
        "decision": decision.id,
        "asked": asked,
        "model": decision.model or None,
        "policy": None if isinstance(outcome, Denial) else outcome.policy,
        "strategy": None,
        "downgrade": tier or None,
        "rules": list(decision.rules),
        "input_tokens": question.input_tokens,
        "expected_output_tokens": question.expected_output,
        "needs": sorted(question.needs),
        "analysis": None if question.analysis is None else asdict(question.analysis),
        "weights": None if question.weights is None else dict(question.weights.shares),
        "budget_left": question.budget_left,
        "choices": [],
        "rejections": [
            {"target": r.target, "code": r.code, "reason": r.reason} for r in outcome.rejections
        ],
        "fallbacks": {
            cause: [choice.target for choice in chain]
            for cause, chain in decision.fallbacks.items()
        },
        "error": None,
    }
    if isinstance(outcome, Denial):
        error = denied(asked, outcome)
        shown["error"] = {
            "status": error.status,
            "type": error.kind,
            "code": error.code,
            "message": error.message,
        }
    else:
        shown["choices"] = [
            shown_choice(choice, candidates[choice.target], question) for choice in outcome.choices
        ]
        shown["strategy"] = plan.shown(outcome, request, table)
    return shown


def shown_choice(choice: Choice, candidate: Candidate, question: Question) -> dict[str, Any]:
    """One target of a decision as JSON has it."""
    cost = candidate.cost_nanousd(question)
    latency_ms, speed = candidate.latency_ms, candidate.tokens_per_second
    whole_ms = None
    if latency_ms is not None and speed:
        whole_ms = round(latency_ms + question.expected_output / speed * 1e3)
    return {
        "target": choice.target,
        "reason": choice.reason,
        "score": choice.score,
        "scores": choice.scores,
        "estimated_cost_usd": None if cost is None else cost / 1e9,
        "estimated_latency_ms": None if latency_ms is None else round(latency_ms),
        "estimated_total_ms": whole_ms,
        "tokens_per_second": None if speed is None else round(speed, 1),
        "reliability": candidate.reliability,
        "in_flight": candidate.in_flight,
    }
