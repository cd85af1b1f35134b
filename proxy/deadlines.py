"""Until when a request must be answered, and the end of an attempt that is not over by then.

A request's deadline is the narrowest of what its header says, what its SDK says that it waits for,
and what the virtual model is given. It counts from when the request came, so that what it spent in
our own queues is gone from it. Times are those of `time.perf_counter`.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from types import TracebackType

from adapters.base import AdapterError, Answer, Deadlines, UpstreamTimeout
from proxy.errors import InvalidRequest
from proxy.http import Exchange

HEADER = b"x-tollway-deadline-ms"

# Seconds that OpenAI's and Anthropic's SDKs wait for: those in Python say how long for each read,
# those in JavaScript how long for the head of the answer (0: less than a second).
_HINTS = (b"x-stainless-read-timeout", b"x-stainless-timeout")
_HEADERS = frozenset({HEADER, *_HINTS})
_LONGEST_MS = 86_400_000
_LONGEST_QUOTE = 100
# A provider that is cut off so long after the deadline had it whole, and a client that left at its
# own is known to have left.
GRACE_S = 0.1
# Timers may be early by the resolution of their clock.
_EARLY_S = 0.005


class Due:
    """When a request must have begun to be answered, and be over.

    An answer `in_parts` (a stream, or sound) begins with its first token or piece, any other has
    no beginning.
    """

    _first_at = _whole_at = math.inf
    _first_by = _whole_by = ""
    is_bounded = False
    """Whether it has a deadline, or had one that was lifted."""

    def __init__(self, arrived_at: float, *, in_parts: bool) -> None:
        self.arrived_at = arrived_at
        self.in_parts = in_parts

    def narrow(
        self, by: str, *, first_token_s: float | None = None, whole_s: float | None = None
    ) -> None:
        """Take over deadlines where they are narrower; `by` says whose they are."""
        self.is_bounded = True
        first_at = _after(self.arrived_at, first_token_s)
        if self.in_parts and first_at < self._first_at:
            self._first_at, self._first_by = first_at, by
        whole_at = _after(self.arrived_at, whole_s)
        if whole_at < self._whole_at:
            self._whole_at, self._whole_by = whole_at, by

    def has_begun(self) -> None:
        """The client has its first token, whoever goes on."""
        self._first_at = math.inf

    def lift(self) -> None:
        """Nobody waits for the answer any more."""
        self._first_at = self._whole_at = math.inf

    def at(self, *, has_first: bool) -> float:
        """When time is up, with or without a first token."""
        return self._whole_at if has_first else min(self._first_at, self._whole_at)

    def left_s(self, *, has_first: bool = False) -> float:
        """How much time there is; at most 0 once it is up."""
        return self.at(has_first=has_first) - time.perf_counter()

    def is_over(self, *, has_first: bool = False) -> bool:
        """Whether time is up, for whoever slept until then."""
        return self.is_bounded and self.left_s(has_first=has_first) <= _EARLY_S

    def error(self, *, has_first: bool = False) -> UpstreamTimeout:
        """What becomes of an attempt when the time of its request is up."""
        is_whole = has_first or self._whole_at <= self._first_at
        at, by = (self._whole_at, self._whole_by) if is_whole else (self._first_at, self._first_by)
        what = "an answer was whole" if is_whole else "an answer began"
        return UpstreamTimeout(
            f"the request's deadline of {at - self.arrived_at:g} s ({by}) passed before {what}",
            phase="request",
        )


def read(exchange: Exchange, *, in_parts: bool) -> Due:
    """What a request says of its deadline; raises `InvalidRequest` that names the header.

    An SDK's own timeout is for a whole answer, or for the beginning of one in parts.
    """
    due = Due(exchange.arrival.at, in_parts=in_parts)
    headers = exchange.headers
    if _HEADERS.isdisjoint(headers):
        return due
    text = headers.get(HEADER)
    if text is not None:
        due.narrow(HEADER.decode(), whole_s=_milliseconds(text) / 1e3)
    for name in _HINTS:
        hint = headers.get(name)
        seconds = None if hint is None else _hinted_s(hint)
        if seconds is not None and in_parts:
            due.narrow(name.decode(), first_token_s=seconds)
        elif seconds is not None:
            due.narrow(name.decode(), whole_s=seconds)
    return due


def _after(moment: float, seconds: float | None) -> float:
    return math.inf if seconds is None else moment + seconds


def _milliseconds(text: bytes) -> int:
    said = text.strip()
    milliseconds = int(said) if said.isdigit() and len(said) <= len(str(_LONGEST_MS)) else 0
    if not 1 <= milliseconds <= _LONGEST_MS:
        name = HEADER.decode()
        quoted = text[:_LONGEST_QUOTE].decode("latin-1")
        raise InvalidRequest(
            f"{name}: {quoted!r} is no number of milliseconds from 1 to {_LONGEST_MS}", param=name
        )
    return milliseconds


def _hinted_s(text: bytes) -> float | None:
    """An SDK's timeout; None for what is none: `NOT_GIVEN`, `None`, `inf`, 0."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None


