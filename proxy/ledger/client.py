"""A worker's line to the ledger.

Holds are asked for and awaited. Settlements are not: `settle` returns at once, and the client
keeps every settlement until the ledger has acknowledged it, through broken connections, restarts
of the ledger and full disks. A hold whose asker went away, or whose fate is unknown, is settled as
`not_dispatched`, so that no money stays set aside for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar, assert_never, cast

import msgspec

from proxy.ledger.errors import BudgetRefused, LedgerError, LedgerRefusal, LedgerUnavailable
from proxy.ledger.folder import socket_path
from proxy.ledger.frames import MAX_MESSAGE_BYTES, MalformedFrame, frames, reply_reader
from proxy.ledger.hard_scopes import HardScopes
from proxy.ledger.protocol import (
    ATTEMPT_BITS,
    MAX_AMOUNT_NANOUSD,
    MAX_COUNT,
    AdminOp,
    AdminReply,
    Alert,
    AlertRaised,
    AlertsDelivered,
    Attempt,
    BeginConversations,
    Budgets,
    ConversationsBegan,
    Done,
    Extend,
    Failed,
    GroupChanged,
    GroupRecord,
    HardScope,
    Hello,
    KeyChanged,
    KeyRecord,
    Op,
    Outvote,
    Progress,
    Quality,
    Refused,
    Reply,
    Reserve,
    Reserved,
    Settle,
    Settled,
    Settlement,
    Standing,
    SwapChanged,
    Usage,
    Welcome,
)
from proxy.swaps.core import MOST_CONVERSATIONS, Swap

T = TypeVar("T")

_log = logging.getLogger(__name__)

_MAX_ERROR_CHARS = 1_000
_LATE_S = 0.01  # by which the time of a reserve may be up later than it was said


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a client waits for what, in seconds."""

    reserve_s: float = 5.0
    """For the answer to a reserve, the ledger's own waiting for held money included."""
    offline_s: float = 0.9
    """For the ledger to come back, with a reserve in hand."""
    call_s: float = 5.0
    """For the answer to an operator's op, and for the first connection."""
    first_retry_s: float = 0.05
    last_retry_s: float = 1.0
    """Between attempts to connect: doubling from the first to the last."""
    resend_s: float = 0.25
    """Before a settlement that the ledger could not write is sent again."""
    progress_s: float = 1.0
    """Between heartbeats."""
    close_s: float = 1.0
    """For what was written last to leave."""


