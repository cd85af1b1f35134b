"""The life of one request: route -> hold -> attempt -> (fallback) -> settle.

Every attempt has its own hold, committed before the first byte goes upstream, and is settled
exactly once, whatever happens: settling is synchronous, so no cancellation can come between.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from adapters.base import (
    Adapter,
    AdapterError,
    Answer,
    Call,
    ConnectionLost,
    MalformedAnswer,
    UpstreamError,
    UpstreamTimeout,
)
from policies.base import Denial, Question, Route
from policies.constraints import eligible
from proxy import costs, pricing
from proxy.attribution import scopes_of
from proxy.auth import Caller
from proxy.clock import Clock
from proxy.costs import Request
from proxy.downgrades import Downgrades
from proxy.errors import (
    ApiError,
    LedgerDown,
    UnknownModel,
    from_upstream,
)
from proxy.http import Exchange, HeaderList
from proxy.ledger.client import LedgerClient
from proxy.ledger.errors import BudgetRefused, LedgerUnavailable
from proxy.ledger.protocol import Attempt, Outcome, Rate, Refused, Settlement
from proxy.ledger.protocol import Usage as LedgerUsage
from proxy.metering import Capped, Meter
from proxy.rate_headers import rate_headers
from proxy.refusals import cap_reason, denied, refused_money
from proxy.relay import StreamReply, relay
from proxy.targets import Target, TargetTable, VirtualModel
from proxy.telemetry import LogLine, Metrics, RequestLog
from proxy.wire import answers, chunks, embeddings
from proxy.wire import usage as wire_usage
from proxy.wire.chat import ChatRequest
from proxy.wire.embeddings import EmbeddingsRequest

# An orphan's uncertain remainder is released after this long: longer than any provider answers.
ORPHAN_DEADLINE_S = 3600
CLAMP_HEADER = b"x-tollway-clamp"

_logger = logging.getLogger("tollway")

_PASSED_ON = ("x-ratelimit-", "openai-", "retry-after")


@dataclass(slots=True)
class Job:
    """One request on its way."""

    exchange: Exchange
    caller: Caller
    request: Request
    request_id: str
    began_at: float
    upstream_s: float = 0.0
    attempts: int = 0
    remaining_nanousd: int | None = None
    last: Tried | None = None
    has_waited: bool = False
    """It has waited for held money once, which is all the waiting it does."""
    unsent: Settlement | None = None
    """Of an attempt that failed: it goes to the ledger together with the next hold."""
    scopes: tuple[str, ...] = ()
    """Of the caller and of what the request says of itself; targets add theirs."""
    requests: Rate | None = None
    tokens: Rate | None = None
    """Limits of the caller, as of the last hold."""
    downgrade: str = ""
    """The tier that a spent budget has brought the virtual model down to."""
    clamp: int | None = None
    """The maximum output that the budgets can pay for, where the caller wants it lowered to it."""
    is_gone: bool = False
    """The client left, and the provider is heard out for what it bills."""
    virtual_model: str = ""
    policy: str = ""


@dataclass(slots=True)
class Tried:
    """One attempt while it runs, and how it ended."""

    id: int
    target: Target
    default_max: int | None
    """The maximum written into the request; None leaves it as it is."""
    hold_nanousd: int
    """The most it can cost."""
    held_nanousd: int
    """What it held to begin with."""
    dispatched_at: float
    meter: Meter | None = None
    """What raises its hold as it flows; None where all of it is held."""
    first_token_s: float | None = None
    status: int = 0
    """The HTTP status of its answer, 0 while there is none."""
    settlement: Settlement | None = None
    usage: pricing.Usage | None = None
    told: answers.Facts | chunks.Stream | None = None
    """What the provider said of the cost: its service tier, and in some cases the sum itself."""
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    last_events: bytes = b""
    """What the client is still to get of a stream that a budget cut."""


class Responder(Protocol):
    """Turns an upstream answer into the client's reply."""

    async def __call__(self, job: Job, tried: Tried, answer: Answer) -> None:
        """Relay the answer and settle the attempt. Raises `AdapterError` while nothing has left."""


