"""What an attempt holds before it is made, and how it is settled, whatever became of it.

Settling is synchronous, so that no cancellation can come between an attempt and its settlement.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import msgspec

from adapters.base import (
    AdapterError,
    NotLoaded,
    RateLimited,
    Unavailable,
    Unsupported,
    UpstreamError,
    UpstreamTimeout,
)
from policies.base import Route
from proxy import costs, pricing, retry_after, tokens
from proxy.auth import Caller
from proxy.causes import is_stale
from proxy.circuits import Circuits, Trial, Verdict
from proxy.clock import Clock
from proxy.deadlines import Due, Limit, is_of_request
from proxy.errors import ApiError, from_upstream
from proxy.figures import Figures
from proxy.gates import Gates, Place
from proxy.http import Exchange
from proxy.ledger.client import LedgerClient
from proxy.ledger.errors import BudgetRefused, LedgerUnavailable
from proxy.ledger.protocol import Attempt, Outcome, Rate, Refused, Settlement
from proxy.ledger.protocol import Usage as LedgerUsage
from proxy.metering import Meter
from proxy.priorities import Priorities
from proxy.refusals import ledger_down, refused_money
from proxy.request_headers import is_on
from proxy.routing import Decision
from proxy.swaps.core import Swap
from proxy.targets import Target, TargetTable
from proxy.telemetry import Metrics
from proxy.upstream_time import UpstreamTime
from proxy.wire import usage as wire_usage
from proxy.wire.dialect import Facts, Request, Stream

# An orphan's uncertain remainder is released after this long: longer than any provider answers.
ORPHAN_DEADLINE_S = 3600
CLAMP_HEADER = b"x-tollway-clamp"
# Counting takes a second or so for this much.
MOST_COUNTED_BYTES = 4 << 20

# The answers of a provider that has too many requests.
_OVERLOADED = frozenset({429, 503, 529})

_logger = logging.getLogger("tollway")


class Shared(msgspec.Struct, eq=False):
    """What the attempts of one request have in common, those made at the same time included."""

    attempts: int = 0
    cost_nanousd: int = 0
    """Of those that are settled."""
    uncertain_nanousd: int = 0
    """What those may yet turn out to have cost besides."""
    is_gone: bool = False
    entrance: asyncio.Lock | None = None
    """Where several begin at the same time: one after the other until one is let in.

    Only an attempt with the number 1 is held against the caller's limits of rates.
    """
    is_let_in: bool = False
    tried: set[str] = msgspec.field(default_factory=set)
    """The targets that were asked beside others."""
    upstream: UpstreamTime = msgspec.field(default_factory=UpstreamTime)
    _numbers: int = 0

    def take_number(self) -> int:
        """The number of an attempt that is about to be held."""
        self._numbers += 1
        return self._numbers

    def take_back(self, number: int) -> None:
        """An attempt was not made; its number is free again if it was the last."""
        self._numbers -= number == self._numbers


class Job(msgspec.Struct, eq=False):
    """One request on its way, or one of several attempts that are made of it at the same time."""

    exchange: Exchange
    caller: Caller
    request: Request
    decision: Decision
    route: Route
    """Where the decision sends it."""
    table: TargetTable
    """The targets there were when it came."""
    due: Due
    shared: Shared = msgspec.field(default_factory=Shared)
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
    uncounted: int = 0
    """By how much the bound of the input is above what was counted."""
    swap: Swap | None = None
    """What has moved it to another target than its name used to lead to."""
    trimmed: int = 0
    """How many of the oldest messages its virtual model leaves out."""
    cold: list[str] = msgspec.field(default_factory=list)
    """Targets whose models were not loaded, and not waited for."""
    virtual_model: str = ""
    """By which the last target came; empty where a target was named."""
    keeps_parameters: bool = False
    """No parameter may be left out for a target that lacks it."""
    claim: Callable[[], Awaitable[None]] | None = None
    """Awaited before an answer leaves where others run beside it; returns only for the first."""
    is_beaten: bool = False
    """Another attempt of the same request has answered before it."""
    is_continued: bool = False
    """It goes on with an answer that another target has begun."""
    is_weighed: bool = False
    """Its answer is read as a whole chat, whatever the client asked for."""
    added: Mapping[str, bytes] = msgspec.field(default_factory=dict)
    """Members, as JSON, that are asked for on top where the client leaves them out."""

    @property
    def request_id(self) -> str:
        """Of the client's request, however many attempts are made of it."""
        return self.exchange.request_id

    @property
    def task(self) -> str:
        """What kind of work it was taken to be; empty where nobody looked."""
        analysis = self.decision.question.analysis
        return "" if analysis is None else analysis.task

    @property
    def is_gone(self) -> bool:
        """The client left, and the provider is heard out for what it bills."""
        return self.shared.is_gone

    def take_over(self, other: Job) -> None:
        """Let the request have gone the way of one of its attempts, for its headers and its log."""
        self.last, self.virtual_model = other.last, other.virtual_model
        self.remaining_nanousd = other.remaining_nanousd
        self.requests, self.tokens = other.requests, other.tokens
        self.clamp, self.cold = other.clamp, other.cold

    @property
    def left_nanousd(self) -> int | None:
        """What the tightest hard budget has left: after the last hold, or its cost once settled."""
        remaining, tried = self.remaining_nanousd, self.last
        if remaining is None or tried is None or tried.settlement is None:
            return remaining
        return remaining + tried.held_nanousd - tried.settlement.cost_nanousd


