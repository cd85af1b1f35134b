"""The core of the model host: whatever happens in whatever order, its promises hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.model_host.core import Core, Effect, Grant, Group, Load, Need, Refuse, Rules, Unload

MB = 2**20


def needs(*names: str, megabytes: int = 10, **more: bool) -> list[Need]:
    return [Need(name=name, bytes=megabytes * MB, **more) for name in names]  # type: ignore[arg-type]


class World:
    """Carries out what the core decides, as its owner would, and holds it to its promises."""

    def __init__(self, models: Iterable[Need], rules: Rules) -> None:
        self.models = {need.name: need for need in models}
        self.rules = rules
        self.core = Core(self.models.values(), rules)
        self.now = 0.0
        self.measured_bytes = dict.fromkeys(self.models, 0)
        self.measured_gpu_bytes = dict.fromkeys(self.models, 0)
        self.phases = dict.fromkeys(self.models, "absent")
        self.configured = set(self.models)
        self.retiring: set[str] = set()
        self.changed: set[str] = set()
        self.waiting: dict[int, str] = {}
        self.using: dict[int, str] = {}
        self.refused: dict[int, Refuse] = {}
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self._tickets = count(1)

    def bytes(self, model: str) -> int:
        return max(self.models[model].bytes, self.measured_bytes[model])

    def gpu_bytes(self, model: str) -> int:
        return max(self.models[model].gpu_bytes, self.measured_gpu_bytes[model])

    def forget_measures(self, model: str) -> None:
        self.measured_bytes[model] = self.measured_gpu_bytes[model] = 0
        self.changed.discard(model)

    @property
    def there(self) -> list[str]:
        return [name for name, phase in self.phases.items() if phase != "absent"]

    # --- events -----------------------------------------------------------------------------

    def ask(self, model: str, *, waits: bool = True) -> int:
        ticket = next(self._tickets)
        self.waiting[ticket] = model
        self.carry_out(self.core.lease(ticket, model, self.now, waits=waits))
        return ticket

    def give_back(self, ticket: int) -> None:
        self.waiting.pop(ticket, None)
        self.using.pop(ticket, None)
        self.carry_out(self.core.give_back(ticket, self.now))

    def preload(self, *names: str) -> None:
        self.carry_out(self.core.preload(names, self.now))

    def loaded(self, model: str) -> None:
        assert self.phases[model] in ("loading", "leaving")
        if self.phases[model] == "loading":
            self.phases[model] = "loaded"
        self.carry_out(self.core.loaded(model, self.now))

    def ended(self, model: str, problem: str = "") -> None:
        self.phases[model] = "absent"
        self.retiring.discard(model)
        if model in self.changed or model not in self.configured:
            self.forget_measures(model)
        self.using = {t: name for t, name in self.using.items() if name != model}
        self.carry_out(self.core.ended(model, problem, self.now))

    def measured(self, model: str, size: int, gpu_size: int = 0) -> None:
        self.measured_bytes[model] = max(self.measured_bytes[model], size)
        self.measured_gpu_bytes[model] = max(self.measured_gpu_bytes[model], gpu_size)
        self.carry_out(self.core.measured(model, size, gpu_size, self.now))

    def configure(self, models: Iterable[Need]) -> None:
        configured = {need.name: need for need in models}
        gone = self.configured - configured.keys()
        self.configured = set(configured)
        self.retiring |= gone & set(self.there)
        for model in gone - set(self.there):
            self.forget_measures(model)
        self.changed |= {
            name
            for name, need in configured.items()
            if name in self.models and self.models[name].bytes != need.bytes
        }
        for model in self.changed - set(self.there):
            self.forget_measures(model)
        self.models |= configured
        self.measured_bytes = dict.fromkeys(configured, 0) | self.measured_bytes
        self.measured_gpu_bytes = dict.fromkeys(configured, 0) | self.measured_gpu_bytes
        self.phases = dict.fromkeys(configured, "absent") | self.phases
        self.carry_out(self.core.configure(configured.values(), self.now))
        assert not gone & set(self.waiting.values())

    def retire(self, model: str) -> None:
        if model in self.there:
            self.retiring.add(model)
        self.carry_out(self.core.retire(model, self.now))
        assert self.phases[model] in ("absent", "leaving") or model in self.using.values()

    def pass_time(self, seconds: float) -> None:
        """Time passes, and the core is called when it asked to be."""
        until = self.now + seconds
        for _ in range(1000):
            due = self.core.next_due()
            if due is None or due > until:
                break
            assert due >= self.now or not self.waiting, "it asks for a time that is over"
            self.now = max(self.now, due)
            self.carry_out(self.core.tick(self.now))
        else:
            raise AssertionError("it asks to be called again and again")
        self.now = until
        self.carry_out(self.core.tick(self.now))

    # --- effects ----------------------------------------------------------------------------

    def carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Load(model=model):
                    assert self.phases[model] == "absent"
                    self.phases[model] = "loading"
                    self.loads.append(model)
                    self.check_room()
                case Unload(model=model):
                    assert self.phases[model] in ("loading", "loaded")
                    assert model not in self.using.values(), "a model in use was evicted"
                    if model in self.retiring:
                        pass
                    elif self.phases[model] == "loaded":
                        assert not self.models[model].pinned
                    else:
                        assert model not in self.waiting.values(), "somebody waits for this load"
                    self.phases[model] = "leaving"
                    self.unloads.append(model)
                case Grant(ticket=ticket, model=model):
                    assert self.waiting.pop(ticket) == model
                    assert self.phases[model] == "loaded"
                    assert model not in self.retiring
                    self.using[ticket] = model
                    users = list(self.using.values()).count(model)
                    assert users <= self.models[model].concurrency
                case Refuse(ticket=ticket):
                    del self.waiting[ticket]
                    self.refused[ticket] = effect

    def check_room(self) -> None:
        there = self.there
        assert sum(map(self.bytes, there)) <= self.rules.memory_bytes
        assert sum(map(self.gpu_bytes, there)) <= self.rules.gpu_memory_bytes
        assert len(there) <= self.rules.max_loaded
        for group in self.rules.groups:
            inside = group.models & set(there)
            assert group.max_loaded is None or len(inside) <= group.max_loaded
            if group.exclusive and inside:
                assert all(self.models[name].pinned for name in set(there) - inside)

    def settle(self) -> None:
        """Whatever is under way comes to its end, until nobody waits."""
        for _ in range(10_000):
            for model, phase in list(self.phases.items()):
                if phase == "loading":
                    self.loaded(model)
                elif phase == "leaving":
                    self.ended(model)
            for ticket in list(self.using):
                self.give_back(ticket)
            assert not self.retiring - {m for m in self.there if self.phases[m] == "leaving"}
            busy = any(phase in ("loading", "leaving") for phase in self.phases.values())
            if not (busy or self.using or self.waiting):
                return
            if not (busy or self.using):
                due = self.core.next_due()
                assert due is not None, "somebody waits, and nothing will ever happen"
                self.pass_time(max(0.0, due - self.now))
        raise AssertionError("it never comes to rest")


def test_who_waits_behind_a_load_that_cannot_be_any_more_goes_on() -> None:
    pinned = Need(name="pinned", bytes=20 * MB, pinned=True)
    models = [pinned, *needs("idle", megabytes=40), *needs("large", megabytes=60), *needs("small")]
    world = World(models, Rules(memory_bytes=100 * MB, collate_s=5.0))
    for name in ("pinned", "idle"):
        ticket = world.ask(name)
        world.loaded(name)
        world.give_back(ticket)
    world.ask("large", waits=False)
    ticket = world.ask("small")
    assert world.phases["small"] == "absent"
    world.measured("pinned", 45 * MB)  # the large one has no place beside it now
    assert world.phases["small"] == "loading"
    world.loaded("small")
    assert ticket in world.using


NAMES = ("a", "b", "c", "d", "pinned")
SIZES_MB = dict(zip(NAMES, (40, 30, 60, 90, 20), strict=True))  # four fit, and three may


def need(name: str, *, more_mb: int = 0) -> Need:
    return Need(
        name=name,
        bytes=(SIZES_MB[name] + more_mb) * MB,
        gpu_bytes=(SIZES_MB[name] + more_mb) // 2 * MB if name in "abd" else 0,
        concurrency=1 + (SIZES_MB[name] + more_mb) // 10 % 2,
        pinned=name == "pinned",
    )


NOT_BOTH = Group(models=frozenset("ab"), max_loaded=1)
ALONE = Group(models=frozenset("bc"), exclusive=True)


class Races(RuleBasedStateMachine):
    """Callers, processes and time, in any order."""

    world: World

    @initialize(
        gpu_memory_mb=st.sampled_from([1000, 60, 30]),
        groups=st.sampled_from([(), (NOT_BOTH,), (ALONE,), (NOT_BOTH, ALONE)]),
    )
    def begin(self, gpu_memory_mb: int, groups: tuple[Group, ...]) -> None:
        self.world = World(
            map(need, NAMES),
            Rules(
                memory_bytes=150 * MB,
                gpu_memory_bytes=gpu_memory_mb * MB,
                max_loaded=3,
                groups=groups,
                ttl_s=50.0,
                collate_s=2.0,
                queue=4,
            ),
        )

    def _in(self, *phases: str) -> list[str]:
        return [name for name, phase in self.world.phases.items() if phase in phases]

    @rule(model=st.sampled_from(NAMES), waits=st.booleans())
    def ask(self, model: str, waits: bool) -> None:
        is_loaded = self.world.phases[model] == "loaded"
        ticket = self.world.ask(model, waits=waits)
        assert waits or is_loaded or ticket in self.world.refused
        if model not in self.world.configured:
            assert self.world.refused[ticket].reason == "unknown"

    @precondition(lambda self: self.world.using or self.world.waiting)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        tickets = sorted({*self.world.using, *self.world.waiting})
        self.world.give_back(data.draw(st.sampled_from(tickets)))

    @precondition(lambda self: self._in("loading", "leaving"))
    @rule(data=st.data())
    def loaded(self, data: st.DataObject) -> None:
        self.world.loaded(data.draw(st.sampled_from(self._in("loading", "leaving"))))

    @precondition(lambda self: self._in("loading", "loaded", "leaving"))
    @rule(data=st.data())
    def ended(self, data: st.DataObject) -> None:
        self.world.ended(data.draw(st.sampled_from(self._in("loading", "loaded", "leaving"))), "x")

    @precondition(lambda self: self._in("loaded"))
    @rule(data=st.data(), more=st.integers(0, 40), more_gpu=st.integers(0, 20))
    def measured(self, data: st.DataObject, more: int, more_gpu: int) -> None:
        model = data.draw(st.sampled_from(self._in("loaded")))
        size, gpu_size = self.world.bytes(model), self.world.gpu_bytes(model)
        self.world.measured(model, size + more * MB, gpu_size + more_gpu * MB)

    @precondition(lambda self: self.world.configured)
    @rule(data=st.data())
    def preload(self, data: st.DataObject) -> None:
        self.world.preload(data.draw(st.sampled_from(sorted(self.world.configured))))

    @rule(model=st.sampled_from(NAMES))
    def retire(self, model: str) -> None:
        self.world.retire(model)

    @rule(
        models=st.lists(st.sampled_from(NAMES), unique=True),
        more_mb=st.sampled_from([0, 0, 10, 40]),
    )
    def configure(self, models: list[str], more_mb: int) -> None:
        self.world.configure(need(name, more_mb=more_mb) for name in models)

    @rule(seconds=st.floats(0.0, 60.0))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(ticket=st.integers(1000, 1010))
    def give_back_what_is_unknown(self, ticket: int) -> None:
        self.world.carry_out(self.world.core.give_back(ticket, self.world.now))

    @invariant()
    def nobody_is_lost(self) -> None:
        standings = {standing.name: standing for standing in self.world.core.standings()}
        assert standings.keys() == self.world.configured | set(self.world.there)
        for name, standing in standings.items():
            assert standing.waiting == list(self.world.waiting.values()).count(name)
            assert standing.users == list(self.world.using.values()).count(name)
            assert standing.phase == self.world.phases[name]

    @invariant()
    def whoever_is_next_is_loaded_as_soon_as_there_is_room(self) -> None:
        core = self.world.core
        head = core._head()
        assert head is None or not core._fits(head)

    def teardown(self) -> None:
        self.world.settle()


TestRaces = Races.TestCase
TestRaces.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def serve(world: World, arrivals: Sequence[tuple[float, str]], *, load_s: float) -> list[str]:
    """Serve requests of a second each; returns the models in the order of their loads."""
    ends: list[tuple[float, str, object]] = []
    pending = sorted(arrivals)
    known_loads, held = 0, set[int]()
    while pending or ends or world.waiting:
        due = world.core.next_due()
        times = [t for t in (pending[0][0] if pending else None, due) if t is not None]
        times += [at for at, _, _ in ends]
        world.now = max(world.now, min(times))
        if pending and pending[0][0] <= world.now:
            world.ask(pending.pop(0)[1])
        elif ends and min(ends, key=lambda e: e[0])[0] <= world.now:
            event = min(ends, key=lambda e: e[0])
            ends.remove(event)
            _, kind, what = event
            if kind == "load":
                world.loaded(str(what))
            else:
                assert isinstance(what, int)
                world.give_back(what)
        else:
            world.carry_out(world.core.tick(world.now))
        for model, phase in list(world.phases.items()):
            if phase == "leaving":
                world.ended(model)
        for model in world.loads[known_loads:]:
            ends.append((world.now + load_s, "load", model))
        known_loads = len(world.loads)
        for ticket in world.using.keys() - held:
            held.add(ticket)
            ends.append((world.now + 1.0, "use", ticket))
    return world.loads


TRACE = [(n / 10, model) for n, model in enumerate("ABAACABC")]


def test_alternating_requests_are_served_model_by_model() -> None:
    def loads(collate_s: float) -> list[str]:
        rules = Rules(memory_bytes=15 * MB, collate_s=collate_s)
        world = World(needs("A", "B", "C"), rules)
        served = serve(world, TRACE, load_s=5.0)
        assert not world.refused
        return served

    assert loads(0.0) == list("ABACABC")  # first in, first out
    assert loads(2.0) == list("ABC")


def test_a_model_in_constant_use_does_not_starve_another() -> None:
    world = World(
        [Need(name=name, bytes=10 * MB, concurrency=4) for name in "AB"],
        Rules(memory_bytes=15 * MB, collate_s=2.0),
    )
    # Two of A at any time, for a minute.
    arrivals = [(n / 2, "A") for n in range(120)]
    serve(world, [*arrivals, (10.0, "B")], load_s=1.0)
    assert world.loads == ["A", "B", "A"]


def test_a_model_that_is_no_longer_configured_serves_those_it_has() -> None:
    world = World(needs("a", "b"), Rules(memory_bytes=100 * MB))
    user = world.ask("a")
    world.loaded("a")
    waiter = world.ask("a")
    world.configure(needs("b"))
    assert world.refused[waiter].reason == "unknown"
    assert world.refused[world.ask("a")].reason == "unknown"
    assert world.using == {user: "a"}
    assert world.unloads == []
    world.give_back(user)
    assert world.unloads == ["a"]
    world.ended("a")
    assert [standing.name for standing in world.core.standings()] == ["b"]


def test_a_pinned_model_that_is_no_longer_configured_goes_too() -> None:
    world = World(needs("p", pinned=True), Rules(memory_bytes=15 * MB))
    world.ask("p")
    world.settle()
    user = world.ask("p")
    world.configure(needs("a"))
    assert world.ask("a") in world.waiting  # it will have room
    world.give_back(user)
    world.ended("p")
    assert world.loads == ["p", "a"]


def test_what_was_measured_of_another_configuration_is_forgotten() -> None:
    world = World(needs("a"), Rules(memory_bytes=100 * MB))
    world.ask("a")
    world.settle()
    world.measured("a", 60 * MB)
    world.configure(needs("a", megabytes=20))
    assert world.core.taken_bytes == 60 * MB  # it is there still
    world.retire("a")
    world.ended("a")
    world.ask("a")
    assert world.core.taken_bytes == 20 * MB


def test_a_changed_need_counts_at_once() -> None:
    world = World(needs("a", "b"), Rules(memory_bytes=30 * MB))
    for model in "ab":
        world.ask(model)
        world.settle()
        world.pass_time(5.0)
    world.configure([*needs("a"), *needs("b", megabytes=25)])
    assert world.unloads == ["a"]
    assert world.core.taken_bytes == 35 * MB  # until a is gone


def test_a_retired_model_is_loaded_again_for_those_who_wait() -> None:
    world = World(needs("a"), Rules(memory_bytes=100 * MB))
    user = world.ask("a")
    world.loaded("a")
    world.retire("a")
    waiter = world.ask("a")
    assert waiter in world.waiting  # though there is room for one more user
    assert world.refused[world.ask("a", waits=False)].reason == "not_loaded"
    world.give_back(user)
    world.ended("a")
    world.loaded("a")
    assert world.loads == ["a", "a"]
    assert world.using == {waiter: "a"}


def test_a_pinned_model_can_be_retired() -> None:
    world = World(needs("p", pinned=True), Rules(memory_bytes=100 * MB))
    world.ask("p")
    world.settle()
    world.retire("p")
    assert world.unloads == ["p"]


def test_least_recently_used_goes_first() -> None:
    world = World(needs("a", "b", "c"), Rules(memory_bytes=25 * MB, collate_s=1.0))
    for model in "aba":
        world.ask(model)
        world.settle()
        world.pass_time(5.0)
    world.ask("c")
    assert world.unloads == ["b"]


def test_no_more_is_unloaded_than_is_in_the_way() -> None:
    models = [*needs("small", megabytes=5), *needs("large", "new", megabytes=20)]
    world = World(models, Rules(memory_bytes=30 * MB))
    for model in ("small", "large"):
        world.ask(model)
        world.settle()
        world.pass_time(5.0)
    world.ask("new")
    assert world.unloads == ["large"]


def test_idle_models_go_after_their_time_and_pinned_ones_stay() -> None:
    world = World([*needs("a"), *needs("p", pinned=True)], Rules(memory_bytes=100 * MB, ttl_s=60.0))
    for model in "ap":
        world.ask(model)
    world.settle()
    world.pass_time(59.0)
    assert world.unloads == []
    world.pass_time(2.0)
    assert world.unloads == ["a"]
    world.pass_time(1000.0)
    assert world.phases["p"] == "loaded"


def test_a_load_that_nobody_waits_for_is_given_up() -> None:
    world = World(needs("a"), Rules(memory_bytes=100 * MB))
    first, second = world.ask("a"), world.ask("a")
    world.give_back(first)
    assert world.phases["a"] == "loading"
    world.give_back(second)
    assert world.phases["a"] == "leaving"


def test_a_load_goes_on_for_requests_that_do_not_wait_for_it() -> None:
    world = World(needs("a"), Rules(memory_bytes=100 * MB))
    first = world.ask("a", waits=False)
    assert world.refused[first].reason == "not_loaded"
    world.give_back(world.ask("a"))  # who waits, and leaves, takes nothing along
    world.now = 7.0
    world.loaded("a")
    assert world.phases["a"] == "loaded"
    assert world.ask("a", waits=False) in world.using
    (standing,) = world.core.standings()
    assert (standing.waiting, standing.load_s, standing.loads) == (0, 7.0, 1)


def test_what_is_preloaded_needs_nobody() -> None:
    world = World(needs("a", "b", "c"), Rules(memory_bytes=25 * MB))
    world.preload("a", "b", "c")  # c finds no room
    assert world.loads == ["a", "b"]
    world.give_back(world.ask("a"))
    assert world.phases["a"] == "loading"


def test_a_model_that_can_never_fit_is_refused_at_once() -> None:
    pinned = Need(name="p", bytes=60 * MB, pinned=True)
    models = [*needs("huge", megabytes=101), *needs("big", megabytes=50), pinned]
    world = World(models, Rules(memory_bytes=100 * MB))
    huge, big, other = world.ask("huge"), world.ask("big"), world.ask("nonsense")
    assert world.refused[huge].reason == world.refused[big].reason == "no_room"
    assert "101 MB" in world.refused[huge].message
    assert "60 MB of which are pinned" in world.refused[big].message
    assert world.refused[other].reason == "unknown"


def test_models_of_a_group_take_turns_though_there_is_room() -> None:
    rules = Rules(
        memory_bytes=100 * MB, groups=[Group(models=frozenset("ab"), max_loaded=1)], collate_s=1.0
    )
    world = World(needs("a", "b", "c"), rules)
    for model in "cab":
        world.ask(model)
        world.settle()
        world.pass_time(5.0)
    assert world.unloads == ["a"]  # though c was not used for longer
    assert world.phases == {"a": "absent", "b": "loaded", "c": "loaded"}


def test_an_exclusive_group_is_alone_but_for_pinned_models() -> None:
    rules = Rules(memory_bytes=100 * MB, groups=[Group(models=frozenset("ab"), exclusive=True)])
    world = World([*needs("a", "b", "c"), *needs("p", pinned=True)], rules)

    def ask_for(*models: str) -> list[str]:
        for model in models:
            world.ask(model)
            world.settle()
            world.pass_time(5.0)
        return sorted(world.there)

    assert ask_for("p", "c") == ["c", "p"]
    assert ask_for("a") == ["a", "p"]
    assert ask_for("b") == ["a", "b", "p"]
    assert ask_for("c") == ["c", "p"]


def test_the_memory_of_a_gpu_is_a_second_budget() -> None:
    small = Need(name="cpu", bytes=10 * MB)
    others = [Need(name=name, bytes=MB, gpu_bytes=30 * MB) for name in ("x", "y", "z")]
    huge = Need(name="huge", bytes=MB, gpu_bytes=80 * MB)
    world = World([small, *others, huge], Rules(memory_bytes=100 * MB, gpu_memory_bytes=60 * MB))
    for model in ("cpu", "x", "y"):
        world.ask(model)
        world.settle()
        world.pass_time(5.0)
    assert world.unloads == []
    refused = world.refused[world.ask("huge")]
    assert refused.reason == "no_room"
    assert "80 MB of GPU memory, and local models may take 60 MB" in refused.message
    world.measured("x", 0, 40 * MB)
    assert world.unloads == ["x"]  # what it takes with the other is too much
    assert world.core.taken_gpu_bytes == 70 * MB


def test_a_full_queue_refuses() -> None:
    world = World(needs("a"), Rules(memory_bytes=100 * MB, queue=2))
    *_, last = (world.ask("a") for _ in range(3))
    assert world.refused[last].reason == "queue_full"
    assert len(world.waiting) == 2


def test_a_failed_load_is_told_to_all_and_not_repeated_at_once() -> None:
    world = World(needs("a"), Rules(memory_bytes=100 * MB))
    tickets = [world.ask("a") for _ in range(3)]
    world.ended("a", "no such file")
    assert {world.refused[ticket].reason for ticket in tickets} == {"failed"}
    again = world.ask("a")
    assert "no such file" in world.refused[again].message
    assert world.refused[again].retry_s == 1.0
    world.pass_time(1.5)
    world.ask("a")
    assert world.loads == ["a", "a"]


def test_a_process_that_dies_is_started_again_for_those_who_wait() -> None:
    world = World(needs("a"), Rules(memory_bytes=100 * MB))
    user, waiter = world.ask("a"), world.ask("a")
    world.loaded("a")
    world.ended("a", "SIGKILL")
    world.give_back(user)
    assert world.loads == ["a", "a"]
    world.loaded("a")
    assert world.using == {waiter: "a"}


def test_a_process_that_dies_again_and_again_is_not_started_each_time() -> None:
    world = World(needs("a"), Rules(memory_bytes=100 * MB))

    def die(after_s: float) -> int:
        ticket = world.ask("a")
        if world.phases["a"] == "loading":
            world.loaded("a")
            world.pass_time(after_s)
            world.give_back(ticket)
            world.ended("a", "SIGSEGV")
        return ticket

    for after_s in (1.0, 1.0, 31.0, 1.0, 1.0, 1.0):
        die(after_s)
    refused = world.refused[world.ask("a")]
    assert refused.reason == "failed"
    assert "it died 3 times in a row soon after it was loaded: SIGSEGV" in refused.message
    assert len(world.loads) == 6
    world.pass_time(refused.retry_s)
    die(1.0)
    assert world.refused[world.ask("a")].retry_s == 2 * refused.retry_s
    world.pass_time(10.0)
    die(31.0)
    assert world.ask("a") in world.waiting


def test_measured_figures_count_and_are_never_lowered() -> None:
    world = World(needs("a", "b", "c"), Rules(memory_bytes=30 * MB))
    for model in "ab":
        world.ask(model)
        world.settle()
        world.pass_time(5.0)
    world.measured("b", 25 * MB)
    assert world.unloads == ["a"]
    world.ended("a")
    world.measured("b", 1 * MB)
    assert world.core.taken_bytes == 25 * MB


@pytest.mark.parametrize("collate_s", [0.0, 1.0])
def test_a_lone_request_waits_for_idle_models_no_longer_than_stated(collate_s: float) -> None:
    world = World(needs("a", "b"), Rules(memory_bytes=15 * MB, collate_s=collate_s))
    world.ask("a")
    world.settle()
    world.ask("b")
    if collate_s:
        assert world.unloads == []
        assert world.core.next_due() == collate_s
    world.pass_time(collate_s)
    assert world.unloads == ["a"]