class Engine:
    """Carries requests from the policy to the ledger. One per worker."""

    def __init__(
        self,
        *,
        table: Callable[[], TargetTable],
        adapters: Mapping[str, Adapter],
        ledger: LedgerClient,
        metrics: Metrics,
        log: RequestLog,
        clock: Clock,
        first_payload_s: float,
        hear_out_s: float,
    ) -> None:
        self._table = table
        self._adapters = adapters
        self._ledger = ledger
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._first_payload_s = first_payload_s
        self._hear_out_s = hear_out_s
        self._downgrades = Downgrades(ledger)
        self._warned: set[str] = set()
        """What was said once and is not said again: which targets have attempts without a price."""

    @property
    def table(self) -> TargetTable:
        """The target table of this moment."""
        return self._table()

    async def serve(self, exchange: Exchange, caller: Caller, request: Request) -> None:
        """Answer a request. Raises `ApiError` while nothing of the reply has left."""
        job = Job(
            exchange=exchange,
            caller=caller,
            request=request,
            request_id=exchange.request_id,
            began_at=exchange.began_at,
        )
        job.scopes = scopes_of(caller, exchange, request.user, request.tags)
        route = await self._route(job)
        task = asyncio.current_task()
        assert task is not None
        watcher = exchange.watch(partial(self._client_gone, job, task))
        try:
            if request.stream:
                await self._serve_stream(job, route)
            elif isinstance(request, ChatRequest):
                await self._try_each(job, route, self._respond_chat)
            else:
                await self._try_each(job, route, self._respond_embeddings)
        finally:
            watcher.cancel()
            exchange.on_end = partial(self._write_log, job)

    def _client_gone(self, job: Job, task: asyncio.Task[None]) -> None:
        """Give the request up; or hear a provider out that bills the whole answer all the same."""
        tried = job.last
        if (
            tried is not None
            and tried.settlement is None
            and costs.is_billed_unread(job.request, tried.target)
        ):
            job.is_gone = True
            asyncio.get_running_loop().call_later(self._hear_out_s, task.cancel)
        else:
            task.cancel()

    # --- routing ---------------------------------------------------------------------------

    def find(self, caller: Caller, request: Request) -> Target | VirtualModel:
        """What a request asks for; raises `UnknownModel`."""
        found = self.table.find(request.model)
        if found is None or not caller.may_name(request.model):
            raise UnknownModel(
                f"the model {request.model[:100]!r} does not exist or this key may not use it",
                param="model",
            )
        return found

    def decide(self, found: Target | VirtualModel, request: Request) -> tuple[str, Route | Denial]:
        """The route of a request and the virtual model it asked for ("" where it named a target).

        Pure but for the snapshot of the table.
        """
        if isinstance(found, Target):
            return "", found.route_for(request.endpoint)
        question = Question(
            needs=request.needs,
            input_tokens=request.input_tokens,
            output_tokens=request.max_output_tokens,
        )
        accepted, rejections = eligible(
            question,
            found.candidates,
            real_targets=self.table.has_real_targets,
            vector_space=found.vector_space if request.endpoint == "embeddings" else None,
        )
        if not accepted:
            return found.name, Denial(rejections=rejections)
        choices = found.policy.decide(question, accepted)
        return found.name, Route(policy=found.policy.name, choices=choices, rejections=rejections)

    async def _route(self, job: Job) -> Route:
        found = self.find(job.caller, job.request)
        if isinstance(found, VirtualModel) and found.downgrades:
            cheaper, job.downgrade = await self._downgrades.choose(found, job.scopes)
            job.virtual_model, decision = self.decide(cheaper, job.request)
            if isinstance(decision, Denial):  # none of the tier's targets can do this: it may cost
                job.downgrade = ""
                job.virtual_model, decision = self.decide(found, job.request)
        else:
            job.virtual_model, decision = self.decide(found, job.request)
        if isinstance(decision, Denial):
            raise denied(job.request.model, decision)
        job.policy = decision.policy
        return decision

    # --- attempts --------------------------------------------------------------------------

    async def _try_each(self, job: Job, route: Route, respond: Responder) -> None:
        """Dispatch to one target after the other until one answers.

        Raises the first refusal of money if no target could be paid for, otherwise what the last
        provider said; also once a failure is the request's own fault or a payload has left.
        """
        try:
            await self._fall_through(job, route, respond)
        finally:
            if job.unsent is not None:
                self._ledger.settle(job.unsent)

    async def _fall_through(self, job: Job, route: Route, respond: Responder) -> None:
        refusal: ApiError | None = None
        failure: AdapterError | None = None
        for choice in route.choices:
            target = self.table.target(choice.target)
            assert target is not None
            for _ in range(2):
                try:
                    tried = await self._reserve(job, target, choice.reason)
                except _Refusal as error:
                    refusal = refusal or error.answer
                    if error.ends_the_route:
                        raise self._last_word(job, failure, refusal) from None
                    break
                try:
                    await self._dispatch(job, tried, respond)
                except AdapterError as error:
                    failure = error
                    if _is_stale(error) and not job.is_gone:
                        continue  # once more on a fresh connection, as an attempt of its own
                    break
                return
            if failure is not None and (job.is_gone or not failure.retry_elsewhere):
                break
        raise self._last_word(job, failure, refusal)

    def _last_word(
        self, job: Job, failure: AdapterError | None, refusal: ApiError | None
    ) -> ApiError:
        if failure is not None:
            assert job.last is not None
            return from_upstream(failure, job.last.target.name)
        assert refusal is not None
        return refusal

    async def _dispatch(self, job: Job, tried: Tried, respond: Responder) -> None:
        """One attempt, settled when this returns or raises."""
        try:
            adapter = self._adapters[tried.target.provider]
            async with adapter.open(_call(job.request, tried, job.clamp)) as answer:
                tried.answer_headers = answer.headers
                tried.status = 200
                await respond(job, tried, answer)
        except AdapterError as error:
            job.upstream_s += time.perf_counter() - tried.dispatched_at
            self._settle_failed(job, tried, error)
            raise
        except BaseException as error:
            if tried.settlement is None:
                self._settle_estimated(job, tried, *_cut_short(error), output_bytes=0)
            raise

    # --- money -----------------------------------------------------------------------------

    async def _reserve(self, job: Job, target: Target, reason: str) -> Tried:
        """Hold what an attempt needs; with a smaller maximum if that helps, and is wanted."""
        job.clamp = None
        try:
            return await self._reserve_once(job, target, reason)
        except _Refusal as refusal:
            job.clamp = _affordable(job, target, refusal.refused)
            if job.clamp is None:
                raise
        return await self._reserve_once(job, target, reason)

    async def _reserve_once(self, job: Job, target: Target, reason: str) -> Tried:
        request, caller = job.request, job.caller
        scopes = (*job.scopes, *target.scopes)
        if job.virtual_model:
            scopes = (*scopes, f"model:{job.virtual_model}")
        default_max = None
        if self._ledger.hard_scopes.cover(scopes):
            default_max = costs.default_maximum(request, target)
        bounds = costs.bounds_of(
            request,
            target,
            request.max_output_tokens if job.clamp is None else job.clamp,
            default_max,
            metered=request.stream and target.meterable and caller.at_cap != "finish",
        )
        unbounded = costs.unbounded(request, target)
        job.attempts += 1
        attempt = Attempt(
            attempt=self._ledger.new_attempt_id(),
            request_id=job.request_id,
            number=job.attempts,
            endpoint=request.endpoint,
            key_id=caller.key_id,
            virtual_model=job.virtual_model,
            target=target.name,
            provider=target.provider,
            policy=job.policy,
            route_reason=reason,
            scopes=scopes,
            hold_nanousd=bounds.most,
            floor_nanousd=bounds.floor,
            deadline=int(self._clock.time()) + ORPHAN_DEADLINE_S,
            revision=self.table.revision,
            priced=target.price is not None and (target.is_free or unbounded is None),
            least_nanousd=bounds.least,
            tokens=request.input_tokens + request.n * (request.max_output_tokens or 0),
        )
        try:
            settles, job.unsent = job.unsent, None
            reserved = await self._ledger.reserve(attempt, settles, may_wait=not job.has_waited)
        except BudgetRefused as error:
            job.attempts -= 1
            job.has_waited |= error.refused.held
            self._metrics.refusals.labels(error.refused.reason).inc()
            answer = refused_money(error.refused, target, unbounded=unbounded, clock=self._clock)
            raise _Refusal(answer, error.refused, caller) from None
        except LedgerUnavailable as error:
            job.attempts -= 1
            raise LedgerDown(
                f"the ledger cannot be reached, so nothing is dispatched ({error}); try again",
                headers={"retry-after": "1"},
            ) from None
        if not attempt.priced:
            self._note_unpriced(target, unbounded)
        job.remaining_nanousd = reserved.remaining_nanousd
        job.requests, job.tokens = reserved.requests, reserved.tokens
        job.last = Tried(
            id=attempt.attempt,
            target=target,
            default_max=default_max,
            hold_nanousd=bounds.most,
            held_nanousd=bounds.most if reserved.hold_nanousd is None else reserved.hold_nanousd,
            dispatched_at=time.perf_counter(),
        )
        if reserved.hold_nanousd is not None:
            job.last.meter = Meter(
                base=bounds.base,
                token=bounds.token,
                held=reserved.hold_nanousd,
                most=bounds.most,
                extend=partial(self._ledger.extend, attempt.attempt),
            )
        return job.last

    def _billed(self, request: Request, tried: Tried, usage: pricing.Usage) -> int:
        """What an answered attempt cost: the provider's own word where that counts."""
        told = tried.told
        if told is None:
            return costs.cost_of(request, tried.target, usage)
        if told.cost is not None:
            if told.cost.nanousd is not None:
                return told.cost.nanousd
            _logger.warning(
                "%s reports %s: not believed, the cost is computed from its usage",
                tried.target.name,
                told.cost.problem,
            )
        return costs.cost_of(request, tried.target, usage, told.service_tier)

    def _note_unpriced(self, target: Target, unbounded: str | None) -> None:
        """Count an attempt of unknown cost, and say so once for each target and reason."""
        self._metrics.unpriced.labels(target.metric_name).inc()
        what = "a price" if target.price is None else f"what {unbounded!r} costs"
        if (line := f"{target.metric_name}: {what} is not known") not in self._warned:
            self._warned.add(line)
            _logger.warning("%s, so that attempts may cost more than their rows say", line)

    def _settle(
        self,
        job: Job,
        tried: Tried,
        outcome: Outcome,
        usage: pricing.Usage,
        *,
        estimated: bool,
        cost_nanousd: int | None = None,
        uncertain_nanousd: int = 0,
        error: str = "",
        falls_back: bool = False,
    ) -> None:
        assert tried.settlement is None
        if job.is_gone and outcome == "ok":
            outcome = "client_gone"
        total_s = time.perf_counter() - tried.dispatched_at
        first = tried.first_token_s
        cost = self._billed(job.request, tried, usage) if cost_nanousd is None else cost_nanousd
        tried.usage = usage
        tried.settlement = Settlement(
            attempt=tried.id,
            outcome=outcome,
            cost_nanousd=cost,
            usage=LedgerUsage(
                usage.input_tokens,
                usage.cached_tokens,
                usage.output_tokens,
                usage.reasoning_tokens,
                usage.cache_write_tokens,
                usage.cache_write_1h_tokens,
            ),
            estimated=estimated,
            status=tried.status,
            first_token_us=None if first is None else int(first * 1e6),
            total_us=int(total_s * 1e6),
            error=error[:500],
            uncertain_nanousd=uncertain_nanousd,
        )
        if falls_back:
            job.unsent = tried.settlement
        else:
            self._ledger.settle(tried.settlement)
        self._metrics.target(tried.target.metric_name).settled(outcome, usage, cost, first, total_s)

    def _settle_answered(
        self,
        job: Job,
        tried: Tried,
        usage: pricing.Usage | None,
        output_bytes: int,
        output_events: int = 0,
    ) -> None:
        if usage is None:
            self._settle_estimated(
                job, tried, "ok", "", output_bytes=output_bytes, output_events=output_events
            )
        else:
            self._settle(job, tried, "ok", usage, estimated=False)

    def _settle_estimated(
        self,
        job: Job,
        tried: Tried,
        outcome: Outcome,
        error: str,
        *,
        output_bytes: int,
        output_events: int = 0,
        falls_back: bool = False,
    ) -> None:
        """Without the provider's own word: what was seen, never more than it could cost.

        What a provider may bill besides stays held for a while: where nobody heard it out, and
        what a stream that was cut may have had on its way.
        """
        usage = wire_usage.estimated(job.request.input_tokens, output_bytes, output_events)
        cost = min(costs.cost_of(job.request, tried.target, usage), tried.hold_nanousd)
        uncertain = 0
        if job.is_gone:
            uncertain = tried.hold_nanousd - cost
        elif tried.meter is not None:
            uncertain = tried.meter.unseen(cost)
            if outcome == "capped":  # with nothing left, an estimate that is too low would show
                uncertain = max(0, tried.meter.most_of(output_events, output_bytes) - cost)
        self._settle(
            job,
            tried,
            outcome,
            usage,
            estimated=True,
            cost_nanousd=cost,
            uncertain_nanousd=uncertain,
            error=error,
            falls_back=falls_back,
        )

    def _settle_failed(self, job: Job, tried: Tried, error: AdapterError) -> None:
        """An attempt that failed before a payload: free where the provider said no, or never heard.

        A provider that fell silent after it had the request may bill what it read; one that had
        closed a kept-alive connection has most likely read nothing.
        """
        if tried.settlement is not None:
            return
        if isinstance(error, UpstreamError) or not error.dispatched or _is_stale(error):
            answered = isinstance(error, UpstreamError)
            outcome: Outcome = "upstream_error" if answered else "not_dispatched"
            tried.status = error.status if isinstance(error, UpstreamError) else 0
            nothing = pricing.Usage(input_tokens=0, output_tokens=0)
            self._settle(
                job,
                tried,
                outcome,
                nothing,
                estimated=False,
                cost_nanousd=0,
                error=error.message,
                falls_back=True,
            )
            return
        if tried.usage is not None:
            outcome = "broken"
            self._settle(
                job,
                tried,
                outcome,
                tried.usage,
                estimated=False,
                error=error.message,
                falls_back=True,
            )
            return
        outcome = "timeout" if isinstance(error, UpstreamTimeout) else "broken"
        self._settle_estimated(job, tried, outcome, error.message, output_bytes=0, falls_back=True)

    # --- replies ---------------------------------------------------------------------------

    async def _respond_chat(self, job: Job, tried: Tried, answer: Answer) -> None:
        body = await answer.body()
        facts = answers.read_chat(body, reads_cost=tried.target.reports_cost)
        await self._respond_whole(job, tried, body, facts)

    async def _respond_embeddings(self, job: Job, tried: Tried, answer: Answer) -> None:
        assert isinstance(job.request, EmbeddingsRequest)
        body = await answer.body()
        facts = answers.read_embeddings(body, reads_cost=tried.target.reports_cost)
        tried.told, tried.usage = facts, facts.usage  # billed, readable or not
        try:
            body = embeddings.convert(body, job.request.encoding_format)
        except (ValueError, KeyError):
            raise MalformedAnswer("the provider's answer has no readable embeddings") from None
        await self._respond_whole(job, tried, body, facts)

    async def _respond_whole(
        self, job: Job, tried: Tried, body: bytes, facts: answers.Facts
    ) -> None:
        job.upstream_s += time.perf_counter() - tried.dispatched_at
        tried.told = facts
        self._settle_answered(job, tried, facts.usage, facts.output_bytes)
        await job.exchange.reply(200, body, self._headers(job))

    async def _serve_stream(self, job: Job, route: Route) -> None:
        reply = StreamReply(
            job.exchange,
            lambda has_payload: self._headers(job, chosen=has_payload),
            first_payload_s=self._first_payload_s,
        )

        async def respond(job: Job, tried: Tried, answer: Answer) -> None:
            await self._respond_stream(job, tried, answer, reply)

        try:
            await self._try_each(job, route, respond)
            # Here, where the upstream is closed: however slowly the client reads, it generates
            # nothing more.
            if job.last is not None and job.last.last_events:
                await reply.finish(job.last.last_events)
        except ApiError as error:
            if not job.exchange.started:
                raise
            await reply.fail(error)
        finally:
            reply.close()

    async def _respond_stream(
        self, job: Job, tried: Tried, answer: Answer, reply: StreamReply
    ) -> None:
        request = job.request
        assert isinstance(request, ChatRequest)
        stream = chunks.Stream(
            wants_usage=request.wants_usage,
            stream_id=f"chatcmpl-{job.request_id}",
            model=tried.target.model,
            created=int(self._clock.time()),
            reads_cost=tried.target.reports_cost,
        )
        tried.told = stream

        def on_first() -> None:
            tried.first_token_s = time.perf_counter() - tried.dispatched_at
            job.upstream_s += tried.first_token_s

        def on_progress() -> None:
            output_bytes = stream.output_bytes + costs.LOST_BYTES
            seen = wire_usage.estimated(request.input_tokens, output_bytes, stream.output_events)
            # Of a metered stream what it holds now: more would exceed the budget if we die here.
            held = tried.hold_nanousd if meter is None else meter.held_nanousd
            cost = min(costs.cost_of(request, tried.target, seen), held)
            self._ledger.set_floor(tried.id, cost)

        meter = tried.meter
        try:
            await relay(
                answer, stream, reply, on_first=on_first, on_progress=on_progress, meter=meter
            )
            if meter is not None and stream.usage is not None:
                await meter.cover(self._billed(request, tried, stream.usage))
        except Capped as capped:
            if capped.budget is None:
                self._settle_broken(job, tried, stream, "broken", "the ledger was silent")
                raise LedgerDown("the ledger cannot be reached, so no more is held") from None
            usage = self._settle_broken(job, tried, stream, "capped", "")
            tried.last_events = stream.cap(cap_reason(capped.budget), wire_usage.shown(usage))
        except AdapterError as error:
            if not reply.has_payload:
                tried.usage = stream.usage  # an answer without content may still be billed
                raise
            self._settle_broken(job, tried, stream, "broken", error.message)
            await reply.fail(from_upstream(error, tried.target.name))
        except BaseException as error:
            self._settle_broken(job, tried, stream, *_cut_short(error))
            raise
        else:
            self._settle_answered(
                job, tried, stream.usage, stream.output_bytes, stream.output_events
            )
            await reply.finish(stream.end())
        finally:
            if meter is not None:
                meter.close()

    def _settle_broken(
        self, job: Job, tried: Tried, stream: chunks.Stream, outcome: Outcome, error: str
    ) -> pricing.Usage:
        """Settle a stream that was cut, and say what it must have taken."""
        if stream.usage is not None and stream.is_finished:
            self._settle(job, tried, outcome, stream.usage, estimated=False, error=error)
        else:
            self._settle_estimated(
                job,
                tried,
                outcome,
                error,
                output_bytes=stream.output_bytes,
                output_events=stream.output_events,
            )
        assert tried.usage is not None
        return tried.usage

    def _headers(self, job: Job, *, chosen: bool = True) -> HeaderList:
        """Reply headers; without those of a target while another may still be chosen."""
        overhead_s = max(0.0, time.perf_counter() - job.began_at - job.upstream_s)
        self._metrics.overhead.observe(overhead_s)
        headers = [
            (b"x-tollway-request-id", job.request_id.encode()),
            (b"x-tollway-attempts", b"%d" % job.attempts),
            (b"x-tollway-overhead-ms", b"%.2f" % (overhead_s * 1e3)),
        ]
        if job.policy:
            headers.append((b"x-tollway-policy", job.policy.encode()))
        if job.remaining_nanousd is not None:
            remaining = _remaining(job)
            headers.append((b"x-tollway-budget-remaining-usd", b"%.6f" % (remaining / 1e9)))
        if job.downgrade:
            headers.append((b"x-tollway-downgrade", job.downgrade.encode()))
        has_limits = job.requests is not None or job.tokens is not None
        if has_limits:
            headers += rate_headers(job.requests, job.tokens)
        tried = job.last
        if tried is None or not chosen:
            return headers
        headers += tried.target.reply_headers
        if job.clamp is not None:
            headers.append((b"x-tollway-clamped-max-tokens", b"%d" % job.clamp))
        if tried.settlement is not None:
            cost = tried.settlement.cost_nanousd
            headers.append((b"x-tollway-cost-usd", b"%d.%09d" % divmod(cost, 10**9)))
        for name, value in tried.answer_headers.items():
            if has_limits and name.startswith("x-ratelimit-"):
                name = f"x-tollway-upstream-{name.removeprefix('x-')}"
                headers.append((name.encode(), value.encode("latin-1", "replace")))
            elif name.startswith(_PASSED_ON):
                headers.append((name.encode(), value.encode("latin-1", "replace")))
            elif name == "x-request-id":
                headers.append(
                    (b"x-tollway-upstream-request-id", value.encode("latin-1", "replace"))
                )
        return headers

    def _write_log(self, job: Job) -> None:
        tried = job.last
        if tried is None or tried.settlement is None:
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
                remaining_nanousd=None if job.remaining_nanousd is None else _remaining(job),
                total_s=time.perf_counter() - job.began_at,
                outcome=settlement.outcome,
            )
        )


