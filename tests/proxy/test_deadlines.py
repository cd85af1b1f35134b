"""The narrowest deadline counts, from when a request came; and it ends what is waited for."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Deadlines, UpstreamTimeout
from proxy import deadlines
from proxy.arrival import ARRIVAL, Arrival
from proxy.deadlines import Due, Limit
from proxy.errors import InvalidRequest
from proxy.http import Exchange

NEVER_S = 600.0
seconds = st.none() | st.floats(0.001, 1000)


def _exchange(arrived_at: float | None = None, **headers: str) -> Exchange:
    async def nothing(*_: Any) -> Any:
        raise AssertionError

    named = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "headers": named}
    if arrived_at is not None:
        scope[ARRIVAL] = Arrival(arrived_at)
    return Exchange(scope, nothing, nothing)


@given(said=st.lists(st.tuples(seconds, seconds), max_size=6))
def test_the_narrowest_wins(said: list[tuple[float | None, float | None]]) -> None:
    due = Due(1000.0, in_parts=True)
    for number, (first_s, whole_s) in enumerate(said):
        due.narrow(str(number), first_token_s=first_s, whole_s=whole_s)
    whole_s = min((whole for _, whole in said if whole is not None), default=math.inf)
    first_s = min((first for first, _ in said if first is not None), default=math.inf)
    assert due.at(has_first=True) == 1000.0 + whole_s
    assert due.at(has_first=False) == 1000.0 + min(first_s, whole_s)
    due.has_begun()
    assert due.at(has_first=False) == 1000.0 + whole_s
    due.lift()
    assert due.at(has_first=False) == math.inf


@given(ms=st.integers(1, 86_400_000), hint=st.floats(0.001, 10_000), stream=st.booleans())
def test_a_header_and_the_hint_of_an_sdk(ms: int, hint: float, stream: bool) -> None:
    exchange = _exchange(50.0, x_tollway_deadline_ms=str(ms), x_stainless_read_timeout=repr(hint))
    due = deadlines.read(exchange, in_parts=stream)
    assert due.at(has_first=False) == pytest.approx(50.0 + min(ms / 1e3, hint))
    whole = ms / 1e3 if stream else min(ms / 1e3, hint)
    assert due.at(has_first=True) == pytest.approx(50.0 + whole)


def test_time_in_our_own_queues_is_spent() -> None:
    now = time.perf_counter()
    exchange = _exchange(now - 5.0, x_tollway_deadline_ms="6000")
    assert deadlines.read(exchange, in_parts=False).left_s() <= 1.0
    exchange = _exchange(now - 7.0, x_tollway_deadline_ms="6000")
    due = deadlines.read(exchange, in_parts=False)
    with pytest.raises(UpstreamTimeout) as raised:
        _limit(due).narrowed(Deadlines())
    assert (raised.value.phase, raised.value.dispatched) == ("request", False)
    assert "6 s (x-tollway-deadline-ms)" in raised.value.message


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.5", "2s", "1e3", "NaN", "86400001", "9" * 5000, "²"]
)
def test_a_malformed_header_is_named(text: str) -> None:
    exchange = _exchange()
    exchange.headers[b"x-tollway-deadline-ms"] = text.encode()
    with pytest.raises(InvalidRequest) as raised:
        deadlines.read(exchange, in_parts=False)
    assert raised.value.param == "x-tollway-deadline-ms"


@pytest.mark.parametrize("text", ["None", "NOT_GIVEN", "inf", "nan", "0", "-3", ""])
def test_a_hint_that_says_nothing_is_left(text: str) -> None:
    due = deadlines.read(_exchange(x_stainless_timeout=text), in_parts=False)
    assert due.at(has_first=True) == math.inf


@given(connect_s=st.floats(0.1, 100), left_s=st.floats(1, 100))
def test_a_connection_takes_no_longer_than_there_is_time(connect_s: float, left_s: float) -> None:
    due = _due(whole_s=left_s)
    asked = Deadlines(connect_s=connect_s, first_byte_s=7.0, idle_s=8.0)
    told = _limit(due).narrowed(asked)
    assert told.connect_s <= min(connect_s, left_s)
    assert (told.first_byte_s, told.idle_s) == (7.0, 8.0)


def _limit(due: Due, first_token_s: float | None = None, whole_s: float | None = None) -> Limit:
    return Limit(due, first_token_s=first_token_s, whole_s=whole_s)


def _due(*, in_parts: bool = False, **narrow: float) -> Due:
    due = Due(time.perf_counter(), in_parts=in_parts)
    due.narrow("a test", **narrow)
    return due


@pytest.mark.parametrize(
    ("limit", "phase"),
    [
        (lambda: _limit(_due(whole_s=0.01)), "request"),
        (lambda: _limit(_due(first_token_s=0.01, in_parts=True)), "request"),
        (lambda: _limit(_due(whole_s=NEVER_S), whole_s=0.01), "whole"),
        (lambda: _limit(_due(in_parts=True), first_token_s=0.01), "first_token"),
        (lambda: _limit(_due(whole_s=0.01, in_parts=True), whole_s=NEVER_S), "request"),
    ],
)
def test_a_limit_ends_what_is_waited_for(limit: Callable[[], Limit], phase: str) -> None:
    async def wait() -> None:
        with pytest.raises(UpstreamTimeout) as raised, limit():
            await asyncio.Event().wait()
        assert raised.value.phase == phase
        assert raised.value.retry_elsewhere == (phase != "request")
        task = asyncio.current_task()
        assert task is not None and task.cancelling() == 0

    asyncio.run(wait())


def test_a_first_token_leaves_the_rest_its_time() -> None:
    async def wait() -> None:
        limit = _limit(_due(in_parts=True), first_token_s=0.01)
        with limit:
            limit.has_begun()
            await asyncio.sleep(0.01 + 2 * deadlines.GRACE_S)
        with limit:
            await asyncio.sleep(0)

    asyncio.run(wait())


def test_time_that_is_up_between_two_waits_ends_the_second() -> None:
    async def wait() -> None:
        limit = _limit(_due(whole_s=0.01))
        with limit:
            await asyncio.sleep(0)
        await asyncio.sleep(
            0.01 + 2 * deadlines.GRACE_S
        )  # it is not the provider that is waited for
        with pytest.raises(UpstreamTimeout), limit:
            await asyncio.Event().wait()
        limit.close()

    asyncio.run(wait())


def test_who_hears_out_a_provider_is_not_cut_off() -> None:
    async def wait() -> None:
        due = _due(whole_s=0.01)
        with _limit(due):
            due.lift()
            await asyncio.sleep(0.01 + 2 * deadlines.GRACE_S)

    asyncio.run(wait())


def test_a_cancellation_from_elsewhere_stays_one() -> None:
    async def scenario() -> None:
        entered = asyncio.Event()

        async def wait() -> None:
            with _limit(_due(whole_s=NEVER_S)):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(wait())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


@pytest.mark.parametrize("phase", ["connect", "idle"])
def test_a_deadline_of_the_transport_is_the_requests_where_that_is_over(phase: Any) -> None:
    async def failed(whole_s: float) -> UpstreamTimeout:
        with pytest.raises(UpstreamTimeout) as raised, _limit(_due(whole_s=whole_s)):
            raise UpstreamTimeout("too slow", phase=phase)
        return raised.value

    kept = asyncio.run(failed(NEVER_S))
    assert (kept.phase, kept.dispatched) == (phase, phase != "connect")
    over = asyncio.run(failed(1e-9))
    assert (over.phase, over.dispatched) == ("request", phase != "connect")
