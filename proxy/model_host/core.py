"""Which models are loaded, and who may use them: a state machine without clock, I/O or waiting.

Every event returns the effects that whoever owns the machine carries out. What it keeps to:

- What models that load, are loaded or are leaving take together is within the budgets when a load
  begins, there are at most `max_loaded` of them, and no group forbids that they are there together.
- A model in use, or pinned, is never unloaded to make room.
- Loads go by the oldest waiter. Requests for a model that must make room overtake that waiter for
  `collate_s`, so that requests which alternate do not make models alternate. Whoever comes later
  stands behind it: nobody waits for ever.
- A load that nobody waits for any more is given up.
- A model that is retired gets no further user, and is unloaded when the last one is done. One that
  is still configured is loaded again for whoever waits; one that is not is gone then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Phase = Literal["absent", "loading", "loaded", "leaving"]
Reason = Literal["unknown", "no_room", "queue_full", "failed", "not_loaded"]

# After a failed load the next one waits this long, and twice as long after each further one.
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
# A process that dies sooner than this after its load counts as one that does not get to serve, if
# it was not the first, or second, to do so.
_SETTLED_S = 30.0
_TOLERATED_DEATHS = 2
# The ticket of a waiter whom nobody is behind: it stands for requests to come.
_NOBODY = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What a model takes, and how many may use it at the same time."""

    name: str
    bytes: int
    gpu_bytes: int = 0
    """Of a GPU that has memory of its own."""
    concurrency: int = 1
    pinned: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Models that are not there together, or not with others, whatever room there is."""

    models: frozenset[str]
    max_loaded: int | None = None
    """How many of them are there at the same time, at most."""
    exclusive: bool = False
    """Whether no other model is there beside one of them, but for pinned ones."""

    def allows(self, needs: Sequence[Need]) -> bool:
        """Whether these may be there together."""
        inside = [need for need in needs if need.name in self.models]
        if self.max_loaded is not None and len(inside) > self.max_loaded:
            return False
        if not (self.exclusive and inside):
            return True
        return all(need.pinned or need.name in self.models for need in needs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """The limits of the machine, and how patient it is."""

    memory_bytes: int
    gpu_memory_bytes: int = 0
    max_loaded: int = 3
    groups: Sequence[Group] = ()
    ttl_s: float = 1800.0
    """How long a model stays loaded that nobody uses."""
    collate_s: float = 1.0
    """How long requests for what is loaded may overtake one that needs its room."""
    queue: int = 100
    """How many may wait for one model."""


@dataclass(frozen=True, slots=True)
class Load:
    """Begin to load the model."""

    model: str


@dataclass(frozen=True, slots=True)
class Unload:
    """End the model's process, whether it is loading or loaded; nobody uses it."""

    model: str


