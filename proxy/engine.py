"""The life of one request: route -> hold -> attempt -> (fallback) -> settle.

Every attempt has its own hold, committed before the first byte goes upstream, and is settled
exactly once, whatever happens: settling is synchronous, so no cancellation can come between.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import msgspec

from adapters.base import (
    AdapterError,
    Answer,
    Call,
    Endpoint,
    MalformedAnswer,
    NotLoaded,
    Unsupported,
)
from policies.base import Denial, Route
from proxy import costs, deadlines, trimming
from proxy import wishes as wish_list
from proxy.accounts import Account
from proxy.attempts import Attempts, Job, MoneyRefused, Tried
from proxy.attribution import scopes_of
from proxy.auth import Caller
from proxy.circuits import Circuits
from proxy.clock import Clock
from proxy.config import NO_DEADLINES
from proxy.continuation import Passage, rest_of
from proxy.course import RETRY_COUNT, Conditions, Course, Step
from proxy.downgrades import Downgrades
from proxy.ensembles.asking import Asking
from proxy.ensembles.ensembles import Ensembles, Lasting
from proxy.errors import (
    ApiError,
    LedgerDown,
    from_upstream,
    stopping,
)
from proxy.figures import Figures
from proxy.gates import Crowded, Gates
from proxy.http import Exchange, HeaderList
from proxy.ledger.client import LedgerClient
from proxy.ledger.protocol import Outcome
from proxy.metering import Capped
from proxy.priorities import Priorities
from proxy.refusals import cap_reason, denied
from proxy.relay import ClaimingReply, Reply, StreamReply, relay
from proxy.reply_headers import media_headers, reply_headers
from proxy.request_headers import is_on
from proxy.request_recorder import RequestRecorder
from proxy.routing import Decision, Router, or_else
from proxy.swaps.core import Swap
from proxy.swaps.moves import Aim, Moves
from proxy.targets import Target, TargetTable
from proxy.telemetry import LogLine, Metrics, RequestLog
from proxy.wire.continuing import may_continue
from proxy.wire.dialect import Identity, Request, Sent, Stream, Upstream, Whole
from proxy.wire.unstreamed import unstreamed
from proxy.wishes import NO_WISHES, Wishes

DROP_HEADER = b"x-tollway-drop-params"

_PPM = 1_000_000
_logger = logging.getLogger("tollway")
_CHAT: frozenset[Endpoint] = frozenset({"chat"})


class Responder(Protocol):
    """Turns an upstream answer into the client's reply."""

    async def __call__(self, job: Job, tried: Tried, sent: Sent, answer: Answer) -> None:
        """Relay the answer and settle the attempt. Raises `AdapterError` while nothing has left."""


class Considered(msgspec.Struct, frozen=True, gc=False):
    """A decision on a request, with what its body wished for taken out of that and heeded."""

    decision: Decision
    request: Request
    wishes: Wishes
    tier: str = ""
    """What a spent budget has brought the virtual model down to."""
    swap: Swap | None = None
    """What has moved it to where it goes."""
    trimmed: int = 0
    """How many of its oldest messages are left out."""