class LedgerClient:
    """One worker's connection to the ledger of a data folder. For one event loop.

    Make one, `connect`, and at the end await `drained` and `aclose`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        name: str,
        on_keys: Callable[[Mapping[bytes, KeyRecord]], None] | None = None,
        on_alert: Callable[[Alert], None] | None = None,
        patience: Patience | None = None,
    ) -> None:
        """`on_keys` is called with `keys` whenever they may have changed.

        `on_alert` is called with each alert that is not delivered: once when it is raised, and
        again after every new connection.
        """
        self._data_dir = data_dir
        self._name = name
        self._on_keys = on_keys
        self._on_alert = on_alert
        self._patience = patience or Patience()
        self._encode = msgspec.msgpack.Encoder().encode
        self._keys: dict[bytes, KeyRecord] = {}
        self._keys_by_id: dict[str, KeyRecord] = {}
        self._groups: dict[str, GroupRecord] = {}
        self._alerts: dict[int, Alert] = {}
        self._swaps: Mapping[int, Swap] = {}
        self._on_swap: Callable[[Swap], None] | None = None
        self._quality: tuple[Quality, ...] = ()
        self._on_quality: Callable[[Quality], None] | None = None
        # By swap, in the order in which they began.
        self._conversations: dict[int, dict[int, None]] = {}
        self.hard_scopes = HardScopes()
        self._session = 0
        self._counter = 0
        self._next_seq: Callable[[], int] = itertools.count(1).__next__
        self._link: _Link | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._outbox: list[bytes] = []
        # By seq, as sent: what is repeated after a reconnect.
        self._reserving: dict[int, _Reserving] = {}
        # One timer for all of them, for the first whose time is up.
        self._ringing: asyncio.TimerHandle | None = None
        self._rings_at = math.inf
        self._unsettled: dict[int, bytes] = {}
        self._calling: dict[int, asyncio.Future[AdminReply]] = {}
        self._extending: dict[int, asyncio.Future[Reserved | Refused]] = {}
        self._unwritten: list[int] = []
        self._resending: asyncio.TimerHandle | None = None
        # By attempt, each open one.
        self._floors: dict[int, int] = {}
        self._moved: set[int] = set()
        self._reporting: asyncio.TimerHandle | None = None
        self._drain_waiters: list[asyncio.Future[None]] = []

    # --- life -----------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect, and stay connected from now on. Raises `LedgerUnavailable` after `call_s`."""
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._keeper = self._loop.create_task(self._keep_connected(), name="ledger connection")
        try:
            async with asyncio.timeout(self._patience.call_s):
                await self._connected
        except TimeoutError:
            await self.aclose()
            raise LedgerUnavailable(f"{self._data_dir}: no ledger answers here") from None
        except asyncio.CancelledError:
            await self.aclose()
            raise

    async def drained(self) -> None:
        """Wait until every settlement is acknowledged and no reserve is pending.

        Does not end while the ledger is away: put a limit around it.
        """
        while self._unsettled or self._reserving:
            waiter = self._loop.create_future()
            self._drain_waiters.append(waiter)
            await waiter

    async def aclose(self) -> None:
        """Close the connection. The ledger settles what is still open as orphans."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        self._flush()
        link = self._link
        keeper.cancel()
        await asyncio.wait([keeper])
        if link is not None:
            await asyncio.wait([link.lost], timeout=self._patience.close_s)
        for timer in (self._resending, self._reporting, self._ringing):
            if timer is not None:
                timer.cancel()
        self._rings_at = math.inf  # whoever asks yet is told in time that nobody answers
        for pending in self._reserving.values():
            pending.fail(LedgerUnavailable("the connection to the ledger was closed"))
        self._reserving.clear()
        self._wake_if_drained()

    @property
    def is_connected(self) -> bool:
        """Whether the ledger answers now."""
        return self._link is not None

    @property
    def session(self) -> int:
        """The session this worker has at the ledger; 0 before it was ever connected."""
        return self._session

    @property
    def keys(self) -> Mapping[bytes, KeyRecord]:
        """Every key by its digest, revoked ones too; kept up to date while connected.

        One that was rotated is also found by its previous digest, run out or not.
        """
        return MappingProxyType(self._keys)

    @property
    def groups(self) -> Mapping[str, GroupRecord]:
        """Every team and organisation by its id, deleted ones too; kept up to date."""
        return MappingProxyType(self._groups)

    @property
    def alerts(self) -> Mapping[int, Alert]:
        """Alerts that are not delivered, by id, as far as this client was told."""
        return MappingProxyType(self._alerts)

    @property
    def swaps(self) -> Mapping[int, Swap]:
        """Every swap that is open or in force, by its id; another object after each change."""
        return self._swaps

    def watch_swaps(self, on_swap: Callable[[Swap], None]) -> None:
        """Call `on_swap` with each swap that is open or in force: now, and whenever it changes.

        Also with one that ended, and after every new connection with all there are.
        """
        self._on_swap = on_swap
        for swap in self._swaps.values():
            on_swap(swap)

    def watch_quality(self, on_quality: Callable[[Quality], None]) -> None:
        """Call `on_quality` with what feedback says of each target: now, and whenever it changes.

        Also after every new connection, with all there is.
        """
        self._on_quality = on_quality
        for quality in self._quality:
            on_quality(quality)

    def began_moved(self, swap_id: int, conversation: int) -> bool:
        """Whether a conversation began at the new target of an open swap, at any worker."""
        return conversation in self._conversations.get(swap_id, ())

    def begin_conversation(self, swap_id: int, conversation: int) -> None:
        """Let every worker know that it did. Never waits."""
        known = self._conversations.setdefault(swap_id, {})
        if conversation not in known:
            self._keep_conversation(known, conversation)
            self._send(self._encoded(BeginConversations(swap_id, (conversation,))))

    # --- money ----------------------------------------------------------------------------------

    def new_attempt_id(self) -> int:
        """A number for an attempt. Raises `LedgerUnavailable` before the first connection."""
        if not self._session:
            raise LedgerUnavailable("not connected to the ledger yet")
        self._counter += 1
        return self._session << ATTEMPT_BITS | self._counter

    async def reserve(
        self,
        attempt: Attempt,
        settles: Settlement | None = None,
        *,
        may_wait: bool = True,
        within_s: float = math.inf,
    ) -> Reserved:
        """Hold money for `attempt`, and settle the one it falls back from with it.

        When it returns, the hold is on the disk. Raises `BudgetRefused`, or `LedgerUnavailable`
        where no answer came in time, which is `within_s` at most. Whatever it raises, cancellation
        included: no hold stays behind, and `settles` is settled. A hold above `MAX_AMOUNT_NANOUSD`
        is asked for as that, which no hard budget admits. Raises `ValueError` for text that is not
        Unicode.
        """
        seq = self._next_seq()
        if settles is not None:
            settles = _bounded(settles)
            self._floors.pop(settles.attempt, None)
        if attempt.hold_nanousd > MAX_AMOUNT_NANOUSD:
            attempt = msgspec.structs.replace(attempt, hold_nanousd=MAX_AMOUNT_NANOUSD)
        try:
            message = self._encoded(Reserve(seq, attempt, settles, may_wait))
        except ValueError:
            if settles is not None:
                self.settle(settles)
            raise
        loop = self._loop
        until = loop.time() + max(0.0, min(within_s, self._patience.reserve_s))
        future: asyncio.Future[Reserved | Refused] = loop.create_future()
        pending = _Reserving(attempt, settles, message, until, future)
        self._reserving[seq] = pending
        self._watch(pending)
        self._send_reserve(pending)
        try:
            reply = await future
        except asyncio.CancelledError:
            self._give_up(seq, pending)
            raise
        if type(reply) is Refused:
            raise BudgetRefused(reply)
        return cast(Reserved, reply)

    async def extend(self, attempt: int, hold_nanousd: int, most_nanousd: int) -> Reserved:
        """Raise the hold of an open attempt to at least `hold_nanousd`.

        Raises `BudgetRefused`; `LedgerRefusal` where it is not open any more; `LedgerUnavailable`.
        The old hold then stays.
        """
        most = min(most_nanousd, MAX_AMOUNT_NANOUSD)
        seq = self._next_seq()
        message = self._encoded(Extend(seq, attempt, min(hold_nanousd, most), most))
        reply = await self._ask(seq, message, self._extending)
        if isinstance(reply, Refused):
            raise BudgetRefused(reply)
        return reply

    def settle(self, settlement: Settlement) -> None:
        """Replace a hold by its cost. Never waits, never fails; repeated until acknowledged."""
        settlement = _bounded(settlement)
        self._floors.pop(settlement.attempt, None)
        seq = self._next_seq()
        message = self._encoded(Settle(seq, settlement))
        self._unsettled[seq] = message
        self._send(message)

    def outvote(self, attempts: Iterable[int]) -> None:
        """Say that another answer was taken than those of these attempts. Never waits.

        Lost where the ledger is not there: then feedback may be taken for one of them.
        """
        self._send(self._encoded(Outvote(tuple(attempts))))

    def set_floor(self, attempt: int, floor_nanousd: int) -> None:
        """Say what an open attempt has cost at least; sent with the next heartbeat."""
        if attempt not in self._floors:
            return
        self._floors[attempt] = min(max(floor_nanousd, 0), MAX_AMOUNT_NANOUSD)
        self._moved.add(attempt)
        if self._reporting is None:
            self._reporting = self._loop.call_later(self._patience.progress_s, self._report)

    async def call(self, op: AdminOp) -> AdminReply:
        """Carry out an operator's op; its `seq` is filled in.

        Raises `LedgerRefusal`, or `LedgerUnavailable`: then it may have been carried out or not.
        """
        seq = self._next_seq()
        message = self._encoded(msgspec.structs.replace(op, seq=seq))
        reply = await self._ask(seq, message, self._calling)
        if isinstance(op, AlertsDelivered):
            for number in op.alert_ids:
                self._alerts.pop(number, None)
        return reply

    async def _ask(self, seq: int, message: bytes, asked: dict[int, asyncio.Future[T]]) -> T:
        """Send an op once, and wait for its answer."""
        if self._link is None:
            raise LedgerUnavailable("the ledger does not answer")
        future: asyncio.Future[T] = self._loop.create_future()
        asked[seq] = future
        self._send(message)
        try:
            async with asyncio.timeout(self._patience.call_s):
                return await future
        except TimeoutError:
            raise LedgerUnavailable("the ledger did not answer in time") from None
        finally:
            asked.pop(seq, None)

    # --- reserves whose caller is gone ----------------------------------------------------------

    def _watch(self, pending: _Reserving) -> None:
        """(Re)start the clock of a reserve: it is less patient while the ledger is away."""
        pending.due = pending.until
        if self._link is None:
            pending.due = min(pending.until, self._loop.time() + self._patience.offline_s)
        if pending.due < self._rings_at:
            self._ring_at(pending.due)

    def _ring_at(self, moment: float) -> None:
        if self._ringing is not None:
            self._ringing.cancel()
        self._rings_at = moment
        self._ringing = self._loop.call_at(moment, self._ring)

    def _ring(self) -> None:
        """Look whose time is up, and when that of the next one is."""
        self._ringing, self._rings_at = None, math.inf
        now = self._loop.time()
        for seq, pending in list(self._reserving.items()):
            if pending.is_abandoned:
                continue
            if pending.due <= now:
                self._time_up(seq, pending)
            elif pending.due < self._rings_at:
                self._rings_at = pending.due
        if self._rings_at < math.inf:
            # Thousands may wait for a ledger that is stuck: not one look at all for each of them.
            self._ring_at(max(self._rings_at, now + _LATE_S))

    def _time_up(self, seq: int, pending: _Reserving) -> None:
        state = "did not answer in time" if self._link is not None else "does not answer"
        pending.fail(LedgerUnavailable(f"the ledger {state}"))
        self._give_up(seq, pending)

    def _give_up(self, seq: int, pending: _Reserving) -> None:
        """Nobody waits any more: undo the hold, now or once its fate is known."""
        if seq not in self._reserving:
            if pending.has_hold():  # the answer was there, and its caller was cancelled over it
                self.settle(_not_dispatched(pending.attempt.attempt))
        elif self._link is None:
            del self._reserving[seq]
            self._undo(pending)

    def _undo(self, pending: _Reserving) -> None:
        """Settle what a reserve without an answer may have left behind."""
        if pending.settles is not None:
            self.settle(pending.settles)
        if pending.was_sent:
            self.settle(_not_dispatched(pending.attempt.attempt))
        self._wake_if_drained()

    # --- replies --------------------------------------------------------------------------------

    def _replied(self, link: _Link, reply: Reply) -> None:
        match reply:
            case Settled():
                self._unsettled.pop(reply.seq, None)
                if self._drain_waiters:
                    self._wake_if_drained()
            case Reserved() | Refused():
                self._answered(reply)
            case KeyChanged():
                self._put_key(reply.key)
                self._tell_keys()
                _resolve(self._calling, reply.seq, reply)
            case GroupChanged():
                self._groups[reply.group.group_id] = reply.group
                _resolve(self._calling, reply.seq, reply)
            case HardScope():
                self.hard_scopes.change(reply)
            case AlertRaised():
                self._put_alert(reply.alert)
                _resolve(self._calling, reply.seq, reply)
            case SwapChanged():
                self._put_swap(reply.swap)
                _resolve(self._calling, reply.seq, reply)
            case ConversationsBegan():
                self._put_conversations(reply)
            case Quality():
                if self._on_quality is not None:
                    self._on_quality(reply)
            case Budgets() | Standing() | Done():
                _resolve(self._calling, reply.seq, reply)
            case Failed():
                self._failed(reply)
            case Welcome():
                self._welcomed(link, reply)
            case _:
                assert_never(reply)

    def _answered(self, reply: Reserved | Refused) -> None:
        pending = self._reserving.pop(reply.seq, None)
        if pending is None:
            _resolve(self._extending, reply.seq, reply)
            return
        attempt = pending.attempt
        if not pending.future.done():
            pending.future.set_result(reply)
            if type(reply) is Reserved:
                self._floors[attempt.attempt] = attempt.floor_nanousd
        elif type(reply) is Reserved:
            self.settle(_not_dispatched(attempt.attempt))
        if self._drain_waiters:
            self._wake_if_drained()

    def _put_key(self, key: KeyRecord) -> None:
        earlier = self._keys_by_id.get(key.key_id)
        if earlier is not None:
            self._keys.pop(earlier.digest, None)
            self._keys.pop(earlier.previous_digest, None)
        self._keys_by_id[key.key_id] = key
        if key.previous_digest:
            self._keys[key.previous_digest] = key
        self._keys[key.digest] = key

    def _tell_keys(self) -> None:
        if self._on_keys is not None:
            self._on_keys(self.keys)

    def _put_alert(self, alert: Alert) -> None:
        self._alerts[alert.alert_id] = alert
        if self._on_alert is not None:
            self._on_alert(alert)

    def _put_swap(self, swap: Swap) -> None:
        swaps = {**self._swaps, swap.swap_id: swap}
        if not swap.is_open:
            self._conversations.pop(swap.swap_id, None)
        if not swap.is_open and not swap.is_in_force:
            del swaps[swap.swap_id]
        self._swaps = swaps
        if self._on_swap is not None:
            self._on_swap(swap)

    def _put_conversations(self, began: ConversationsBegan) -> None:
        swap = self._swaps.get(began.swap_id)
        if swap is None or not swap.is_open:
            return  # it has ended in the same batch
        known = self._conversations.setdefault(began.swap_id, {})
        for conversation in began.conversations:
            self._keep_conversation(known, conversation)

    def _keep_conversation(self, known: dict[int, None], conversation: int) -> None:
        known[conversation] = None
        if len(known) > MOST_CONVERSATIONS:
            del known[next(iter(known))]

    def _welcome_swaps(self, reply: Welcome) -> None:
        """Take over what the ledger knows, and tell it what a new one cannot know."""
        told = {began.swap_id: set(began.conversations) for began in reply.conversations}
        self._swaps = {swap.swap_id: swap for swap in reply.swaps}
        for swap_id, known in list(self._conversations.items()):
            if swap_id not in self._swaps or not self._swaps[swap_id].is_open:
                del self._conversations[swap_id]
            elif missing := tuple(known.keys() - told.get(swap_id, set())):
                self._send(self._encoded(BeginConversations(swap_id, missing)))
        for began in reply.conversations:
            self._put_conversations(began)
        if self._on_swap is not None:
            for swap in reply.swaps:
                self._on_swap(swap)

    def _failed(self, reply: Failed) -> None:
        if reply.seq in self._unsettled:
            self._unwritten.append(reply.seq)
            if self._resending is None:
                self._resending = self._loop.call_later(self._patience.resend_s, self._resend)
            return
        pending = self._reserving.pop(reply.seq, None)
        if pending is not None:
            pending.fail(LedgerUnavailable(reply.message))
            # A disk that fails in the middle of a commit may still have kept it.
            self._undo(pending)
            return
        error: LedgerError = (
            LedgerUnavailable(reply.message)
            if reply.code == "unavailable"
            else LedgerRefusal(reply.code, reply.message)
        )
        _resolve(self._calling, reply.seq, error)
        _resolve(self._extending, reply.seq, error)

    def _resend(self) -> None:
        self._resending = None
        unwritten, self._unwritten = self._unwritten, []
        for seq in unwritten:
            if seq in self._unsettled:
                self._send(self._unsettled[seq])

    def _report(self) -> None:
        self._reporting = None
        floors = tuple((a, self._floors[a]) for a in self._moved if a in self._floors)
        self._moved.clear()
        if floors:
            self._send(self._encoded(Progress(floors)))

    def _wake_if_drained(self) -> None:
        if not self._unsettled and not self._reserving:
            waiters, self._drain_waiters = self._drain_waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    # --- the connection -------------------------------------------------------------------------

    def _encoded(self, op: Op) -> bytes:
        message = self._encode(op)
        if len(message) > MAX_MESSAGE_BYTES:
            raise ValueError(f"an op of {len(message)} bytes; the bound is {MAX_MESSAGE_BYTES}")
        return message

    def _send_reserve(self, pending: _Reserving) -> None:
        pending.was_sent |= self._link is not None
        self._send(pending.message)

    def _send(self, message: bytes) -> None:
        """Send with whatever else this turn of the loop brings; nothing while disconnected."""
        if self._link is None:
            return
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(message)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self._link is not None and outbox:
            self._link.write(outbox)

    async def _keep_connected(self) -> None:
        patience = self._patience
        retry_s = patience.first_retry_s
        while True:
            with contextlib.suppress(OSError):
                if await self._connect_once():
                    retry_s = patience.first_retry_s
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, patience.last_retry_s)

    async def _connect_once(self) -> bool:
        """Connect, and stay until the connection is lost; False if it was never welcome."""
        link = _Link(self._loop, self._replied, self._lost)
        await self._loop.create_unix_connection(lambda: link, socket_path(self._data_dir))
        try:
            link.write([self._encoded(Hello("worker", self._name, self._session))])
            await asyncio.wait(
                [link.welcomed, link.lost],
                timeout=self._patience.call_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if link.welcomed.done():
                await asyncio.wait([link.lost])
            return link.welcomed.done()
        finally:
            link.close()

    def _welcomed(self, link: _Link, reply: Welcome) -> None:
        if reply.session != self._session:
            self._session, self._counter = reply.session, 0
        self._keys.clear()
        self._keys_by_id.clear()
        for key in reply.keys:
            self._put_key(key)
        self._tell_keys()
        self._groups = {group.group_id: group for group in reply.groups}
        self.hard_scopes.replace(reply.hard_scopes)
        self._alerts.clear()
        for alert in reply.alerts:
            self._put_alert(alert)
        self._quality = reply.quality
        if self._on_quality is not None:
            self.watch_quality(self._on_quality)
        self._link = link
        self._welcome_swaps(reply)
        link.welcomed.set_result(None)
        if not self._connected.done():
            self._connected.set_result(None)
        self._unwritten.clear()
        for message in self._unsettled.values():
            self._send(message)
        for pending in self._reserving.values():
            self._watch(pending)
            self._send_reserve(pending)
        if self._floors:
            self._send(self._encoded(Progress(tuple(self._floors.items()))))

    def _lost(self, link: _Link) -> None:
        if self._link is not link:
            return
        self._link = None
        self._outbox.clear()
        for seq in list(self._calling):
            _resolve(self._calling, seq, LedgerUnavailable("the ledger went away"))
        for seq in list(self._extending):
            _resolve(self._extending, seq, LedgerUnavailable("the ledger went away"))
        for seq, pending in list(self._reserving.items()):
            if pending.is_abandoned:
                del self._reserving[seq]
                self._undo(pending)
            else:
                self._watch(pending)


def _resolve(asked: dict[int, asyncio.Future[T]], seq: int, reply: T | LedgerError) -> None:
    """Hand the answer to whoever asked, if it is still wanted."""
    future = asked.pop(seq, None)
    if future is None or future.done():
        return
    if isinstance(reply, LedgerError):
        future.set_exception(reply)
    else:
        future.set_result(reply)


class _Reserving(msgspec.Struct, eq=False):
    """A reserve without an answer. `until` is when its caller's patience ends."""

    attempt: Attempt
    settles: Settlement | None
    message: bytes
    until: float
    future: asyncio.Future[Reserved | Refused]
    due: float = math.inf
    """When it is given up as things are: sooner than `until` while the ledger is away."""
    was_sent: bool = False

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits for the answer that is still to come."""
        return self.future.done()

    def fail(self, error: LedgerError) -> None:
        """Let the caller know, if there still is one."""
        if not self.future.done():
            self.future.set_exception(error)

    def has_hold(self) -> bool:
        """Whether the ledger answered that the money is held."""
        future = self.future
        return (
            future.done()
            and not future.cancelled()
            and future.exception() is None
            and isinstance(future.result(), Reserved)
        )


class _Link(asyncio.Protocol):
    """One connection to the ledger."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_reply: Callable[[_Link, Reply], None],
        on_lost: Callable[[_Link], None],
    ) -> None:
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._reader = reply_reader()
        self._transport: asyncio.WriteTransport | None = None
        self.welcomed: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the way out."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand on each reply."""
        try:
            arrived = self._reader.feed(data)
        except MalformedFrame as error:
            _log.error("dropped the connection to the ledger: %s", error)
            self.close()
            return
        for replies in arrived:
            for reply in replies:
                self._on_reply(self, reply)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the client."""
        self._transport = None
        self._on_lost(self)
        self.lost.set_result(None)

    def write(self, messages: list[bytes]) -> None:
        """Send the messages as one frame."""
        if self._transport is not None:
            self._transport.write(frames(messages))

    def close(self) -> None:
        """Close once everything written has left."""
        if self._transport is not None:
            self._transport.close()


def _not_dispatched(attempt: int) -> Settlement:
    return Settlement(
        attempt=attempt,
        outcome="not_dispatched",
        cost_nanousd=0,
        usage=Usage(),
        estimated=False,
        status=0,
        first_token_us=None,
        total_us=0,
    )


_numbers: Callable[[Settlement], tuple[int, ...]] = attrgetter(
    "cost_nanousd",
    "uncertain_nanousd",
    "status",
    "total_us",
    *(f"usage.{name}" for name in Usage.__struct_fields__),
)
"""All of a settlement that is measured, or that a provider says, and is always there."""


def _bounded(settlement: Settlement) -> Settlement:
    """The settlement with every number and text inside the protocol's bounds.

    Numbers come from what a provider reports. However absurd they are, the settlement must reach
    the ledger: one that cannot be sent would leave its hold in place for ever.
    """
    first, error = settlement.first_token_us, settlement.error
    numbers = (first or 0, *_numbers(settlement))
    # The bound of amounts is the lower one: what is below it is within any.
    is_within = min(numbers) >= 0 and max(numbers) <= MAX_AMOUNT_NANOUSD
    if is_within and (not error or _is_plain(error)):
        return settlement
    bounded = msgspec.structs.replace(
        settlement,
        cost_nanousd=min(max(settlement.cost_nanousd, 0), MAX_AMOUNT_NANOUSD),
        usage=Usage(*map(_bounded_count, msgspec.structs.astuple(settlement.usage))),
        total_us=_bounded_count(settlement.total_us),
        first_token_us=None if first is None else _bounded_count(first),
        status=_bounded_count(settlement.status),
        uncertain_nanousd=min(max(settlement.uncertain_nanousd, 0), MAX_AMOUNT_NANOUSD),
        error=error[:_MAX_ERROR_CHARS].encode("utf-8", "backslashreplace").decode(),
    )
    if bounded != settlement:
        _log.error("a settlement was out of bounds: %r", settlement)
    return bounded


def _bounded_count(count: int) -> int:
    return min(max(count, 0), MAX_COUNT)


def _is_plain(text: str) -> bool:
    if len(text) > _MAX_ERROR_CHARS:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