def _call(request: Request, tried: Tried, clamp: int | None) -> Call:
    """What an attempt asks its provider for."""
    target = tried.target
    return Call(
        endpoint=request.endpoint,
        model=target.model,
        body=request.upstream_body(
            target.model,
            max_tokens_field=target.max_tokens_field,
            default_max=tried.default_max,
            ask_usage=target.stream_usage,
            clamp=clamp,
        ),
        stream=request.stream,
        deadlines=target.deadlines,
    )


def _affordable(job: Job, target: Target, refused: Refused) -> int | None:
    """The maximum to try again with, where the caller wants that and it helps."""
    wants = job.caller.clamp or job.exchange.header(CLAMP_HEADER) == "true"
    if not wants or refused.reason != "budget" or refused.budget is None:
        return None
    return costs.affordable_maximum(job.request, target, refused.budget.left_nanousd)


class _Refusal(Exception):
    """The ledger refused an attempt; `answer` is what the client gets if no target is left."""

    def __init__(self, answer: ApiError, refused: Refused, caller: Caller) -> None:
        super().__init__(answer.message)
        self.answer = answer
        self.refused = refused
        self._caller = caller

    @property
    def ends_the_route(self) -> bool:
        """Whether no other target can help, or the caller wants none."""
        if self.refused.rate is not None:
            return not self.refused.rate.scope.startswith(("target:", "provider:"))
        return self.refused.reason == "key_revoked" or (
            self.refused.reason == "budget" and self._caller.at_cap == "stop"
        )


def _remaining(job: Job) -> int:
    """What the tightest budget has left: after the last hold or, once settled, after its cost."""
    assert job.remaining_nanousd is not None
    tried = job.last
    if tried is None or tried.settlement is None:
        return job.remaining_nanousd
    return job.remaining_nanousd + tried.held_nanousd - tried.settlement.cost_nanousd


def _cut_short(error: BaseException) -> tuple[Outcome, str]:
    """The outcome of an attempt that ended by no fault of its provider."""
    if isinstance(error, asyncio.CancelledError):
        return "client_gone", ""
    return "broken", f"internal: {type(error).__name__}"


def _is_stale(error: AdapterError) -> bool:
    return isinstance(error, ConnectionLost) and error.stale
