from __future__ import annotations

import pytest

from proxy.ledger.protocol import Reserve
from proxy.ledger.waiting import Waiting, WaitingRoom
from tests.proxy.ledger.making import an_attempt

Room = WaitingRoom[object]


@pytest.fixture
def room() -> Room:
    return WaitingRoom()


def waits(room: Room, hold: int, *, budget: int = 1, client: object = None) -> Waiting[object]:
    reserve = Reserve(1, an_attempt(1, hold))
    waiting = Waiting(client=client, reserve=reserve, budget_id=budget, needed_nanousd=hold)
    room.add(waiting)
    return waiting


def test_whoever_fits_is_admitted_in_order_counting_those_before(room: Room) -> None:
    first, large, last = waits(room, 40), waits(room, 90), waits(room, 60)
    assert room.admit({1: 100}.get) == [first, last]
    assert room.admit({1: 89}.get) == []
    assert room.admit({1: 90}.get) == [large]
    assert room.admit({1: 90}.get) == []


def test_budgets_have_queues_of_their_own(room: Room) -> None:
    waits(room, 50, budget=1)
    other = waits(room, 50, budget=2)
    assert room.admit({1: 49, 2: 50}.get) == [other]


def test_a_budget_that_is_gone_admits_everyone(room: Room) -> None:
    everyone = [waits(room, 10**9), waits(room, 10**9)]
    assert room.admit(lambda _: None) == everyone


def test_who_left_is_not_admitted(room: Room) -> None:
    here, gone = object(), object()
    stays = waits(room, 1, client=here)
    waits(room, 1, client=gone)
    out = waits(room, 1, client=here)
    room.leave(gone)
    assert room.remove(out)
    assert not room.remove(out)
    assert room.empty() == [stays]
    assert room.empty() == []


def test_what_a_hold_was_refused_for_decides_not_what_it_could_begin_with(room: Room) -> None:
    """Under a budget of full holds a metered stream needs the whole, or it would try in vain."""
    metered = Reserve(1, an_attempt(1, 90, least=10))
    waiting = Waiting(client=None, reserve=metered, budget_id=1, needed_nanousd=90)
    room.add(waiting)
    assert room.admit({1: 89}.get) == []
    assert room.admit({1: 90}.get) == [waiting]