class Engine:
    """Carries requests from the policy to the ledger. One per worker and revision."""

    def __init__(
        self,
        *,
        router: Router,
        figures: Figures,
        accounts: Mapping[str, Account],
        circuits: Circuits,
        gates: Gates,
        priorities: Priorities,
        ledger: LedgerClient,
        moves: Moves,
        metrics: Metrics,
        log: RequestLog,
        clock: Clock,
        first_payload_s: float,
        hear_out_s: float,
        lasting: Lasting,
        recorder: RequestRecorder | None = None,
    ) -> None:
        """`recorder` is what writes requests down, if they are to be."""
        self._router = router
        self._ledger = ledger
        self._moves = moves
        self._metrics = metrics
        self._figures = figures
        self._conditions = Conditions(
            accounts=accounts,
            clock=clock,
            draw=random.random,
            is_failing=self._is_failing,
            is_out=circuits.is_open,
        )
        self._attempts = Attempts(ledger, metrics, figures, circuits, gates, priorities, clock)
        self._log = log
        self._recorder = recorder
        self._clock = clock
        self._first_payload_s = first_payload_s
        self._hear_out_s = hear_out_s
        self._downgrades = Downgrades(ledger)
        self._ensembles = Ensembles(
            Asking(
                try_each=self._try_each,
                take_whole=self._take_whole,
                outvoted=ledger.outvote,
                identity=self._identity,
                headers=self._headers,
            ),
            figures,
            lasting,
        )

    @property
    def router(self) -> Router:
        """What decides."""
        return self._router

    @property
    def table(self) -> TargetTable:
        """The target table of this moment."""
        return self._router.table

    async def serve(self, exchange: Exchange, caller: Caller, request: Request) -> None:
        """Answer a request. Raises `ApiError` while nothing of the reply has left."""
        job = await self._routed(exchange, caller, request)
        task = asyncio.current_task()
        assert task is not None
        exchange.watch(partial(self._client_gone, job, task))
        try:
            if request.stream:
                await self._serve_stream(job)
            elif request.endpoint == "speech":
                await self._ask(job, self._respond_pieces)
            else:
                await self._ask(job, self._respond_whole)
        finally:
            exchange.unwatch()
            exchange.on_end = partial(self._write_log, job)

    def _client_gone(self, job: Job, task: asyncio.Task[None]) -> None:
        """Give the request up; or hear a provider out that bills the whole answer all the same."""
        tried = job.last
        if (
            tried is not None
            and tried.settlement is None
            and costs.is_billed_unread(job.request, tried.target)
        ):
            job.shared.is_gone = True
            job.due.lift()
            asyncio.get_running_loop().call_later(self._hear_out_s, task.cancel)
        else:
            task.cancel()

    # --- routing ---------------------------------------------------------------------------

    async def _routed(self, exchange: Exchange, caller: Caller, request: Request) -> Job:
        """The request with what was decided on it. Raises `ApiError` for one that goes nowhere."""
        table = self._router.table
        due = deadlines.read(exchange, in_parts=request.stream or request.endpoint == "speech")
        scopes = scopes_of(caller, exchange, request.user, request.tags)
        wishes = wish_list.read(exchange.headers)
        considered = await self.consider(caller, exchange, request, scopes, wishes)
        decision = considered.decision
        if self._recorder is not None:
            self._recorder.add(
                decision,
                request,
                request_id=exchange.request_id,
                key_id=caller.key_id,
                scopes=scopes,
                wishes=considered.wishes,
                tier=considered.tier,
                swap=considered.swap,
            )
        if isinstance(decision.outcome, Denial):
            raise denied(request.model, decision.outcome)
        self._router.take_turn()
        model = table.models.get(decision.model)
        if model is not None and model.deadlines is not NO_DEADLINES:
            due.narrow(
                f"models.{model.name}.deadlines",
                first_token_s=model.deadlines.first_token_s,
                whole_s=model.deadlines.whole_s,
            )
        return Job(
            exchange=exchange,
            caller=caller,
            request=considered.request,
            decision=decision,
            route=decision.outcome,
            table=table,
            due=due,
            scopes=scopes,
            downgrade=considered.tier,
            swap=considered.swap,
            trimmed=considered.trimmed,
            keeps_parameters=considered.wishes.requires_parameters,
        )

    def aim(
        self, name: str, caller: Caller, exchange: Exchange, request: Request, *, is_dry: bool
    ) -> tuple[Aim, Swap | None]:
        """What a name stands for in a request, and the swap, if any, that has moved it there.

        Raises `UnknownModel`. A dry one begins no conversation.
        """
        found = self._router.find(caller, name)
        if not self._ledger.swaps:
            return found, None
        return self._moves.aimed(name, found, self.table, caller, exchange, request, is_dry=is_dry)

    async def consider(
        self,
        caller: Caller,
        exchange: Exchange,
        request: Request,
        scopes: tuple[str, ...],
        wishes: Wishes,
        *,
        is_dry: bool = False,
    ) -> Considered:
        """What would become of a request.

        Raises `UnknownModel`, `LedgerDown`, and `InvalidRequest` for wishes that nothing heeds.
        """
        found, swap = self.aim(request.model, caller, exchange, request, is_dry=is_dry)
        if isinstance(found, Target):  # its provider may know what the body says besides
            decision = self._router.decide(found, request, wishes, caller_id=caller.key_id)
            return Considered(decision, request, wishes, swap=swap)
        trimmed = 0
        if found.history is not None:
            request, trimmed = trimming.trimmed(request, found.history)
        preferred = request.preferences()
        if preferred is not None:
            wishes, request = wishes.and_of(preferred[0]), preferred[1]
        if not found.heeds_budgets and not wishes.models:
            decision = self._router.decide(
                found, request, wishes, caller_id=caller.key_id, scopes=scopes
            )
            return Considered(decision, request, wishes, swap=swap, trimmed=trimmed)
        decide = partial(
            self._router.decide, request=request, caller_id=caller.key_id, scopes=scopes
        )
        decision, tier = await self._decided(found, decide, wishes, scopes)
        if wishes.models:
            unweighed = replace(wishes, weights=None)  # the weights were for the model's own
            for name in wishes.models:
                other, _ = self.aim(name, caller, exchange, request, is_dry=True)
                further, _ = await self._decided(other, decide, unweighed, scopes)
                decision = or_else(decision, further)
        return Considered(decision, request, wishes, tier, swap, trimmed)

    async def _decided(
        self,
        found: Aim,
        decide: Callable[..., Decision],
        wishes: Wishes,
        scopes: tuple[str, ...],
    ) -> tuple[Decision, str]:
        """The decision on one model, and the tier that a spent budget has brought it down to."""
        if isinstance(found, Target):
            return decide(found, wishes=wishes), ""
        if "budget" in found.reads:
            decide = partial(decide, budget_left=await self.budget_left(found.name, scopes))
        if not found.downgrades:
            return decide(found, wishes=wishes), ""
        cheaper, tier = await self._downgrades.choose(found, scopes)
        decision = decide(cheaper, wishes=wishes)
        # What the tier cannot do the full model does; what the caller does not like of it, not.
        if tier and isinstance(decision.outcome, Denial):
            unwished = decide(cheaper, wishes=NO_WISHES)
            if isinstance(unwished.outcome, Denial):
                return decide(found, wishes=wishes), ""
        return decision, tier

    async def budget_left(self, model: str, scopes: tuple[str, ...]) -> float | None:
        """The share of the caller's tightest hard budget that is left; None if there is none.

        `model` is the virtual model that is asked for. Raises `LedgerDown`.
        """
        if not self._ledger.hard_scopes.cover((*scopes, f"model:{model}")):
            return None
        spent_ppm = await self._downgrades.spent_ppm(model, scopes)
        # In whole millionths: exactly 30 % are 0.3.
        return max(0, _PPM - spent_ppm) / _PPM

    # --- attempts --------------------------------------------------------------------------

    def _ask(
        self, job: Job, respond: Responder, reply: StreamReply | None = None
    ) -> Coroutine[Any, Any, None]:
        """Ask the targets of its route in the way that it says. Raises as `_try_each` does."""
        route = job.route
        if route.strategy is None:
            return self._try_each(job, route, respond)
        return self._ensembles.ask(job, route, route.strategy, respond, reply)

    async def _try_each(self, job: Job, route: Route, respond: Responder) -> None:
        """Dispatch to one target after the other until one answers.

        Raises the first refusal of money if no target could be paid for, otherwise what the last
        provider said; also once a failure is the request's own fault or a payload has left.
        """
        refusal: ApiError | None = None
        failure: AdapterError | None = None
        failed: Target | None = None
        course = self._course(job, route)
        cold_start = job.decision.cold_start
        try:
            while (step := course.next_step()) is not None:
                if step.is_retry:
                    self._metrics.retries.labels(step.target.provider).inc()
                    self._attempts.settle_last(job)
                    job.shared.upstream.add(step.delay_s)  # it is for the provider's sake
                    await asyncio.sleep(step.delay_s)
                if job.due.is_over():
                    raise from_upstream(job.due.error())
                target = step.target
                job.virtual_model = job.decision.model_of(target.name)
                waits = cold_start == "wait" or (cold_start == "spill" and not course.has_more)
                try:
                    tried = await self._attempts.reserve(job, target, step.reason, step.key.number)
                except MoneyRefused as error:
                    refusal = refusal or error.answer
                    if error.ends_the_route:
                        raise _last_word(failure, failed, refusal) from None
                    if error.refused.rate is not None:
                        course.was_limited()
                    continue
                except Crowded as error:
                    if job.due.is_over():
                        raise from_upstream(job.due.error()) from None
                    refusal = refusal or error.answer
                    course.was_limited()
                    continue
                try:
                    await self._dispatch(job, tried, respond, step, waits=waits)
                    return
                except AdapterError as error:
                    # That one target lacks a parameter says less than that another one failed.
                    if failure is None or not isinstance(error, Unsupported):
                        failure, failed = error, target
                    if isinstance(error, NotLoaded):
                        job.cold.append(target.name)
                        if cold_start == "refuse":
                            raise _last_word(error, target, None) from None
                    course.failed(step, error)
                    if job.is_gone:
                        break
            raise _last_word(failure, failed, refusal)
        finally:
            # Each holds this frame, and with it the request: a cycle, which would stay for long.
            refusal = failure = None
            self._attempts.settle_last(job)

    def _course(self, job: Job, route: Route) -> Course:
        """What a request tries, of the targets there were when it came."""
        # Not every target can go on with an answer, or is to be compared with others.
        has_chains = not (job.is_continued or job.is_weighed)
        return Course(
            route.choices,
            job.decision.fallbacks if has_chains else {},
            self._conditions,
            target_of=job.table.known,
            time_left_s=job.due.left_s,
            client_retries=job.exchange.headers.get(RETRY_COUNT, b"0") != b"0",
            may_retry=job.claim is None,  # beside others the next one is better
            tried=None if job.claim is None else job.shared.tried,
        )

    def _is_failing(self, target: Target) -> bool:
        return self._figures.of(target).failures > 0

    async def _dispatch(
        self, job: Job, tried: Tried, respond: Responder, step: Step, *, waits: bool
    ) -> None:
        """One attempt, settled when this returns or raises."""
        try:
            if job.exchange.is_large:
                await job.exchange.turn()
            sent, call = _call(job, tried, waits=waits, fresh=step.fresh)
            job.shared.upstream.begin(tried.id, time.perf_counter())
            async with tried.limit.around(step.key.adapter.open(call)) as answer:
                tried.answer_headers = answer.headers
                tried.dropped = (*sent.dropped, *answer.dropped)
                tried.status = 200
                await respond(job, tried, sent, answer)
        except AdapterError as error:
            self._attempts.settle_failed(job, tried, error)
            raise
        except BaseException as error:
            if tried.settlement is None:
                self._attempts.settle_estimated(job, tried, *_cut_short(error), output_bytes=0)
            raise
        finally:
            job.shared.upstream.end(tried.id, time.perf_counter())

    # --- replies ---------------------------------------------------------------------------

    async def _respond_whole(self, job: Job, tried: Tried, sent: Sent, answer: Answer) -> None:
        with tried.limit:
            body = await answer.body()
        whole = self._take_whole(job, tried, sent, body)
        if job.claim is not None:
            await job.claim()
        await job.exchange.reply(200, whole.body, self._headers(job), whole.content_type)

    def _take_whole(self, job: Job, tried: Tried, sent: Sent, body: bytes) -> Whole:
        """Settle a whole answer; what the client gets of it. Raises like `Request.read_whole`."""
        job.shared.upstream.end(tried.id, time.perf_counter())
        facts, whole = job.request.read_whole(
            sent.endpoint,
            body,
            self._identity(job, tried),
            reads_cost=tried.target.reports_cost,
        )
        tried.told, tried.usage = facts, facts.usage  # billed, readable or not
        if whole is None:
            raise MalformedAnswer("the provider's answer is not what was asked for")
        self._attempts.settle_answered(job, tried, facts.usage, facts.output_bytes)
        return whole

    async def _respond_pieces(self, job: Job, tried: Tried, sent: Sent, answer: Answer) -> None:
        """Relay what is no text as it comes.

        A failure after the first piece ends the connection: bytes have no other way to tell.
        """
        kind, length = media_headers(answer.headers)
        with tried.limit:
            piece = await answer.pieces()
        if not piece:
            raise MalformedAnswer("the provider's answer is empty")
        tried.limit.has_begun()
        came_at = time.perf_counter()
        job.shared.upstream.end(tried.id, came_at)
        tried.first_token_s = came_at - tried.dispatched_at
        tried.trial.answers()
        facts, _ = job.request.read_whole(
            sent.endpoint, b"", self._identity(job, tried), reads_cost=False
        )
        try:
            if job.claim is not None:
                await job.claim()
            with tried.limit:
                await job.exchange.start(200, kind, [*length, *self._headers(job)])
                while piece:
                    await job.exchange.write(piece)
                    piece = await answer.pieces()
        except AdapterError as error:
            self._attempts.settle_estimated(
                job, tried, "broken", error, output_bytes=facts.output_bytes
            )
            raise from_upstream(error, tried.target.name) from None
        except BaseException as error:
            self._attempts.settle_estimated(
                job, tried, *_cut_short(error), output_bytes=facts.output_bytes
            )
            raise
        self._attempts.settle_answered(job, tried, facts.usage, facts.output_bytes)
        await job.exchange.end(b"")

    async def _serve_stream(self, job: Job) -> None:
        reply = StreamReply(
            job.exchange,
            lambda has_payload: self._headers(job, chosen=has_payload),
            first_payload_s=self._first_payload_s,
        )

        passage = self._passage(job, reply)

        async def respond(job: Job, tried: Tried, sent: Sent, answer: Answer) -> None:
            own = reply if job.claim is None else ClaimingReply(reply, job.claim)
            await self._respond_stream(job, tried, sent, answer, own, passage)

        try:
            await self._ask(job, respond, reply)
            while passage is not None and passage.broken is not None:
                await self._go_on(job, respond, reply, passage)
            # Here, where the upstream is closed: however slowly the client reads, it generates
            # nothing more.
            if job.last is not None and job.last.last_events:
                await reply.finish(job.last.last_events)
        except ApiError as error:
            if not job.exchange.started:
                raise
            await reply.fail(error)
        except asyncio.CancelledError:
            if _is_cut(job.exchange):
                await reply.fail(stopping())
            raise
        finally:
            reply.close()

    def _passage(self, job: Job, reply: StreamReply) -> Passage | None:
        """What is remembered of a stream that another target may go on with."""
        model = job.table.models.get(job.decision.model)
        if model is None or not model.continues or not may_continue(job.request):
            return None
        passage = Passage(job.request)
        reply.transcript = passage.transcript
        return passage

    async def _go_on(
        self, job: Job, respond: Responder, reply: StreamReply, passage: Passage
    ) -> None:
        """Let a later target of the route go on with a stream; raises its failure if none can."""
        broken = passage.take_up()
        request, rest = passage.request_after(broken), rest_of(job.route, broken.target, job.table)
        if request is None or rest is None:
            raise broken.failure
        _logger.warning("%s: %s, another is to go on", job.request_id, broken.failure.message)
        job.request, job.is_continued = request, True
        job.due.has_begun()
        reply.resume()
        try:
            await self._try_each(job, rest, respond)
        except ApiError:
            raise broken.failure from None

    async def _respond_stream(
        self,
        job: Job,
        tried: Tried,
        sent: Sent,
        answer: Answer,
        reply: Reply,
        passage: Passage | None,
    ) -> None:
        request = job.request
        opening = b""
        stream: Stream
        if passage is None or passage.before is None:
            stream = request.read_stream(
                sent.endpoint, self._identity(job, tried), reads_cost=tried.target.reports_cost
            )
        else:
            answer, stream, opening = passage.before.resumed(answer, tried.target)
        tried.told = stream

        def on_first(came_at: float) -> None:
            tried.limit.has_begun()
            job.shared.upstream.end(tried.id, came_at)
            tried.first_token_s = came_at - tried.dispatched_at
            tried.trial.answers()

        meter = tried.meter
        try:
            with tried.limit:
                await relay(
                    answer,
                    stream,
                    reply,
                    on_first=on_first,
                    on_progress=partial(self._attempts.progressed, job, tried, stream),
                    meter=meter,
                    silent_s=tried.target.deadlines.silent_s,
                    opening=opening,
                )
            if meter is not None and stream.usage is not None:
                await meter.cover(self._attempts.billed(request, tried, stream.usage))
        except Capped as capped:
            if capped.budget is None:
                self._attempts.settle_broken(job, tried, stream, "broken", "the ledger was silent")
                raise LedgerDown("the ledger cannot be reached, so no more is held") from None
            usage = self._attempts.settle_broken(job, tried, stream, "capped")
            tried.last_events = stream.cap(cap_reason(capped.budget), usage)
        except AdapterError as error:
            if not reply.has_payload:
                tried.usage = stream.usage  # an answer without content may still be billed
                raise
            usage = self._attempts.settle_broken(job, tried, stream, "broken", error)
            failure = from_upstream(error, tried.target.name)
            goes_on = (
                passage is not None
                and error.retry_elsewhere
                and not job.is_gone
                and passage.breaks(tried.target, stream, usage, failure)
            )
            if not goes_on:
                tried.last_events = stream.fail(failure)
        except BaseException as error:
            self._attempts.settle_broken(job, tried, stream, *_cut_short(error))
            if isinstance(error, asyncio.CancelledError) and _is_cut(job.exchange):
                await reply.fail(stopping(), stream)
            raise
        else:
            self._attempts.settle_answered(
                job, tried, stream.usage, stream.output_bytes, stream.output_events
            )
            await reply.finish(stream.end())
        finally:
            if meter is not None:
                meter.close()

    def _identity(self, job: Job, tried: Tried) -> Identity:
        return Identity(
            request_id=job.request_id, model=tried.target.model, created=int(self._clock.time())
        )

    def _headers(self, job: Job, *, chosen: bool = True) -> HeaderList:
        """Reply headers; without those of a target while another may still be chosen."""
        headers = reply_headers(job, chosen=chosen)
        arrival, now = job.exchange.arrival, time.perf_counter()
        ours_s = now - arrival.at - arrival.client_s - job.shared.upstream.until(now)
        overhead_s = max(0.0, ours_s)  # a timer may have been early
        self._metrics.overhead.observe(overhead_s)
        headers.append((b"x-tollway-overhead-ms", b"%.2f" % (overhead_s * 1e3)))
        return headers

    def _write_log(self, job: Job) -> None:
        tried = job.last
        if not self._log.is_on or tried is None or tried.settlement is None:
            return
        settlement = tried.settlement
        self._log.add(
            LogLine(
                request_id=job.request_id,
                caller=job.caller.name,
                asked=job.request.model,
                target=tried.target.name,
                status=job.exchange.status,
                usage=tried.usage,
                cost_nanousd=settlement.cost_nanousd,
                estimated=settlement.estimated,
                remaining_nanousd=job.left_nanousd,
                total_s=time.perf_counter() - job.exchange.arrival.at,
                outcome=settlement.outcome,
                key=tried.key,
            )
        )