class Limit:
    """Ends an attempt that takes too long. Whoever waits for its provider does so `with` it.

    Raises `UpstreamTimeout` where the time was up: of the phase `request` where it is that of the
    request, which no other target is asked after. It cancels what is waited for. It may be entered
    again and again, with one timer for all of it, until it is closed.
    """

    _first_at = _whole_at = math.inf
    _is_bounded = False
    """What has no bound never gets one: those of a request are only lifted from here on."""
    _timer: asyncio.TimerHandle | None = None
    _task: asyncio.Task[object] | None = None
    _cancelling = 0
    _rang = False

    def __init__(self, due: Due, *, first_token_s: float | None, whole_s: float | None) -> None:
        """`first_token_s` and `whole_s` are the attempt's own, from now on."""
        self._due = due
        self._first_s, self._whole_s = first_token_s, whole_s
        self._has_first = not due.in_parts
        if due.is_bounded or first_token_s is not None or whole_s is not None:
            now = time.perf_counter()
            self._first_at, self._whole_at = _after(now, first_token_s), _after(now, whole_s)
            self._is_bounded = self._at() < math.inf

    def has_begun(self) -> None:
        """The first token is there."""
        self._has_first = True

    def narrowed(self, deadlines: Deadlines) -> Deadlines:
        """An adapter's deadlines. Raises `UpstreamTimeout` where there is no time left.

        That for the connection is not beyond the attempt's: until it is made nothing is billed.
        """
        if not self._is_bounded:
            return deadlines
        left_s = self._at() - time.perf_counter()
        if left_s >= deadlines.connect_s:
            return deadlines
        if left_s <= 0:
            error = self._error()
            error.dispatched = False
            raise error
        return replace(deadlines, connect_s=left_s)

    def __enter__(self) -> Limit:
        if self._is_bounded and (at := self._at()) < math.inf:
            self._task = asyncio.current_task()
            assert self._task is not None
            self._cancelling = self._task.cancelling()
            self._rang = False
            if self._timer is None:
                self._set_timer(at - time.perf_counter())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_bounded:
            return
        task, self._task = self._task, None
        if self._rang and task is not None:
            is_ours = task.uncancel() <= self._cancelling
            if is_ours and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise self._error() from None
        elif isinstance(error, UpstreamTimeout) and self._is_requests():
            ours = self._due.error(has_first=self._has_first)
            ours.dispatched = error.dispatched
            raise ours from None

    def around(
        self, opened: AbstractAsyncContextManager[Answer]
    ) -> AbstractAsyncContextManager[Answer]:
        """A call that is opened within this limit, which ends with it."""
        return _Within(self, opened) if self._is_bounded else opened

    def close(self) -> None:
        """The attempt is over."""
        if self._timer is not None:
            self._timer.cancel()

    def _at(self) -> float:
        own = self._whole_at if self._has_first else min(self._first_at, self._whole_at)
        return min(own, self._due.at(has_first=self._has_first))

    def _set_timer(self, left_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, left_s) + GRACE_S, self._ring)

    def _ring(self) -> None:
        self._timer = None
        at = self._at()  # the first token may have come, or the client gone
        left_s = at - time.perf_counter()
        if 0 < left_s < math.inf:
            self._set_timer(left_s)
        elif left_s <= 0 and self._task is not None:
            self._rang = True
            self._task.cancel()

    def _is_requests(self) -> bool:
        return self._due.is_over(has_first=self._has_first)

    def _error(self) -> UpstreamTimeout:
        if self._is_requests():
            return self._due.error(has_first=self._has_first)
        if self._has_first or self._whole_at <= self._first_at:
            return UpstreamTimeout(
                f"the provider did not finish its answer within {self._whole_s:g} s", phase="whole"
            )
        return UpstreamTimeout(
            f"the provider sent no token within {self._first_s:g} s", phase="first_token"
        )


class _Within:
    """What `Limit.around` makes of a call."""

    __slots__ = ("_limit", "_opened")

    def __init__(self, limit: Limit, opened: AbstractAsyncContextManager[Answer]) -> None:
        self._limit = limit
        self._opened = opened

    async def __aenter__(self) -> Answer:
        try:
            with self._limit:
                return await self._opened.__aenter__()
        except BaseException:
            self._limit.close()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        self._limit.close()
        return await self._opened.__aexit__(kind, error, trace)


def is_of_request(error: AdapterError) -> bool:
    """Whether an attempt ended because the time of its request was up."""
    return isinstance(error, UpstreamTimeout) and error.phase == "request"
