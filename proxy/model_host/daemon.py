"""The model host: carries out what the core decides, and answers the workers on a Unix socket.

What is said between a worker and a model does not pass through here: a worker is told where the
model's process listens, and says when it is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import msgspec

from proxy.inventory import NOTHING, Inventory
from proxy.ledger.frames import MalformedFrame, frames
from proxy.model_host import gpu, validation
from proxy.model_host.aside import aside
from proxy.model_host.children import Child, running
from proxy.model_host.core import Core, Effect, Grant, Load, Refuse, Rules, Unload
from proxy.model_host.hosted import HostedModel, HostPlan
from proxy.model_host.lookout import Lookout
from proxy.model_host.protocol import (
    Ask,
    Done,
    Found,
    Granted,
    Look,
    ModelState,
    Op,
    Pull,
    Pulled,
    Refused,
    Reply,
    Retire,
    Shown,
    Watch,
    op_reader,
)
from proxy.model_host.pulls import Pulls
from proxy.model_host.speed import Speed
from proxy.revisions import Revision, follow

# A child that does not answer this often in a row is ended.
_MISSED_CHECKS = 3
# How long the host outlives its supervisor for workers that end what they have in flight.
_LAST_WORKERS_S = 10.0

_log = logging.getLogger("tollway")
_encode = msgspec.msgpack.Encoder().encode


def run_host(
    plan: HostPlan,
    listening: socket.socket,
    *,
    ready: Callable[[], None],
    lifeline: int,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    line: socket.socket,
    revise: Callable[[Revision], HostPlan],
) -> None:
    """Serve until SIGTERM, or until the supervisor is gone, and its workers, or ten seconds passed.

    No model's process is left then.

    `ready` is called once, when leases are given. `lifeline` is the read end of a pipe whose other
    end the supervisor holds; over `line` it tells of other configurations, which `revise` makes
    plans of.
    """
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(plan, listening, ready, lifeline, line, revise))


async def _serve(
    plan: HostPlan,
    listening: socket.socket,
    ready: Callable[[], None],
    lifeline: int,
    line: socket.socket,
    revise: Callable[[Revision], HostPlan],
) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def read_lifeline() -> None:
        if not os.read(lifeline, 64):
            loop.remove_reader(lifeline)
            loop.call_later(_LAST_WORKERS_S, stopped.set)
            host.when_alone(stopped.set)

    host = Host(plan, os.environ)
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.add_reader(lifeline, read_lifeline)
    host.start()
    # Whoever asks for a file that was found before gets it from a host that was started anew, too.
    await host.look_into_folders()
    # Kept, since uvloop stops a server that nobody holds once garbage is collected. Never closed
    # here: the supervisor listens on for the host that it starts next.
    kept = await loop.create_unix_server(lambda: Connection(host), sock=listening)

    async def take_over(revision: Revision) -> None:
        await host.go_by(await asyncio.to_thread(revise, revision))

    following = asyncio.create_task(follow(line, take_over))
    ready()
    try:
        await stopped.wait()
    finally:
        following.cancel()
        await host.aclose()
        del kept


class Connection(asyncio.Protocol):
    """One worker, or a command that looks at the models."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._reader = op_reader()
        self._transport: asyncio.WriteTransport | None = None
        self.tickets: dict[int, int] = {}
        """By the worker's own number, ours."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the way out."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self._host.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Hand each op on; drop a client that does not speak the protocol."""
        try:
            arrived = self._reader.feed(data)
        except MalformedFrame as error:
            _log.error("the model host closed a connection: %s", error)
            self.abort()
            return
        for ops in arrived:
            for op in ops:
                self._host.received(self, op)

    def connection_lost(self, error: Exception | None) -> None:
        """Whatever the worker had or waited for is free."""
        self._transport = None
        for seq in list(self.tickets):
            self._host.received(self, Done(seq))
        self._host.disconnected(self)

    def send(self, reply: Reply) -> None:
        """Answer, if the client is still there."""
        if self._transport is not None:
            self._transport.write(frames([_encode(reply)]))

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


@dataclass(frozen=True, slots=True)
class _Asker:
    connection: Connection
    seq: int
    model: str