def _last_word(
    failure: AdapterError | None, failed: Target | None, refusal: ApiError | None
) -> ApiError:
    """What the client is told when no target answered."""
    if failure is not None and failed is not None:
        return from_upstream(failure, failed.name)
    assert refusal is not None
    return refusal


def _call(job: Job, tried: Tried, *, waits: bool, fresh: bool) -> tuple[Sent, Call]:
    """What an attempt asks its provider for."""
    target = tried.target
    drops = target.drop_params or is_on(job.exchange.headers, DROP_HEADER)
    drops = drops and not job.keeps_parameters
    sent = job.request.upstream(
        Upstream(
            model=target.model,
            speaks=_CHAT if job.is_weighed else target.speaks,
            max_tokens_field=target.max_tokens_field,
            default_max=tried.default_max,
            ask_usage=target.stream_usage,
            clamp=job.clamp,
            drop_params=drops,
            defaults={**target.default_members, **job.added}
            if job.added
            else target.default_members,
            prefill=target.prefill,
        )
    )
    if job.is_weighed and job.request.stream:
        sent = unstreamed(sent)
    return sent, Call(
        endpoint=sent.endpoint,
        model=target.model,
        body=sent.body,
        stream=job.request.stream and not job.is_weighed,
        deadlines=tried.limit.narrowed(target.deadlines),
        headers=sent.headers,
        content_type=sent.content_type,
        default_max_tokens=tried.default_max or target.max_output_tokens,
        drop_params=drops,
        waits=waits,
        context_length=target.asked_context,
        fresh=fresh,
    )


def _is_cut(exchange: Exchange) -> bool:
    """Whether a reply that is cancelled has a client that is to be told: the server stops."""
    return exchange.started and not exchange.ended and not exchange.is_gone


def _cut_short(error: BaseException) -> tuple[Outcome, str]:
    """The outcome of an attempt that ended by no fault of its provider."""
    if isinstance(error, asyncio.CancelledError):
        return "client_gone", ""
    return "broken", f"internal: {type(error).__name__}"