class Tried(msgspec.Struct, eq=False):
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
    limit: Limit
    """Within which its provider is waited for."""
    trial: Trial
    key: int = 0
    """The number of its provider's key, where that has several."""
    place: Place | None = None
    """Its place at the target; None where none is needed."""
    meter: Meter | None = None
    """What raises its hold as it flows; None where all of it is held."""
    first_token_s: float | None = None
    status: int = 0
    """The HTTP status of its answer, 0 while there is none."""
    settlement: Settlement | None = None
    usage: pricing.Usage | None = None
    told: Facts | Stream | None = None
    """What the provider said of the cost: its service tier, and in some cases the sum itself."""
    answer_headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    dropped: Sequence[str] = ()
    """The paths of what its provider could not be told."""
    last_events: bytes = b""
    """What the client is still to get of a stream that a budget cut."""


class Attempts:
    """Holds and settles the attempts of requests. One per worker."""

    def __init__(
        self,
        ledger: LedgerClient,
        metrics: Metrics,
        figures: Figures,
        circuits: Circuits,
        gates: Gates,
        priorities: Priorities,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._figures = figures
        self._circuits = circuits
        self._gates = gates
        self._priorities = priorities
        self._clock = clock
        self._warned: set[str] = set()
        """What was said once and is not said again: which targets have attempts without a price."""

    async def reserve(self, job: Job, target: Target, reason: str, key: int = 0) -> Tried:
        """Hold what an attempt needs, once its target has room. Raises `Crowded`, `MoneyRefused`.

        Where a budget has no room for that, with the input counted instead of bounded by its
        bytes, if that can be; then with a smaller maximum, if that helps and is wanted.
        """
        trial = self._circuits.begin(target.name, key)  # before anything is waited for
        place: Place | None = None
        try:
            if self._gates.are_there:
                priority = self._priorities.of(job.caller, job.exchange)
                left_s = job.due.left_s()
                place = await self._gates.enter(target, job.caller.key_id, priority, left_s)
            shared = job.shared
            if shared.entrance is None or shared.is_let_in:
                tried = await self._reserve(job, target, reason, trial)
            else:
                tried = await self._reserve_alone(shared.entrance, job, target, reason, trial)
        except BaseException:
            trial.end("nothing")
            if place is not None:
                place.leave()
            raise
        tried.place, tried.key = place, key
        return tried

    async def _reserve_alone(
        self, entrance: asyncio.Lock, job: Job, target: Target, reason: str, trial: Trial
    ) -> Tried:
        """Of several at the same time, one after the other until one has what it needs."""
        async with entrance:
            tried = await self._reserve(job, target, reason, trial)
            job.shared.is_let_in = True
            return tried

    async def _reserve(self, job: Job, target: Target, reason: str, trial: Trial) -> Tried:
        job.clamp, job.uncounted = None, 0
        try:
            return await self._reserve_once(job, target, reason, trial)
        except MoneyRefused as error:
            if error.refused.reason != "budget":
                raise
            refusal = error
        job.uncounted = await _uncounted(job.request, target, refusal.refused)
        if job.uncounted:
            try:
                return await self._reserve_once(job, target, reason, trial)
            except MoneyRefused as error:
                refusal = error
        job.clamp = _affordable(job, target, refusal.refused)
        if job.clamp is None:
            raise refusal
        return await self._reserve_once(job, target, reason, trial)

    async def _reserve_once(self, job: Job, target: Target, reason: str, trial: Trial) -> Tried:
        request, caller = job.request, job.caller
        scopes = (*job.scopes, *target.scopes)
        if job.virtual_model:
            scopes = (*scopes, f"model:{job.virtual_model}")
        if job.swap is not None and job.swap.plan.target == target.name:
            scopes = (*scopes, job.swap.scope)
        default_max = costs.default_maximum(
            request, target, bounded=self._ledger.hard_scopes.cover(scopes)
        )
        bounds = costs.bounds_of(
            request,
            target,
            request.max_output_tokens if job.clamp is None else job.clamp,
            default_max,
            metered=costs.is_metered(request, target)
            and caller.at_cap != "finish"
            and not job.is_weighed,
            uncounted=job.uncounted,
        )
        unbounded = costs.unbounded(request, target)
        number = job.shared.take_number()
        attempt = Attempt(
            attempt=self._ledger.new_attempt_id(),
            request_id=job.request_id,
            number=number,
            endpoint=request.endpoint,
            key_id=caller.key_id,
            virtual_model=job.virtual_model,
            target=target.name,
            provider=target.provider,
            policy=job.route.policy,
            route_reason=reason,
            scopes=scopes,
            hold_nanousd=bounds.most,
            floor_nanousd=bounds.floor,
            deadline=int(self._clock.time()) + ORPHAN_DEADLINE_S,
            revision=job.decision.revision,
            priced=target.price is not None and (target.is_free or unbounded is None),
            least_nanousd=bounds.least,
            tokens=request.input_tokens + request.n * (request.max_output_tokens or 0),
            decision=job.decision.id if job.virtual_model else "",
            task=job.task,
        )
        try:
            settles, job.unsent = job.unsent, None
            reserved = await self._ledger.reserve(
                attempt, settles, may_wait=not job.has_waited, within_s=job.due.left_s()
            )
        except BudgetRefused as error:
            job.shared.take_back(number)
            job.has_waited |= error.refused.held
            self._metrics.refusals.labels(error.refused.reason).inc()
            answer = refused_money(error.refused, target, unbounded=unbounded, clock=self._clock)
            raise MoneyRefused(answer, error.refused, caller) from None
        except LedgerUnavailable as error:
            job.shared.take_back(number)
            if job.due.is_over():
                raise from_upstream(job.due.error()) from None
            raise ledger_down(error) from None
        job.shared.attempts += 1
        if not attempt.priced:
            self._note_unpriced(target, unbounded)
        job.remaining_nanousd = reserved.remaining_nanousd
        job.requests, job.tokens = reserved.requests, reserved.tokens
        self._figures.began(target)
        held = reserved.hold_nanousd
        job.last = tried = Tried(
            id=attempt.attempt,
            target=target,
            default_max=default_max,
            hold_nanousd=bounds.most,
            held_nanousd=bounds.most if held is None else held,
            dispatched_at=time.perf_counter(),
            limit=Limit(job.due, first_token_s=target.first_token_s, whole_s=target.whole_s),
            trial=trial,
        )
        if held is not None:
            tried.meter = Meter(
                base=bounds.base,
                token=bounds.token,
                held=held,
                most=bounds.most,
                extend=partial(self._ledger.extend, attempt.attempt),
            )
        return tried

    def billed(self, request: Request, tried: Tried, usage: pricing.Usage) -> int:
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
        ended_by: AdapterError | str = "",
        falls_back: bool = False,
    ) -> None:
        """Settle an attempt; `ended_by` is its provider's error, or in words one of our own."""
        assert tried.settlement is None
        if isinstance(ended_by, AdapterError):
            problem, is_at_fault = ended_by.message, _is_at_fault(ended_by)
        else:
            problem, is_at_fault = ended_by, False
        if job.is_gone and outcome == "ok":
            outcome = "client_gone"
        elif job.is_beaten and outcome == "client_gone":
            outcome = "cancelled"
        target, status, first = tried.target, tried.status, tried.first_token_s
        total_s = time.perf_counter() - tried.dispatched_at
        cost = self.billed(job.request, tried, usage) if cost_nanousd is None else cost_nanousd
        job.shared.cost_nanousd += cost
        job.shared.uncertain_nanousd += uncertain_nanousd
        tried.usage = usage
        tried.settlement = settlement = Settlement(
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
            status=status,
            first_token_us=None if first is None else int(first * 1e6),
            total_us=int(total_s * 1e6),
            error=problem[:500],
            uncertain_nanousd=uncertain_nanousd,
        )
        if falls_back:
            job.unsent = settlement
        else:
            self._ledger.settle(settlement)
        tried.trial.end(_verdict(outcome, status, is_at_fault), problem)
        self._metrics.target(target.metric_name).settled(outcome, usage, cost, first, total_s)
        latency_ms = self._figures.ended(
            target,
            outcome=outcome,
            status=status,
            usage=usage,
            first_token_s=first,
            total_s=total_s,
            problem=problem,
            is_at_fault=is_at_fault,
            stream=job.request.stream and not job.is_weighed,
        )
        if tried.place is not None:
            tried.place.leave(
                None if latency_ms is None else latency_ms / 1e3,
                overloaded=status in _OVERLOADED or (outcome == "timeout" and is_at_fault),
            )

    def progressed(self, job: Job, tried: Tried, stream: Stream) -> None:
        """Say what an open stream has cost so far, in case its worker dies."""
        output_bytes = stream.output_bytes + costs.LOST_BYTES
        seen = wire_usage.estimated(job.request.input_tokens, output_bytes, stream.output_events)
        # Of a metered stream what it holds now: more would exceed the budget if we die here.
        held = tried.hold_nanousd if tried.meter is None else tried.meter.held_nanousd
        self._ledger.set_floor(tried.id, min(costs.cost_of(job.request, tried.target, seen), held))

    def settle_last(self, job: Job) -> None:
        """Settle the failed attempt that no other followed, or not at once, if there is one."""
        if job.unsent is not None:
            settlement, job.unsent = job.unsent, None
            self._ledger.settle(settlement)

    def settle_answered(
        self,
        job: Job,
        tried: Tried,
        usage: pricing.Usage | None,
        output_bytes: int,
        output_events: int = 0,
    ) -> None:
        """Settle an answer that came in full, by its provider's word if it has one."""
        usage = costs.taken(job.request, tried.target, usage)
        if usage is None:
            self.settle_estimated(
                job, tried, "ok", output_bytes=output_bytes, output_events=output_events
            )
        else:
            self._settle(job, tried, "ok", usage, estimated=False)

    def settle_estimated(
        self,
        job: Job,
        tried: Tried,
        outcome: Outcome,
        ended_by: AdapterError | str = "",
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
        is_late = isinstance(ended_by, AdapterError) and is_of_request(ended_by)
        is_left = is_late and costs.is_billed_unread(job.request, tried.target)
        is_left |= outcome == "client_gone" and _is_billed_on(job, tried)
        if job.is_gone or is_left:
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
            ended_by=ended_by,
            falls_back=falls_back,
        )

    def settle_failed(self, job: Job, tried: Tried, error: AdapterError) -> None:
        """An attempt that failed before a payload: free where the provider said no, or never heard.

        A provider that fell silent after it had the request may bill what it read; one that had
        closed a kept-alive connection has most likely read nothing.
        """
        if tried.settlement is not None:
            return
        if isinstance(error, UpstreamError) or not error.dispatched or is_stale(error):
            answered = isinstance(error, UpstreamError)
            outcome: Outcome = "upstream_error" if answered else "not_dispatched"
            self._let_rest(tried, error)
            tried.status = error.status if isinstance(error, UpstreamError) else 0
            nothing = pricing.Usage(input_tokens=0, output_tokens=0)
            self._settle(
                job,
                tried,
                outcome,
                nothing,
                estimated=False,
                cost_nanousd=0,
                ended_by=error,
                falls_back=True,
            )
            return
        usage = costs.taken(job.request, tried.target, tried.usage)
        if usage is not None:
            outcome = "broken"
            self._settle(
                job,
                tried,
                outcome,
                usage,
                estimated=False,
                ended_by=error,
                falls_back=True,
            )
            return
        outcome = "timeout" if isinstance(error, UpstreamTimeout) else "broken"
        self.settle_estimated(job, tried, outcome, error, output_bytes=0, falls_back=True)

    def _let_rest(self, tried: Tried, error: AdapterError) -> None:
        """Leave a target alone that asks for it, in so many words or by way of the model host."""
        rest_s: float | None = None
        if isinstance(error, RateLimited):
            rest_s = retry_after.asked_s(error.headers, self._clock.time())
        elif isinstance(error, Unavailable) and not isinstance(error, NotLoaded):
            tried.trial.end("nothing")  # whoever says so knows better when it will be back
            rest_s = error.retry_s
        if rest_s:
            self._circuits.rest(tried.target.name, rest_s, tried.key, problem=error.message)

    def settle_broken(
        self,
        job: Job,
        tried: Tried,
        stream: Stream,
        outcome: Outcome,
        ended_by: AdapterError | str = "",
    ) -> pricing.Usage:
        """Settle a stream that was cut, and say what it must have taken."""
        usage = costs.taken(job.request, tried.target, stream.usage)
        if usage is not None and stream.is_finished:
            self._settle(job, tried, outcome, usage, estimated=False, ended_by=ended_by)
        else:
            self.settle_estimated(
                job,
                tried,
                outcome,
                ended_by,
                output_bytes=stream.output_bytes,
                output_events=stream.output_events,
            )
        assert tried.usage is not None
        return tried.usage