class Host:
    """The core, its clock, its processes and whoever asks."""

    def __init__(self, plan: HostPlan, environ: Mapping[str, str]) -> None:
        self._plan = plan
        self._environ = environ
        self._models = {model.name: model for model in plan.models}
        self._rules = _rules(plan)
        self._core = Core([model.need for model in plan.models], self._rules)
        self.connections: set[Connection] = set()
        self._on_alone: Callable[[], None] = lambda: None
        self._askers: dict[int, _Asker] = {}
        self._last_ticket = 0
        self._lives: dict[str, asyncio.Task[str]] = {}
        self._children: dict[str, Child] = {}
        self._stamps: dict[str, validation.Stamp] = {}
        """Of the files that were loaded."""
        self._speeds: dict[str, Speed] = {}
        self._due: asyncio.TimerHandle | None = None
        self._checking: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._watchers: dict[Connection, int] = {}
        """Who wants to know what is found, by the number that they asked with."""
        self._found: tuple[int, Inventory] | None = None
        """With its revision; None before everybody has answered, or never will."""
        self._pulls = Pulls(self._plan.lookout)
        self._is_closing = False

    def start(self) -> None:
        """Begin to load what is to be there from the start, and to look after it."""
        self._loop = asyncio.get_running_loop()
        self._preload(self._plan.preload)
        self._checking = self._loop.create_task(self._check_always())
        self._begin_to_look()

    def _begin_to_look(self) -> None:
        if self._plan.lookout is not None:
            self._looking = self._loop.create_task(self._look_always(self._plan.lookout))

    def _preload(self, names: Sequence[str]) -> None:
        effects = self._core.preload(names, self._loop.time())
        loading = {effect.model for effect in effects if isinstance(effect, Load)}
        for name in names:
            if name not in loading:
                _log.warning("the local model %s is not preloaded: 'host' has no room for it", name)
        self._carry_out(effects)

    async def aclose(self) -> None:
        """End every model's process; whoever waits may ask the next host."""
        self._is_closing = True
        for connection in list(self.connections):
            connection.abort()
        if self._due is not None:
            self._due.cancel()
        tasks = [*self._lives.values(), *filter(None, [self._checking, self._looking])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pulls.aclose()

    def when_alone(self, act: Callable[[], None]) -> None:
        """Act once nobody is connected any more, or now."""
        self._on_alone = act
        if not self.connections:
            act()

    def disconnected(self, connection: Connection) -> None:
        """A worker is gone."""
        self.connections.discard(connection)
        self._watchers.pop(connection, None)
        if not self.connections:
            self._on_alone()

    async def go_by(self, plan: HostPlan) -> None:
        """Serve by another plan; what is loaded and stays as it was, stays loaded.

        What is found by the new one is known before the old one ends, so that nothing is unloaded
        for not having been looked at yet.
        """
        found: Sequence[HostedModel] = ()
        if plan.lookout is not None:
            if self._plan.lookout is not None:
                plan.lookout.go_on_from(self._plan.lookout)
            inventory = await plan.lookout.look()
            with contextlib.suppress(TimeoutError):
                found = await aside(partial(plan.found, inventory), limit_s=plan.validation_s)
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
            self._looking = None
        before, self._plan = self._plan, plan
        self._rules = _rules(plan)
        self._pulls.lookout = plan.lookout
        self._serve(found)
        self._preload([name for name in plan.preload if name not in before.preload])
        if plan.lookout is None and self._found is not None:
            self._found = self._found[0] + 1, NOTHING
            self._tell(list(self._watchers))
        self._begin_to_look()

    def _serve(self, found: Sequence[HostedModel]) -> None:
        """Serve what is configured, and what was found besides."""
        configured = {model.name: model for model in self._plan.models}
        self.set_models(tuple(({model.name: model for model in found} | configured).values()))

    def set_models(self, models: Sequence[HostedModel]) -> None:
        """Serve these models from now on.

        One that is gone, or is to be started in another way, is ended once nobody uses it.
        """
        now = self._loop.time()
        before = {name: model for name, model in self._models.items() if name in self._lives}
        self._models = before | {model.name: model for model in models}
        for name, model in before.items():
            if model.arguments != self._models[name].arguments:
                self._carry_out(self._core.retire(name, now))
        needs = [model.need for model in models]
        self._carry_out(self._core.configure(needs, now, self._rules))

    # --- those who ask ----------------------------------------------------------------------

    def received(self, connection: Connection, op: Op) -> None:
        """A worker said something."""
        if self._is_closing:
            return
        now = self._loop.time()
        match op:
            case Ask(seq=seq, model=model, waits=waits):
                if seq in connection.tickets:
                    return
                self._last_ticket += 1
                ticket = connection.tickets[seq] = self._last_ticket
                self._askers[ticket] = _Asker(connection, seq, model)
                self._carry_out(self._core.lease(ticket, model, now, waits=waits))
            case Done(seq=seq, tokens=tokens, seconds=seconds):
                done = connection.tickets.pop(seq, None)
                if done is not None:
                    model = self._askers.pop(done).model
                    self._speeds.setdefault(model, Speed()).add(tokens, seconds)
                    self._carry_out(self._core.give_back(done, now))
            case Retire(model=model):
                self._carry_out(self._core.retire(model, now))
            case Watch(seq=seq):
                self._watchers[connection] = seq
                self._tell([connection])
            case Pull(seq=seq, provider=provider, model=model):
                connection.send(self._pull(seq, provider, model))
            case Look(seq=seq):
                connection.send(self._shown(seq))

    def _shown(self, seq: int) -> Shown:
        states = []
        for standing in self._core.standings():
            model = self._models[standing.name]
            child = self._children.get(standing.name)
            states.append(
                ModelState(
                    name=standing.name,
                    backend=model.backend,
                    state=standing.phase,
                    bytes=standing.bytes,
                    gpu_bytes=standing.gpu_bytes,
                    pinned=standing.pinned,
                    concurrency=model.need.concurrency,
                    users=standing.users,
                    waiting=standing.waiting,
                    loads=standing.loads,
                    load_s=standing.load_s,
                    pid=child.pid if child is not None else 0,
                    problem=standing.problem,
                    tokens_per_s=self._speeds.get(standing.name, Speed()).tokens_per_s,
                )
            )
        return Shown(
            seq=seq,
            memory_bytes=self._rules.memory_bytes,
            taken_bytes=self._core.taken_bytes,
            gpu_memory_bytes=self._rules.gpu_memory_bytes,
            taken_gpu_bytes=self._core.taken_gpu_bytes,
            max_loaded=self._rules.max_loaded,
            models=tuple(states),
            inventory=NOTHING if self._plan.lookout is None else self._plan.lookout.inventory,
            pulls=self._pulls.shown(),
        )

    # --- what is found ----------------------------------------------------------------------

    async def look_into_folders(self) -> None:
        """Find the models that can be loaded, within seconds."""
        lookout = self._plan.lookout
        if lookout is not None:
            await lookout.look_into_folders()
            with contextlib.suppress(TimeoutError):
                await self._take_over(lookout.inventory)

    async def _look_always(self, lookout: Lookout) -> None:
        try:
            while True:
                try:
                    await self._look(lookout)
                    await self._retire_replaced()
                except Exception:  # what was found before goes on to be served
                    _log.exception("the model host could not look for models")
                await self._pulls.any_done(self._plan.discovery_s)
        finally:
            await lookout.aclose()

    async def _look(self, lookout: Lookout) -> None:
        inventory = await lookout.look()
        if self._found is not None and self._found[1] == inventory:
            return
        await self._take_over(inventory)
        # The host before this one may have told of a server that is late just now.
        if self._found is not None or lookout.is_sure:
            self._found = (self._found[0] if self._found else 0) + 1, inventory
            self._tell(list(self._watchers))

    async def _retire_replaced(self) -> None:
        """What is loaded goes when other files lie in the place of its own, for these to come."""
        for name, stamp in list(self._stamps.items()):
            is_replaced = partial(validation.is_replaced, self._models[name], stamp)
            with contextlib.suppress(TimeoutError):
                if await aside(is_replaced, limit_s=self._plan.validation_s) and (
                    self._stamps.get(name) is stamp
                ):
                    _log.info("the files of the local model %s are others now", name)
                    self._carry_out(self._core.retire(name, self._loop.time()))

    async def _take_over(self, inventory: Inventory) -> None:
        """Serve what was found; raises `TimeoutError` where its files cannot be looked at."""
        looking = partial(self._plan.found, inventory)
        self._serve(await aside(looking, limit_s=self._plan.validation_s))

    def _tell(self, watchers: Sequence[Connection]) -> None:
        for watcher in watchers:
            if self._found is not None:
                watcher.send(Found(self._watchers[watcher], *self._found))

    def _pull(self, seq: int, provider: str, model: str) -> Pulled:
        try:
            return Pulled(seq, "", self._pulls.begin(provider, model))
        except ValueError as error:
            return Pulled(seq, str(error))

    # --- what the core decides --------------------------------------------------------------

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Load(model=model):
                    life = self._lives[model] = self._loop.create_task(self._live(model))
                    life.add_done_callback(partial(self._ended, model))
                case Unload(model=model):
                    self._lives[model].cancel()
                case Grant(ticket=ticket, model=model):
                    asker = self._askers[ticket]
                    child = self._children[model]
                    backend = self._models[model].backend
                    asker.connection.send(Granted(asker.seq, child.url, child.key, backend))
                case Refuse(ticket=ticket, reason=reason, message=message, retry_s=retry_s):
                    asker = self._askers.pop(ticket)
                    asker.connection.tickets.pop(asker.seq, None)
                    asker.connection.send(Refused(asker.seq, reason, message, retry_s))
        self._keep_time()

    def _keep_time(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        due = self._core.next_due()
        if due is not None and not self._is_closing:
            self._due = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._due = None
        self._carry_out(self._core.tick(self._loop.time()))

    def _ended(self, name: str, life: asyncio.Task[str]) -> None:
        self._children.pop(name, None)
        self._stamps.pop(name, None)
        del self._lives[name]
        if life.cancelled():
            problem = "it was told to end"
        elif (error := life.exception()) is not None:
            problem = str(error)
        else:
            problem = life.result()
        if self._is_closing:
            return
        if not life.cancelled():
            _log.warning("the local model %s: %s", name, problem)
        self._carry_out(self._core.ended(name, problem, self._loop.time()))

    async def _live(self, name: str) -> str:
        """A model's process, from its start to its end, and how that came; cancelled to end it."""
        model = self._models[name]
        check = partial(validation.check, model)
        try:
            stamp = await aside(check, limit_s=self._plan.validation_s)
        except TimeoutError:
            raise validation.Unfit(
                f"its files could not be looked at within {self._plan.validation_s:g} s"
            ) from None
        async with running(
            model.arguments, self._environ, load_timeout_s=self._plan.load_timeout_s
        ) as child:
            self._children[name], self._stamps[name] = child, stamp
            self._carry_out(self._core.loaded(name, self._loop.time()))
            self._measure(name, child, await self._gpu_bytes())
            return await child.ended()

    # --- looking after them -----------------------------------------------------------------

    async def _gpu_bytes(self) -> Mapping[int, int]:
        """By process group, where GPUs have memory of their own."""
        if not self._rules.gpu_memory_bytes:
            return {}
        try:
            return await aside(gpu.used_bytes, limit_s=self._plan.validation_s)
        except TimeoutError:
            return {}

    def _measure(self, name: str, child: Child, gpu_bytes: Mapping[int, int]) -> None:
        gpu_size = gpu_bytes.get(child.pid, 0)
        now = self._loop.time()
        self._carry_out(self._core.measured(name, child.resident_bytes, gpu_size, now))

    async def _check_always(self) -> None:
        missed: dict[int, int] = {}
        while True:
            await asyncio.sleep(self._plan.health_s)
            gpu_bytes = await self._gpu_bytes()
            for name, child in list(self._children.items()):
                if await child.is_well():
                    missed.pop(child.pid, None)
                else:
                    missed[child.pid] = missed.get(child.pid, 0) + 1
                if missed.get(child.pid, 0) >= _MISSED_CHECKS:
                    _log.warning("the local model %s does not answer any more; ending it", name)
                    del missed[child.pid]
                    child.kill()
                elif self._children.get(name) is child:
                    self._measure(name, child, gpu_bytes)


def _rules(plan: HostPlan) -> Rules:
    return Rules(
        memory_bytes=plan.memory_bytes,
        gpu_memory_bytes=plan.gpu_memory_bytes,
        groups=plan.groups,
        max_loaded=plan.max_loaded,
        ttl_s=plan.ttl_s,
        collate_s=plan.collate_s,
        queue=plan.queue,
    )