@dataclass(frozen=True, slots=True)
class Grant:
    """Whoever asked may use the model now."""

    ticket: int
    model: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Whoever asked cannot have the model."""

    ticket: int
    reason: Reason
    message: str
    retry_s: float = 0.0


Effect = Load | Unload | Grant | Refuse


@dataclass(slots=True)
class _Waiter:
    ticket: int
    came_at: float


@dataclass(slots=True, eq=False)
class _Model:
    """One model: what it takes, what it is doing, and who is there for it."""

    need: Need
    measured_bytes: int = 0
    measured_gpu_bytes: int = 0
    phase: Phase = "absent"
    is_retiring: bool = False
    """Whether it goes as soon as nobody uses it."""
    is_configured: bool = True
    is_changed: bool = False
    """Whether what was measured was of a process that needed other things."""
    is_wanted: bool = False
    """Whether its load goes on though nobody waits for it."""
    users: set[int] = field(default_factory=set)
    waiters: list[_Waiter] = field(default_factory=list)
    granted_at: float = 0.0
    idle_since: float = 0.0
    failures: int = 0
    early_deaths: int = 0
    """How often in a row its process died soon after a load."""
    loaded_at: float = 0.0
    problem: str = ""
    """Why the last load failed; nothing once one went well."""
    retry_at: float = 0.0
    loads: int = 0
    load_began_at: float = 0.0
    load_s: float = 0.0
    """How long the last load took."""

    @property
    def bytes(self) -> int:
        """What it takes: as declared, or more once more was measured."""
        return max(self.need.bytes, self.measured_bytes)

    @property
    def gpu_bytes(self) -> int:
        """What it takes of the GPU's memory, likewise."""
        return max(self.need.gpu_bytes, self.measured_gpu_bytes)

    def forget_changed(self) -> None:
        """Its next process is another one: what the last ones took says nothing of it."""
        if self.is_changed:
            self.measured_bytes = self.measured_gpu_bytes = 0
            self.is_changed = False

    @property
    def waiting(self) -> list[_Waiter]:
        """Those of the waiters who are somebody."""
        return [waiter for waiter in self.waiters if waiter.ticket != _NOBODY]

    @property
    def is_there(self) -> bool:
        """Whether it takes up room."""
        return self.phase != "absent"

    @property
    def is_ready(self) -> bool:
        """Whether it takes users."""
        return self.phase == "loaded" and not self.is_retiring


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One model as operators see it."""

    name: str
    phase: Phase
    bytes: int
    gpu_bytes: int
    pinned: bool
    users: int
    waiting: int
    loads: int
    load_s: float
    problem: str


class Core:
    """The models of one machine. `now` is of any clock that never goes back."""

    def __init__(self, needs: Iterable[Need], rules: Rules) -> None:
        self._rules = rules
        self._models = {need.name: _Model(need) for need in needs}
        self._asked: dict[int, _Model] = {}

    # --- what happens -----------------------------------------------------------------------

    def lease(self, ticket: int, model: str, now: float, *, waits: bool = True) -> list[Effect]:
        """Somebody asks for a model, by a ticket above 0 that is not in use.

        Whoever `waits` for no load is refused where one is needed, and it goes on without them.
        """
        asked = self._models.get(model)
        if asked is None or not asked.is_configured:
            return [Refuse(ticket, "unknown", f"there is no local model {model!r}")]
        refusal = self._refusal(asked, ticket, now)
        if refusal is not None:
            return [refusal]
        if not waits and not asked.is_ready:
            message = f"{model!r} is not loaded yet"
            refusal = Refuse(ticket, "not_loaded", message, asked.load_s or 1.0)
            if len(asked.waiters) == len(asked.waiting):
                asked.waiters.append(_Waiter(_NOBODY, now))
            return [refusal, *self._go_on(now)]
        self._asked[ticket] = asked
        asked.waiters.append(_Waiter(ticket, now))
        return self._go_on(now)

    def give_back(self, ticket: int, now: float) -> list[Effect]:
        """Whoever had the ticket is done, or waits no more. One that is unknown does nothing."""
        model = self._asked.pop(ticket, None)
        if model is None:
            return []
        if ticket in model.users:
            model.users.remove(ticket)
            model.idle_since = now
        else:
            model.waiters = [w for w in model.waiters if w.ticket != ticket]
        return self._go_on(now)

    def preload(self, names: Sequence[str], now: float) -> list[Effect]:
        """Load models that nobody asks for yet, as far as there is room; each is known."""
        effects: list[Effect] = []
        for model in map(self._models.__getitem__, names):
            if model.phase == "absent" and self._fits(model):
                model.is_wanted = True
                effects.append(self._load(model, now))
        return effects

    def configure(
        self, needs: Iterable[Need], now: float, rules: Rules | None = None
    ) -> list[Effect]:
        """These are the models from now on: new ones among them, and some that need other things.

        Those that are not among them are retired for good: whoever waits for one is refused. With
        other `rules`, what is loaded stays, and makes room as ever.
        """
        self._rules = rules or self._rules
        configured = {need.name: need for need in needs}
        for name, need in configured.items():
            model = self._models.setdefault(name, _Model(need))
            is_same = (model.need.bytes, model.need.gpu_bytes) == (need.bytes, need.gpu_bytes)
            model.is_changed |= not is_same
            model.need = need
            model.is_configured = True
            if not model.is_there:
                model.forget_changed()
        effects: list[Effect] = []
        for name, model in list(self._models.items()):
            if name not in configured:
                effects += self._remove(model)
        return effects + self._go_on(now)

    def _remove(self, model: _Model) -> list[Effect]:
        model.need = replace(model.need, pinned=False)
        model.is_configured = False
        model.is_wanted = False
        if model.is_there:
            model.is_retiring = True
        else:
            del self._models[model.need.name]
        gone = f"there is no local model {model.need.name!r} any more"
        return self._refuse_waiters(model, "unknown", gone)

    def retire(self, name: str, now: float) -> list[Effect]:
        """Unload a model as soon as nobody uses it, pinned or not; whoever asks loads it again.

        A load under way is given up, and begun again for those who wait. A model that is unknown,
        or not there, stays as it is.
        """
        model = self._models.get(name)
        if model is not None and model.is_there:
            model.is_retiring = True
            model.is_wanted = False
        return self._go_on(now)

    def loaded(self, name: str, now: float) -> list[Effect]:
        """A load has ended well. One that was given up meanwhile stays so."""
        model = self._models[name]
        if model.phase == "loading":
            model.phase = "loaded"
            model.is_wanted = False
            model.load_s = now - model.load_began_at
            model.loaded_at = model.granted_at = model.idle_since = now
            if not model.early_deaths:
                model.failures, model.problem = 0, ""
        return self._go_on(now)

    def ended(self, name: str, problem: str, now: float) -> list[Effect]:
        """The model's process is gone, as it should or not; `problem` says how."""
        model = self._models[name]
        effects: list[Effect] = []
        if model.phase == "loading":
            effects += self._failed(model, problem, now)
        elif model.phase == "loaded":
            effects += self._died(model, problem, now)
        elif now >= model.loaded_at + _SETTLED_S:
            model.early_deaths = 0
        model.phase = "absent"
        model.is_wanted = model.is_retiring = False
        model.forget_changed()
        if not model.is_configured:
            del self._models[name]
        for ticket in model.users:  # their connections broke with it
            del self._asked[ticket]
        model.users.clear()
        return effects + self._go_on(now)

    def measured(self, name: str, size: int, gpu_size: int, now: float) -> list[Effect]:
        """What a model really takes. A figure is only raised: more is touched as contexts fill."""
        model = self._models[name]
        if size <= model.bytes and gpu_size <= model.gpu_bytes:
            return []
        model.measured_bytes = max(size, model.measured_bytes)
        model.measured_gpu_bytes = max(gpu_size, model.measured_gpu_bytes)
        return self._go_on(now)

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: `next_due` says when that may matter."""
        effects: list[Effect] = []
        for model in self._models.values():
            if self._is_idle(model) and now >= self._expires_at(model):
                effects.append(self._unload(model))
        return effects + self._go_on(now)

    def next_due(self) -> float | None:
        """When `tick` is to be called, unless something else happens before."""
        due = [self._expires_at(m) for m in self._models.values() if self._is_idle(m)]
        head = self._head()
        if head is not None:
            victims = self._victims(head)
            if victims and all(not victim.users for victim in victims):
                due.append(self._may_evict_at(head, victims))
        return min(due, default=None)

    # --- what is seen -----------------------------------------------------------------------

    @property
    def taken_bytes(self) -> int:
        """What all models that are there take."""
        return _bytes(model for model in self._models.values() if model.is_there)

    @property
    def taken_gpu_bytes(self) -> int:
        """What they take of the GPU's memory."""
        return _gpu_bytes(model for model in self._models.values() if model.is_there)

    def standings(self) -> list[Standing]:
        """Every model there is: those that are configured, and those that still have to go."""
        return [
            Standing(
                name=name,
                phase=model.phase,
                bytes=model.bytes,
                gpu_bytes=model.gpu_bytes,
                pinned=model.need.pinned,
                users=len(model.users),
                waiting=len(model.waiting),
                loads=model.loads,
                load_s=model.load_s,
                problem=model.problem,
            )
            for name, model in self._models.items()
        ]

    # --- refusals ---------------------------------------------------------------------------

    def _refusal(self, model: _Model, ticket: int, now: float) -> Refuse | None:
        if len(model.waiting) >= self._rules.queue:
            waiting = f"{len(model.waiting)} requests wait for {model.need.name!r} already"
            return Refuse(ticket, "queue_full", waiting, 1.0)
        if model.phase == "absent" and now < model.retry_at:
            message = f"{model.need.name!r} could not be loaded: {model.problem}"
            return Refuse(ticket, "failed", message, model.retry_at - now)
        if model.is_there or self._has_place(model):
            return None
        return Refuse(ticket, "no_room", self._no_room(model))

    def _failed(self, model: _Model, problem: str, now: float) -> list[Effect]:
        """Nobody who waits for a model waits for a second try at it."""
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(model.failures, 10))
        model.failures += 1
        model.problem = problem
        model.retry_at = now + pause_s
        message = f"{model.need.name!r} could not be loaded: {problem}"
        return self._refuse_waiters(model, "failed", message, pause_s)

    def _died(self, model: _Model, problem: str, now: float) -> list[Effect]:
        """Once is an accident; what dies again and again is a load that fails."""
        is_early = now < model.loaded_at + _SETTLED_S
        model.early_deaths = model.early_deaths + 1 if is_early else 0
        if model.early_deaths <= _TOLERATED_DEATHS:
            return []
        times = f"it died {model.early_deaths} times in a row soon after it was loaded"
        return self._failed(model, f"{times}: {problem}", now)

    def _refuse_waiters(
        self, model: _Model, reason: Reason, message: str, retry_s: float = 0.0
    ) -> list[Effect]:
        waiters, model.waiters = model.waiting, []
        for waiter in waiters:
            del self._asked[waiter.ticket]
        return [Refuse(waiter.ticket, reason, message, retry_s) for waiter in waiters]

    def _has_place(self, model: _Model) -> bool:
        """Whether there is room for it when whatever may go is gone."""
        return self._fits_beside(model, self._pinned_beside(model))

    def _pinned_beside(self, model: _Model) -> list[_Model]:
        return [m for m in self._models.values() if m.need.pinned and m is not model]

    def _no_room(self, model: _Model) -> str:
        name, rules, pinned = model.need.name, self._rules, self._pinned_beside(model)
        if model.bytes + _bytes(pinned) > rules.memory_bytes:
            return _too_large(name, "", model.bytes, rules.memory_bytes, _bytes(pinned))
        if model.gpu_bytes + _gpu_bytes(pinned) > rules.gpu_memory_bytes:
            budget = rules.gpu_memory_bytes
            return _too_large(name, "GPU ", model.gpu_bytes, budget, _gpu_bytes(pinned))
        return f"pinned models leave no place for {name!r} ('host' in router.yaml)"

    # --- decisions --------------------------------------------------------------------------

    def _go_on(self, now: float) -> list[Effect]:
        """Whatever is possible now: grants, loads and the unloads that they need."""
        effects: list[Effect] = [
            *self._give_up_loads(),
            *self._unload_what_retires(),
            *self._unload_what_exceeds(),
        ]
        while True:
            head = self._head()
            effects += self._grants(head, now)
            if head is None:
                return effects
            steps = self._make_way(head, now)
            if not steps and head.waiters:
                return effects
            effects += steps

    def _give_up_loads(self) -> list[Effect]:
        return [
            self._unload(model)
            for model in self._models.values()
            if model.phase == "loading" and not (model.waiters or model.is_wanted)
        ]

    def _unload_what_retires(self) -> list[Effect]:
        return [
            self._unload(model)
            for model in self._models.values()
            if model.is_retiring and model.phase in ("loading", "loaded") and not model.users
        ]

    def _head(self) -> _Model | None:
        """The next model to load: the one whose oldest waiter came first."""
        waiting = (m for m in self._models.values() if m.waiters and m.phase == "absent")
        return min(waiting, key=lambda m: (m.waiters[0].came_at, m.waiters[0].ticket), default=None)

    def _grants(self, head: _Model | None, now: float) -> list[Effect]:
        """Let waiters have what is loaded, but for those who stand behind the head for its room."""
        victims = self._victims(head) if head is not None else []
        effects: list[Effect] = []
        for model in self._models.values():
            if not model.is_ready:
                continue
            until = self._overtaken_until(head) if head is not None and model in victims else None
            while model.waiters and len(model.users) < model.need.concurrency:
                if until is not None and model.waiters[0].came_at >= until:
                    break
                waiter = model.waiters.pop(0)
                if waiter.ticket == _NOBODY:
                    continue
                model.users.add(waiter.ticket)
                model.granted_at = now
                effects.append(Grant(waiter.ticket, model.need.name))
        return effects

    def _make_way(self, head: _Model, now: float) -> list[Effect]:
        """Load the head, or unload what is in its way once all of that may go."""
        if not self._has_place(head):
            return self._refuse_waiters(head, "no_room", self._no_room(head))
        if self._fits(head):
            return [self._load(head, now)]
        victims = self._victims(head)
        if any(victim.users for victim in victims) or now < self._may_evict_at(head, victims):
            return []
        return [self._unload(victim) for victim in victims]

    def _victims(self, head: _Model) -> list[_Model]:
        """What must go for the head; least recently used first, and idle before busy.

        Nothing where what is leaving makes room enough, or where not even all of it would be.
        """
        may_go = [m for m in self._models.values() if m.phase == "loaded" and not m.need.pinned]
        # The busy go by their last grant: what stands still stays first, and is done some day.
        may_go.sort(key=lambda m: (bool(m.users), m.granted_at if m.users else m.idle_since))
        staying = [m for m in self._models.values() if m.phase in ("loading", "loaded")]
        chosen: list[_Model] = []
        while not self._fits_beside(head, staying):
            if not may_go:
                return []
            chosen.append(may_go.pop(0))
            staying.remove(chosen[-1])
        for victim in reversed(chosen[:-1]):  # the last one was needed
            if self._fits_beside(head, [*staying, victim]):
                chosen.remove(victim)
                staying.append(victim)
        return chosen

    def _fits_beside(self, model: _Model, staying: Sequence[_Model]) -> bool:
        together = [model, *staying]
        needs = [m.need for m in together]
        return (
            _bytes(together) <= self._rules.memory_bytes
            and _gpu_bytes(together) <= self._rules.gpu_memory_bytes
            and len(together) <= self._rules.max_loaded
            and all(group.allows(needs) for group in self._rules.groups)
        )

    def _fits(self, model: _Model) -> bool:
        return self._fits_beside(model, [m for m in self._models.values() if m.is_there])

    def _overtaken_until(self, head: _Model) -> float:
        return head.waiters[0].came_at + self._rules.collate_s

    def _may_evict_at(self, head: _Model, victims: Sequence[_Model]) -> float:
        """When idle models go: when nobody came for them for a while, or the head waited long."""
        idle_since = max((victim.idle_since for victim in victims), default=0.0)
        return min(self._overtaken_until(head), idle_since + self._rules.collate_s)

    def _is_idle(self, model: _Model) -> bool:
        """Whether it may go because nobody is there for it."""
        is_asked_for = bool(model.users or model.waiters)
        return model.phase == "loaded" and not is_asked_for and not model.need.pinned

    def _expires_at(self, model: _Model) -> float:
        return model.idle_since + self._rules.ttl_s

    def _unload_what_exceeds(self) -> list[Effect]:
        """Idle models go until the corrected figures are within the budget again."""
        effects: list[Effect] = []
        idle = sorted(filter(self._is_idle, self._models.values()), key=lambda m: m.idle_since)
        staying = [m for m in self._models.values() if m.phase in ("loading", "loaded")]
        for model in idle:
            exceeds_gpu = _gpu_bytes(staying) > self._rules.gpu_memory_bytes
            if _bytes(staying) > self._rules.memory_bytes or (exceeds_gpu and model.gpu_bytes):
                staying.remove(model)
                effects.append(self._unload(model))
        return effects

    def _load(self, model: _Model, now: float) -> Load:
        model.phase = "loading"
        model.load_began_at = now
        model.loads += 1
        return Load(model.need.name)

    def _unload(self, model: _Model) -> Unload:
        model.phase = "leaving"
        return Unload(model.need.name)


def _bytes(models: Iterable[_Model]) -> int:
    return sum(model.bytes for model in models)


def _gpu_bytes(models: Iterable[_Model]) -> int:
    return sum(model.gpu_bytes for model in models)


def _too_large(name: str, kind: str, size: int, budget: int, pinned: int) -> str:
    beside = f", {_mb(pinned)} of which are pinned for others" if pinned else ""
    return (
        f"{name!r} needs {_mb(size)} of {kind}memory, and local models may take "
        f"{_mb(budget)}{beside} ('host' in router.yaml)"
    )


def _mb(size: int) -> str:
    return f"{-(-size // 2**20)} MB"