class MoneyRefused(Exception):
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
            return not self.refused.rate.is_of_target
        return self.refused.reason == "key_revoked" or (
            self.refused.reason == "budget" and self._caller.at_cap == "stop"
        )


def _affordable(job: Job, target: Target, refused: Refused) -> int | None:
    """The maximum to try again with, where the caller wants that and it helps."""
    wants = job.caller.clamp or is_on(job.exchange.headers, CLAMP_HEADER)
    if not wants or refused.reason != "budget" or refused.budget is None:
        return None
    return costs.affordable_maximum(job.request, target, refused.budget.left_nanousd, job.uncounted)


async def _uncounted(request: Request, target: Target, refused: Refused) -> int:
    """By how many tokens the bound of a request's input is too high, where that can be counted."""
    if target.price is None or not tokens.is_countable(target.model):
        return 0
    texts, size = request.texts()
    left = refused.budget.left_nanousd if refused.budget is not None else 0
    if not costs.may_fit(request, target, left, uncounted=size):
        return 0
    counted = await tokens.count(target.model, texts) if size <= MOST_COUNTED_BYTES else None
    return 0 if counted is None else max(0, size - counted)


def _verdict(outcome: Outcome, status: int, is_at_fault: bool) -> Verdict:
    """What an attempt says of its target. That it refuses a request says nothing of the next."""
    if outcome in ("ok", "capped"):
        return "answered"
    is_failure = (
        is_at_fault and outcome not in ("client_gone", "cancelled") and not 400 <= status < 500
    )
    return "failed" if is_failure else "nothing"


def _is_billed_on(job: Job, tried: Tried) -> bool:
    """Whether a provider may bill the rest of an answer that was left for another one.

    Nobody hears it out: no work shall go on upstream for what is not wanted any more.
    """
    is_left = job.claim is not None and costs.is_billed_unread(job.request, tried.target)
    return is_left or job.is_weighed


def _is_at_fault(error: AdapterError) -> bool:
    """Whether an error says that its target does not do what it should."""
    is_ours = isinstance(error, Unsupported | NotLoaded | RateLimited) or is_stale(error)
    return error.retry_elsewhere and not is_ours
