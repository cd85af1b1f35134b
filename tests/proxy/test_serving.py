"""Revisions that come and go, with what they share, under requests that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.serving import Current, Serving


@dataclass(eq=False)
class Resource:
    """An adapter, or a store of responses."""

    closed: int = 0

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed += 1

    def close(self) -> None:
        self.closed += 1


@dataclass
class Accounts:
    by_provider: dict[str, Resource]


@dataclass
class App:
    """Answers when it is told to."""

    begun: list[asyncio.Event] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        end = asyncio.Event()
        self.begun.append(end)
        await end.wait()
        if scope == "fails":
            raise ValueError


def serving(adapters: dict[str, Resource], store: Resource | None) -> Serving:
    return Serving(
        table=None,  # type: ignore[arg-type]
        accounts=Accounts(adapters),  # type: ignore[arg-type]
        engine=None,  # type: ignore[arg-type]
        app=App(),  # type: ignore[arg-type]
        store=store,  # type: ignore[arg-type]
    )


@dataclass
class Model:
    """What should be so."""

    current: Current
    all: list[Serving]
    open: list[tuple[Serving, asyncio.Event, asyncio.Task[None]]] = field(default_factory=list)

    def resources(self, among: list[Serving]) -> Iterator[Resource]:
        for each in among:
            yield from each.accounts.by_provider.values()  # type: ignore[misc]
            if each.store is not None:
                yield each.store  # type: ignore[misc]

    def check(self) -> None:
        used = [each for each, _, _ in self.open] + [self.current.serving]
        needed = {id(resource) for resource in self.resources(used)}
        for resource in self.resources(self.all):
            assert resource.closed == (0 if id(resource) in needed else 1)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from(["", "fails"])),
        st.tuples(st.just("end"), st.integers(0, 5)),
        # Which of four providers stay as they are, and whether the store does.
        st.tuples(st.just("replace"), st.tuples(st.sets(st.integers(0, 3)), st.booleans())),
    ),
    max_size=30,
)


@given(steps=STEPS)
def test_what_nobody_uses_is_closed_once_and_nothing_else(steps: list[tuple[str, Any]]) -> None:
    asyncio.run(_carry_out(steps))


async def _carry_out(steps: list[tuple[str, Any]]) -> None:
    first = serving({f"{n}": Resource() for n in range(4)}, Resource())
    model = Model(Current(first), [first])
    for step, value in steps:
        match step:
            case "ask":
                app: App = model.current.serving.app  # type: ignore[assignment]
                task = asyncio.create_task(model.current(value, None, None))  # type: ignore[arg-type]
                await asyncio.sleep(0)
                model.open.append((model.current.serving, app.begun[-1], task))
            case "end" if model.open:
                _, end, task = model.open.pop(value % len(model.open))
                end.set()
                await asyncio.wait([task])
                task.exception()
            case "replace":
                before, (kept, keeps_store) = model.current.serving, value
                adapters = {
                    f"{n}": before.accounts.by_provider[f"{n}"] if n in kept else Resource()
                    for n in range(4)
                }
                store = before.store if keeps_store else Resource()
                changed = serving(adapters, store)  # type: ignore[arg-type]
                model.all.append(changed)
                model.current.replace(changed)
        for _ in range(10):  # what is closed is closed in tasks of its own
            await asyncio.sleep(0)
        model.check()
    for _, end, task in model.open:
        end.set()
        await asyncio.wait([task])
        task.exception()
    await model.current.aclose()
    assert [resource.closed for resource in model.resources(model.all)] == [1] * len(
        list(model.resources(model.all))
    )
